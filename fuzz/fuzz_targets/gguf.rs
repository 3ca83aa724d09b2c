//! A GGUF file never makes the exporter panic, read out of bounds or allocate beyond the file's size.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| foreturn::export::fuzz::gguf(data));
