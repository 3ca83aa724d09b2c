//! Lanes in the registers of x86-64.

use std::arch::x86_64::*;

use super::{Simd, Work};

/// Sixteen lanes in two registers.
type Pair = (__m256, __m256);

/// Makes safe methods of a token. Their bodies are compiled for the processor features that the token stands for.
///
/// A body is a function of its own, because a trait's function cannot be compiled for features, and safe code cannot do
/// more than arithmetic there.
macro_rules! methods {
    ($features:meta; $(fn $name:ident($self:ident $(, $argument:ident: $type:ty)*) $(-> $result:ty)? $body:block)*) => {$(
        #[inline(always)]
        fn $name($self $(, $argument: $type)*) $(-> $result)? {
            #[inline]
            #[$features]
            fn compiled($($argument: $type),*) $(-> $result)? $body
            // SAFETY: the token was made where these features were detected.
            unsafe { compiled($($argument),*) }
        }
    )*};
}
pub(crate) use methods;

/// Makes the functions that enter code which is compiled for processor features, with some kind of work for lanes that stand
/// for them.
macro_rules! entries {
    ($work:ident; $($name:ident($lanes:ty) $features:meta;)+) => {$(
        /// Does `work` in code that is compiled for these lanes.
        pub(super) fn $name<W: $work>(lanes: $lanes, work: W) -> W::Output {
            #[$features]
            fn compiled<W: $work>(lanes: $lanes, work: W) -> W::Output {
                work.run(lanes)
            }
            // SAFETY: the token was made where these features were detected.
            unsafe { compiled(lanes, work) }
        }
    )+};
}
pub(crate) use entries;

/// AVX2 and FMA: two registers of eight lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Avx2(());

/// AVX-512F: one register. `E` says what else was detected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Avx512<E = ()>(E);

/// AVX-512 VNNI and BW: products of bytes, and what else is done with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vnni(());

/// AVX-512 BF16: products of pairs of bfloat16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bf16(());

impl Avx2 {
    pub fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Avx2(()))
    }
}

impl Avx512 {
    pub fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx512f").then_some(Avx512(()))
    }
}

impl Avx512<Vnni> {
    pub fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vnni");
        <Avx512>::detect().filter(|_| found).map(|_| Avx512(Vnni(())))
    }
}

impl Avx512<Bf16> {
    pub fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512bf16");
        <Avx512>::detect().filter(|_| found).map(|_| Avx512(Bf16(())))
    }
}

impl<E> Avx512<E> {
    /// The token of the float lanes alone.
    pub(crate) fn floats(self) -> Avx512 {
        Avx512(())
    }

    /// The token of the narrower registers: AVX-512F includes AVX2 and FMA.
    pub(crate) fn avx2(self) -> Avx2 {
        Avx2(())
    }
}

entries! { Work;
    run_avx2(Avx2) target_feature(enable = "avx2,fma");
    run_avx512(Avx512) target_feature(enable = "avx512f");
}

