//! Products of packed rows of inputs and packed matrices.
//!
//! A tile is a few rows of inputs and one panel of 32 columns: its sums stay in registers while the inner dimension goes
//! by once. A tile has up to six rows of bytes or twelve of floats. Matrices of bytes take inputs as bytes too, each block
//! of them with a scale of its own ([`super::inputs`]). Integer sums are exact on every instruction set, and blocks are
//! added in order.
//!
//! # Same bits in any batch
//!
//! A number of the product is summed over the inner dimension in order, by one lane, whichever rows share its tile and
//! whichever thread computes it. Inputs are rounded by their own block alone.

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

/// As [`Call::multiply`], in a function that is compiled for what S stands for.
#[inline(always)]
pub(super) unsafe fn multiply<S: Dot>(call: &Call<'_>, panel: usize, first: usize, end: usize, scratch: &mut Vec<u8>) {
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
            Kind::Nibbles if tiles > 2 => (unpack::<S>(weights, call.shape.blocks(), scratch), Panel::Unpacked),
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
                    12 => float_tile::<S, 12>(call, weights, panel, row),
                    11 => float_tile::<S, 11>(call, weights, panel, row),
                    10 => float_tile::<S, 10>(call, weights, panel, row),
                    9 => float_tile::<S, 9>(call, weights, panel, row),
                    8 => float_tile::<S, 8>(call, weights, panel, row),
                    7 => float_tile::<S, 7>(call, weights, panel, row),
                    _ => few_floats::<S>(call, weights, panel, row, count),
                },
                (Panel::Floats, false) => few_floats::<S>(call, weights, panel, row, count),
                (Panel::Bytes, _) => byte_tiles::<S, false, MIXED>(call, weights, panel, row, count),
                (Panel::Unpacked, _) => byte_tiles::<S, false, BLOCK>(call, weights, panel, row, count),
                (Panel::Nibbles, _) => byte_tiles::<S, true, BLOCK>(call, weights, panel, row, count),
            }
        }
        row += count;
    }
}

#[inline(always)]
unsafe fn few_floats<S: Simd>(call: &Call<'_>, weights: *const u8, panel: usize, row: usize, count: usize) {
    // SAFETY: passed on.
    unsafe {
        match count {
            6 => float_tile::<S, 6>(call, weights, panel, row),
            5 => float_tile::<S, 5>(call, weights, panel, row),
            4 => float_tile::<S, 4>(call, weights, panel, row),
            3 => float_tile::<S, 3>(call, weights, panel, row),
            2 => float_tile::<S, 2>(call, weights, panel, row),
            _ => float_tile::<S, 1>(call, weights, panel, row),
        }
    }
}

#[inline(always)]
unsafe fn byte_tiles<S: Dot, const NIBBLES: bool, const B: usize>(
    call: &Call<'_>,
    weights: *const u8,
    panel: usize,
    row: usize,
    count: usize,
) {
    // SAFETY: passed on.
    unsafe {
        match (count, S::MANY_REGISTERS) {
            (6, true) => byte_tile::<S, NIBBLES, B, 6>(call, weights, panel, row),
            (5, true) => byte_tile::<S, NIBBLES, B, 5>(call, weights, panel, row),
            (4, true) => byte_tile::<S, NIBBLES, B, 4>(call, weights, panel, row),
            (3, true) => byte_tile::<S, NIBBLES, B, 3>(call, weights, panel, row),
            (2, _) => byte_tile::<S, NIBBLES, B, 2>(call, weights, panel, row),
            _ => byte_tile::<S, NIBBLES, B, 1>(call, weights, panel, row),
        }
    }
}

/// Makes a panel of bytes of one of nibbles.
#[inline(always)]
unsafe fn unpack<S: Dot>(mut from: *const u8, blocks: usize, scratch: &mut Vec<u8>) -> *const u8 {
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
                let shifts = S::four_times(shifts.add(half * LANES));
                for quad in 0..BLOCK / QUAD / 2 {
                    let at = (quad * PANEL + half * LANES) * QUAD;
                    let low = to.add(SCALE_BYTES + at);
                    S::store_weights(low, S::low_nibbles(quads.add(at), shifts));
                    S::store_weights(low.add(PANEL * BLOCK / 2), S::high_nibbles(quads.add(at), shifts));
                }
            }
            (from, to) = (from.add(NIBBLE_BLOCK_BYTES), to.add(block_bytes(BLOCK)));
        }
    }
    panel
}

