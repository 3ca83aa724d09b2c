//! Numbers as a cache stores and multiplies them: float32, or pairs of bfloat16, of which AVX-512 multiplies two for one.

use half::bf16;

use crate::simd::{self, LANES, Scalar, Simd};

/// A number as it is stored.
pub(super) trait Number: Copy {
    /// How many of them are multiplied and added at once.
    const RUN: usize;
    fn of(x: f32) -> Self;
}

impl Number for f32 {
    const RUN: usize = 1;
    #[inline(always)]
    fn of(x: f32) -> Self {
        x
    }
}

impl Number for bf16 {
    const RUN: usize = 2;
    #[inline(always)]
    fn of(x: f32) -> Self {
        bf16::from_f32(x)
    }
}

/// Products of stored numbers, on sixteen lanes of float32. As [`Simd`]'s, its values are tokens.
pub(super) trait Form: Copy {
    type S: Simd;
    type Number: Number;
    /// A run of numbers for each lane.
    type Runs: Copy;
    /// The token of the lanes.
    fn lanes(self) -> Self::S;
    /// Loads a run for each lane.
    ///
    /// # Safety
    /// The pointer is valid for sixteen runs of numbers. It needs no alignment.
    unsafe fn load(self, p: *const Self::Number) -> Self::Runs;
    /// Loads one run for all lanes.
    ///
    /// # Safety
    /// The pointer is valid for a run of numbers.
    unsafe fn splat(self, p: *const Self::Number) -> Self::Runs;
    /// `sum + a · b`, the products of a run added one after the other.
    fn fma(self, sum: <Self::S as Simd>::V, a: Self::Runs, b: Self::Runs) -> <Self::S as Simd>::V;
    /// The numbers `from..to` of each run; zeros for the others.
    fn within(self, runs: Self::Runs, from: usize, to: usize) -> Self::Runs;
    /// eˣ for x ≤ 0, as exactly as it is stored.
    fn exp(self, x: <Self::S as Simd>::V) -> <Self::S as Simd>::V;
    /// Stores sixteen numbers; returns them as they are stored.
    fn store(self, to: &mut [Self::Number; LANES], v: <Self::S as Simd>::V) -> <Self::S as Simd>::V;
}

/// Float32 on any lanes.
#[derive(Clone, Copy)]
pub(super) struct Floats<S>(pub(super) S);

impl<S: Simd> Form for Floats<S> {
    type S = S;
    type Number = f32;
    type Runs = S::V;
    #[inline(always)]
    fn lanes(self) -> S {
        self.0
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> S::V {
        // SAFETY: passed on.
        unsafe { self.0.read(p) }
    }
    #[inline(always)]
    unsafe fn splat(self, p: *const f32) -> S::V {
        // SAFETY: valid for a number by contract.
        self.0.splat(unsafe { *p })
    }
    #[inline(always)]
    fn fma(self, sum: S::V, a: S::V, b: S::V) -> S::V {
        self.0.fma(a, b, sum)
    }
    #[inline(always)]
    fn within(self, runs: S::V, _: usize, _: usize) -> S::V {
        runs
    }
    #[inline(always)]
    fn exp(self, x: S::V) -> S::V {
        simd::exp(self.0, x)
    }
    #[inline(always)]
    fn store(self, to: &mut [f32; LANES], v: S::V) -> S::V {
        self.0.store(to, v);
        v
    }
}

/// Pairs of bfloat16 in plain Rust, for tests: what the processor does, slowly.
#[derive(Clone, Copy)]
pub(super) struct Pairs;

impl Form for Pairs {
    type S = Scalar;
    type Number = bf16;
    type Runs = [[bf16; 2]; LANES];
    #[inline(always)]
    fn lanes(self) -> Scalar {
        Scalar
    }
    #[inline(always)]
    unsafe fn load(self, p: *const bf16) -> Self::Runs {
        // SAFETY: valid for sixteen pairs by contract.
        unsafe { p.cast::<Self::Runs>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn splat(self, p: *const bf16) -> Self::Runs {
        // SAFETY: valid for a pair by contract.
        [unsafe { p.cast::<[bf16; 2]>().read_unaligned() }; LANES]
    }
    #[inline(always)]
    fn fma(self, mut sum: [f32; LANES], a: Self::Runs, b: Self::Runs) -> [f32; LANES] {
        for (sum, (a, b)) in sum.iter_mut().zip(a.into_iter().zip(b)) {
            for i in [1, 0] {
                *sum = a[i].to_f32().mul_add(b[i].to_f32(), *sum);
            }
        }
        sum
    }
    #[inline(always)]
    fn within(self, mut runs: Self::Runs, from: usize, to: usize) -> Self::Runs {
        for i in (0..2).filter(|i| !(from..to).contains(i)) {
            runs.iter_mut().for_each(|run| run[i] = bf16::ZERO);
        }
        runs
    }
    #[inline(always)]
    fn exp(self, x: [f32; LANES]) -> [f32; LANES] {
        simd::coarse_exp(Scalar, x)
    }
    #[inline(always)]
    fn store(self, to: &mut [bf16; LANES], v: [f32; LANES]) -> [f32; LANES] {
        *to = v.map(bf16::from_f32);
        to.map(bf16::to_f32)
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use half::bf16;

    use super::Form;
    use crate::pairs::Pairs as _;
    use crate::simd::x86::{Avx512, Bf16, methods};
    use crate::simd::{self, LANES};

    /// Pairs of bfloat16 by AVX-512's own products of them.
    impl Form for Avx512<Bf16> {
        type S = Self;
        type Number = bf16;
        type Runs = __m512i;
        #[inline(always)]
        fn lanes(self) -> Self {
            self
        }
        #[inline(always)]
        unsafe fn load(self, p: *const bf16) -> __m512i {
            // SAFETY: passed on.
            unsafe { self.pair_weights(p, 0) }
        }
        #[inline(always)]
        unsafe fn splat(self, p: *const bf16) -> __m512i {
            // SAFETY: passed on.
            unsafe { self.pair_inputs(p, 0) }
        }
        #[inline(always)]
        fn fma(self, sum: __m512, a: __m512i, b: __m512i) -> __m512 {
            self.dot_pairs(sum, a, b)
        }
        #[inline(always)]
        fn exp(self, x: __m512) -> __m512 {
            simd::coarse_exp(self, x)
        }
        methods! { target_feature(enable = "avx512f,avx512bf16");
            fn within(self, runs: __m512i, from: usize, to: usize) -> __m512i {
                let mask = match (from, to) {
                    (0, 1) => 0x0000_ffff,
                    (1, 2..) => 0xffff_0000_u32,
                    _ => u32::MAX,
                };
                _mm512_and_si512(runs, _mm512_set1_epi32(mask as i32))
            }
            fn store(self, to: &mut [bf16; LANES], v: __m512) -> __m512 {
                // SAFETY: integers have no invalid bits.
                let rounded = unsafe { std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v)) };
                // SAFETY: the array has room for sixteen numbers.
                unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), rounded) };
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(rounded)))
            }
        }
    }
}
