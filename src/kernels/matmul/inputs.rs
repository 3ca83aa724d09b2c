//! The preparation of a row of inputs for a matrix of bytes: it is normalised, if the product has taken over its norm, and
//! rounded block by block. Each block has a scale of its own, so a row does not depend on others. The sums of blocks, which
//! zero points need, are made here too. Bytes cannot say NaN, so a block with one gets a scale that is NaN. For a matrix of
//! bfloat16, each number is rounded alone.

use super::call::{Call, Norm};
use super::pack::{BLOCK, Kind};
use crate::dot::Dot;
use crate::pairs::Pairs;
use crate::rounding::{self, MIXED};
use crate::simd::{self, LANES, Simd};

impl Norm<'_> {
    /// Writes `row`, normalised, to the front of `to`.
    #[inline(always)]
    pub(super) fn apply<'t, S: Simd>(&self, s: S, row: &[f32], to: &'t mut Vec<f32>) -> &'t [f32] {
        to.resize(row.len().max(to.len()), 0.0);
        let to = &mut to[..row.len()];
        let inverse = 1.0 / (sum_of_squares(s, row) / row.len() as f32 + self.epsilon).sqrt();
        let factor = s.splat(inverse);
        let (chunks, rest) = row.as_chunks();
        let (weights, last_weights) = self.weight[..row.len()].as_chunks();
        let (into, last) = to.as_chunks_mut();
        for ((x, weight), to) in chunks.iter().zip(weights).zip(into) {
            s.store(to, s.mul(s.mul(s.load(x), factor), s.load(weight)));
        }
        for ((x, weight), to) in rest.iter().zip(last_weights).zip(last) {
            *to = x * inverse * weight;
        }
        to
    }
}

#[inline(always)]
fn sum_of_squares<S: Simd>(s: S, row: &[f32]) -> f32 {
    /// Sums side by side: one alone would wait for itself.
    const SUMS: usize = 4;
    let (chunks, rest) = row.as_chunks();
    let mut sums = [s.splat(0.0); SUMS];
    for chunks in chunks.chunks(SUMS) {
        for (sum, chunk) in sums.iter_mut().zip(chunks) {
            let x = s.load(chunk);
            *sum = s.fma(x, x, *sum);
        }
    }
    let mut last = 0.0;
    for x in rest {
        last += x * x;
    }
    simd::sum(s, s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3]))) + last
}

/// A row of inputs, normalised if the product is one of normalised rows.
#[inline(always)]
fn prepared<'a, S: Simd>(s: S, call: &Call<'a>, row: usize, scratch: &'a mut Vec<f32>) -> &'a [f32] {
    let from = &call.operands.inputs[row * call.shape.inputs..][..call.shape.inputs];
    match &call.operands.norm {
        Some(norm) => norm.apply(s, from, scratch),
        None => from,
    }
}

/// As [`Call::quantise`], for matrices of bfloat16.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn round<S: Pairs>(s: S, call: &Call<'_>, row: usize, scratch: &mut Vec<f32>) {
    let from = prepared(s, call, row, scratch);
    let numbers = call.shape.numbers();
    let (whole, rest) = from.as_chunks::<LANES>();
    // SAFETY: the row's numbers lie in the array, which has room for a multiple of sixteen a row, and are ours alone.
    unsafe {
        let to = call.numbers.cast::<S::Number>().add(row * numbers);
        for (index, values) in whole.iter().enumerate() {
            s.store_numbers(to.add(index * LANES), s.load(values));
        }
        if !rest.is_empty() {
            let mut tail = [0.0; LANES];
            tail[..rest.len()].copy_from_slice(rest);
            s.store_numbers(to.add(whole.len() * LANES), s.load(&tail));
        }
    }
}

/// As [`Call::quantise`], for matrices of bytes.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn quantise<S: Dot>(s: S, call: &Call<'_>, row: usize, scratch: &mut Vec<f32>) {
    let from = prepared(s, call, row, scratch);
    // SAFETY: passed on.
    unsafe {
        if call.shape.kind == Kind::Bytes {
            quantise_by::<S, MIXED, { MIXED / LANES }>(s, call, row, from);
        } else {
            quantise_by::<S, BLOCK, { BLOCK / LANES }>(s, call, row, from);
        }
    }
}

/// Rounds a row in blocks of B numbers, N registers of them.
#[inline(always)]
unsafe fn quantise_by<S: Dot, const B: usize, const N: usize>(s: S, call: &Call<'_>, row: usize, from: &[f32]) {
    let (blocks, block_sums) = (call.shape.blocks(), call.shape.block_sums);
    // SAFETY: the row's blocks lie in the arrays and are ours alone.
    unsafe {
        let mut block = row * blocks;
        let (whole, rest) = from.as_chunks::<B>();
        let (threes, others) = whole.as_chunks::<3>();
        for values in threes {
            quantise_blocks::<S, B, N, 3>(s, call, block, values.each_ref());
            block += 3;
        }
        for values in others {
            quantise_blocks::<S, B, N, 1>(s, call, block, [values]);
            block += 1;
        }
        // What follows the last whole block, and the sums of blocks behind that.
        let mut tail = [0.0; B];
        tail[..rest.len()].copy_from_slice(rest);
        let mut filled = rest.len();
        if block_sums {
            for values in from.chunks(BLOCK) {
                if filled == B {
                    quantise_blocks::<S, B, N, 1>(s, call, block, [&tail]);
                    (block, tail, filled) = (block + 1, [0.0; B], 0);
                }
                tail[filled] = block_sum(s, values);
                filled += 1;
            }
        }
        if filled > 0 {
            quantise_blocks::<S, B, N, 1>(s, call, block, [&tail]);
        }
    }
}

#[inline(always)]
fn block_sum<S: Simd>(s: S, values: &[f32]) -> f32 {
    match values.as_chunks().0 {
        [low, high] => simd::sum(s, s.add(s.load(low), s.load(high))),
        _ => values.iter().sum(),
    }
}

/// Rounds K blocks, each in N registers, from block `block` on; those for matrices of bytes are mixed first.
#[inline(always)]
unsafe fn quantise_blocks<S: Dot, const B: usize, const N: usize, const K: usize>(
    s: S,
    call: &Call<'_>,
    block: usize,
    values: [&[f32; B]; K],
) {
    let mut numbers = [[s.splat(0.0); N]; K];
    for (numbers, values) in numbers.iter_mut().zip(values) {
        *numbers = rounding::load(s, rounding::registers(values));
        if let Some(whole) = numbers.first_chunk_mut().filter(|_| B == MIXED) {
            *whole = rounding::mix_block(s, *whole);
        }
    }
    // SAFETY: the blocks lie in the arrays and are ours alone.
    unsafe {
        let to = std::array::from_fn(|k| &mut *call.bytes.add((block + k) * B).cast::<[i8; B]>());
        for (k, (scale, sum)) in rounding::round(s, numbers, to).into_iter().enumerate() {
            call.scales.add(block + k).write(scale);
            call.offsets.add(block + k).write(sum.wrapping_mul(-128));
        }
    }
}
