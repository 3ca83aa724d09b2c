//! The layout of a cache, and the bounds that the other files of this folder share.
//!
//! A block holds [`LANES`] tokens. Keys of a block and a key-value head are stored dimension by dimension
//! (`[head_size][16]`), so that one load brings the same dimension of sixteen keys. Values are stored token by token
//! (`[16][head_size]`). Head sizes are padded with zeros to a multiple of sixteen. Numbers in bfloat16 come in pairs, because
//! they are multiplied in pairs: two dimensions of a key stand side by side (`[head_size / 2][16][2]`), and so does the same
//! dimension of two tokens' values (`[8][head_size][2]`). [`super::bytes`] describes the layout of bytes.

use std::ops::Range;

use half::bf16;
use ort::value::TensorElementType;

use crate::dot;
use crate::simd::{Isa, LANES};

/// Blocks of a softmax tile.
pub(super) const TILE_BLOCKS: usize = 4;
/// Keys of a softmax tile.
pub const TILE: usize = TILE_BLOCKS * LANES;
/// The largest head size. The numbers of a head sit on the stack while they are rotated.
pub const MAX_HEAD: usize = 512;
/// The most query rows (tokens × query heads) of a work item. Their softmax state sits on the stack.
pub(super) const MAX_ITEM_ROWS: usize = 48;
/// Bytes of the scale of a token's key or value in a cache of bytes.
const SCALE_BYTES: usize = size_of::<f32>();

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

/// What a cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stored {
    #[default]
    Float32,
    /// Half the memory and, where the processor has products of it, twice the speed; eight bits of precision.
    Bfloat16,
    /// A quarter of the memory, and twice as fast again: bytes, with a scale for each token and head ([`super::bytes`]).
    Int8,
}

impl Stored {
    /// Numbers, of this kind, that a token takes for one key-value head in the key cache, and in the value cache.
    pub fn row(self, heads: Heads) -> usize {
        match self {
            Stored::Float32 | Stored::Bfloat16 => heads.stored(),
            Stored::Int8 => heads.stored() + SCALE_BYTES,
        }
    }

    /// The type of the tensors that hold such a cache.
    pub fn element(self) -> TensorElementType {
        match self {
            Stored::Float32 => TensorElementType::Float32,
            Stored::Bfloat16 => TensorElementType::Bfloat16,
            Stored::Int8 => TensorElementType::Uint8,
        }
    }

    /// Bytes of a block in the key cache, and in the value cache.
    pub fn block_bytes(self, heads: Heads) -> usize {
        heads.kv * self.head_bytes(heads)
    }

    /// Where a block's part of a key-value head begins.
    pub(super) fn head_offset(self, heads: Heads, block: usize, kv_head: usize) -> usize {
        (block * heads.kv + kv_head) * self.head_bytes(heads)
    }

    fn head_bytes(self, heads: Heads) -> usize {
        let number = match self {
            Stored::Float32 => size_of::<f32>(),
            Stored::Bfloat16 => size_of::<bf16>(),
            Stored::Int8 => size_of::<i8>(),
        };
        LANES * self.row(heads) * number
    }

    /// The best that this processor has for such a cache.
    pub fn best_isa(self) -> Isa {
        match self {
            Stored::Float32 => Isa::detect(),
            Stored::Bfloat16 => Isa::detect_bfloat16(),
            Stored::Int8 => dot::best_isa(),
        }
    }

    /// True if this processor multiplies pairs of bfloat16.
    pub fn has_bfloat16() -> bool {
        Isa::detect_bfloat16() != Isa::Scalar
    }
}
