//! Products of bytes: sixteen columns' sums of four products each, exact on every processor.
//!
//! Weights are unsigned (128 stands for zero), inputs signed: that is what AVX-512's `vpdpbusd` multiplies. Integer sums
//! have no rounding, so the instruction set changes speed only.

use super::super::attention::simd::{LANES, Scalar, Simd};

/// Bytes of one column that are multiplied at once.
pub(super) const QUAD: usize = 4;

/// Sums of products of bytes, beside the float lanes of [`Simd`].
///
/// # Safety
/// As for [`Simd`]; pointers are valid for 64 weights or four inputs.
pub(super) unsafe trait Dot: Simd {
    /// Sixteen 32-bit sums, one a column.
    type Sums: Copy;
    /// Four weights of each of sixteen columns.
    type Weights: Copy;
    /// Four inputs, for all columns.
    type Inputs: Copy;
    unsafe fn splat_sum(x: i32) -> Self::Sums;
    unsafe fn weights(p: *const u8) -> Self::Weights;
    unsafe fn inputs(p: *const i8) -> Self::Inputs;
    /// `sums + weights · inputs`, column by column.
    unsafe fn dot(sums: Self::Sums, weights: Self::Weights, inputs: Self::Inputs) -> Self::Sums;
    unsafe fn floats(sums: Self::Sums) -> Self::V;
    /// Rounds sixteen floats in [-127, 127] to the nearest integers, ties to even, and stores them as bytes.
    unsafe fn store_bytes(p: *mut i8, v: Self::V);
}

// SAFETY: uses no processor features; pointers are used as documented.
unsafe impl Dot for Scalar {
    type Sums = [i32; LANES];
    type Weights = [[u8; QUAD]; LANES];
    type Inputs = [i8; QUAD];
    #[inline(always)]
    unsafe fn splat_sum(x: i32) -> Self::Sums {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn weights(p: *const u8) -> Self::Weights {
        // SAFETY: valid for 64 bytes by contract.
        unsafe { p.cast::<Self::Weights>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn inputs(p: *const i8) -> Self::Inputs {
        // SAFETY: valid for four bytes by contract.
        unsafe { p.cast::<Self::Inputs>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn dot(mut sums: Self::Sums, weights: Self::Weights, inputs: Self::Inputs) -> Self::Sums {
        for (sum, weights) in sums.iter_mut().zip(weights) {
            for (w, x) in weights.into_iter().zip(inputs) {
                *sum += i32::from(w) * i32::from(x);
            }
        }
        sums
    }
    #[inline(always)]
    unsafe fn floats(sums: Self::Sums) -> Self::V {
        let mut floats = [0.0; LANES];
        for (float, sum) in floats.iter_mut().zip(sums) {
            *float = sum as f32;
        }
        floats
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut i8, v: Self::V) {
        for (i, x) in v.into_iter().enumerate() {
            // SAFETY: valid for sixteen bytes by contract.
            unsafe { p.add(i).write(x.round_ties_even() as i8) };
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(
    clippy::undocumented_unsafe_blocks,
    reason = "each block is a few intrinsics, whose need is the trait's contract"
)]
mod x86 {
    use std::arch::x86_64::*;

    use super::super::super::attention::simd::x86::{Avx2, Avx512};
    use super::Dot;

    // SAFETY: only used by code compiled for avx512f and avx512vnni.
    unsafe impl Dot for Avx512 {
        type Sums = __m512i;
        type Weights = __m512i;
        type Inputs = __m512i;
        #[inline(always)]
        unsafe fn splat_sum(x: i32) -> Self::Sums {
            unsafe { _mm512_set1_epi32(x) }
        }
        #[inline(always)]
        unsafe fn weights(p: *const u8) -> Self::Weights {
            unsafe { _mm512_loadu_si512(p.cast()) }
        }
        #[inline(always)]
        unsafe fn inputs(p: *const i8) -> Self::Inputs {
            unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
        }
        #[inline(always)]
        unsafe fn dot(sums: Self::Sums, weights: Self::Weights, inputs: Self::Inputs) -> Self::Sums {
            unsafe { _mm512_dpbusd_epi32(sums, weights, inputs) }
        }
        #[inline(always)]
        unsafe fn floats(sums: Self::Sums) -> Self::V {
            unsafe { _mm512_cvtepi32_ps(sums) }
        }
        #[inline(always)]
        unsafe fn store_bytes(p: *mut i8, v: Self::V) {
            unsafe { _mm_storeu_si128(p.cast(), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(v))) }
        }
    }

    // SAFETY: only used by code compiled for avx2 and fma.
    unsafe impl Dot for Avx2 {
        type Sums = (__m256i, __m256i);
        type Weights = (__m256i, __m256i);
        /// The first and third byte as 16-bit numbers, and the second and fourth.
        type Inputs = (__m256i, __m256i);
        #[inline(always)]
        unsafe fn splat_sum(x: i32) -> Self::Sums {
            unsafe { (_mm256_set1_epi32(x), _mm256_set1_epi32(x)) }
        }
        #[inline(always)]
        unsafe fn weights(p: *const u8) -> Self::Weights {
            unsafe { (_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())) }
        }
        #[inline(always)]
        unsafe fn inputs(p: *const i8) -> Self::Inputs {
            unsafe {
                let quad = _mm256_set1_epi32(p.cast::<i32>().read_unaligned());
                (_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(quad)), _mm256_srai_epi16::<8>(quad))
            }
        }
        #[inline(always)]
        unsafe fn dot(sums: Self::Sums, weights: Self::Weights, inputs: Self::Inputs) -> Self::Sums {
            // In 16 bits and pairs, because `vpmaddubsw` would saturate.
            #[inline(always)]
            unsafe fn half(sums: __m256i, weights: __m256i, inputs: (__m256i, __m256i)) -> __m256i {
                unsafe {
                    let first = _mm256_and_si256(weights, _mm256_set1_epi16(0xff));
                    let second = _mm256_srli_epi16::<8>(weights);
                    let products =
                        _mm256_add_epi32(_mm256_madd_epi16(first, inputs.0), _mm256_madd_epi16(second, inputs.1));
                    _mm256_add_epi32(sums, products)
                }
            }
            unsafe { (half(sums.0, weights.0, inputs), half(sums.1, weights.1, inputs)) }
        }
        #[inline(always)]
        unsafe fn floats(sums: Self::Sums) -> Self::V {
            unsafe { (_mm256_cvtepi32_ps(sums.0), _mm256_cvtepi32_ps(sums.1)) }
        }
        #[inline(always)]
        unsafe fn store_bytes(p: *mut i8, v: Self::V) {
            unsafe {
                // Packing works within halves of a register: the permutation puts them in order again.
                let words = _mm256_packs_epi32(_mm256_cvtps_epi32(v.0), _mm256_cvtps_epi32(v.1));
                let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
                let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
                _mm_storeu_si128(p.cast(), bytes);
            }
        }
    }
}
