//! Lanes in plain Rust, for processors without wide registers and for tests.

use super::{LANES, Simd};

/// Plain Rust: correct everywhere, slow.
#[derive(Debug, Clone, Copy)]
pub struct Scalar;

/// Sixteen results. Each operation is a function of its own on x86, where nearly every processor has wide registers: inlined
/// into every kernel and unrolled, they were two thirds of this crate's code, and of the time that it took to compile.
#[cfg_attr(target_arch = "x86_64", inline(never))]
#[cfg_attr(not(target_arch = "x86_64"), inline(always))]
pub(crate) fn each<T>(result: impl Fn(usize) -> T) -> [T; LANES] {
    std::array::from_fn(result)
}

impl Simd for Scalar {
    type V = [f32; LANES];
    const MANY_REGISTERS: bool = false;
    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn read(self, p: *const f32) -> Self::V {
        // SAFETY: valid for 16 floats by contract.
        unsafe { p.cast::<[f32; LANES]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn write(self, p: *mut f32, v: Self::V) {
        // SAFETY: valid for 16 floats by contract.
        unsafe { p.cast::<[f32; LANES]>().write_unaligned(v) }
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        each(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn select_lt(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V {
        each(|i| if a[i] < b[i] { x[i] } else { y[i] })
    }
    #[inline(always)]
    fn largest(self, v: Self::V) -> f32 {
        v.into_iter().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
    }
    #[inline(always)]
    fn exp2_from_shifted(self, t: Self::V) -> Self::V {
        each(|i| f32::from_bits((t[i].to_bits() << 23).wrapping_add(0x3f80_0000)))
    }
    #[inline(always)]
    fn scale_by_shifted(self, v: Self::V, t: Self::V) -> Self::V {
        each(|i| f32::from_bits((t[i].to_bits() << 23).wrapping_add(v[i].to_bits())))
    }
}
