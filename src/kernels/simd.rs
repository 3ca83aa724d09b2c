//! Sixteen float32 lanes, on whatever the processor has.
//!
//! Every implementation does the same operations on the same lanes in the same order (fused multiply-adds included), so
//! that all of them give the same bits: the kernel can be tested on one against another, and a fallback changes speed
//! only.

/// Lanes of a [`Simd::V`], and tokens of a cache block.
pub const LANES: usize = 16;

/// Which implementation of [`Simd`] runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512F.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2 with FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Plain Rust.
    Scalar,
}

impl Isa {
    /// The best that this processor has.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") {
            return Isa::Avx512;
        }
        Self::detect_without_avx512()
    }

    /// The best but AVX-512.
    pub fn detect_without_avx512() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Isa::Avx2;
        }
        Isa::Scalar
    }
}

/// Sixteen-lane float arithmetic.
///
/// # Safety
/// The implementing type may only be used in functions compiled with the processor features it stands for, on a
/// processor that has them; pointers must be valid for 16 floats (no alignment is needed).
pub unsafe trait Simd: Copy {
    type V: Copy;
    /// Whether there are registers for four [`Simd::V`] of each of six rows; else there are for one.
    const MANY_REGISTERS: bool;
    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(p: *const f32) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a · b + c`, rounded once.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Lanewise `a > b ? a : b`, so `b` where one of them is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// Lanes where `a < b` take `x`, the others `y`.
    unsafe fn select_lt(a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// The largest lane; NaN counts as nothing.
    unsafe fn largest(v: Self::V) -> f32;
    /// 2ⁿ for the integer n that the addition of 1.5·2²³ left in the low bits of `t`; n in [-126, 127].
    unsafe fn exp2_from_shifted(t: Self::V) -> Self::V;
    /// `v` · 2ⁿ, n as there, for normal numbers whose product is one; NaN without a payload for such a NaN.
    unsafe fn scale_by_shifted(v: Self::V, t: Self::V) -> Self::V;
}

/// Lane numbers as floats, for masks.
pub const LANE_INDEX: [f32; LANES] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];

/// eˣ for x ≤ 0, within 2 ulp; exactly 0 below -87, exactly 1 at 0, NaN for NaN.
#[inline(always)]
pub unsafe fn exp<S: Simd>(x: S::V) -> S::V {
    const SHIFT: f32 = 12_582_912.0; // 1.5 · 2²³
    // SAFETY: the caller compiled for S.
    unsafe {
        let floor = S::splat(-87.0);
        // In this order: of a NaN and a number, `max` gives the second.
        let clamped = S::max(floor, x);
        let t = S::fma(clamped, S::splat(std::f32::consts::LOG2_E), S::splat(SHIFT));
        let n = S::sub(t, S::splat(SHIFT));
        // x - n·ln 2 in two steps, ln 2 split into a short and a small part.
        let r = S::fma(n, S::splat(-0.693_145_75), clamped);
        let r = S::fma(n, S::splat(-1.428_606_8e-6), r);
        // Taylor's series to the sixth power: |r| ≤ 0.347, so the rest is below 1.3e-7 of the value.
        let mut p = S::splat(1.0 / 720.0);
        for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
            p = S::fma(p, r, S::splat(c));
        }
        S::select_lt(x, floor, S::splat(0.0), S::mul(p, S::exp2_from_shifted(t)))
    }
}

/// tanh x, within 4 ulp; NaN for NaN.
#[inline(always)]
pub unsafe fn tanh<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller compiled for S.
    unsafe {
        let (zero, one) = (S::splat(0.0), S::splat(1.0));
        // In this order: of a NaN and a number, `max` gives the second.
        let magnitude = S::max(S::sub(zero, x), x);
        // (1 − e) / (1 + e) with e = e^(−2|x|), which loses digits near 0.
        let e = exp::<S>(S::mul(S::splat(-2.0), magnitude));
        let far = S::div(S::sub(one, e), S::add(one, e));
        // There, Taylor's series to the thirteenth power: the rest is below 2e-9 of the value at 0.35.
        let square = S::mul(magnitude, magnitude);
        let mut p = S::splat(21_844.0 / 6_081_075.0);
        for c in [-1_382.0 / 155_925.0, 62.0 / 2_835.0, -17.0 / 315.0, 2.0 / 15.0, -1.0 / 3.0, 1.0] {
            p = S::fma(p, square, S::splat(c));
        }
        let near = S::mul(p, magnitude);
        let unsigned = S::select_lt(magnitude, S::splat(0.35), near, far);
        S::select_lt(x, zero, S::sub(zero, unsigned), unsigned)
    }
}

/// Sum of the lanes, as a balanced tree.
#[inline(always)]
pub unsafe fn sum<S: Simd>(v: S::V) -> f32 {
    let mut lanes = [0.0; LANES];
    // SAFETY: the caller compiled for S; the array holds 16 floats.
    unsafe { S::store(lanes.as_mut_ptr(), v) };
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// eˣ for x ≤ 0, within 2⁻¹⁴ of it, for weights that are rounded to bfloat16; below -87, e⁻⁸⁷. NaN for NaN.
#[inline(always)]
pub unsafe fn coarse_exp<S: Simd>(x: S::V) -> S::V {
    const SHIFT: f32 = 12_582_912.0; // 1.5 · 2²³
    // SAFETY: the caller compiled for S.
    unsafe {
        // In this order: of a NaN and a number, `max` gives the second.
        let clamped = S::max(S::splat(-87.0), x);
        let log2 = S::splat(std::f32::consts::LOG2_E);
        let t = S::fma(clamped, log2, S::splat(SHIFT));
        let f = S::fma(clamped, log2, S::sub(S::splat(SHIFT), t));
        // 2ᶠ for |f| ≤ 1/2 by Taylor's series to the fourth power: the rest is below 4.2e-5 of the value.
        let mut p = S::splat(9.618_129e-3);
        for c in [5.550_411e-2, 0.240_226_5, std::f32::consts::LN_2, 1.0] {
            p = S::fma(p, f, S::splat(c));
        }
        S::mul(p, S::exp2_from_shifted(t))
    }
}

/// 2ˣ within 2⁻¹³ of it for x < 127, for weights that become bytes; below -125, 2⁻¹²⁵. NaN for NaN without a payload.
#[inline(always)]
pub unsafe fn coarse_exp2<S: Simd>(x: S::V) -> S::V {
    const SHIFT: f32 = 12_582_912.0; // 1.5 · 2²³
    // SAFETY: the caller compiled for S.
    unsafe {
        // In this order: of a NaN and a number, `max` gives the second.
        let clamped = S::max(S::splat(-125.0), x);
        let t = S::add(clamped, S::splat(SHIFT));
        let f = S::sub(clamped, S::sub(t, S::splat(SHIFT)));
        // 2ᶠ for |f| ≤ 1/2: the polynomial of the third degree whose largest relative error, 7.5e-5, is the smallest.
        let mut p = S::splat(0.055_171_67);
        for c in [0.242_611_12, 0.693_261, 0.999_928_06] {
            p = S::fma(p, f, S::splat(c));
        }
        S::scale_by_shifted(p, t)
    }
}

/// Plain Rust: correct everywhere, slow.
#[derive(Clone, Copy)]
pub struct Scalar;

macro_rules! lanes {
    (|$i:ident| $e:expr) => {{
        let mut out = [0.0; LANES];
        for $i in 0..LANES {
            out[$i] = $e;
        }
        out
    }};
}

// SAFETY: uses no processor features; all pointers are used for 16 floats.
unsafe impl Simd for Scalar {
    type V = [f32; LANES];
    const MANY_REGISTERS: bool = false;
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        // SAFETY: valid for 16 floats by contract.
        unsafe { p.cast::<[f32; LANES]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        // SAFETY: valid for 16 floats by contract.
        unsafe { p.cast::<[f32; LANES]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        lanes!(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        lanes!(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        lanes!(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        lanes!(|i| a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        lanes!(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        lanes!(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn select_lt(a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V {
        lanes!(|i| if a[i] < b[i] { x[i] } else { y[i] })
    }
    #[inline(always)]
    unsafe fn largest(v: Self::V) -> f32 {
        v.into_iter().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
    }
    #[inline(always)]
    unsafe fn exp2_from_shifted(t: Self::V) -> Self::V {
        lanes!(|i| f32::from_bits((t[i].to_bits() << 23).wrapping_add(0x3f80_0000)))
    }
    #[inline(always)]
    unsafe fn scale_by_shifted(v: Self::V, t: Self::V) -> Self::V {
        lanes!(|i| f32::from_bits((t[i].to_bits() << 23).wrapping_add(v[i].to_bits())))
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(clippy::undocumented_unsafe_blocks, reason = "each block is one intrinsic, whose need is the trait's contract")]
pub mod x86 {
    use std::arch::x86_64::*;

    use super::Simd;

    /// AVX2 and FMA: two registers of eight lanes.
    #[derive(Clone, Copy)]
    pub struct Avx2;

    /// AVX-512F: one register.
    #[derive(Clone, Copy)]
    pub struct Avx512;

    // SAFETY: only used by kernels compiled for avx2 and fma; unaligned loads and stores of 16 floats.
    unsafe impl Simd for Avx2 {
        type V = (__m256, __m256);
        const MANY_REGISTERS: bool = false;
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self::V {
            unsafe { (_mm256_set1_ps(x), _mm256_set1_ps(x)) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self::V {
            unsafe { (_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: Self::V) {
            unsafe {
                _mm256_storeu_ps(p, v.0);
                _mm256_storeu_ps(p.add(8), v.1);
            }
        }
        #[inline(always)]
        unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
            unsafe { (_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)) }
        }
        #[inline(always)]
        unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
            unsafe { (_mm256_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1)) }
        }
        #[inline(always)]
        unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
            unsafe { (_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)) }
        }
        #[inline(always)]
        unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
            unsafe { (_mm256_div_ps(a.0, b.0), _mm256_div_ps(a.1, b.1)) }
        }
        #[inline(always)]
        unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            unsafe { (_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)) }
        }
        #[inline(always)]
        unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
            unsafe { (_mm256_max_ps(a.0, b.0), _mm256_max_ps(a.1, b.1)) }
        }
        #[inline(always)]
        unsafe fn select_lt(a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V {
            unsafe {
                (
                    _mm256_blendv_ps(y.0, x.0, _mm256_cmp_ps::<_CMP_LT_OQ>(a.0, b.0)),
                    _mm256_blendv_ps(y.1, x.1, _mm256_cmp_ps::<_CMP_LT_OQ>(a.1, b.1)),
                )
            }
        }
        #[inline(always)]
        unsafe fn largest(v: Self::V) -> f32 {
            unsafe {
                // Of a NaN and a number, the second operand comes out: the least number goes there first.
                let least = _mm256_set1_ps(f32::NEG_INFINITY);
                let v = _mm256_max_ps(_mm256_max_ps(v.0, least), _mm256_max_ps(v.1, least));
                let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
                _mm_cvtss_f32(_mm_max_ss(v, _mm_shuffle_ps::<1>(v, v)))
            }
        }
        #[inline(always)]
        unsafe fn exp2_from_shifted(t: Self::V) -> Self::V {
            unsafe {
                let one = _mm256_set1_epi32(0x3f80_0000);
                let half =
                    |v| _mm256_castsi256_ps(_mm256_add_epi32(_mm256_slli_epi32::<23>(_mm256_castps_si256(v)), one));
                (half(t.0), half(t.1))
            }
        }
        #[inline(always)]
        unsafe fn scale_by_shifted(v: Self::V, t: Self::V) -> Self::V {
            unsafe {
                let half = |v, t| {
                    let power = _mm256_slli_epi32::<23>(_mm256_castps_si256(t));
                    _mm256_castsi256_ps(_mm256_add_epi32(power, _mm256_castps_si256(v)))
                };
                (half(v.0, t.0), half(v.1, t.1))
            }
        }
    }

    // SAFETY: only used by kernels compiled for avx512f; unaligned loads and stores of 16 floats.
    unsafe impl Simd for Avx512 {
        type V = __m512;
        const MANY_REGISTERS: bool = true;
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self::V {
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self::V {
            unsafe { _mm512_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: Self::V) {
            unsafe { _mm512_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
            unsafe { _mm512_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
            unsafe { _mm512_div_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
            unsafe { _mm512_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn select_lt(a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V {
            unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x) }
        }
        #[inline(always)]
        unsafe fn largest(v: Self::V) -> f32 {
            // Of a NaN and a number, the second operand comes out.
            unsafe { _mm512_reduce_max_ps(_mm512_max_ps(v, _mm512_set1_ps(f32::NEG_INFINITY))) }
        }
        #[inline(always)]
        unsafe fn exp2_from_shifted(t: Self::V) -> Self::V {
            unsafe {
                let one = _mm512_set1_epi32(0x3f80_0000);
                _mm512_castsi512_ps(_mm512_add_epi32(_mm512_slli_epi32::<23>(_mm512_castps_si512(t)), one))
            }
        }
        #[inline(always)]
        unsafe fn scale_by_shifted(v: Self::V, t: Self::V) -> Self::V {
            unsafe {
                let power = _mm512_slli_epi32::<23>(_mm512_castps_si512(t));
                _mm512_castsi512_ps(_mm512_add_epi32(power, _mm512_castps_si512(v)))
            }
        }
    }
}
