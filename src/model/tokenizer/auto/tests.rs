//! Replays `tests/fixtures/tokenizer-classes`, which `tests/reference/make_tokenizer_class_fixtures.py` records with
//! AutoTokenizer of both versions.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::ErrorKind;
use crate::model::tokenizer::Tokenizer;
use crate::model::tokenizer::template::ChatTemplate;

#[derive(Deserialize)]
struct Recorded {
    texts: Vec<String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    kind: String,
    change: Map<String, Value>,
    files: BTreeMap<String, Value>,
    /// The exception, where transformers can't read the folder either.
    refused: Option<String>,
    #[serde(default)]
    tokens: Vec<Vec<u32>>,
    #[serde(default)]
    alone: Vec<u32>,
    pair: Option<Vec<u32>>,
    #[serde(default)]
    named: BTreeMap<String, String>,
}

fn fixture<T: for<'a> Deserialize<'a>>(name: &str) -> T {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer-classes");
    serde_json::from_slice(&fs::read(folder.join(name)).unwrap()).unwrap()
}

fn folder(tokenizer: &Value, files: &BTreeMap<String, Value>) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &Value| fs::write(folder.path().join(name), content.to_string()).unwrap();
    write("tokenizer.json", tokenizer);
    files.iter().for_each(|(name, content)| write(name, content));
    folder
}

/// What differs from transformers; empty where nothing does.
fn differences(case: &Case, texts: &[String], tokenizer: &Tokenizer) -> Vec<String> {
    let mut found = Vec::new();
    for (text, expected) in texts.iter().zip(&case.tokens) {
        let tokens = tokenizer.encode(text).unwrap();
        if tokens != *expected {
            found.push(format!("{text:?} gives {tokens:?}, not {expected:?}"));
        }
    }
    let (a, b) = (tokenizer.encode("a").unwrap(), tokenizer.encode("b").unwrap());
    let around = tokenizer.around().unwrap();
    let pair = case.pair.as_ref().map(|pair| (around.put(&a, Some(&b)), pair));
    for (text, expected) in [(around.put(&a, None), &case.alone)].into_iter().chain(pair) {
        if text.tokens != *expected {
            found.push(format!("around: {:?}, not {expected:?}", text.tokens));
        }
    }
    let named = tokenizer.named.iter().filter_map(|(role, text)| Some((role.clone(), text.as_str()?.to_owned())));
    let named: BTreeMap<String, String> = named.collect();
    if named != case.named {
        found.push(format!("names {named:?}, not {:?}", case.named));
    }
    found
}

fn replay(name: &str, least: usize) {
    let kinds: BTreeMap<String, Value> = fixture("kinds.json");
    let Recorded { texts, cases } = fixture(name);
    let (mut equal, mut wrong) = (0, Vec::new());
    for (index, case) in cases.iter().enumerate().filter(|(_, case)| case.refused.is_none()) {
        let mut tokenizer = kinds[&case.kind].clone();
        tokenizer.as_object_mut().unwrap().extend(case.change.clone());
        let folder = folder(&tokenizer, &case.files);
        match Tokenizer::load(folder.path(), 100_000) {
            Ok(tokenizer) => {
                let found = differences(case, &texts, &tokenizer);
                equal += usize::from(found.is_empty());
                wrong.extend(found.into_iter().map(|found| format!("{name}, case {index}, {}: {found}", case.kind)));
            }
            // Refusing by name is right where the rule isn't known.
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unsupported, "{name}, case {index}: {error}");
                assert!(error.to_string().contains("of transformers"), "{name}, case {index}: {error}");
            }
        }
    }
    let shown: Vec<&String> = wrong.iter().take(20).collect();
    assert!(wrong.is_empty(), "{} differ, {equal} are equal: {shown:#?}", wrong.len());
    assert!(equal >= least, "only {equal} of {} cases were compared", cases.len());
}

#[test]
fn version_4_is_followed() {
    replay("transformers-4.json", 300);
}

