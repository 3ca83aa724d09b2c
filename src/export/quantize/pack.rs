//! The bytes of a quantised matrix, as MatMulNBits and GatherBlockQuantized read them.

use std::io::{self, Write};
use std::num::NonZero;
use std::ops::Range;
use std::thread;

use super::super::checkpoint::Tensor;
use super::super::format::affine::Block;
use super::{Layout, fit};
use crate::kernels::rounding;
use crate::runtime::memory::in_large_pages;

/// The bytes of a quantised matrix, each part row after row.
pub(in crate::export) struct Packed {
    /// float32 [rows, stored blocks]
    pub(in crate::export) scales: Vec<u8>,
    /// [rows, stored blocks, bytes of a block]
    pub(in crate::export) quants: Vec<u8>,
    /// [rows, bytes of a row's zero points]
    pub(in crate::export) zero_points: Vec<u8>,
}

/// Writes `tensor`, a [rows, columns] matrix whose file is `data`: all scales, then all quants, then all zero points.
pub(in crate::export) fn write(tensor: &Tensor, data: &[u8], layout: &Layout, sink: &mut dyn Write) -> io::Result<()> {
    let Packed { scales, quants, zero_points } = pack(tensor, data, layout)?;
    [scales, quants, zero_points].iter().try_for_each(|part| sink.write_all(part))
}

/// Packs a matrix, a large one on all cores.
pub(in crate::export) fn pack(tensor: &Tensor, data: &[u8], layout: &Layout) -> io::Result<Packed> {
    let [scales, quants, zero_points] = layout.row_bytes().map(|bytes| vec![0; layout.rows * bytes]);
    let mut packed = Packed { scales, quants, zero_points };
    in_large_pages(&packed.quants);
    // Numbers that are worth a thread: eight bits are quick, four are searched for.
    let numbers = if layout.bits == 8 { 4 << 20 } else { 1 << 16 };
    let worthwhile = (layout.rows * layout.columns / numbers).max(1);
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(worthwhile);
    thread::scope(|scope| {
        let spawn = |rows| {
            let work = move || pack_rows(tensor, data, layout, rows);
            crate::thread::spawn_scoped(scope, "foreturn-pack", "to quantise weights", work)
        };
        let parts: Vec<_> = Rows::split(&mut packed, layout, threads).into_iter().map(spawn).collect();
        parts.into_iter().try_for_each(|part| part.map(crate::thread::join).map_err(io::Error::other))
    })?;
    Ok(packed)
}

/// The places of some rows in a packed matrix.
struct Rows<'p> {
    indices: Range<usize>,
    scales: &'p mut [u8],
    quants: &'p mut [u8],
    zero_points: &'p mut [u8],
}

impl<'p> Rows<'p> {
    /// All rows, in as many parts.
    fn split(packed: &'p mut Packed, layout: &Layout, parts: usize) -> Vec<Self> {
        let mut rest = [&mut packed.scales[..], &mut packed.quants[..], &mut packed.zero_points[..]];
        let each = layout.rows.div_ceil(parts).max(1);
        let starts = (0..layout.rows).step_by(each);
        starts.map(|start| Rows::take(&mut rest, layout, start..layout.rows.min(start + each))).collect()
    }

    /// Rows from the front of `rest`.
    fn take(rest: &mut [&'p mut [u8]; 3], layout: &Layout, indices: Range<usize>) -> Self {
        let mut bytes = layout.row_bytes().into_iter();
        let [scales, quants, zero_points] = rest.each_mut().map(|rest| {
            let (taken, left) = std::mem::take(rest).split_at_mut(indices.len() * bytes.next().unwrap_or(0));
            *rest = left;
            taken
        });
        Rows { indices, scales, quants, zero_points }
    }
}

fn pack_rows(tensor: &Tensor, data: &[u8], layout: &Layout, rows: Rows<'_>) {
    let mut row = Row::new(layout);
    let Rows { indices, scales, quants, zero_points } = rows;
    let mut rest = [scales, quants, zero_points];
    for index in indices {
        tensor.widen_row(data, index, &mut row.values[..layout.columns]);
        let known = known_blocks(tensor, layout, tensor.row(data, index));
        let place = Rows::take(&mut rest, layout, index..index + 1);
        match known {
            Some(blocks) => row.take(&blocks, place),
            None => row.fit(place),
        }
    }
}

/// The blocks of a stored row, where `layout` holds them without loss.
fn known_blocks(tensor: &Tensor, layout: &Layout, stored: &[u8]) -> Option<Vec<Block>> {
    let (bits, read) = tensor.format.affine_blocks().filter(|_| layout.block == 32 && tensor.delta.is_none())?;
    let blocks = read(stored);
    let has_minima = blocks.first().is_some_and(|block| block.minimum.is_some());
    (bits <= layout.bits && has_minima == layout.minima).then_some(blocks)
}

/// One row in the making: a matrix's values, its blocks and quants, and behind these a column for the remainder of each
/// block.
struct Row<'l> {
    layout: &'l Layout,
    values: Vec<f32>,
    quants: Vec<u8>,
    blocks: Vec<Block>,
}

