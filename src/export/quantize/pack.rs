//! The bytes of a quantised matrix, as MatMulNBits and GatherBlockQuantized read them.

use std::io::{self, Write};
use std::num::NonZero;
use std::ops::Range;
use std::thread;

use super::super::checkpoint::Tensor;
use super::super::format::affine::Block;
use super::{Layout, fit};

/// Writes `tensor`, a [rows, columns] matrix whose file is `data`: all scales, then all quants, then all zero points.
pub(in crate::export) fn write(tensor: &Tensor, data: &[u8], layout: &Layout, sink: &mut dyn Write) -> io::Result<()> {
    let parts = pack(tensor, data, layout)?;
    for part in &parts {
        let bytes: Vec<u8> = part.scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
        sink.write_all(&bytes)?;
    }
    parts.iter().try_for_each(|part| sink.write_all(&part.quants))?;
    parts.iter().try_for_each(|part| sink.write_all(&part.zero_points))
}

/// Quants, scales and zero points of some rows, each row after row.
#[derive(Debug, Default)]
struct Packed {
    quants: Vec<u8>,
    scales: Vec<f32>,
    zero_points: Vec<u8>,
}

/// Packs a matrix on all cores; the parts are rows in order.
fn pack(tensor: &Tensor, data: &[u8], layout: &Layout) -> io::Result<Vec<Packed>> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let rows = layout.rows.div_ceil(threads).max(1);
    thread::scope(|scope| {
        let starts = (0..layout.rows).step_by(rows);
        let spawn = |start| {
            let work = move || pack_rows(tensor, data, layout, start..layout.rows.min(start + rows));
            crate::thread::spawn_scoped(scope, "foreturn-pack", "to quantise weights", work)
        };
        let parts: Vec<_> = starts.map(spawn).collect();
        parts.into_iter().map(|part| part.map(crate::thread::join).map_err(io::Error::other)).collect()
    })
}

fn pack_rows(tensor: &Tensor, data: &[u8], layout: &Layout, rows: Range<usize>) -> Packed {
    let mut row = Row::new(layout);
    let mut packed = Packed::default();
    for index in rows {
        tensor.widen_row(data, index, &mut row.values[..layout.columns]);
        match known_blocks(tensor, layout, tensor.row(data, index)) {
            Some(blocks) => row.take(&blocks),
            None => row.fit(),
        }
        row.store_into(&mut packed);
    }
    packed
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

    fn take(&mut self, blocks: &[Block]) {
        self.blocks.clear();
        self.blocks.extend(blocks);
        for (index, block) in blocks.iter().enumerate() {
            let columns = self.columns(index);
            fit::carried(&self.values[columns.clone()], *block, self.layout.bits, &mut self.quants[columns]);
        }
    }

    fn fit(&mut self) {
        self.blocks.clear();
        for index in 0..self.layout.blocks() {
            let columns = self.columns(index);
            let (values, quants) = (&self.values[columns.clone()], &mut self.quants[columns]);
            self.blocks.push(match self.layout.minima {
                true => fit::with_minimum(values, quants),
                false => fit::symmetric(values, self.layout.bits, quants),
            });
        }
    }

    fn store_into(&mut self, packed: &mut Packed) {
        if self.layout.minima {
            packed.zero_points.extend(nibbles(&self.split_minima()));
        }
        packed.scales.extend(self.blocks.iter().map(|block| block.scale));
        match self.layout.bits {
            4 => packed.quants.extend(nibbles(&self.quants)),
            _ => packed.quants.extend(&self.quants),
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
            self.blocks.push(fit::symmetric(values, layout.bits, quants));
        }
        zero_points
    }
}

/// Two quants a byte, the first in the low half.
fn nibbles(quants: &[u8]) -> impl Iterator<Item = u8> {
    quants.chunks(2).map(|pair| pair[0] | pair.get(1).unwrap_or(&0) << 4)
}
