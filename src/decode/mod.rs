//! Tokens in, tokens out: `Decoder` batches sequences over one loaded model.
//!
//! A step runs one session over the concatenation of all tokens that are due: prompt chunks of some sequences, one token of
//! each of the others, no padding. Keys and values lie in blocks, and each sequence has a table of its blocks. A fork shares
//! blocks and copies fewer rows than a block has.
//!
//! `scheduler` decides which tokens the next step computes, `cache` which blocks hold them, an `executor` runs the step
//! in ONNX Runtime, and each sequence's `reader` says what comes after its logits, within what a `constraint` allows.

pub(crate) mod cache;
pub(crate) mod constraint;
mod decoder;
pub(crate) mod executor;
#[cfg(fuzzing)]
pub mod fuzz;
pub mod reader;
pub(crate) mod rope;
pub mod sampler;
pub(crate) mod scheduler;
pub mod stop;
pub(crate) mod urgency;

pub use decoder::{DecodeOptions, DecoderStats};
pub(crate) use decoder::{Decoder, check_prompt};
pub use reader::GenerateOptions;
pub use sampler::SamplingOptions;
