//! A user's rubric is read or refused.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| drop(text.parse::<foreturn::reward::Rubric>()));
