//! Tiles of bytes: keys, values, queries and weights in eight bits. AVX-512 VNNI multiplies four of them in the place of one
//! float.
//!
//! # Rounding
//!
//! A token's key and value have a scale for each head. A query has one for each of its heads. So no number is rounded by
//! what other tokens are. A Walsh-Hadamard transform mixes them before they are rounded, which spreads what is large in one
//! dimension over all of them (QuaRot, Ashkboos and others, 2024). The transform is orthogonal: products of mixed queries
//! and keys are the products, and the sum of mixed values is mixed back once a row.
//!
//! A weight is e^(s + ln c), where s is the score and c the scale of the key's value, so a sum over keys can run over bytes.
//! The largest of a row's weights in a tile becomes 255. A scale for the whole row would lose the many small weights that
//! come after a large one, and models put a large one on the first token. The sum of weights, without the scales of values,
//! stays in float32 and is not rounded.
//!
//! # Layout of the cache
//!
//! A block has sixteen tokens. For each key-value head, keys are stored four dimensions at a time, `[head_size / 4][16][4]`,
//! as unsigned bytes (128 stands for zero). The sixteen scales follow in float32. Values are stored four tokens at a time,
//! `[4][head_size][4]`, as signed bytes. The sixteen logarithms of scales follow. A row of queries is `[head_size]` signed
//! bytes, its scale, and what 128 for zero adds to its products, with the sign turned.
//!
//! Integer sums are exact, so it does not matter which rows and keys are summed together, or what hidden keys hold.
//!
//! A token takes a bit more than a quarter of the memory that it takes in float32. docs/quantisation.md says what bytes
//! cost in quality, and docs/speed.md what they gain.

#![allow(
    clippy::needless_range_loop,
    reason = "iterators take closures, which may be compiled without the processor's features"
)]

use std::f32::consts::LOG2_E;

use super::call::Call;
use super::layout::{Heads, MAX_HEAD, TILE, TILE_BLOCKS};
use super::tile::{ROWS, Seen, State, Tile, scale_row};
use crate::dot::{Dot, QUAD};
use crate::rounding::{self, MIXED};
use crate::simd::{self, LANE_INDEX, LANES, Simd};

/// Bytes of a row of queries behind its numbers.
const QUERY_TAIL: usize = size_of::<f32>() + size_of::<i32>();
/// Bytes of four dimensions of sixteen keys.
const KEY_QUAD: usize = LANES * QUAD;
/// Smallest scale of values: nothing's logarithm can't be taken.
const SMALLEST_SCALE: f32 = 1e-10;
/// log₂ 255
const LOG_LARGEST: f32 = 7.994_353_3;

/// Length of the transforms that mix a head of this stored size.
fn mixed_length(stored: usize) -> usize {
    1 << stored.trailing_zeros()
}

/// Mixes a head's numbers, without the transform's factor, which would be one over the root of its length.
#[inline(always)]
fn mix<S: Dot>(s: S, row: &mut [f32]) {
    let length = mixed_length(row.len());
    let mut half = if length < MIXED { LANES } else { MIXED };
    if half == MIXED {
        for block in row.as_chunks_mut::<MIXED>().0 {
            let mixed = rounding::mix_block(s, rounding::load(s, rounding::registers(block)));
            for (to, v) in block.as_chunks_mut().0.iter_mut().zip(mixed) {
                s.store(to, v);
            }
        }
    } else {
        for lanes in row.as_chunks_mut().0 {
            let mixed = s.mix(s.load(lanes));
            s.store(lanes, mixed);
        }
    }
    while half < length {
        for pair in row.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (low, high) in low.as_chunks_mut().0.iter_mut().zip(high.as_chunks_mut().0) {
                let (a, b) = (s.load(low), s.load(high));
                s.store(low, s.add(a, b));
                s.store(high, s.sub(a, b));
            }
        }
        half *= 2;
    }
}

