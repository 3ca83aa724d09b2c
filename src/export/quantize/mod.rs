//! Matrices in 4 or 8 bits: their choice, their form, and their bytes.
//!
//! ```text
//! Scheme ── layout of each matrix ──▶ graph (MatMulNBits, GatherBlockQuantized)
//!                  │
//! ggml's blocks, as they are ─┐
//!                             ├─▶ pack ─▶ quants, scales, zero points
//! float values ────── fit ────┘
//! ```
//!
//! The elements of a row are taken in blocks, each with a scale. There are two forms:
//!
//! - *symmetric*: value = scale × (quant − middle). ggml's Q4_0, Q5_0 and Q8_0 are of this form.
//! - *with minima*: value = scale × quant + minimum, as Q4_1 and Q4_K have it. MatMulNBits takes minima as multiples of
//!   the scale only (its zero points are integers, unless they are floats, which is slow). Rounding them costs as much
//!   as quantising a second time, because they usually lie half-way between two integers. So the remainder that the
//!   zero point leaves becomes one more column for each block, which is multiplied by the sum of the input's block. The
//!   remainder of a remainder is small, so four bits are enough for these columns.

mod fit;
mod pack;
#[cfg(test)]
mod tests;

use super::ExportOptions;
use super::checkpoint::{Checkpoint, Tensor};
use super::format::Format;
use crate::model::rewrite::precision::Precision;
pub(super) use pack::{Packed, pack, write};

/// The form in which an export stores weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Quantize {
    /// Float32, regardless of the checkpoint's form.
    #[default]
    None,
    /// Matrices in 8 bits.
    Int8,
    /// Matrices in 4 bits; embedding and language-model head in 8.
    Int4,
}

/// The rules by which an export stores matrices.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scheme {
    quantize: Quantize,
    /// Of matrices that are not quantised.
    half: Option<Precision>,
    block: usize,
    /// Says that the checkpoint is itself a mix that has matrices in four bits or fewer.
    is_narrow: bool,
}

impl Scheme {
    /// Blocks of 32. Results have the same bits in any batch, and ggml's blocks fit.
    pub(super) const BLOCK: usize = 32;

    /// Float32.
    #[cfg(any(test, fuzzing))]
    pub(super) const fn none() -> Self {
        Scheme { quantize: Quantize::None, half: None, block: Scheme::BLOCK, is_narrow: false }
    }

    /// That of `options` for a checkpoint.
    pub(super) fn new(options: &ExportOptions, checkpoint: &Checkpoint) -> Self {
        let (quantize, block) = (options.quantize, options.block);
        let half = Some(options.dtype.precision()).filter(|precision| *precision != Precision::Float32);
        let is_narrow = checkpoint.tensors.values().any(|tensor| has_at_most_four_bits(tensor.format));
        Scheme { quantize, half, block, is_narrow }
    }

    /// The type in which the matrix `tensor` is stored, if it is half precision.
    pub(super) fn half(&self, tensor: &Tensor) -> Option<Precision> {
        let &[_, columns] = tensor.shape.as_slice() else { return None };
        self.half.filter(|_| columns.is_multiple_of(tensor.format.block_elements))
    }

    /// The layout in which the matrix `tensor` is stored, if it is quantised.
    pub(super) fn layout(&self, tensor: &Tensor, role: Role) -> Option<Layout> {
        let bits = match self.quantize {
            Quantize::None => return None,
            Quantize::Int8 => 8,
            Quantize::Int4 if self.is_wide(tensor, role) => 8,
            Quantize::Int4 => 4,
        };
        let &[rows, columns] = tensor.shape.as_slice() else { return None };
        let rows_are_whole = columns.is_multiple_of(tensor.format.block_elements);
        let blocks_are_whole = columns.is_multiple_of(self.block);
        // An embedding's rows are read as they lie, so they cannot be padded.
        if !rows_are_whole || (role == Role::Vocabulary && !blocks_are_whole) {
            return None;
        }
        let is_symmetric = bits == 8 || tensor.format.name == "Q4_0" || !blocks_are_whole;
        Some(Layout { bits, block: self.block, rows, columns, minima: !is_symmetric })
    }

    /// Returns whether int4 stores a matrix in 8 bits. These are the vocabulary, and what a mix of forms has in more
    /// than four bits. They are also value projections: a thirtieth of all matrices, whose quantisation costs a quarter
    /// of the whole loss.
    fn is_wide(&self, tensor: &Tensor, role: Role) -> bool {
        match has_at_most_four_bits(tensor.format) {
            true => role == Role::Vocabulary && tensor.format.name != "Q4_0",
            false => self.is_narrow || role != Role::Other,
        }
    }
}

/// The purpose of a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// It has a row for each token: embedding or head of a language model.
    Vocabulary,
    /// It makes the values of attention.
    Value,
    Other,
}

fn has_at_most_four_bits(format: &Format) -> bool {
    matches!(format.name, "Q4_0" | "Q4_1" | "Q2_K" | "Q3_K" | "Q4_K")
}

/// The form of a [rows, columns] matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// 4 or 8.
    pub(super) bits: usize,
    /// Elements of a row that share a scale.
    pub(super) block: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Says that blocks have minima. Then `block` divides `columns`.
    pub(super) minima: bool,
}

impl Layout {
    /// Blocks that a row of the matrix has.
    pub(super) fn blocks(&self) -> usize {
        self.columns.div_ceil(self.block)
    }

    /// The inner dimension of the product: the columns, and one for each block where there are minima.
    pub(super) fn inner(&self) -> usize {
        if self.minima { self.columns + self.blocks() } else { self.columns }
    }

    /// Blocks of a stored row; the last is filled up.
    pub(super) fn stored_blocks(&self) -> usize {
        self.inner().div_ceil(self.block)
    }

    /// Bytes of a block's quants.
    pub(super) fn block_bytes(&self) -> usize {
        self.block * self.bits / 8
    }

    /// Bytes of a row's zero points.
    pub(super) fn zero_point_bytes(&self) -> usize {
        if self.minima { (self.stored_blocks() * self.bits).div_ceil(8) } else { 0 }
    }

    /// Bytes of a row's scales, quants and zero points.
    fn row_bytes(&self) -> [usize; 3] {
        let blocks = self.stored_blocks();
        [blocks * size_of::<f32>(), blocks * self.block_bytes(), self.zero_point_bytes()]
    }

    /// The quant that stands for zero in the symmetric form.
    fn middle(&self) -> u8 {
        1 << (self.bits - 1)
    }
}

/// The names of a packed weight's tensors.
pub(super) struct Names {
    /// uint8 [rows, blocks, bytes of a block], for products.
    pub(super) quants: String,
    /// The same bytes as [rows, bytes of a row], for embeddings.
    pub(super) table: String,
    /// float32 [rows, blocks]
    pub(super) scales: String,
    /// uint8 [rows, blocks, packed like quants]; none in the symmetric form.
    pub(super) zero_points: String,
}

impl Names {
    // Behind the weight's name.
    pub(super) const QUANTS: &str = "_quants";
    pub(super) const TABLE: &str = "_table";
    pub(super) const SCALES: &str = "_scales";
    pub(super) const ZERO_POINTS: &str = "_zero_points";

    pub(super) fn of(weight: &str) -> Self {
        let name = |part| format!("{weight}{part}");
        Names {
            quants: name(Names::QUANTS),
            table: name(Names::TABLE),
            scales: name(Names::SCALES),
            zero_points: name(Names::ZERO_POINTS),
        }
    }
}
