//! What happens to a row of inputs before it is multiplied by a matrix of bytes: it is normalised, where the product has
//! taken over its norm, and rounded, block by block. Each block has a scale of its own, so a row depends on no other. The
//! sums of blocks, which zero points need, are made here too. Bytes cannot say NaN, so a block with one gets a scale that
//! is NaN.

#![allow(
    clippy::needless_range_loop,
    reason = "iterators take closures, which may be compiled without the processor's features"
)]

use super::call::{Call, Norm};
use super::pack::{BLOCK, Kind};
use crate::dot::Dot;
use crate::rounding::{self, MIXED};
use crate::simd::{self, LANES, Simd};

impl Norm<'_> {
    /// Writes `row`, normalised, to the front of `to`.
    #[inline(always)]
    pub(super) unsafe fn apply<'t, S: Simd>(&self, row: &[f32], to: &'t mut Vec<f32>) -> &'t [f32] {
        to.resize(row.len().max(to.len()), 0.0);
        let to = &mut to[..row.len()];
        let whole = row.len() - row.len() % LANES;
        let (from, weight, into) = (row.as_ptr(), self.weight[..row.len()].as_ptr(), to.as_mut_ptr());
        // SAFETY: all three have a number for each of the row.
        unsafe {
            let inverse = 1.0 / (sum_of_squares::<S>(row) / row.len() as f32 + self.epsilon).sqrt();
            let factor = S::splat(inverse);
            for at in (0..whole).step_by(LANES) {
                S::store(into.add(at), S::mul(S::mul(S::load(from.add(at)), factor), S::load(weight.add(at))));
            }
            for at in whole..row.len() {
                to[at] = row[at] * inverse * self.weight[at];
            }
        }
        to
    }
}

#[inline(always)]
unsafe fn sum_of_squares<S: Simd>(row: &[f32]) -> f32 {
    /// Sums side by side: one alone would wait for itself.
    const SUMS: usize = 4;
    let whole = row.len() - row.len() % LANES;
    // SAFETY: the row has sixteen numbers from each place on.
    unsafe {
        let mut sums = [S::splat(0.0); SUMS];
        for first in (0..whole).step_by(SUMS * LANES) {
            for i in 0..SUMS {
                let at = first + i * LANES;
                if at < whole {
                    let x = S::load(row.as_ptr().add(at));
                    sums[i] = S::fma(x, x, sums[i]);
                }
            }
        }
        let mut rest = 0.0;
        for x in &row[whole..] {
            rest += x * x;
        }
        simd::sum::<S>(S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3]))) + rest
    }
}

/// As [`Call::quantise`], in a function that is compiled for what S stands for.
#[inline(always)]
pub(super) unsafe fn quantise<S: Dot>(call: &Call<'_>, row: usize, scratch: &mut Vec<f32>) {
    let from = &call.operands.inputs[row * call.shape.inputs..][..call.shape.inputs];
    // SAFETY: passed on.
    unsafe {
        let from = match &call.operands.norm {
            Some(norm) => norm.apply::<S>(from, scratch),
            None => from,
        };
        if call.shape.kind == Kind::Bytes {
            quantise_by::<S, MIXED>(call, row, from);
        } else {
            quantise_by::<S, BLOCK>(call, row, from);
        }
    }
}

/// Rounds a row in blocks of B.
#[inline(always)]
unsafe fn quantise_by<S: Dot, const B: usize>(call: &Call<'_>, row: usize, from: &[f32]) {
    let (blocks, block_sums) = (call.shape.blocks(), call.shape.block_sums);
    // SAFETY: the row's blocks lie in the arrays and are ours alone.
    unsafe {
        let mut block = row * blocks;
        let (whole, rest) = from.as_chunks::<B>();
        let (threes, others) = whole.as_chunks::<3>();
        for values in threes {
            quantise_blocks::<S, B, 3>(call, block, values.each_ref());
            block += 3;
        }
        for values in others {
            quantise_blocks::<S, B, 1>(call, block, [values]);
            block += 1;
        }
        // What follows the last whole block, and the sums of blocks behind that.
        let mut tail = [0.0; B];
        tail[..rest.len()].copy_from_slice(rest);
        let mut filled = rest.len();
        if block_sums {
            for values in from.chunks(BLOCK) {
                if filled == B {
                    quantise_blocks::<S, B, 1>(call, block, [&tail]);
                    (block, tail, filled) = (block + 1, [0.0; B], 0);
                }
                tail[filled] = block_sum::<S>(values);
                filled += 1;
            }
        }
        if filled > 0 {
            quantise_blocks::<S, B, 1>(call, block, [&tail]);
        }
    }
}

#[inline(always)]
unsafe fn block_sum<S: Simd>(values: &[f32]) -> f32 {
    if values.len() < BLOCK {
        return values.iter().sum();
    }
    // SAFETY: 32 floats.
    unsafe { simd::sum::<S>(S::add(S::load(values.as_ptr()), S::load(values.as_ptr().add(LANES)))) }
}

/// Rounds K blocks, from block `block` on; those for matrices of bytes are mixed first.
#[inline(always)]
unsafe fn quantise_blocks<S: Dot, const B: usize, const K: usize>(
    call: &Call<'_>,
    block: usize,
    values: [&[f32; B]; K],
) {
    // SAFETY: the blocks lie in the arrays and are ours alone.
    unsafe {
        let mut to = [call.bytes; K];
        for k in 0..K {
            to[k] = call.bytes.add((block + k) * B);
        }
        let rounded = if B == MIXED {
            let mut mixed = [[S::splat(0.0); 4]; K];
            for k in 0..K {
                mixed[k] = rounding::mix_block::<S>(rounding::load::<S, 4>(values[k].as_ptr()));
            }
            rounding::round::<S, 4, K>(mixed, to)
        } else {
            let mut plain = [[S::splat(0.0); 2]; K];
            for k in 0..K {
                plain[k] = rounding::load::<S, 2>(values[k].as_ptr());
            }
            rounding::round::<S, 2, K>(plain, to)
        };
        for k in 0..K {
            let (scale, sum) = rounded[k];
            call.scales.add(block + k).write(scale);
            call.offsets.add(block + k).write(sum.wrapping_mul(-128));
        }
    }
}
