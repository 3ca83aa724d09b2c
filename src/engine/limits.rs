//! How long a request may take, who may end it, and who goes first.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Deadline, cancellation and priority of a request. The first two act between steps of the model.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// Time from the submission of a request; `None` is no limit.
    pub timeout: Option<Duration>,
    /// Cancels the request from outside.
    pub cancel: Option<CancelToken>,
    /// Of requests that wait for a place, those of higher priority go first; among equals, those with the earliest
    /// deadline; then by arrival.
    pub priority: i32,
}

impl Limits {
    pub(crate) fn deadline(&self) -> Option<Instant> {
        // A timeout beyond the clock's range is no limit.
        self.timeout.and_then(|timeout| Instant::now().checked_add(timeout))
    }
}

/// A request's place among those that wait: the least goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    priority: Reverse<i32>,
    no_deadline: bool,
    deadline: Option<Instant>,
    pub(super) arrival: u64,
}

impl Turn {
    pub(super) fn new(priority: i32, deadline: Option<Instant>, arrival: u64) -> Self {
        Turn { priority: Reverse(priority), no_deadline: deadline.is_none(), deadline, arrival }
    }
}

/// Cancels requests; clones cancel the same ones.
#[derive(Debug, Clone, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// A token that nobody has cancelled.
    pub fn new() -> Self {
        CancelToken::default()
    }

    /// Cancels every request that carries this token, within about one step of the model.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priority_goes_before_deadline_before_arrival() {
        let now = Instant::now();
        let at = |seconds| Some(now + Duration::from_secs(seconds));
        let mut turns = [
            Turn::new(0, None, 0),
            Turn::new(0, at(9), 1),
            Turn::new(-1, at(1), 2),
            Turn::new(5, None, 3),
            Turn::new(0, at(2), 4),
            Turn::new(0, None, 5),
        ];
        turns.sort();
        assert_eq!(turns.map(|turn| turn.arrival), [3, 4, 1, 0, 5, 2]);
    }
}
