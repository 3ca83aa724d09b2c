//! Products of bytes by the instructions of x86-64.

use std::arch::x86_64::*;

use super::{ByteWork, Dot};
use crate::simd::LANES;
use crate::simd::x86::{Avx2, Avx512, Vnni, entries, methods};

entries! { ByteWork;
    run_avx2(Avx2) target_feature(enable = "avx2,fma");
    run_avx512(Avx512<Vnni>) target_feature(enable = "avx512f,avx512bw,avx512vnni");
}

/// The 32 bytes that packing two registers, which works within quarters of one, left in four pieces, in order.
///
/// Not by the instructions that narrow a register: the compiler has them narrow on their way to memory, which takes
/// dozens of cycles on some processors.
#[inline]
#[target_feature(enable = "avx512f")]
fn in_order(bytes: __m512i) -> __m256i {
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 0, 4, 8, 12, 1, 5, 9, 13);
    _mm512_castsi512_si256(_mm512_permutexvar_epi32(order, bytes))
}

impl Dot for Avx512<Vnni> {
    type Sums = __m512i;
    type Weights = __m512i;
    type Inputs = __m512i;
    type ColumnInputs = __m512i;
    #[inline(always)]
    unsafe fn weights(self, p: *const u8) -> __m512i {
        // SAFETY: the token was made where the features were detected; the pointer is valid by contract.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn four_times(self, p: *const u8) -> __m512i {
        // SAFETY: the token was made where the features were detected; the pointer is valid by contract.
        unsafe {
            let columns = _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()));
            _mm512_mullo_epi32(columns, _mm512_set1_epi32(0x0101_0101))
        }
    }
    #[inline(always)]
    unsafe fn store_weights(self, p: *mut u8, weights: __m512i) {
        // SAFETY: the token was made where the features were detected; the pointer is valid by contract.
        unsafe { _mm512_storeu_si512(p.cast(), weights) }
    }
    #[inline(always)]
    unsafe fn inputs(self, p: *const i8) -> __m512i {
        // SAFETY: the token was made where the features were detected; the pointer is valid by contract.
        unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn splat_weights(self, p: *const u8) -> __m512i {
        // SAFETY: the token was made where the features were detected; the pointer is valid by contract.
        unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn column_inputs(self, p: *const i8) -> __m512i {
        // SAFETY: the token was made where the features were detected; the pointer is valid by contract.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    methods! { target_feature(enable = "avx512f,avx512bw,avx512vnni");
        fn splat_sum(self, x: i32) -> __m512i {
            _mm512_set1_epi32(x)
        }
        fn low_nibbles(self, bytes: __m512i, shifts: __m512i) -> __m512i {
            let low = _mm512_and_si512(bytes, _mm512_set1_epi8(0x0f));
            _mm512_add_epi8(low, shifts)
        }
        fn high_nibbles(self, bytes: __m512i, shifts: __m512i) -> __m512i {
            let high = _mm512_srli_epi16::<4>(bytes);
            _mm512_add_epi8(_mm512_and_si512(high, _mm512_set1_epi8(0x0f)), shifts)
        }
        fn dot(self, sums: __m512i, weights: __m512i, inputs: __m512i) -> __m512i {
            _mm512_dpbusd_epi32(sums, weights, inputs)
        }
        fn dot_columns(self, sums: __m512i, weights: __m512i, inputs: __m512i) -> __m512i {
            _mm512_dpbusd_epi32(sums, weights, inputs)
        }
        fn mix(self, v: __m512) -> __m512 {
            // The partner of each lane, plus or minus the lane itself.
            #[inline]
            #[target_feature(enable = "avx512f")]
            fn stage(v: __m512, partner: __m512, minus: __mmask16) -> __m512 {
                _mm512_add_ps(partner, _mm512_mask_sub_ps(v, minus, _mm512_setzero_ps(), v))
            }
            let v = stage(v, _mm512_shuffle_f32x4::<0b01_00_11_10>(v, v), 0xff00);
            let v = stage(v, _mm512_shuffle_f32x4::<0b10_11_00_01>(v, v), 0xf0f0);
            let v = stage(v, _mm512_permute_ps::<0b01_00_11_10>(v), 0xcccc);
            stage(v, _mm512_permute_ps::<0b10_11_00_01>(v), 0xaaaa)
        }
        fn store_unsigned(self, to: &mut [u8; 2 * LANES], low: __m512, high: __m512) {
            let words = _mm512_packs_epi32(_mm512_cvtps_epi32(low), _mm512_cvtps_epi32(high));
            // SAFETY: the array has room for 32 bytes.
            unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), in_order(_mm512_packus_epi16(words, words))) };
        }
        fn floats(self, sums: __m512i) -> __m512 {
            _mm512_cvtepi32_ps(sums)
        }
        fn widen(self, bytes: &[u8; LANES]) -> __m512 {
            // SAFETY: the array has sixteen bytes.
            let bytes = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
            _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))
        }
        fn store_bytes(self, to: &mut [i8; 2 * LANES], low: __m512, high: __m512) -> __m512i {
            let (low, high) = (_mm512_cvtps_epi32(low), _mm512_cvtps_epi32(high));
            let words = _mm512_packs_epi32(low, high);
            // SAFETY: the array has room for 32 bytes.
            unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), in_order(_mm512_packs_epi16(words, words))) };
            _mm512_add_epi32(low, high)
        }
        fn add_sums(self, a: __m512i, b: __m512i) -> __m512i {
            _mm512_add_epi32(a, b)
        }
        fn total(self, sums: __m512i) -> i32 {
            _mm512_reduce_add_epi32(sums)
        }
        fn has_nan(self, v: __m512) -> bool {
            _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v) != 0
        }
    }
}

