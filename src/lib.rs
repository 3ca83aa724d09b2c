//! foreturn
pub mod chat;
pub mod decode;
mod error;
pub mod export;
pub mod model;
pub(crate) mod onnx;
pub mod rollout;
pub mod reward;
pub mod runtime;
#[cfg(test)]
pub(crate) mod testing;
pub use error::{Error, ErrorKind, Result};
