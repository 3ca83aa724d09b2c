//! Writes a decoder's graph in the GroupQueryAttention layout of onnxruntime-genai.
//!
//! Tensor and node names are onnxruntime-genai's where it has them; weights keep the names of the checkpoint, so that
//! a later checkpoint can be put in their place.

mod attention;
mod builder;
mod decoder;
mod quantized;

pub(super) use self::builder::{Builder, Form, Graph, Linear, Packing, Size, Weight};
pub(super) use self::decoder::build;
