//! The C ABI of foreturn. Hosts see `include/foreturn.h`, which is made from this crate (`make header`).
//!
//! ```text
//! C call ─▶ guard (panics, errors) ─▶ handle, arguments (checked) ─▶ foreturn::Engine ─▶ handle of the result
//! ```
//!
//! - `status`, `error`: numbers and objects of failure, and the guard around every function.
//! - `handle`: numbers that hosts hold instead of pointers to our memory. `argument`: checks of what they pass.
//! - `engine`, `rank` and `ranking`, `score`, `generate`, `tokens`, `refresh`, `pending`, `export`, `statistics`, `log`,
//!   `version`: one file for each noun of the header. `metric` and `chat_model`: the host's own, called back. `callback`:
//!   rules for all callbacks.

#![allow(non_camel_case_types, reason = "the names are C's")]
#![allow(clippy::missing_safety_doc, reason = "the header states the rules for all functions and for each")]
#![allow(unreachable_pub, reason = "what is exported is public to C, not to Rust")]

mod argument;
mod callback;
mod chat_model;
mod engine;
mod error;
mod export;
mod failure;
mod generate;
mod handle;
mod log;
mod metric;
mod pending;
mod rank;
mod ranking;
mod refresh;
mod runs;
mod score;
mod statistics;
mod status;
mod string;
mod submit;
mod tokens;
mod version;
