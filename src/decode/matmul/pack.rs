//! Weights in the order in which the kernel reads them.
//!
//! Columns of the product come in *panels* of 32. A panel of floats holds, for each element of the inner dimension, its
//! 32 columns side by side. A panel of bytes holds the inner dimension in blocks of 32: the block's scale of each column,
//! then, four elements at a time, the four bytes of each column. Bytes are unsigned: 128 stands for zero. What is not
//! there, columns beyond the last and elements beyond the inner dimension, is zero.
//!
//! A panel of nibbles is half of one of bytes, which it becomes when it is multiplied: quants q and zero points z of four
//! bits become 128 + q - z. Behind a block's scales stand the columns' 128 - z; then come the quants, those of the second
//! half of the block in the high nibbles of the first half's bytes.

use std::ops::Range;

use memmap2::{Advice, MmapMut};

use super::dot::QUAD;
use crate::{Error, ErrorKind, Result};

/// Columns of a panel.
pub(crate) const PANEL: usize = 32;
/// Elements of the inner dimension that share a scale.
pub(crate) const BLOCK: usize = 32;
/// Bytes of a block's scales.
pub(super) const SCALE_BYTES: usize = PANEL * size_of::<f32>();
/// Bytes of a block of a panel of bytes: the scales, then the quants.
pub(super) const BLOCK_BYTES: usize = SCALE_BYTES + PANEL * BLOCK;
/// Bytes of a block of a panel of nibbles: the scales, the zero points, then the quants.
pub(super) const NIBBLE_BLOCK_BYTES: usize = SCALE_BYTES + PANEL + PANEL * BLOCK / 2;
/// Bytes of an element of the inner dimension in a panel of floats.
pub(super) const FLOAT_ROW_BYTES: usize = PANEL * size_of::<f32>();

/// What becomes of the sums of a panel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finish {
    /// They are the product.
    Store,
    /// Half of the columns, of two matrices in turns of sixteen, are gates: activation(gate) · up.
    Gated(Activation),
}

/// What is done with a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    /// x · sigmoid(x)
    Silu,
    /// GELU in its form with tanh
    GeluTanh,
}

/// What numbers a matrix holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Floats,
    /// Bytes in blocks with scales; inputs are rounded to bytes as well, block by block.
    Bytes,
    /// As bytes, of which nibbles are left.
    Nibbles,
}

/// The form of a packed matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) kind: Kind,
    pub(crate) finish: Finish,
    /// Numbers that an input row has.
    pub(crate) inputs: usize,
    /// Whether the sums of an input row's blocks are further inputs, behind the others.
    pub(crate) block_sums: bool,
    /// Columns of all parts together.
    pub(crate) columns: usize,
}

impl Shape {
    /// Elements of the inner dimension.
    pub(crate) fn inner(&self) -> usize {
        self.inputs + if self.block_sums { self.inputs.div_ceil(BLOCK) } else { 0 }
    }

    pub(super) fn blocks(&self) -> usize {
        self.inner().div_ceil(BLOCK)
    }

    pub(crate) fn panels(&self) -> usize {
        self.columns.div_ceil(PANEL)
    }

    /// Numbers of an output row.
    pub(crate) fn outputs(&self) -> usize {
        match self.finish {
            Finish::Store => self.columns,
            Finish::Gated(_) => self.columns / 2,
        }
    }

    pub(super) fn panel_bytes(&self) -> usize {
        match self.kind {
            Kind::Floats => self.inner() * FLOAT_ROW_BYTES,
            Kind::Bytes => self.blocks() * BLOCK_BYTES,
            Kind::Nibbles => (self.blocks() * NIBBLE_BLOCK_BYTES).next_multiple_of(64),
        }
    }

    /// Bytes that the packed matrix takes; a multiple of 64.
    pub(crate) fn bytes(&self) -> usize {
        self.panels() * self.panel_bytes()
    }

    /// The part and its column that stand in column `column` of the panels.
    fn source(&self, parts: &[Part<'_>], mut column: usize) -> Option<(usize, usize)> {
        if let Finish::Gated(_) = self.finish {
            let (turn, lane) = (column / (PANEL / 2), column % (PANEL / 2));
            let source = turn / 2 * (PANEL / 2) + lane;
            return (source < parts[turn % 2].columns()).then_some((turn % 2, source));
        }
        for (index, part) in parts.iter().enumerate() {
            if column < part.columns() {
                return Some((index, column));
            }
            column -= part.columns();
        }
        None
    }
}

/// A weight as it lies in its file; several make a matrix. Bytes are little-endian numbers without alignment.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part<'a> {
    /// float32 `[inner, columns]`, or `[columns, inner]` where `by_column`.
    Floats { values: &'a [u8], columns: usize, by_column: bool },
    /// `[columns, blocks]` of MatMulNBits, with one scale for `block` elements.
    Blocks {
        bits: usize,
        block: usize,
        columns: usize,
        quants: &'a [u8],
        scales: &'a [u8],
        zero_points: Option<&'a [u8]>,
    },
}

impl Part<'_> {
    fn columns(&self) -> usize {
        match *self {
            Part::Floats { columns, .. } | Part::Blocks { columns, .. } => columns,
        }
    }
}

