//! Error objects and the guard around every function.

use std::error::Error as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use crate::argument::{Out, foreturn_str};
use crate::handle::{self, handle};
use crate::status::*;

/// The failure of a function.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: foreturn_status,
    pub(crate) message: String,
    pub(crate) causes: Vec<String>,
}

/// The failure of a function: a status, a message for people, and the causes. Functions with a parameter `error` make
/// one, and the caller frees it with foreturn_error_free(). Any thread may use it.
pub struct foreturn_error {
    _private: [u8; 0],
}

handle!(foreturn_error, Failure);

impl Failure {
    pub(crate) fn new(status: foreturn_status, message: impl Into<String>) -> Self {
        Failure { status, message: message.into(), causes: Vec::new() }
    }

    /// The failure of an index that is out of range: argument `name` gave it, and there are `count` items.
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

/// Runs a function's body: a failure becomes its status and, where `error` is not NULL, an error object; a panic becomes
/// FORETURN_ERROR_INTERNAL.
///
/// # Safety
/// `error` is NULL or valid for writing a pointer.
pub(crate) unsafe fn guard(
    error: *mut *mut foreturn_error,
    body: impl FnOnce() -> Result<(), Failure>,
) -> foreturn_status {
    hush();
    let outcome = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Err(Failure::new(FORETURN_ERROR_INTERNAL, format!("a defect in foreturn, please report it: {text}")))
    });
    let Err(failure) = outcome else { return FORETURN_OK };
    let status = failure.status;
    if !error.is_null() {
        // SAFETY: valid for writing by contract. No objects are made in a forked child.
        unsafe {
            let object = if status == FORETURN_ERROR_FORKED { std::ptr::null_mut() } else { handle::insert(failure) };
            error.write(object);
        }
    }
    status
}

/// Sends panics to the log and not to stderr. This copy of Rust's standard library is ours alone, and so is its hook.
fn hush() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| std::panic::set_hook(Box::new(|info| crate::log::defect(&info.to_string()))));
}

/// Returns the status of an error.
///
/// Errors: FORETURN_ERROR_INVALID_HANDLE if it was freed. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_error_status(error: *const foreturn_error) -> foreturn_status {
    handle::get::<Failure>(error).map_or_else(|failure| failure.status, |error| error.status)
}

/// Returns the message of an error: what was wrong, where, and what to do. The string belongs to the error and is valid
/// until the error is freed. It is empty if the handle is invalid. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_error_message(error: *const foreturn_error) -> foreturn_str {
    handle::get::<Failure>(error).map_or(foreturn_str::EMPTY, |error| foreturn_str::of(&error.message))
}

/// Returns the number of causes of an error, or 0 if the handle is invalid. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_error_cause_count(error: *const foreturn_error) -> usize {
    handle::get::<Failure>(error).map_or(0, |error| error.causes.len())
}

/// Returns the message of a cause. `index` counts from 0, the nearest cause first. The string belongs to the error and
/// is valid until the error is freed. It is empty if the handle is invalid or there is no such cause. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_error_cause(error: *const foreturn_error, index: usize) -> foreturn_str {
    let cause = handle::get::<Failure>(error).ok();
    cause.and_then(|error| error.causes.get(index).map(|cause| foreturn_str::of(cause))).unwrap_or(foreturn_str::EMPTY)
}

/// Frees an error and the strings that it lent. NULL is ignored.
///
/// Errors: FORETURN_ERROR_INVALID_HANDLE if it was freed before. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_error_free(error: *mut foreturn_error) -> foreturn_status {
    handle::free::<Failure>(error)
}

/// A text that owns its memory.
pub(crate) struct Text(pub(crate) String);

/// A text. The caller frees it with foreturn_string_free(). Any thread may use it.
pub struct foreturn_string {
    _private: [u8; 0],
}

handle!(foreturn_string, Text);

/// Reads the text of a string into `*out`.
///
/// Ownership: the text belongs to the string and is valid until the string is freed.
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_string_read(
    string: *const foreturn_string,
    out: *mut foreturn_str,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            let out = Out::new(out, "out")?;
            out.write(foreturn_str::of(&handle::get::<Text>(string)?.0));
            Ok(())
        })
    }
}

/// Frees a string. NULL is ignored.
///
/// Errors: FORETURN_ERROR_INVALID_HANDLE if it was freed before. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_string_free(string: *mut foreturn_string) -> foreturn_status {
    handle::free::<Text>(string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_internal_error_with_its_words() {
        let mut error = std::ptr::null_mut();
        // SAFETY: a place for a pointer.
        let status = unsafe { guard(&raw mut error, || panic!("the number {} is odd", 2)) };
        assert_eq!(status, FORETURN_ERROR_INTERNAL);
        let failure = handle::get::<Failure>(error).expect("an error object");
        assert!(failure.message.contains("the number 2 is odd"), "{}", failure.message);
        // SAFETY: NULL asks for no object.
        let silent = unsafe { guard(std::ptr::null_mut(), || Err(Failure::argument("no"))) };
        assert_eq!(silent, FORETURN_ERROR_INVALID_ARGUMENT);
    }
}
