//! Files of a tokenizer make neither reader nor encoder panic, and what was encoded can be decoded.

#![no_main]

libfuzzer_sys::fuzz_target!(init: foreturn_fuzz::let_panics_be_caught(), |data: &[u8]| {
    let folder = foreturn_fuzz::with(&["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"], data);
    let Ok(tokenizer) = foreturn::model::tokenizer::Tokenizer::load(folder, 512) else { return };
    for text in ["Hello, world", "\u{df}\u{1f600} <s>x</s>  \n"] {
        for tokens in [tokenizer.encode(text), tokenizer.encode_text(text)].into_iter().flatten() {
            let _ = tokenizer.decode(&tokens, true);
        }
    }
});