impl<'l> Row<'l> {
    fn new(layout: &'l Layout) -> Self {
        let width = layout.stored_blocks() * layout.block;
        Row { layout, values: vec![0.0; width], quants: vec![0; width], blocks: Vec::new() }
    }

    /// The columns of block `index`, those included that only fill it up.
    fn columns(&self, index: usize) -> Range<usize> {
        index * self.layout.block..(index + 1) * self.layout.block
    }

    fn take(&mut self, blocks: &[Block], place: Rows<'_>) {
        self.blocks.clear();
        self.blocks.extend(blocks);
        for (index, block) in blocks.iter().enumerate() {
            let columns = self.columns(index);
            fit::carried(&self.values[columns.clone()], *block, self.layout.bits, &mut self.quants[columns]);
        }
        self.store(place);
    }

    fn fit(&mut self, place: Rows<'_>) {
        if self.layout.bits == 8 {
            return rounding::round_row(&self.values, self.layout.block, place.scales, place.quants);
        }
        self.blocks.clear();
        for index in 0..self.layout.blocks() {
            let columns = self.columns(index);
            let (values, quants) = (&self.values[columns.clone()], &mut self.quants[columns]);
            self.blocks.push(match self.layout.minima {
                true => fit::with_minimum(values, quants),
                false => fit::symmetric(values, quants),
            });
        }
        self.store(place);
    }

    fn store(&mut self, place: Rows<'_>) {
        if self.layout.minima {
            nibbles(&self.split_minima(), place.zero_points);
        }
        for (block, bytes) in self.blocks.iter().zip(place.scales.chunks_exact_mut(size_of::<f32>())) {
            bytes.copy_from_slice(&block.scale.to_le_bytes());
        }
        match self.layout.bits {
            4 => nibbles(&self.quants, place.quants),
            _ => place.quants.copy_from_slice(&self.quants),
        }
    }

    /// Turns minima into zero points, which are returned, and columns of the remainders.
    fn split_minima(&mut self) -> Vec<u8> {
        let layout = self.layout;
        let (blocks, stored) = (layout.blocks(), layout.stored_blocks());
        let mut zero_points = vec![layout.middle(); stored];
        self.values[layout.columns..].fill(0.0);
        let rest = &mut self.values[layout.columns..];
        for ((block, rest), kept) in self.blocks[..blocks].iter().zip(rest).zip(&mut zero_points) {
            let Block { scale, minimum } = *block;
            let minimum = minimum.unwrap_or(0.0);
            let zero_point = if scale == 0.0 { 0.0 } else { (-minimum / scale).round_ties_even().clamp(0.0, 15.0) };
            *kept = zero_point as u8;
            *rest = minimum + scale * zero_point;
        }
        for index in blocks..stored {
            let columns = self.columns(index);
            let (values, quants) = (&self.values[columns.clone()], &mut self.quants[columns]);
            self.blocks.push(fit::symmetric(values, quants));
        }
        zero_points
    }
}

/// Writes two quants into a byte, the first into its low half.
fn nibbles(quants: &[u8], bytes: &mut [u8]) {
    for (pair, byte) in quants.chunks(2).zip(bytes) {
        *byte = pair[0] | pair.get(1).unwrap_or(&0) << 4;
    }
}
