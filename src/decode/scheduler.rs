//! Which tokens the next step computes.
//!
//! Every step packs what is due: one token of each sequence that is decoding, chunks of prompts of others, as many as
//! fit the step's token budget. Sequences are served by age. Where two need the same uncomputed block, the older
//! computes it and the younger waits. When blocks run out, cached prefixes go first, then younger sequences are
//! preempted, those first whose blocks are least shared; they start over later from what the cache still holds. The
//! oldest sequence can always proceed, because what does not fit alone was refused on submission.
//!
//! A sequence that outgrows the rotary tables that it began with starts over with the other ones.
//!
//! Nothing here influences what a sequence computes, only when.

use std::collections::{BTreeMap, HashMap};

use ndarray::{ArrayView2, s};

use super::cache::{Cache, CopyState, NodeId, Path};
use super::executor::{Executor, Step};
use super::rope::{Variant, Variants};
use crate::{Error, ErrorKind, Result};

/// Names a sequence of one scheduler; grows with age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SequenceId(pub(crate) u64);

/// What comes after a row of logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Go on with this token.
    Append(u32),
    /// Nothing to add; go on to the next token of the prompt.
    Continue,
    /// The sequence is complete.
    Finish,
}

/// Consumes a sequence's logits. Owned by the scheduler until the sequence ends.
pub(crate) trait Reader {
    /// The next position whose logits are wanted; grows with each row read.
    fn next_position(&self) -> usize;

    /// Reads the logits that follow `tokens[..=position]`.
    ///
    /// # Errors
    /// Ends the sequence with that error.
    fn read(&mut self, position: usize, tokens: &[u32], logits: &[f32]) -> Result<Next>;
}

/// How the scheduler shares time and memory.
#[derive(Debug, Clone)]
pub(crate) struct SchedulerOptions {
    /// Blocks of the cache.
    pub(crate) blocks: usize,
    /// Tokens of a block.
    pub(crate) block_size: usize,
    /// Most sequences in one step.
    pub(crate) max_sequences: usize,
    /// Most rows of logits in one step; each takes a vocabulary's worth of floats.
    pub(crate) max_logit_rows: usize,
    /// Bytes of one block, for messages.
    pub(crate) block_bytes: usize,
    /// Which sequences are computed with which rotary tables.
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
    tokens: Vec<u32>,
    prompt: usize,
    /// Most tokens it may grow to.
    limit: usize,
    /// First position that has not been dealt with.
    cursor: usize,
    reader: R,
    cost: SequenceCost,
    /// The nodes it uses; empty while it waits.
    path: Path,
}

/// Batches sequences over one model.
pub(crate) struct Scheduler<R> {
    cache: Cache,
    options: SchedulerOptions,
    /// In order of age.
    running: BTreeMap<SequenceId, Sequence<R>>,
    waiting: BTreeMap<SequenceId, Sequence<R>>,
    pins: HashMap<u64, Path>,
    /// Blocks that pins may hold at most, all together.
    pinned: usize,
    next: u64,
    totals: Totals,
}

/// What one sequence does in a step.
struct Share {
    id: SequenceId,
    from: usize,
    to: usize,
    /// Rows of logits it gets.
    logits: usize,
}

/// A step under construction.
struct Plan {
    shares: Vec<Share>,
    /// Who computes rows of a node in this step.
    claims: HashMap<NodeId, SequenceId>,
    copies: Vec<(u32, u32)>,
    budget: usize,
    logit_rows: usize,
}

