//! Tokens in, tokens out: `Decoder` batches sequences over one loaded model.
//!
//! `scheduler` decides which tokens the next step computes, `cache` which blocks hold them, `executor` runs the
//! step in ONNX Runtime with the operators of `attention` and `matmul` (both on the lanes of `simd` and the products of
//! bytes of `dot`, which `rounding` makes), and a sequence's `reader` says what comes after its logits, within what a `constraint` allows.

pub(crate) mod attention;
pub(crate) mod cache;
pub(crate) mod constraint;
mod decoder;
pub(crate) mod dot;
pub(crate) mod executor;
#[cfg(fuzzing)]
pub mod fuzz;
pub(crate) mod matmul;
mod padded;
pub mod reader;
pub(crate) mod rounding;
pub mod sampler;
pub(crate) mod scheduler;
pub(crate) mod simd;
mod softmax;
pub(crate) mod step;
pub mod stop;
pub(crate) mod variant;

pub use decoder::{DecodeOptions, DecoderStats};
pub(crate) use decoder::{Decoder, check_prompt};
pub use reader::GenerateOptions;
pub use sampler::SamplingOptions;
