//! The ONNX file format: the vendored schema (Apache-2.0, from the `onnx` project) compiled by `build.rs`, and the few
//! helpers that readers and writers of graphs share.

pub(crate) mod nodes;

#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, rustdoc::all)]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
}

pub(crate) use proto::*;
