//! The command, and what it does with models that are remote, that give scores, or that it compares, in one program, so
//! that the library is linked once. `cargo test --test cli remote::` runs one module.
//!
//! A test that needs a process of its own is a program of its own: see `telemetry.rs`.

#[path = "../../../tests/common/mod.rs"]
mod common;

mod bench;
mod commands;
mod compare;
mod evaluations;
mod load;
mod remote;
mod report;
mod runs;
mod score;
mod sweep;
mod threads;
