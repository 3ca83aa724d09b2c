//! Scores a language model's response by where it leads the conversation.
//!
//! For every candidate response foreturn samples short futures of the conversation between the policy and a simulated
//! user, judges them, and averages: the multiturn-aware reward of CollabLLM (Wu et al., ICML 2025), with its error and
//! its cost. Models run in this process on ONNX Runtime; futures that share a prefix compute it once.
//!
//! ```no_run
//! use foreturn::{Config, Engine, RankOptions};
//!
//! let engine = Engine::new(Config::from_file("examples/foreturn.toml")?)?;
//! let request = std::fs::read_to_string("examples/requests/poem.json").expect("a readable file");
//! let ranking = engine.rank(request.parse()?, RankOptions::default())?;
//! for candidate in &ranking.candidates {
//!     println!("{}: {:?} ± {:?}", candidate.candidate, candidate.reward, candidate.std_error);
//! }
//! # Ok::<(), foreturn::Error>(())
//! ```
//!
//! A request passes through these modules: [`export`] made the model folder that [`model`] reads. [`decode`] turns
//! tokens into tokens, and [`chat`] messages into messages. `rollout` samples futures, [`reward`] scores them,
//! [`rank`] brings them together, and an [`Engine`] drives it all. [`runtime`] is ONNX Runtime.

#![cfg_attr(not(test), deny(clippy::disallowed_methods))]
// Unsafe code is fenced: the kernels are a separate crate, and the attributes below name the other places.
#![deny(unsafe_code)]
// What is public only inside of this workspace may do without.
#![cfg_attr(not(feature = "internals"), warn(missing_debug_implementations))]
// What only tests and benches use is dead without their feature; with it, the lint looks at everything.
#![cfg_attr(not(feature = "internals"), allow(dead_code, unreachable_pub, unused_imports))]

/// Re-exports what tests and benches need and hosts don't: public with the feature `internals`.
macro_rules! internal {
    ($($items:tt)*) => {
        #[cfg(feature = "internals")]
        pub use $($items)*;
        #[cfg(not(feature = "internals"))]
        pub(crate) use $($items)*;
    };
}

mod byte_size;
pub mod chat;
pub mod config;
pub mod dataset;
pub mod decode;
pub mod engine;
mod error;
pub mod evaluate;
pub mod export;
#[doc(hidden)]
pub mod files;
pub(crate) mod finite;
#[cfg(feature = "internals")]
#[doc(hidden)]
#[allow(unsafe_code, reason = "calls kernels without ONNX Runtime, for benches")]
pub mod internals;
#[doc(hidden)]
pub mod json;
pub mod likeness;
pub mod message;
pub(crate) mod mistaken;
pub mod model;
pub(crate) mod onnx;
pub mod rank;
#[cfg(feature = "report")]
pub mod report;
pub mod reward;
#[cfg(feature = "internals")]
pub mod rollout;
#[cfg(not(feature = "internals"))]
pub(crate) mod rollout;
#[allow(unsafe_code, reason = "calls into a library that was loaded at run time")]
pub mod runtime;
#[cfg(all(feature = "sandbox", feature = "internals", target_os = "linux"))]
#[allow(unsafe_code, reason = "system calls between fork and exec")]
pub mod sandbox;
#[cfg(all(feature = "sandbox", not(feature = "internals"), target_os = "linux"))]
#[allow(unsafe_code, reason = "system calls between fork and exec")]
pub(crate) mod sandbox;
pub mod score;
pub(crate) mod stats;
pub mod tasks;
#[cfg(test)]
pub(crate) mod testing;
mod thread;
pub mod trace;

pub(crate) use foreturn_kernels as kernels;

pub use chat::{ChatModel, Message, Role};
pub use config::Config;
pub use decode::{GenerateOptions, SamplingOptions};
pub use engine::{Engine, Limits, Prompt, RankOptions};
pub use error::{Error, ErrorKind, Result};
pub use export::ExportOptions;
pub use rank::{RankRequest, Ranking};
pub use reward::Metric;
pub use rollout::Goal;
