//! A tile of keys and values, and what it adds to the rows of a work item: scores, an online softmax (Milakov and
//! Gimelshein, 2018), sums of values.

#![allow(
    clippy::needless_range_loop,
    reason = "iterators take closures, which may be compiled without the processor's features"
)]

use std::ops::Range;

use super::form::{Form, Number};
use super::kernel::{Call, Item, MAX_ITEM_ROWS, TILE, TILE_BLOCKS};
use crate::decode::simd::{self, LANE_INDEX, LANES, Simd};

/// Query rows computed together: as many as leave registers for keys and values.
const ROWS: usize = 6;

/// Softmax state of an item's rows: running maximum, and sixteen partial sums of weights.
struct State {
    max: [f32; MAX_ITEM_ROWS],
    sum: [[f32; LANES]; MAX_ITEM_ROWS],
}

/// Rows `first .. first + R` of an item, where row = token · group + head.
#[derive(Clone, Copy)]
struct Rows {
    first: usize,
    group: usize,
    /// Distances between query (and output) rows of neighbouring tokens, and of neighbouring heads.
    token_stride: usize,
    head_stride: usize,
}

impl Rows {
    #[inline(always)]
    fn offset(self, r: usize) -> usize {
        let row = self.first + r;
        (row / self.group) * self.token_stride + (row % self.group) * self.head_stride
    }

    #[inline(always)]
    fn token(self, r: usize) -> usize {
        (self.first + r) / self.group
    }
}

/// Computes the outputs of one item; `PLAIN` where there is neither window nor soft cap.
///
/// # Safety
/// As for [`Call::attend`], in a function that is compiled for what F stands for.
#[inline(always)]
pub(super) unsafe fn attend<F: Form, const PLAIN: bool>(call: &Call<'_>, item: Item) {
    let stored = call.heads.stored();
    let group = call.heads.group();
    let rows = item.count * group;
    let mut state = State { max: [f32::NEG_INFINITY; MAX_ITEM_ROWS], sum: [[0.0; LANES]; MAX_ITEM_ROWS] };
    // Rows of this item in `queries` and `output`.
    let base = (item.token * call.heads.query + item.kv_head * group) * stored;
    let layout = Rows { first: 0, group, token_stride: call.heads.query * stored, head_stride: stored };
    // SAFETY: rows of this item are inside both arrays and ours alone; the table was validated up to the last position.
    unsafe {
        let query = call.queries.cast_const().cast::<F::Number>().add(base);
        let output = call.output.add(base);
        for r in 0..rows {
            std::slice::from_raw_parts_mut(output.add(layout.offset(r)), stored).fill(0.0);
        }
        let first = if PLAIN || item.apart { 0 } else { (item.position + 1).saturating_sub(call.window) };
        let mut tile = Tile::<F>::empty(stored);
        for start in (first / TILE * TILE..call.end(item)).step_by(TILE) {
            let mut token = 0;
            while let Some(run) = call.next_run(item, start, PLAIN, token) {
                tile.gather(call, call.table(run.sequence), start, run.end, item.kv_head);
                let rows = run.tokens.start * group..run.tokens.end * group;
                tile.rows::<PLAIN>(call, query, output, layout, rows, run.position, &mut state);
                token = run.tokens.end;
            }
        }
        for r in 0..rows {
            let total = simd::sum::<F::S>(F::S::load(state.sum[r].as_ptr()));
            scale_row::<F::S>(output.add(layout.offset(r)), stored, 1.0 / total);
        }
    }
}

#[inline(always)]
unsafe fn scale_row<S: Simd>(row: *mut f32, len: usize, by: f32) {
    // SAFETY: `row` holds `len` floats, a multiple of sixteen.
    unsafe {
        let by = S::splat(by);
        for d in (0..len).step_by(LANES) {
            S::store(row.add(d), S::mul(S::load(row.add(d)), by));
        }
    }
}

/// Up to four cache blocks of one key-value head.
struct Tile<F: Form> {
    keys: [*const F::Number; TILE_BLOCKS],
    values: [*const F::Number; TILE_BLOCKS],
    blocks: usize,
    /// Position of the first key.
    start: usize,
    /// Stored head size.
    stored: usize,
    scores: [[f32; TILE]; ROWS],
    /// e^score, as the values are stored.
    weights: [[F::Number; TILE]; ROWS],
}

