//! Panels of floats, or of bfloat16.

#![allow(
    clippy::needless_range_loop,
    reason = "iterators take closures, which may be compiled without the processor's features"
)]

use std::marker::PhantomData;

use half::bf16;

use super::call::Call;
use super::pack::{PANEL, ROW_BYTES};
use super::tile::{self, Panel, compute};
use crate::pairs::Pairs;
use crate::simd::{LANES, Simd};

/// The numbers of inputs and weights, and how they are multiplied.
pub(super) trait Numbers<S: Simd> {
    /// Elements of the inner dimension that a row of a panel has.
    const RUN: usize;
    /// Steps that multiply a run.
    const STEPS: usize;
    /// An input.
    type Input;
    /// What a step multiplies: sixteen columns, and what all of them have in common.
    type Weights: Copy;
    type Inputs: Copy;
    /// The call's inputs, and how many each row of them has.
    fn inputs(call: &Call<'_>) -> (*const Self::Input, usize);
    /// What a step takes of sixteen columns' runs.
    ///
    /// # Safety
    /// They are at `p`.
    unsafe fn weights(s: S, p: *const u8, step: usize) -> Self::Weights;
    /// What a step takes of a run of inputs.
    ///
    /// # Safety
    /// It is at `p`.
    unsafe fn splat(s: S, p: *const Self::Input, step: usize) -> Self::Inputs;
    /// `sums + weights · inputs`
    fn add(s: S, sums: S::V, weights: Self::Weights, inputs: Self::Inputs) -> S::V;
}

/// Both in float32.
pub(super) struct Float32;

impl<S: Simd> Numbers<S> for Float32 {
    const RUN: usize = 1;
    const STEPS: usize = 1;
    type Input = f32;
    type Weights = S::V;
    type Inputs = S::V;
    #[inline(always)]
    fn inputs(call: &Call<'_>) -> (*const f32, usize) {
        (call.operands.inputs.as_ptr(), call.shape.inputs)
    }
    #[inline(always)]
    unsafe fn weights(s: S, p: *const u8, _: usize) -> S::V {
        // SAFETY: passed on.
        unsafe { s.read(p.cast()) }
    }
    #[inline(always)]
    unsafe fn splat(s: S, p: *const f32, _: usize) -> S::V {
        // SAFETY: passed on.
        s.splat(unsafe { *p })
    }
    #[inline(always)]
    fn add(s: S, sums: S::V, weights: S::V, inputs: S::V) -> S::V {
        s.fma(inputs, weights, sums)
    }
}

/// Both in bfloat16.
pub(super) struct Bfloat16;

impl<S: Pairs> Numbers<S> for Bfloat16 {
    const RUN: usize = 2;
    const STEPS: usize = S::STEPS;
    type Input = S::Number;
    type Weights = S::Weights;
    type Inputs = S::Inputs;
    #[inline(always)]
    fn inputs(call: &Call<'_>) -> (*const S::Number, usize) {
        (call.numbers.cast_const().cast(), call.shape.numbers())
    }
    #[inline(always)]
    unsafe fn weights(s: S, p: *const u8, step: usize) -> S::Weights {
        // SAFETY: passed on.
        unsafe { s.pair_weights(p.cast::<bf16>(), step) }
    }
    #[inline(always)]
    unsafe fn splat(s: S, p: *const S::Number, step: usize) -> S::Inputs {
        // SAFETY: passed on.
        unsafe { s.pair_inputs(p, step) }
    }
    #[inline(always)]
    fn add(s: S, sums: S::V, weights: S::Weights, inputs: S::Inputs) -> S::V {
        s.dot_pairs(sums, weights, inputs)
    }
}

/// A panel of such numbers.
struct Of<N>(PhantomData<N>);

/// As [`Call::multiply`].
///
/// # Safety
/// As there. The matrix holds such numbers.
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd, N: Numbers<S>>(s: S, call: &Call<'_>, panel: usize, first: usize, end: usize) {
    // SAFETY: the panel lies in the matrix; the rest is passed on.
    unsafe {
        let weights = call.matrix.as_ptr().add(panel * call.shape.panel_bytes());
        // As many rows as leave registers for weights and inputs.
        for (row, count) in tile::rows(first, end, if S::MANY_REGISTERS { 12 } else { 6 }) {
            match (count, S::MANY_REGISTERS) {
                (12, true) => compute::<S, Of<N>, 12>(s, call, weights, panel, row),
                (11, true) => compute::<S, Of<N>, 11>(s, call, weights, panel, row),
                (10, true) => compute::<S, Of<N>, 10>(s, call, weights, panel, row),
                (9, true) => compute::<S, Of<N>, 9>(s, call, weights, panel, row),
                (8, true) => compute::<S, Of<N>, 8>(s, call, weights, panel, row),
                (7, true) => compute::<S, Of<N>, 7>(s, call, weights, panel, row),
                (6, _) => compute::<S, Of<N>, 6>(s, call, weights, panel, row),
                (5, _) => compute::<S, Of<N>, 5>(s, call, weights, panel, row),
                (4, _) => compute::<S, Of<N>, 4>(s, call, weights, panel, row),
                (3, _) => compute::<S, Of<N>, 3>(s, call, weights, panel, row),
                (2, _) => compute::<S, Of<N>, 2>(s, call, weights, panel, row),
                _ => compute::<S, Of<N>, 1>(s, call, weights, panel, row),
            }
        }
    }
}

impl<S: Simd, N: Numbers<S>> Panel<S> for Of<N> {
    #[inline(always)]
    unsafe fn sum<const R: usize, const C: usize>(
        s: S,
        call: &Call<'_>,
        weights: *const u8,
        row: usize,
        half: usize,
    ) -> [[S::V; C]; R] {
        /// Bytes of sixteen columns' runs.
        const VECTOR: usize = ROW_BYTES / (PANEL / LANES);
        let (first, stride) = N::inputs(call);
        let mut acc = [[s.splat(0.0); C]; R];
        // SAFETY: `weights` is a panel of the matrix; the rows lie in the inputs.
        unsafe {
            let weights = weights.add(half * VECTOR);
            let mut inputs = [first.add(row * stride); R];
            for r in 1..R {
                inputs[r] = inputs[r - 1].add(stride);
            }
            for run in 0..call.shape.inputs.div_ceil(N::RUN) {
                let weights = weights.add(run * ROW_BYTES);
                for step in 0..N::STEPS {
                    let mut w = [N::weights(s, weights, step); C];
                    for c in 1..C {
                        w[c] = N::weights(s, weights.add(c * VECTOR), step);
                    }
                    for r in 0..R {
                        let x = N::splat(s, inputs[r].add(run * N::RUN), step);
                        for c in 0..C {
                            acc[r][c] = N::add(s, acc[r][c], w[c], x);
                        }
                    }
                }
            }
        }
        acc
    }
}
