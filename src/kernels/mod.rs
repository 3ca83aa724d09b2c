//! The arithmetic of the CPU: what ONNX Runtime lacks, or does too slowly, written for the processor's widest registers.
//!
//! `simd` has the lanes that everything here is written with, `dot` the products of bytes, `rounding` what makes bytes of
//! floats, and `softmax` the scans over a row of logits. [`attention`] and [`matmul`] are operators of ONNX Runtime, which
//! rewritten graphs call under [`attention::DOMAIN`]. Nothing here knows models, tokens or sessions.

pub(crate) mod attention;
pub(crate) mod dot;
pub(crate) mod matmul;
pub(crate) mod rounding;
pub(crate) mod simd;
pub(crate) mod softmax;

use std::sync::Arc;

use ort::operator::OperatorDomain;

use self::attention::PagedAttention;
use self::attention::form::Stored;
use self::matmul::{Matrices, PackedMatMul};

/// The operators of a rewritten graph, over caches of `cache` and these weights.
///
/// # Errors
/// ONNX Runtime refuses them.
pub(crate) fn operators(cache: Stored, matrices: Matrices) -> ort::Result<OperatorDomain> {
    OperatorDomain::new(attention::DOMAIN)?.add(PagedAttention(cache))?.add(PackedMatMul(Arc::new(matrices)))
}
