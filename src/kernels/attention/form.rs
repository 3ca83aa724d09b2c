//! How keys, values, queries and weights are stored and multiplied: in float32, or in pairs of bfloat16, of which
//! AVX-512 multiplies two for one.

use std::marker::PhantomData;

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

/// Products of stored numbers, on sixteen lanes of float32.
///
/// # Safety
/// As for [`Simd`]; pointers are valid for sixteen runs of numbers, or for one.
pub(super) unsafe trait Form: Copy {
    type S: Simd;
    type Number: Number;
    /// A run of numbers for each lane.
    type Runs: Copy;
    unsafe fn load(p: *const Self::Number) -> Self::Runs;
    /// One run for all lanes.
    unsafe fn splat(p: *const Self::Number) -> Self::Runs;
    /// `sum + a · b`, the products of a run added one after the other.
    unsafe fn fma(sum: <Self::S as Simd>::V, a: Self::Runs, b: Self::Runs) -> <Self::S as Simd>::V;
    /// The numbers `from..to` of each run; zeros for the others.
    unsafe fn within(runs: Self::Runs, from: usize, to: usize) -> Self::Runs;
    /// eˣ for x ≤ 0, as exactly as it is stored.
    unsafe fn exp(x: <Self::S as Simd>::V) -> <Self::S as Simd>::V;
    /// Stores sixteen numbers; returns them as they are stored.
    unsafe fn store(p: *mut Self::Number, v: <Self::S as Simd>::V) -> <Self::S as Simd>::V;
}

/// Float32 on any lanes.
#[derive(Clone, Copy)]
pub(super) struct Floats<S>(PhantomData<S>);

// SAFETY: passes everything on to S.
unsafe impl<S: Simd> Form for Floats<S> {
    type S = S;
    type Number = f32;
    type Runs = S::V;
    #[inline(always)]
    unsafe fn load(p: *const f32) -> S::V {
        // SAFETY: passed on.
        unsafe { S::load(p) }
    }
    #[inline(always)]
    unsafe fn splat(p: *const f32) -> S::V {
        // SAFETY: passed on.
        unsafe { S::splat(*p) }
    }
    #[inline(always)]
    unsafe fn fma(sum: S::V, a: S::V, b: S::V) -> S::V {
        // SAFETY: passed on.
        unsafe { S::fma(a, b, sum) }
    }
    #[inline(always)]
    unsafe fn within(runs: S::V, _: usize, _: usize) -> S::V {
        runs
    }
    #[inline(always)]
    unsafe fn exp(x: S::V) -> S::V {
        // SAFETY: passed on.
        unsafe { simd::exp::<S>(x) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: S::V) -> S::V {
        // SAFETY: passed on.
        unsafe { S::store(p, v) };
        v
    }
}

/// Pairs of bfloat16 in plain Rust, for tests: what the processor does, slowly.
#[derive(Clone, Copy)]
pub(super) struct Pairs;

// SAFETY: uses no processor features; pointers are used as documented.
unsafe impl Form for Pairs {
    type S = Scalar;
    type Number = bf16;
    type Runs = [[bf16; 2]; LANES];
    #[inline(always)]
    unsafe fn load(p: *const bf16) -> Self::Runs {
        // SAFETY: valid for sixteen pairs by contract.
        unsafe { p.cast::<Self::Runs>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn splat(p: *const bf16) -> Self::Runs {
        // SAFETY: valid for a pair by contract.
        unsafe { [p.cast::<[bf16; 2]>().read_unaligned(); LANES] }
    }
    #[inline(always)]
    unsafe fn fma(mut sum: [f32; LANES], a: Self::Runs, b: Self::Runs) -> [f32; LANES] {
        for (sum, (a, b)) in sum.iter_mut().zip(a.into_iter().zip(b)) {
            for i in [1, 0] {
                *sum = a[i].to_f32().mul_add(b[i].to_f32(), *sum);
            }
        }
        sum
    }
    #[inline(always)]
    unsafe fn within(mut runs: Self::Runs, from: usize, to: usize) -> Self::Runs {
        for i in (0..2).filter(|i| !(from..to).contains(i)) {
            runs.iter_mut().for_each(|run| run[i] = bf16::ZERO);
        }
        runs
    }
    #[inline(always)]
    unsafe fn exp(x: [f32; LANES]) -> [f32; LANES] {
        // SAFETY: needs no processor features.
        unsafe { simd::coarse_exp::<Scalar>(x) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut bf16, v: [f32; LANES]) -> [f32; LANES] {
        let rounded = v.map(bf16::from_f32);
        // SAFETY: valid for sixteen numbers by contract.
        unsafe { p.cast::<[bf16; LANES]>().write_unaligned(rounded) };
        rounded.map(bf16::to_f32)
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(
    clippy::undocumented_unsafe_blocks,
    reason = "each block is a few intrinsics, whose need is the trait's contract"
)]
pub(super) mod x86 {
    use std::arch::x86_64::*;

    use half::bf16;

    use super::Form;
    use crate::simd::{self, x86::Avx512};

    /// Pairs of bfloat16 by AVX-512's own products of them.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx512Pairs;

    // SAFETY: only used by code compiled for avx512f and avx512bf16.
    unsafe impl Form for Avx512Pairs {
        type S = Avx512;
        type Number = bf16;
        type Runs = __m512i;
        #[inline(always)]
        unsafe fn load(p: *const bf16) -> __m512i {
            unsafe { _mm512_loadu_si512(p.cast()) }
        }
        #[inline(always)]
        unsafe fn splat(p: *const bf16) -> __m512i {
            unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
        }
        #[inline(always)]
        unsafe fn fma(sum: __m512, a: __m512i, b: __m512i) -> __m512 {
            unsafe {
                _mm512_dpbf16_ps(
                    sum,
                    std::mem::transmute::<__m512i, __m512bh>(a),
                    std::mem::transmute::<__m512i, __m512bh>(b),
                )
            }
        }
        #[inline(always)]
        unsafe fn within(runs: __m512i, from: usize, to: usize) -> __m512i {
            let mask = match (from, to) {
                (0, 1) => 0x0000_ffff,
                (1, 2..) => 0xffff_0000_u32,
                _ => u32::MAX,
            };
            unsafe { _mm512_and_si512(runs, _mm512_set1_epi32(mask as i32)) }
        }
        #[inline(always)]
        unsafe fn exp(x: __m512) -> __m512 {
            unsafe { simd::coarse_exp::<Avx512>(x) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut bf16, v: __m512) -> __m512 {
            unsafe {
                let rounded = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v));
                _mm256_storeu_si256(p.cast(), rounded);
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(rounded)))
            }
        }
    }
}
