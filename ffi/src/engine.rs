//! Engines.

use std::fmt::Display;
use std::path::PathBuf;

use foreturn::chat::{Message, Role};
use foreturn::config::{Config, ModelConfig};
use foreturn::engine::{CancelToken, Engine, Limits};
use foreturn::runtime::Places;

use crate::argument::{self, Out, foreturn_str, sized, slice};
use crate::callback::{Gate, refuse_free, refuse_inside};
use crate::chat_model::{foreturn_chat_model, host_model};
use crate::error::{foreturn_error, guard};
use crate::failure::{Failure, status_of};
use crate::handle::{self, Object, handle};
use crate::metric::{foreturn_message, foreturn_metric, host_metric};
use crate::status::*;

/// Loaded models, ready to rank and score. Any number of threads may use one at once. See foreturn_engine_free().
pub struct foreturn_engine {
    _private: [u8; 0],
}

/// An engine, and the gate in front of its callbacks into the host.
pub(crate) struct Hosted {
    engine: Engine,
    pub(crate) gate: Gate,
}

impl std::ops::Deref for Hosted {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        &self.engine
    }
}

handle!(foreturn_engine, Hosted);

/// A local model to load.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_model_options {
    /// sizeof(foreturn_model_options).
    pub size: usize,
    /// The name that roles and calls use.
    pub name: foreturn_str,
    /// The folder of an exported model.
    pub path: foreturn_str,
}
sized!(foreturn_model_options);

/// The settings of a new engine. All of them are read before foreturn_engine_new() returns.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_engine_options {
    /// sizeof(foreturn_engine_options).
    pub size: usize,
    /// Path of a configuration file (TOML); may be empty.
    pub config_path: foreturn_str,
    /// Text of a configuration (TOML); may be empty. Set this or `config_path`, not both.
    pub config_toml: foreturn_str,
    /// The folder that relative paths in `config_toml` start from. Empty: the working directory.
    pub base_folder: foreturn_str,
    /// Local models in addition to those of the configuration.
    pub models: *const foreturn_model_options,
    /// Number of models.
    pub model_count: usize,
    /// The host's metrics, in addition to those of the configuration.
    pub metrics: *const foreturn_metric,
    /// Number of metrics.
    pub metric_count: usize,
    /// The host's chat models, in addition to the models of the configuration.
    pub chat_models: *const foreturn_chat_model,
    /// Number of chat models.
    pub chat_model_count: usize,
    /// Path of ONNX Runtime's library; overrides the configuration's. If neither is set, the library is searched for in
    /// this order: ORT_DYLIB_PATH, the folder of this library, the folder of the program, the system's loader. The
    /// working directory is never searched.
    pub runtime_library: foreturn_str,
    /// Number of threads in the pool that all models share. 0: the configuration's number or, if it has none, one per
    /// processor that the calling thread may run on. The threads inherit the calling thread's affinity. The maximum is
    /// 4 per such processor.
    pub threads: u32,
    /// Use only the ONNX Runtime that the process has already loaded with global symbols. It is an error if there is
    /// none.
    pub use_loaded_runtime: bool,
    /// Ignore ORT_DYLIB_PATH.
    pub ignore_environment: bool,
    /// The processors that the engine's threads and ONNX Runtime's stay on, such as "0-3,8"; overrides the configuration's.
    /// Empty: the configuration's or, if it has none, those of the calling thread. Each model then has a pool of its own,
    /// whose default size is the number of processors.
    pub cores: foreturn_str,
}
sized!(foreturn_engine_options until cores);

/// Sets `*options` to the defaults: nothing set. `size` is sizeof(foreturn_engine_options).
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_engine_options_init(
    options: *mut foreturn_engine_options,
    size: usize,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe { argument::init(options, size) }
}

/// Sets `*options` to the defaults: nothing set. `size` is sizeof(foreturn_model_options).
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_model_options_init(
    options: *mut foreturn_model_options,
    size: usize,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe { argument::init(options, size) }
}

