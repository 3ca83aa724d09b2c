//! Failures, and the fence around the body of every function.

use std::error::Error as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use foreturn::runtime::log::{LogLevel, emit};

use crate::status::*;

/// The reason why a function failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: foreturn_status,
    pub(crate) message: String,
    pub(crate) causes: Vec<String>,
}

impl Failure {
    pub(crate) fn new(status: foreturn_status, message: impl Into<String>) -> Self {
        Failure { status, message: message.into(), causes: Vec::new() }
    }

    /// The failure for an index `name` that is beyond the `count` of something.
    pub(crate) fn beyond(name: &str, index: usize, count: usize, what: &str) -> Self {
        Failure::argument(format!("{name} {index}: there are {count} {what}, counted from 0"))
    }

    pub(crate) fn argument(message: impl Into<String>) -> Self {
        Failure::new(FORETURN_ERROR_INVALID_ARGUMENT, message)
    }
}

impl From<foreturn::Error> for Failure {
    fn from(error: foreturn::Error) -> Self {
        let mut causes = Vec::new();
        let mut source = error.source();
        while let Some(cause) = source {
            causes.push(cause.to_string());
            source = cause.source();
        }
        Failure { status: error.kind().into(), message: error.to_string(), causes }
    }
}

/// Runs a function's body. A panic becomes a failure with FORETURN_ERROR_INTERNAL.
pub(crate) fn catch(body: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    hush();
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Err(Failure::new(FORETURN_ERROR_INTERNAL, format!("a defect in foreturn, please report it: {text}")))
    })
}

/// Runs the body of a function that makes no error objects. A failure becomes its status.
pub(crate) fn status_of(body: impl FnOnce() -> Result<(), Failure>) -> foreturn_status {
    catch(body).map_or_else(|failure| failure.status, |()| FORETURN_OK)
}

/// Sends panics to the log instead of stderr. This copy of Rust's library is ours alone, and so is its hook.
fn hush() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| std::panic::set_hook(Box::new(|info| emit(LogLevel::Error, &info.to_string()))));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_internal_error_with_its_words() {
        let failure = catch(|| panic!("the number {} is odd", 2)).expect_err("a failure");
        assert_eq!(failure.status, FORETURN_ERROR_INTERNAL);
        assert!(failure.message.contains("the number 2 is odd"), "{}", failure.message);
        assert_eq!(status_of(|| panic!("{}", 2)), FORETURN_ERROR_INTERNAL);
        assert_eq!(status_of(|| Err(Failure::argument("no"))), FORETURN_ERROR_INVALID_ARGUMENT);
        assert_eq!(status_of(|| Ok(())), FORETURN_OK);
    }
}
