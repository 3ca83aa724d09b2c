//! The arithmetic of the CPU: what ONNX Runtime lacks, or does too slowly, written for the processor's widest registers.
//!
//! [`simd`] has the lanes that everything here is written with, [`dot`] the products of bytes, [`pairs`] those of bfloat16,
//! [`rounding`] what turns floats into bytes, [`softmax`] the scans over a row of logits, and [`finite`] the search for
//! weights that are not numbers. [`attention`] and [`matmul`] are operators of ONNX Runtime. Rewritten graphs call them
//! under [`attention::DOMAIN`]. Nothing here knows models, tokens or sessions.
//!
//! Every kernel runs with AVX-512, with AVX2 and FMA, or in plain Rust, and chooses when it runs. All of them do the same
//! operations in the same order, so they give the same bits. ([`pairs`] says where those of bfloat16 don't.)
//!
//! This is a crate of its own because it has to be optimised in every profile: unoptimised, a test on a real model takes
//! minutes. The rest of the library can stay unoptimised in tests. The crate is a part of `foreturn` all the same, and
//! promises nothing to others.
#![allow(missing_docs, reason = "nobody but foreturn uses it")]
#![allow(rustdoc::private_intra_doc_links, reason = "its readers have the source")]
#![allow(clippy::missing_safety_doc, reason = "a trait says once what holds for all of its functions")]

pub mod attention;
pub mod dot;
pub mod finite;
pub mod matmul;
pub mod operator;
pub mod pairs;
pub mod rounding;
pub mod simd;
pub mod softmax;

use std::sync::Arc;

use ort::operator::OperatorDomain;

use self::attention::PagedAttention;
use self::attention::layout::Stored;
use self::matmul::{Matrices, PackedMatMul};

/// The operators of a rewritten graph, over caches of `cache` and these weights.
///
/// # Errors
/// ONNX Runtime refuses them.
pub fn operators(cache: Stored, matrices: Matrices) -> ort::Result<OperatorDomain> {
    OperatorDomain::new(attention::DOMAIN)?.add(PagedAttention(cache))?.add(PackedMatMul(Arc::new(matrices)))
}

/// Packing weights failed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The system gave no memory.
    #[error("cannot get {bytes} bytes of memory for the weights: {source}")]
    Memory {
        /// What was asked for.
        bytes: usize,
        /// What the system said.
        source: std::io::Error,
    },
    /// The system refused a thread.
    #[error("cannot start a thread to pack weights: {0}")]
    Thread(std::io::Error),
}