impl<F: Form> Tile<F> {
    /// One without blocks, for all tiles of an item: its scratch is made once.
    fn empty(stored: usize) -> Self {
        let nowhere = [std::ptr::null(); TILE_BLOCKS];
        let weights = [[F::Number::of(0.0); TILE]; ROWS];
        Tile { keys: nowhere, values: nowhere, blocks: 0, start: 0, stored, scores: [[0.0; TILE]; ROWS], weights }
    }

    /// Makes it the tile of keys `start..end`, or as many as fit.
    #[inline(always)]
    unsafe fn gather(&mut self, call: &Call<'_>, table: &[i32], start: usize, end: usize, kv_head: usize) {
        (self.start, self.blocks) = (start, (end - start).min(TILE).div_ceil(LANES));
        for b in 0..self.blocks {
            let block = table[start / LANES + b] as usize;
            let offset = block * call.heads.block_floats() + kv_head * self.stored * LANES;
            // SAFETY: the operator checked that every block number of a sequence is inside the cache.
            unsafe {
                self.keys[b] = call.key_cache.cast_const().cast::<F::Number>().add(offset);
                self.values[b] = call.value_cache.cast_const().cast::<F::Number>().add(offset);
            }
        }
    }

    /// Adds this tile's keys and values to some of an item's rows; `position` is that of the item's first token.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "what an item's rows need, and which")]
    unsafe fn rows<const PLAIN: bool>(
        &mut self,
        call: &Call<'_>,
        query: *const F::Number,
        output: *mut f32,
        layout: Rows,
        rows: Range<usize>,
        position: usize,
        state: &mut State,
    ) {
        for first in rows.clone().step_by(ROWS) {
            let here = Rows { first, ..layout };
            // SAFETY: passed on.
            unsafe {
                match (rows.end - first).min(ROWS) {
                    6 => self.step::<6, PLAIN>(call, query, output, here, position, state),
                    5 => self.step::<5, PLAIN>(call, query, output, here, position, state),
                    4 => self.step::<4, PLAIN>(call, query, output, here, position, state),
                    3 => self.step::<3, PLAIN>(call, query, output, here, position, state),
                    2 => self.step::<2, PLAIN>(call, query, output, here, position, state),
                    _ => self.step::<1, PLAIN>(call, query, output, here, position, state),
                }
            }
        }
    }

    /// As [`Tile::rows`], for R rows.
    #[inline(always)]
    unsafe fn step<const R: usize, const PLAIN: bool>(
        &mut self,
        call: &Call<'_>,
        query: *const F::Number,
        output: *mut f32,
        rows: Rows,
        position: usize,
        state: &mut State,
    ) {
        // Keys of this tile that each row may see: from..to.
        let (mut from, mut to) = ([0; R], [0; R]);
        for r in 0..R {
            let end = position.wrapping_add(rows.token(r) + 1);
            let in_tile = |position: usize| position.saturating_sub(self.start).min(self.blocks * LANES);
            from[r] = if PLAIN { 0 } else { in_tile(end.saturating_sub(call.window)) };
            to[r] = in_tile(end);
        }
        // Rows are in order of position, so the last one sees the most on the right, the first one on the left.
        if to[R - 1] == 0 || (!PLAIN && from[0] == self.blocks * LANES) {
            return; // nobody sees this tile
        }
        // SAFETY: passed on.
        unsafe {
            let mut q = [query; R];
            let mut o = [output; R];
            for r in 0..R {
                q[r] = query.add(rows.offset(r));
                o[r] = output.add(rows.offset(r));
            }
            self.score::<R>(q);
            if !PLAIN && call.softcap != 0.0 {
                self.soft_cap(R, call.softcap);
            }
            for r in 0..R {
                if from[r] < to[r] {
                    let max = &mut state.max[rows.first + r];
                    let sum = &mut state.sum[rows.first + r];
                    if !PLAIN {
                        self.scores[r][..from[r]].fill(f32::NEG_INFINITY);
                    }
                    softmax_step::<F>(
                        &mut self.scores[r],
                        &mut self.weights[r],
                        to[r],
                        self.blocks,
                        max,
                        sum,
                        o[r],
                        self.stored,
                    );
                }
            }
            // Keys that all rows see are read once for all; the rest (on the diagonal, and all of a tile in which a
            // window begins) row by row, in order.
            let common = if from[R - 1] == 0 { to[0] / F::Number::RUN * F::Number::RUN } else { 0 };
            self.accumulate::<R>(o, [0, 1, 2, 3, 4, 5], 0, common);
            for r in 0..R {
                self.accumulate::<1>([o[r]], [r, 0, 0, 0, 0, 0], common.max(from[r]), to[r]);
            }
        }
    }

