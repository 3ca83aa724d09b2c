//! The choice of the tokens that the next step computes.
//!
//! Every step packs what is due: one token of each sequence that is decoding, and chunks of prompts of others, as many
//! as fit the step's token budget. Sequences are served by urgency ([`Turn`]): `admission` says which of them share
//! steps, `plan` what each of them computes in the next step, and `deadlines` how large that step is.
//!
//! Nobody starves. From time to time the oldest sequence becomes the elder, which goes before all others in everything
//! until it ends. See `admission` for the rule and its bound. The sequence that goes first can always proceed, because
//! a sequence that doesn't fit alone was refused when it was submitted.
//!
//! A sequence that outgrows the rotary tables that it began with starts over with the other ones.
//!
//! Nothing here influences the results of a sequence. It only influences when they come.

mod admission;
mod deadlines;
mod plan;

use std::collections::{BTreeMap, HashMap};

use ndarray::{ArrayView2, s};

pub(crate) use self::deadlines::Budget;
use self::plan::{Plan, Share};
use super::cache::{Cache, Path};
use super::executor::{Executor, Step};
use super::rope::{Variant, Variants};
use super::urgency::{Turn, Urgency};
use crate::{Error, ErrorKind, Result};

/// The number of a sequence in one scheduler, by arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SequenceId(pub(crate) u64);

/// The continuation after a row of logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Go on with this token.
    Append(u32),
    /// Add nothing, and go on to the next token of the prompt.
    Continue,
    /// The sequence is complete.
    Finish,
}

/// Consumes a sequence's logits. The scheduler owns it until the sequence ends.
pub(crate) trait Reader {
    /// The next position whose logits are wanted. It grows with each row read.
    fn next_position(&self) -> usize;

    /// Reads the logits that follow `tokens[..=position]`.
    ///
    /// # Errors
    /// Ends the sequence with that error.
    fn read(&mut self, position: usize, tokens: &[u32], logits: &[f32]) -> Result<Next>;
}

/// The memory and the places that sequences share.
#[derive(Debug, Clone)]
pub(crate) struct SchedulerOptions {
    /// Blocks of the cache.
    pub(crate) blocks: usize,
    /// Tokens of a block.
    pub(crate) block_size: usize,
    /// Most sequences in one step.
    pub(crate) max_sequences: usize,
    /// Most rows of logits in one step. Each takes as many floats as the vocabulary has tokens.
    pub(crate) max_logit_rows: usize,
    /// Bytes of one block, for messages.
    pub(crate) block_bytes: usize,
    /// The choice of rotary tables.
    pub(crate) variants: Variants,
}

/// Counts of one sequence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SequenceCost {
    pub(crate) prompt: usize,
    /// Prompt tokens that this sequence computed itself, recomputation after preemption included.
    pub(crate) computed: usize,
    pub(crate) generated: usize,
    pub(crate) preemptions: usize,
}

impl SequenceCost {
    /// Prompt tokens that were taken from the cache.
    pub(crate) fn reused(&self) -> usize {
        self.prompt.saturating_sub(self.computed)
    }
}

/// A sequence that ended.
pub(crate) struct Ended<R> {
    pub(crate) id: SequenceId,
    pub(crate) reader: R,
    pub(crate) cost: SequenceCost,
    pub(crate) result: Result<()>,
}

/// Totals since the scheduler was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) steps: u64,
    /// Token rows computed.
    pub(crate) computed: u64,
    pub(crate) preemptions: u64,
    /// Most blocks occupied at once.
    pub(crate) peak_blocks: usize,
}

struct Sequence<R> {
    /// The prompt and what was sampled after it.
    tokens: Vec<u32>,
    prompt: usize,
    /// Most tokens it may grow to.
    limit: usize,
    /// First position that has not been dealt with.
    cursor: usize,
    reader: R,
    cost: SequenceCost,
    /// The nodes it uses. Empty while it waits.
    path: Path,
}

impl<R: Reader> Sequence<R> {
    /// The first position whose row gives logits that are wanted. Its row is computed even if it is there already.
    fn wanted(&self) -> usize {
        // The last token's logits are always wanted, so it is always computed.
        self.reader.next_position().min(self.tokens.len() - 1)
    }

