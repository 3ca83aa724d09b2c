//! One error type for the whole library.
//!
//! The message says what was wrong, where (file, field, value) and what to do about it. Match on [`Error::kind`]; the
//! text is for people and may change.

use std::error::Error as StdError;
use std::path::Path;

pub(crate) mod foreign;

/// The library's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Anything that went wrong, with a message a person can act on.
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

/// What sort of failure an [`Error`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A request or argument makes no sense (an empty candidate list, a window of nonsense).
    InvalidRequest,
    /// The configuration file or an option struct is wrong.
    InvalidConfig,
    /// A model folder or checkpoint is missing pieces, damaged or contradicts itself.
    InvalidModel,
    /// A well-formed thing that this version can't handle.
    Unsupported,
    /// The file system or the network said no.
    Io,
    /// ONNX Runtime was not found, or failed.
    Runtime,
    /// A prompt is longer than the model's context.
    ContextLength,
    /// The key-value cache's budget can't hold what was asked for, even alone.
    MemoryBudget,
    /// A model or a metric gave something that can't be used (NaN logits, no mass on the answers).
    ModelOutput,
    /// The caller cancelled.
    Cancelled,
    /// The deadline passed.
    DeadlineExceeded,
    /// The queue is full, here or at an endpoint.
    Overloaded,
    /// The engine was closed.
    Closed,
    /// A child process uses what its parent made before `fork`.
    Forked,
    /// A defect in this library.
    Internal,
}

impl Error {
    /// An error of `kind` with a complete, actionable message.
    ///
    /// Messages repeat what files, models and servers say: control characters are escaped, because a terminal would obey
    /// them, and the middle of a very long message is left out.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner { kind, message: foreign::harmless(message.into()), source: None }))
    }

    /// Adds the error that caused this one; it shows up in [`StdError::source`].
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Puts `context: ` before the message, keeping the kind.
    #[must_use]
    pub fn context(mut self, context: impl std::fmt::Display) -> Self {
        self.0.message = foreign::harmless(format!("{context}: {}", self.0.message));
        self
    }

    /// An [`ErrorKind::Io`] error that names the file and what was being done to it ("read", "create", …).
    pub fn io(action: &str, path: &Path, source: std::io::Error) -> Self {
        Error::new(ErrorKind::Io, format!("cannot {action} {}: {source}", path.display())).with_source(source)
    }

    /// What sort of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// A copy without the source, for handing one failure to several waiting callers.
    pub(crate) fn duplicate(&self) -> Self {
        Error::new(self.0.kind, self.0.message.clone())
    }
}

impl std::fmt::Debug for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Error").field("kind", &self.0.kind).field("message", &self.0.message).finish_non_exhaustive()
    }
}

/// Shorthands for the kinds that are made in many places.
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
        // The source sits in the box, reachable through the trait.
        assert!(StdError::source(&error).is_some());
    }
}
