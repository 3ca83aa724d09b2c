//! foreturn
pub mod chat;
pub mod config;
pub mod decode;
pub mod engine;
mod error;
pub mod export;
pub mod model;
pub(crate) mod onnx;
pub mod rank;
pub mod rollout;
pub mod reward;
pub mod runtime;
#[cfg(test)]
pub(crate) mod testing;
pub use config::Config;
pub use engine::{Engine, RankOptions};
pub use error::{Error, ErrorKind, Result};
pub use rank::{RankRequest, Ranking};
