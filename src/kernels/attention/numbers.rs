//! Tiles of float32, or of pairs of bfloat16.

#![allow(
    clippy::needless_range_loop,
    reason = "iterators take closures, which may be compiled without the processor's features"
)]

use super::call::Call;
use super::form::{Form, Number};
use super::layout::{TILE, TILE_BLOCKS};
use super::tile::{ROWS, Seen, State, Tile, scale_row};
use crate::simd::{self, LANE_INDEX, LANES, Simd};

/// Up to four cache blocks of one key-value head, of numbers.
pub(super) struct Numbers<F: Form> {
    form: F,
    keys: [*const F::Number; TILE_BLOCKS],
    values: [*const F::Number; TILE_BLOCKS],
    blocks: usize,
    /// Position of the first key.
    start: usize,
    /// Stored head size.
    stored: usize,
    scores: [[[f32; LANES]; TILE_BLOCKS]; ROWS],
    /// e^score, as the values are stored.
    weights: [[[F::Number; LANES]; TILE_BLOCKS]; ROWS],
}

impl<F: Form> Tile for Numbers<F> {
    type Token = F;
    type S = F::S;
    const CLEARED: bool = true;

    fn query_bytes(stored: usize) -> usize {
        stored * size_of::<F::Number>()
    }

    fn empty(form: F, stored: usize) -> Self {
        let nowhere = [std::ptr::null(); TILE_BLOCKS];
        let weights = [[[F::Number::of(0.0); LANES]; TILE_BLOCKS]; ROWS];
        Numbers {
            form,
            keys: nowhere,
            values: nowhere,
            blocks: 0,
            start: 0,
            stored,
            scores: [[[0.0; LANES]; TILE_BLOCKS]; ROWS],
            weights,
        }
    }

    #[inline(always)]
    unsafe fn gather(&mut self, call: &Call<'_>, table: &[i32], start: usize, end: usize, kv_head: usize) {
        (self.start, self.blocks) = (start, (end - start).min(TILE).div_ceil(LANES));
        for b in 0..self.blocks {
            let offset = call.stored_as.head_offset(call.heads, table[start / LANES + b] as usize, kv_head);
            // SAFETY: the operator checked that every block number of a sequence is inside the cache.
            unsafe {
                self.keys[b] = call.key_cache.cast_const().add(offset).cast();
                self.values[b] = call.value_cache.cast_const().add(offset).cast();
            }
        }
    }

    #[inline(always)]
    fn lanes(&self) -> F::S {
        self.form.lanes()
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
        Seen { from, to }: Seen<R>,
        state: &mut State,
        first: usize,
    ) {
        // SAFETY: passed on.
        unsafe {
            let mut q = [std::ptr::null(); R];
            for r in 0..R {
                q[r] = query[r].cast();
            }
            self.score::<R>(q);
            if !PLAIN && call.softcap != 0.0 {
                self.soft_cap(R, call.softcap);
            }
            for r in 0..R {
                if from[r] < to[r] {
                    if !PLAIN {
                        self.scores[r].as_flattened_mut()[..from[r]].fill(f32::NEG_INFINITY);
                    }
                    let (max, sum) = (&mut state.max[first + r], &mut state.sum[first + r]);
                    self.weigh(r, to[r], max, sum, output[r]);
                }
            }
            // Keys that all rows see are read once for all; the rest (on the diagonal, and all of a tile in which a
            // window begins) row by row, in order.
            let common = if from[R - 1] == 0 { to[0] / F::Number::RUN * F::Number::RUN } else { 0 };
            self.accumulate::<R>(output, [0, 1, 2, 3, 4, 5], 0, common);
            for r in 0..R {
                self.accumulate::<1>([output[r]], [r, 0, 0, 0, 0, 0], common.max(from[r]), to[r]);
            }
        }
    }

    #[inline(always)]
    unsafe fn finish(&self, output: *mut f32, total: f32) {
        // SAFETY: passed on.
        unsafe { scale_row(self.lanes(), output, self.stored, 1.0 / total) }
    }
}

