//! What the owner of the models is told.

use super::job::Run;
use super::refresh::Exchange;

/// A message to the owner.
pub(super) enum Command {
    /// Drive this job, which has its place.
    Begin(Box<Run>),
    /// Let go of a prefix.
    Unpin {
        model: usize,
        key: u64,
    },
    /// Exchange a model's weights once nothing uses them.
    Exchange(Box<Exchange>),
    Shutdown,
}
