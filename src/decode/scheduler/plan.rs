//! The share of each sequence in the next step.
//!
//! Sequences are planned by urgency. Where two need the same uncomputed block, the first computes it and the other
//! waits. When blocks run out, cached prefixes go first. Then the least urgent sequences are preempted, of equals the
//! one whose blocks are least shared. They start over later from what the cache still holds.
//!
//! The sequence of the first rank (the elder if there is one, else the most urgent) is planned first. It waits for
//! nobody and can preempt everybody, so it always has a share and a step is never empty.

use std::collections::HashMap;

use super::{Budget, Reader, Scheduler, Sequence, Turn};
use crate::decode::cache::{CopyState, NodeId};

/// The elder's part of a step before more urgent sequences have theirs, as a divisor.
const ELDERS_PART: usize = 8;

/// The part of a step that one sequence has.
pub(super) struct Share {
    pub(super) turn: Turn,
    pub(super) from: usize,
    pub(super) to: usize,
    /// Rows of logits it gets.
    pub(super) logits: usize,
}

/// A step under construction.
pub(super) struct Plan {
    pub(super) shares: Vec<Share>,
    pub(super) copies: Vec<(u32, u32)>,
    /// The sequence that computes rows of a node in this step.
    claims: HashMap<NodeId, Turn>,
    /// Prompt tokens that may still be added.
    budget: usize,
    /// Those of them that make nobody late who was planned before.
    spare: usize,
    /// Rows of logits that may still be added.
    logit_rows: usize,
}

impl<R: Reader> Scheduler<R> {
    pub(super) fn plan(&mut self, budget: &Budget) -> Plan {
        let goals = self.goals(budget);
        let mut plan = Plan {
            shares: Vec::new(),
            copies: Vec::new(),
            claims: HashMap::new(),
            budget: goals.tokens,
            spare: usize::MAX,
            logit_rows: self.options.max_logit_rows,
        };
        let turns: Vec<_> = self.running.keys().copied().collect();
        if let Some(elder) = self.elder.filter(|elder| turns.first() != Some(elder)) {
            self.plan_sequence(elder, ELDERS_PART, &mut plan);
        }
        for turn in turns {
            self.plan_sequence(turn, 1, &mut plan);
            if let Some(&spare) = goals.spare.get(&turn) {
                plan.spare = plan.spare.min(spare);
            }
        }
        plan
    }

    /// Gives a sequence a share in the step, of at most the `part`-th part of what is left, or enlarges its share.
    fn plan_sequence(&mut self, turn: Turn, part: usize, plan: &mut Plan) {
        // It may have been preempted for one that goes before it.
        let Some(mut sequence) = self.running.remove(&turn) else { return };
        let begun = plan.shares.iter().position(|share| share.turn == turn);
        let share = match begun {
            Some(at) => Some(plan.shares.remove(at)),
            None if self.take_over_rows(turn, &mut sequence, plan) => {
                Some(Share { turn, from: sequence.cursor, to: sequence.cursor, logits: 0 })
            }
            None => None,
        };
        if let Some(mut share) = share {
            self.extend(&mut share, &sequence, part, plan);
            if share.to > share.from {
                plan.shares.push(share);
            }
        }
        self.running.insert(turn, sequence);
    }

    /// Adds tokens to a share, and takes blocks for them.
    fn extend(&mut self, share: &mut Share, sequence: &Sequence<R>, part: usize, plan: &mut Plan) {
        let (length, wanted) = (sequence.tokens.len(), sequence.wanted());
        let decoding = share.from + 1 == length && share.from >= sequence.prompt;
        let budget = if decoding { 1 } else { plan.budget.div_ceil(part).min(plan.spare) };
        let most_logits = share.logits + plan.logit_rows.div_ceil(part);
        let (begin, before) = (share.to, share.logits);
        while share.to < length.min(begin.saturating_add(budget)) {
            let node = sequence.path[share.to / self.options.block_size];
            let claimed = plan.claims.get(&node).is_some_and(|&claimer| claimer != share.turn);
            let too_many_rows = share.to >= wanted && share.logits == most_logits;
            if claimed || too_many_rows || !self.block_for(share.turn, node, plan) {
                break;
            }
            plan.claims.insert(node, share.turn);
            share.logits += usize::from(share.to >= wanted);
            share.to += 1;
        }
        plan.logit_rows -= share.logits - before;
        if !decoding {
            plan.budget -= share.to - begin;
            plan.spare -= share.to - begin;
        }
    }

    /// Moves the cursor over rows that are already there, up to the first whose logits are wanted, copying those that
    /// stand in another's block. Returns whether the sequence may go on from there in this step.
    fn take_over_rows(&mut self, turn: Turn, sequence: &mut Sequence<R>, plan: &mut Plan) -> bool {
        let wanted = sequence.wanted();
        while sequence.cursor < wanted {
            let index = sequence.cursor / self.options.block_size;
            let node = sequence.path[index];
            if let CopyState::Wanted { source, rows, filled } = self.cache.copy_state(node) {
                // Only ever wait for a sequence of an earlier rank: the first never waits, so somebody always proceeds.
                let before = |other: &Turn| self.rank(*other) < self.rank(turn);
                let computed_before =
                    || self.running.iter().any(|(other, s)| before(other) && s.path.get(index) == Some(&source));
                if filled < rows && computed_before() {
                    return false;
                }
                self.copy_rows(turn, node, source, rows.min(filled), plan);
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
    fn copy_rows(&mut self, turn: Turn, node: NodeId, source: NodeId, rows: usize, plan: &mut Plan) {
        let taken = rows <= self.cache.filled(node) || plan.claims.contains_key(&node);
        if taken || !self.block_for(turn, node, plan) {
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

    /// Gives `node` a block, preempting sequences of later ranks than `turn` that this step hasn't planned yet.
    fn block_for(&mut self, turn: Turn, node: NodeId, plan: &Plan) -> bool {
        loop {
            if self.cache.ensure_block(node) {
                return true;
            }
            let planned = |other: &Turn| plan.shares.iter().any(|share| share.turn == *other);
            let victim = self
                .running
                .iter()
                .filter(|(other, _)| self.rank(**other) > self.rank(turn) && !planned(other))
                .max_by_key(|(other, sequence)| (other.urgency, self.cache.unshared(&sequence.path), **other))
                .map(|(other, _)| *other);
            let Some(victim) = victim else { return false };
            self.preempt(victim);
        }
    }
}
