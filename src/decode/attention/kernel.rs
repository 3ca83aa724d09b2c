//! Paged attention over packed tokens, in float32.
//!
//! Two passes over one call's tokens. [`Call::prepare`] rotates query and key of a token and writes key and value into
//! the token's cache slot. [`Call::attend`] then computes a tile of queries of one sequence and one key-value head
//! against the cache, with an online softmax (Milakov and Gimelshein, 2018).
//!
//! # Same bits in any batch
//!
//! What a query row computes depends on its sequence alone: scores are summed over the head's dimensions in order, one
//! lane per key; keys are taken in tiles of [`TILE`] that start at absolute positions; sums over keys run in order of
//! position (bfloat16: pair by pair of positions); lanes are folded by a fixed tree. How rows are grouped, chunked or
//! spread over threads only decides which of these independent chains run side by side.
//!
//! # Layout of the cache
//!
//! A block holds [`LANES`] tokens. Per block and key-value head, keys are stored dimension by dimension
//! (`[head_size][16]`), so that one load brings the same dimension of sixteen keys; values token by token
//! (`[16][head_size]`). Head sizes are padded with zeros to a multiple of sixteen. Numbers in bfloat16 come in pairs, as
//! they are multiplied: two dimensions of a key side by side (`[head_size / 2][16][2]`), and of two tokens the same
//! dimension of their values (`[8][head_size][2]`).

#![allow(
    clippy::needless_range_loop,
    reason = "iterators take closures, which may be compiled without the processor's features"
)]

use std::ops::Range;

use super::form::{self, Floats, Form, Number, Stored};
use super::simd::{self, Isa, LANE_INDEX, LANES, Simd};

/// Keys per softmax tile: four blocks.
pub(crate) const TILE: usize = TILE_BLOCKS * LANES;
const TILE_BLOCKS: usize = 4;
/// Query rows computed together: as many as leave registers for keys and values.
const ROWS: usize = 6;
/// Most query rows (tokens × heads of a group) per work item; their softmax state sits on the stack.
const MAX_ITEM_ROWS: usize = 48;
/// Largest head size; a head's numbers sit on the stack while they are rotated.
pub(crate) const MAX_HEAD: usize = 512;

/// Head counts and size of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heads {
    pub(crate) query: usize,
    pub(crate) kv: usize,
    pub(crate) size: usize,
}

impl Heads {
    /// The head size as stored: a multiple of sixteen.
    pub(crate) fn stored(self) -> usize {
        self.size.next_multiple_of(LANES)
    }

    /// Floats of one block in the key cache, and in the value cache.
    pub(crate) fn block_floats(self) -> usize {
        self.kv * self.stored() * LANES
    }

    fn group(self) -> usize {
        self.query / self.kv
    }

    /// Tokens of one sequence per work item.
    pub(crate) fn tokens_per_item(self) -> usize {
        (MAX_ITEM_ROWS / self.group()).max(1)
    }

    /// Sequences of one token each per work item: enough to share what is read, few enough to keep all threads busy.
    pub(crate) fn sequences_per_item(self) -> usize {
        (MAX_ITEM_ROWS / 2 / self.group()).max(1)
    }
}

/// Rotary embedding tables `[positions, half]`.
#[derive(Clone, Copy)]
pub(crate) struct Rotary<'a> {
    pub(crate) cos: &'a [f32],
    pub(crate) sin: &'a [f32],
    pub(crate) half: usize,
    pub(crate) interleaved: bool,
}

/// Where a token's query, key and value lie: `base[token · stride ..]`.
#[derive(Clone, Copy)]
pub(crate) struct Packed<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) offset: usize,
    pub(crate) stride: usize,
}

impl<'a> Packed<'a> {
    fn head(&self, token: usize, head: usize, size: usize) -> &'a [f32] {
        let start = token * self.stride + self.offset + head * size;
        &self.data[start..start + size]
    }
}