/// Bytes, or what becomes of them, in two registers.
type Bytes = (__m256i, __m256i);
type Pair = (__m256, __m256);

/// The first and third signed byte of each 32 bits as 16-bit numbers, and the second and fourth.
#[inline]
#[target_feature(enable = "avx2")]
fn apart(quads: __m256i) -> Bytes {
    (_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(quads)), _mm256_srai_epi16::<8>(quads))
}

/// In 16 bits and pairs, because `vpmaddubsw` would saturate.
#[inline]
#[target_feature(enable = "avx2")]
fn dot_half(sums: __m256i, weights: __m256i, inputs: Bytes) -> __m256i {
    let first = _mm256_and_si256(weights, _mm256_set1_epi16(0xff));
    let second = _mm256_srli_epi16::<8>(weights);
    let products = _mm256_add_epi32(_mm256_madd_epi16(first, inputs.0), _mm256_madd_epi16(second, inputs.1));
    _mm256_add_epi32(sums, products)
}

impl Dot for Avx2 {
    type Sums = Bytes;
    type Weights = Bytes;
    /// The first and third byte as 16-bit numbers, and the second and fourth.
    type Inputs = Bytes;
    /// The same for each half of the columns.
    type ColumnInputs = (Bytes, Bytes);
    #[inline(always)]
    unsafe fn weights(self, p: *const u8) -> Bytes {
        // SAFETY: the token was made where the features were detected; the pointer is valid by contract.
        unsafe { (_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())) }
    }
    #[inline(always)]
    unsafe fn four_times(self, p: *const u8) -> Bytes {
        // SAFETY: the token was made where the features were detected; the pointer is valid by contract.
        unsafe {
            let half = |p: *const u8| {
                let columns = _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()));
                _mm256_mullo_epi32(columns, _mm256_set1_epi32(0x0101_0101))
            };
            (half(p), half(p.add(8)))
        }
    }
    #[inline(always)]
    unsafe fn store_weights(self, p: *mut u8, weights: Bytes) {
        // SAFETY: the token was made where the features were detected; the pointer is valid by contract.
        unsafe {
            _mm256_storeu_si256(p.cast(), weights.0);
            _mm256_storeu_si256(p.add(32).cast(), weights.1);
        }
    }
    #[inline(always)]
    unsafe fn inputs(self, p: *const i8) -> Bytes {
        // SAFETY: the token was made where the features were detected; the pointer is valid by contract.
        unsafe { apart(_mm256_set1_epi32(p.cast::<i32>().read_unaligned())) }
    }
    #[inline(always)]
    unsafe fn splat_weights(self, p: *const u8) -> Bytes {
        // SAFETY: the token was made where the features were detected; the pointer is valid by contract.
        unsafe {
            let quad = _mm256_set1_epi32(p.cast::<i32>().read_unaligned());
            (quad, quad)
        }
    }
    #[inline(always)]
    unsafe fn column_inputs(self, p: *const i8) -> (Bytes, Bytes) {
        // SAFETY: the token was made where the features were detected; the pointer is valid by contract.
        unsafe { (apart(_mm256_loadu_si256(p.cast())), apart(_mm256_loadu_si256(p.add(32).cast()))) }
    }
    methods! { target_feature(enable = "avx2,fma");
        fn splat_sum(self, x: i32) -> Bytes {
            (_mm256_set1_epi32(x), _mm256_set1_epi32(x))
        }
        fn low_nibbles(self, bytes: Bytes, shifts: Bytes) -> Bytes {
            let nibble = _mm256_set1_epi8(0x0f);
            let low = |bytes, shifts| _mm256_add_epi8(_mm256_and_si256(bytes, nibble), shifts);
            (low(bytes.0, shifts.0), low(bytes.1, shifts.1))
        }
        fn high_nibbles(self, bytes: Bytes, shifts: Bytes) -> Bytes {
            let nibble = _mm256_set1_epi8(0x0f);
            let high =
                |bytes, shifts| _mm256_add_epi8(_mm256_and_si256(_mm256_srli_epi16::<4>(bytes), nibble), shifts);
            (high(bytes.0, shifts.0), high(bytes.1, shifts.1))
        }
        fn dot(self, sums: Bytes, weights: Bytes, inputs: Bytes) -> Bytes {
            (dot_half(sums.0, weights.0, inputs), dot_half(sums.1, weights.1, inputs))
        }
        fn dot_columns(self, sums: Bytes, weights: Bytes, inputs: (Bytes, Bytes)) -> Bytes {
            (dot_half(sums.0, weights.0, inputs.0), dot_half(sums.1, weights.1, inputs.1))
        }
        fn mix(self, v: Pair) -> Pair {
            #[inline]
            #[target_feature(enable = "avx2")]
            fn half(v: __m256) -> __m256 {
                let minus = _mm256_sub_ps(_mm256_setzero_ps(), v);
                let partner = _mm256_permute2f128_ps::<1>(v, v);
                let v = _mm256_add_ps(partner, _mm256_blend_ps::<0xf0>(v, minus));
                let minus = _mm256_sub_ps(_mm256_setzero_ps(), v);
                let v = _mm256_add_ps(_mm256_permute_ps::<0b01_00_11_10>(v), _mm256_blend_ps::<0xcc>(v, minus));
                let minus = _mm256_sub_ps(_mm256_setzero_ps(), v);
                _mm256_add_ps(_mm256_permute_ps::<0b10_11_00_01>(v), _mm256_blend_ps::<0xaa>(v, minus))
            }
            let minus = _mm256_sub_ps(_mm256_setzero_ps(), v.1);
            (half(_mm256_add_ps(v.1, v.0)), half(_mm256_add_ps(v.0, minus)))
        }
        fn store_unsigned(self, to: &mut [u8; 2 * LANES], low: Pair, high: Pair) {
            let low = _mm256_packs_epi32(_mm256_cvtps_epi32(low.0), _mm256_cvtps_epi32(low.1));
            let high = _mm256_packs_epi32(_mm256_cvtps_epi32(high.0), _mm256_cvtps_epi32(high.1));
            // Packing works within halves of a register: the permutation puts them in order again.
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            let bytes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order);
            // SAFETY: the array has room for 32 bytes.
            unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), bytes) };
        }
        fn floats(self, sums: Bytes) -> Pair {
            (_mm256_cvtepi32_ps(sums.0), _mm256_cvtepi32_ps(sums.1))
        }
        fn widen(self, bytes: &[u8; LANES]) -> Pair {
            // SAFETY: the array has sixteen bytes.
            let bytes = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
            let half = |bytes| _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
            (half(bytes), half(_mm_srli_si128::<8>(bytes)))
        }
        fn store_bytes(self, to: &mut [i8; 2 * LANES], low: Pair, high: Pair) -> Bytes {
            let low = (_mm256_cvtps_epi32(low.0), _mm256_cvtps_epi32(low.1));
            let high = (_mm256_cvtps_epi32(high.0), _mm256_cvtps_epi32(high.1));
            // Packing works within halves of a register: the permutation puts them in order again.
            let bytes = _mm256_packs_epi16(_mm256_packs_epi32(low.0, low.1), _mm256_packs_epi32(high.0, high.1));
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            // SAFETY: the array has room for 32 bytes.
            unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), _mm256_permutevar8x32_epi32(bytes, order)) };
            (_mm256_add_epi32(low.0, high.0), _mm256_add_epi32(low.1, high.1))
        }
        fn add_sums(self, a: Bytes, b: Bytes) -> Bytes {
            (_mm256_add_epi32(a.0, b.0), _mm256_add_epi32(a.1, b.1))
        }
        fn total(self, sums: Bytes) -> i32 {
            let sum = _mm256_add_epi32(sums.0, sums.1);
            let sum = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
            let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b01_00_11_10>(sum));
            _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32::<0b00_00_00_01>(sum)))
        }
        fn has_nan(self, v: Pair) -> bool {
            let nan = |v| _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
            nan(v.0) | nan(v.1) != 0
        }
    }
}
