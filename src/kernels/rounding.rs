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

/// Mixes 64 weights and rounds them to bytes. Returns the scale that makes products with mixed inputs those of weights and
/// inputs.
#[inline(always)]
pub fn round_mixed<S: Dot>(s: S, values: [S::V; 4], to: &mut [i8; MIXED]) -> f32 {
    let [(scale, _)] = round(s, [mix_block(s, values)], [to]);
    scale / MIXED as f32
}

/// Rounds a row of numbers to bytes in blocks of `block`, a multiple of 32, on whatever the processor has. A block has a
/// scale, which is stored as little-endian float32: number ≈ scale · (byte - 128). The largest number is 127 steps away from
/// 128, as in ggml's Q8_0. A block whose scale is too small to have an inverse is zero.
pub fn round_row(values: &[f32], block: usize, scales: &mut [u8], bytes: &mut [u8]) {
    best_isa().run_bytes(RoundRow { values, block, scales, bytes });
}

struct RoundRow<'a> {
    values: &'a [f32],
    block: usize,
    scales: &'a mut [u8],
    bytes: &'a mut [u8],
}

impl ByteWork for RoundRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Dot>(self, s: S) {
        let middle = s.splat(128.0);
        let pairs = self.block / (2 * LANES);
        let blocks = self.values.as_chunks::<{ 2 * LANES }>().0.chunks_exact(pairs);
        let bytes = self.bytes.as_chunks_mut::<{ 2 * LANES }>().0.chunks_exact_mut(pairs);
        for ((values, to), stored) in blocks.zip(bytes).zip(self.scales.as_chunks_mut().0) {
            let mut size = Size::<S>::of_nothing(s);
            for x in values.as_flattened().as_chunks().0 {
                size.take(s, s.load(x));
            }
            let scale = s.largest(size.largest) / 127.0;
            let inverse = scale.recip();
            let (scale, inverse) = if inverse.is_finite() { (scale, inverse) } else { (0.0, 0.0) };
            *stored = scale.to_le_bytes();
            let inverse = s.splat(inverse);
            for (pair, to) in values.iter().zip(to) {
                let [low, high] = load(s, pair.as_chunks().0.first_chunk::<2>().expect("two halves"));
                // Not fused, because files are to have the bits of ggml's own rounding.
                s.store_unsigned(to, s.add(s.mul(low, inverse), middle), s.add(s.mul(high, inverse), middle));
            }
        }
    }
}

/// A block of B numbers as N times sixteen.
#[inline(always)]
pub fn registers<const B: usize, const N: usize>(block: &[f32; B]) -> &[[f32; LANES]; N] {
    const { assert!(B == N * LANES, "a block fills registers") };
    block.as_chunks().0.first_chunk().expect("as long as the block")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::simd::Isa;

    /// ggml's Q8_0 in plain words, moved up by 128.
    fn plain(values: &[f32], block: usize) -> (Vec<u8>, Vec<u8>) {
        let (mut scales, mut bytes) = (Vec::new(), Vec::new());
        for values in values.chunks(block) {
            let largest = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
            let scale = largest / 127.0;
            let inverse = if scale == 0.0 { 0.0 } else { scale.recip() };
            scales.extend(scale.to_le_bytes());
            bytes.extend(values.iter().map(|value| (value * inverse + 128.0).round_ties_even() as u8));
        }
        (scales, bytes)
    }

    fn rounded(isa: Isa, values: &[f32], block: usize) -> (Vec<u8>, Vec<u8>) {
        let (mut scales, mut bytes) = (vec![0; values.len() / block * 4], vec![0; values.len()]);
        isa.run_bytes(RoundRow { values, block, scales: &mut scales, bytes: &mut bytes });
        (scales, bytes)
    }

    proptest! {
        #[test]
        fn rows_are_rounded_alike_on_every_processor(
            values in prop::collection::vec(-1e3f32..1e3, 512), factor in 1e-30f32..1e30, doubled in 0..4u32,
        ) {
            let values: Vec<f32> = values.iter().map(|value| value * factor).collect();
            let block = 32 << doubled;
            let wanted = plain(&values, block);
            for isa in Isa::all() {
                prop_assert_eq!(&rounded(isa, &values, block), &wanted, "{:?}", isa);
            }
        }
    }

    #[test]
    fn eight_bits_are_within_half_a_step() {
        let bits = (0..32_u32).map(|at| (at + 1).wrapping_mul(2_654_435_761) >> 8);
        let values: Vec<f32> = bits.map(|bits| bits as f32 / (1 << 24) as f32 - 0.4).collect();
        for isa in Isa::all() {
            let (scale, bytes) = rounded(isa, &values, 32);
            let scale = f32::from_le_bytes(*scale.first_chunk().expect("a scale"));
            for (value, byte) in values.iter().zip(bytes) {
                let restored = scale * (f32::from(byte) - 128.0);
                assert!((value - restored).abs() <= 0.5001 * scale, "{isa:?}: {value} became {restored}");
            }
        }
    }

    #[test]
    fn ties_extremes_and_next_to_nothing() {
        // With a scale of 1, halves are ties.
        let mut values: Vec<f32> = (0..32_u8).map(|at| f32::from(at) * 8.0 - 127.5).collect();
        values[..2].copy_from_slice(&[127.0, -127.0]);
        let tiny = [[0.0; 32], [1e-37; 32], [1e-45; 32]].concat();
        for isa in Isa::all() {
            assert_eq!(rounded(isa, &values, 32), plain(&values, 32), "{isa:?}");
            let (scales, bytes) = rounded(isa, &tiny, 32);
            assert_eq!((scales, bytes), (vec![0; 12], vec![128; 96]), "{isa:?}: values that no scale can divide");
        }
    }
}
