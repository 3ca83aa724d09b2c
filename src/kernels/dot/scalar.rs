//! Products of bytes in plain Rust.

use super::{Dot, QUAD};
use crate::simd::scalar::each;
use crate::simd::{LANES, Scalar};

impl Dot for Scalar {
    type Sums = [i32; LANES];
    type Weights = [[u8; QUAD]; LANES];
    type Inputs = [i8; QUAD];
    type ColumnInputs = [[i8; QUAD]; LANES];
    #[inline(always)]
    fn splat_sum(self, x: i32) -> Self::Sums {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn weights(self, p: *const u8) -> Self::Weights {
        // SAFETY: valid for 64 bytes by contract.
        unsafe { p.cast::<Self::Weights>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn four_times(self, p: *const u8) -> Self::Weights {
        // SAFETY: valid for sixteen bytes by contract.
        let bytes = unsafe { p.cast::<[u8; LANES]>().read_unaligned() };
        bytes.map(|byte| [byte; QUAD])
    }
    #[inline(always)]
    fn low_nibbles(self, bytes: Self::Weights, shifts: Self::Weights) -> Self::Weights {
        nibbles(bytes, 0, shifts)
    }
    #[inline(always)]
    fn high_nibbles(self, bytes: Self::Weights, shifts: Self::Weights) -> Self::Weights {
        nibbles(bytes, 4, shifts)
    }
    #[inline(always)]
    unsafe fn store_weights(self, p: *mut u8, weights: Self::Weights) {
        // SAFETY: valid for 64 bytes by contract.
        unsafe { p.cast::<Self::Weights>().write_unaligned(weights) };
    }
    #[inline(always)]
    unsafe fn inputs(self, p: *const i8) -> Self::Inputs {
        // SAFETY: valid for four bytes by contract.
        unsafe { p.cast::<Self::Inputs>().read_unaligned() }
    }
    #[inline(always)]
    fn dot(self, sums: Self::Sums, weights: Self::Weights, inputs: Self::Inputs) -> Self::Sums {
        each(|i| sums[i] + product(weights[i], inputs))
    }
    #[inline(always)]
    unsafe fn splat_weights(self, p: *const u8) -> Self::Weights {
        // SAFETY: valid for four bytes by contract.
        [unsafe { p.cast::<[u8; QUAD]>().read_unaligned() }; LANES]
    }
    #[inline(always)]
    unsafe fn column_inputs(self, p: *const i8) -> Self::ColumnInputs {
        // SAFETY: valid for 64 bytes by contract.
        unsafe { p.cast::<Self::ColumnInputs>().read_unaligned() }
    }
    #[inline(always)]
    fn dot_columns(self, sums: Self::Sums, weights: Self::Weights, inputs: Self::ColumnInputs) -> Self::Sums {
        each(|i| sums[i] + product(weights[i], inputs[i]))
    }
    #[inline(always)]
    fn mix(self, mut v: Self::V) -> Self::V {
        let mut width = LANES / 2;
        while width > 0 {
            v = each(|i| if i & width == 0 { v[i ^ width] + v[i] } else { v[i ^ width] + (0.0 - v[i]) });
            width /= 2;
        }
        v
    }
    #[inline(always)]
    fn store_unsigned(self, to: &mut [u8; 2 * LANES], low: Self::V, high: Self::V) {
        let halves = [low, high].map(|half| each(|i| half[i].round_ties_even() as u8));
        to.copy_from_slice(halves.as_flattened());
    }
    #[inline(always)]
    fn floats(self, sums: Self::Sums) -> Self::V {
        each(|i| sums[i] as f32)
    }
    #[inline(always)]
    fn widen(self, bytes: &[u8; LANES]) -> Self::V {
        bytes.map(f32::from)
    }
    #[inline(always)]
    fn store_bytes(self, to: &mut [i8; 2 * LANES], low: Self::V, high: Self::V) -> Self::Sums {
        let [low, high] = [low, high].map(|half| each(|i| half[i].round_ties_even() as i8));
        to.copy_from_slice([low, high].as_flattened());
        each(|i| i32::from(low[i]) + i32::from(high[i]))
    }
    #[inline(always)]
    fn add_sums(self, a: Self::Sums, b: Self::Sums) -> Self::Sums {
        each(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn total(self, sums: Self::Sums) -> i32 {
        sums.into_iter().sum()
    }
    #[inline(always)]
    fn has_nan(self, v: Self::V) -> bool {
        v.into_iter().any(f32::is_nan)
    }
}

/// The sum of four products.
#[inline(always)]
fn product(weights: [u8; QUAD], inputs: [i8; QUAD]) -> i32 {
    weights.into_iter().zip(inputs).map(|(w, x)| i32::from(w) * i32::from(x)).sum()
}

/// The halves of 64 bytes that begin at bit `from`, each added to its byte of `shifts`.
fn nibbles(bytes: [[u8; QUAD]; LANES], from: u32, shifts: [[u8; QUAD]; LANES]) -> [[u8; QUAD]; LANES] {
    each(|i| std::array::from_fn(|k| shifts[i][k].wrapping_add(bytes[i][k] >> from & 0x0f)))
}
