//! Nor does a safetensors file.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| foreturn::export::fuzz::safetensors(data));
