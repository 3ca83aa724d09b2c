//! The choice of the sequences that share steps.
//!
//! Waiting sequences start by urgency, while their blocks can be had. A sequence may take the blocks and the place of
//! less urgent ones for that. Age alone takes nothing from anybody here.
//!
//! Urgent work that keeps coming must not hold up the rest for ever. Therefore the oldest sequence becomes the elder,
//! at the latest [`PATIENCE`] steps after the last elder ended. The elder has a place, goes first when blocks are given
//! out, and never waits for another sequence, so every step computes at least one of its rows. It stays the elder until
//! it ends. Where others are more urgent, its prompt takes an eighth of a step before theirs.
//!
//! So a sequence ends within the sum, over itself and all older ones, of [`PATIENCE`] steps and one step for each row
//! that the sequence can have (twice that, where it outgrows its rotary tables).

use super::{Reader, Scheduler, Turn};
use crate::decode::cache::Path;

/// Steps after the end of an elder until there may be another.
pub(super) const PATIENCE: u64 = 16;

impl<R: Reader> Scheduler<R> {
    /// Starts waiting sequences while there is room for them, the most urgent first.
    pub(super) fn admit(&mut self) {
        self.appoint_elder();
        while let Some(turn) = self.next_waiting() {
            let full = self.running.len() >= self.options.max_sequences;
            let leaving = self.running.keys().rev().copied().find(|other| full && self.yields(*other, turn));
            if full && leaving.is_none() {
                return;
            }
            let Some(mut sequence) = self.waiting.remove(&turn) else { return };
            sequence.path = self.cache.attach(self.variant(&sequence), &sequence.tokens);
            if !self.has_blocks(turn, &sequence.path) {
                self.start_over(turn, sequence);
                return;
            }
            if let Some(other) = leaving {
                self.preempt(other);
            }
            self.running.insert(turn, sequence);
        }
    }

    /// Lets the oldest sequence go first, once there was no elder for long enough.
    fn appoint_elder(&mut self) {
        if self.elder.is_none() && self.totals.steps >= self.next_elder {
            self.elder = self.turns.values().next().copied();
        }
    }

    /// Ends the rule of the elder, if it is this sequence.
    pub(super) fn retire_elder(&mut self, turn: Turn) {
        if self.elder == Some(turn) {
            self.elder = None;
            self.next_elder = self.totals.steps + PATIENCE;
        }
    }

    /// The order in which blocks are given out: the elder, then by urgency. The least goes first.
    pub(super) fn rank(&self, turn: Turn) -> (bool, Turn) {
        (self.elder != Some(turn), turn)
    }

    /// The sequence to start next.
    fn next_waiting(&self) -> Option<Turn> {
        self.elder.filter(|turn| self.waiting.contains_key(turn)).or_else(|| self.waiting.keys().next().copied())
    }

    /// True if the running sequence `other` gives way so that `turn` can start.
    fn yields(&self, other: Turn, turn: Turn) -> bool {
        self.elder != Some(other) && (self.elder == Some(turn) || turn.urgency < other.urgency)
    }

    /// True if the blocks that `path` lacks can be had, from sequences that yield if there is no other way.
    fn has_blocks(&self, turn: Turn, path: &Path) -> bool {
        if self.running.is_empty() || self.elder == Some(turn) {
            return true;
        }
        let yielding = self.running.iter().filter(|(other, _)| self.yields(**other, turn));
        let yielded: usize = yielding.map(|(_, sequence)| self.cache.unshared(&sequence.path)).sum();
        // One block of headroom for each sequence that is growing.
        self.cache.missing(path) + self.running.len() <= self.cache.available() + yielded
    }

    /// Sends a running sequence back to the queue, to make room for another.
    pub(super) fn preempt(&mut self, turn: Turn) {
        if let Some(mut sequence) = self.running.remove(&turn) {
            sequence.cost.preemptions += 1;
            self.totals.preemptions += 1;
            self.start_over(turn, sequence);
        }
    }
}