/// Loads the models and starts the engine's thread. The call takes as long as loading the models (a fraction of a
/// second for a small one). The first engine of the process loads ONNX Runtime, which stays loaded; a later engine that
/// names another library is refused.
///
/// Ownership: the caller frees `*out` with foreturn_engine_free(). If a metric or chat model has a `release`, the
/// engine takes over its `user_data`, even if this function fails. The exceptions are `options` that could not be read
/// (wrong size, a setting of a newer version) and a child made by fork().
///
/// Errors: FORETURN_ERROR_INVALID_CONFIG, FORETURN_ERROR_INVALID_MODEL, FORETURN_ERROR_UNSUPPORTED, FORETURN_ERROR_IO,
/// FORETURN_ERROR_RUNTIME, FORETURN_ERROR_MEMORY_BUDGET. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_engine_new(
    options: *const foreturn_engine_options,
    out: *mut *mut foreturn_engine,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            handle::refuse_child()?;
            let options = argument::read(options)?;
            // Taken over first, so that the host's data is released whatever happens.
            let metrics = argument::read_all(options.metrics, options.metric_count, "metrics");
            let chat_models = argument::read_all(options.chat_models, options.chat_model_count, "chat_models");
            let gate = Gate::default();
            let metrics = metrics.and_then(|metrics| each(&metrics, |given| host_metric(given, &gate)));
            let chat_models = chat_models.and_then(|models| each(&models, |given| host_model(given, &gate)));
            let (metrics, chat_models) = (metrics?, chat_models?);
            let out = Out::new(out, "out")?;
            refuse_inside("foreturn_engine_new")?;
            let mut builder = Engine::builder(config(&options)?).places(places(&options));
            for metric in metrics {
                builder = builder.metric(metric);
            }
            for (name, factory) in chat_models {
                builder = builder.chat_model(name, factory);
            }
            out.write(handle::insert(Hosted { engine: builder.build()?, gate }));
            Ok(())
        })
    }
}

/// Makes each of them, even after a failure; returns all or the first failure.
fn each<T, R>(given: &[T], make: impl Fn(&T) -> Result<R, Failure>) -> Result<Vec<R>, Failure> {
    let made: Vec<Result<R, Failure>> = given.iter().map(make).collect();
    made.into_iter().collect()
}

/// The configuration with the models that the host names.
unsafe fn config(options: &foreturn_engine_options) -> Result<Config, Failure> {
    // SAFETY: the strings are the host's, valid for the call.
    unsafe {
        let (path, toml) = (options.config_path.text("config_path")?, options.config_toml.text("config_toml")?);
        let base = options.base_folder.text("base_folder")?;
        let models = argument::read_all(options.models, options.model_count, "models")?;
        let models = models.iter().map(|model| Ok((model.name.text("model.name")?, model.path.text("model.path")?)));
        let models = models.collect::<Result<Vec<_>, Failure>>()?;
        let mut config = match (path.is_empty(), toml.is_empty()) {
            (false, false) => {
                return Err(Failure::argument("config_path and config_toml are both set: give one of them"));
            }
            (false, true) => Config::from_file(path)?,
            (true, false) => Config::from_toml(toml, base)?,
            (true, true) => Config::default(),
        };
        for (name, path) in models {
            if config.models.insert(name.to_owned(), ModelConfig::local(path)).is_some() {
                return Err(Failure::argument(format!("there are two models named `{name}`")));
            }
        }
        let library = options.runtime_library.text("runtime_library")?;
        if !library.is_empty() {
            config.runtime.library = Some(PathBuf::from(library));
        }
        if options.threads > 0 {
            config.runtime.threads = Some(options.threads as usize);
        }
        let cores = options.cores.text("cores")?;
        if !cores.is_empty() {
            config.runtime.cores = Some(cores.parse()?);
        }
        Ok(config)
    }
}

fn places(options: &foreturn_engine_options) -> Places {
    Places { loaded: options.use_loaded_runtime, environment: !options.ignore_environment, ..Places::default() }
}

/// Closes an engine and frees the handle. NULL is ignored. Requests that run or wait end with FORETURN_ERROR_CLOSED,
/// also on other threads that wait for them. The function returns when the engine's threads have ended, and with them
/// the calls to the host's metrics and chat models. Once it has begun, it starts no callback except `on_ready`, which
/// reports the end of a request. Results, pins and pending requests stay valid; the caller frees them with their own
/// functions.
///
/// Errors: FORETURN_ERROR_INVALID_HANDLE if it was freed before, FORETURN_ERROR_REENTRANT. Any thread, but not from a
/// callback.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_engine_free(engine: *mut foreturn_engine) -> foreturn_status {
    status_of(|| {
        handle::refuse_child()?;
        refuse_free()?;
        if let Some(hosted) = handle::remove::<Hosted>(engine)? {
            hosted.gate.shut();
            hosted.close();
        }
        Ok(())
    })
}

