//! Sixteen lanes of float32, on what the processor has.
//!
//! Every implementation does the same operations on the same lanes in the same order, fused multiply-adds included. So all
//! of them give the same bits. A test can hold one to another, and a fallback changes the speed only.
//!
//! # Tokens
//!
//! A value of a type that implements [`Simd`] is a token: it takes no memory, and it exists only where the processor has the
//! features that its type stands for, because nothing else makes one than their detection. So arithmetic is safe. Loads
//! and stores through pointers are not.
//!
//! An operation is one instruction only in code that is compiled for its features. [`Isa::run`] enters such code. What runs
//! there has to be inlined into it, because a function of its own is compiled without the features, and calls a function
//! for each operation.

pub(crate) mod scalar;
#[cfg(target_arch = "x86_64")]
pub mod x86;

pub use self::scalar::Scalar;
#[cfg(target_arch = "x86_64")]
use self::x86::{Avx2, Avx512, Bf16, Vnni};

/// Lanes of a [`Simd::V`], and tokens of a cache block.
pub const LANES: usize = 16;

/// The implementation of [`Simd`] that runs, as a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512F.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    /// AVX-512F with products of bytes.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(Avx512<Vnni>),
    /// AVX-512F with products of pairs of bfloat16.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16(Avx512<Bf16>),
    /// AVX2 with FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// Plain Rust.
    Scalar,
}

impl Isa {
    /// The best that this processor has for floats.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(lanes) = <Avx512>::detect() {
            return Isa::Avx512(lanes);
        }
        Self::detect_without_avx512()
    }

    /// The best that this processor has, AVX-512 left aside.
    pub fn detect_without_avx512() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(lanes) = Avx2::detect() {
            return Isa::Avx2(lanes);
        }
        Isa::Scalar
    }

    /// The best that this processor has for pairs of bfloat16: AVX-512 with products of them, or plain Rust.
    pub fn detect_bfloat16() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(lanes) = Avx512::<Bf16>::detect() {
            return Isa::Avx512Bf16(lanes);
        }
        Isa::Scalar
    }

    /// All that this processor has, plain Rust first.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        let mut all = vec![Isa::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(Avx2::detect().map(Isa::Avx2));
            all.extend(<Avx512>::detect().map(Isa::Avx512));
            all.extend(Avx512::<Vnni>::detect().map(Isa::Avx512Vnni));
            all.extend(Avx512::<Bf16>::detect().map(Isa::Avx512Bf16));
        }
        all
    }

    /// The name of its registers: `avx512`, `avx2` or `scalar`.
    pub fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(_) | Isa::Avx512Vnni(_) | Isa::Avx512Bf16(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) => "avx2",
            Isa::Scalar => "scalar",
        }
    }

    /// Does `work` in code that is compiled for these lanes.
    pub fn run<W: Work>(self, work: W) -> W::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(lanes) => x86::run_avx512(lanes, work),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni(lanes) => x86::run_avx512(lanes.floats(), work),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16(lanes) => x86::run_avx512(lanes.floats(), work),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(lanes) => x86::run_avx2(lanes, work),
            Isa::Scalar => work.run(Scalar),
        }
    }
}

/// Something that is done on sixteen lanes.
pub trait Work {
    type Output;

    /// Does it. Implementations are `#[inline(always)]`, so that they are compiled for the features that S stands for.
    fn run<S: Simd>(self, lanes: S) -> Self::Output;
}