/// Sums of a tile.
type Sums<const R: usize> = [[f32; PANEL]; R];

#[inline(always)]
unsafe fn float_tile<S: Simd, const R: usize>(call: &Call<'_>, weights: *const u8, panel: usize, row: usize) {
    let mut sums: Sums<R> = [[0.0; PANEL]; R];
    // SAFETY: passed on.
    unsafe {
        if S::MANY_REGISTERS {
            floats::<S, R, 2>(call, weights, row, 0, &mut sums);
        } else {
            floats::<S, R, 1>(call, weights, row, 0, &mut sums);
            floats::<S, R, 1>(call, weights, row, 1, &mut sums);
        }
        epilogue::<S, R>(call, panel, row, &mut sums);
    }
}

#[inline(always)]
unsafe fn byte_tile<S: Dot, const NIBBLES: bool, const B: usize, const R: usize>(
    call: &Call<'_>,
    weights: *const u8,
    panel: usize,
    row: usize,
) {
    let mut sums: Sums<R> = [[0.0; PANEL]; R];
    // SAFETY: passed on.
    unsafe {
        if S::MANY_REGISTERS {
            bytes::<S, NIBBLES, B, R, 2>(call, weights, row, 0, &mut sums);
        } else {
            bytes::<S, NIBBLES, B, R, 1>(call, weights, row, 0, &mut sums);
            bytes::<S, NIBBLES, B, R, 1>(call, weights, row, 1, &mut sums);
        }
        epilogue::<S, R>(call, panel, row, &mut sums);
    }
}

/// Sums of `C` vectors of columns of a panel of floats, beginning with vector `half`.
#[inline(always)]
unsafe fn floats<S: Simd, const R: usize, const C: usize>(
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
        let inputs = call.operands.inputs.as_ptr().add(row * inner);
        let mut acc = [[S::splat(0.0); C]; R];
        for k in 0..inner {
            let mut w = [S::splat(0.0); C];
            for c in 0..C {
                w[c] = S::load(weights.add(k * PANEL + c * LANES));
            }
            for r in 0..R {
                let x = S::splat(*inputs.add(r * inner + k));
                for c in 0..C {
                    acc[r][c] = S::fma(x, w[c], acc[r][c]);
                }
            }
        }
        for r in 0..R {
            for c in 0..C {
                S::store(sums[r].as_mut_ptr().add((half + c) * LANES), acc[r][c]);
            }
        }
    }
}

/// As [`floats`], of a panel of bytes, or of one of nibbles.
#[inline(always)]
unsafe fn bytes<S: Dot, const NIBBLES: bool, const B: usize, const R: usize, const C: usize>(
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
        let mut acc = [[S::splat(0.0); C]; R];
        for block in 0..blocks {
            // Nibbles have their zero points before the quads; elsewhere what is there is not used.
            let shifts = weights.add(SCALE_BYTES + half * LANES);
            let quads = weights.add(SCALE_BYTES + if NIBBLES { PANEL } else { 0 } + half * LANES * QUAD);
            let mut shift = [S::four_times(shifts); C];
            for c in 1..C {
                shift[c] = S::four_times(shifts.add(c * LANES));
            }
            let mut part = [[S::splat_sum(0); C]; R];
            for r in 0..R {
                part[r] = [S::splat_sum(*offsets.add(r * blocks + block)); C];
            }
            for quad in 0..B / QUAD {
                let mut w = shift;
                for c in 0..C {
                    w[c] = quad_of::<S, NIBBLES>(quads.add(c * LANES * QUAD), quad, shift[c]);
                }
                for r in 0..R {
                    let x = S::inputs(inputs.add((r * blocks + block) * B + quad * QUAD));
                    for c in 0..C {
                        part[r][c] = S::dot(part[r][c], w[c], x);
                    }
                }
            }
            for c in 0..C {
                let scale = S::load(weights.cast::<f32>().add((half + c) * LANES));
                for r in 0..R {
                    let scale = S::mul(scale, S::splat(*scales.add(r * blocks + block)));
                    acc[r][c] = S::fma(scale, S::floats(part[r][c]), acc[r][c]);
                }
            }
            weights = weights.add(if NIBBLES { NIBBLE_BLOCK_BYTES } else { block_bytes(B) });
        }
        for r in 0..R {
            for c in 0..C {
                S::store(sums[r].as_mut_ptr().add((half + c) * LANES), acc[r][c]);
            }
        }
    }
}

