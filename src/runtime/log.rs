//! The receiver of ONNX Runtime's messages. By default there is none, because a library doesn't write to its host's
//! streams.

use std::sync::{Arc, PoisonError, RwLock};

/// The severity of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Something deserves attention.
    Warning,
    /// Something failed. The call that it belongs to gets an error as well.
    Error,
}

/// A receiver of messages, called on any thread, perhaps on several at once. It must not call into an engine.
pub type Logger = Arc<dyn Fn(LogLevel, &str) + Send + Sync>;

static LOGGER: RwLock<Option<Logger>> = RwLock::new(None);

/// Sends this process's messages to `logger` from now on, or nowhere.
pub fn set_logger(logger: Option<Logger>) {
    *LOGGER.write().unwrap_or_else(PoisonError::into_inner) = logger;
}

/// A message of ONNX Runtime.
pub(super) fn forward(level: ort::logging::LogLevel, category: &str, message: &str) {
    use ort::logging::LogLevel as Ort;
    let level = match level {
        Ort::Verbose | Ort::Info => return,
        Ort::Warning => LogLevel::Warning,
        Ort::Error | Ort::Fatal => LogLevel::Error,
    };
    emit(level, &format!("ONNX Runtime ({category}): {message}"));
}

/// Sends a message to the logger, if there is one.
pub fn emit(level: LogLevel, message: &str) {
    // Not held while the logger runs, because it may be slow, or be replaced meanwhile.
    let logger = LOGGER.read().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some(logger) = logger {
        logger(level, message);
    }
}