    /// Tokens that may still be sampled: a step each.
    fn growth(&self) -> usize {
        self.limit - self.tokens.len()
    }
}

/// A prefix that stays in the cache.
struct Pin {
    variant: Variant,
    tokens: Vec<u32>,
    path: Path,
}

/// Batches sequences over one model.
pub(crate) struct Scheduler<R> {
    cache: Cache,
    options: SchedulerOptions,
    /// Those that share steps, the most urgent first.
    running: BTreeMap<Turn, Sequence<R>>,
    waiting: BTreeMap<Turn, Sequence<R>>,
    /// The turns of all of them, the oldest first.
    turns: BTreeMap<SequenceId, Turn>,
    /// The sequence that goes before all others.
    elder: Option<Turn>,
    /// The step from which on the oldest sequence may become the elder.
    next_elder: u64,
    pins: HashMap<u64, Pin>,
    /// Blocks that pins may hold at most, all together.
    pinned: usize,
    next: u64,
    totals: Totals,
}

impl<R: Reader> Scheduler<R> {
    pub(crate) fn new(options: SchedulerOptions) -> Self {
        Scheduler {
            cache: Cache::new(options.blocks, options.block_size),
            options,
            running: BTreeMap::new(),
            waiting: BTreeMap::new(),
            turns: BTreeMap::new(),
            elder: None,
            next_elder: 0,
            pins: HashMap::new(),
            pinned: 0,
            next: 0,
            totals: Totals::default(),
        }
    }

    /// Queues a sequence that may grow by `max_new` tokens.
    ///
    /// # Errors
    /// It would not fit the cache even alone.
    pub(crate) fn submit(
        &mut self,
        tokens: Vec<u32>,
        max_new: usize,
        urgency: Urgency,
        reader: R,
    ) -> Result<SequenceId> {
        let limit = tokens.len() + max_new;
        // The last token sampled is never fed back.
        self.check_fits(limit.saturating_sub(1).max(tokens.len()))?;
        if self.is_idle() {
            self.next_elder = self.totals.steps + admission::PATIENCE;
        }
        let (id, turn) = (SequenceId(self.next), Turn { urgency, arrival: self.next });
        self.next += 1;
        let prompt = tokens.len();
        let cost = SequenceCost { prompt, ..SequenceCost::default() };
        let sequence = Sequence { tokens, prompt, limit, cursor: 0, reader, cost, path: Path::new() };
        self.turns.insert(id, turn);
        self.waiting.insert(turn, sequence);
        Ok(id)
    }

    fn check_fits(&self, rows: usize) -> Result<()> {
        let needed = rows.div_ceil(self.options.block_size);
        let usable = self.cache.total() - self.pinned;
        if needed <= usable {
            return Ok(());
        }
        let mib = |blocks: usize| (blocks * self.options.block_bytes) as f64 / f64::from(1 << 20);
        Err(Error::new(
            ErrorKind::MemoryBudget,
            format!(
                "a sequence of {rows} tokens needs {needed} cache blocks ({:.1} MiB), but the key-value cache has {} ({:.1} MiB), {} of them pinned. Raise `kv_cache` under [runtime], shorten the prompt, or ask for fewer new tokens",
                mib(needed),
                self.cache.total(),
                mib(self.cache.total()),
                self.pinned,
            ),
        ))
    }

    /// Ends a sequence early. Returns `None` if it has ended already.
    pub(crate) fn cancel(&mut self, id: SequenceId) -> Option<(R, SequenceCost)> {
        let turn = *self.turns.get(&id)?;
        let sequence = self.running.remove(&turn).or_else(|| self.waiting.remove(&turn))?;
        self.forget(turn);
        self.cache.release(sequence.path);
        Some((sequence.reader, sequence.cost))
    }

    /// Strikes a sequence that is over off the lists.
    fn forget(&mut self, turn: Turn) {
        self.turns.remove(&SequenceId(turn.arrival));
        self.retire_elder(turn);
    }

