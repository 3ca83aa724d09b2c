//! Panels of bytes, or of nibbles.
//!
//! Inputs are bytes too, each block of them with a scale of its own ([`super::inputs`]). Integer sums are exact on every
//! instruction set, and blocks are added in order.

#![allow(
    clippy::needless_range_loop,
    reason = "iterators take closures, which may be compiled without the processor's features"
)]

use super::call::Call;
use super::pack::{BLOCK, Kind, NIBBLE_BLOCK_BYTES, PANEL, SCALE_BYTES, block_bytes};
use super::tile::{self, Panel, compute};
use crate::dot::{Dot, QUAD};
use crate::rounding::MIXED;
use crate::simd::LANES;

/// Most rows of a tile of bytes.
pub(super) const ROWS: usize = 6;

/// A panel in blocks of `B`: of bytes, or of nibbles.
struct Blocks<const NIBBLES: bool, const B: usize>;

/// What a panel holds when it is multiplied.
#[derive(Clone, Copy)]
enum Holds {
    Bytes,
    Nibbles,
    /// Bytes that were nibbles.
    Unpacked,
}

/// As [`Call::multiply`].
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn multiply<S: Dot>(
    s: S,
    call: &Call<'_>,
    panel: usize,
    first: usize,
    end: usize,
    scratch: &mut Vec<u8>,
) {
    // As many rows as leave registers for weights and inputs.
    let most = if S::MANY_REGISTERS { ROWS } else { 2 };
    // SAFETY: the panel lies in the matrix; the rest is passed on.
    unsafe {
        let weights = call.matrix.as_ptr().add(panel * call.shape.panel_bytes());
        let (weights, holds) = match call.shape.kind {
            // Bytes for many rows are made once; for a few, in registers.
            Kind::Nibbles if end - first > 2 * most => {
                (unpack(s, weights, call.shape.blocks(), scratch), Holds::Unpacked)
            }
            Kind::Nibbles => (weights, Holds::Nibbles),
            _ => (weights, Holds::Bytes),
        };
        for (row, count) in tile::rows(first, end, most) {
            match holds {
                Holds::Bytes => tile_of::<S, Blocks<false, MIXED>>(s, call, weights, panel, row, count),
                Holds::Unpacked => tile_of::<S, Blocks<false, BLOCK>>(s, call, weights, panel, row, count),
                Holds::Nibbles => tile_of::<S, Blocks<true, BLOCK>>(s, call, weights, panel, row, count),
            }
        }
    }
}

#[inline(always)]
unsafe fn tile_of<S: Dot, P: Panel<S>>(
    s: S,
    call: &Call<'_>,
    weights: *const u8,
    panel: usize,
    row: usize,
    count: usize,
) {
    // SAFETY: passed on.
    unsafe {
        match (count, S::MANY_REGISTERS) {
            (6, true) => compute::<S, P, 6>(s, call, weights, panel, row),
            (5, true) => compute::<S, P, 5>(s, call, weights, panel, row),
            (4, true) => compute::<S, P, 4>(s, call, weights, panel, row),
            (3, true) => compute::<S, P, 3>(s, call, weights, panel, row),
            (2, _) => compute::<S, P, 2>(s, call, weights, panel, row),
            _ => compute::<S, P, 1>(s, call, weights, panel, row),
        }
    }
}

