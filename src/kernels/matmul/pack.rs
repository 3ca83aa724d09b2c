//! Weights in the order in which the kernel reads them.
//!
//! The product's columns come in *panels* of 32. A panel of floats holds the 32 columns side by side for each element of the
//! inner dimension. A panel of bfloat16 holds the inner dimension in pairs, and the pairs of the 32 columns side by side,
//! because processors multiply two numbers at once. A panel of bytes holds the inner dimension in blocks of 64. A block is the
//! scale of each column, then, four elements at a time, the four bytes of each column. Bytes are unsigned: 128 stands for zero.
//! Columns beyond the last and elements beyond the inner dimension are zero.
//!
//! A Walsh-Hadamard transform mixes each block of 64, as it mixes blocks of inputs, and the block is rounded anew. Unmixed,
//! the few large numbers of a block of inputs would leave the others few of their eight bits. The transform is orthogonal, so
//! products stay what they are (QuaRot, Ashkboos and others, 2024). Unmixed blocks of 64 would cost a quarter more
//! than blocks of 32. Mixed ones cost less than those, although weights are rounded a second time. Larger blocks also have
//! fewer scales to multiply by: 89% of the multiplications are products, instead of 80%.
//!
//! A panel of nibbles is not mixed, because mixed numbers do not fit four bits, and has blocks of 32. For few rows, nibbles
//! become bytes in registers. For many rows, a panel becomes one of bytes with such blocks when it is multiplied: quants q
//! and zero points z of four bits become 128 + q - z. The columns' 128 - z follow a block's scales. Then come the quants,
//! those of the second half of the block in the high nibbles of the first half's bytes. A product that merges four and eight
//! bits is all bytes.

use std::ops::Range;

use half::{bf16, f16};
use memmap2::{Advice, MmapMut};

use crate::PackError;
use crate::dot::{self, ByteWork, Dot, QUAD};
use crate::pairs;
use crate::rounding::{self, MIXED};
use crate::simd::LANES;

/// Columns of a panel.
pub const PANEL: usize = 32;
/// Elements of the inner dimension that share a scale in files and in panels of nibbles, and inputs whose sums are
/// further inputs.
pub const BLOCK: usize = 32;
/// Bytes of a block's scales.
pub(super) const SCALE_BYTES: usize = PANEL * size_of::<f32>();

/// Bytes of a block of `elements` of a panel of bytes: the scales, then the quants.
pub(super) const fn block_bytes(elements: usize) -> usize {
    SCALE_BYTES + PANEL * elements
}

/// Bytes of a block of a panel of nibbles: the scales, the zero points, then the quants.
pub(super) const NIBBLE_BLOCK_BYTES: usize = SCALE_BYTES + PANEL + PANEL * BLOCK / 2;
/// Bytes of an element of the inner dimension in a panel of floats, and of two in a panel of bfloat16.
pub(super) const ROW_BYTES: usize = PANEL * size_of::<f32>();

/// What becomes of the sums of a panel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Epilogue {
    /// They are the product.
    Store,
    /// Half of the columns, of two matrices in turns of sixteen, are gates: activation(gate) · up.
    Gated(Activation),
}

/// What is done with a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x · sigmoid(x)
    Silu,
    /// GELU in its form with tanh
    GeluTanh,
}

/// What numbers a matrix holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Floats,
    /// bfloat16; inputs are rounded to it as well, and sums are float32.
    Bfloat16,
    /// Bytes in blocks with scales; inputs are rounded to bytes as well, block by block.
    Bytes,
    /// As bytes, of which nibbles are left.
    Nibbles,
}

/// The form of a packed matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub kind: Kind,
    pub epilogue: Epilogue,
    /// Numbers that an input row has.
    pub inputs: usize,
    /// Whether the sums of an input row's blocks are further inputs, behind the others.
    pub block_sums: bool,
    /// Columns of all parts together.
    pub columns: usize,
}

impl Shape {
    /// Elements of the inner dimension.
    pub fn inner(&self) -> usize {
        self.inputs + if self.block_sums { self.inputs.div_ceil(BLOCK) } else { 0 }
    }

    /// Elements of the inner dimension that share a scale.
    pub(super) fn block(&self) -> usize {
        match self.kind {
            Kind::Bytes => MIXED,
            Kind::Floats | Kind::Bfloat16 | Kind::Nibbles => BLOCK,
        }
    }

