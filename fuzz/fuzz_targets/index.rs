//! The index of a checkpoint of several files leads to files of its folder alone.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let names = ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    foreturn::export::fuzz::index(foreturn_fuzz::with(&names, data));
});
