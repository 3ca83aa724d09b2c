//! Whatever an endpoint replies, it is a reply or an error that tells neither the key nor a terminal anything.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| foreturn::chat::fuzz::reply(data));
