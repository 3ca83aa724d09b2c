//! Texts that the caller owns.

use crate::argument::{Out, foreturn_str};
use crate::error::{foreturn_error, guard};
use crate::handle::{self, handle};
use crate::status::foreturn_status;

/// A text that owns its memory.
pub(crate) struct Text(pub(crate) String);

/// A text that the caller frees with foreturn_string_free(). Any thread may use it.
pub struct foreturn_string {
    _private: [u8; 0],
}

handle!(foreturn_string, Text);

/// What a string holds: UTF-8, of the string's own memory, until it is freed.
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

/// Frees a string. NULL is nothing. Errors: FORETURN_ERROR_INVALID_HANDLE if it was freed before. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_string_free(string: *mut foreturn_string) -> foreturn_status {
    handle::free::<Text>(string)
}
