//! Status codes.

use foreturn::ErrorKind;

/// The result of a call. Numbers are stable, and retired ones are not used again. 1xx: the call itself; 2xx: models and
/// their input and output; 3xx: the machine; 4xx: the course of a request; 9xx: defects.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum foreturn_status {
    /// Success.
    FORETURN_OK = 0,
    /// An argument is NULL, has a length but no data, or is not UTF-8; or the size of a struct is unknown.
    FORETURN_ERROR_INVALID_ARGUMENT = 100,
    /// A handle was freed already or has the wrong type.
    FORETURN_ERROR_INVALID_HANDLE = 101,
    /// The function waits for an engine and was called from a callback that the engine waits for.
    FORETURN_ERROR_REENTRANT = 102,
    /// The header that the host was compiled with doesn't match this library.
    FORETURN_ERROR_ABI = 103,
    /// The request is invalid.
    FORETURN_ERROR_INVALID_REQUEST = 110,
    /// The configuration is invalid.
    FORETURN_ERROR_INVALID_CONFIG = 111,
    /// A model folder or checkpoint is incomplete, damaged or inconsistent.
    FORETURN_ERROR_INVALID_MODEL = 200,
    /// The input is well-formed, but this version can't handle it.
    FORETURN_ERROR_UNSUPPORTED = 201,
    /// A prompt is longer than the model's context.
    FORETURN_ERROR_CONTEXT_LENGTH = 202,
    /// A model, a metric or a callback failed or gave an unusable result.
    FORETURN_ERROR_MODEL_OUTPUT = 203,
    /// A file could not be read or written.
    FORETURN_ERROR_IO = 300,
    /// ONNX Runtime was not found or failed.
    FORETURN_ERROR_RUNTIME = 301,
    /// The key-value cache can't hold the request.
    FORETURN_ERROR_MEMORY_BUDGET = 302,
    /// The caller cancelled the request.
    FORETURN_ERROR_CANCELLED = 400,
    /// The deadline passed.
    FORETURN_ERROR_DEADLINE_EXCEEDED = 401,
    /// The queue is full.
    FORETURN_ERROR_OVERLOADED = 402,
    /// The engine was freed or closed.
    FORETURN_ERROR_CLOSED = 403,
    /// This process is a child, made by fork(), of the process that uses the library.
    FORETURN_ERROR_FORKED = 404,
    /// The result isn't ready yet.
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
