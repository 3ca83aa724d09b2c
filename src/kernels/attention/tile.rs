//! A work item's walk over its tiles of keys and values, of any kind: scores, an online softmax (Milakov and Gimelshein,
//! 2018), sums of values.

use std::array::from_fn;
use std::ops::Range;

use super::call::{Call, Item};
use super::layout::{MAX_ITEM_ROWS, TILE};
use crate::simd::{self, LANES, Simd};

/// Query rows computed together: as many as leave registers for keys and values.
pub(super) const ROWS: usize = 6;

/// Softmax state of an item's rows: running maximum, and sixteen partial sums of weights.
pub(super) struct State {
    pub(super) max: [f32; MAX_ITEM_ROWS],
    pub(super) sum: [[f32; LANES]; MAX_ITEM_ROWS],
}

/// Rows of an item from `first` on, where row = token · group + head, the group being the item's heads.
#[derive(Clone, Copy)]
struct Rows {
    first: usize,
    group: usize,
    /// Query heads of a token.
    heads: usize,
    /// Position of the item's first token.
    position: usize,
}

impl Rows {
    /// Where row `r` stands among all query heads of all tokens, counted from the item's first.
    #[inline(always)]
    fn index(self, r: usize) -> usize {
        let row = self.first + r;
        (row / self.group) * self.heads + row % self.group
    }

    /// One past the last key that row `r` sees.
    #[inline(always)]
    fn end(self, r: usize) -> usize {
        self.position.wrapping_add((self.first + r) / self.group + 1)
    }
}

/// Keys of a tile that R rows may see: `from[r]..to[r]`.
#[derive(Clone, Copy)]
pub(super) struct Seen<const R: usize> {
    pub(super) from: [usize; R],
    pub(super) to: [usize; R],
}

