//! The rules of all callbacks into the host.
//!
//! A callback marks its thread ([`Inside`]) while the engine waits for it. Functions that would wait for the engine look at
//! the mark and refuse.

use std::cell::Cell;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::argument::foreturn_str;
use crate::failure::Failure;
use crate::status::*;

/// The host's pointer, given back to its callbacks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UserData(pub(crate) *mut c_void);

// SAFETY: never read here; the header says that callbacks with it may come from other threads.
unsafe impl Send for UserData {}
// SAFETY: as for Send.
unsafe impl Sync for UserData {}

/// The gate before the host's code. It is shut for good when the end of the engine begins.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate(Arc<AtomicBool>);

impl Gate {
    pub(crate) fn shut(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_shut(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// Refuses to call `what` if the gate is shut.
    pub(crate) fn check(&self, what: &str) -> foreturn::Result<()> {
        if !self.is_shut() {
            return Ok(());
        }
        Err(foreturn::Error::new(
            foreturn::ErrorKind::Closed,
            format!("the engine was closed before {what} was called"),
        ))
    }
}

/// The one that waits for a callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Waits {
    Nobody,
    /// The end of the engine waits.
    End,
    /// The engine itself waits.
    Engine,
}

thread_local! {
    static INSIDE: Cell<Waits> = const { Cell::new(Waits::Nobody) };
}

/// Marks that this thread is in a callback.
pub(crate) struct Inside(Waits);

impl Inside {
    /// Marks a callback that the engine waits for.
    pub(crate) fn enter() -> Self {
        Inside(INSIDE.replace(Waits::Engine))
    }

    /// Marks a callback that only the end of the engine waits for.
    pub(crate) fn enter_metric() -> Self {
        Inside(INSIDE.replace(Waits::End))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(self.0);
    }
}

/// Refuses to wait for an engine that waits for this callback.
pub(crate) fn refuse_inside(function: &str) -> Result<(), Failure> {
    refuse(Waits::Engine, function)
}

/// Refuses to end an engine whose end waits for this callback.
pub(crate) fn refuse_free() -> Result<(), Failure> {
    refuse(Waits::End, "foreturn_engine_free")
}

fn refuse(least: Waits, function: &str) -> Result<(), Failure> {
    if INSIDE.get() < least {
        return Ok(());
    }
    Err(Failure::new(
        FORETURN_ERROR_REENTRANT,
        format!(
            "{function}() was called from a callback that the engine waits for: it would wait for itself. Hand the \
             work to another thread"
        ),
    ))
}

/// The error of a callback that failed: its status, and the text that it left.
///
/// # Safety
/// `why` is empty, or valid until this returns.
pub(crate) unsafe fn failed(what: &str, status: i32, why: foreturn_str) -> foreturn::Error {
    // SAFETY: passed on.
    let why = unsafe { why.text("the callback's message") }.map_or_else(|failure| failure.message, str::to_owned);
    let why = if why.is_empty() { String::new() } else { format!(": {why}") };
    foreturn::Error::new(foreturn::ErrorKind::ModelOutput, format!("{what} failed with status {status}{why}"))
}
