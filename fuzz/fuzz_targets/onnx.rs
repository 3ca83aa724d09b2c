//! Nor does a graph make the reader of models panic, or allocate beyond what its size explains.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| foreturn::model::fuzz::graph(data));
