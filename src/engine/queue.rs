//! Requests that wait for a place: the one with the highest priority goes first, then the one with the earliest deadline,
//! then the oldest. A full queue refuses.

use std::collections::BTreeMap;

use crate::decode::urgency::Turn;
use crate::{Error, ErrorKind, Result};

/// A bounded queue.
pub(super) struct Queue<T> {
    waiting: BTreeMap<Turn, T>,
    /// How many may wait.
    most: usize,
    /// The name of its requests, for messages.
    what: &'static str,
}

impl<T> Queue<T> {
    pub(super) fn new(most: usize, what: &'static str) -> Self {
        Queue { waiting: BTreeMap::new(), most, what }
    }

    /// Whether it takes another request while `free` places are there for the first of those that wait.
    ///
    /// # Errors
    /// [`ErrorKind::Overloaded`] if the queue is full.
    pub(super) fn check(&self, free: usize) -> Result<()> {
        let waiting = self.waiting.len();
        if waiting < self.most.saturating_add(free) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Overloaded,
            format!(
                "{waiting} {} are waiting already; try again later, spread them over more engines, or raise `max_queued` \
                 under [runtime]",
                self.what
            ),
        ))
    }

    pub(super) fn push(&mut self, turn: Turn, request: T) {
        self.waiting.insert(turn, request);
    }

    /// The next request.
    pub(super) fn pop(&mut self) -> Option<T> {
        self.waiting.pop_first().map(|(_, request)| request)
    }

    /// Takes out the requests for which `why` gives a reason, with the reason.
    pub(super) fn take_if<W>(&mut self, why: impl Fn(&T) -> Option<W>) -> Vec<(T, W)> {
        let over = self.waiting.iter().filter_map(|(turn, request)| Some((*turn, why(request)?)));
        let over: Vec<_> = over.collect();
        over.into_iter().filter_map(|(turn, why)| Some((self.waiting.remove(&turn)?, why))).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Empties it.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = T> + use<T> {
        std::mem::take(&mut self.waiting).into_values()
    }
}