    /// scores[r][key] = q_r · k_key, four blocks at a time where there are four, and registers for them.
    #[inline(always)]
    unsafe fn score<const R: usize>(&mut self, q: [*const F::Number; R]) {
        // SAFETY: passed on.
        unsafe {
            if F::S::MANY_REGISTERS && self.blocks == TILE_BLOCKS {
                self.score_blocks::<R, TILE_BLOCKS>(q, 0);
            } else {
                for b in 0..self.blocks {
                    self.score_blocks::<R, 1>(q, b);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn score_blocks<const R: usize, const B: usize>(&mut self, q: [*const F::Number; R], first: usize) {
        let run = F::Number::RUN;
        // SAFETY: q rows and key dimensions run to the stored head size; scores hold TILE floats a row.
        unsafe {
            let mut acc = [[F::S::splat(0.0); B]; R];
            let mut d = 0;
            while d < self.stored {
                let mut k = [F::load(self.keys[first].add(d * LANES)); B];
                for b in 1..B {
                    k[b] = F::load(self.keys[first + b].add(d * LANES));
                }
                for r in 0..R {
                    let x = F::splat(q[r].add(d));
                    for b in 0..B {
                        acc[r][b] = F::fma(acc[r][b], x, k[b]);
                    }
                }
                d += run;
            }
            for r in 0..R {
                for b in 0..B {
                    F::S::store(self.scores[r].as_mut_ptr().add((first + b) * LANES), acc[r][b]);
                }
            }
        }
    }

    /// s = cap · tanh(s / cap) for the scores of the first `rows` rows.
    #[inline(always)]
    unsafe fn soft_cap(&mut self, rows: usize, cap: f32) {
        // SAFETY: scores hold TILE floats a row.
        unsafe {
            let (cap, inverse) = (F::S::splat(cap), F::S::splat(1.0 / cap));
            for scores in &mut self.scores[..rows] {
                for b in 0..self.blocks {
                    let p = scores.as_mut_ptr().add(b * LANES);
                    F::S::store(p, F::S::mul(cap, simd::tanh::<F::S>(F::S::mul(F::S::load(p), inverse))));
                }
            }
        }
    }

    /// o_r += Σ scores[row_r][key] · v_key over keys `from..to` of the tile, in order.
    #[inline(always)]
    unsafe fn accumulate<const R: usize>(&self, o: [*mut f32; R], row: [usize; ROWS], from: usize, to: usize) {
        if from >= to {
            return;
        }
        // SAFETY: passed on.
        unsafe {
            let mut d = 0;
            while F::S::MANY_REGISTERS && d + 4 * LANES <= self.stored {
                self.accumulate_dims::<R, 4>(o, row, from, to, d);
                d += 4 * LANES;
            }
            while d < self.stored {
                self.accumulate_dims::<R, 1>(o, row, from, to, d);
                d += LANES;
            }
        }
    }

    #[inline(always)]
    unsafe fn accumulate_dims<const R: usize, const D: usize>(
        &self,
        o: [*mut f32; R],
        row: [usize; ROWS],
        from: usize,
        to: usize,
        d: usize,
    ) {
        let run = F::Number::RUN;
        // SAFETY: value rows and outputs run to the stored head size; keys stay below the tile's end, which is a
        // multiple of a run's length.
        unsafe {
            let mut acc = [[F::S::splat(0.0); D]; R];
            for r in 0..R {
                for i in 0..D {
                    acc[r][i] = F::S::load(o[r].add(d + i * LANES).cast_const());
                }
            }
            // Runs that are whole have a loop of their own, without a branch that would cost it registers.
            let (whole, end) = (from.next_multiple_of(run), to / run * run);
            if from < whole {
                self.accumulate_run::<R, D, true>(&mut acc, row, from / run * run, (from, to), d);
            }
            let mut key = whole;
            while key < end {
                self.accumulate_run::<R, D, false>(&mut acc, row, key, (from, to), d);
                key += run;
            }
            if whole <= end && end < to {
                self.accumulate_run::<R, D, true>(&mut acc, row, end, (from, to), d);
            }
            for r in 0..R {
                for i in 0..D {
                    F::S::store(o[r].add(d + i * LANES), acc[r][i]);
                }
            }
        }
    }

    /// The part of [`Tile::accumulate_dims`] that one run of keys adds; where `PARTLY`, only those in `from..to`.
    #[inline(always)]
    unsafe fn accumulate_run<const R: usize, const D: usize, const PARTLY: bool>(
        &self,
        acc: &mut [[<F::S as Simd>::V; D]; R],
        row: [usize; ROWS],
        key: usize,
        (from, to): (usize, usize),
        d: usize,
    ) {
        let run = F::Number::RUN;
        // SAFETY: as for `accumulate_dims`.
        unsafe {
            let values = self.values[key / LANES].add((key % LANES) * self.stored + d * run);
            let mut v = [F::load(values); D];
            for i in 1..D {
                v[i] = F::load(values.add(i * LANES * run));
            }
            if PARTLY {
                // What is hidden is whatever the block held before, NaN perhaps.
                for i in 0..D {
                    v[i] = F::within(v[i], from.saturating_sub(key), to - key);
                }
            }
            for r in 0..R {
                let p = F::splat(self.weights[row[r]].as_ptr().add(key));
                for i in 0..D {
                    acc[r][i] = F::fma(acc[r][i], p, v[i]);
                }
            }
        }
    }
}

/// Turns one row's scores into weights e^(s − max), updating the running maximum and sum, and rescaling the output so
/// far where the maximum grew.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "a row's scores, weights, state and output")]
unsafe fn softmax_step<F: Form>(
    scores: &mut [f32; TILE],
    weights: &mut [F::Number; TILE],
    visible: usize,
    blocks: usize,
    max: &mut f32,
    sum: &mut [f32; LANES],
    output: *mut f32,
    stored: usize,
) {
    // SAFETY: scores and weights hold `blocks`·16 numbers; output holds `stored`.
    unsafe {
        let hidden = F::S::splat(f32::NEG_INFINITY);
        let lanes = F::S::load(LANE_INDEX.as_ptr());
        let mut tile_max = hidden;
        for b in 0..blocks {
            let p = scores.as_mut_ptr().add(b * LANES);
            let mut s = F::S::load(p);
            if visible < (b + 1) * LANES {
                // Lanes beyond the last visible key hold whatever the block held before.
                let limit = F::S::splat(visible as f32 - (b * LANES) as f32);
                s = F::S::select_lt(lanes, limit, s, hidden);
                F::S::store(p, s);
            }
            tile_max = F::S::max(tile_max, s);
        }
        let old = *max;
        let new = old.max(F::S::largest(tile_max));
        let mut total = F::S::load(sum.as_ptr());
        if new > old {
            let shrink = F::S::splat(old - new);
            let mut factor = [0.0; LANES];
            F::S::store(factor.as_mut_ptr(), simd::exp::<F::S>(shrink));
            total = F::S::mul(total, F::S::splat(factor[0]));
            scale_row::<F::S>(output, stored, factor[0]);
            *max = new;
        }
        let new = F::S::splat(new);
        for b in 0..blocks {
            let weight = F::exp(F::S::sub(F::S::load(scores.as_ptr().add(b * LANES)), new));
            // What is summed is what values are multiplied by.
            total = F::S::add(total, F::store(weights.as_mut_ptr().add(b * LANES), weight));
        }
        F::S::store(sum.as_mut_ptr(), total);
    }
}
