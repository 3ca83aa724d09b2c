//! A user's rubric is read or refused.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| drop(foreturn::reward::Rubric::parse(text, "rubric.toml")));