    /// Keeps the full blocks of `tokens` from being evicted until they are unpinned, also those that are not computed
    /// yet. They serve sequences of the variant that `tokens` have by their own length.
    ///
    /// # Errors
    /// Some sequence already accepted would no longer fit beside it.
    pub(crate) fn pin(&mut self, key: u64, tokens: &[u32]) -> Result<()> {
        let variant = self.options.variants.of(tokens.len());
        let tokens = &tokens[..tokens.len() / self.options.block_size * self.options.block_size];
        let blocks = tokens.len() / self.options.block_size;
        let largest =
            self.running.values().chain(self.waiting.values()).map(|s| s.limit.div_ceil(self.options.block_size)).max();
        let free = (self.cache.total() - self.pinned).saturating_sub(largest.unwrap_or(1));
        if blocks > free {
            return Err(Error::new(
                ErrorKind::MemoryBudget,
                format!(
                    "pinning {} tokens needs {blocks} cache blocks, but the sequences under way leave {free}. Raise `kv_cache` under [runtime] or unpin another prefix",
                    tokens.len()
                ),
            ));
        }
        let path = self.cache.attach(variant, tokens);
        self.pinned += path.len();
        if let Some(old) = self.pins.insert(key, Pin { variant, tokens: tokens.to_vec(), path }) {
            self.pinned -= old.path.len();
            self.cache.release(old.path);
        }
        Ok(())
    }

    /// Empties the cache, because the weights have changed, so that no row is read that was computed before. Pins stay:
    /// their blocks are reserved as before, and empty.
    ///
    /// # Errors
    /// Sequences are under way. Rows of different weights would meet in them.
    pub(crate) fn reset(&mut self) -> Result<()> {
        if !self.is_idle() {
            return Err(Error::internal("weights were exchanged under sequences"));
        }
        self.cache.clear();
        for pin in self.pins.values_mut() {
            pin.path = self.cache.attach(pin.variant, &pin.tokens);
        }
        Ok(())
    }

    /// The full blocks of the prefixes that are pinned.
    pub(crate) fn pinned(&self) -> impl Iterator<Item = &[u32]> {
        self.pins.values().map(|pin| &*pin.tokens)
    }

    /// Undoes [`Scheduler::pin`].
    pub(crate) fn unpin(&mut self, key: u64) {
        if let Some(pin) = self.pins.remove(&key) {
            self.pinned -= pin.path.len();
            self.cache.release(pin.path);
        }
    }

    /// True if nothing is left to do.
    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Sequences that share steps.
    pub(crate) fn running(&self) -> usize {
        self.running.len()
    }

    /// Sequences that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    pub(crate) fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Computes prompt tokens within `budget` and one token of each decoding sequence. Appends what ended. Returns the
    /// number of tokens computed.
    ///
    /// Where the model fails, every sequence of the step is ended with that error.
    pub(crate) fn step(&mut self, budget: &Budget, executor: &mut dyn Executor, ended: &mut Vec<Ended<R>>) -> usize {
        self.admit();
        let plan = self.plan(budget);
        if plan.shares.is_empty() {
            self.fail_first(ended);
            return 0;
        }
        for &(from, to) in &plan.copies {
            executor.copy_block(from, to);
        }
        let step = self.pack(&plan);
        self.totals.steps += 1;
        self.totals.computed += step.tokens.len() as u64;
        self.totals.peak_blocks = self.totals.peak_blocks.max(self.cache.occupied());
        let outcome = executor.run(&step, &mut |logits| self.read(&plan, logits, ended));
        if let Err(error) = outcome {
            self.fail(&plan, &error, ended);
        }
        step.tokens.len()
    }

    fn variant(&self, sequence: &Sequence<R>) -> Variant {
        self.options.variants.of(sequence.tokens.len())
    }

    /// Sends a sequence back to the queue. Its rows stay cached.
    fn start_over(&mut self, turn: Turn, mut sequence: Sequence<R>) {
        self.cache.release(std::mem::take(&mut sequence.path));
        sequence.cursor = 0;
        self.waiting.insert(turn, sequence);
    }

    fn pack(&self, plan: &Plan) -> Step {
        let mut step = Step::default();
        for share in &plan.shares {
            let sequence = &self.running[&share.turn];
            let blocks =
                sequence.path[..share.to.div_ceil(self.options.block_size)].iter().map(|&id| self.cache.block(id));
            let slot = |position: usize| {
                let (node, row) =
                    (sequence.path[position / self.options.block_size], position % self.options.block_size);
                // Rows that are there already are not written again: others may be reading them.
                match self.cache.block(node) {
                    Some(block) if row >= self.cache.filled(node) => {
                        (block as usize * self.options.block_size + row) as i32
                    }
                    _ => -1,
                }
            };
            let variant = self.variant(sequence);
            step.push(variant, &sequence.tokens[share.from..share.to], share.from, blocks, slot, share.logits);
        }
        step.finish();
        step
    }

