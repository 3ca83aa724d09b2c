//! Engines.

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

/// Loaded models, ready to rank and score. Any number of threads may use one at once; see foreturn_engine_free().
pub struct foreturn_engine {
    _private: [u8; 0],
}

/// An engine, and the gate before its callbacks into the host.
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

/// A local model.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_model_options {
    /// sizeof(foreturn_model_options).
    pub size: usize,
    /// Its name.
    pub name: foreturn_str,
    /// An exported model's folder.
    pub path: foreturn_str,
}
sized!(foreturn_model_options);

/// What an engine is made of. Everything is read before foreturn_engine_new() returns.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_engine_options {
    /// sizeof(foreturn_engine_options).
    pub size: usize,
    /// A configuration file (TOML), or empty.
    pub config_path: foreturn_str,
    /// A configuration's text, or empty. Not both.
    pub config_toml: foreturn_str,
    /// The folder that relative paths in `config_toml` start from; the working directory if empty.
    pub base_folder: foreturn_str,
    /// Models beside those of the configuration.
    pub models: *const foreturn_model_options,
    /// How many there are.
    pub model_count: usize,
    /// Metrics of the host's, beside those of the configuration.
    pub metrics: *const foreturn_metric,
    /// How many there are.
    pub metric_count: usize,
    /// Models of the host's, beside those of the configuration.
    pub chat_models: *const foreturn_chat_model,
    /// How many there are.
    pub chat_model_count: usize,
    /// ONNX Runtime's library; goes before the configuration's. If both are empty it is searched for: ORT_DYLIB_PATH,
    /// the folder of this library, that of the program, the system's loader; never the working directory.
    pub runtime_library: foreturn_str,
    /// Threads of the pool that all models share; 0: the configuration's, else one per processor that the calling thread
    /// may run on. They inherit its affinity. At most 4 for each of those processors.
    pub threads: u32,
    /// Uses the ONNX Runtime that the process has loaded already, where its symbols are global, and no other: it is an
    /// error where there is none.
    pub use_loaded_runtime: bool,
    /// Doesn't look at ORT_DYLIB_PATH.
    pub ignore_environment: bool,
}
sized!(foreturn_engine_options);

/// Sets a foreturn_engine_options to its defaults: nothing set. Give `size` as sizeof(foreturn_engine_options).
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

/// Sets a foreturn_model_options to its defaults: nothing set. Give `size` as sizeof(foreturn_model_options).
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

/// Loads the models and starts the engine's thread. Takes as long as loading does (a fraction of a second for a small
/// model). ONNX Runtime is loaded by the first engine of the process and stays; a later one that names another library is
/// refused.
///
/// Ownership: the caller frees `*out` with foreturn_engine_free(). The `user_data` of metrics and models that have a
/// `release` is the engine's from here on, on failure too; not so where `options` could not be read (a wrong size, a setting
/// of a newer version), and in a child by fork().
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
            // These are taken over first, because what the host handed over has to be released in any case.
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

/// Makes each of them, or returns the first failure. All of them are gone through.
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
        Ok(config)
    }
}

fn places(options: &foreturn_engine_options) -> Places {
    Places { loaded: options.use_loaded_runtime, environment: !options.ignore_environment, ..Places::default() }
}

/// Ends an engine: what is under way or waits ends with FORETURN_ERROR_CLOSED, also on other threads that wait for it;
/// then the handle is freed. Returns when its threads have ended, and with them the host's metrics and models that they
/// were calling; once it has begun, no callback of the host's is called any more but `on_ready`, which tells of the end. NULL is nothing. Results, pins and pending requests stay
/// valid, and are freed by their own functions.
///
/// Errors: FORETURN_ERROR_INVALID_HANDLE if it was freed before, FORETURN_ERROR_REENTRANT. Any thread, but no callback.
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

/// Does what every function does that waits for an engine and gives a handle. `ask` is called when all else is in
/// order.
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

/// Cancels requests that carry it. Any thread may use one at once.
pub struct foreturn_cancel {
    _private: [u8; 0],
}

handle!(foreturn_cancel, CancelToken);

/// Makes a token that nobody has cancelled.
///
/// Ownership: the caller frees `*out` with foreturn_cancel_free(). Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
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

/// Ends every request that carries the token, within about one step of the model (`step_budget_ms`). Callbacks may do it.
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

/// Frees a token; requests that carry it go on. NULL is nothing. Errors: FORETURN_ERROR_INVALID_HANDLE if it was freed
/// before. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_cancel_free(cancel: *mut foreturn_cancel) -> foreturn_status {
    handle::free::<CancelToken>(cancel)
}

/// How long a request may take, who may end it, and who goes first. All-zero is no limit.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_limits {
    /// Milliseconds from submission; 0 is no limit.
    pub timeout_ms: u64,
    /// Cancels the request; may be NULL. It may be freed while the request goes on.
    pub cancel: *const foreturn_cancel,
    /// Of requests that wait for a place, those of higher priority go first, then those with the earliest deadline.
    pub priority: i32,
}

impl foreturn_limits {
    /// The limits of the host. There are none if it gave NULL.
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

/// Reads a conversation from the host's messages.
///
/// # Safety
/// As for [`slice`], and for the strings.
pub(crate) unsafe fn messages(
    data: *const foreturn_message,
    count: usize,
    name: &str,
) -> Result<Vec<Message>, Failure> {
    // SAFETY: passed on.
    unsafe {
        let given = slice(data, count, name)?;
        given
            .iter()
            .enumerate()
            .map(|(at, message)| {
                let role = match message.role.text(&format!("{name}[{at}].role"))? {
                    "system" => Role::System,
                    "user" => Role::User,
                    "assistant" => Role::Assistant,
                    other => {
                        return Err(Failure::argument(format!(
                            "{name}[{at}].role is {other:?}: it is \"system\", \"user\" or \"assistant\""
                        )));
                    }
                };
                Ok(Message::new(role, message.content.text(&format!("{name}[{at}].content"))?))
            })
            .collect()
    }
}