/// Up to four cache blocks of one key-value head.
///
/// # Safety
/// Its unsafe functions are used as [`Call::attend`] is.
pub(super) trait Tile {
    /// What its arithmetic takes.
    type Token;
    type S: Simd;
    /// Whether output rows have to be zero before the first tile.
    const CLEARED: bool;
    /// Bytes of a row of queries.
    fn query_bytes(stored: usize) -> usize;
    /// One without blocks, for all tiles of an item: its scratch is made once.
    fn empty(token: Self::Token, stored: usize) -> Self;
    /// The token of its lanes.
    fn lanes(&self) -> Self::S;
    /// Makes it the tile of keys `start..end`, or as many as fit.
    unsafe fn gather(&mut self, call: &Call<'_>, table: &[i32], start: usize, end: usize, kv_head: usize);
    /// Position of the first key, and how many there are.
    fn keys(&self) -> (usize, usize);
    /// Adds this tile's keys and values to R rows, the first of which is the item's row `first`.
    unsafe fn add<const R: usize, const PLAIN: bool>(
        &mut self,
        call: &Call<'_>,
        query: [*const u8; R],
        output: [*mut f32; R],
        seen: Seen<R>,
        state: &mut State,
        first: usize,
    );
    /// Makes the output of a row of its sum of values and its sum of weights.
    unsafe fn finish(&self, output: *mut f32, total: f32);
}

/// Computes the outputs of one item; `PLAIN` where there is neither window nor soft cap.
///
/// # Safety
/// As for [`Call::attend`].
#[inline(always)]
pub(super) unsafe fn attend<T: Tile, const PLAIN: bool>(token: T::Token, call: &Call<'_>, item: Item) {
    let stored = call.heads.stored();
    let group = item.heads;
    let rows = item.count * group;
    debug_assert!(rows <= MAX_ITEM_ROWS, "{item:?} has more rows than an item has room for");
    let kv_head = item.head / call.heads.group();
    let mut state = State { max: [f32::NEG_INFINITY; MAX_ITEM_ROWS], sum: [[0.0; LANES]; MAX_ITEM_ROWS] };
    // Rows of this item in `queries` and `output`.
    let base = item.token * call.heads.query + item.head;
    let layout = Rows { first: 0, group, heads: call.heads.query, position: item.position };
    // SAFETY: rows of this item are inside both arrays and ours alone; the table was validated up to the last position.
    unsafe {
        let query = call.queries.cast_const().add(base * T::query_bytes(stored));
        let output = call.output.add(base * stored);
        if T::CLEARED {
            for r in 0..rows {
                std::slice::from_raw_parts_mut(output.add(layout.index(r) * stored), stored).fill(0.0);
            }
        }
        let first = if PLAIN || item.apart { 0 } else { (item.position + 1).saturating_sub(call.window) };
        let mut tile = T::empty(token, stored);
        for start in (first / TILE * TILE..call.end(item)).step_by(TILE) {
            let mut next = 0;
            while let Some(run) = call.next_run(item, start, PLAIN, next) {
                tile.gather(call, call.table(run.sequence), start, run.end, kv_head);
                let rows = run.tokens.start * group..run.tokens.end * group;
                let layout = Rows { position: run.position, ..layout };
                add_rows::<T, PLAIN>(&mut tile, call, query, output, layout, rows, &mut state);
                next = run.tokens.end;
            }
        }
        for (r, sum) in state.sum[..rows].iter().enumerate() {
            let total = simd::sum(tile.lanes(), tile.lanes().load(sum));
            tile.finish(output.add(layout.index(r) * stored), total);
        }
    }
}

/// Multiplies `len` numbers, a multiple of sixteen, by one.
#[inline(always)]
pub(super) unsafe fn scale_row<S: Simd>(s: S, row: *mut f32, len: usize, by: f32) {
    let by = s.splat(by);
    for d in (0..len).step_by(LANES) {
        // SAFETY: `row` holds `len` floats, a multiple of sixteen.
        unsafe { s.write(row.add(d), s.mul(s.read(row.add(d)), by)) };
    }
}

/// Adds a tile to some of an item's rows.
#[inline(always)]
unsafe fn add_rows<T: Tile, const PLAIN: bool>(
    tile: &mut T,
    call: &Call<'_>,
    query: *const u8,
    output: *mut f32,
    layout: Rows,
    rows: Range<usize>,
    state: &mut State,
) {
    for first in rows.clone().step_by(ROWS) {
        let here = Rows { first, ..layout };
        // SAFETY: passed on.
        unsafe {
            match (rows.end - first).min(ROWS) {
                6 => add::<T, 6, PLAIN>(tile, call, query, output, here, state),
                5 => add::<T, 5, PLAIN>(tile, call, query, output, here, state),
                4 => add::<T, 4, PLAIN>(tile, call, query, output, here, state),
                3 => add::<T, 3, PLAIN>(tile, call, query, output, here, state),
                2 => add::<T, 2, PLAIN>(tile, call, query, output, here, state),
                _ => add::<T, 1, PLAIN>(tile, call, query, output, here, state),
            }
        }
    }
}

/// As [`add_rows`], for R rows.
#[inline(always)]
unsafe fn add<T: Tile, const R: usize, const PLAIN: bool>(
    tile: &mut T,
    call: &Call<'_>,
    query: *const u8,
    output: *mut f32,
    rows: Rows,
    state: &mut State,
) {
    let stored = call.heads.stored();
    let (start, keys) = tile.keys();
    let within = |position: usize| position.saturating_sub(start).min(keys);
    let seen: Seen<R> = Seen {
        from: from_fn(|r| if PLAIN { 0 } else { within(rows.end(r).saturating_sub(call.window)) }),
        to: from_fn(|r| within(rows.end(r))),
    };
    // SAFETY: the item's rows are inside both arrays.
    let (q, o): ([_; R], [_; R]) = unsafe {
        (
            from_fn(|r| query.add(rows.index(r) * T::query_bytes(stored))),
            from_fn(|r| output.add(rows.index(r) * stored)),
        )
    };
    // Rows are in order of position, so the last one sees the most on the right, the first one on the left.
    if seen.to[R - 1] == 0 || (!PLAIN && seen.from[0] == keys) {
        return; // nobody sees this tile
    }
    // SAFETY: passed on.
    unsafe { tile.add::<R, PLAIN>(call, q, o, seen, state, rows.first) }
}
