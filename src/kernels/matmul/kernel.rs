//! Products of packed rows of inputs and packed matrices.
//!
//! A tile is a few rows of inputs and one panel of 32 columns. Its sums stay in registers while the inner dimension goes by
//! once. A tile has up to six rows of bytes, or twelve of floats. Matrices of bytes take inputs as bytes too, each block of
//! them with a scale of its own ([`super::inputs`]). Integer sums are exact on every instruction set, and blocks are added
//! in order.
//!
//! # Same bits in any batch
//!
//! One lane sums a number of the product, over the inner dimension in order, whichever rows share its tile and whichever
//! thread computes it. Inputs are rounded by their own block alone.

#![allow(
    clippy::needless_range_loop,
    reason = "iterators take closures, which may be compiled without the processor's features"
)]

use super::call::Call;
use super::pack::{Activation, BLOCK, Epilogue, Kind, NIBBLE_BLOCK_BYTES, PANEL, SCALE_BYTES, block_bytes};
use crate::dot::{Dot, QUAD};
use crate::rounding::MIXED;
use crate::simd::{self, LANES, Simd};

/// Most rows of a tile of bytes.
pub(super) const BYTE_ROWS: usize = 6;

/// What a panel holds when it is multiplied.
#[derive(Clone, Copy)]
enum Panel {
    Floats,
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
    let most = match (call.shape.kind, S::MANY_REGISTERS) {
        (Kind::Floats, true) => 12,
        (Kind::Floats, false) => 6,
        (Kind::Bytes | Kind::Nibbles, true) => BYTE_ROWS,
        (Kind::Bytes | Kind::Nibbles, false) => 2,
    };
    let tiles = (end - first).div_ceil(most);
    // SAFETY: the panel lies in the matrix.
    let (weights, panel_of) = unsafe {
        let weights = call.matrix.as_ptr().add(panel * call.shape.panel_bytes());
        match call.shape.kind {
            // Bytes for many rows are made once; for a few, in registers.
            Kind::Nibbles if tiles > 2 => (unpack(s, weights, call.shape.blocks(), scratch), Panel::Unpacked),
            Kind::Nibbles => (weights, Panel::Nibbles),
            Kind::Bytes => (weights, Panel::Bytes),
            Kind::Floats => (weights, Panel::Floats),
        }
    };
    let mut row = first;
    for tile in 0..tiles {
        // As equal as can be: six and six rows take less time than eleven and one.
        let count = (end - row) / (tiles - tile);
        // SAFETY: passed on.
        unsafe {
            match (panel_of, S::MANY_REGISTERS) {
                (Panel::Floats, true) => match count {
                    12 => float_tile::<S, 12>(s, call, weights, panel, row),
                    11 => float_tile::<S, 11>(s, call, weights, panel, row),
                    10 => float_tile::<S, 10>(s, call, weights, panel, row),
                    9 => float_tile::<S, 9>(s, call, weights, panel, row),
                    8 => float_tile::<S, 8>(s, call, weights, panel, row),
                    7 => float_tile::<S, 7>(s, call, weights, panel, row),
                    _ => few_floats(s, call, weights, panel, row, count),
                },
                (Panel::Floats, false) => few_floats(s, call, weights, panel, row, count),
                (Panel::Bytes, _) => byte_tiles::<S, false, MIXED>(s, call, weights, panel, row, count),
                (Panel::Unpacked, _) => byte_tiles::<S, false, BLOCK>(s, call, weights, panel, row, count),
                (Panel::Nibbles, _) => byte_tiles::<S, true, BLOCK>(s, call, weights, panel, row, count),
            }
        }
        row += count;
    }
}

