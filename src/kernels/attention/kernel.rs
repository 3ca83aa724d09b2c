//! Paged attention over packed tokens.
//!
//! Two passes over one call's tokens. [`Call::prepare`] rotates query and key of a token and writes key and value into
//! the token's cache slot ([`super::prepare`]). [`Call::attend`] then computes a few queries of one key-value head against
//! the cache, with an online softmax ([`super::tile`]).
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

use std::ops::Range;

use super::bytes::Bytes;
use super::form::{self, Floats, Stored};
use super::numbers::Numbers;
use super::tile::attend;
use crate::simd::{self, Isa, LANES};

/// Keys per softmax tile: four blocks.
pub const TILE: usize = TILE_BLOCKS * LANES;
pub(super) const TILE_BLOCKS: usize = 4;
/// Most query rows (tokens × query heads) per work item; their softmax state sits on the stack.
pub(super) const MAX_ITEM_ROWS: usize = 48;

/// Head counts and size of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    pub query: usize,
    pub kv: usize,
    pub size: usize,
}

impl Heads {
    /// The head size as stored: a multiple of sixteen.
    pub fn stored(self) -> usize {
        self.size.next_multiple_of(LANES)
    }

    pub(super) fn group(self) -> usize {
        self.query / self.kv
    }

    /// The query heads of each work item of a token: those of one key-value head, or, where an item has not as many
    /// rows, equal parts of them.
    pub fn shares(self) -> impl Iterator<Item = Range<usize>> {
        let (group, most) = (self.group(), self.heads_per_item());
        let share = move |first: usize, from: usize| first + from..first + group.min(from + most);
        (0..self.kv).flat_map(move |kv| (0..group).step_by(most).map(move |from| share(kv * group, from)))
    }

    /// Most query heads of a work item.
    fn heads_per_item(self) -> usize {
        let group = self.group();
        group.div_ceil(group.div_ceil(MAX_ITEM_ROWS))
    }

    /// Tokens of one sequence per work item.
    pub fn tokens_per_item(self) -> usize {
        MAX_ITEM_ROWS / self.heads_per_item()
    }

    /// Sequences of one token each per work item: enough to share what is read, few enough to keep all threads busy.
    pub fn sequences_per_item(self) -> usize {
        (MAX_ITEM_ROWS / 2 / self.heads_per_item()).max(1)
    }
}

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
    /// How many there are; at most [`MAX_ITEM_ROWS`] for all tokens together.
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

    /// Computes the outputs of one item.
    ///
    /// # Safety
    /// As for [`Call::prepare`]; every token of the batch has been prepared, and no other thread works on this item.
    /// The processor has what `isa` stands for.
    pub unsafe fn attend(&self, item: Item, isa: Isa) {
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
                (Stored::Float32, Isa::Scalar) => attend::<Numbers<Floats<simd::Scalar>>, PLAIN>(self, item),
                #[cfg(target_arch = "x86_64")]
                (Stored::Bfloat16, Isa::Avx512) => attend_avx512_bf16::<PLAIN>(self, item),
                (Stored::Bfloat16, _) => attend::<Numbers<form::Pairs>, PLAIN>(self, item),
                #[cfg(target_arch = "x86_64")]
                (Stored::Int8, Isa::Avx512) => attend_avx512_bytes::<PLAIN>(self, item),
                #[cfg(target_arch = "x86_64")]
                (Stored::Int8, Isa::Avx2) => attend_avx2_bytes::<PLAIN>(self, item),
                (Stored::Int8, Isa::Scalar) => attend::<Bytes<simd::Scalar>, PLAIN>(self, item),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn attend_avx512<const PLAIN: bool>(call: &Call<'_>, item: Item) {
    // SAFETY: compiled for the features that Avx512 stands for.
    unsafe { attend::<Numbers<Floats<simd::x86::Avx512>>, PLAIN>(call, item) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn attend_avx512_bf16<const PLAIN: bool>(call: &Call<'_>, item: Item) {
    // SAFETY: compiled for the features that Avx512Pairs stands for.
    unsafe { attend::<Numbers<form::x86::Avx512Pairs>, PLAIN>(call, item) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn attend_avx2<const PLAIN: bool>(call: &Call<'_>, item: Item) {
    // SAFETY: compiled for the features that Avx2 stands for.
    unsafe { attend::<Numbers<Floats<simd::x86::Avx2>>, PLAIN>(call, item) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn attend_avx512_bytes<const PLAIN: bool>(call: &Call<'_>, item: Item) {
    // SAFETY: compiled for the features that Avx512 stands for, with its products of bytes.
    unsafe { attend::<Bytes<simd::x86::Avx512>, PLAIN>(call, item) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn attend_avx2_bytes<const PLAIN: bool>(call: &Call<'_>, item: Item) {
    // SAFETY: compiled for the features that Avx2 stands for.
    unsafe { attend::<Bytes<simd::x86::Avx2>, PLAIN>(call, item) }
}
