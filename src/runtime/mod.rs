//! ONNX Runtime: its location, the one environment of a process, execution providers, sessions.
//!
//! Only this module and `kernels` use the `ort` crate, so that a change of its interface is little work. `locate` names
//! a library, `environment` loads it once per process, and `session` runs graphs over memory that `memory` reserves.
//! All models share the environment's threads, which spin during a step and sleep between steps.

mod build;
mod cores;
pub(crate) mod device;
pub(crate) mod environment;
pub mod locate;
pub mod log;
pub(crate) mod memory;
pub mod providers;
pub(crate) mod session;
mod telemetry;
mod watchdog;

use std::path::PathBuf;
use std::time::Duration;

pub use build::{BuildInfo, Kernels};
pub use cores::Cores;
pub use environment::RuntimeInfo;
pub use locate::{Found, Places, Source};
pub use providers::{OnUnavailable, OptionValue, Provider, ProviderOptions, ProviderReport, ProviderState};
pub use telemetry::Telemetry;

use crate::Result;

/// Maximum number of threads per processor. More would only wait for one another.
const THREADS_PER_PROCESSOR: usize = 4;

/// Number of processors that this process may use.
fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Settings for finding and setting up ONNX Runtime.
#[derive(Debug, Clone)]
pub struct RuntimeOptions {
    /// Path of the ONNX Runtime library; `None` searches the [`Places`] in their order.
    pub library: Option<PathBuf>,
    /// The places to search if no path is given.
    pub places: Places,
    /// Threads of the pool that all models share; 0 is one per core. See [`RuntimeOptions::check_threads`] for the
    /// maximum.
    pub threads: usize,
    /// The processors that the engine's threads and those of its sessions stay on; `None` leaves them where the thread that
    /// makes the engine may run. Sessions then have pools of their own, of [`RuntimeOptions::threads`] threads each.
    pub cores: Option<Cores>,
    /// Execution providers in order of preference.
    pub providers: Vec<Provider>,
    /// The action if a provider isn't available.
    pub on_unavailable: OnUnavailable,
    /// Options of the providers.
    pub provider_options: ProviderOptions,
    /// Maximum time of one run of a graph, after which it is ended. This is for graphs that never finish.
    pub step_limit: Duration,
    /// Path of ONNX Runtime's profile, which each session writes when it ends. A date and `.json` are appended to it.
    pub profile: Option<PathBuf>,
}

impl Default for RuntimeOptions {
    fn default() -> Self {
        RuntimeOptions {
            library: None,
            places: Places::default(),
            threads: 0,
            cores: None,
            providers: vec![Provider::Cpu],
            on_unavailable: OnUnavailable::Error,
            provider_options: ProviderOptions::default(),
            step_limit: Duration::from_secs(600),
            profile: None,
        }
    }
}

impl RuntimeOptions {
    /// Refuses thread counts that this machine can't run.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig): more than 4 for each processor that this process may use, or for
    /// each of the [`RuntimeOptions::cores`]; or these are not the process's to use.
    pub fn check_threads(&self) -> Result<()> {
        self.cores.as_ref().map_or(Ok(()), Cores::check)?;
        let processors = self.processors();
        let most = THREADS_PER_PROCESSOR * processors;
        if self.threads <= most {
            return Ok(());
        }
        Err(crate::Error::invalid_config(format!(
            "threads = {}: at most {most} are allowed here, {THREADS_PER_PROCESSOR} for each of the {processors} processors \
             that {} may use; lower it, or leave it out to have one for each",
            self.threads,
            if self.cores.is_some() { "the engine" } else { "this process" }
        )))
    }

    fn processors(&self) -> usize {
        self.cores.as_ref().map_or_else(processors, Cores::count)
    }

    /// The number of threads that [`RuntimeOptions::threads`] means, at least 1.
    pub fn effective_threads(&self) -> usize {
        match self.threads {
            0 => self.processors(),
            n => n,
        }
    }
}

/// Loads ONNX Runtime, if this process hasn't yet, and returns information about it.
///
/// # Errors
/// No library was found (the message lists every place tried), or this process already runs another one.
pub fn load(options: &RuntimeOptions) -> Result<RuntimeInfo> {
    environment::get(options).map(|environment| environment.info())
}

/// The error for a thread that the system refused. It has the thread's purpose, and the limits that may have been
/// reached.
pub fn thread_refused(purpose: &str, error: std::io::Error) -> crate::Error {
    crate::thread::refused(purpose, error)
}

/// Wraps a failure of ONNX Runtime, keeping its message.
pub(crate) fn ort_error(action: &str, error: impl std::fmt::Display) -> crate::Error {
    crate::Error::runtime(format!("{action}: {error}"))
}