impl<R: Reader> Scheduler<R> {
    pub(crate) fn new(options: SchedulerOptions) -> Self {
        Scheduler {
            cache: Cache::new(options.blocks, options.block_size),
            options,
            running: BTreeMap::new(),
            waiting: BTreeMap::new(),
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
    pub(crate) fn submit(&mut self, tokens: Vec<u32>, max_new: usize, reader: R) -> Result<SequenceId> {
        let limit = tokens.len() + max_new;
        // The last token sampled is never fed back.
        self.check_fits(limit.saturating_sub(1).max(tokens.len()))?;
        let id = SequenceId(self.next);
        self.next += 1;
        let prompt = tokens.len();
        let cost = SequenceCost { prompt, ..SequenceCost::default() };
        self.waiting.insert(id, Sequence { tokens, prompt, limit, cursor: 0, reader, cost, path: Path::new() });
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

    /// Ends a sequence early; `None` when it has ended already.
    pub(crate) fn cancel(&mut self, id: SequenceId) -> Option<(R, SequenceCost)> {
        let sequence = self.running.remove(&id).or_else(|| self.waiting.remove(&id))?;
        self.cache.release(sequence.path);
        Some((sequence.reader, sequence.cost))
    }

    /// Keeps the full blocks of `tokens` from being evicted, computed or not, until they are unpinned. They serve
    /// sequences of the variant that `tokens` have by their own length.
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
        if let Some(old) = self.pins.insert(key, path) {
            self.pinned -= old.len();
            self.cache.release(old);
        }
        Ok(())
    }

    /// Undoes [`Scheduler::pin`].
    pub(crate) fn unpin(&mut self, key: u64) {
        if let Some(path) = self.pins.remove(&key) {
            self.pinned -= path.len();
            self.cache.release(path);
        }
    }

    /// Whether nothing is left to do.
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

    /// Computes up to `budget` prompt tokens and one token of each decoding sequence; appends what ended.
    /// Returns the number of tokens computed.
    ///
    /// Where the model fails, every sequence of the step is ended with that error.
    pub(crate) fn step(&mut self, budget: usize, executor: &mut dyn Executor, ended: &mut Vec<Ended<R>>) -> usize {
        self.admit();
        let plan = self.plan(budget);
        if plan.shares.is_empty() {
            self.fail_oldest(ended);
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

    /// Starts waiting sequences, oldest first, while their blocks can be had without preempting anybody.
    fn admit(&mut self) {
        while self.running.len() < self.options.max_sequences {
            let Some((id, mut sequence)) = self.waiting.pop_first() else { return };
            sequence.path = self.cache.attach(self.variant(&sequence), &sequence.tokens);
            // One block of headroom for each sequence that is growing.
            let needed = self.cache.missing(&sequence.path) + self.running.len();
            if !self.running.is_empty() && needed > self.cache.available() {
                self.cache.release(std::mem::take(&mut sequence.path));
                self.waiting.insert(id, sequence);
                return;
            }
            self.running.insert(id, sequence);
        }
    }

    fn variant(&self, sequence: &Sequence<R>) -> Variant {
        self.options.variants.of(sequence.tokens.len())
    }

    fn plan(&mut self, budget: usize) -> Plan {
        let mut plan = Plan {
            shares: Vec::new(),
            claims: HashMap::new(),
            copies: Vec::new(),
            budget,
            logit_rows: self.options.max_logit_rows,
        };
        let ids: Vec<_> = self.running.keys().copied().collect();
        for id in ids {
            // A sequence may have been preempted for an older one.
            let Some(mut sequence) = self.running.remove(&id) else { continue };
            self.plan_sequence(id, &mut sequence, &mut plan);
            self.running.insert(id, sequence);
        }
        plan
    }

    /// Decides what one sequence computes; takes blocks for it.
    fn plan_sequence(&mut self, id: SequenceId, sequence: &mut Sequence<R>, plan: &mut Plan) {
        // The last token's logits are always wanted, so it is always computed.
        let wanted = sequence.reader.next_position().min(sequence.tokens.len() - 1);
        if !self.take_over_rows(id, sequence, wanted, plan) {
            return;
        }
        let from = sequence.cursor;
        let decoding = from + 1 == sequence.tokens.len() && from >= sequence.prompt;
        let budget = if decoding { 1 } else { plan.budget };
        let end = sequence.tokens.len().min(from.saturating_add(budget));
        let (mut to, mut logits) = (from, 0);
        while to < end {
            let node = sequence.path[to / self.options.block_size];
            let claimed = plan.claims.get(&node).is_some_and(|&claimer| claimer != id);
            let too_many_rows = to >= wanted && logits == plan.logit_rows;
            if claimed || too_many_rows || !self.block_for(id, node, plan) {
                break;
            }
            plan.claims.insert(node, id);
            logits += usize::from(to >= wanted);
            to += 1;
        }
        if to > from {
            plan.logit_rows -= logits;
            if !decoding {
                plan.budget -= to - from;
            }
            plan.shares.push(Share { id, from, to, logits });
        }
    }

    /// Moves the cursor over rows that are already there, up to `wanted`, copying those that stand in another's block.
    /// Returns whether the sequence may go on from there in this step.
    fn take_over_rows(&mut self, id: SequenceId, sequence: &mut Sequence<R>, wanted: usize, plan: &mut Plan) -> bool {
        while sequence.cursor < wanted {
            let index = sequence.cursor / self.options.block_size;
            let node = sequence.path[index];
            if let CopyState::Wanted { source, rows, filled } = self.cache.copy_state(node) {
                // Only ever wait for an older sequence: the oldest never waits, so somebody always proceeds.
                let older = self.running.range(..id).any(|(_, other)| other.path.get(index) == Some(&source));
                if filled < rows && older {
                    return false;
                }
                self.copy_rows(id, node, source, rows.min(filled), plan);
                self.cache.forget_copy(node);
            }
            let there = index * self.options.block_size + self.cache.filled(node);
            if there <= sequence.cursor {
                return true;
            }
            sequence.cursor = there.min(wanted);
        }
        true
    }

    /// Takes over `rows` rows of `source`, if there is a block for them; else they will be computed.
    fn copy_rows(&mut self, id: SequenceId, node: NodeId, source: NodeId, rows: usize, plan: &mut Plan) {
        let taken = rows <= self.cache.filled(node) || plan.claims.contains_key(&node);
        if taken || !self.block_for(id, node, plan) {
            return;
        }
        // The last block to be had may have been the source's own.
        if self.cache.copy_state(node) == CopyState::None {
            return;
        }
        if let (Some(from), Some(to)) = (self.cache.block(source), self.cache.block(node)) {
            plan.copies.push((from, to));
            self.cache.fill(node, rows);
        }
    }

    /// Gives `node` a block, preempting younger sequences than `id` that this step hasn't planned yet.
    fn block_for(&mut self, id: SequenceId, node: NodeId, plan: &Plan) -> bool {
        loop {
            if self.cache.ensure_block(node) {
                return true;
            }
            let planned = |other: &SequenceId| plan.shares.iter().any(|share| share.id == *other);
            let victim = self
                .running
                .iter()
                .filter(|(other, _)| **other > id && !planned(other))
                .max_by_key(|(other, sequence)| (self.cache.unshared(&sequence.path), **other))
                .map(|(other, _)| *other);
            let Some(victim) = victim else { return false };
            if let Some(mut sequence) = self.running.remove(&victim) {
                sequence.cost.preemptions += 1;
                self.totals.preemptions += 1;
                self.start_over(victim, sequence);
            }
        }
    }

    /// Sends a sequence back to the queue. Its rows stay cached.
    fn start_over(&mut self, id: SequenceId, mut sequence: Sequence<R>) {
        self.cache.release(std::mem::take(&mut sequence.path));
        sequence.cursor = 0;
        self.waiting.insert(id, sequence);
    }

    fn pack(&self, plan: &Plan) -> Step {
        let mut step = Step::default();
        for share in &plan.shares {
            let sequence = &self.running[&share.id];
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
            let Some(mut sequence) = self.running.remove(&share.id) else { continue };
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
                    self.running.insert(share.id, sequence);
                }
                // The rows so far are of the wrong variant now.
                Ok(false) => self.start_over(share.id, sequence),
                result => {
                    self.cache.release(sequence.path);
                    let result = result.map(|_| ());
                    ended.push(Ended { id: share.id, reader: sequence.reader, cost: sequence.cost, result });
                }
            }
        }
    }

    /// Whether the sequence is complete after its rows.
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

    /// Ends the oldest sequence where there is nothing to compute for any: a defect of this file, which must not become a
    /// step that is tried for ever.
    fn fail_oldest(&mut self, ended: &mut Vec<Ended<R>>) {
        let Some(&id) = self.running.keys().next().or_else(|| self.waiting.keys().next()) else { return };
        let (running, waiting) = (self.running.len(), self.waiting.len());
        if let Some((reader, cost)) = self.cancel(id) {
            let error = Error::internal(format!(
                "the scheduler found nothing to compute for {running} running and {waiting} waiting sequences in {} cache \
                 blocks, of which {} are in use and {} pinned, and ended the oldest, of {} prompt tokens. This is a defect in \
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
            if let Some((reader, cost)) = self.cancel(share.id) {
                ended.push(Ended { id: share.id, reader, cost, result: Err(error.duplicate()) });
            }
        }
    }
}

#[cfg(test)]
mod tests;