    /// Hands each sequence its rows of logits and moves it on.
    fn read(&mut self, plan: &Plan, logits: ArrayView2<'_, f32>, ended: &mut Vec<Ended<R>>) {
        let mut first = 0;
        for share in &plan.shares {
            let own_logits = logits.slice(s![first..first + share.logits, ..]);
            first += share.logits;
            let Some(mut sequence) = self.running.remove(&share.turn) else { continue };
            for (i, &node) in sequence
                .path
                .iter()
                .enumerate()
                .take(share.to.div_ceil(self.options.block_size))
                .skip(share.from / self.options.block_size)
            {
                self.cache.fill(node, (share.to - i * self.options.block_size).min(self.options.block_size));
            }
            let own = share.to.min(sequence.prompt).saturating_sub(share.from);
            sequence.cost.computed += own;
            sequence.cursor = share.to;
            let variant = self.variant(&sequence);
            let result = self.read_rows(share, &mut sequence, own_logits);
            match result {
                Ok(false) if self.variant(&sequence) == variant => {
                    self.running.insert(share.turn, sequence);
                }
                // The rows so far are of the wrong variant now.
                Ok(false) => self.start_over(share.turn, sequence),
                result => {
                    self.forget(share.turn);
                    self.cache.release(sequence.path);
                    let (id, result) = (SequenceId(share.turn.arrival), result.map(|_| ()));
                    ended.push(Ended { id, reader: sequence.reader, cost: sequence.cost, result });
                }
            }
        }
    }

    /// Hands a sequence its rows. Returns true if it is complete after them.
    fn read_rows(&mut self, share: &Share, sequence: &mut Sequence<R>, logits: ArrayView2<'_, f32>) -> Result<bool> {
        for (position, row) in (share.to - share.logits..share.to).zip(logits.rows()) {
            let row = row.to_slice().ok_or_else(|| Error::internal("logits that are not in standard order"))?;
            match sequence.reader.read(position, &sequence.tokens[..=position], row)? {
                Next::Continue => {}
                Next::Finish => return Ok(true),
                Next::Append(token) => {
                    sequence.cost.generated += 1;
                    sequence.tokens.push(token);
                    if sequence.tokens.len() > sequence.limit {
                        return Err(Error::internal("a sequence outgrew what was admitted"));
                    }
                    self.cache.append(&mut sequence.path, token);
                }
            }
        }
        Ok(false)
    }

    /// Ends the sequence that goes first where there is nothing to compute for any: a defect of the scheduler, which
    /// must not become a step that is tried for ever.
    fn fail_first(&mut self, ended: &mut Vec<Ended<R>>) {
        let (running, waiting) = (self.running.len(), self.waiting.len());
        let first = self.elder.or_else(|| self.running.keys().chain(self.waiting.keys()).next().copied());
        let Some(id) = first.map(|turn| SequenceId(turn.arrival)) else { return };
        if let Some((reader, cost)) = self.cancel(id) {
            let error = Error::internal(format!(
                "the scheduler found nothing to compute for {running} running and {waiting} waiting sequences in {} cache \
                 blocks, of which {} are in use and {} pinned, and ended the first, of {} prompt tokens. This is a defect in \
                 foreturn; please report it",
                self.cache.total(),
                self.cache.total() - self.cache.available(),
                self.pinned,
                cost.prompt,
            ));
            ended.push(Ended { id, reader, cost, result: Err(error) });
        }
    }

    fn fail(&mut self, plan: &Plan, error: &Error, ended: &mut Vec<Ended<R>>) {
        for share in &plan.shares {
            let id = SequenceId(share.turn.arrival);
            if let Some((reader, cost)) = self.cancel(id) {
                ended.push(Ended { id, reader, cost, result: Err(error.duplicate()) });
            }
        }
    }
}

#[cfg(test)]
mod tests;
