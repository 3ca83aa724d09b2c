//! Status codes.

use foreturn::ErrorKind;

/// What a function returns. Numbers are stable; those that are retired are not given out again. 1xx: the call itself;
/// 2xx: models and what they are asked; 3xx: the machine; 4xx: the course of a request; 9xx: defects.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum foreturn_status {
    /// Done.
    FORETURN_OK = 0,
    /// An argument is NULL, has a length without data, is no UTF-8, or a struct's size is unknown.
    FORETURN_ERROR_INVALID_ARGUMENT = 100,
    /// A handle was freed already, or is one of something else.
    FORETURN_ERROR_INVALID_HANDLE = 101,
    /// The function waits for an engine, and was called from a callback that the engine waits for.
    FORETURN_ERROR_REENTRANT = 102,
    /// The header that the host was compiled with doesn't fit this library.
    FORETURN_ERROR_ABI = 103,
    /// The request makes no sense.
    FORETURN_ERROR_INVALID_REQUEST = 110,
    /// The configuration is wrong.
    FORETURN_ERROR_INVALID_CONFIG = 111,
    /// A model folder or checkpoint lacks something, is damaged, or contradicts itself.
    FORETURN_ERROR_INVALID_MODEL = 200,
    /// Something well-formed that this version can't handle.
    FORETURN_ERROR_UNSUPPORTED = 201,
    /// A prompt is longer than the model's context.
    FORETURN_ERROR_CONTEXT_LENGTH = 202,
    /// A model, a metric or a callback gave something that can't be used, or failed.
    FORETURN_ERROR_MODEL_OUTPUT = 203,
    /// The file system said no.
    FORETURN_ERROR_IO = 300,
    /// ONNX Runtime was not found, or failed.
    FORETURN_ERROR_RUNTIME = 301,
    /// The key-value cache can't hold what was asked for.
    FORETURN_ERROR_MEMORY_BUDGET = 302,
    /// The caller cancelled.
    FORETURN_ERROR_CANCELLED = 400,
    /// The deadline passed.
    FORETURN_ERROR_DEADLINE_EXCEEDED = 401,
    /// The queue is full.
    FORETURN_ERROR_OVERLOADED = 402,
    /// The engine was freed or closed.
    FORETURN_ERROR_CLOSED = 403,
    /// This is a child of the process that uses the library.
    FORETURN_ERROR_FORKED = 404,
    /// The result isn't there yet.
    FORETURN_ERROR_NOT_READY = 405,
    /// A defect in the library.
    FORETURN_ERROR_INTERNAL = 900,
}

pub use foreturn_status::*;

impl From<ErrorKind> for foreturn_status {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::InvalidRequest => FORETURN_ERROR_INVALID_REQUEST,
            ErrorKind::InvalidConfig => FORETURN_ERROR_INVALID_CONFIG,
            ErrorKind::InvalidModel => FORETURN_ERROR_INVALID_MODEL,
            ErrorKind::Unsupported => FORETURN_ERROR_UNSUPPORTED,
            ErrorKind::Io => FORETURN_ERROR_IO,
            ErrorKind::Runtime => FORETURN_ERROR_RUNTIME,
            ErrorKind::ContextLength => FORETURN_ERROR_CONTEXT_LENGTH,
            ErrorKind::MemoryBudget => FORETURN_ERROR_MEMORY_BUDGET,
            ErrorKind::ModelOutput => FORETURN_ERROR_MODEL_OUTPUT,
            ErrorKind::Cancelled => FORETURN_ERROR_CANCELLED,
            ErrorKind::DeadlineExceeded => FORETURN_ERROR_DEADLINE_EXCEEDED,
            ErrorKind::Overloaded => FORETURN_ERROR_OVERLOADED,
            ErrorKind::Closed => FORETURN_ERROR_CLOSED,
            ErrorKind::Forked => FORETURN_ERROR_FORKED,
            // Kinds that are added later get their own numbers here.
            _ => FORETURN_ERROR_INTERNAL,
        }
    }
}
