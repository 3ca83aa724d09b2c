//! Passes over a row of logits: a vocabulary's worth for every sampled token, so they are vectorised.
//!
//! Sums run in sixteen lanes, folded by a tree: the same bits on every processor.

use super::simd::{self, Isa, LANES, Simd};

/// The largest of a row; none where an element is NaN or +∞, or all are −∞.
pub fn largest(row: &[f32]) -> Option<f32> {
    on_this_processor(Largest { row })
}

/// Σ e^((x − max) · scale) over a row; no x may be above `max`.
pub fn exp_sum(row: &[f32], max: f32, scale: f32) -> f32 {
    on_this_processor(Exp { from: row.as_ptr(), to: None, len: row.len(), max, scale })
}

/// As [`exp_sum`], leaving the summands in `to`.
pub fn exp_into(row: &[f32], to: &mut Vec<f32>, max: f32, scale: f32) -> f32 {
    to.resize(row.len(), 0.0);
    on_this_processor(Exp { from: row.as_ptr(), to: Some(to.as_mut_ptr()), len: row.len(), max, scale })
}

/// As [`exp_sum`], each x giving way to its summand.
pub fn exp_row(row: &mut [f32], max: f32, scale: f32) -> f32 {
    let place = row.as_mut_ptr();
    on_this_processor(Exp { from: place, to: Some(place), len: row.len(), max, scale })
}

/// Something done in sixteen lanes.
trait Pass {
    type Output;

    /// # Safety
    /// The caller was compiled for the processor features that `S` stands for.
    unsafe fn run<S: Simd>(self) -> Self::Output;
}

fn on_this_processor<P: Pass>(pass: P) -> P::Output {
    // SAFETY: the instruction set was detected on this processor.
    unsafe {
        match Isa::detect() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => on_avx512(pass),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => on_avx2(pass),
            Isa::Scalar => pass.run::<simd::Scalar>(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn on_avx512<P: Pass>(pass: P) -> P::Output {
    // SAFETY: compiled for the features that Avx512 stands for.
    unsafe { pass.run::<simd::x86::Avx512>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn on_avx2<P: Pass>(pass: P) -> P::Output {
    // SAFETY: compiled for the features that Avx2 stands for.
    unsafe { pass.run::<simd::x86::Avx2>() }
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

impl Pass for Largest<'_> {
    type Output = Option<f32>;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> Option<f32> {
        let chunks = self.row.chunks_exact(LANES);
        let rest = padded(chunks.remainder());
        // SAFETY: the caller compiled for S; chunks and the padded rest hold sixteen floats.
        unsafe {
            let (zero, one, infinity) = (S::splat(0.0), S::splat(1.0), S::splat(f32::INFINITY));
            let (mut max, mut unusable) = (S::splat(f32::NEG_INFINITY), zero);
            for chunk in chunks.map(<[f32]>::as_ptr).chain([rest.as_ptr()]) {
                let x = S::load(chunk);
                max = S::max(max, x);
                // NaN is not below infinity either; a maximum skips it, so it is looked for by itself.
                unusable = S::max(unusable, S::select_lt(x, infinity, zero, one));
            }
            let max = S::largest(max);
            (S::largest(unusable) == 0.0 && max.is_finite()).then_some(max)
        }
    }
}

/// e^((x − max) · scale). A function, because a closure is compiled without the processor features of the pass, and then
/// every operation in it is a call.
#[inline(always)]
unsafe fn weigh<S: Simd>(x: S::V, max: S::V, scale: S::V) -> S::V {
    // SAFETY: the caller compiled for S.
    unsafe { simd::exp::<S>(S::mul(S::sub(x, max), scale)) }
}

/// `from` and `to` hold `len` floats; they may be the same.
struct Exp {
    from: *const f32,
    to: Option<*mut f32>,
    len: usize,
    max: f32,
    scale: f32,
}

impl Pass for Exp {
    type Output = f32;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> f32 {
        let Exp { from, to, len, max, scale } = self;
        let whole = len - len % LANES;
        // SAFETY: the caller compiled for S; all places are below `len`, and the padded rest holds sixteen floats.
        unsafe {
            let (max, scale) = (S::splat(max), S::splat(scale));
            let mut total = S::splat(0.0);
            for at in (0..whole).step_by(LANES) {
                let weights = weigh::<S>(S::load(from.add(at)), max, scale);
                if let Some(to) = to {
                    S::store(to.add(at), weights);
                }
                total = S::add(total, weights);
            }
            let mut rest = padded(std::slice::from_raw_parts(from.add(whole), len - whole));
            let weights = weigh::<S>(S::load(rest.as_ptr()), max, scale);
            S::store(rest.as_mut_ptr(), weights);
            if let Some(to) = to {
                std::ptr::copy_nonoverlapping(rest.as_ptr(), to.add(whole), len - whole);
            }
            simd::sum::<S>(S::add(total, weights))
        }
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
            let mut scalar = row.clone();
            let place = scalar.as_mut_ptr();
            let pass = Exp { from: place, to: Some(place), len: row.len(), max, scale };
            // SAFETY: Scalar needs no processor features; the row is its own place.
            let scalar_sum = unsafe { pass.run::<simd::Scalar>() };
            prop_assert_eq!(weights, scalar);
            prop_assert_eq!(sum.to_bits(), scalar_sum.to_bits());
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
