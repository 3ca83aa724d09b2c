//! ONNX Runtime's reports to its maker. They are never sent from a process that did not ask for them.
//!
//! The maker's builds from 1.29 on contain a client. When the first environment is made, it writes a device id and a
//! database under the user's cache folder, and starts a thread that looks up the maker's host. No call prevents this:
//! `DisableTelemetryEvents` needs an environment, and only stops some events. But the client first reads the
//! environment variable `ORT_DISABLE_TELEMETRY`. A library can't set a variable of its host's process, because other
//! threads may read the environment at that moment. So only ONNX Runtime gets another answer: while its environment is
//! made, its import of `getenv` points to a function here, which answers for that one variable if the host left it
//! unset. A host that wants the reports sets it to 0.

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod import;

use std::ffi::{CStr, c_char, c_void};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

/// The variable that the client reads.
pub(crate) const VARIABLE: &str = "ORT_DISABLE_TELEMETRY";

/// The host that receives the reports. A library with this text contains a client.
const MARKER: &[u8] = b"mobile.events.data.microsoft.com";

/// ONNX Runtime's reports to its maker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Telemetry {
    /// The library cannot send any.
    None,
    /// The library could, but was told not to.
    Off,
    /// The library may send them, because `ORT_DISABLE_TELEMETRY` says so.
    Wanted,
    /// The library may send them, because the host started it before, or because this system offers no way to prevent
    /// it.
    On,
}

impl Telemetry {
    /// The remedy if reports may be sent that nobody asked for.
    pub fn warning(self) -> Option<String> {
        (self == Telemetry::On).then(|| {
            format!(
                "this ONNX Runtime may send reports to its maker, and foreturn could not prevent it; set \
                 {VARIABLE}=1 before the process starts, or {VARIABLE}=0 if you want them"
            )
        })
    }
}

/// The client read the environment through [`answer`].
static ASKED: AtomicBool = AtomicBool::new(false);

/// Stands in for the library's `getenv` until it is dropped.
pub(super) struct Silence {
    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    _import: Option<import::Replaced>,
}

impl Silence {
    /// Begins before the library makes an environment.
    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    pub(super) fn begin() -> Self {
        let inside = ort::api().CreateEnv as *const c_void;
        Silence { _import: import::replace(inside, c"getenv", answer as *mut c_void) }
    }

    /// Begins before the library makes an environment.
    #[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
    pub(super) fn begin() -> Self {
        Silence {}
    }

    /// Ends once the environment is made. Returns the state of the client. A linked `library` has no path.
    pub(super) fn end(self, library: Option<&Path>) -> Telemetry {
        drop(self);
        match host_says() {
            Some(false) if carries_client(library) => Telemetry::Wanted,
            None if ASKED.load(Ordering::Acquire) => Telemetry::Off,
            // It never asked, so it has no client, or one that the host started before.
            said if carries_client(library) => {
                if said == Some(true) {
                    Telemetry::Off
                } else {
                    Telemetry::On
                }
            }
            _ => Telemetry::None,
        }
    }
}

/// The host's setting: whether the client is off; `None` if it is not set.
fn host_says() -> Option<bool> {
    let value = std::env::var(VARIABLE).ok().filter(|value| !value.is_empty())?;
    Some(is_true(&value))
}

/// A value of [`VARIABLE`] that turns the client off, as ONNX Runtime reads it.
fn is_true(value: &str) -> bool {
    ["1", "true", "yes", "on", "y"].contains(&value.trim().to_ascii_lowercase().as_str())
}

/// Whether a library contains the client. Those that `ort` links don't.
fn carries_client(library: Option<&Path>) -> bool {
    let Some(Ok((file, _))) = library.map(crate::files::open) else { return false };
    // SAFETY: the file is the library that this process has already mapped. A change of it would change running code
    // anyway.
    let Ok(bytes) = (unsafe { memmap2::Mmap::map(&file) }) else { return false };
    // SAFETY: both pointers are valid for their lengths.
    !unsafe { libc::memmem(bytes.as_ptr().cast(), bytes.len(), MARKER.as_ptr().cast(), MARKER.len()) }.is_null()
}

/// `getenv`, except that `ORT_DISABLE_TELEMETRY` is 1 if the host didn't set it.
unsafe extern "C" fn answer(name: *const c_char) -> *mut c_char {
    // SAFETY: this is the call that the library makes, with its argument.
    let value = unsafe { libc::getenv(name) };
    // SAFETY: `getenv` takes a string that ends with NUL.
    let name = unsafe { CStr::from_ptr(name) }.to_bytes();
    let asked = name == VARIABLE.as_bytes();
    // The client reads `CI` before that, and stays off if it is set.
    if asked || name == b"CI" {
        ASKED.store(true, Ordering::Release);
    }
    // SAFETY: `getenv` returns null or a string that ends with NUL.
    let unset = value.is_null() || unsafe { *value } == 0;
    if asked && unset { c"1".as_ptr().cast_mut() } else { value }
}