    /// Pairs of the inner dimension, for matrices of bfloat16. The last may have one number, beside which zeros stand.
    pub(super) fn pairs(&self) -> usize {
        self.inputs.div_ceil(2)
    }

    /// The room that a row of inputs takes that is rounded to bfloat16, in numbers.
    pub(super) fn numbers(&self) -> usize {
        self.inputs.next_multiple_of(LANES)
    }

    pub(super) fn blocks(&self) -> usize {
        self.inner().div_ceil(self.block())
    }

    pub fn panels(&self) -> usize {
        self.columns.div_ceil(PANEL)
    }

    /// Numbers of an output row.
    pub fn outputs(&self) -> usize {
        match self.epilogue {
            Epilogue::Store => self.columns,
            Epilogue::Gated(_) => self.columns / 2,
        }
    }

    pub(super) fn panel_bytes(&self) -> usize {
        match self.kind {
            Kind::Floats => self.inner() * ROW_BYTES,
            Kind::Bfloat16 => self.pairs() * ROW_BYTES,
            Kind::Bytes => self.blocks() * block_bytes(MIXED),
            Kind::Nibbles => (self.blocks() * NIBBLE_BLOCK_BYTES).next_multiple_of(64),
        }
    }

    /// Bytes that the packed matrix takes; a multiple of 64.
    pub fn bytes(&self) -> usize {
        self.panels() * self.panel_bytes()
    }

    /// The part and its column that stand in column `column` of the panels.
    fn source(&self, parts: &[Part<'_>], mut column: usize) -> Option<(usize, usize)> {
        if let Epilogue::Gated(_) = self.epilogue {
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
pub enum Part<'a> {
    Floats(Floats<'a>),
    Blocks(Blocks<'a>),
}

/// A weight of numbers, `[inner, columns]`, or `[columns, inner]` where `by_column`.
#[derive(Debug, Clone, Copy)]
pub struct Floats<'a> {
    pub number: Number,
    pub values: &'a [u8],
    pub columns: usize,
    pub by_column: bool,
}

/// The numbers of a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    Float32,
    Float16,
    Bfloat16,
}

/// A weight of MatMulNBits, `[columns, blocks]`, with one scale for `block` elements.
#[derive(Debug, Clone, Copy)]
pub struct Blocks<'a> {
    pub bits: usize,
    pub block: usize,
    pub columns: usize,
    pub quants: &'a [u8],
    pub scales: &'a [u8],
    pub zero_points: Option<&'a [u8]>,
}

impl Part<'_> {
    fn columns(&self) -> usize {
        match *self {
            Part::Floats(Floats { columns, .. }) | Part::Blocks(Blocks { columns, .. }) => columns,
        }
    }
}

impl<'a> Blocks<'a> {
    /// Blocks of a column.
    fn count(&self) -> usize {
        self.scales.len() / size_of::<f32>() / self.columns
    }

    fn scale(&self, column: usize, index: usize) -> f32 {
        let at = (column * self.count() + index) * size_of::<f32>();
        let bytes = &self.scales[at..];
        f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    fn zero_point(&self, column: usize, index: usize) -> u8 {
        let row = (self.count() * self.bits).div_ceil(8);
        match self.zero_points {
            Some(packed) => unpacked(&packed[column * row..][..row], self.bits, index),
            None => 1 << (self.bits - 1),
        }
    }

    fn quants(&self, column: usize, index: usize) -> &'a [u8] {
        let bytes = self.block * self.bits / 8;
        &self.quants[(column * self.count() + index) * bytes..][..bytes]
    }

    /// The quants of a column and its scales, if quants are bytes around 128, as the export writes them.
    #[inline(always)]
    fn bytes(&self, column: usize) -> Option<(&'a [u8], &'a [[u8; 4]])> {
        if self.bits != 8 || self.zero_points.is_some() {
            return None;
        }
        let count = self.count();
        let quants = &self.quants[column * count * self.block..][..count * self.block];
        Some((quants, &self.scales.as_chunks().0[column * count..][..count]))
    }

    /// The 64 elements of a column from `first` on, zero from `inner` on. `bytes` are the column's.
    #[inline(always)]
    fn widen<S: Dot>(
        &self,
        s: S,
        column: usize,
        first: usize,
        inner: usize,
        bytes: Option<(&[u8], &[[u8; 4]])>,
    ) -> [S::V; MIXED / LANES] {
        let Some((quants, scales)) = bytes.filter(|_| first + MIXED <= inner) else {
            let mut values = [0.0; MIXED];
            self.read(column, first, &mut values[..MIXED.min(inner - first)]);
            return rounding::load(s, rounding::registers(&values));
        };
        let middle = s.splat(128.0);
        let mut values = [middle; MIXED / LANES];
        for (at, (value, quants)) in values.iter_mut().zip(quants[first..].as_chunks().0).enumerate() {
            let scale = f32::from_le_bytes(scales[(first + at * LANES) / self.block]);
            *value = s.mul(s.sub(s.widen(quants), middle), s.splat(scale));
        }
        values
    }

