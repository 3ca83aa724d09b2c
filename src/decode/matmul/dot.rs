//! Products of bytes: sixteen columns' sums of four products each, exact on every processor.
//!
//! Weights are unsigned (128 stands for zero), inputs signed: that is what AVX-512's `vpdpbusd` multiplies. Integer sums
//! have no rounding, so the instruction set changes speed only.

use crate::decode::simd::{LANES, Scalar, Simd};

/// Bytes of one column that are multiplied at once.
pub(super) const QUAD: usize = 4;

/// Sums of products of bytes, beside the float lanes of [`Simd`].
///
/// # Safety
/// As for [`Simd`]; pointers are valid for 64 weights, four inputs or 32 bytes.
pub(super) unsafe trait Dot: Simd {
    /// Sixteen 32-bit sums, one a column.
    type Sums: Copy;
    /// Four weights of each of sixteen columns.
    type Weights: Copy;
    /// Four inputs, for all columns.
    type Inputs: Copy;
    unsafe fn splat_sum(x: i32) -> Self::Sums;
    unsafe fn weights(p: *const u8) -> Self::Weights;
    /// One byte for each of sixteen columns, four times.
    unsafe fn four_times(p: *const u8) -> Self::Weights;
    /// The low nibbles of 64 bytes, each added to its byte of `shifts`.
    unsafe fn low_nibbles(p: *const u8, shifts: Self::Weights) -> Self::Weights;
    /// The high nibbles.
    unsafe fn high_nibbles(p: *const u8, shifts: Self::Weights) -> Self::Weights;
    unsafe fn store_weights(p: *mut u8, weights: Self::Weights);
    unsafe fn inputs(p: *const i8) -> Self::Inputs;
    /// `sums + weights · inputs`, column by column.
    unsafe fn dot(sums: Self::Sums, weights: Self::Weights, inputs: Self::Inputs) -> Self::Sums;
    unsafe fn floats(sums: Self::Sums) -> Self::V;
    /// Rounds twice sixteen floats in [-127, 127] to the nearest integers, ties to even, and stores them as bytes; returns
    /// their sum.
    unsafe fn store_bytes(p: *mut i8, low: Self::V, high: Self::V) -> i32;
    /// Whether a lane is NaN.
    unsafe fn has_nan(v: Self::V) -> bool;
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
    unsafe fn four_times(p: *const u8) -> Self::Weights {
        let mut columns = [[0; QUAD]; LANES];
        for (i, column) in columns.iter_mut().enumerate() {
            // SAFETY: valid for sixteen bytes by contract.
            *column = [unsafe { p.add(i).read() }; QUAD];
        }
        columns
    }
    #[inline(always)]
    unsafe fn low_nibbles(p: *const u8, shifts: Self::Weights) -> Self::Weights {
        // SAFETY: passed on.
        unsafe { nibbles(p, 0, shifts) }
    }
    #[inline(always)]
    unsafe fn high_nibbles(p: *const u8, shifts: Self::Weights) -> Self::Weights {
        // SAFETY: passed on.
        unsafe { nibbles(p, 4, shifts) }
    }
    #[inline(always)]
    unsafe fn store_weights(p: *mut u8, weights: Self::Weights) {
        // SAFETY: valid for 64 bytes by contract.
        unsafe { p.cast::<Self::Weights>().write_unaligned(weights) };
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
    unsafe fn store_bytes(p: *mut i8, low: Self::V, high: Self::V) -> i32 {
        let mut sum = 0;
        for (i, x) in low.into_iter().chain(high).enumerate() {
            let byte = x.round_ties_even() as i8;
            // SAFETY: valid for 32 bytes by contract.
            unsafe { p.add(i).write(byte) };
            sum += i32::from(byte);
        }
        sum
    }
    #[inline(always)]
    unsafe fn has_nan(v: Self::V) -> bool {
        v.into_iter().any(f32::is_nan)
    }
}

/// The halves of 64 bytes that begin at bit `from`, each added to its byte of `shifts`.
unsafe fn nibbles(p: *const u8, from: u32, mut shifts: [[u8; QUAD]; LANES]) -> [[u8; QUAD]; LANES] {
    // SAFETY: valid for 64 bytes by contract.
    let bytes = unsafe { p.cast::<[u8; QUAD * LANES]>().read_unaligned() };
    for (sum, byte) in shifts.as_flattened_mut().iter_mut().zip(bytes) {
        *sum = sum.wrapping_add(byte >> from & 0x0f);
    }
    shifts
}

#[cfg(target_arch = "x86_64")]
#[allow(
    clippy::undocumented_unsafe_blocks,
    reason = "each block is a few intrinsics, whose need is the trait's contract"
)]
mod x86 {
    use std::arch::x86_64::*;

