//! Passes over a row of logits, vectorised, because each sampled token takes some over the whole vocabulary.
//!
//! Sums run in sixteen lanes, and a tree folds them. So every processor gives the same bits.

use super::simd::{self, Isa, LANES, Simd, Work};

/// The largest of a row; none where an element is NaN or +∞, or all are −∞.
pub fn largest(row: &[f32]) -> Option<f32> {
    Isa::detect().run(Largest { row })
}

/// Σ e^((x − max) · scale) over a row; no x may be above `max`.
pub fn exp_sum(row: &[f32], max: f32, scale: f32) -> f32 {
    Isa::detect().run(ExpSum { row, max, scale })
}

/// As [`exp_sum`], leaving the summands in `to`.
pub fn exp_into(row: &[f32], to: &mut Vec<f32>, max: f32, scale: f32) -> f32 {
    to.resize(row.len(), 0.0);
    Isa::detect().run(ExpInto { row, to, max, scale })
}

/// As [`exp_sum`], each x giving way to its summand.
pub fn exp_row(row: &mut [f32], max: f32, scale: f32) -> f32 {
    Isa::detect().run(ExpRow { row, max, scale })
}

/// The last elements of a row, filled up with −∞, which neither a maximum nor a sum of exponentials notices.
fn padded(rest: &[f32]) -> [f32; LANES] {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    lanes[..rest.len()].copy_from_slice(rest);
    lanes
}

struct Largest<'a> {
    row: &'a [f32],
}

impl Work for Largest<'_> {
    type Output = Option<f32>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Option<f32> {
        let (chunks, rest) = self.row.as_chunks::<LANES>();
        let (zero, one, infinity) = (s.splat(0.0), s.splat(1.0), s.splat(f32::INFINITY));
        let (mut max, mut unusable) = (s.splat(f32::NEG_INFINITY), zero);
        for chunk in chunks.iter().chain([&padded(rest)]) {
            let x = s.load(chunk);
            max = s.max(max, x);
            // NaN is not below infinity either; a maximum skips it, so it is looked for by itself.
            unusable = s.max(unusable, s.select_lt(x, infinity, zero, one));
        }
        let max = s.largest(max);
        (s.largest(unusable) == 0.0 && max.is_finite()).then_some(max)
    }
}

/// e^((x − max) · scale). A function, because a closure is compiled without the processor features of the pass, and then
/// every operation in it is a call.
#[inline(always)]
fn weigh<S: Simd>(s: S, x: S::V, max: S::V, scale: S::V) -> S::V {
    simd::exp(s, s.mul(s.sub(x, max), scale))
}

/// The last elements of a row, weighed, and as numbers; there are as many as the row has.
#[inline(always)]
fn weigh_last<S: Simd>(s: S, rest: &[f32], max: S::V, scale: S::V) -> (S::V, [f32; LANES]) {
    let mut last = padded(rest);
    let weights = weigh(s, s.load(&last), max, scale);
    s.store(&mut last, weights);
    (weights, last)
}

struct ExpSum<'a> {
    row: &'a [f32],
    max: f32,
    scale: f32,
}

impl Work for ExpSum<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let (chunks, rest) = self.row.as_chunks::<LANES>();
        let (max, scale) = (s.splat(self.max), s.splat(self.scale));
        let mut total = s.splat(0.0);
        for chunk in chunks {
            total = s.add(total, weigh(s, s.load(chunk), max, scale));
        }
        simd::sum(s, s.add(total, weigh(s, s.load(&padded(rest)), max, scale)))
    }
}

struct ExpInto<'a> {
    row: &'a [f32],
    /// As long as the row.
    to: &'a mut [f32],
    max: f32,
    scale: f32,
}

impl Work for ExpInto<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let (chunks, rest) = self.row.as_chunks::<LANES>();
        let (to, to_rest) = self.to.as_chunks_mut::<LANES>();
        let (max, scale) = (s.splat(self.max), s.splat(self.scale));
        let mut total = s.splat(0.0);
        for (chunk, to) in chunks.iter().zip(to) {
            let weights = weigh(s, s.load(chunk), max, scale);
            s.store(to, weights);
            total = s.add(total, weights);
        }
        let (weights, last) = weigh_last(s, rest, max, scale);
        to_rest.copy_from_slice(&last[..rest.len()]);
        simd::sum(s, s.add(total, weights))
    }
}

struct ExpRow<'a> {
    row: &'a mut [f32],
    max: f32,
    scale: f32,
}

impl Work for ExpRow<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let (chunks, rest) = self.row.as_chunks_mut::<LANES>();
        let (max, scale) = (s.splat(self.max), s.splat(self.scale));
        let mut total = s.splat(0.0);
        for chunk in chunks {
            let weights = weigh(s, s.load(chunk), max, scale);
            s.store(chunk, weights);
            total = s.add(total, weights);
        }
        let (weights, last) = weigh_last(s, rest, max, scale);
        rest.copy_from_slice(&last[..rest.len()]);
        simd::sum(s, s.add(total, weights))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_the_standard_library_and_between_processors(row in prop::collection::vec(-90f32..10.0, 1..100), scale in 0.1f32..1.0) {
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut weights = row.clone();
            let sum = exp_row(&mut weights, max, scale);
            for (x, w) in row.iter().zip(&weights) {
                let want = (f64::from((x - max) * scale)).exp();
                prop_assert!((f64::from(*w) - want).abs() <= 3e-7 * want + 1e-37, "{} is not {}", w, want);
            }
            let want: f64 = weights.iter().map(|&w| f64::from(w)).sum();
            prop_assert!((f64::from(sum) - want).abs() < 1e-5 * want);
            prop_assert_eq!(sum.to_bits(), exp_sum(&row, max, scale).to_bits());
            let mut copied = vec![7.0; 3];
            prop_assert_eq!(sum.to_bits(), exp_into(&row, &mut copied, max, scale).to_bits());
            prop_assert_eq!(&weights, &copied);
            for isa in Isa::all() {
                let mut here = row.clone();
                let here_sum = isa.run(ExpRow { row: &mut here, max, scale });
                prop_assert_eq!(&weights, &here, "{:?}", isa);
                prop_assert_eq!(sum.to_bits(), here_sum.to_bits(), "{:?}", isa);
            }
        }

        #[test]
        fn the_largest_is_found_wherever_it_is(mut row in prop::collection::vec(-90f32..10.0, 1..100), at: prop::sample::Index) {
            prop_assert_eq!(largest(&row), row.iter().copied().reduce(f32::max));
            for bad in [f32::NAN, f32::INFINITY] {
                let at = at.index(row.len());
                row[at] = bad;
                prop_assert_eq!(largest(&row), None);
                row[at] = f32::NEG_INFINITY;
            }
        }
    }
}
