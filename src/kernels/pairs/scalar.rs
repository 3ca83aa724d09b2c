//! Products of pairs in plain Rust.

use half::bf16;

use super::{Pairs, round};
use crate::simd::scalar::each;
use crate::simd::{LANES, Scalar, Simd as _};

impl Pairs for Scalar {
    const STEPS: usize = 2;
    type Weights = [f32; LANES];
    type Inputs = f32;
    type Number = f32;
    #[inline(always)]
    unsafe fn pair_weights(self, p: *const bf16, step: usize) -> Self::Weights {
        // SAFETY: valid for sixteen pairs by contract.
        let pairs = unsafe { p.cast::<[[bf16; 2]; LANES]>().read_unaligned() };
        each(|i| pairs[i][1 - step].to_f32())
    }
    #[inline(always)]
    unsafe fn pair_inputs(self, p: *const f32, step: usize) -> f32 {
        // SAFETY: valid for a pair by contract.
        unsafe { p.add(1 - step).read_unaligned() }
    }
    #[inline(always)]
    fn dot_pairs(self, sums: Self::V, weights: Self::Weights, inputs: f32) -> Self::V {
        self.fma(weights, self.splat(inputs), sums)
    }
    #[inline(always)]
    unsafe fn store_numbers(self, to: *mut f32, v: Self::V) {
        // SAFETY: valid for sixteen numbers by contract.
        unsafe { self.write(to, each(|i| round(v[i]).to_f32())) }
    }
}
