//! Where messages of ONNX Runtime go: nowhere, unless somebody asks for them. A library writes on nobody's streams.

use std::sync::{Arc, PoisonError, RwLock};

/// How grave a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Something to look at.
    Warning,
    /// Something failed; whoever asked for it gets an error as well.
    Error,
}

/// Receives messages, on any thread, several at once perhaps. It must not call into an engine.
pub type Logger = Arc<dyn Fn(LogLevel, &str) + Send + Sync>;

static LOGGER: RwLock<Option<Logger>> = RwLock::new(None);

/// Sends this process's messages to `logger` from now on, or nowhere.
pub fn set_logger(logger: Option<Logger>) {
    *LOGGER.write().unwrap_or_else(PoisonError::into_inner) = logger;
}

/// A message of ONNX Runtime's.
pub(super) fn forward(level: ort::logging::LogLevel, category: &str, message: &str) {
    use ort::logging::LogLevel as Ort;
    let level = match level {
        Ort::Verbose | Ort::Info => return,
        Ort::Warning => LogLevel::Warning,
        Ort::Error | Ort::Fatal => LogLevel::Error,
    };
    emit(level, &format!("ONNX Runtime ({category}): {message}"));
}

/// Sends a message to whoever asked for them.
pub fn emit(level: LogLevel, message: &str) {
    // Not held while the logger runs: it may take its time, or be replaced meanwhile.
    let logger = LOGGER.read().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some(logger) = logger {
        logger(level, message);
    }
}
