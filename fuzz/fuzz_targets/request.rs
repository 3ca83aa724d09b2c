//! Requests and conversations are read or refused, and what was read can be written and read again.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    drop(foreturn::RankRequest::from_json(text, "request"));
    drop(foreturn::chat::parse_chats(text, "messages"));
    if let Ok(messages) = foreturn::chat::parse_messages(text, "messages") {
        let again = serde_json::to_string(&messages).expect("JSON");
        assert_eq!(foreturn::chat::parse_messages(&again, "messages").expect("what was written"), messages);
    }
});
