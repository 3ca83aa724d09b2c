//! The size of a step, so that sequences with a deadline are in time.
//!
//! A step ends before the earliest deadline of a running sequence that can still keep it, unless even the least step
//! takes longer. Where the sequence, and what its request samples after it, take many steps, each gets its part of the
//! time. And a prompt that is less urgent than a sequence with a deadline gets only as many tokens as leave that sequence
//! the time for its own. A deadline that has passed or can't be kept influences no step.

use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

use super::{Reader, Scheduler, Sequence, Turn};
use crate::decode::cache::{CopyState, NodeId};

/// The part of the time until a deadline that is planned for. The rest covers the elder's share of a step, and steps
/// that take longer than those before.
const PLANNED: f64 = 0.75;

/// The size that a step may have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    /// Most prompt tokens.
    pub(crate) tokens: usize,
    /// Prompt tokens that no deadline takes from it.
    pub(crate) least: usize,
    /// Tokens per second of past steps, where that is known.
    pub(crate) rate: Option<f64>,
    /// The time at which the step begins.
    pub(crate) now: Instant,
}

impl Budget {
    /// Number of tokens that can be computed until `deadline`. `None` if that is not known, or if it has passed.
    fn until(&self, deadline: Instant) -> Option<f64> {
        let left = deadline.checked_duration_since(self.now).filter(|left| !left.is_zero())?;
        Some(self.rate? * left.as_secs_f64())
    }
}

/// The part of a budget that the deadlines of running sequences leave.
pub(super) struct Goals {
    /// Most prompt tokens of the step.
    pub(super) tokens: usize,
    /// By sequence, the prompt tokens that later ones may add without making it late.
    pub(super) spare: BTreeMap<Turn, usize>,
}

impl<R: Reader> Scheduler<R> {
    pub(super) fn goals(&self, budget: &Budget) -> Goals {
        let mut goals = Goals { tokens: budget.tokens, spare: BTreeMap::new() };
        if self.running.keys().all(|turn| turn.urgency.deadline.and_then(|deadline| budget.until(deadline)).is_none()) {
            return goals;
        }
        let (mut needed, mut decoding, mut soonest) = (0, 0, None);
        let mut counted = HashSet::new();
        for (turn, sequence) in &self.running {
            let rows = self.rows_left(sequence, &mut counted);
            let decodes = rows == 1 && sequence.tokens.len() > sequence.prompt;
            needed += rows;
            decoding += usize::from(decodes);
            let Some(until) = turn.urgency.deadline.and_then(|deadline| budget.until(deadline)) else { continue };
            // Its next token comes with this step, whoever goes first.
            let room = until - if decodes { 0.0 } else { needed as f64 };
            if room < 0.0 {
                continue;
            }
            let (planned, steps) = ((until * PLANNED) as usize, turn.urgency.further.saturating_add(sequence.growth()));
            // A reply rarely takes all the tokens that it may, so one that could not take them all spreads nothing.
            let spread = steps.saturating_mul(budget.least + decoding) as f64 <= room;
            let steps = if spread { steps.max(1) } else { 1 };
            if !decodes {
                goals.spare.insert(*turn, planned.saturating_sub(needed) / steps);
            }
            // A prompt may need all of a step for itself.
            let in_time = if decodes { planned / steps } else { planned };
            soonest = Some(soonest.map_or(in_time, |soonest: usize| soonest.min(in_time)));
        }
        if let Some(in_time) = soonest {
            goals.tokens = goals.tokens.min(in_time.saturating_sub(decoding).max(budget.least));
        }
        goals
    }

    /// Rows that the sequence has still to compute, without those that are `counted` with another one.
    fn rows_left(&self, sequence: &Sequence<R>, counted: &mut HashSet<NodeId>) -> usize {
        let (size, wanted) = (self.options.block_size, sequence.wanted());
        let mut left = 0;
        for (index, &node) in sequence.path.iter().enumerate().skip(sequence.cursor / size) {
            let copied = match self.cache.copy_state(node) {
                CopyState::Wanted { rows, filled, .. } => rows.min(filled),
                CopyState::None => 0,
            };
            let there = index * size + self.cache.filled(node).max(copied);
            // From the first row whose logits are wanted on, each sequence computes its own.
            let first = if counted.insert(node) { there.min(wanted) } else { wanted };
            left += sequence
                .tokens
                .len()
                .min((index + 1) * size)
                .saturating_sub(first.max(sequence.cursor).max(index * size));
        }
        left
    }
}
