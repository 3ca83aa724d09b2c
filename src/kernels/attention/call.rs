//! One layer's attention over one packed batch: its operands, and the work that its tokens are divided into.

use std::ops::Range;

use super::layout::{Heads, Stored, TILE, TILE_BLOCKS};
use crate::simd::LANES;

/// Rotary embedding tables `[positions, half]`.
#[derive(Clone, Copy)]
pub struct Rotary<'a> {
    pub cos: &'a [f32],
    pub sin: &'a [f32],
    pub half: usize,
    pub interleaved: bool,
}

/// Where a token's query, key and value lie: `base[token · stride ..]`.
#[derive(Clone, Copy)]
pub struct Packed<'a> {
    pub data: &'a [f32],
    pub offset: usize,
    pub stride: usize,
}

impl<'a> Packed<'a> {
    pub(super) fn head(&self, token: usize, head: usize, size: usize) -> &'a [f32] {
        let start = token * self.stride + self.offset + head * size;
        &self.data[start..start + size]
    }
}

/// One work item of [`Call::attend`]: `count` tokens, query heads of one key-value head. The tokens are of one sequence, or
/// each is the one token of a sequence of its own; then what several of them have in common is read once for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// First token in the packed batch.
    pub token: usize,
    pub count: usize,
    /// Position of the first token in its sequence.
    pub position: usize,
    /// Sequence of the first token.
    pub sequence: usize,
    /// Whether the tokens are of `count` sequences, one after the other.
    pub apart: bool,
    /// The first of its query heads.
    pub head: usize,
    /// How many there are; at most `MAX_ITEM_ROWS` for all tokens together.
    pub heads: usize,
}

impl Item {
    /// The item of these query heads.
    pub fn of(self, heads: Range<usize>) -> Self {
        Item { head: heads.start, heads: heads.len(), ..self }
    }
}

/// Tokens of an item that read a tile of keys together.
pub(super) struct Run {
    /// Counted from the item's first.
    pub(super) tokens: Range<usize>,
    /// In whose table the tile stands.
    pub(super) sequence: usize,
    /// Of the item's first token, if its tokens were one sequence's (modulo 2⁶⁴).
    pub(super) position: usize,
    /// One past the last key that they may read.
    pub(super) end: usize,
}

/// One layer's attention over one packed batch. All lengths and indices have been validated by the operator.
pub struct Call<'a> {
    pub heads: Heads,
    pub scale: f32,
    /// Scores s become c · tanh(s / c), where c is not 0.
    pub softcap: f32,
    /// A token sees this many tokens, itself included; `usize::MAX` where it sees all before it.
    pub window: usize,
    pub rotary: Option<Rotary<'a>>,
    pub query: Packed<'a>,
    pub key: Packed<'a>,
    pub value: Packed<'a>,
    /// What the caches hold.
    pub stored_as: Stored,
    /// Blocks of [`Stored::block_bytes`], written by `prepare`, read by `attend`.
    pub key_cache: *mut u8,
    pub value_cache: *mut u8,
    /// `[sequences, table_width]` block numbers.
    pub block_table: &'a [i32],
    pub table_width: usize,
    /// `[sequences]` tokens before this call's.
    pub past: &'a [i32],
    /// Rotated and scaled queries, `[tokens, query heads]` rows as the tiles take them; room for float32.
    pub queries: *mut u8,
    /// `[tokens, query heads, stored head size]`.
    pub output: *mut f32,
}

// SAFETY: `prepare` writes only its own token's slot and query row, `attend` only its own item's output rows; the
// operator runs all of the first before any of the second.
unsafe impl Sync for Call<'_> {}

impl Call<'_> {
    /// The blocks of a sequence.
    pub(super) fn table(&self, sequence: usize) -> &[i32] {
        &self.block_table[sequence * self.table_width..][..self.table_width]
    }

    /// One past the last key that any token of an item sees.
    pub(super) fn end(&self, item: Item) -> usize {
        match item.apart {
            false => item.position + item.count,
            true => self.past[item.sequence..][..item.count].iter().max().map_or(0, |&past| past as usize + 1),
        }
    }

    /// The next tokens of an item, from `token` on, that see the tile of keys at `start` and can read it together.
    pub(super) fn next_run(&self, item: Item, start: usize, plain: bool, token: usize) -> Option<Run> {
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
}