/// Makes a panel of bytes of one of nibbles.
#[inline(always)]
unsafe fn unpack<S: Dot>(s: S, mut from: *const u8, blocks: usize, scratch: &mut Vec<u8>) -> *const u8 {
    // Written through the pointer alone: filling it first would take as long as the work.
    scratch.reserve(blocks * block_bytes(BLOCK));
    let panel = scratch.as_mut_ptr();
    let mut to = panel;
    // SAFETY: the panel of nibbles has these blocks, and there is room for as many of bytes.
    unsafe {
        for _ in 0..blocks {
            std::ptr::copy_nonoverlapping(from, to, SCALE_BYTES);
            let (shifts, quads) = (from.add(SCALE_BYTES), from.add(SCALE_BYTES + PANEL));
            for half in 0..PANEL / LANES {
                let shifts = s.four_times(shifts.add(half * LANES));
                for quad in 0..BLOCK / QUAD / 2 {
                    let at = (quad * PANEL + half * LANES) * QUAD;
                    let low = to.add(SCALE_BYTES + at);
                    let bytes = s.weights(quads.add(at));
                    s.store_weights(low, s.low_nibbles(bytes, shifts));
                    s.store_weights(low.add(PANEL * BLOCK / 2), s.high_nibbles(bytes, shifts));
                }
            }
            (from, to) = (from.add(NIBBLE_BLOCK_BYTES), to.add(block_bytes(BLOCK)));
        }
    }
    panel
}

impl<S: Dot, const NIBBLES: bool, const B: usize> Panel<S> for Blocks<NIBBLES, B> {
    #[inline(always)]
    unsafe fn sum<const R: usize, const C: usize>(
        s: S,
        call: &Call<'_>,
        weights: *const u8,
        row: usize,
        half: usize,
    ) -> [[S::V; C]; R] {
        let blocks = call.shape.blocks();
        let mut acc = [[s.splat(0.0); C]; R];
        // SAFETY: `weights` is such a panel; the rows lie in the rounded inputs.
        unsafe {
            let mut weights = weights;
            let inputs = call.bytes.cast_const().add(row * blocks * B);
            let scales = call.scales.cast_const().add(row * blocks);
            let offsets = call.offsets.cast_const().add(row * blocks);
            for block in 0..blocks {
                // Nibbles have their zero points before the quads; elsewhere what is there is not used.
                let shifts = weights.add(SCALE_BYTES + half * LANES);
                let quads = weights.add(SCALE_BYTES + if NIBBLES { PANEL } else { 0 } + half * LANES * QUAD);
                let mut shift = [s.four_times(shifts); C];
                for c in 1..C {
                    shift[c] = s.four_times(shifts.add(c * LANES));
                }
                let mut part = [[s.splat_sum(0); C]; R];
                for r in 0..R {
                    part[r] = [s.splat_sum(*offsets.add(r * blocks + block)); C];
                }
                for quad in 0..B / QUAD {
                    let mut w = shift;
                    for c in 0..C {
                        w[c] = quad_of::<S, NIBBLES>(s, quads.add(c * LANES * QUAD), quad, shift[c]);
                    }
                    for r in 0..R {
                        let x = s.inputs(inputs.add((r * blocks + block) * B + quad * QUAD));
                        for c in 0..C {
                            part[r][c] = s.dot(part[r][c], w[c], x);
                        }
                    }
                }
                for c in 0..C {
                    let scale = s.read(weights.cast::<f32>().add((half + c) * LANES));
                    for r in 0..R {
                        let scale = s.mul(scale, s.splat(*scales.add(r * blocks + block)));
                        acc[r][c] = s.fma(scale, s.floats(part[r][c]), acc[r][c]);
                    }
                }
                weights = weights.add(if NIBBLES { NIBBLE_BLOCK_BYTES } else { block_bytes(B) });
            }
        }
        acc
    }
}

/// Quad `quad` of sixteen columns of a block, as bytes.
#[inline(always)]
unsafe fn quad_of<S: Dot, const NIBBLES: bool>(s: S, quads: *const u8, quad: usize, shifts: S::Weights) -> S::Weights {
    /// Quads in low nibbles.
    const LOW: usize = BLOCK / QUAD / 2;
    const STRIDE: usize = PANEL * QUAD;
    // SAFETY: the block has this quad.
    unsafe {
        match (NIBBLES, quad < LOW) {
            (false, _) => s.weights(quads.add(quad * STRIDE)),
            (true, true) => s.low_nibbles(s.weights(quads.add(quad * STRIDE)), shifts),
            (true, false) => s.high_nibbles(s.weights(quads.add((quad - LOW) * STRIDE)), shifts),
        }
    }
}
