//! Small tokenizer files that would cost much: refused with field and value, or harmless.

use std::time::{Duration, Instant};

use super::*;

fn replace(pattern: &str, content: &str) -> Value {
    json!({"type": "Replace", "pattern": {"String": pattern}, "content": content})
}

fn split(regex: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false})
}

fn charsmap(base64: &str) -> Value {
    json!({"normalizer": {"type": "Precompiled", "precompiled_charsmap": base64}})
}

fn normalizers(steps: Vec<Value>) -> Value {
    json!({"normalizer": {"type": "Sequence", "normalizers": steps}})
}

fn unigram(vocab: Value, unk_id: Value) -> Value {
    json!({"model": {"type": "Unigram", "unk_id": unk_id, "vocab": vocab, "byte_fallback": false}})
}

fn token(id: usize, content: &str) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})
}

/// Sequences within sequences.
fn nested(levels: usize) -> Value {
    let mut part = json!({"type": "Sequence", "pretokenizers": []});
    for _ in 0..levels {
        part = json!({"type": "Sequence", "pretokenizers": [part]});
    }
    json!({"pre_tokenizer": part})
}

/// The fixture's tokenizer with other sections.
fn changed(change: &Value) -> TempDir {
    let folder = folder("bytes", &json!({"eos_token": "<|im_end|>"}));
    let path = folder.path().join("tokenizer.json");
    let mut file: Map<String, Value> = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    file.extend(change.as_object().unwrap().clone());
    fs::write(path, Value::Object(file).to_string()).unwrap();
    folder
}

/// Loads, encodes and decodes; neither may take long.
fn used(folder: &Path) -> Result<()> {
    let start = Instant::now();
    let result = Tokenizer::load(folder, 200_000).and_then(|tokenizer| {
        let ids = tokenizer.encode_text("hello foo ooo world <|im_end|> 世")?;
        tokenizer.encode_with_special("hello", None)?;
        tokenizer.decode(&ids, true).map(drop)
    });
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    result
}