/// One work item of [`Call::attend`]: `count` tokens, one key-value head. The tokens are of one sequence, or each is the
/// one token of a sequence of its own; then what several of them have in common is read once for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Item {
    /// First token in the packed batch.
    pub(crate) token: usize,
    pub(crate) count: usize,
    /// Position of the first token in its sequence.
    pub(crate) position: usize,
    /// Sequence of the first token.
    pub(crate) sequence: usize,
    /// Whether the tokens are of `count` sequences, one after the other.
    pub(crate) apart: bool,
    pub(crate) kv_head: usize,
}

/// Tokens of an item that read a tile of keys together.
struct Run {
    /// Counted from the item's first.
    tokens: Range<usize>,
    /// In whose table the tile stands.
    sequence: usize,
    /// Of the item's first token, if its tokens were one sequence's (modulo 2⁶⁴).
    position: usize,
    /// One past the last key that they may read.
    end: usize,
}

/// One layer's attention over one packed batch. All lengths and indices have been validated by the operator.
pub(crate) struct Call<'a> {
    pub(crate) heads: Heads,
    pub(crate) scale: f32,
    /// Scores s become c · tanh(s / c), where c is not 0.
    pub(crate) softcap: f32,
    /// A token sees this many tokens, itself included; `usize::MAX` where it sees all before it.
    pub(crate) window: usize,
    pub(crate) rotary: Option<Rotary<'a>>,
    pub(crate) query: Packed<'a>,
    pub(crate) key: Packed<'a>,
    pub(crate) value: Packed<'a>,
    /// What the caches hold.
    pub(crate) stored_as: Stored,
    /// `[blocks, block_floats]` numbers, written by `prepare`, read by `attend`.
    pub(crate) key_cache: *mut u8,
    pub(crate) value_cache: *mut u8,
    /// `[sequences, table_width]` block numbers.
    pub(crate) block_table: &'a [i32],
    pub(crate) table_width: usize,
    /// `[sequences]` tokens before this call's.
    pub(crate) past: &'a [i32],
    /// Rotated and scaled queries, `[tokens, query heads, stored head size]` numbers as in the caches.
    pub(crate) queries: *mut u8,
    /// `[tokens, query heads, stored head size]`.
    pub(crate) output: *mut f32,
}

// SAFETY: `prepare` writes only its own token's slot and query row, `attend` only its own item's output rows; the
// operator runs all of the first before any of the second.
unsafe impl Sync for Call<'_> {}

