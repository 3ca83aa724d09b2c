//! How long a request may take, who may end it, and who goes first.

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
    /// Requests of higher priority go first: to a place, in each step of a model and in its memory. Among equals, those with
    /// the earliest deadline go first, then the oldest. Nobody starves: a sequence ends within a stated number of steps
    /// (ARCHITECTURE.md, "The scheduler").
    pub priority: i32,
}

impl Limits {
    pub(crate) fn deadline(&self) -> Option<Instant> {
        // A timeout beyond the clock's range is no limit.
        self.timeout.and_then(|timeout| Instant::now().checked_add(timeout))
    }
}

/// Cancels requests; clones cancel the same ones.
#[derive(Debug, Clone, Default)]
pub struct CancelToken(Arc<Cancelled>);

#[derive(Debug, Default)]
struct Cancelled {
    itself: AtomicBool,
    /// A token that cancels this one as well.
    parent: Option<CancelToken>,
}

impl CancelToken {
    /// A token that nobody has cancelled.
    pub fn new() -> Self {
        CancelToken::default()
    }

    /// Cancels every request that carries this token, within about one step of the model.
    pub fn cancel(&self) {
        self.0.itself.store(true, Ordering::Release);
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.itself.load(Ordering::Acquire) || self.0.parent.as_ref().is_some_and(CancelToken::is_cancelled)
    }

    /// A token that is cancelled with this one, and can be cancelled without it.
    pub(crate) fn child(&self) -> Self {
        CancelToken(Arc::new(Cancelled { itself: AtomicBool::default(), parent: Some(self.clone()) }))
    }
}
