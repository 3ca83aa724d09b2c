//! Rebuilt tokenizers against the ones that they were made from, over texts that are hard to split.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use tokenizers::Tokenizer;

use crate::export::checkpoint::Content;
use crate::export::gguf::{Source, parse};
use crate::export::testing::GgufBuilder;

/// The tokenizer that is rebuilt from a file's metadata.
fn rebuilt(data: &[u8]) -> Tokenizer {
    let gguf = parse::parse("m.gguf", data).unwrap();
    let names = crate::export::arch::by_gguf_name("llama").unwrap().1;
    let files = super::files(&Source { label: "m.gguf", gguf: &gguf, names, data }).unwrap();
    let Content::Made(bytes) = &files[0].content else { panic!("it is made from metadata") };
    Tokenizer::from_bytes(bytes).unwrap()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf").join(name)
}

fn texts() -> Vec<String> {
    serde_json::from_slice(&std::fs::read(fixture("texts.json")).unwrap()).unwrap()
}

/// What llama.cpp's converter writes of a `tokenizer.json`. The scores of pieces, which that file lacks, are made so
/// that they say the same as its merges.
fn metadata(file: &Json, pre: Option<&str>) -> Vec<u8> {
    let mut tokens: HashMap<u64, (String, i32)> = HashMap::new();
    for (token, id) in file["model"]["vocab"].as_object().unwrap() {
        let is_byte = pre.is_none() && token.len() == 6 && token.starts_with("<0x");
        // transformers renames this one of Gemma's.
        let (token, kind) = if pre.is_none() && token == "\t" { ("<0x09>", 6) } else { (token.as_str(), 1) };
        tokens.insert(id.as_u64().unwrap(), (token.to_owned(), if is_byte { 6 } else { kind }));
    }
    let mut unknown = None;
    for token in file["added_tokens"].as_array().unwrap() {
        let (id, mut text) = (token["id"].as_u64().unwrap(), token["content"].as_str().unwrap().to_owned());
        if text == "<unk>" {
            unknown = Some(id as u32);
        }
        if pre.is_none() {
            text = text.replace('\u{2581}', " ");
        }
        tokens.insert(id, (text, if token["special"] == true { 3 } else { 4 }));
    }
    let tokens: Vec<(String, i32)> = (0..tokens.len() as u64).map(|id| tokens.remove(&id).unwrap()).collect();
    let pairs = file["model"]["merges"].as_array().unwrap().iter();
    let pairs: Vec<(String, String)> = pairs
        .map(|pair| match pair.as_str() {
            Some(pair) => pair.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap(),
            None => (pair[0].as_str().unwrap().to_owned(), pair[1].as_str().unwrap().to_owned()),
        })
        .collect();

    let mut builder = GgufBuilder::default();
    let texts: Vec<&str> = tokens.iter().map(|(token, _)| token.as_str()).collect();
    let kinds: Vec<i32> = tokens.iter().map(|(_, kind)| *kind).collect();
    builder.texts("tokenizer.ggml.tokens", &texts).ints("tokenizer.ggml.token_type", &kinds);
    if let Some(id) = unknown {
        builder.uint("tokenizer.ggml.unknown_token_id", id);
    }
    if let Some(pre) = pre {
        let pairs: Vec<String> = pairs.iter().map(|(left, right)| format!("{left} {right}")).collect();
        let pairs: Vec<&str> = pairs.iter().map(String::as_str).collect();
        builder.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", pre);
        builder.texts("tokenizer.ggml.merges", &pairs);
    } else {
        let mut rank: HashMap<String, f32> = HashMap::new();
        for (index, (left, right)) in pairs.iter().enumerate() {
            rank.entry(format!("{left}{right}")).or_insert(-(index as f32));
        }
        let scores: Vec<f32> = texts.iter().map(|token| rank.get(*token).copied().unwrap_or(-1e9)).collect();
        builder.text("tokenizer.ggml.model", "llama").floats("tokenizer.ggml.scores", &scores);
        builder.flag("tokenizer.ggml.add_space_prefix", file["normalizer"]["type"] == "Sequence");
    }
    builder.flag("tokenizer.ggml.add_bos_token", false).build()
}

/// `tests/reference/make_gguf_pieces.py` trains the models and has transformers convert and use them.
#[test]
fn sentencepiece_models_give_the_tokens_of_sentencepiece() {
    for name in ["llama", "gemma"] {
        let ours = rebuilt(&std::fs::read(fixture(&format!("pieces-{name}.gguf"))).unwrap());
        let cases: Vec<Json> =
            serde_json::from_slice(&std::fs::read(fixture(&format!("pieces-{name}.json"))).unwrap()).unwrap();
        for case in cases {
            let text = case["text"].as_str().unwrap();
            let found = ours.encode(text, false).unwrap();
            assert_eq!(
                serde_json::json!(found.get_ids()),
                case["tokens"],
                "{name}: {text:?}: {:?}",
                found.get_tokens()
            );
            assert_eq!(ours.decode(found.get_ids(), false).unwrap(), case["decoded"].as_str().unwrap(), "{name}");
        }
    }
}

/// The file of a published tokenizer; none, with a word about it, where it was not fetched. CI may not do without.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn published(family: &str) -> Option<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/downloads/tokenizers");
    let path = path.join(family).join("tokenizer.json");
    if !path.exists() {
        let hint = format!("{} is missing: run `python3 tools/fetch.py tokenizers` (needs npm)", path.display());
        assert!(std::env::var_os("CI").is_none(), "{hint}");
        eprintln!("skipped: {hint}");
        return None;
    }
    Some(std::fs::read(&path).unwrap())
}

#[test]
fn published_tokenizers_survive_the_way_through_gguf() {
    for (family, pre) in [
        ("llama2", None),
        ("gemma3", None),
        ("llama3_2", Some("llama-bpe")),
        ("qwen2_5", Some("qwen2")),
        ("mistral_nemo", Some("tekken")),
    ] {
        let Some(bytes) = published(family) else { continue };
        let original = Tokenizer::from_bytes(&bytes).unwrap();
        let ours = rebuilt(&metadata(&serde_json::from_slice(&bytes).unwrap(), pre));
        for text in texts() {
            let (expected, found) = (original.encode(&*text, false).unwrap(), ours.encode(&*text, false).unwrap());
            let both = (found.get_tokens(), expected.get_tokens());
            assert_eq!(found.get_ids(), expected.get_ids(), "{family}: {text:?}: {both:?}");
            assert_eq!(
                ours.decode(found.get_ids(), false).unwrap(),
                original.decode(expected.get_ids(), false).unwrap(),
                "{family}"
            );
        }
    }
}
