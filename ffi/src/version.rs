//! Versions.

use foreturn::runtime::BuildInfo;
use serde_json::json;

use crate::argument::{Out, foreturn_str};
use crate::error::{foreturn_error, guard};
use crate::failure::Failure;
use crate::handle;
use crate::status::{FORETURN_ERROR_ABI, foreturn_status};
use crate::string::{Text, foreturn_string};

/// The version of the ABI that this header describes. It grows when something is changed or removed. Additions don't
/// change it.
pub const FORETURN_ABI_VERSION: u32 = 0;

/// Returns the library's version, such as "0.1.0", in static memory. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn foreturn_version() -> foreturn_str {
    foreturn_str::of(env!("CARGO_PKG_VERSION"))
}

/// Returns the ABI version of the library. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn foreturn_abi_version() -> u32 {
    FORETURN_ABI_VERSION
}

/// Writes what this library is as a JSON object: `version`, `abi_version`, `commit` (of git; null if the build didn't know
/// it), `features`, `kernels` (the instruction sets that run on this processor), and `runtime` (ONNX Runtime's library,
/// version, execution providers, threads and telemetry; null until the first engine is made).
///
/// Ownership: the caller frees `*out` with foreturn_string_free().
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread, callbacks included.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_build_info(
    out: *mut *mut foreturn_string,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            handle::refuse_child()?;
            let out = Out::new(out, "out")?;
            let BuildInfo { version, features, kernels, runtime, .. } = BuildInfo::here();
            let info = json!({
                "version": version,
                "abi_version": FORETURN_ABI_VERSION,
                "commit": option_env!("FORETURN_BUILD_COMMIT"),
                "features": features,
                "kernels": kernels,
                "runtime": runtime,
            });
            out.write(handle::insert(Text(info.to_string())));
            Ok(())
        })
    }
}

/// Checks that the library matches the header that the host was compiled with. Call it first, with `header` set to
/// FORETURN_ABI_VERSION.
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

/// Returns the number of live handles of all types in this process. A host's tests can use it to find handles that are
/// never freed. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn foreturn_handle_count() -> usize {
    crate::handle::count()
}
