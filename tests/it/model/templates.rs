//! Published tokenizers and chat templates against what transformers makes of them
//! (`tests/reference/make_template_fixtures.py`).
//!
//! The tokenizers are fetched (`python3 tools/fetch.py tokenizers`), for they are big and have licences of their own.

use crate::common;
use std::path::Path;

use foreturn::chat::Message;
use foreturn::model::tokenizer::{Compat, RenderOptions, Tokenizer};
use serde::Deserialize;
use serde_json::{Map, Value};

const FAMILIES: [&str; 6] = ["deepseek_v3", "gemma3", "llama3_2", "mistral_nemo", "qwen2_5", "qwen3"];

#[derive(Deserialize)]
struct Fixture {
    vocab_size: usize,
    date: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    messages: Vec<Message>,
    add_generation_prompt: bool,
    #[serde(default)]
    arguments: Map<String, Value>,
    /// Whether content spells control tokens or is rewritten: then only transformers' own way gives its tokens.
    #[serde(default)]
    adversarial: bool,
    text: Option<String>,
    tokens: Option<Vec<u32>>,
    error: Option<String>,
}

fn check(family: &str, tokenizer: &Tokenizer, fixture: &Fixture) {
    let date = fixture.date.parse().expect("a date");
    for (index, case) in fixture.cases.iter().enumerate() {
        let at = format!("{family}, case {index}");
        let options = RenderOptions {
            add_generation_prompt: case.add_generation_prompt,
            arguments: case.arguments.clone(),
            date: Some(date),
            compat: Compat::Transformers,
            ..RenderOptions::default()
        };
        let rendered = tokenizer.render(&case.messages, &options);
        if let Some(expected) = &case.error {
            let error = rendered.expect_err(&at).to_string();
            assert!(error.ends_with(expected.as_str()), "{at}: {error}");
            continue;
        }
        assert_eq!(rendered.as_ref().ok(), case.text.as_ref(), "{at}: {rendered:?}");
        let tokens = case.tokens.as_ref().expect("tokens of a text");
        assert_eq!(&tokenizer.encode_chat(&case.messages, &options).unwrap().tokens, tokens, "{at}");
        if !case.adversarial {
            let safe = RenderOptions { compat: Compat::Safe, ..options };
            assert_eq!(&tokenizer.encode_chat(&case.messages, &safe).unwrap().tokens, tokens, "{at}, safely");
        }
    }
}

#[test]
fn published_templates_render_as_in_transformers() {
    for family in FAMILIES {
        let remedy = "run `python3 tools/fetch.py tokenizers` (needs npm)";
        let Some(folder) = common::optional(&format!("tokenizers/{family}"), remedy) else { continue };
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/templates/{family}.json"));
        let fixture: Fixture = serde_json::from_slice(&std::fs::read(fixture).unwrap()).unwrap();
        let tokenizer = Tokenizer::load(&folder, fixture.vocab_size).unwrap_or_else(|e| panic!("{family}: {e}"));
        check(family, &tokenizer, &fixture);
    }
}
