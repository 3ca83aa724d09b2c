//! One foreturn engine for many: a server over HTTP, on the library's public interface.
//!
//! A request is a future that waits for the engine's answer; no thread waits with it. A caller that hangs up drops its
//! future, which cancels the request. docs/server.md describes the routes.

#![forbid(unsafe_code)]

mod address;
mod app;
mod asked;
mod bodies;
mod calls;
mod connection;
mod failure;
mod heads;
mod keys;
mod log;
mod openai;
mod openapi;
mod rankings;
mod routes;
mod run;
mod stream;
mod tei;
mod tls;
mod trainers;
mod vllm;

pub(crate) use log::say;

pub use address::Address;
pub use openapi::openapi;
pub use run::{Options, serve};
pub use tls::TlsFiles;