/// Sixteen-lane float arithmetic, as methods of a token.
pub trait Simd: Copy {
    /// Sixteen float32.
    type V: Copy;
    /// Whether there are registers for four [`Simd::V`] of each of six rows; else there are for one.
    const MANY_REGISTERS: bool;
    fn splat(self, x: f32) -> Self::V;
    /// Loads sixteen floats.
    ///
    /// # Safety
    /// The pointer is valid for them; it needs no alignment.
    unsafe fn read(self, p: *const f32) -> Self::V;
    /// Stores sixteen floats.
    ///
    /// # Safety
    /// As for [`Simd::read`].
    unsafe fn write(self, p: *mut f32, v: Self::V);
    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::V {
        // SAFETY: the array has sixteen floats.
        unsafe { self.read(from.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, to: &mut [f32; LANES], v: Self::V) {
        // SAFETY: the array has room for sixteen floats.
        unsafe { self.write(to.as_mut_ptr(), v) }
    }
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a · b + c`, rounded once.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Lanewise `a > b ? a : b`, so `b` where one of them is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// Lanes where `a < b` take `x`, the others `y`.
    fn select_lt(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// The largest lane; NaN counts as nothing.
    fn largest(self, v: Self::V) -> f32;
    /// 2ⁿ for the integer n that the addition of 1.5·2²³ left in the low bits of `t`; n in [-126, 127].
    fn exp2_from_shifted(self, t: Self::V) -> Self::V;
    /// `v` · 2ⁿ, n as there, for normal numbers whose product is one; NaN without a payload for such a NaN.
    fn scale_by_shifted(self, v: Self::V, t: Self::V) -> Self::V;
}

/// Lane numbers as floats, for masks.
pub const LANE_INDEX: [f32; LANES] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];

/// eˣ for x ≤ 0, within 2 ulp; exactly 0 below -87, exactly 1 at 0, NaN for NaN.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    const SHIFT: f32 = 12_582_912.0; // 1.5 · 2²³
    let floor = s.splat(-87.0);
    // In this order: of a NaN and a number, `max` gives the second.
    let clamped = s.max(floor, x);
    let t = s.fma(clamped, s.splat(std::f32::consts::LOG2_E), s.splat(SHIFT));
    let n = s.sub(t, s.splat(SHIFT));
    // x - n·ln 2 in two steps, ln 2 split into a short and a small part.
    let r = s.fma(n, s.splat(-0.693_145_75), clamped);
    let r = s.fma(n, s.splat(-1.428_606_8e-6), r);
    // Taylor's series to the sixth power: |r| ≤ 0.347, so the rest is below 1.3e-7 of the value.
    let mut p = s.splat(1.0 / 720.0);
    for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = s.fma(p, r, s.splat(c));
    }
    s.select_lt(x, floor, s.splat(0.0), s.mul(p, s.exp2_from_shifted(t)))
}

/// tanh x, within 4 ulp; NaN for NaN.
#[inline(always)]
pub fn tanh<S: Simd>(s: S, x: S::V) -> S::V {
    let (zero, one) = (s.splat(0.0), s.splat(1.0));
    // In this order: of a NaN and a number, `max` gives the second.
    let magnitude = s.max(s.sub(zero, x), x);
    // (1 − e) / (1 + e) with e = e^(−2|x|), which loses digits near 0.
    let e = exp(s, s.mul(s.splat(-2.0), magnitude));
    let far = s.div(s.sub(one, e), s.add(one, e));
    // There, Taylor's series to the thirteenth power: the rest is below 2e-9 of the value at 0.35.
    let square = s.mul(magnitude, magnitude);
    let mut p = s.splat(21_844.0 / 6_081_075.0);
    for c in [-1_382.0 / 155_925.0, 62.0 / 2_835.0, -17.0 / 315.0, 2.0 / 15.0, -1.0 / 3.0, 1.0] {
        p = s.fma(p, square, s.splat(c));
    }
    let near = s.mul(p, magnitude);
    let unsigned = s.select_lt(magnitude, s.splat(0.35), near, far);
    s.select_lt(x, zero, s.sub(zero, unsigned), unsigned)
}

/// Sum of the lanes, as a balanced tree.
#[inline(always)]
pub fn sum<S: Simd>(s: S, v: S::V) -> f32 {
    let mut lanes = [0.0; LANES];
    s.store(&mut lanes, v);
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
pub fn coarse_exp<S: Simd>(s: S, x: S::V) -> S::V {
    const SHIFT: f32 = 12_582_912.0; // 1.5 · 2²³
    // In this order: of a NaN and a number, `max` gives the second.
    let clamped = s.max(s.splat(-87.0), x);
    let log2 = s.splat(std::f32::consts::LOG2_E);
    let t = s.fma(clamped, log2, s.splat(SHIFT));
    let f = s.fma(clamped, log2, s.sub(s.splat(SHIFT), t));
    // 2ᶠ for |f| ≤ 1/2 by Taylor's series to the fourth power: the rest is below 4.2e-5 of the value.
    let mut p = s.splat(9.618_129e-3);
    for c in [5.550_411e-2, 0.240_226_5, std::f32::consts::LN_2, 1.0] {
        p = s.fma(p, f, s.splat(c));
    }
    s.mul(p, s.exp2_from_shifted(t))
}

/// 2ˣ within 2⁻¹³ of it for x < 127, for weights that become bytes; below -125, 2⁻¹²⁵. NaN for NaN without a payload.
#[inline(always)]
pub fn coarse_exp2<S: Simd>(s: S, x: S::V) -> S::V {
    const SHIFT: f32 = 12_582_912.0; // 1.5 · 2²³
    // In this order: of a NaN and a number, `max` gives the second.
    let clamped = s.max(s.splat(-125.0), x);
    let t = s.add(clamped, s.splat(SHIFT));
    let f = s.sub(clamped, s.sub(t, s.splat(SHIFT)));
    // 2ᶠ for |f| ≤ 1/2: the polynomial of the third degree whose largest relative error, 7.5e-5, is the smallest.
    let mut p = s.splat(0.055_171_67);
    for c in [0.242_611_12, 0.693_261, 0.999_928_06] {
        p = s.fma(p, f, s.splat(c));
    }
    s.scale_by_shifted(p, t)
}
