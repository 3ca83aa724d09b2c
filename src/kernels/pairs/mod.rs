//! Products of pairs of bfloat16, added up in float32.
//!
//! A pair's second product is added first, and each addition rounds once, as AVX-512 BF16 does it. Elsewhere a pair takes
//! two steps of float32, for which its halves are widened in registers. All processors give the same bits, unless a sum
//! or a product is smaller than the smallest normal number (2⁻¹²⁶): AVX-512 BF16 makes zeros of those.

mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

use half::bf16;

use crate::simd::{Isa, Scalar, Simd};

impl Isa {
    /// The best that this processor has for products with weights in bfloat16.
    pub fn detect_pairs() -> Self {
        match Isa::detect_bfloat16() {
            Isa::Scalar => Isa::detect(),
            pairs => pairs,
        }
    }

    /// Does `work` in code that is compiled for these lanes and their products of pairs.
    pub fn run_pairs<W: PairWork>(self, work: W) -> W::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16(lanes) => x86::run_bf16(lanes, work),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(lanes) => x86::run_avx512(lanes, work),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni(lanes) => x86::run_avx512(lanes.floats(), work),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(lanes) => x86::run_avx2(lanes, work),
            Isa::Scalar => work.run(Scalar),
        }
    }
}

/// Something that is done on sixteen lanes with products of pairs.
pub trait PairWork {
    type Output;

    /// Does it. As [`Work::run`](crate::simd::Work::run), implementations are `#[inline(always)]`.
    fn run<S: Pairs>(self, lanes: S) -> Self::Output;
}

/// Sums of products of pairs, beside the float lanes of [`Simd`].
///
/// # Safety
/// Pointers need no alignment. What they are read or written for, they are valid for.
pub trait Pairs: Simd {
    /// Steps that multiply a pair.
    const STEPS: usize;
    /// What one step multiplies by, for sixteen columns.
    type Weights: Copy;
    /// What one step multiplies, for all columns.
    type Inputs: Copy;
    /// An input, rounded to bfloat16, as it is stored: a bfloat16, or the float32 of the same value, which is quicker to
    /// read where there are no products of pairs.
    type Number: Copy;
    /// What step `step` takes of sixteen pairs, one a column.
    unsafe fn pair_weights(self, p: *const bf16, step: usize) -> Self::Weights;
    /// What step `step` takes of one pair.
    unsafe fn pair_inputs(self, p: *const Self::Number, step: usize) -> Self::Inputs;
    /// `sums + weights · inputs`, column by column.
    fn dot_pairs(self, sums: Self::V, weights: Self::Weights, inputs: Self::Inputs) -> Self::V;
    /// Rounds sixteen numbers to the nearest bfloat16, ties to even, and stores them. Those below 2⁻¹²⁶ become zeros.
    unsafe fn store_numbers(self, to: *mut Self::Number, v: Self::V);
}

/// `x` in bfloat16 as the kernels round it: to nearest, ties to even, and zero below 2⁻¹²⁶.
pub fn round(x: f32) -> bf16 {
    match x.abs() < f32::MIN_POSITIVE {
        true => bf16::from_bits((x.to_bits() >> 16) as u16 & 0x8000),
        false => bf16::from_f32(x),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::LANES;

    /// Sums of products of sixteen columns, pair by pair.
    struct Sum<'a> {
        weights: &'a [[bf16; 2 * LANES]],
        inputs: &'a [[f32; LANES]],
    }

    impl PairWork for Sum<'_> {
        type Output = [f32; LANES];

        #[inline(always)]
        fn run<S: Pairs>(self, s: S) -> Self::Output {
            let mut sums = s.splat(0.0);
            for (weights, inputs) in self.weights.chunks(LANES / 2).zip(self.inputs) {
                // As long as sixteen of the largest.
                let mut numbers = [0.0f32; LANES];
                let numbers = numbers.as_mut_ptr().cast::<S::Number>();
                // SAFETY: there is room for sixteen numbers, of which each pair is read, and weights hold sixteen pairs.
                unsafe {
                    s.store_numbers(numbers, s.load(inputs));
                    for (k, weights) in weights.iter().enumerate() {
                        for step in 0..S::STEPS {
                            let weights = s.pair_weights(weights.as_ptr(), step);
                            sums = s.dot_pairs(sums, weights, s.pair_inputs(numbers.add(2 * k), step));
                        }
                    }
                }
            }
            let mut found = [0.0; LANES];
            s.store(&mut found, sums);
            found
        }
    }

    #[test]
    fn every_processor_adds_pairs_in_the_same_order() {
        let mut state = 1_u32;
        let mut number = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Of many sizes, so that every order gives another sum.
            f32::from_bits((state >> 1 & 0x80ff_ffff) | (110 + (state >> 8 & 15)) << 23 | (state & 1) << 31)
        };
        let inputs: Vec<[f32; LANES]> = (0..9).map(|_| std::array::from_fn(|_| number())).collect();
        let weights: Vec<[bf16; 2 * LANES]> =
            (0..9 * LANES / 2).map(|_| std::array::from_fn(|_| round(number()))).collect();
        let mut expected = [0.0f32; LANES];
        let rounded: Vec<f32> = inputs.as_flattened().iter().map(|x| round(*x).to_f32()).collect();
        for (pair, weights) in rounded.as_chunks::<2>().0.iter().zip(&weights) {
            for (sum, weights) in expected.iter_mut().zip(weights.as_chunks::<2>().0) {
                *sum = pair[1].mul_add(weights[1].to_f32(), *sum);
                *sum = pair[0].mul_add(weights[0].to_f32(), *sum);
            }
        }
        for isa in Isa::all() {
            assert_eq!(isa.run_pairs(Sum { weights: &weights, inputs: &inputs }), expected, "{isa:?}");
        }
    }

    /// Sixteen numbers as they are stored, widened again.
    struct Rounded([f32; LANES]);

    impl PairWork for Rounded {
        type Output = [u32; LANES];

        #[inline(always)]
        fn run<S: Pairs>(self, s: S) -> Self::Output {
            let mut numbers = [0.0f32; LANES];
            // SAFETY: there is room for sixteen numbers.
            unsafe { s.store_numbers(numbers.as_mut_ptr().cast(), s.load(&self.0)) };
            match size_of::<S::Number>() {
                2 => {
                    // SAFETY: sixteen of them were written there.
                    let halves = unsafe { numbers.as_ptr().cast::<[bf16; LANES]>().read_unaligned() };
                    halves.map(|half| half.to_f32().to_bits())
                }
                _ => numbers.map(f32::to_bits),
            }
        }
    }

    #[test]
    fn every_processor_rounds_alike() {
        let smallest = f32::MIN_POSITIVE;
        let quiet = f32::from_bits(0x7fff_ffff);
        let few = [0.0, -0.0, 1.0, 1.003_906_3, 1.011_718_8, smallest, -smallest / 2.0, smallest / 3.0];
        let others = [f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY, quiet, -quiet, 3.0e38, -1.0e-38];
        let numbers: [f32; LANES] = std::array::from_fn(|i| if i < 8 { few[i] } else { others[i - 8] });
        let expected = numbers.map(|x| round(x).to_f32().to_bits());
        for isa in Isa::all() {
            assert_eq!(isa.run_pairs(Rounded(numbers)), expected, "{isa:?}");
        }
    }
}
