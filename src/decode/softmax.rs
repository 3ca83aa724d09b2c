//! Exponentials over a row of logits: a vocabulary's worth for every sampled token, so they are vectorised.

use super::attention::kernel::Isa;
use super::attention::simd::{self, LANES, Simd};

/// Replaces each x of `row` by e^((x − max) · scale) and returns the sum; no x may be above `max`.
///
/// Sixteen running sums, folded by a tree: the same bits on every processor.
pub(crate) fn exp_row(row: &mut [f32], max: f32, scale: f32) -> f32 {
    // SAFETY: the instruction set was detected on this processor.
    unsafe {
        match Isa::detect() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => exp_row_avx512(row, max, scale),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => exp_row_avx2(row, max, scale),
            Isa::Scalar => exp_row_on::<simd::Scalar>(row, max, scale),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn exp_row_avx512(row: &mut [f32], max: f32, scale: f32) -> f32 {
    // SAFETY: compiled for the features that Avx512 stands for.
    unsafe { exp_row_on::<simd::x86::Avx512>(row, max, scale) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn exp_row_avx2(row: &mut [f32], max: f32, scale: f32) -> f32 {
    // SAFETY: compiled for the features that Avx2 stands for.
    unsafe { exp_row_on::<simd::x86::Avx2>(row, max, scale) }
}

#[inline(always)]
unsafe fn exp_row_on<S: Simd>(row: &mut [f32], max: f32, scale: f32) -> f32 {
    let mut chunks = row.chunks_exact_mut(LANES);
    // SAFETY: the caller compiled for S; chunks and the padded rest hold sixteen floats.
    unsafe {
        let weigh = |x| simd::exp::<S>(S::mul(S::sub(x, S::splat(max)), S::splat(scale)));
        let mut total = S::splat(0.0);
        for chunk in &mut chunks {
            let weights = weigh(S::load(chunk.as_ptr()));
            S::store(chunk.as_mut_ptr(), weights);
            total = S::add(total, weights);
        }
        let rest = chunks.into_remainder();
        let mut padded = [f32::NEG_INFINITY; LANES];
        padded[..rest.len()].copy_from_slice(rest);
        let weights = weigh(S::load(padded.as_ptr()));
        S::store(padded.as_mut_ptr(), weights);
        rest.copy_from_slice(&padded[..rest.len()]);
        simd::sum::<S>(S::add(total, weights))
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
            let mut scalar = row;
            // SAFETY: Scalar needs no processor features.
            let scalar_sum = unsafe { exp_row_on::<simd::Scalar>(&mut scalar, max, scale) };
            prop_assert_eq!(weights, scalar);
            prop_assert_eq!(sum.to_bits(), scalar_sum.to_bits());
        }
    }
}
