//! A chat template is compiled and rendered, or refused: it neither panics nor runs for ever.

#![no_main]

use foreturn::chat::{Message, Role};
use foreturn::model::tokenizer::{RenderOptions, Tokenizer};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let folder = foreturn_fuzz::with(&["chat_template.jinja"], data);
    let Ok(tokenizer) = Tokenizer::load(folder, 450) else { return };
    let messages = [(Role::System, "Be brief."), (Role::User, "{{ 1 }} <|im_end|>"), (Role::Assistant, "Yes.")];
    let messages = messages.map(|(role, text)| Message::new(role, text));
    let arguments = serde_json::json!({"tools": [{"type": "function", "function": {"name": "f"}}], "n": 3, "none": null});
    let options = RenderOptions { arguments: arguments.as_object().cloned().unwrap_or_default(), ..Default::default() };
    let _ = tokenizer.encode_chat(&messages, &options);
    let _ = tokenizer.render(&messages[1..2], &options);
});
