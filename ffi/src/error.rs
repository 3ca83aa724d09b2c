//! Error objects and the guard around every function.

use crate::argument::foreturn_str;
use crate::failure::{Failure, catch};
use crate::handle::{self, handle};
use crate::status::*;

/// The failure of a function: a status, a message for people, and the causes. Functions with a parameter `error` make
/// one, and the caller frees it with foreturn_error_free(). Any thread may use it.
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
        // SAFETY: valid for writing by contract. No objects are made in a forked child.
        unsafe {
            let object = if status == FORETURN_ERROR_FORKED { std::ptr::null_mut() } else { handle::insert(failure) };
            error.write(object);
        }
    }
    status
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
