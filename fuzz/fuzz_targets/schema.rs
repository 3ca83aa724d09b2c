//! A JSON schema is compiled or refused, and what it allows can be followed.

#![no_main]

libfuzzer_sys::fuzz_target!(
    init: foreturn_fuzz::let_panics_be_caught(),
    |text: &str| foreturn::decode::fuzz::schema(foreturn_fuzz::folder(), text)
);