fn float(bytes: &[u8], index: usize) -> f32 {
    let at = index * size_of::<f32>();
    f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Packs panels `panels` of the matrix that `parts` make into `to`, which is zeroed.
pub(crate) fn pack(shape: &Shape, parts: &[Part<'_>], panels: Range<usize>, to: &mut [u8]) {
    for (panel, to) in panels.zip(to.chunks_exact_mut(shape.panel_bytes())) {
        for lane in 0..PANEL {
            let Some((part, column)) = shape.source(parts, panel * PANEL + lane) else { continue };
            match parts[part] {
                Part::Floats { values, columns, by_column } => {
                    let inner = shape.inner();
                    let at = |k: usize| if by_column { column * inner + k } else { k * columns + column };
                    for (k, row) in to.chunks_exact_mut(FLOAT_ROW_BYTES).enumerate() {
                        let from = &values[at(k) * size_of::<f32>()..][..size_of::<f32>()];
                        row[lane * size_of::<f32>()..][..size_of::<f32>()].copy_from_slice(from);
                    }
                }
                Part::Blocks { .. } => pack_column(&parts[part], column, lane, shape.kind, to),
            }
        }
    }
}

/// Packs one column of quants into lane `lane` of a panel.
fn pack_column(part: &Part<'_>, column: usize, lane: usize, kind: Kind, panel: &mut [u8]) {
    let Part::Blocks { bits, block, columns, quants, scales, zero_points } = *part else { return };
    let (block_bytes, middle) = (block * bits / 8, 1_u8 << (bits - 1));
    let blocks = scales.len() / size_of::<f32>() / columns;
    let zero_point_bytes = (blocks * bits).div_ceil(8);
    let size = if kind == Kind::Nibbles { NIBBLE_BLOCK_BYTES } else { BLOCK_BYTES };
    for index in 0..blocks {
        let scale = float(scales, column * blocks + index);
        let zero_point = match zero_points {
            Some(packed) => unpacked(&packed[column * zero_point_bytes..][..zero_point_bytes], bits, index),
            None => middle,
        };
        let from = &quants[(column * blocks + index) * block_bytes..][..block_bytes];
        for (sub, to) in panel.chunks_exact_mut(size).skip(index * block / BLOCK).take(block / BLOCK).enumerate() {
            let (scale_bytes, to) = to.split_at_mut(SCALE_BYTES);
            scale_bytes[lane * size_of::<f32>()..][..size_of::<f32>()].copy_from_slice(&scale.to_le_bytes());
            let shift = 128_u8.wrapping_sub(zero_point);
            let quant = |k: usize| unpacked(from, bits, sub * BLOCK + k);
            let at = |k: usize| k / QUAD * PANEL * QUAD + lane * QUAD + k % QUAD;
            if kind == Kind::Nibbles {
                let (shifts, quads) = to.split_at_mut(PANEL);
                shifts[lane] = shift;
                (0..BLOCK / 2).for_each(|k| quads[at(k)] = quant(k) | quant(k + BLOCK / 2) << 4);
            } else {
                (0..BLOCK).for_each(|k| to[at(k)] = quant(k).wrapping_add(shift));
            }
        }
    }
}

/// Number `index` of packed numbers of four or eight bits; the low half of a byte comes first.
fn unpacked(bytes: &[u8], bits: usize, index: usize) -> u8 {
    match bits {
        8 => bytes[index],
        _ => bytes[index / 2] >> (index % 2 * 4) & 0x0f,
    }
}

/// Memory for packed matrices.
pub(crate) struct Arena {
    map: MmapMut,
}

impl Arena {
    /// Zeroed memory, in large pages where the system gives them: weights are read from one end to the other.
    pub(crate) fn new(bytes: usize) -> Result<Self> {
        let map = MmapMut::map_anon(bytes.max(1)).map_err(|e| {
            Error::new(ErrorKind::MemoryBudget, format!("cannot get {bytes} bytes of memory for the weights: {e}"))
                .with_source(e)
        })?;
        // Large pages are a matter of speed, so it is no failure where there are none.
        let _ = map.advise(Advice::HugePage);
        Ok(Arena { map })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map
    }
}