#[inline(always)]
unsafe fn few_floats<S: Simd>(s: S, call: &Call<'_>, weights: *const u8, panel: usize, row: usize, count: usize) {
    // SAFETY: passed on.
    unsafe {
        match count {
            6 => float_tile::<S, 6>(s, call, weights, panel, row),
            5 => float_tile::<S, 5>(s, call, weights, panel, row),
            4 => float_tile::<S, 4>(s, call, weights, panel, row),
            3 => float_tile::<S, 3>(s, call, weights, panel, row),
            2 => float_tile::<S, 2>(s, call, weights, panel, row),
            _ => float_tile::<S, 1>(s, call, weights, panel, row),
        }
    }
}

#[inline(always)]
unsafe fn byte_tiles<S: Dot, const NIBBLES: bool, const B: usize>(
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
            (6, true) => byte_tile::<S, NIBBLES, B, 6>(s, call, weights, panel, row),
            (5, true) => byte_tile::<S, NIBBLES, B, 5>(s, call, weights, panel, row),
            (4, true) => byte_tile::<S, NIBBLES, B, 4>(s, call, weights, panel, row),
            (3, true) => byte_tile::<S, NIBBLES, B, 3>(s, call, weights, panel, row),
            (2, _) => byte_tile::<S, NIBBLES, B, 2>(s, call, weights, panel, row),
            _ => byte_tile::<S, NIBBLES, B, 1>(s, call, weights, panel, row),
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

/// Sums of a tile.
type Sums<const R: usize> = [[[f32; LANES]; PANEL / LANES]; R];

#[inline(always)]
unsafe fn float_tile<S: Simd, const R: usize>(s: S, call: &Call<'_>, weights: *const u8, panel: usize, row: usize) {
    let mut sums: Sums<R> = [[[0.0; LANES]; PANEL / LANES]; R];
    // SAFETY: passed on.
    unsafe {
        if S::MANY_REGISTERS {
            floats::<S, R, 2>(s, call, weights, row, 0, &mut sums);
        } else {
            floats::<S, R, 1>(s, call, weights, row, 0, &mut sums);
            floats::<S, R, 1>(s, call, weights, row, 1, &mut sums);
        }
        epilogue::<S, R>(s, call, panel, row, &mut sums);
    }
}

#[inline(always)]
unsafe fn byte_tile<S: Dot, const NIBBLES: bool, const B: usize, const R: usize>(
    s: S,
    call: &Call<'_>,
    weights: *const u8,
    panel: usize,
    row: usize,
) {
    let mut sums: Sums<R> = [[[0.0; LANES]; PANEL / LANES]; R];
    // SAFETY: passed on.
    unsafe {
        if S::MANY_REGISTERS {
            bytes::<S, NIBBLES, B, R, 2>(s, call, weights, row, 0, &mut sums);
        } else {
            bytes::<S, NIBBLES, B, R, 1>(s, call, weights, row, 0, &mut sums);
            bytes::<S, NIBBLES, B, R, 1>(s, call, weights, row, 1, &mut sums);
        }
        epilogue::<S, R>(s, call, panel, row, &mut sums);
    }
}

/// Sums of `C` vectors of columns of a panel of floats, beginning with vector `half`.
#[inline(always)]
unsafe fn floats<S: Simd, const R: usize, const C: usize>(
    s: S,
    call: &Call<'_>,
    weights: *const u8,
    row: usize,
    half: usize,
    sums: &mut Sums<R>,
) {
    let inner = call.shape.inputs;
    // SAFETY: `weights` is a panel of the matrix; the rows lie in the inputs.
    unsafe {
        let weights = weights.cast::<f32>().add(half * LANES);
        let mut inputs = [call.operands.inputs.as_ptr().add(row * inner); R];
        for r in 1..R {
            inputs[r] = inputs[r - 1].add(inner);
        }
        let mut acc = [[s.splat(0.0); C]; R];
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
        for r in 0..R {
            for c in 0..C {
                s.store(&mut sums[r][half + c], acc[r][c]);
            }
        }
    }
}

/// As [`floats`], of a panel of bytes, or of one of nibbles.
#[inline(always)]
unsafe fn bytes<S: Dot, const NIBBLES: bool, const B: usize, const R: usize, const C: usize>(
    s: S,
    call: &Call<'_>,
    weights: *const u8,
    row: usize,
    half: usize,
    sums: &mut Sums<R>,
) {
    let blocks = call.shape.blocks();
    // SAFETY: `weights` is such a panel; the rows lie in the rounded inputs.
    unsafe {
        let mut weights = weights;
        let inputs = call.bytes.cast_const().add(row * blocks * B);
        let scales = call.scales.cast_const().add(row * blocks);
        let offsets = call.offsets.cast_const().add(row * blocks);
        let mut acc = [[s.splat(0.0); C]; R];
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
        for r in 0..R {
            for c in 0..C {
                s.store(&mut sums[r][half + c], acc[r][c]);
            }
        }
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

/// Brings a tile's sums to the output.
#[inline(always)]
unsafe fn epilogue<S: Simd, const R: usize>(s: S, call: &Call<'_>, panel: usize, row: usize, sums: &mut Sums<R>) {
    let outputs = call.shape.outputs();
    let width = match call.shape.epilogue {
        Epilogue::Store => PANEL,
        Epilogue::Gated(_) => PANEL / 2,
    };
    let first = panel * width;
    let count = width.min(outputs - first);
    // Looked up once: for all the compiler knows, what is stored below could change it.
    let residual = call.operands.residual.map(|residual| residual[first..].as_ptr());
    for (r, sums) in sums.iter_mut().enumerate() {
        // SAFETY: the columns of this panel in this row are inside the output and ours alone; sums hold 32 floats.
        unsafe {
            let to = call.output.add((row + r) * outputs + first);
            let (low, high) = (s.load(&sums[0]), s.load(&sums[1]));
            let low = match call.shape.epilogue {
                Epilogue::Store => low,
                Epilogue::Gated(Activation::Silu) => s.mul(silu(s, low), high),
                Epilogue::Gated(Activation::GeluTanh) => s.mul(gelu_tanh(s, low), high),
            };
            let residual = residual.map(|residual| residual.add((row + r) * outputs));
            if count < width {
                s.store(&mut sums[0], low);
                let sums = sums.as_flattened_mut();
                if let Some(residual) = residual {
                    for column in 0..count {
                        sums[column] += *residual.add(column);
                    }
                }
                std::ptr::copy_nonoverlapping(sums.as_ptr(), to, count);
                continue;
            }
            if let Some(residual) = residual {
                s.write(to, s.add(low, s.read(residual)));
                s.write(to.add(LANES), s.add(high, s.read(residual.add(LANES))));
                continue;
            }
            s.write(to, low);
            if call.shape.epilogue == Epilogue::Store {
                s.write(to.add(LANES), high);
            }
        }
    }
}

/// x · sigmoid(x)
#[inline(always)]
fn silu<S: Simd>(s: S, x: S::V) -> S::V {
    let (zero, one) = (s.splat(0.0), s.splat(1.0));
    // In this order: of a NaN and a number, `max` gives the second.
    let magnitude = s.max(s.sub(zero, x), x);
    let e = simd::exp(s, s.sub(zero, magnitude));
    // sigmoid(x) = 1 / (1 + e⁻ˣ) = eˣ / (1 + eˣ): the form that doesn't overflow.
    let numerator = s.select_lt(x, zero, e, one);
    s.mul(x, s.div(numerator, s.add(one, e)))
}

/// x/2 · (1 + tanh(√(2/π) · (x + 0.044715·x³)))
#[inline(always)]
fn gelu_tanh<S: Simd>(s: S, x: S::V) -> S::V {
    let cube = s.mul(s.mul(x, x), x);
    let inner = s.mul(s.splat(0.797_884_6), s.fma(cube, s.splat(0.044_715), x));
    s.mul(s.mul(x, s.splat(0.5)), s.add(s.splat(1.0), simd::tanh(s, inner)))
}
