//! Custom operators whose defects end a run and not the process.
//!
//! ONNX Runtime calls operators, and the tasks that they give to its threads, through functions of C. A panic that gets
//! there aborts the process, and the host with it. So operators run under [`guard`] and share out work by [`par_for`]. A
//! panic in either becomes an error of the run, and the next run finds everything as it was.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use ort::operator::ComputeContext;

/// Part of the message of each error that was a panic; by it they are told from what ONNX Runtime complains about.
pub const DEFECT: &str = "a defect in foreturn's operator";

/// Calls the body of an operator's function; a panic in it becomes an error.
pub fn guard<T>(operator: &str, body: impl FnOnce() -> ort::Result<T>) -> ort::Result<T> {
    // What a body leaves half done is scratch, which the next call makes anew.
    let result = panic::catch_unwind(AssertUnwindSafe(|| {
        #[cfg(any(test, feature = "testing"))]
        testing::panic_if_asked(operator, testing::Place::Body);
        body()
    }));
    result.unwrap_or_else(|panic| Err(ort::Error::new(defect(operator, &*panic))))
}

/// Calls `task` with each number below `total` on ONNX Runtime's threads, in `batches` batches (0: as many as it likes).
///
/// # Errors
/// A task panicked. Those that had not begun by then were left out.
pub fn par_for(
    operator: &str,
    context: &ComputeContext,
    total: usize,
    batches: usize,
    task: impl Fn(usize) + Sync + Send,
) -> ort::Result<()> {
    let (failed, first) = (AtomicBool::new(false), Mutex::new(None));
    #[cfg(any(test, feature = "testing"))]
    let asked = testing::asked(operator, testing::Place::Task);
    context.par_for(total, batches, |index| {
        if failed.load(Ordering::Relaxed) {
            return;
        }
        let done = panic::catch_unwind(AssertUnwindSafe(|| {
            #[cfg(any(test, feature = "testing"))]
            assert!(!(asked && index + 1 == total), "asked for by a test");
            task(index);
        }));
        if let Err(panic) = done {
            failed.store(true, Ordering::Relaxed);
            first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| defect(operator, &*panic));
        }
    })?;
    match first.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(message) => Err(ort::Error::new(message)),
        None => Ok(()),
    }
}

fn defect(operator: &str, panic: &(dyn Any + Send)) -> String {
    let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("{DEFECT} {operator} ended this run: {}. Please report it", said.unwrap_or("it panicked"))
}

/// Panics on purpose: the next call that the thread makes.
#[cfg(any(test, feature = "testing"))]
pub mod testing {
    use std::cell::Cell;

    /// Where to panic.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Place {
        /// On the thread that runs the session.
        Body,
        /// In a task, on any thread of ONNX Runtime's.
        Task,
    }

    thread_local! {
        static ASKED: Cell<Option<(&'static str, Place)>> = const { Cell::new(None) };
    }

    /// Has the operator panic the next time that a session runs it on this thread.
    pub fn panic_next(operator: &'static str, place: Place) {
        ASKED.set(Some((operator, place)));
    }

    /// True once, if the thread was told so.
    pub(super) fn asked(operator: &str, place: Place) -> bool {
        let asked = ASKED.get().is_some_and(|asked| asked == (operator, place));
        if asked {
            ASKED.set(None);
        }
        asked
    }

    pub(super) fn panic_if_asked(operator: &str, place: Place) {
        assert!(!asked(operator, place), "asked for by a test");
    }
}
