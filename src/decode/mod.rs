//! Tokens in, tokens out: `Decoder` batches sequences over one loaded model.
//!
//! A step runs one session over the concatenation of all tokens that are due: prompt chunks of some sequences, and one
//! token of each of the others, without padding. Keys and values lie in blocks, and each sequence has a table of its
//! blocks. A fork shares blocks and copies fewer rows than a block has.
//!
//! `scheduler` decides by each sequence's `urgency` which tokens the next step computes, and `cache` which blocks hold
//! them. An `executor` runs the step in ONNX Runtime. Each sequence's `reader` says what comes after its logits, within
//! what a `constraint` allows.

pub(crate) mod cache;
pub(crate) mod constraint;
mod decoder;
pub(crate) mod executor;
#[cfg(fuzzing)]
pub mod fuzz;
pub(crate) mod reader;
pub(crate) mod rope;
#[cfg(feature = "internals")]
pub mod sampler;
#[cfg(not(feature = "internals"))]
pub(crate) mod sampler;
pub(crate) mod scheduler;
#[cfg(feature = "internals")]
pub mod stop;
#[cfg(not(feature = "internals"))]
pub(crate) mod stop;
pub(crate) mod urgency;

pub use decoder::DecoderStats;
internal! { decoder::DecodeOptions }
pub(crate) use decoder::{Decoder, Loaded, check_prompt};
pub use reader::{GenerateOptions, OnText};
pub use sampler::SamplingOptions;
