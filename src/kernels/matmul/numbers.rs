//! Tiles of a panel of floats, or of bfloat16.

#![allow(
    clippy::needless_range_loop,
    reason = "iterators take closures, which may be compiled without the processor's features"
)]

use super::call::Call;
use super::epilogue::{Sums, epilogue};
use super::pack::PANEL;
use crate::pairs::Pairs;
use crate::simd::{LANES, Simd};

/// The numbers of a panel, and how they are multiplied.
pub(super) trait Numbers<S: Simd> {
    /// Sums of `C` vectors of columns, beginning with vector `half`, for `R` rows from `row` on.
    ///
    /// # Safety
    /// `weights` is a panel of the matrix; the rows are the call's.
    unsafe fn sum<const R: usize, const C: usize>(
        s: S,
        call: &Call<'_>,
        weights: *const u8,
        row: usize,
        half: usize,
    ) -> [[S::V; C]; R];
}

/// Inputs and weights in float32.
pub(super) struct Float32;

/// Both in bfloat16.
pub(super) struct Bfloat16;

/// As [`Call::multiply`].
///
/// # Safety
/// As there. The matrix holds such numbers.
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd, N: Numbers<S>>(s: S, call: &Call<'_>, panel: usize, first: usize, end: usize) {
    // As many rows as leave registers for weights and inputs.
    let most = if S::MANY_REGISTERS { 12 } else { 6 };
    let tiles = (end - first).div_ceil(most);
    let mut row = first;
    for tile in 0..tiles {
        // As equal as can be: six and six rows take less time than eleven and one.
        let count = (end - row) / (tiles - tile);
        // SAFETY: passed on.
        unsafe {
            match (count, S::MANY_REGISTERS) {
                (12, true) => tile_of::<S, N, 12>(s, call, panel, row),
                (11, true) => tile_of::<S, N, 11>(s, call, panel, row),
                (10, true) => tile_of::<S, N, 10>(s, call, panel, row),
                (9, true) => tile_of::<S, N, 9>(s, call, panel, row),
                (8, true) => tile_of::<S, N, 8>(s, call, panel, row),
                (7, true) => tile_of::<S, N, 7>(s, call, panel, row),
                (6, _) => tile_of::<S, N, 6>(s, call, panel, row),
                (5, _) => tile_of::<S, N, 5>(s, call, panel, row),
                (4, _) => tile_of::<S, N, 4>(s, call, panel, row),
                (3, _) => tile_of::<S, N, 3>(s, call, panel, row),
                (2, _) => tile_of::<S, N, 2>(s, call, panel, row),
                _ => tile_of::<S, N, 1>(s, call, panel, row),
            }
        }
        row += count;
    }
}

#[inline(always)]
unsafe fn tile_of<S: Simd, N: Numbers<S>, const R: usize>(s: S, call: &Call<'_>, panel: usize, row: usize) {
    let mut sums: Sums<R> = [[[0.0; LANES]; PANEL / LANES]; R];
    // SAFETY: the panel lies in the matrix; the rest is passed on.
    unsafe {
        let weights = call.matrix.as_ptr().add(panel * call.shape.panel_bytes());
        if S::MANY_REGISTERS {
            store(s, &mut sums, 0, N::sum::<R, 2>(s, call, weights, row, 0));
        } else {
            store(s, &mut sums, 0, N::sum::<R, 1>(s, call, weights, row, 0));
            store(s, &mut sums, 1, N::sum::<R, 1>(s, call, weights, row, 1));
        }
        epilogue::<S, R>(s, call, panel, row, &mut sums);
    }
}

#[inline(always)]
fn store<S: Simd, const R: usize, const C: usize>(s: S, sums: &mut Sums<R>, half: usize, found: [[S::V; C]; R]) {
    for r in 0..R {
        for c in 0..C {
            s.store(&mut sums[r][half + c], found[r][c]);
        }
    }
}

impl<S: Simd> Numbers<S> for Float32 {
    #[inline(always)]
    unsafe fn sum<const R: usize, const C: usize>(
        s: S,
        call: &Call<'_>,
        weights: *const u8,
        row: usize,
        half: usize,
    ) -> [[S::V; C]; R] {
        let inner = call.shape.inputs;
        let mut acc = [[s.splat(0.0); C]; R];
        // SAFETY: `weights` is a panel of the matrix; the rows lie in the inputs.
        unsafe {
            let weights = weights.cast::<f32>().add(half * LANES);
            let mut inputs = [call.operands.inputs.as_ptr().add(row * inner); R];
            for r in 1..R {
                inputs[r] = inputs[r - 1].add(inner);
            }
            for k in 0..inner {
                let mut w = [s.splat(0.0); C];
                for c in 0..C {
                    w[c] = s.read(weights.add(k * PANEL + c * LANES));
                }
                for r in 0..R {
                    let x = s.splat(*inputs[r].add(k));
                    for c in 0..C {
                        acc[r][c] = s.fma(x, w[c], acc[r][c]);
                    }
                }
            }
        }
        acc
    }
}

impl<S: Pairs> Numbers<S> for Bfloat16 {
    #[inline(always)]
    unsafe fn sum<const R: usize, const C: usize>(
        s: S,
        call: &Call<'_>,
        weights: *const u8,
        row: usize,
        half: usize,
    ) -> [[S::V; C]; R] {
        let numbers = call.shape.numbers();
        let mut acc = [[s.splat(0.0); C]; R];
        // SAFETY: `weights` is a panel of the matrix; the rows lie in the rounded inputs.
        unsafe {
            let weights = weights.cast::<half::bf16>().add(half * LANES * 2);
            let mut inputs = [call.numbers.cast_const().cast::<S::Number>().add(row * numbers); R];
            for r in 1..R {
                inputs[r] = inputs[r - 1].add(numbers);
            }
            for pair in 0..call.shape.pairs() {
                for step in 0..S::STEPS {
                    let mut w = [s.pair_weights(weights.add(pair * PANEL * 2), step); C];
                    for c in 1..C {
                        w[c] = s.pair_weights(weights.add(pair * PANEL * 2 + c * LANES * 2), step);
                    }
                    for r in 0..R {
                        let x = s.pair_inputs(inputs[r].add(pair * 2), step);
                        for c in 0..C {
                            acc[r][c] = s.dot_pairs(acc[r][c], w[c], x);
                        }
                    }
                }
            }
        }
        acc
    }
}