/// Mixes the head in the first `size` numbers of `row` and rounds it to `bytes`; returns its scale and the bytes' sum. Behind
/// the stored size, `row` is zero.
#[inline(always)]
fn mix_and_round<S: Dot>(
    s: S,
    row: &mut [f32; MAX_HEAD],
    size: usize,
    stored: usize,
    bytes: &mut [i8; MAX_HEAD],
) -> (f32, i32) {
    row[size..stored].fill(0.0);
    mix(s, &mut row[..stored]);
    let pairs = stored.div_ceil(2 * LANES);
    rounding::round_all(s, &row.as_chunks().0[..pairs], &mut bytes.as_chunks_mut().0[..pairs])
}

/// As [`Call::prepare`], over bytes.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn prepare<S: Dot>(s: S, call: &Call<'_>, token: usize, position: usize, slot: Option<usize>) {
    let Heads { query, kv, size } = call.heads;
    let stored = call.heads.stored();
    // Behind the stored size they stay zero.
    let mut row = [0.0; MAX_HEAD];
    let mut bytes = [0_i8; MAX_HEAD];
    // SAFETY: `queries` has room for a row of float32 for each head, and this token is ours. The slot is inside the cache,
    // and only this call writes it, through the raw pointer, because other threads write their own lanes of the same
    // block.
    unsafe {
        // Scores are logarithms of base two, but for the soft cap.
        let base = if call.softcap == 0.0 { LOG2_E } else { 1.0 };
        let factor = base * call.scale / mixed_length(stored) as f32;
        for head in 0..query {
            call.rotate(s, call.query.head(token, head, size), position, &mut row);
            let (scale, sum) = mix_and_round(s, &mut row, size, stored, &mut bytes);
            let to = call.queries.add((token * query + head) * (stored + QUERY_TAIL));
            std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), to, stored);
            to.add(stored).cast::<f32>().write_unaligned(scale * factor);
            to.add(stored + size_of::<f32>()).cast::<i32>().write_unaligned(-128 * sum);
        }
        let Some(slot) = slot else { return };
        let (block, lane) = (slot / LANES, slot % LANES);
        for head in 0..kv {
            let start = call.stored_as.head_offset(call.heads, block, head);
            call.rotate(s, call.key.head(token, head, size), position, &mut row);
            let (scale, _) = mix_and_round(s, &mut row, size, stored, &mut bytes);
            let keys = call.key_cache.add(start);
            for quad in 0..stored / QUAD {
                let four = bytes.as_ptr().add(quad * QUAD).cast::<u32>().read_unaligned() ^ 0x8080_8080;
                keys.add(quad * KEY_QUAD + lane * QUAD).cast::<u32>().write_unaligned(four);
            }
            keys.add(stored * LANES).cast::<f32>().add(lane).write_unaligned(scale);

            row[..size].copy_from_slice(call.value.head(token, head, size));
            let (scale, _) = mix_and_round(s, &mut row, size, stored, &mut bytes);
            let values = call.value_cache.add(start);
            for d in 0..stored {
                let at = lane / QUAD * QUAD * stored + d * QUAD + lane % QUAD;
                values.add(at).cast::<i8>().write(bytes[d]);
            }
            // NaN stays NaN.
            let scale = if scale < SMALLEST_SCALE { SMALLEST_SCALE } else { scale };
            values.add(stored * LANES).cast::<f32>().add(lane).write_unaligned(scale.log2());
        }
    }
}

/// Up to four cache blocks of one key-value head, of bytes. Where there are fewer, the first stands for those that are
/// missing, and nobody sees their keys.
pub(super) struct Bytes<S> {
    lanes: S,
    keys: [*const u8; TILE_BLOCKS],
    values: [*const u8; TILE_BLOCKS],
    /// One over the values' scales.
    inverse: [[f32; LANES]; TILE_BLOCKS],
    blocks: usize,
    /// Position of the first key.
    start: usize,
    /// Stored head size.
    stored: usize,
    scores: [[[f32; LANES]; TILE_BLOCKS]; ROWS],
    weights: [[u8; TILE]; ROWS],
}

impl<S: Dot> Tile for Bytes<S> {
    type Token = S;
    type S = S;
    const CLEARED: bool = false;

    fn query_bytes(stored: usize) -> usize {
        stored + QUERY_TAIL
    }