/// Quad `quad` of sixteen columns of a block, as bytes.
#[inline(always)]
unsafe fn quad_of<S: Dot, const NIBBLES: bool>(quads: *const u8, quad: usize, shifts: S::Weights) -> S::Weights {
    /// Quads in low nibbles.
    const LOW: usize = BLOCK / QUAD / 2;
    const STRIDE: usize = PANEL * QUAD;
    // SAFETY: the block has this quad.
    unsafe {
        match (NIBBLES, quad < LOW) {
            (false, _) => S::weights(quads.add(quad * STRIDE)),
            (true, true) => S::low_nibbles(quads.add(quad * STRIDE), shifts),
            (true, false) => S::high_nibbles(quads.add((quad - LOW) * STRIDE), shifts),
        }
    }
}

/// Brings a tile's sums to the output.
#[inline(always)]
unsafe fn epilogue<S: Simd, const R: usize>(call: &Call<'_>, panel: usize, row: usize, sums: &mut Sums<R>) {
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
            let (low, high) = (S::load(sums.as_ptr()), S::load(sums.as_ptr().add(LANES)));
            let low = match call.shape.epilogue {
                Epilogue::Store => low,
                Epilogue::Gated(Activation::Silu) => S::mul(silu::<S>(low), high),
                Epilogue::Gated(Activation::GeluTanh) => S::mul(gelu_tanh::<S>(low), high),
            };
            let residual = residual.map(|residual| residual.add((row + r) * outputs));
            if count < width {
                S::store(sums.as_mut_ptr(), low);
                if let Some(residual) = residual {
                    for column in 0..count {
                        sums[column] += *residual.add(column);
                    }
                }
                std::ptr::copy_nonoverlapping(sums.as_ptr(), to, count);
                continue;
            }
            if let Some(residual) = residual {
                S::store(to, S::add(low, S::load(residual)));
                S::store(to.add(LANES), S::add(high, S::load(residual.add(LANES))));
                continue;
            }
            S::store(to, low);
            if call.shape.epilogue == Epilogue::Store {
                S::store(to.add(LANES), high);
            }
        }
    }
}

/// x · sigmoid(x)
#[inline(always)]
unsafe fn silu<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller compiled for S.
    unsafe {
        let (zero, one) = (S::splat(0.0), S::splat(1.0));
        // In this order: of a NaN and a number, `max` gives the second.
        let magnitude = S::max(S::sub(zero, x), x);
        let e = simd::exp::<S>(S::sub(zero, magnitude));
        // sigmoid(x) = 1 / (1 + e⁻ˣ) = eˣ / (1 + eˣ): the form that doesn't overflow.
        let numerator = S::select_lt(x, zero, e, one);
        S::mul(x, S::div(numerator, S::add(one, e)))
    }
}

/// x/2 · (1 + tanh(√(2/π) · (x + 0.044715·x³)))
#[inline(always)]
unsafe fn gelu_tanh<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller compiled for S.
    unsafe {
        let cube = S::mul(S::mul(x, x), x);
        let inner = S::mul(S::splat(0.797_884_6), S::fma(cube, S::splat(0.044_715), x));
        S::mul(S::mul(x, S::splat(0.5)), S::add(S::splat(1.0), simd::tanh::<S>(inner)))
    }
}
