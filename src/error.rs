//! One error type for the whole library.
//!
//! The message says what was wrong, where (file, field, value) and what to do about it. Match on [`Error::kind`]; the
//! text is for people and may change.

use std::error::Error as StdError;
use std::path::Path;

pub(crate) mod foreign;

/// The library's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure, with a message that a person can act on.
#[derive(thiserror::Error)]
#[error(transparent)]
pub struct Error(Box<Inner>);

#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Inner {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The kind of an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// A request or argument is invalid (an empty candidate list, a window out of range).
    InvalidRequest,
    /// The configuration file or an option struct is invalid.
    InvalidConfig,
    /// A model folder or checkpoint is incomplete, damaged or inconsistent.
    InvalidModel,
    /// The input is well-formed, but this version can't handle it.
    Unsupported,
    /// A file or network operation failed.
    Io,
    /// ONNX Runtime was not found, or failed.
    Runtime,
    /// A prompt is longer than the model's context.
    ContextLength,
    /// The key-value cache's budget can't hold the request, even alone.
    MemoryBudget,
    /// A model or a metric gave an unusable result (NaN logits, no mass on the answers).
    ModelOutput,
    /// The caller cancelled the request.
    Cancelled,
    /// The deadline passed.
    DeadlineExceeded,
    /// The queue is full, here or at an endpoint.
    Overloaded,
    /// The engine was closed.
    Closed,
    /// A child process uses objects that its parent made before `fork`.
    Forked,
    /// A defect in this library.
    Internal,
}

impl ErrorKind {
    /// Its name in JSON and in OpenMetrics.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorKind::InvalidRequest => "invalid_request",
            ErrorKind::InvalidConfig => "invalid_config",
            ErrorKind::InvalidModel => "invalid_model",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::Io => "io",
            ErrorKind::Runtime => "runtime",
            ErrorKind::ContextLength => "context_length",
            ErrorKind::MemoryBudget => "memory_budget",
            ErrorKind::ModelOutput => "model_output",
            ErrorKind::Cancelled => "cancelled",
            ErrorKind::DeadlineExceeded => "deadline_exceeded",
            ErrorKind::Overloaded => "overloaded",
            ErrorKind::Closed => "closed",
            ErrorKind::Forked => "forked",
            ErrorKind::Internal => "internal",
        }
    }
}

impl Error {
    /// An error of `kind` with a complete, actionable message.
    ///
    /// Messages repeat texts of files, models and servers. So control characters are escaped, because a terminal would
    /// obey them, and the middle of a very long message is left out.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner { kind, message: foreign::harmless(message.into()), source: None }))
    }

    /// Adds the error that caused this one. [`StdError::source`] returns it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Puts `context: ` before the message and keeps the kind.
    #[must_use]
    pub fn context(mut self, context: impl std::fmt::Display) -> Self {
        self.0.message = foreign::harmless(format!("{context}: {}", self.0.message));
        self
    }

    /// An [`ErrorKind::Io`] error that names the file and the action ("read", "create", …).
    pub fn io(action: &str, path: &Path, source: std::io::Error) -> Self {
        Error::new(ErrorKind::Io, format!("cannot {action} {}: {source}", path.display())).with_source(source)
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// A copy without the source, for giving one failure to several waiting callers.
    pub(crate) fn duplicate(&self) -> Self {
        Error::new(self.0.kind, self.0.message.clone())
    }
}

impl std::fmt::Debug for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Error").field("kind", &self.0.kind).field("message", &self.0.message).finish_non_exhaustive()
    }
}

/// Shorthands for kinds that are made in many places.
macro_rules! shorthand {
    ($($name:ident => $kind:ident),* $(,)?) => {
        impl Error {
            $(pub(crate) fn $name(message: impl Into<String>) -> Self {
                Error::new(ErrorKind::$kind, message)
            })*
        }
    };
}

shorthand! {
    invalid_request => InvalidRequest,
    invalid_config => InvalidConfig,
    invalid_model => InvalidModel,
    unsupported => Unsupported,
    runtime => Runtime,
    internal => Internal,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_keeps_the_kind_and_source_is_reachable() {
        let error = Error::io("read", Path::new("/nowhere/x"), std::io::Error::from(std::io::ErrorKind::NotFound))
            .context("model `policy`");
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().starts_with("model `policy`: cannot read /nowhere/x: "));
        // The source is in the box, and the trait gives access to it.
        assert!(StdError::source(&error).is_some());
    }
}
