//! Nor does a `config.json`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| foreturn::export::fuzz::config(data));