    fn empty(lanes: S, stored: usize) -> Self {
        let nowhere = [std::ptr::null(); TILE_BLOCKS];
        Bytes {
            lanes,
            keys: nowhere,
            values: nowhere,
            inverse: [[0.0; LANES]; TILE_BLOCKS],
            blocks: 0,
            start: 0,
            stored,
            scores: [[[0.0; LANES]; TILE_BLOCKS]; ROWS],
            weights: [[0; TILE]; ROWS],
        }
    }

    #[inline(always)]
    unsafe fn gather(&mut self, call: &Call<'_>, table: &[i32], start: usize, end: usize, kv_head: usize) {
        let s = self.lanes;
        (self.start, self.blocks) = (start, (end - start).min(TILE).div_ceil(LANES));
        for b in 0..TILE_BLOCKS {
            let block = table[start / LANES + if b < self.blocks { b } else { 0 }] as usize;
            let offset = call.stored_as.head_offset(call.heads, block, kv_head);
            // SAFETY: the operator checked that every block number of a sequence is inside the cache.
            unsafe {
                self.keys[b] = call.key_cache.cast_const().add(offset);
                self.values[b] = call.value_cache.cast_const().add(offset);
                let inverse = simd::coarse_exp2(s, s.sub(s.splat(0.0), s.read(self.logarithms(b))));
                s.store(&mut self.inverse[b], inverse);
            }
        }
    }

    #[inline(always)]
    fn lanes(&self) -> S {
        self.lanes
    }

    #[inline(always)]
    fn keys(&self) -> (usize, usize) {
        (self.start, self.blocks * LANES)
    }

    #[inline(always)]
    unsafe fn add<const R: usize, const PLAIN: bool>(
        &mut self,
        call: &Call<'_>,
        query: [*const u8; R],
        output: [*mut f32; R],
        seen: Seen<R>,
        state: &mut State,
        first: usize,
    ) {
        let s = self.lanes;
        // SAFETY: passed on.
        unsafe {
            // Pass by pass over all rows: what a row's weights wait for is a long chain, of which a processor sees one.
            let largest = self.score::<R, PLAIN>(call, query, seen);
            let (mut tops, mut change) = ([0.0; R], [0.0; LANES]);
            for r in 0..R {
                tops[r] = s.largest(largest[r]) - LOG_LARGEST;
                change[r] = tops[r] - state.max[first + r];
            }
            let mut shrink = [0.0; LANES];
            let x = s.load(&change);
            // −|x|, in this order: of a NaN and a number, `max` gives the second.
            let x = s.sub(s.splat(0.0), s.max(s.sub(s.splat(0.0), x), x));
            s.store(&mut shrink, simd::coarse_exp2(s, x));
            let mut factors = [None; R];
            for r in 0..R {
                if seen.from[r] < seen.to[r] {
                    let here = self.weigh(r, tops[r], seen.from[r], seen.to[r]);
                    let row = first + r;
                    let (before, now) = if change[r] > 0.0 { (shrink[r], 1.0) } else { (1.0, shrink[r]) };
                    let sum = &mut state.sum[row];
                    let grown = s.fma(s.load(sum), s.splat(before), s.mul(here, s.splat(now)));
                    s.store(sum, grown);
                    // Nothing yet: what the output holds is not looked at.
                    let before = if state.max[row] == f32::NEG_INFINITY { 0.0 } else { before };
                    if change[r] > 0.0 {
                        state.max[row] = tops[r];
                    }
                    factors[r] = Some((before, now));
                }
            }
            self.accumulate::<R>(output, factors, seen.from[0] / QUAD, seen.to[R - 1].div_ceil(QUAD));
        }
    }

    #[inline(always)]
    unsafe fn finish(&self, output: *mut f32, total: f32) {
        // SAFETY: the row holds `stored` floats.
        unsafe {
            scale_row(self.lanes, output, self.stored, 1.0 / (total * mixed_length(self.stored) as f32));
            mix(self.lanes, std::slice::from_raw_parts_mut(output, self.stored));
        }
    }
}