    /// Writes elements `first..` of a column, as many as there are.
    #[inline(always)]
    fn read(&self, column: usize, first: usize, to: &mut [f32]) {
        let mut done = 0;
        while done < to.len() && first + done < self.count() * self.block {
            let (index, offset) = ((first + done) / self.block, (first + done) % self.block);
            let count = (self.block - offset).min(to.len() - done);
            let (scale, zero_point) = (self.scale(column, index), f32::from(self.zero_point(column, index)));
            let (from, to) = (self.quants(column, index), &mut to[done..done + count]);
            if self.bits == 8 {
                for (x, quant) in to.iter_mut().zip(&from[offset..]) {
                    *x = (f32::from(*quant) - zero_point) * scale;
                }
            } else {
                for (k, x) in to.iter_mut().enumerate() {
                    *x = (f32::from(unpacked(from, self.bits, offset + k)) - zero_point) * scale;
                }
            }
            done += count;
        }
    }
}

/// Packs panels `panels` of the matrix that `parts` make into `to`, which is zeroed, or has a matrix of the same shape.
pub fn pack(shape: &Shape, parts: &[Part<'_>], panels: Range<usize>, to: &mut [u8]) {
    for (panel, to) in panels.zip(to.chunks_exact_mut(shape.panel_bytes())) {
        let source = |lane: usize| {
            let (part, column) = shape.source(parts, panel * PANEL + lane)?;
            Some((&parts[part], column))
        };
        match shape.kind {
            Kind::Floats | Kind::Bfloat16 => pack_numbers(shape, &source, to),
            Kind::Bytes => pack_bytes(shape, &source, to),
            Kind::Nibbles => pack_nibbles(&source, to),
        }
    }
}

/// Where the lanes of a panel come from: a weight, and its column. Lanes beyond the last column come from nowhere.
type Lanes<'s, 'a> = &'s dyn Fn(usize) -> Option<(&'s Part<'a>, usize)>;

/// Packs a panel of numbers.
fn pack_numbers(shape: &Shape, source: Lanes<'_, '_>, to: &mut [u8]) {
    /// Rows of a panel that stay in the processor's first cache while they are filled.
    const TILE: usize = 64;
    let inner = shape.inner();
    for (tile, rows) in to.chunks_mut(TILE * ROW_BYTES).enumerate() {
        for lane in 0..PANEL {
            let Some((Part::Floats(from), column)) = source(lane) else { continue };
            match shape.kind {
                Kind::Floats => {
                    let (rows, _) = rows.as_chunks_mut();
                    let to = rows.iter_mut().skip(lane).step_by(PANEL);
                    from.read(inner, column, tile * TILE, to, f32::to_le_bytes);
                }
                _ => {
                    let (rows, _) = rows.as_chunks_mut::<{ size_of::<[bf16; 2]>() }>();
                    let pairs = rows.iter_mut().skip(lane).step_by(PANEL);
                    let to = pairs.flat_map(|pair| pair.as_chunks_mut().0);
                    from.read(inner, column, tile * TILE * 2, to, |x| pairs::round(x).to_le_bytes());
                }
            }
        }
    }
}

impl Floats<'_> {
    /// Writes the elements of a column from `first` on, as many as there are and have room, in another form.
    fn read<'t, const N: usize>(
        &self,
        inner: usize,
        column: usize,
        first: usize,
        to: impl Iterator<Item = &'t mut [u8; N]>,
        form: impl Fn(f32) -> [u8; N],
    ) {
        match self.number {
            Number::Float32 => {
                to.zip(self.column(inner, column, first)).for_each(|(to, x)| *to = form(f32::from_le_bytes(*x)))
            }
            Number::Float16 => {
                to.zip(self.column(inner, column, first))
                    .for_each(|(to, x)| *to = form(f16::from_le_bytes(*x).to_f32()));
            }
            Number::Bfloat16 => {
                to.zip(self.column(inner, column, first))
                    .for_each(|(to, x)| *to = form(bf16::from_le_bytes(*x).to_f32()));
            }
        }
    }

