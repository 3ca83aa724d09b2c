//! One step's inputs, and the executors that run it: [`paged`] over the rewritten graph, [`device`] over that of a device,
//! [`padded`] over the file as it is.

pub(crate) mod device;
pub(crate) mod padded;
pub(crate) mod paged;
mod ports;

use std::time::Instant;

use ndarray::ArrayView2;

use crate::decode::rope::Variant;
use crate::{Error, Result};

/// The packed inputs of one run of the model: T tokens of B sequences, R rows of logits.
#[derive(Debug, Default, Clone)]
pub(crate) struct Step {
    /// `[T]` token ids.
    pub(crate) tokens: Vec<i64>,
    /// `[T]` position of each token in its sequence.
    pub(crate) positions: Vec<i64>,
    /// `[B + 1]` where each sequence's tokens begin.
    pub(crate) cumulative: Vec<i32>,
    /// `[B]` tokens of each sequence before this step's.
    pub(crate) past: Vec<i32>,
    /// `[B, width]` block numbers, padded with 0.
    pub(crate) block_table: Vec<i32>,
    /// `[T]` cache slots, -1 where the row is there already.
    pub(crate) slots: Vec<i32>,
    /// `[B]` rotary tables of each sequence.
    pub(crate) variants: Vec<Variant>,
    /// `[R]` tokens whose logits are wanted.
    pub(crate) logit_rows: Vec<i64>,
    tables: Vec<Vec<i32>>,
}

impl Step {
    /// Adds a sequence's tokens, the last `logits` of which need logits.
    pub(crate) fn push(
        &mut self,
        variant: Variant,
        tokens: &[u32],
        position: usize,
        blocks: impl Iterator<Item = Option<u32>>,
        slot: impl Fn(usize) -> i32,
        logits: usize,
    ) {
        if self.cumulative.is_empty() {
            self.cumulative.push(0);
        }
        self.tokens.extend(tokens.iter().map(|&t| i64::from(t)));
        self.positions.extend((position..position + tokens.len()).map(|p| p as i64));
        self.slots.extend((position..position + tokens.len()).map(slot));
        self.variants.push(variant);
        self.past.push(position as i32);
        // A missing block becomes -1, which the operator refuses.
        self.tables.push(blocks.map(|block| block.map_or(-1, |block| block as i32)).collect());
        let end = self.tokens.len();
        self.cumulative.push(end as i32);
        self.logit_rows.extend((end - logits..end).map(|row| row as i64));
    }

    /// Lays out the block table once all sequences are in.
    pub(crate) fn finish(&mut self) {
        let width = self.tables.iter().map(Vec::len).max().unwrap_or(0);
        for table in self.tables.drain(..) {
            let padding = width - table.len();
            self.block_table.extend(table);
            self.block_table.extend(std::iter::repeat_n(0, padding));
        }
    }

    /// The blocks of one sequence, once the table is laid out.
    pub(crate) fn table(&self, sequence: usize) -> &[i32] {
        let width = self.block_table.len() / self.sequences();
        &self.block_table[sequence * width..][..width]
    }

    /// Sequences in the step.
    pub(crate) fn sequences(&self) -> usize {
        self.past.len()
    }
}

/// A model in ONNX Runtime that runs steps, or a stand-in in tests of the scheduler.
pub(crate) trait Executor: Send {
    /// Copies a block's contents in every layer.
    fn copy_block(&mut self, from: u32, to: u32);

    /// Sets the time after which nobody waits for a step any more.
    fn end_by(&mut self, _end: Option<Instant>) {}

    /// Overwrites the cache with NaN, so that a test can show that nothing stale is ever used.
    #[cfg(test)]
    fn poison(&mut self) {}

    /// Runs the step and hands its logits, `[R, vocabulary]` in standard order, to `read`, once.
    fn run(&mut self, step: &Step, read: &mut dyn FnMut(ArrayView2<'_, f32>)) -> Result<()>;
}

/// The error of a model whose rows have another width than its folder says.
fn wrong_width(folder: &str, source: &str, expected: usize, width: usize) -> Error {
    Error::invalid_model(format!(
        "{folder}/{source} is {expected}, but the model gave {width} logits a row. Correct it, or export the model again"
    ))
}