#[test]
fn version_5_is_followed() {
    replay("transformers-5.json", 250);
}

#[derive(Deserialize)]
struct Templates {
    config: Value,
    files: BTreeMap<String, String>,
    templates: BTreeMap<String, String>,
}

#[test]
fn chat_templates_are_taken_from_where_transformers_takes_them() {
    let tokenizer = &fixture::<BTreeMap<String, Value>>("kinds.json")["bytes"];
    for name in ["templates-4.json", "templates-5.json"] {
        let cases: Vec<Templates> = fixture(name);
        assert_eq!(cases.len(), 48);
        for case in cases {
            let folder =
                folder(tokenizer, &BTreeMap::from([("tokenizer_config.json".to_owned(), case.config.clone())]));
            fs::create_dir(folder.path().join("additional_chat_templates")).unwrap();
            for (name, source) in &case.files {
                fs::write(folder.path().join(name), source).unwrap();
            }
            let read = Tokenizer::load(folder.path(), 100_000).unwrap();
            let source = |template: &crate::Result<_>| ChatTemplate::source(template.as_ref().unwrap()).to_owned();
            let read: BTreeMap<String, String> =
                read.templates.iter().map(|(name, template)| (name.clone(), source(template))).collect();
            assert_eq!(read, case.templates, "{name}: {}, {:?}", case.config, case.files);
        }
    }
}

#[test]
fn every_class_is_in_the_documentation() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tokenizers.md");
    let text = fs::read_to_string(path).unwrap();
    for class in super::class::names() {
        assert!(class == "PreTrainedTokenizer" || text.contains(&format!("`{class}`")), "{class} isn't documented");
    }
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let kinds: BTreeMap<String, Value> = fixture("kinds.json");
    let refused = |config: Value| {
        let files = BTreeMap::from([("tokenizer_config.json".to_owned(), config)]);
        let error = Tokenizer::load(folder(&kinds["bytes"], &files).path(), 1000).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        error.to_string()
    };
    for class in ["WhisperTokenizer", "NllbTokenizerFast", "ByT5Tokenizer"] {
        let error = refused(json!({"tokenizer_class": class}));
        let expected = format!("tokenizer class {} of transformers 4.57", class.trim_end_matches("Fast"));
        assert!(error.contains(&expected) && error.contains("PreTrainedTokenizerFast"), "{error}");
    }
    let error = refused(json!({"tokenizer_class": "CamembertTokenizer", "transformers_version": "5.2.0"}));
    assert!(error.contains("CamembertTokenizer of transformers 5"), "{error}");
    let error =
        refused(json!({"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.OwnTokenizer", null]}}));
    assert!(error.contains("OwnTokenizer is code that comes with the model"), "{error}");
    let error = refused(json!({"tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": "yes"}));
    assert!(error.contains("`add_prefix_space` of tokenizer_config.json is \"yes\""), "{error}");
    let error = refused(json!({"tokenizer_class": "BertTokenizer", "backend": "tokenizers"}));
    assert!(error.contains("it is built from WordPiece, but `model` is BPE"), "{error}");
}

#[test]
fn a_token_that_the_class_would_lose_is_refused() {
    let mut tokenizer: Value = fixture::<BTreeMap<String, Value>>("kinds.json")["word-piece"].clone();
    tokenizer["added_tokens"] = json!([{"id": 16, "content": "<Think>", "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": true, "special": false}]);
    let load = |lower: bool| {
        let config = json!({"tokenizer_class": "BertTokenizer", "do_lower_case": lower});
        let files = BTreeMap::from([("tokenizer_config.json".to_owned(), config)]);
        Tokenizer::load(folder(&tokenizer, &files).path(), 1000)
    };
    load(true).unwrap();
    let error = load(false).unwrap_err();
    assert!(error.to_string().contains("the added token \"<Think>\" is to be found in normalized text"), "{error}");
}
