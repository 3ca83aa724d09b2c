//! The library as its users see it, in one program, so that the library is linked once. The modules mirror `src/`:
//! `cargo test --test it rank::` runs those of `src/rank`.
//!
//! Tests that load the real model take turns (`common::fresh`, `common::turn`), because each engine holds a copy of the
//! weights. A test that needs a process of its own is a program of its own: see `sandbox.rs` and `contributing.rs`.

#[path = "../common/mod.rs"]
mod common;

mod config;
mod dataset;
mod engine;
mod evaluate;
mod export {
    mod quantize;
}
mod floors;
mod model {
    mod conformance;
    mod content_safety;
    mod prompts;
    mod templates;
}
mod rank {
    mod collabllm;
    mod ranking;
    pub(crate) mod scripted;
}
mod rollout {
    mod user_lm;
}
mod trace {
    mod lines;
    mod records;
}