#[test]
fn bombs_are_refused_with_field_and_value() {
    let long = |list: usize| json!({"id": "X", "ids": vec![1; list], "tokens": vec!["x"; list]});
    let around = |list| json!({"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "X", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {"X": long(list)}}});
    let many: Vec<Value> = (0..120_000).map(|id| token(1000 + id, &format!("<t{id}>"))).collect();
    let word = json!({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "", "max_input_chars_per_word": 100_000_000, "vocab": {"[UNK]": 0}});
    let blow = json!({"type": "Replace", "pattern": {"Regex": "(.)"}, "content": "x".repeat(800)});
    for (change, expected) in [
        (normalizers(vec![replace("o", "oo"); 34]), "`normalizer.normalizers[6]` makes a text grow 128 times"),
        (
            normalizers(vec![replace("o", &"o".repeat(10_000)); 3]),
            "`normalizer.normalizers[0].content` is a text of 10000 bytes",
        ),
        (normalizers(vec![replace("", "oo")]), "`normalizer.normalizers[0].pattern` is empty"),
        (normalizers(vec![json!({"type": "NFC"}); 100]), "is step 65 of its section"),
        (
            normalizers(vec![json!({"type": "Prepend", "prepend": "o".repeat(5_000)})]),
            "prepend` is a text of 5000 bytes",
        ),
        (
            json!({"pre_tokenizer": split("(((a{100}){100}){100}){100}")}),
            "`pre_tokenizer.pattern` is a pattern that repeats a part 100000000 times",
        ),
        (json!({"pre_tokenizer": split(r"(?:\p{L}{1000}){1000}(?=x)")}), "repeats a part 1000000 times"),
        (
            json!({"pre_tokenizer": split(&format!("{}a{}", "(".repeat(20_000), ")".repeat(20_000)))}),
            "`pre_tokenizer.pattern` is 40001 bytes long",
        ),
        (
            json!({"pre_tokenizer": split(&format!("{}a{}", "(?=".repeat(2_000), ")".repeat(2_000)))}),
            "nested 2000 groups deep",
        ),
        (json!({"pre_tokenizer": split(&vec!["(?=a)b"; 100_000].join("|"))}), "is 699999 bytes long"),
        (nested(50), "is nested 9 deep"),
        (json!({"added_tokens": many}), "`added_tokens` is a list of 120000"),
        (json!({"added_tokens": [token(4_000_000_000, "<x>")]}), "`added_tokens[0].id` is 4000000000"),
        (json!({"added_tokens": [token(5, &"x".repeat(5_000))]}), "`added_tokens[0].content` is 5000 bytes long"),
        (around(3_000_000), r#"`post_processor.special_tokens["X"].ids` is a list of 3000000"#),
        (
            json!({"decoder": {"type": "Strip", "content": "a", "start": 4_000_000_000_u32, "stop": 4_000_000_000_u32}}),
            "`decoder.start` is 4000000000",
        ),
        (
            json!({"decoder": {"type": "Sequence", "decoders": vec![blow; 5]}}),
            "`decoder.decoders[0]` makes a text grow 801 times",
        ),
        (charsmap("/////w=="), "says that its table has 4294967295 bytes, but 0 follow"),
        (charsmap("/w"), "its length alone takes 4"),
        (charsmap("!"), "is not base64"),
        // A table of one unit, then 100 letters that a character would become.
        (charsmap(&format!("BAAAAAAAAAA{}", "YWFh".repeat(40))), "bytes of a character"),
        (json!({"model": word}), "`model.max_input_chars_per_word` is 100000000"),
        (json!({"model": {"type": "BPE", "dropout": 0.1, "vocab": {"a": 0}, "merges": []}}), "`model.dropout` is 0.1"),
        (
            json!({"model": {"type": "BPE", "vocab": {"a": 4_000_000_000_u32}, "merges": []}}),
            r#"`model.vocab["a"]` is 4000000000"#,
        ),
        (
            unigram(json!([["<unk>", 0.0], ["a", -1e308], ["aa", 1e308], ["", 5.0]]), json!(0)),
            "`model.vocab[1]` is scored",
        ),
        (unigram(json!([["a", 0.0]]), json!(9999)), "is not a tokenizer"),
    ] {
        let error = used(changed(&change).path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidModel, "{error}");
        assert!(error.to_string().contains(expected) && error.to_string().len() < 1_000, "{expected}: {error}");
        assert!(error.to_string().contains("tokenizer.json"), "{error}");
    }
}

#[test]
fn what_only_looks_like_a_bomb_is_read() {
    let good = |change: Value| used(changed(&change).path()).unwrap();
    good(json!({"pre_tokenizer": split(r"(o+)+$|(l+)*\1z|(.*)(.*)(.*)(.*)(.*)\2Q")}));
    good(json!({"pre_tokenizer": {"type": "Sequence", "pretokenizers": vec![split("(?=(.+)+)(?=(.+)+Z)"); 50]}}));
    good(json!({"truncation": {"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 5}}));
    let pad = |strategy: Value| json!({"padding": {"strategy": strategy, "direction": "Right", "pad_to_multiple_of": 0, "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}});
    good(pad(json!({"Fixed": 4_000_000_000_u32})));
    good(pad(json!("BatchLongest")));
    let runs: Vec<Value> = (1..300).map(|length| json!(["a".repeat(length), -1.0])).collect();
    good(unigram([vec![json!(["<unk>", 0.0])], runs].concat().into(), json!(0)));
    let empty = json!({"id": 310, "content": "", "single_word": false, "lstrip": true, "rstrip": true, "normalized": true, "special": true});
    good(json!({"added_tokens": [empty]}));
}

#[test]
fn many_added_tokens_take_no_more_than_their_number() {
    let list: Vec<Value> = (0..20_000).map(|id| token(1000 + id, &format!("<t{id}>"))).collect();
    let folder = changed(&json!({"added_tokens": list}));
    let decoder: Map<String, Value> =
        (0..20_000).map(|id| (format!("{}", 50_000 + id), token(0, &format!("<u{id}>")))).collect();
    let config = json!({"tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": decoder});
    fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    used(folder.path()).unwrap();
}

#[test]
fn panics_of_the_library_are_errors() {
    for table in ["BAAAAAAAAAAAAAAA", "CAAAAP//////////YWJj"] {
        let error = used(changed(&charsmap(table)).path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidModel, "{error}");
        assert!(error.to_string().contains("the tokenizers library panicked"), "{error}");
    }
    let strip = json!({"decoder": {"type": "Strip", "content": "a", "start": 0, "stop": 5}});
    let tokenizer = Tokenizer::load(changed(&strip).path(), 1000).unwrap();
    let ids = tokenizer.encode("a").unwrap();
    assert!(tokenizer.decode(&ids, false).unwrap_err().to_string().contains("panicked"));
}
