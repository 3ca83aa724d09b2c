//! Requests and conversations are read or refused, and what was read can be written and read again.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    drop(text.parse::<foreturn::RankRequest>());
    drop(text.parse::<foreturn::chat::Conversations>());
    if let Ok(messages) = foreturn::chat::parse_messages(text) {
        let again = serde_json::to_string(&messages).expect("JSON");
        assert_eq!(foreturn::chat::parse_messages(&again).expect("what was written"), messages);
    }
});