    /// The numbers of a column from `first` on, of N bytes each.
    fn column<const N: usize>(&self, inner: usize, column: usize, first: usize) -> impl Iterator<Item = &[u8; N]> {
        let (start, step) =
            if self.by_column { (column * inner + first, 1) } else { (first * self.columns + column, self.columns) };
        self.values[start * N..].as_chunks().0.iter().step_by(step).take(inner.saturating_sub(first))
    }
}

/// Where element `k` of a block lies in lane `lane` of its quads.
fn place(k: usize, lane: usize) -> usize {
    k / QUAD * PANEL * QUAD + lane * QUAD + k % QUAD
}

/// Packs a panel of bytes.
fn pack_bytes(shape: &Shape, source: Lanes<'_, '_>, to: &mut [u8]) {
    /// Blocks of a panel that stay in the processor's first cache while they are filled.
    const TILE: usize = 8;
    let isa = dot::best_isa();
    for (tile, blocks) in to.as_chunks_mut().0.chunks_mut(TILE).enumerate() {
        for lane in 0..PANEL {
            let Some((Part::Blocks(part), column)) = source(lane) else { continue };
            isa.run_bytes(Mixed { part, column, inner: shape.inner(), lane, first: tile * TILE, blocks });
        }
    }
}

/// Packs one column into lane `lane` of the blocks of a panel of bytes, from block number `first` on.
struct Mixed<'a> {
    part: &'a Blocks<'a>,
    column: usize,
    inner: usize,
    lane: usize,
    first: usize,
    blocks: &'a mut [[u8; BYTES]],
}

/// Bytes of a block of a panel of bytes.
const BYTES: usize = block_bytes(MIXED);

impl ByteWork for Mixed<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Dot>(self, s: S) {
        let Mixed { part, column, inner, lane, first, blocks } = self;
        let known = part.bytes(column);
        for (index, to) in blocks.iter_mut().enumerate() {
            let values = part.widen(s, column, (first + index) * MIXED, inner, known);
            let mut bytes = [0; MIXED];
            let scale = rounding::round_mixed(s, values, &mut bytes);
            let (scales, quads) = to.split_at_mut(SCALE_BYTES);
            scales.as_chunks_mut().0[lane] = scale.to_le_bytes();
            let quads = quads.as_chunks_mut().0.iter_mut().skip(lane).step_by(PANEL);
            for (quad, four) in quads.zip(bytes.as_chunks::<QUAD>().0) {
                *quad = four.map(|byte| byte as u8 ^ 128);
            }
        }
    }
}

/// Packs a panel of nibbles.
fn pack_nibbles(source: Lanes<'_, '_>, to: &mut [u8]) {
    for lane in 0..PANEL {
        let Some((Part::Blocks(part), column)) = source(lane) else { continue };
        pack_column(part, column, lane, to);
    }
}

/// Packs one column into lane `lane` of a panel of nibbles.
fn pack_column(part: &Blocks<'_>, column: usize, lane: usize, panel: &mut [u8]) {
    let parts = part.block / BLOCK;
    for (index, to) in panel.chunks_exact_mut(NIBBLE_BLOCK_BYTES).take(part.count() * parts).enumerate() {
        let (from, first) = (part.quants(column, index / parts), index % parts * BLOCK);
        let (scales, to) = to.split_at_mut(SCALE_BYTES);
        scales.as_chunks_mut().0[lane] = part.scale(column, index / parts).to_le_bytes();
        let (shifts, quads) = to.split_at_mut(PANEL);
        shifts[lane] = 128 - part.zero_point(column, index / parts);
        let quant = |k: usize| unpacked(from, part.bits, first + k);
        (0..BLOCK / 2).for_each(|k| quads[place(k, lane)] = quant(k) | quant(k + BLOCK / 2) << 4);
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
#[derive(Default)]
pub struct Arena {
    map: Option<MmapMut>,
}

impl Arena {
    /// Zeroed memory, in large pages where the system gives them: weights are read from one end to the other.
    pub fn new(bytes: usize) -> Result<Self, PackError> {
        let map = MmapMut::map_anon(bytes.max(1)).map_err(|source| PackError::Memory { bytes, source })?;
        // Large pages are a matter of speed, so it is not a failure where there are none.
        let _ = map.advise(Advice::HugePage);
        Ok(Arena { map: Some(map) })
    }

    pub fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.map.as_deref_mut().unwrap_or_default()
    }
}