impl<S: Dot> Bytes<S> {
    /// The scales of block `b`'s keys.
    #[inline(always)]
    unsafe fn scales(&self, b: usize) -> *const f32 {
        // SAFETY: they stand behind the keys.
        unsafe { self.keys[b].add(self.stored * LANES).cast() }
    }

    /// The logarithms of the scales of block `b`'s values.
    #[inline(always)]
    unsafe fn logarithms(&self, b: usize) -> *const f32 {
        // SAFETY: they stand behind the values.
        unsafe { self.values[b].add(self.stored * LANES).cast() }
    }

    /// The scores of all keys that each row sees, and sixteen maxima of each row.
    #[inline(always)]
    unsafe fn score<const R: usize, const PLAIN: bool>(
        &mut self,
        call: &Call<'_>,
        query: [*const u8; R],
        seen: Seen<R>,
    ) -> [S::V; R] {
        let s = self.lanes;
        // SAFETY: passed on.
        unsafe {
            let mut largest = [s.splat(f32::NEG_INFINITY); R];
            if S::MANY_REGISTERS {
                self.score_blocks::<R, TILE_BLOCKS, PLAIN>(query, 0, &mut largest);
            } else {
                for b in 0..self.blocks {
                    self.score_blocks::<R, 1, PLAIN>(query, b, &mut largest);
                }
            }
            for r in 0..R {
                if !PLAIN || seen.to[r] < TILE {
                    largest[r] = self.revise::<PLAIN>(r, call.softcap, seen.from[r], seen.to[r]);
                }
            }
            largest
        }
    }

    /// scores[r][key] = q_r · k_key + log₂ c_key over B blocks, without the logarithm where scores are to be capped.
    #[inline(always)]
    unsafe fn score_blocks<const R: usize, const B: usize, const PLAIN: bool>(
        &mut self,
        query: [*const u8; R],
        first: usize,
        largest: &mut [S::V; R],
    ) {
        let s = self.lanes;
        // SAFETY: query rows and keys run to the stored head size; scores hold TILE numbers a row.
        unsafe {
            let mut sums = [[s.splat_sum(0); B]; R];
            let mut scales = [0.0; R];
            for r in 0..R {
                let tail = query[r].add(self.stored);
                scales[r] = tail.cast::<f32>().read_unaligned();
                sums[r] = [s.splat_sum(tail.add(size_of::<f32>()).cast::<i32>().read_unaligned()); B];
            }
            for quad in 0..self.stored / QUAD {
                let mut keys = [s.weights(self.keys[first].add(quad * KEY_QUAD)); B];
                for b in 1..B {
                    keys[b] = s.weights(self.keys[first + b].add(quad * KEY_QUAD));
                }
                for r in 0..R {
                    let x = s.inputs(query[r].add(quad * QUAD).cast());
                    for b in 0..B {
                        sums[r][b] = s.dot(sums[r][b], keys[b], x);
                    }
                }
            }
            for b in 0..B {
                let key = s.read(self.scales(first + b));
                let value = if PLAIN { s.read(self.logarithms(first + b)) } else { s.splat(0.0) };
                for r in 0..R {
                    let score = s.fma(s.mul(s.floats(sums[r][b]), s.splat(scales[r])), key, value);
                    largest[r] = s.max(largest[r], score);
                    s.store(&mut self.scores[r][first + b], score);
                }
            }
        }
    }

    /// Caps the scores of row `r`, unless PLAIN, and hides keys that are not among `from..to`; returns the maxima anew.
    #[inline(always)]
    unsafe fn revise<const PLAIN: bool>(&mut self, r: usize, softcap: f32, from: usize, to: usize) -> S::V {
        let s = self.lanes;
        let hidden = s.splat(f32::NEG_INFINITY);
        let mut largest = hidden;
        for b in 0..TILE_BLOCKS {
            let mut score = s.load(&self.scores[r][b]);
            if !PLAIN {
                if softcap != 0.0 {
                    let (cap, inverse) = (s.splat(softcap * LOG2_E), s.splat(1.0 / softcap));
                    score = s.mul(cap, simd::tanh(s, s.mul(score, inverse)));
                }
                // SAFETY: all four blocks have logarithms.
                score = s.add(score, unsafe { s.read(self.logarithms(b)) });
            }
            let score = within(s, score, b, from, to, hidden);
            largest = s.max(largest, score);
            s.store(&mut self.scores[r][b], score);
        }
        largest
    }

