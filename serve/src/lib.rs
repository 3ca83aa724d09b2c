//! One foreturn engine for many: a server over HTTP, on the library's public interface.
//!
//! A request is a future that waits for the engine's answer; no thread waits with it. A caller that hangs up drops its
//! future, which cancels the request. docs/server.md describes the routes.

#![forbid(unsafe_code)]

mod address;
mod app;
mod asked;
mod calls;
mod failure;
mod keys;
mod openai;
mod rankings;
mod run;
mod stream;
mod trainers;

pub use address::Address;
pub use run::{Options, serve};

/// A line on standard error, whole. Who closed it loses the line, not the server.
#[allow(clippy::print_stderr)]
pub(crate) fn say(line: &str) {
    use std::io::Write as _;
    let _ = std::io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}
