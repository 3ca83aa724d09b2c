//! Emptying the cache, because the model's weights change.
//!
//! Rows and tokens of different weights are never mixed: a sequence is computed as a whole with the old weights or with
//! the new ones. Those that have not begun wait for the new ones. A pin stays: its blocks are reserved as before, and
//! empty, so that its prefix is computed again by the next sequence that begins with it.

use super::{Ended, Reader, Scheduler, SequenceId, Turn};
use crate::{Error, ErrorKind};

/// The fate of the sequences that have begun, when the cache is emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code)] // until the engine exchanges weights
pub(crate) enum Begun {
    /// They end first.
    Wait,
    /// They lose what was sampled, and begin again from their prompts. Those whose text was given away already are
    /// aborted.
    Restart,
    /// They end with an error.
    Abort,
}

impl<R: Reader> Scheduler<R> {
    /// Empties the cache, so that no row is read that was computed before. Appends the sequences that this ends.
    /// Returns whether it is done.
    ///
    /// With [`Begun::Wait`] it is not done while sequences are left that have begun. Others don't begin until then:
    /// call [`Scheduler::step`] and this in turn.
    pub(crate) fn reset(&mut self, begun: Begun, ended: &mut Vec<Ended<R>>) -> bool {
        let turns: Vec<Turn> = self.begun().collect();
        self.held = begun == Begun::Wait && !turns.is_empty();
        if self.held {
            return false;
        }
        for turn in turns {
            self.interrupt(turn, begun, ended);
        }
        self.cache.clear();
        for pin in self.pins.values_mut() {
            pin.path = self.cache.attach(pin.variant, &pin.tokens);
        }
        true
    }

    /// The sequences that have run.
    fn begun(&self) -> impl Iterator<Item = Turn> {
        self.running.iter().chain(&self.waiting).filter(|(_, sequence)| sequence.begun).map(|(turn, _)| *turn)
    }

    /// Sends a sequence back to its beginning, or ends it.
    fn interrupt(&mut self, turn: Turn, begun: Begun, ended: &mut Vec<Ended<R>>) {
        let Some(mut sequence) = self.running.remove(&turn).or_else(|| self.waiting.remove(&turn)) else { return };
        let restarted = match begun {
            Begun::Restart => sequence.reader.start_over(),
            Begun::Wait | Begun::Abort => Err(changed_weights("before this was done")),
        };
        if let Err(error) = restarted {
            self.forget(turn);
            self.cache.release(sequence.path);
            let id = SequenceId(turn.arrival);
            return ended.push(Ended { id, reader: sequence.reader, cost: sequence.cost, result: Err(error) });
        }
        sequence.tokens.truncate(sequence.prompt);
        sequence.cost.generated = 0;
        sequence.begun = false;
        self.start_over(turn, sequence);
    }
}

/// The error of what can't go on with other weights; `when` says why.
pub(crate) fn changed_weights(when: &str) -> Error {
    Error::new(ErrorKind::Cancelled, format!("the model's weights were exchanged {when}. Ask again"))
}
