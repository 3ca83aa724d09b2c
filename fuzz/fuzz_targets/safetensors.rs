//! Nor does a safetensors file.
//!
//! Run with `cargo +nightly fuzz run safetensors`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| foreturn::export::fuzz::safetensors(data));
