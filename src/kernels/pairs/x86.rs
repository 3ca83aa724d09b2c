//! Products of pairs by the instructions of x86-64.

use std::arch::x86_64::*;

use half::bf16;

use super::{PairWork, Pairs};
use crate::simd::Simd as _;
use crate::simd::x86::{Avx2, Avx512, Bf16, entries, methods};

entries! { PairWork;
    run_avx2(Avx2) target_feature(enable = "avx2,fma");
    run_avx512(Avx512) target_feature(enable = "avx512f");
    run_bf16(Avx512<Bf16>) target_feature(enable = "avx512f,avx512bf16");
}

impl Pairs for Avx512<Bf16> {
    const STEPS: usize = 1;
    type Weights = __m512i;
    type Inputs = __m512i;
    type Number = bf16;
    #[inline(always)]
    unsafe fn pair_weights(self, p: *const bf16, _: usize) -> __m512i {
        // SAFETY: the token was made where the features were detected; the pointer is valid by contract.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn pair_inputs(self, p: *const bf16, _: usize) -> __m512i {
        // SAFETY: the token was made where the features were detected; the pointer is valid by contract.
        unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn store_numbers(self, to: *mut bf16, v: __m512) {
        #[inline]
        #[target_feature(enable = "avx512f,avx512bf16")]
        fn rounded(v: __m512) -> __m256i {
            // SAFETY: integers have no invalid bits.
            unsafe { std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v)) }
        }
        // SAFETY: the token was made where the features were detected; the pointer is valid by contract.
        unsafe { _mm256_storeu_si256(to.cast(), rounded(v)) }
    }
    methods! { target_feature(enable = "avx512f,avx512bf16");
        fn dot_pairs(self, sums: __m512, weights: __m512i, inputs: __m512i) -> __m512 {
            // SAFETY: pairs of bfloat16 have no invalid bits.
            let [weights, inputs] = unsafe { std::mem::transmute::<[__m512i; 2], [__m512bh; 2]>([weights, inputs]) };
            _mm512_dpbf16_ps(sums, weights, inputs)
        }
    }
}

impl Pairs for Avx512 {
    const STEPS: usize = 2;
    type Weights = __m512;
    type Inputs = __m512;
    type Number = f32;
    #[inline(always)]
    unsafe fn pair_weights(self, p: *const bf16, step: usize) -> __m512 {
        #[inline]
        #[target_feature(enable = "avx512f")]
        fn half(pairs: __m512i, step: usize) -> __m512 {
            _mm512_castsi512_ps(match step {
                0 => _mm512_and_si512(pairs, _mm512_set1_epi32(!0xffff)),
                _ => _mm512_slli_epi32::<16>(pairs),
            })
        }
        // SAFETY: the token was made where the features were detected; the pointer is valid by contract.
        unsafe { half(_mm512_loadu_si512(p.cast()), step) }
    }
    #[inline(always)]
    unsafe fn pair_inputs(self, p: *const f32, step: usize) -> __m512 {
        // SAFETY: the pointer is valid by contract.
        self.splat(unsafe { p.add(1 - step).read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store_numbers(self, to: *mut f32, v: __m512) {
        // SAFETY: the pointer is valid by contract.
        unsafe { self.write(to, self.rounded(v)) }
    }
    #[inline(always)]
    fn dot_pairs(self, sums: __m512, weights: __m512, inputs: __m512) -> __m512 {
        self.fma(weights, inputs, sums)
    }
}

impl Avx512 {
    methods! { target_feature(enable = "avx512f");
        fn rounded(self, v: __m512) -> __m512 {
            let (bits, upper) = (_mm512_castps_si512(v), _mm512_set1_epi32(!0xffff));
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
            let nearest = _mm512_and_si512(_mm512_add_epi32(bits, half), upper);
            // NaN stays NaN, whatever the addition would make of it.
            let quiet = _mm512_and_si512(_mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000)), upper);
            let nearest = _mm512_mask_mov_epi32(nearest, _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v), quiet);
            let small = _mm512_testn_epi32_mask(bits, _mm512_set1_epi32(0x7f80_0000));
            let sign = _mm512_set1_epi32(i32::MIN);
            _mm512_castsi512_ps(_mm512_mask_and_epi32(nearest, small, bits, sign))
        }
    }
}

type Pair = (__m256, __m256);

impl Pairs for Avx2 {
    const STEPS: usize = 2;
    type Weights = Pair;
    type Inputs = __m256;
    type Number = f32;
    #[inline(always)]
    unsafe fn pair_weights(self, p: *const bf16, step: usize) -> Pair {
        #[inline]
        #[target_feature(enable = "avx2")]
        fn half(pairs: __m256i, step: usize) -> __m256 {
            _mm256_castsi256_ps(match step {
                0 => _mm256_and_si256(pairs, _mm256_set1_epi32(!0xffff)),
                _ => _mm256_slli_epi32::<16>(pairs),
            })
        }
        // SAFETY: the token was made where the features were detected; the pointer is valid by contract.
        unsafe {
            let p = p.cast::<__m256i>();
            (half(_mm256_loadu_si256(p), step), half(_mm256_loadu_si256(p.add(1)), step))
        }
    }
    #[inline(always)]
    unsafe fn pair_inputs(self, p: *const f32, step: usize) -> __m256 {
        // SAFETY: the token was made where the features were detected; the pointer is valid by contract.
        unsafe { _mm256_set1_ps(p.add(1 - step).read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn store_numbers(self, to: *mut f32, v: Pair) {
        // SAFETY: the pointer is valid by contract.
        unsafe { self.write(to, (self.rounded(v.0), self.rounded(v.1))) }
    }
    methods! { target_feature(enable = "avx2,fma");
        fn dot_pairs(self, sums: Pair, weights: Pair, inputs: __m256) -> Pair {
            (_mm256_fmadd_ps(weights.0, inputs, sums.0), _mm256_fmadd_ps(weights.1, inputs, sums.1))
        }
    }
}

impl Avx2 {
    methods! { target_feature(enable = "avx2,fma");
        fn rounded(self, v: __m256) -> __m256 {
            let (bits, upper) = (_mm256_castps_si256(v), _mm256_set1_epi32(!0xffff));
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
            let nearest = _mm256_castsi256_ps(_mm256_and_si256(_mm256_add_epi32(bits, half), upper));
            // NaN stays NaN, whatever the addition would make of it.
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
            let quiet = _mm256_castsi256_ps(_mm256_and_si256(quiet, upper));
            let nearest = _mm256_blendv_ps(nearest, quiet, _mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
            let exponent = _mm256_and_si256(bits, _mm256_set1_epi32(0x7f80_0000));
            let small = _mm256_castsi256_ps(_mm256_cmpeq_epi32(exponent, _mm256_setzero_si256()));
            let zero = _mm256_and_ps(v, _mm256_set1_ps(-0.0));
            _mm256_blendv_ps(nearest, zero, small)
        }
    }
}
