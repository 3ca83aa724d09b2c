//! The one ONNX Runtime environment of the process.
//!
//! A process can load one ONNX Runtime and build one environment. Once it is dropped, no other can be built. So it is
//! made on first use and kept for good, and a request for a different library is an error and not ignored.

use std::ffi::{CStr, CString, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use ort::environment::{Environment as OrtEnvironment, GlobalThreadPoolOptions};
use ort::logging::LogLevel;
use serde::Serialize;

use super::locate::{self, Found, Source};
use super::telemetry::{Silence, Telemetry};
use super::{RuntimeOptions, log, ort_error, processors, watchdog};
use crate::{Error, ErrorKind, Result};

/// Information about the loaded ONNX Runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RuntimeInfo {
    /// Path of the library.
    pub library: PathBuf,
    /// The way in which it was found.
    pub source: Source,
    /// ONNX Runtime's version.
    pub version: String,
    /// Execution providers that are compiled in, by ONNX Runtime's names.
    pub providers: Vec<String>,
    /// Threads of the shared pool.
    pub threads: usize,
    /// State of the reports to ONNX Runtime's maker.
    pub telemetry: Telemetry,
}

/// The loaded runtime.
pub(crate) struct Environment {
    pub(crate) ort: OrtEnvironment,
    library: Found,
    /// Threads of the global pool. Sessions that want another number get their own pool.
    pub(crate) threads: usize,
    telemetry: Telemetry,
}

static CURRENT: Mutex<Option<Arc<Environment>>> = Mutex::new(None);

fn current() -> MutexGuard<'static, Option<Arc<Environment>>> {
    CURRENT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The process's environment, made on first use.
pub(crate) fn get(options: &RuntimeOptions) -> Result<Arc<Environment>> {
    options.check_threads()?;
    let mut current = current();
    if let Some(environment) = current.as_ref() {
        environment.check_same_library(options.library.as_deref())?;
        return Ok(Arc::clone(environment));
    }
    let environment = Arc::new(build(options)?);
    *current = Some(Arc::clone(&environment));
    Ok(environment)
}

/// Information about the library that this process has loaded, if it has. While one is being loaded there is none: a log
/// callback may ask then, on the thread that loads it.
pub(crate) fn loaded() -> Option<RuntimeInfo> {
    let current = match CURRENT.try_lock() {
        Ok(current) => current,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return None,
    };
    current.as_ref().map(|environment| environment.info())
}

impl Environment {
    fn check_same_library(&self, wanted: Option<&Path>) -> Result<()> {
        let Some(wanted) = wanted else { return Ok(()) };
        let canonical = wanted.canonicalize().unwrap_or_else(|_| wanted.to_path_buf());
        if canonical == self.library.path || self.library.path.parent() == Some(&canonical) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Runtime,
            format!(
                "runtime.library: this process already runs ONNX Runtime from {}; it cannot also load {}. Use one path in all engines, or separate processes",
                self.library.path.display(),
                wanted.display()
            ),
        ))
    }

    pub(crate) fn info(&self) -> RuntimeInfo {
        let (path, version) = loaded_library();
        RuntimeInfo {
            library: path.unwrap_or_else(|| self.library.path.clone()),
            source: self.library.source,
            version,
            providers: super::providers::compiled_in(),
            threads: self.threads,
            telemetry: self.telemetry,
        }
    }
}

/// The version of the library in use and, if the loader knows it, its path.
fn loaded_library() -> (Option<PathBuf>, String) {
    let Some(path) = locate::object_of(ort::api().GetBuildInfoString as *const c_void) else {
        return (None, "unknown".into());
    };
    let Ok(name) = CString::new(path.as_os_str().as_bytes()) else { return (Some(path), "unknown".into()) };
    // SAFETY: asking for the library again with RTLD_NOLOAD loads nothing, and OrtGetApiBase has the type that ONNX
    // Runtime's header gives it.
    unsafe {
        let handle = libc::dlopen(name.as_ptr(), libc::RTLD_NOLOAD | libc::RTLD_LAZY);
        if handle.is_null() {
            return (Some(path), "unknown".into());
        }
        let symbol = libc::dlsym(handle, c"OrtGetApiBase".as_ptr());
        let version = (!symbol.is_null()).then(|| {
            let base: unsafe extern "C" fn() -> *const ort::sys::OrtApiBase = std::mem::transmute(symbol);
            CStr::from_ptr(((*base()).GetVersionString)()).to_string_lossy().into_owned()
        });
        libc::dlclose(handle);
        (Some(path), version.unwrap_or_else(|| "unknown".into()))
    }
}

