//! A step of a sandbox's processes that failed, and how the host learns of it.

use std::os::fd::RawFd;

use super::record::{Record, Stage};
use super::sys::{self, Errno};

/// A step that failed.
pub(super) struct Failure {
    pub(super) stage: Stage,
    pub(super) at: usize,
    pub(super) errno: Errno,
}

impl Failure {
    /// Makes a failure from an `errno`.
    pub(super) fn of(stage: Stage) -> impl Fn(Errno) -> Failure {
        move |errno| Failure { stage, at: 0, errno }
    }

    pub(super) fn send(self, status: RawFd) -> ! {
        Record::Failed { stage: self.stage, at: self.at as u16, errno: self.errno }.send(status);
        sys::exit(1)
    }
}