    use super::Dot;
    use crate::decode::simd::x86::{Avx2, Avx512};

    // SAFETY: only used by code compiled for avx512f, avx512bw and avx512vnni.
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
        unsafe fn four_times(p: *const u8) -> Self::Weights {
            unsafe {
                let columns = _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()));
                _mm512_mullo_epi32(columns, _mm512_set1_epi32(0x0101_0101))
            }
        }
        #[inline(always)]
        unsafe fn low_nibbles(p: *const u8, shifts: Self::Weights) -> Self::Weights {
            unsafe {
                let low = _mm512_and_si512(_mm512_loadu_si512(p.cast()), _mm512_set1_epi8(0x0f));
                _mm512_add_epi8(low, shifts)
            }
        }
        #[inline(always)]
        unsafe fn high_nibbles(p: *const u8, shifts: Self::Weights) -> Self::Weights {
            unsafe {
                let high = _mm512_srli_epi16::<4>(_mm512_loadu_si512(p.cast()));
                _mm512_add_epi8(_mm512_and_si512(high, _mm512_set1_epi8(0x0f)), shifts)
            }
        }
        #[inline(always)]
        unsafe fn store_weights(p: *mut u8, weights: Self::Weights) {
            unsafe { _mm512_storeu_si512(p.cast(), weights) }
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
        unsafe fn store_bytes(p: *mut i8, low: Self::V, high: Self::V) -> i32 {
            unsafe {
                let (low, high) = (_mm512_cvtps_epi32(low), _mm512_cvtps_epi32(high));
                // In one store: those of a half become instructions that narrow on their way to memory, which take
                // dozens of cycles on some processors.
                let bytes = _mm256_set_m128i(_mm512_cvtsepi32_epi8(high), _mm512_cvtsepi32_epi8(low));
                _mm256_storeu_si256(p.cast(), bytes);
                _mm512_reduce_add_epi32(_mm512_add_epi32(low, high))
            }
        }
        #[inline(always)]
        unsafe fn has_nan(v: Self::V) -> bool {
            unsafe { _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v) != 0 }
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
        unsafe fn four_times(p: *const u8) -> Self::Weights {
            unsafe {
                let half = |p: *const u8| {
                    let columns = _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()));
                    _mm256_mullo_epi32(columns, _mm256_set1_epi32(0x0101_0101))
                };
                (half(p), half(p.add(8)))
            }
        }
        #[inline(always)]
        unsafe fn low_nibbles(p: *const u8, shifts: Self::Weights) -> Self::Weights {
            unsafe {
                let (bytes, nibble) = (Self::weights(p), _mm256_set1_epi8(0x0f));
                let low = |bytes, shifts| _mm256_add_epi8(_mm256_and_si256(bytes, nibble), shifts);
                (low(bytes.0, shifts.0), low(bytes.1, shifts.1))
            }
        }
        #[inline(always)]
        unsafe fn high_nibbles(p: *const u8, shifts: Self::Weights) -> Self::Weights {
            unsafe {
                let (bytes, nibble) = (Self::weights(p), _mm256_set1_epi8(0x0f));
                let high =
                    |bytes, shifts| _mm256_add_epi8(_mm256_and_si256(_mm256_srli_epi16::<4>(bytes), nibble), shifts);
                (high(bytes.0, shifts.0), high(bytes.1, shifts.1))
            }
        }
        #[inline(always)]
        unsafe fn store_weights(p: *mut u8, weights: Self::Weights) {
            unsafe {
                _mm256_storeu_si256(p.cast(), weights.0);
                _mm256_storeu_si256(p.add(32).cast(), weights.1);
            }
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
        unsafe fn store_bytes(p: *mut i8, low: Self::V, high: Self::V) -> i32 {
            unsafe {
                let low = (_mm256_cvtps_epi32(low.0), _mm256_cvtps_epi32(low.1));
                let high = (_mm256_cvtps_epi32(high.0), _mm256_cvtps_epi32(high.1));
                // Packing works within halves of a register: the permutation puts them in order again.
                let bytes = _mm256_packs_epi16(_mm256_packs_epi32(low.0, low.1), _mm256_packs_epi32(high.0, high.1));
                let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
                _mm256_storeu_si256(p.cast(), _mm256_permutevar8x32_epi32(bytes, order));
                let sum = _mm256_add_epi32(_mm256_add_epi32(low.0, low.1), _mm256_add_epi32(high.0, high.1));
                let sum = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
                let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b01_00_11_10>(sum));
                _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32::<0b00_00_00_01>(sum)))
            }
        }
        #[inline(always)]
        unsafe fn has_nan(v: Self::V) -> bool {
            unsafe {
                let nan = |v| _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
                nan(v.0) | nan(v.1) != 0
            }
        }
    }
}