/// Runs a function that waits for an engine and returns a handle. `ask` is called once all arguments are checked.
///
/// # Safety
/// As for [`guard`] and [`Out::new`].
pub(crate) unsafe fn waiting<T: Object>(
    function: &str,
    engine: *const foreturn_engine,
    out: *mut *mut T::Handle,
    error: *mut *mut foreturn_error,
    ask: impl FnOnce(&Hosted) -> Result<T, Failure>,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            let engine = handle::get::<Hosted>(engine)?;
            let out = Out::new(out, "out")?;
            refuse_inside(function)?;
            out.write(handle::insert(ask(&engine)?));
            Ok(())
        })
    }
}

/// A token that cancels the requests that carry it. Any number of threads may use one at once.
pub struct foreturn_cancel {
    _private: [u8; 0],
}

handle!(foreturn_cancel, CancelToken);

/// Makes a token that is not cancelled.
///
/// Ownership: the caller frees `*out` with foreturn_cancel_free().
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_cancel_new(
    out: *mut *mut foreturn_cancel,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            handle::refuse_child()?;
            let out = Out::new(out, "out")?;
            out.write(handle::insert(CancelToken::new()));
            Ok(())
        })
    }
}

/// Cancels every request that carries the token. They end within about one step of the model (`step_budget_ms`).
/// Callbacks may call it.
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_cancel_cancel(
    cancel: *const foreturn_cancel,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            handle::get::<CancelToken>(cancel)?.cancel();
            Ok(())
        })
    }
}

/// Frees a token. Requests that carry it go on. NULL is ignored.
///
/// Errors: FORETURN_ERROR_INVALID_HANDLE if it was freed before. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_cancel_free(cancel: *mut foreturn_cancel) -> foreturn_status {
    handle::free::<CancelToken>(cancel)
}

/// The deadline, cancellation and priority of a request. All-zero means no limit.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_limits {
    /// Deadline in milliseconds from submission; 0: none.
    pub timeout_ms: u64,
    /// A token that cancels the request; may be NULL. It may be freed while the request goes on.
    pub cancel: *const foreturn_cancel,
    /// Requests with a higher priority go first: to a place, in each step and in memory. Among equals, those with an earlier
    /// deadline go first.
    pub priority: i32,
}

impl foreturn_limits {
    /// The host's limits; none if it passed NULL.
    ///
    /// # Safety
    /// `given` is NULL or valid.
    pub(crate) unsafe fn or_none(given: *const foreturn_limits) -> Result<Limits, Failure> {
        // SAFETY: passed on.
        unsafe { given.as_ref() }.map_or_else(|| Ok(Limits::default()), foreturn_limits::limits)
    }

    pub(crate) fn limits(&self) -> Result<Limits, Failure> {
        let timeout = (self.timeout_ms > 0).then(|| std::time::Duration::from_millis(self.timeout_ms));
        let cancel = match self.cancel.is_null() {
            true => None,
            false => Some((*handle::get::<CancelToken>(self.cancel)?).clone()),
        };
        Ok(Limits { timeout, cancel, priority: self.priority })
    }
}

/// A conversation made from the host's messages.
///
/// # Safety
/// As for [`slice`], and for the strings.
pub(crate) unsafe fn messages(
    data: *const foreturn_message,
    count: usize,
    name: impl Display,
) -> Result<Vec<Message>, Failure> {
    // SAFETY: passed on.
    unsafe {
        let given = slice(data, count, &name)?;
        given
            .iter()
            .enumerate()
            .map(|(at, message)| {
                let role = match message.role.text(format_args!("{name}[{at}].role"))? {
                    "system" => Role::System,
                    "user" => Role::User,
                    "assistant" => Role::Assistant,
                    other => {
                        return Err(Failure::argument(format!(
                            "{name}[{at}].role is {other:?}: it is \"system\", \"user\" or \"assistant\""
                        )));
                    }
                };
                Ok(Message::new(role, message.content.text(format_args!("{name}[{at}].content"))?))
            })
            .collect()
    }
}
