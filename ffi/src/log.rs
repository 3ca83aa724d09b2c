//! Messages that no call returns as an error.

use std::ffi::c_void;
use std::sync::Arc;

use foreturn::runtime::log::{LogLevel, set_logger};

use crate::argument::foreturn_str;
use crate::callback::{Inside, UserData};
use crate::error::{foreturn_error, guard};
use crate::status::foreturn_status;

/// How grave a message is: one of FORETURN_LOG_WARNING and FORETURN_LOG_ERROR.
pub type foreturn_log_level = u32;
/// Something to look at.
pub const FORETURN_LOG_WARNING: foreturn_log_level = 0;
/// Something failed; whoever asked for it gets an error as well.
pub const FORETURN_LOG_ERROR: foreturn_log_level = 1;

/// Receives a message, lent until it returns. Called from any thread, several at once perhaps; it must not call the
/// library, but to free handles other than engines.
pub type foreturn_log_fn =
    Option<unsafe extern "C" fn(user_data: *mut c_void, level: foreturn_log_level, message: foreturn_str)>;

/// Sends the messages of ONNX Runtime, and of defects in this library, to `log`; NULL, as in the beginning, sends them
/// nowhere. The library itself writes on no stream. A call that is under way on another thread may still come after this
/// returns.
///
/// Ownership: `user_data` stays the caller's, and has to live as long as messages may come. Errors: none. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_log_set(
    log: foreturn_log_fn,
    user_data: *mut c_void,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            let user_data = UserData(user_data);
            set_logger(log.map(|log| -> foreturn::runtime::log::Logger {
                Arc::new(move |level, message| {
                    let user_data = user_data;
                    let level = match level {
                        LogLevel::Warning => FORETURN_LOG_WARNING,
                        LogLevel::Error => FORETURN_LOG_ERROR,
                    };
                    let _inside = Inside::enter();
                    // SAFETY: the host's function, with its pointer, and a text that lives until it returns.
                    log(user_data.0, level, foreturn_str::of(message));
                })
            }));
            Ok(())
        })
    }
}