impl<F: Form> Numbers<F> {
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
        let (f, s) = (self.form, self.lanes());
        let run = F::Number::RUN;
        // SAFETY: q rows and key dimensions run to the stored head size; scores hold TILE floats a row.
        unsafe {
            let mut acc = [[s.splat(0.0); B]; R];
            let mut d = 0;
            while d < self.stored {
                let mut k = [f.load(self.keys[first].add(d * LANES)); B];
                for b in 1..B {
                    k[b] = f.load(self.keys[first + b].add(d * LANES));
                }
                for r in 0..R {
                    let x = f.splat(q[r].add(d));
                    for b in 0..B {
                        acc[r][b] = f.fma(acc[r][b], x, k[b]);
                    }
                }
                d += run;
            }
            for r in 0..R {
                for b in 0..B {
                    s.store(&mut self.scores[r][first + b], acc[r][b]);
                }
            }
        }
    }

    /// s = cap · tanh(s / cap) for the scores of the first `rows` rows.
    #[inline(always)]
    fn soft_cap(&mut self, rows: usize, cap: f32) {
        let s = self.lanes();
        let (cap, inverse) = (s.splat(cap), s.splat(1.0 / cap));
        for scores in &mut self.scores[..rows] {
            for scores in &mut scores[..self.blocks] {
                let capped = s.mul(cap, simd::tanh(s, s.mul(s.load(scores), inverse)));
                s.store(scores, capped);
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
        let s = self.lanes();
        let run = F::Number::RUN;
        // SAFETY: value rows and outputs run to the stored head size; keys stay below the tile's end, which is a
        // multiple of a run's length.
        unsafe {
            let mut acc = [[s.splat(0.0); D]; R];
            for r in 0..R {
                for i in 0..D {
                    acc[r][i] = s.read(o[r].add(d + i * LANES));
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
                    s.write(o[r].add(d + i * LANES), acc[r][i]);
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
        let f = self.form;
        let run = F::Number::RUN;
        // SAFETY: as for `accumulate_dims`.
        unsafe {
            let values = self.values[key / LANES].add((key % LANES) * self.stored + d * run);
            let mut v = [f.load(values); D];
            for i in 1..D {
                v[i] = f.load(values.add(i * LANES * run));
            }
            if PARTLY {
                // What is hidden is whatever the block held before, NaN perhaps.
                for i in 0..D {
                    v[i] = f.within(v[i], from.saturating_sub(key), to - key);
                }
            }
            for r in 0..R {
                let p = f.splat(self.weights[row[r]].as_flattened().as_ptr().add(key));
                for i in 0..D {
                    acc[r][i] = f.fma(acc[r][i], p, v[i]);
                }
            }
        }
    }

    /// Turns the scores of row `r`, which sees `visible` keys, into weights e^(s − max), updating the running maximum and
    /// sum, and rescaling the output so far where the maximum grew.
    #[inline(always)]
    unsafe fn weigh(&mut self, r: usize, visible: usize, max: &mut f32, sum: &mut [f32; LANES], output: *mut f32) {
        let (f, s) = (self.form, self.lanes());
        let hidden = s.splat(f32::NEG_INFINITY);
        let lanes = s.load(&LANE_INDEX);
        let mut tile_max = hidden;
        for (b, scores) in self.scores[r][..self.blocks].iter_mut().enumerate() {
            let mut score = s.load(scores);
            if visible < (b + 1) * LANES {
                // Lanes beyond the last visible key hold whatever the block held before.
                let limit = s.splat(visible as f32 - (b * LANES) as f32);
                score = s.select_lt(lanes, limit, score, hidden);
                s.store(scores, score);
            }
            tile_max = s.max(tile_max, score);
        }
        let old = *max;
        let new = old.max(s.largest(tile_max));
        let mut total = s.load(sum);
        if new > old {
            let shrink = s.splat(old - new);
            let mut factor = [0.0; LANES];
            s.store(&mut factor, simd::exp(s, shrink));
            total = s.mul(total, s.splat(factor[0]));
            // SAFETY: the output holds `stored` numbers.
            unsafe { scale_row(s, output, self.stored, factor[0]) };
            *max = new;
        }
        let new = s.splat(new);
        for (scores, weights) in self.scores[r][..self.blocks].iter().zip(&mut self.weights[r]) {
            let weight = f.exp(s.sub(s.load(scores), new));
            // What is summed is what values are multiplied by.
            total = s.add(total, f.store(weights, weight));
        }
        s.store(sum, total);
    }
}
