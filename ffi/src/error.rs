//! Error objects, and the guard around every function that makes them.

use crate::argument::foreturn_str;
use crate::failure::{Failure, catch};
use crate::handle::{self, handle};
use crate::status::*;

/// Why a function failed: a status, a message for people, and what caused it. Made by functions with a parameter `error`,
/// for the caller to free with foreturn_error_free(). Any thread may use it.
pub struct foreturn_error {
    _private: [u8; 0],
}

handle!(foreturn_error, Failure);

/// Runs a function's body. A failure becomes its status and, if `error` is not NULL, an error object. A panic becomes
/// FORETURN_ERROR_INTERNAL.
///
/// # Safety
/// `error` is NULL or valid for writing a pointer.
pub(crate) unsafe fn guard(
    error: *mut *mut foreturn_error,
    body: impl FnOnce() -> Result<(), Failure>,
) -> foreturn_status {
    let Err(failure) = catch(body) else { return FORETURN_OK };
    let status = failure.status;
    if !error.is_null() {
        // SAFETY: valid for writing by contract. A forked child cannot make objects.
        unsafe {
            let object = if status == FORETURN_ERROR_FORKED { std::ptr::null_mut() } else { handle::insert(failure) };
            error.write(object);
        }
    }
    status
}

/// The status of an error.
///
/// Errors: FORETURN_ERROR_INVALID_HANDLE if it was freed. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_error_status(error: *const foreturn_error) -> foreturn_status {
    handle::get::<Failure>(error).map_or_else(|failure| failure.status, |error| error.status)
}

/// The message: what was wrong, where, and what to do. UTF-8, of the error's own memory, until the error
/// is freed; empty for a handle that is none. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_error_message(error: *const foreturn_error) -> foreturn_str {
    handle::get::<Failure>(error).map_or(foreturn_str::EMPTY, |error| foreturn_str::of(&error.message))
}

/// How many causes stand behind the message, the nearest first. 0 for a handle that is none. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_error_cause_count(error: *const foreturn_error) -> usize {
    handle::get::<Failure>(error).map_or(0, |error| error.causes.len())
}

/// The message of a cause, counted from 0. Memory as for foreturn_error_message(); empty where there is none. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_error_cause(error: *const foreturn_error, index: usize) -> foreturn_str {
    let cause = handle::get::<Failure>(error).ok();
    cause.and_then(|error| error.causes.get(index).map(|cause| foreturn_str::of(cause))).unwrap_or(foreturn_str::EMPTY)
}

/// Frees an error and the strings it lent. NULL is nothing. Errors: FORETURN_ERROR_INVALID_HANDLE if it was freed
/// before. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_error_free(error: *mut foreturn_error) -> foreturn_status {
    handle::free::<Failure>(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_becomes_an_object_where_one_is_asked_for() {
        let mut error = std::ptr::null_mut();
        // SAFETY: a place for a pointer.
        let status = unsafe { guard(&raw mut error, || Err(Failure::argument("no"))) };
        assert_eq!(status, FORETURN_ERROR_INVALID_ARGUMENT);
        assert_eq!(handle::get::<Failure>(error).expect("an error object").message, "no");
        // SAFETY: NULL asks for no object.
        let silent = unsafe { guard(std::ptr::null_mut(), || Err(Failure::argument("no"))) };
        assert_eq!(silent, FORETURN_ERROR_INVALID_ARGUMENT);
    }
}
