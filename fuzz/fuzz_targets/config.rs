//! Nor does a `config.json`.
//!
//! Run with `cargo +nightly fuzz run config`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| foreturn::export::fuzz::config(data));