/// The error for a library that can't be loaded, with the message of the system's loader.
#[cfg(feature = "load-dynamic")]
fn not_loaded(error: &ort::LoadDynamicError) -> String {
    let loader = match error {
        ort::LoadDynamicError::Dlopen { error, .. } => std::error::Error::source(error),
        _ => None,
    };
    loader.map_or_else(|| error.to_string(), |loader| format!("{error}: {loader}"))
}

/// The error for a missing environment. If threads are missing, ONNX Runtime says no more than that.
fn not_made(error: &ort::Error) -> Error {
    let error = ort_error("cannot create ONNX Runtime's environment", error);
    if error.to_string().contains("pthread_create failed") { error.context(crate::thread::limits()) } else { error }
}

#[cfg(feature = "load-dynamic")]
fn build(options: &RuntimeOptions) -> Result<Environment> {
    let mut search = locate::search(options.library.as_deref(), options.places);
    for found in std::mem::take(&mut search.found) {
        match ort::init_from(&found.path) {
            Ok(builder) => return finish(builder, found, options),
            Err(e) => search.misses.push(format!("{}: {}", found.path.display(), not_loaded(&e))),
        }
    }
    Err(Error::new(
        ErrorKind::Runtime,
        format!(
            "ONNX Runtime was not found. Tried:\n  - {}\nInstall it with `python3 -m pip install onnxruntime` and point ORT_DYLIB_PATH (or `library` under [runtime]) at its libonnxruntime.so.*, or run `make demo` in foreturn's repository, which fetches it",
            search.misses.join("\n  - ")
        ),
    ))
}

#[cfg(not(feature = "load-dynamic"))]
fn build(options: &RuntimeOptions) -> Result<Environment> {
    if let Some(path) = &options.library {
        return Err(Error::invalid_config(format!(
            "runtime.library: {} cannot be loaded, because this build links ONNX Runtime; build with the feature `load-dynamic`",
            path.display()
        )));
    }
    finish(ort::init(), Found { source: Source::Linked, path: PathBuf::from("linked") }, options)
}

fn finish(
    builder: ort::environment::EnvironmentBuilder,
    library: Found,
    options: &RuntimeOptions,
) -> Result<Environment> {
    watchdog::start()?;
    // Sessions with cores have pools of their own. This one is for the engines without, which may come later.
    let threads = if options.cores.is_some() { processors() } else { options.effective_threads() };
    let silence = Silence::begin();
    // Spinning is allowed here, and a session setting stops it at the end of each run. So threads are awake during a
    // step and asleep between steps.
    let pool = GlobalThreadPoolOptions::default()
        .with_intra_threads(threads)
        .and_then(|pool| pool.with_inter_threads(1))
        .and_then(|pool| pool.with_spin_control(true))
        .map_err(|e| ort_error("cannot set up ONNX Runtime's thread pool", e))?;
    let ort = builder
        .with_name("foreturn")
        .with_telemetry(false)
        .with_global_thread_pool(pool)
        .with_logger(Arc::new(|level: LogLevel, category: &str, _: &str, _: &str, message: &str| {
            log::forward(level, category, message);
        }))
        .build()
        .map_err(|e| not_made(&e))?;
    ort.set_log_level(LogLevel::Warning);
    let path = if library.source == Source::Linked { None } else { loaded_library().0 };
    let telemetry = silence.end(path.as_deref());
    if let Some(warning) = telemetry.warning() {
        log::emit(log::LogLevel::Warning, &warning);
    }
    Ok(Environment { ort, library, threads, telemetry })
}
