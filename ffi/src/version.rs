//! Versions.

use crate::argument::foreturn_str;
use crate::error::{foreturn_error, guard};
use crate::failure::Failure;
use crate::status::{FORETURN_ERROR_ABI, foreturn_status};

/// The version of the ABI that this header describes. It grows when something is changed or taken away; what is added
/// leaves it as it is.
pub const FORETURN_ABI_VERSION: u32 = 0;

/// The library's version, such as "0.1.0". Static memory. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn foreturn_version() -> foreturn_str {
    foreturn_str::of(env!("CARGO_PKG_VERSION"))
}

/// The library's version of the ABI. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn foreturn_abi_version() -> u32 {
    FORETURN_ABI_VERSION
}

/// Checks that the library fits the header that the host was compiled with: give it FORETURN_ABI_VERSION, before anything
/// else.
///
/// Errors: FORETURN_ERROR_ABI. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_abi_check(header: u32, error: *mut *mut foreturn_error) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || match header {
            FORETURN_ABI_VERSION => Ok(()),
            other => Err(Failure::new(
                FORETURN_ERROR_ABI,
                format!(
                    "the host was compiled for version {other} of the ABI, and this library has {FORETURN_ABI_VERSION}: compile it with this library's header, or link the library it was compiled for"
                ),
            )),
        })
    }
}

/// How many handles are alive in this process: of engines, results, errors, everything. For tests of hosts that want to
/// know whether they free what they get. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn foreturn_handle_count() -> usize {
    crate::handle::count()
}
