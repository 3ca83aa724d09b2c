//! Numbers into bytes, for products of bytes: mixed, so that none stands out, and rounded by a scale of their own.

use super::dot::{ByteWork, Dot, best_isa};
use super::simd::{LANES, Simd};

/// Numbers of [`mix_block`].
pub const MIXED: usize = 4 * LANES;

/// Walsh and Hadamard's transform of 64 numbers, without its factor of an eighth.
#[inline(always)]
pub fn mix_block<S: Dot>(s: S, [a, b, c, d]: [S::V; 4]) -> [S::V; 4] {
    let (a, b, c, d) = (s.mix(a), s.mix(b), s.mix(c), s.mix(d));
    let (a, b, c, d) = (s.add(a, b), s.sub(a, b), s.add(c, d), s.sub(c, d));
    [s.add(a, c), s.add(b, d), s.sub(a, c), s.sub(b, d)]
}

/// Sixteen numbers in each of N registers.
#[inline(always)]
pub fn load<S: Simd, const N: usize>(s: S, from: &[[f32; LANES]; N]) -> [S::V; N] {
    let mut v = [s.splat(0.0); N];
    for (v, from) in v.iter_mut().zip(from) {
        *v = s.load(from);
    }
    v
}

/// What a block of numbers needs to be rounded.
struct Size<S: Simd> {
    largest: S::V,
    /// NaN where a number is not finite.
    damage: S::V,
}

impl<S: Dot> Size<S> {
    #[inline(always)]
    fn of_nothing(s: S) -> Self {
        Size { largest: s.splat(0.0), damage: s.splat(0.0) }
    }

    #[inline(always)]
    fn take(&mut self, s: S, x: S::V) {
        let zero = s.splat(0.0);
        // |x|, in this order: of a NaN and a number, `max` gives the second.
        self.largest = s.max(s.max(s.sub(zero, x), x), self.largest);
        // Bytes know neither NaN nor infinity, so the scale carries them: x · 0 is NaN for both.
        self.damage = s.fma(x, zero, self.damage);
    }

    /// The scale, NaN where a number is not finite, and its inverse.
    #[inline(always)]
    fn scale(self, s: S) -> (f32, S::V) {
        let largest = s.largest(self.largest);
        // Numbers next to nothing are nothing: their scale would have no finite inverse.
        let usable = largest > 1e-30;
        let (scale, inverse) = if usable { (largest / 127.0, 127.0 / largest) } else { (0.0, 0.0) };
        (if s.has_nan(self.damage) { f32::NAN } else { scale }, s.splat(inverse))
    }
}

/// Rounds K blocks of numbers, each in an even number of registers, to bytes, each by a scale of its own; returns the
/// scales, NaN where a number is not finite, and the sums of the bytes. A block is a long chain, in which a processor does
/// not look far enough ahead for the next.
#[inline(always)]
pub fn round<S: Dot, const N: usize, const B: usize, const K: usize>(
    s: S,
    values: [[S::V; N]; K],
    to: [&mut [i8; B]; K],
) -> [(f32, i32); K] {
    const { assert!(B == N * LANES && N.is_multiple_of(2), "a byte for each number, and pairs of registers") };
    let mut scales = [(0.0, s.splat(0.0)); K];
    for (scale, values) in scales.iter_mut().zip(&values) {
        let mut size = Size::<S>::of_nothing(s);
        for x in values {
            size.take(s, *x);
        }
        *scale = size.scale(s);
    }
    let mut rounded = [(0.0, 0); K];
    for (((rounded, values), &(scale, inverse)), to) in rounded.iter_mut().zip(&values).zip(&scales).zip(to) {
        let mut sums = s.splat_sum(0);
        for ([low, high], to) in values.as_chunks::<2>().0.iter().zip(to.as_chunks_mut().0) {
            sums = s.add_sums(sums, s.store_bytes(to, s.mul(*low, inverse), s.mul(*high, inverse)));
        }
        *rounded = (scale, s.total(sums));
    }
    rounded
}

/// As [`round`], numbers in memory.
#[inline(always)]
pub fn round_all<S: Dot>(s: S, values: &[[f32; 2 * LANES]], to: &mut [[i8; 2 * LANES]]) -> (f32, i32) {
    let mut size = Size::<S>::of_nothing(s);
    for x in values.as_flattened().as_chunks().0 {
        size.take(s, s.load(x));
    }
    let (scale, inverse) = size.scale(s);
    let mut sums = s.splat_sum(0);
    for (pair, to) in values.iter().zip(to) {
        let [low, high] = load(s, pair.as_chunks().0.first_chunk::<2>().expect("two halves"));
        sums = s.add_sums(sums, s.store_bytes(to, s.mul(low, inverse), s.mul(high, inverse)));
    }
    (scale, s.total(sums))
}

/// Mixes 64 weights and rounds them to bytes, on whatever the processor has. Returns the scale that makes products with
/// mixed inputs those of weights and inputs.
pub fn round_mixed(values: &[f32; MIXED], to: &mut [i8; MIXED]) -> f32 {
    best_isa().run_bytes(RoundMixed { values, to })
}

struct RoundMixed<'a> {
    values: &'a [f32; MIXED],
    to: &'a mut [i8; MIXED],
}

impl ByteWork for RoundMixed<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Dot>(self, s: S) -> f32 {
        let [(scale, _)] = round(s, [mix_block(s, load(s, registers(self.values)))], [self.to]);
        scale / MIXED as f32
    }
}

/// A block of B numbers as N times sixteen.
#[inline(always)]
pub fn registers<const B: usize, const N: usize>(block: &[f32; B]) -> &[[f32; LANES]; N] {
    const { assert!(B == N * LANES, "a block fills registers") };
    block.as_chunks().0.first_chunk().expect("as long as the block")
}