    /// Makes weights of row r's scores, of which it sees `from..to`; a weight of 1 stands for 2^`top`. Returns sixteen
    /// partial sums of the weights without the values' scales.
    #[inline(always)]
    fn weigh(&mut self, r: usize, top: f32, from: usize, to: usize) -> S::V {
        let s = self.lanes;
        let (top, zero) = (s.splat(top), s.splat(0.0));
        let mut sum = zero;
        for (pair, weights) in self.weights[r].as_chunks_mut().0.iter_mut().enumerate() {
            let mut values = [zero; 2];
            for i in 0..2 {
                let b = 2 * pair + i;
                let mut inverse = s.load(&self.inverse[b]);
                if from > 0 || to < TILE {
                    // What is hidden is whatever the block held before, NaN perhaps.
                    inverse = within(s, inverse, b, from, to, zero);
                }
                values[i] = simd::coarse_exp2(s, s.sub(s.load(&self.scores[r][b]), top));
                sum = s.fma(values[i], inverse, sum);
            }
            s.store_unsigned(weights, values[0], values[1]);
        }
        sum
    }

    /// o_r = before_r · o_r + here_r · Σ weights[r][key] · v_key over quads of the tile, where there are factors.
    #[inline(always)]
    unsafe fn accumulate<const R: usize>(
        &self,
        output: [*mut f32; R],
        factors: [Option<(f32, f32)>; R],
        from: usize,
        to: usize,
    ) {
        // SAFETY: passed on.
        unsafe {
            let mut d = 0;
            while S::MANY_REGISTERS && d + 4 * LANES <= self.stored {
                self.accumulate_dims::<R, 4>(output, factors, from, to, d);
                d += 4 * LANES;
            }
            while d < self.stored {
                self.accumulate_dims::<R, 1>(output, factors, from, to, d);
                d += LANES;
            }
        }
    }

    #[inline(always)]
    unsafe fn accumulate_dims<const R: usize, const D: usize>(
        &self,
        output: [*mut f32; R],
        factors: [Option<(f32, f32)>; R],
        from: usize,
        to: usize,
        d: usize,
    ) {
        let s = self.lanes;
        /// Quads of keys in a block.
        const QUADS: usize = LANES / QUAD;
        // SAFETY: values and outputs run to the stored head size; quads stay below the tile's end.
        unsafe {
            let mut sums = [[s.splat_sum(0); D]; R];
            for quad in from..to {
                let values = self.values[quad / QUADS].add(((quad % QUADS) * self.stored + d) * QUAD).cast();
                let mut v = [s.column_inputs(values); D];
                for i in 1..D {
                    v[i] = s.column_inputs(values.add(i * LANES * QUAD));
                }
                for r in 0..R {
                    let weights = s.splat_weights(self.weights[r].as_ptr().add(quad * QUAD));
                    for i in 0..D {
                        sums[r][i] = s.dot_columns(sums[r][i], weights, v[i]);
                    }
                }
            }
            for r in 0..R {
                let Some((before, here)) = factors[r] else { continue };
                for i in 0..D {
                    let to = output[r].add(d + i * LANES);
                    let mut sum = s.mul(s.floats(sums[r][i]), s.splat(here));
                    if before != 0.0 {
                        sum = s.fma(s.read(to), s.splat(before), sum);
                    }
                    s.write(to, sum);
                }
            }
        }
    }
}

/// Lanes of block `b` whose keys are among `from..to`; `other` in those that are not.
#[inline(always)]
fn within<S: Simd>(s: S, v: S::V, b: usize, from: usize, to: usize, other: S::V) -> S::V {
    let lanes = s.load(&LANE_INDEX);
    let first = (b * LANES) as f32;
    let v = s.select_lt(lanes, s.splat(to as f32 - first), v, other);
    s.select_lt(lanes, s.splat(from as f32 - first), other, v)
}
