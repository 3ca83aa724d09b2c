//! Products of bytes: sixteen columns' sums of four products each, exact on every processor.
//!
//! Weights are unsigned (128 stands for zero), inputs signed: that is what AVX-512's `vpdpbusd` multiplies. Integer sums
//! have no rounding, so the instruction set changes speed only.

#![allow(
    clippy::needless_range_loop,
    reason = "iterators take closures, which may be compiled without the processor's features"
)]

use super::simd::{Isa, LANES, Scalar, Simd};

/// Bytes of one column that are multiplied at once.
pub const QUAD: usize = 4;

/// The best implementation of products that this processor has: AVX-512 has to come with its products and other operations
/// of bytes.
pub fn best_isa() -> Isa {
    #[cfg(target_arch = "x86_64")]
    if !(is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512bw")) {
        return Isa::detect_without_avx512();
    }
    Isa::detect()
}

/// Whether this processor has products of bytes that make rounding worthwhile: AVX-512 VNNI.
pub fn multiplies_bytes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return best_isa() == Isa::Avx512;
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Sums of products of bytes, beside the float lanes of [`Simd`].
///
/// # Safety
/// As for [`Simd`]; pointers are valid for 64 weights, four inputs or 32 bytes.
pub unsafe trait Dot: Simd {
    /// Sixteen 32-bit sums, one a column.
    type Sums: Copy;
    /// Four weights of each of sixteen columns.
    type Weights: Copy;
    /// Four inputs, for all columns.
    type Inputs: Copy;
    /// Four inputs of each of sixteen columns.
    type ColumnInputs: Copy;
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
    /// Four weights, for all columns.
    unsafe fn splat_weights(p: *const u8) -> Self::Weights;
    unsafe fn column_inputs(p: *const i8) -> Self::ColumnInputs;
    /// As [`Dot::dot`], each column with inputs of its own.
    unsafe fn dot_columns(sums: Self::Sums, weights: Self::Weights, inputs: Self::ColumnInputs) -> Self::Sums;
    unsafe fn floats(sums: Self::Sums) -> Self::V;
    /// The sixteen sums and differences of all lanes that Walsh and Hadamard's transform is made of, without its
    /// factor; in lane i, lane k is taken off where i and k have an odd number of bits in common.
    unsafe fn mix(v: Self::V) -> Self::V;
    /// Rounds twice sixteen floats below 255.5 to the nearest integers, ties to even, and stores them as unsigned bytes.
    /// What stands for a NaN is unspecified.
    unsafe fn store_unsigned(p: *mut u8, low: Self::V, high: Self::V);
    /// Rounds twice sixteen floats in [-127, 127] to the nearest integers, ties to even, and stores them as bytes; returns
    /// sums of two, lane by lane.
    unsafe fn store_bytes(p: *mut i8, low: Self::V, high: Self::V) -> Self::Sums;
    unsafe fn add_sums(a: Self::Sums, b: Self::Sums) -> Self::Sums;
    /// The sum over all lanes.
    unsafe fn total(sums: Self::Sums) -> i32;
    /// Whether a lane is NaN.
    unsafe fn has_nan(v: Self::V) -> bool;
}

