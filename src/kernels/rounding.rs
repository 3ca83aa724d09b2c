//! Numbers into bytes, as products of them take them: mixed, so that none stands out, and rounded by a scale of their own.

#![allow(
    clippy::needless_range_loop,
    reason = "iterators take closures, which may be compiled without the processor's features"
)]

use super::dot::{Dot, best_isa};
use super::simd::{self, Isa, LANES, Simd};

/// Numbers of [`mix_block`].
pub const MIXED: usize = 4 * LANES;

/// Walsh and Hadamard's transform of 64 numbers, without its factor of an eighth.
#[inline(always)]
pub unsafe fn mix_block<S: Dot>([a, b, c, d]: [S::V; 4]) -> [S::V; 4] {
    // SAFETY: the caller compiled for S.
    unsafe {
        let (a, b, c, d) = (S::mix(a), S::mix(b), S::mix(c), S::mix(d));
        let (a, b, c, d) = (S::add(a, b), S::sub(a, b), S::add(c, d), S::sub(c, d));
        [S::add(a, c), S::add(b, d), S::sub(a, c), S::sub(b, d)]
    }
}

/// Sixteen numbers in each of N registers.
#[inline(always)]
pub unsafe fn load<S: Simd, const N: usize>(from: *const f32) -> [S::V; N] {
    // SAFETY: 16 · N floats.
    unsafe {
        let mut v = [S::splat(0.0); N];
        for i in 0..N {
            v[i] = S::load(from.add(i * LANES));
        }
        v
    }
}

/// What a block of numbers needs to be rounded.
struct Size<S: Simd> {
    largest: S::V,
    /// NaN where a number is not finite.
    damage: S::V,
}

impl<S: Dot> Size<S> {
    #[inline(always)]
    unsafe fn of_nothing() -> Self {
        // SAFETY: the caller compiled for S.
        unsafe { Size { largest: S::splat(0.0), damage: S::splat(0.0) } }
    }

    #[inline(always)]
    unsafe fn take(&mut self, x: S::V) {
        // SAFETY: the caller compiled for S.
        unsafe {
            let zero = S::splat(0.0);
            // |x|, in this order: of a NaN and a number, `max` gives the second.
            self.largest = S::max(S::max(S::sub(zero, x), x), self.largest);
            // Bytes know neither NaN nor infinity, so the scale carries them: x · 0 is NaN for both.
            self.damage = S::fma(x, zero, self.damage);
        }
    }

    /// The scale, NaN where a number is not finite, and its inverse.
    #[inline(always)]
    unsafe fn scale(self) -> (f32, S::V) {
        // SAFETY: the caller compiled for S.
        unsafe {
            let largest = S::largest(self.largest);
            // Numbers next to nothing are nothing: their scale would have no finite inverse.
            let usable = largest > 1e-30;
            let (scale, inverse) = if usable { (largest / 127.0, 127.0 / largest) } else { (0.0, 0.0) };
            (if S::has_nan(self.damage) { f32::NAN } else { scale }, S::splat(inverse))
        }
    }
}

/// Rounds K blocks of numbers, each in an even number of registers, to bytes at `to`, each by a scale of its own; returns
/// the scales, NaN where a number is not finite, and the sums of the bytes. A block is a long chain, in which a processor
/// does not look far enough ahead for the next.
#[inline(always)]
pub unsafe fn round<S: Dot, const N: usize, const K: usize>(
    values: [[S::V; N]; K],
    to: [*mut i8; K],
) -> [(f32, i32); K] {
    // SAFETY: there is room for the bytes; the caller compiled for S.
    unsafe {
        let mut scales = [(0.0, S::splat(0.0)); K];
        for k in 0..K {
            let mut size = Size::<S>::of_nothing();
            for i in 0..N {
                size.take(values[k][i]);
            }
            scales[k] = size.scale();
        }
        let mut rounded = [(0.0, 0); K];
        for k in 0..K {
            let (scale, inverse) = scales[k];
            let mut sums = S::splat_sum(0);
            for i in (0..N).step_by(2) {
                let (low, high) = (S::mul(values[k][i], inverse), S::mul(values[k][i + 1], inverse));
                sums = S::add_sums(sums, S::store_bytes(to[k].add(i * LANES), low, high));
            }
            rounded[k] = (scale, S::total(sums));
        }
        rounded
    }
}

/// As [`round`], numbers in memory, a multiple of 32.
#[inline(always)]
pub unsafe fn round_all<S: Dot>(values: &[f32], to: *mut i8) -> (f32, i32) {
    // SAFETY: there is room for the bytes; the caller compiled for S.
    unsafe {
        let from = values.as_ptr();
        let mut size = Size::<S>::of_nothing();
        for at in (0..values.len()).step_by(LANES) {
            size.take(S::load(from.add(at)));
        }
        let (scale, inverse) = size.scale();
        let mut sums = S::splat_sum(0);
        for at in (0..values.len()).step_by(2 * LANES) {
            let (low, high) = (S::load(from.add(at)), S::load(from.add(at + LANES)));
            sums = S::add_sums(sums, S::store_bytes(to.add(at), S::mul(low, inverse), S::mul(high, inverse)));
        }
        (scale, S::total(sums))
    }
}

/// Mixes 64 weights and rounds them to bytes, on whatever the processor has. Returns the scale that makes products with
/// mixed inputs those of weights and inputs.
pub fn round_mixed(values: &[f32; MIXED], to: &mut [i8; MIXED]) -> f32 {
    #[inline(always)]
    unsafe fn on<S: Dot>(values: &[f32; MIXED], to: &mut [i8; MIXED]) -> f32 {
        // SAFETY: the caller compiled for S.
        unsafe {
            round::<S, 4, 1>([mix_block::<S>(load::<S, 4>(values.as_ptr()))], [to.as_mut_ptr()])[0].0 / MIXED as f32
        }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn on_avx512(values: &[f32; MIXED], to: &mut [i8; MIXED]) -> f32 {
        // SAFETY: compiled for the features that Avx512 stands for, with its products of bytes.
        unsafe { on::<simd::x86::Avx512>(values, to) }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn on_avx2(values: &[f32; MIXED], to: &mut [i8; MIXED]) -> f32 {
        // SAFETY: compiled for the features that Avx2 stands for.
        unsafe { on::<simd::x86::Avx2>(values, to) }
    }
    // SAFETY: the instruction set was detected.
    unsafe {
        match best_isa() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => on_avx512(values, to),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => on_avx2(values, to),
            Isa::Scalar => on::<simd::Scalar>(values, to),
        }
    }
}