impl Simd for Avx2 {
    type V = Pair;
    const MANY_REGISTERS: bool = false;
    #[inline(always)]
    unsafe fn read(self, p: *const f32) -> Pair {
        // SAFETY: the token was made where the features were detected; the pointer is valid by contract.
        unsafe { (_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))) }
    }
    #[inline(always)]
    unsafe fn write(self, p: *mut f32, v: Pair) {
        // SAFETY: the token was made where the features were detected; the pointer is valid by contract.
        unsafe {
            _mm256_storeu_ps(p, v.0);
            _mm256_storeu_ps(p.add(8), v.1);
        }
    }
    methods! { target_feature(enable = "avx2,fma");
        fn splat(self, x: f32) -> Pair {
            (_mm256_set1_ps(x), _mm256_set1_ps(x))
        }
        fn add(self, a: Pair, b: Pair) -> Pair {
            (_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1))
        }
        fn sub(self, a: Pair, b: Pair) -> Pair {
            (_mm256_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1))
        }
        fn mul(self, a: Pair, b: Pair) -> Pair {
            (_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1))
        }
        fn div(self, a: Pair, b: Pair) -> Pair {
            (_mm256_div_ps(a.0, b.0), _mm256_div_ps(a.1, b.1))
        }
        fn fma(self, a: Pair, b: Pair, c: Pair) -> Pair {
            (_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1))
        }
        fn max(self, a: Pair, b: Pair) -> Pair {
            (_mm256_max_ps(a.0, b.0), _mm256_max_ps(a.1, b.1))
        }
        fn select_lt(self, a: Pair, b: Pair, x: Pair, y: Pair) -> Pair {
            (
                _mm256_blendv_ps(y.0, x.0, _mm256_cmp_ps::<_CMP_LT_OQ>(a.0, b.0)),
                _mm256_blendv_ps(y.1, x.1, _mm256_cmp_ps::<_CMP_LT_OQ>(a.1, b.1)),
            )
        }
        fn largest(self, v: Pair) -> f32 {
            // Of a NaN and a number, the second operand comes out: the least number goes there first.
            let least = _mm256_set1_ps(f32::NEG_INFINITY);
            let v = _mm256_max_ps(_mm256_max_ps(v.0, least), _mm256_max_ps(v.1, least));
            let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_shuffle_ps::<1>(v, v)))
        }
        fn exp2_from_shifted(self, t: Pair) -> Pair {
            let one = _mm256_set1_epi32(0x3f80_0000);
            let half =
                |v| _mm256_castsi256_ps(_mm256_add_epi32(_mm256_slli_epi32::<23>(_mm256_castps_si256(v)), one));
            (half(t.0), half(t.1))
        }
        fn scale_by_shifted(self, v: Pair, t: Pair) -> Pair {
            let half = |v, t| {
                let power = _mm256_slli_epi32::<23>(_mm256_castps_si256(t));
                _mm256_castsi256_ps(_mm256_add_epi32(power, _mm256_castps_si256(v)))
            };
            (half(v.0, t.0), half(v.1, t.1))
        }
    }
}

impl<E: Copy> Simd for Avx512<E> {
    type V = __m512;
    const MANY_REGISTERS: bool = true;
    #[inline(always)]
    unsafe fn read(self, p: *const f32) -> __m512 {
        // SAFETY: the token was made where the features were detected; the pointer is valid by contract.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn write(self, p: *mut f32, v: __m512) {
        // SAFETY: the token was made where the features were detected; the pointer is valid by contract.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    methods! { target_feature(enable = "avx512f");
        fn splat(self, x: f32) -> __m512 {
            _mm512_set1_ps(x)
        }
        fn add(self, a: __m512, b: __m512) -> __m512 {
            _mm512_add_ps(a, b)
        }
        fn sub(self, a: __m512, b: __m512) -> __m512 {
            _mm512_sub_ps(a, b)
        }
        fn mul(self, a: __m512, b: __m512) -> __m512 {
            _mm512_mul_ps(a, b)
        }
        fn div(self, a: __m512, b: __m512) -> __m512 {
            _mm512_div_ps(a, b)
        }
        fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
            _mm512_fmadd_ps(a, b, c)
        }
        fn max(self, a: __m512, b: __m512) -> __m512 {
            _mm512_max_ps(a, b)
        }
        fn select_lt(self, a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
            _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x)
        }
        fn largest(self, v: __m512) -> f32 {
            // Of a NaN and a number, the second operand comes out.
            _mm512_reduce_max_ps(_mm512_max_ps(v, _mm512_set1_ps(f32::NEG_INFINITY)))
        }
        fn exp2_from_shifted(self, t: __m512) -> __m512 {
            let one = _mm512_set1_epi32(0x3f80_0000);
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_slli_epi32::<23>(_mm512_castps_si512(t)), one))
        }
        fn scale_by_shifted(self, v: __m512, t: __m512) -> __m512 {
            let power = _mm512_slli_epi32::<23>(_mm512_castps_si512(t));
            _mm512_castsi512_ps(_mm512_add_epi32(power, _mm512_castps_si512(v)))
        }
    }
}