// SAFETY: uses no processor features; pointers are used as documented.
unsafe impl Dot for Scalar {
    type Sums = [i32; LANES];
    type Weights = [[u8; QUAD]; LANES];
    type Inputs = [i8; QUAD];
    type ColumnInputs = [[i8; QUAD]; LANES];
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
    unsafe fn splat_weights(p: *const u8) -> Self::Weights {
        // SAFETY: valid for four bytes by contract.
        [unsafe { p.cast::<[u8; QUAD]>().read_unaligned() }; LANES]
    }
    #[inline(always)]
    unsafe fn column_inputs(p: *const i8) -> Self::ColumnInputs {
        // SAFETY: valid for 64 bytes by contract.
        unsafe { p.cast::<Self::ColumnInputs>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn dot_columns(mut sums: Self::Sums, weights: Self::Weights, inputs: Self::ColumnInputs) -> Self::Sums {
        for (sum, (weights, inputs)) in sums.iter_mut().zip(weights.into_iter().zip(inputs)) {
            for (w, x) in weights.into_iter().zip(inputs) {
                *sum += i32::from(w) * i32::from(x);
            }
        }
        sums
    }
    #[inline(always)]
    unsafe fn mix(mut v: Self::V) -> Self::V {
        let mut width = LANES / 2;
        while width > 0 {
            let mut mixed = v;
            for (i, lane) in mixed.iter_mut().enumerate() {
                *lane = if i & width == 0 { v[i ^ width] + v[i] } else { v[i ^ width] + (0.0 - v[i]) };
            }
            (v, width) = (mixed, width / 2);
        }
        v
    }
    #[inline(always)]
    unsafe fn store_unsigned(p: *mut u8, low: Self::V, high: Self::V) {
        for (i, x) in low.into_iter().chain(high).enumerate() {
            // SAFETY: valid for 32 bytes by contract.
            unsafe { p.add(i).write(x.round_ties_even() as u8) };
        }
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
    unsafe fn store_bytes(p: *mut i8, low: Self::V, high: Self::V) -> Self::Sums {
        let mut sums = [0; LANES];
        for (i, x) in low.into_iter().chain(high).enumerate() {
            let byte = x.round_ties_even() as i8;
            // SAFETY: valid for 32 bytes by contract.
            unsafe { p.add(i).write(byte) };
            sums[i % LANES] += i32::from(byte);
        }
        sums
    }
    #[inline(always)]
    unsafe fn add_sums(mut a: Self::Sums, b: Self::Sums) -> Self::Sums {
        for (a, b) in a.iter_mut().zip(b) {
            *a += b;
        }
        a
    }
    #[inline(always)]
    unsafe fn total(sums: Self::Sums) -> i32 {
        sums.into_iter().sum()
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
    use crate::simd::x86::{Avx2, Avx512};

    /// Stores the 32 bytes that packing two registers, which works within quarters of one, left in four pieces.
    ///
    /// Not by the instructions that narrow a register: the compiler has them narrow on their way to memory, which takes
    /// dozens of cycles on some processors.
    #[inline(always)]
    unsafe fn store_in_order(p: *mut u8, bytes: __m512i) {
        unsafe {
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 0, 4, 8, 12, 1, 5, 9, 13);
            _mm256_storeu_si256(p.cast(), _mm512_castsi512_si256(_mm512_permutexvar_epi32(order, bytes)));
        }
    }

    // SAFETY: only used by code compiled for avx512f, avx512bw and avx512vnni.
    unsafe impl Dot for Avx512 {
        type Sums = __m512i;
        type Weights = __m512i;
        type Inputs = __m512i;
        type ColumnInputs = __m512i;
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
        unsafe fn splat_weights(p: *const u8) -> Self::Weights {
            unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
        }
        #[inline(always)]
        unsafe fn column_inputs(p: *const i8) -> Self::ColumnInputs {
            unsafe { _mm512_loadu_si512(p.cast()) }
        }
        #[inline(always)]
        unsafe fn dot_columns(sums: Self::Sums, weights: Self::Weights, inputs: Self::ColumnInputs) -> Self::Sums {
            unsafe { _mm512_dpbusd_epi32(sums, weights, inputs) }
        }
        #[inline(always)]
        unsafe fn mix(v: Self::V) -> Self::V {
            // The partner of each lane, plus or minus the lane itself.
            #[inline(always)]
            unsafe fn stage(v: __m512, partner: __m512, minus: __mmask16) -> __m512 {
                unsafe { _mm512_add_ps(partner, _mm512_mask_sub_ps(v, minus, _mm512_setzero_ps(), v)) }
            }
            unsafe {
                let v = stage(v, _mm512_shuffle_f32x4::<0b01_00_11_10>(v, v), 0xff00);
                let v = stage(v, _mm512_shuffle_f32x4::<0b10_11_00_01>(v, v), 0xf0f0);
                let v = stage(v, _mm512_permute_ps::<0b01_00_11_10>(v), 0xcccc);
                stage(v, _mm512_permute_ps::<0b10_11_00_01>(v), 0xaaaa)
            }
        }
        #[inline(always)]
        unsafe fn store_unsigned(p: *mut u8, low: Self::V, high: Self::V) {
            unsafe {
                let words = _mm512_packs_epi32(_mm512_cvtps_epi32(low), _mm512_cvtps_epi32(high));
                store_in_order(p, _mm512_packus_epi16(words, words));
            }
        }
        #[inline(always)]
        unsafe fn floats(sums: Self::Sums) -> Self::V {
            unsafe { _mm512_cvtepi32_ps(sums) }
        }
        #[inline(always)]
        unsafe fn store_bytes(p: *mut i8, low: Self::V, high: Self::V) -> Self::Sums {
            unsafe {
                let (low, high) = (_mm512_cvtps_epi32(low), _mm512_cvtps_epi32(high));
                let words = _mm512_packs_epi32(low, high);
                store_in_order(p.cast(), _mm512_packs_epi16(words, words));
                _mm512_add_epi32(low, high)
            }
        }
        #[inline(always)]
        unsafe fn add_sums(a: Self::Sums, b: Self::Sums) -> Self::Sums {
            unsafe { _mm512_add_epi32(a, b) }
        }
        #[inline(always)]
        unsafe fn total(sums: Self::Sums) -> i32 {
            unsafe { _mm512_reduce_add_epi32(sums) }
        }
        #[inline(always)]
        unsafe fn has_nan(v: Self::V) -> bool {
            unsafe { _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v) != 0 }
        }
    }

    /// The first and third signed byte of each 32 bits as 16-bit numbers, and the second and fourth.
    #[inline(always)]
    unsafe fn apart(quads: __m256i) -> (__m256i, __m256i) {
        unsafe { (_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(quads)), _mm256_srai_epi16::<8>(quads)) }
    }

    /// In 16 bits and pairs, because `vpmaddubsw` would saturate.
    #[inline(always)]
    unsafe fn dot_half(sums: __m256i, weights: __m256i, inputs: (__m256i, __m256i)) -> __m256i {
        unsafe {
            let first = _mm256_and_si256(weights, _mm256_set1_epi16(0xff));
            let second = _mm256_srli_epi16::<8>(weights);
            let products = _mm256_add_epi32(_mm256_madd_epi16(first, inputs.0), _mm256_madd_epi16(second, inputs.1));
            _mm256_add_epi32(sums, products)
        }
    }

    // SAFETY: only used by code compiled for avx2 and fma.
    unsafe impl Dot for Avx2 {
        type Sums = (__m256i, __m256i);
        type Weights = (__m256i, __m256i);
        /// The first and third byte as 16-bit numbers, and the second and fourth.
        type Inputs = (__m256i, __m256i);
        /// The same for each half of the columns.
        type ColumnInputs = (Self::Inputs, Self::Inputs);
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
            unsafe { apart(_mm256_set1_epi32(p.cast::<i32>().read_unaligned())) }
        }
        #[inline(always)]
        unsafe fn dot(sums: Self::Sums, weights: Self::Weights, inputs: Self::Inputs) -> Self::Sums {
            unsafe { (dot_half(sums.0, weights.0, inputs), dot_half(sums.1, weights.1, inputs)) }
        }
        #[inline(always)]
        unsafe fn splat_weights(p: *const u8) -> Self::Weights {
            unsafe {
                let quad = _mm256_set1_epi32(p.cast::<i32>().read_unaligned());
                (quad, quad)
            }
        }
        #[inline(always)]
        unsafe fn column_inputs(p: *const i8) -> Self::ColumnInputs {
            unsafe { (apart(_mm256_loadu_si256(p.cast())), apart(_mm256_loadu_si256(p.add(32).cast()))) }
        }
        #[inline(always)]
        unsafe fn dot_columns(sums: Self::Sums, weights: Self::Weights, inputs: Self::ColumnInputs) -> Self::Sums {
            unsafe { (dot_half(sums.0, weights.0, inputs.0), dot_half(sums.1, weights.1, inputs.1)) }
        }
        #[inline(always)]
        unsafe fn mix(v: Self::V) -> Self::V {
            #[inline(always)]
            unsafe fn half(v: __m256) -> __m256 {
                unsafe {
                    let minus = _mm256_sub_ps(_mm256_setzero_ps(), v);
                    let partner = _mm256_permute2f128_ps::<1>(v, v);
                    let v = _mm256_add_ps(partner, _mm256_blend_ps::<0xf0>(v, minus));
                    let minus = _mm256_sub_ps(_mm256_setzero_ps(), v);
                    let v = _mm256_add_ps(_mm256_permute_ps::<0b01_00_11_10>(v), _mm256_blend_ps::<0xcc>(v, minus));
                    let minus = _mm256_sub_ps(_mm256_setzero_ps(), v);
                    _mm256_add_ps(_mm256_permute_ps::<0b10_11_00_01>(v), _mm256_blend_ps::<0xaa>(v, minus))
                }
            }
            unsafe {
                let minus = _mm256_sub_ps(_mm256_setzero_ps(), v.1);
                (half(_mm256_add_ps(v.1, v.0)), half(_mm256_add_ps(v.0, minus)))
            }
        }
        #[inline(always)]
        unsafe fn store_unsigned(p: *mut u8, low: Self::V, high: Self::V) {
            unsafe {
                let low = _mm256_packs_epi32(_mm256_cvtps_epi32(low.0), _mm256_cvtps_epi32(low.1));
                let high = _mm256_packs_epi32(_mm256_cvtps_epi32(high.0), _mm256_cvtps_epi32(high.1));
                // Packing works within halves of a register: the permutation puts them in order again.
                let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
                let bytes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order);
                _mm256_storeu_si256(p.cast(), bytes);
            }
        }
        #[inline(always)]
        unsafe fn floats(sums: Self::Sums) -> Self::V {
            unsafe { (_mm256_cvtepi32_ps(sums.0), _mm256_cvtepi32_ps(sums.1)) }
        }
        #[inline(always)]
        unsafe fn store_bytes(p: *mut i8, low: Self::V, high: Self::V) -> Self::Sums {
            unsafe {
                let low = (_mm256_cvtps_epi32(low.0), _mm256_cvtps_epi32(low.1));
                let high = (_mm256_cvtps_epi32(high.0), _mm256_cvtps_epi32(high.1));
                // Packing works within halves of a register: the permutation puts them in order again.
                let bytes = _mm256_packs_epi16(_mm256_packs_epi32(low.0, low.1), _mm256_packs_epi32(high.0, high.1));
                let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
                _mm256_storeu_si256(p.cast(), _mm256_permutevar8x32_epi32(bytes, order));
                (_mm256_add_epi32(low.0, high.0), _mm256_add_epi32(low.1, high.1))
            }
        }
        #[inline(always)]
        unsafe fn add_sums(a: Self::Sums, b: Self::Sums) -> Self::Sums {
            unsafe { (_mm256_add_epi32(a.0, b.0), _mm256_add_epi32(a.1, b.1)) }
        }
        #[inline(always)]
        unsafe fn total(sums: Self::Sums) -> i32 {
            unsafe {
                let sum = _mm256_add_epi32(sums.0, sums.1);
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
