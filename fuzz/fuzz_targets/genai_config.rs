//! The configuration of a model folder is read or refused.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let names = ["genai_config.json", "config.json", "generation_config.json"];
    foreturn::model::fuzz::configuration(foreturn_fuzz::with(&names, data));
});
