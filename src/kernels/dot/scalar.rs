//! Products of bytes in plain Rust.

use super::{Dot, QUAD};
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
    fn dot(self, mut sums: Self::Sums, weights: Self::Weights, inputs: Self::Inputs) -> Self::Sums {
        for (sum, weights) in sums.iter_mut().zip(weights) {
            for (w, x) in weights.into_iter().zip(inputs) {
                *sum += i32::from(w) * i32::from(x);
            }
        }
        sums
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
    fn dot_columns(self, mut sums: Self::Sums, weights: Self::Weights, inputs: Self::ColumnInputs) -> Self::Sums {
        for (sum, (weights, inputs)) in sums.iter_mut().zip(weights.into_iter().zip(inputs)) {
            for (w, x) in weights.into_iter().zip(inputs) {
                *sum += i32::from(w) * i32::from(x);
            }
        }
        sums
    }
    #[inline(always)]
    fn mix(self, mut v: Self::V) -> Self::V {
        let mut width = LANES / 2;
        while width > 0 {
            let mut mixed = v;
            for (i, lane) in mixed.iter_mut().enumerate() {
                *lane = if i & width == 0 { v[i ^ width] + v[i] } else { v[i ^ width] + (0.0 - v[i]) };
            }
            (v, width) = (mixed, width / 2);
        }
        v
    }
    #[inline(always)]
    fn store_unsigned(self, to: &mut [u8; 2 * LANES], low: Self::V, high: Self::V) {
        for (byte, x) in to.iter_mut().zip(low.into_iter().chain(high)) {
            *byte = x.round_ties_even() as u8;
        }
    }
    #[inline(always)]
    fn floats(self, sums: Self::Sums) -> Self::V {
        let mut floats = [0.0; LANES];
        for (float, sum) in floats.iter_mut().zip(sums) {
            *float = sum as f32;
        }
        floats
    }
    #[inline(always)]
    fn store_bytes(self, to: &mut [i8; 2 * LANES], low: Self::V, high: Self::V) -> Self::Sums {
        let mut sums = [0; LANES];
        for (i, (byte, x)) in to.iter_mut().zip(low.into_iter().chain(high)).enumerate() {
            *byte = x.round_ties_even() as i8;
            sums[i % LANES] += i32::from(*byte);
        }
        sums
    }
    #[inline(always)]
    fn add_sums(self, mut a: Self::Sums, b: Self::Sums) -> Self::Sums {
        for (a, b) in a.iter_mut().zip(b) {
            *a += b;
        }
        a
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

/// The halves of 64 bytes that begin at bit `from`, each added to its byte of `shifts`.
fn nibbles(bytes: [[u8; QUAD]; LANES], from: u32, mut shifts: [[u8; QUAD]; LANES]) -> [[u8; QUAD]; LANES] {
    for (sum, byte) in shifts.as_flattened_mut().iter_mut().zip(bytes.as_flattened()) {
        *sum = sum.wrapping_add(byte >> from & 0x0f);
    }
    shifts
}
