//! What the owner of the models is told.

use super::job::Run;

/// A message to the owner.
pub(super) enum Command {
    /// Drive this job, which has its place.
    Begin(Box<Run>),
    /// Let go of a prefix.
    Unpin {
        model: usize,
        key: u64,
    },
    Shutdown,
}