impl Call<'_> {
    /// Rotates one token's query and key by row `position` of the rotary tables; stores the query, and key and value in
    /// cache slot `slot` unless it is `None`.
    ///
    /// # Safety
    /// The pointers are valid for the sizes in their comments, `slot` is inside the cache, and no other thread works on
    /// the same token or slot. The processor has what `isa` stands for.
    pub(crate) unsafe fn prepare(&self, token: usize, position: usize, slot: Option<usize>, isa: Isa) {
        // SAFETY: passed on; the caller vouches for the processor.
        unsafe {
            match (self.stored_as, isa) {
                #[cfg(target_arch = "x86_64")]
                (Stored::Float32, Isa::Avx512) => prepare_avx512(self, token, position, slot),
                #[cfg(target_arch = "x86_64")]
                (Stored::Float32, Isa::Avx2) => prepare_avx2(self, token, position, slot),
                (Stored::Float32, Isa::Scalar) => prepare::<Floats<simd::Scalar>>(self, token, position, slot),
                #[cfg(target_arch = "x86_64")]
                (Stored::Bfloat16, Isa::Avx512) => prepare_avx512_bf16(self, token, position, slot),
                (Stored::Bfloat16, _) => prepare::<form::Pairs>(self, token, position, slot),
            }
        }
    }

    /// The blocks of a sequence.
    fn table(&self, sequence: usize) -> &[i32] {
        &self.block_table[sequence * self.table_width..][..self.table_width]
    }

    /// One past the last key that any token of an item sees.
    fn end(&self, item: Item) -> usize {
        match item.apart {
            false => item.position + item.count,
            true => self.past[item.sequence..][..item.count].iter().max().map_or(0, |&past| past as usize + 1),
        }
    }

    /// The next tokens of an item, from `token` on, that see the tile of keys at `start` and can read it together.
    fn next_run(&self, item: Item, start: usize, plain: bool, token: usize) -> Option<Run> {
        if !item.apart {
            let Item { count, position, sequence, .. } = item;
            return (token == 0).then_some(Run { tokens: 0..count, sequence, position, end: position + count });
        }
        let position = |token: usize| self.past[item.sequence + token] as usize;
        let sees = |token: &usize| {
            let first = if plain { 0 } else { (position(*token) + 1).saturating_sub(self.window) };
            start <= position(*token) && first < start + TILE
        };
        let first = (token..item.count).find(sees)?;
        let sequence = item.sequence + first;
        // Neighbours to whom all of the same tile is visible. (Windows begin at different keys, so each goes alone.)
        let tile = |token: usize| &self.table(item.sequence + token)[start / LANES..][..TILE_BLOCKS];
        let whole = |token: usize| plain && start + TILE <= position(token) + 1;
        let alike = |other: &usize| whole(*other) && tile(*other) == tile(first);
        let more = if whole(first) { (first + 1..item.count).take_while(alike).count() } else { 0 };
        // As if the tokens stood in a row: one alone is at its position, and several see the whole tile.
        let from = position(first).wrapping_sub(first);
        Some(Run { tokens: first..first + 1 + more, sequence, position: from, end: position(first) + 1 })
    }

    /// Writes `x`, rotated for `position`, to the front of `to`.
    #[inline(always)]
    fn rotate(&self, x: &[f32], position: usize, to: &mut [f32]) {
        to[..x.len()].copy_from_slice(x);
        let Some(Rotary { cos, sin, half, interleaved }) = self.rotary else { return };
        let cos = &cos[position * half..][..half];
        let sin = &sin[position * half..][..half];
        if interleaved {
            let (pairs, to) = (&x[..2 * half], &mut to[..2 * half]);
            for i in 0..half {
                let (a, b) = (pairs[2 * i], pairs[2 * i + 1]);
                to[2 * i] = a * cos[i] - b * sin[i];
                to[2 * i + 1] = b * cos[i] + a * sin[i];
            }
        } else {
            let ((a, b), (low, high)) = (x[..2 * half].split_at(half), to[..2 * half].split_at_mut(half));
            for i in 0..half {
                low[i] = a[i] * cos[i] - b[i] * sin[i];
                high[i] = b[i] * cos[i] + a[i] * sin[i];
            }
        }
    }

    /// Computes the outputs of one item.
    ///
    /// # Safety
    /// As for [`Call::prepare`]; every token of the batch has been prepared, and no other thread works on this item.
    /// The processor has what `isa` stands for.
    pub(crate) unsafe fn attend(&self, item: Item, isa: Isa) {
        // The usual case has no code for windows and soft caps.
        let plain = self.window == usize::MAX && self.softcap == 0.0;
        // SAFETY: passed on.
        unsafe { if plain { self.attend_on::<true>(item, isa) } else { self.attend_on::<false>(item, isa) } }
    }

    /// # Safety
    /// As for [`Call::attend`].
    unsafe fn attend_on<const PLAIN: bool>(&self, item: Item, isa: Isa) {
        // SAFETY: passed on; the caller vouches for the processor.
        unsafe {
            match (self.stored_as, isa) {
                #[cfg(target_arch = "x86_64")]
                (Stored::Float32, Isa::Avx512) => attend_avx512::<PLAIN>(self, item),
                #[cfg(target_arch = "x86_64")]
                (Stored::Float32, Isa::Avx2) => attend_avx2::<PLAIN>(self, item),
                (Stored::Float32, Isa::Scalar) => attend::<Floats<simd::Scalar>, PLAIN>(self, item),
                #[cfg(target_arch = "x86_64")]
                (Stored::Bfloat16, Isa::Avx512) => attend_avx512_bf16::<PLAIN>(self, item),
                (Stored::Bfloat16, _) => attend::<form::Pairs, PLAIN>(self, item),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn prepare_avx512(call: &Call<'_>, token: usize, position: usize, slot: Option<usize>) {
    // SAFETY: compiled for the features that Avx512 stands for.
    unsafe { prepare::<Floats<simd::x86::Avx512>>(call, token, position, slot) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn prepare_avx512_bf16(call: &Call<'_>, token: usize, position: usize, slot: Option<usize>) {
    // SAFETY: compiled for the features that Avx512Pairs stands for.
    unsafe { prepare::<form::x86::Avx512Pairs>(call, token, position, slot) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn prepare_avx2(call: &Call<'_>, token: usize, position: usize, slot: Option<usize>) {
    // SAFETY: compiled for the features that Avx2 stands for.
    unsafe { prepare::<Floats<simd::x86::Avx2>>(call, token, position, slot) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn attend_avx512<const PLAIN: bool>(call: &Call<'_>, item: Item) {
    // SAFETY: compiled for the features that Avx512 stands for.
    unsafe { attend::<Floats<simd::x86::Avx512>, PLAIN>(call, item) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn attend_avx512_bf16<const PLAIN: bool>(call: &Call<'_>, item: Item) {
    // SAFETY: compiled for the features that Avx512Pairs stands for.
    unsafe { attend::<form::x86::Avx512Pairs, PLAIN>(call, item) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn attend_avx2<const PLAIN: bool>(call: &Call<'_>, item: Item) {
    // SAFETY: compiled for the features that Avx2 stands for.
    unsafe { attend::<Floats<simd::x86::Avx2>, PLAIN>(call, item) }
}

#[inline(always)]
unsafe fn prepare<F: Form>(call: &Call<'_>, token: usize, position: usize, slot: Option<usize>) {
    let Heads { query, kv, size } = call.heads;
    let (stored, run) = (call.heads.stored(), F::Number::RUN);
    // Behind the head's size they stay zero.
    let mut row = [0.0; MAX_HEAD];
    let mut numbers = [F::Number::of(0.0); MAX_HEAD];
    // SAFETY: `queries` holds query·stored numbers for each token, and this token is ours. The slot is inside the cache,
    // and only this call writes it: single lanes are written through the raw pointer, because other threads write
    // their own lanes of the same block.
    unsafe {
        for head in 0..query {
            call.rotate(call.query.head(token, head, size), position, &mut row);
            for x in &mut row[..size] {
                *x *= call.scale;
            }
            store::<F>(call.queries.cast::<F::Number>().add((token * query + head) * stored), &row, stored);
        }
        let Some(slot) = slot else { return };
        let (block, lane) = (slot / LANES, slot % LANES);
        for head in 0..kv {
            let start = block * call.heads.block_floats() + head * stored * LANES;
            call.rotate(call.key.head(token, head, size), position, &mut row);
            store::<F>(numbers.as_mut_ptr(), &row, stored);
            let keys = call.key_cache.cast::<F::Number>().add(start + lane * run);
            for d in 0..stored {
                keys.add(d / run * run * LANES + d % run).write(numbers[d]);
            }
            row[..size].copy_from_slice(call.value.head(token, head, size));
            store::<F>(numbers.as_mut_ptr(), &row, stored);
            let values = call.value_cache.cast::<F::Number>().add(start + lane / run * run * stored + lane % run);
            for d in 0..stored {
                values.add(d * run).write(numbers[d]);
            }
        }
    }
}

/// Stores the first `count` numbers of `row`, a multiple of sixteen.
#[inline(always)]
unsafe fn store<F: Form>(to: *mut F::Number, row: &[f32; MAX_HEAD], count: usize) {
    for d in (0..count).step_by(LANES) {
        // SAFETY: the caller has room for `count` numbers.
        unsafe { F::store(to.add(d), F::S::load(row.as_ptr().add(d))) };
    }
}

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

/// `PLAIN` where there is neither window nor soft cap.
#[inline(always)]
unsafe fn attend<F: Form, const PLAIN: bool>(call: &Call<'_>, item: Item) {
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
