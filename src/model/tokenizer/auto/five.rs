//! How the classes of transformers 5 build a tokenizer: from the vocabulary and the merges of `tokenizer.json` alone.
//!
//! Normalizer, pre-tokenizer and decoder of the file are not used, nor are its added tokens unless they are listed
//! elsewhere; its post-processor is, where the class has none of its own.

use serde_json::{Map, Value, json};

use super::names::Names;
use super::{Settings, around};

/// The classes by what they build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rebuild {
    Bert,
    /// Takes the file as it stands and puts BERT's tokens around texts.
    BertAround,
    MpNet,
    Roberta,
    DebertaV2,
    Albert,
    XlmRoberta,
    Gpt2,
    GptNeoX,
    Qwen2,
    Qwen35,
    Llama,
    Gemma,
    Cohere,
    /// Not known here.
    Refused,
}

const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl Rebuild {
    /// Whether the class adds every named token once more, as one that is found in text as it stands.
    pub(super) fn adds_named_anew(self) -> bool {
        matches!(self, Rebuild::Qwen2 | Rebuild::Qwen35)
    }

    fn model(self) -> &'static str {
        match self {
            Rebuild::Bert | Rebuild::BertAround | Rebuild::MpNet => "WordPiece",
            Rebuild::DebertaV2 | Rebuild::Albert | Rebuild::XlmRoberta => "Unigram",
            _ => "BPE",
        }
    }
}

/// Builds the tokenizer anew.
pub(super) fn rebuild(
    tokenizer: &mut Map<String, Value>,
    names: &Names,
    settings: &Settings<'_>,
    class: Rebuild,
) -> Result<(), String> {
    if class != Rebuild::BertAround {
        let charsmap = charsmap(tokenizer.get("normalizer"));
        let parts = parts(settings, class, charsmap)?;
        for (section, part) in ["normalizer", "pre_tokenizer", "decoder"].into_iter().zip(parts) {
            tokenizer.insert(section.to_owned(), part);
        }
        build_model(tokenizer, names, class)?;
    }
    let (single, pair) = match class {
        Rebuild::Bert | Rebuild::BertAround => {
            ("cls_token=2 A sep_token=3", "cls_token=2 A sep_token=3 B:1 sep_token=3:1")
        }
        Rebuild::DebertaV2 => ("cls_token=0 A sep_token=0", "cls_token=0 A sep_token=0 B:1 sep_token=0:1"),
        Rebuild::Albert => ("cls_token A sep_token", "cls_token A sep_token B:1 sep_token:1"),
        Rebuild::MpNet => ("cls_token=0 A sep_token=2", "cls_token=0 A sep_token=2 sep_token=2 B sep_token=2"),
        Rebuild::Roberta => ("cls_token A sep_token", "cls_token A sep_token sep_token B sep_token"),
        Rebuild::XlmRoberta => ("bos_token A eos_token", "bos_token A eos_token eos_token B eos_token"),
        Rebuild::GptNeoX => ("A", "A B:1"),
        _ => return Ok(()),
    };
    let processor = around(names, tokenizer, single, pair);
    tokenizer.insert("post_processor".to_owned(), processor);
    Ok(())
}

fn sequence(list: &str, kind: &str, steps: Vec<Value>) -> Value {
    json!({"type": kind, list: steps})
}

fn byte_level(prefix: bool, use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": use_regex})
}

fn metaspace(scheme: &str, split: bool) -> Value {
    json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": split})
}

/// Normalizer, pre-tokenizer and decoder.
fn parts(settings: &Settings<'_>, class: Rebuild, charsmap: Option<Value>) -> Result<[Value; 3], String> {
    let prefix =
        |default: bool| Ok::<_, String>(settings.option("add_prefix_space", Some(default))?.unwrap_or(default));
    let nfc = json!({"type": "NFC"});
    let bytes = byte_level(true, true);
    Ok(match class {
        Rebuild::Bert | Rebuild::MpNet => {
            let normalizer = json!({
                "type": "BertNormalizer", "clean_text": true,
                "handle_chinese_chars": settings.flag("tokenize_chinese_chars", true)?,
                "strip_accents": settings.option("strip_accents", None)?,
                "lowercase": settings.flag("do_lower_case", true)?,
            });
            let decoder = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
            [normalizer, json!({"type": "BertPreTokenizer"}), decoder]
        }
        Rebuild::Roberta | Rebuild::Gpt2 => [Value::Null, byte_level(prefix(false)?, true), bytes],
        Rebuild::GptNeoX => [nfc, byte_level(prefix(false)?, true), bytes],
        Rebuild::Cohere => {
            let digits = json!({"type": "Digits", "individual_digits": true});
            let steps = vec![digits, byte_level(prefix(false)?, true)];
            [nfc, sequence("pretokenizers", "Sequence", steps), bytes]
        }
        Rebuild::Qwen2 | Rebuild::Qwen35 => {
            let pattern = if class == Rebuild::Qwen2 { QWEN2 } else { QWEN35 };
            let split =
                json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
            let steps = vec![split, byte_level(prefix(false)?, false)];
            [nfc, sequence("pretokenizers", "Sequence", steps), bytes]
        }
        Rebuild::Llama => {
            let scheme = match (prefix(true)?, settings.option("legacy", Some(false))?.unwrap_or(false)) {
                (false, _) => "never",
                (true, true) => "always",
                (true, false) => "first",
            };
            [Value::Null, metaspace(scheme, false), sentence_piece_decoder(prefix(true)?)]
        }
        Rebuild::Gemma => {
            let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
            let split =
                json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false});
            [replace, split, sentence_piece_decoder(false)]
        }
        Rebuild::XlmRoberta => {
            let space = metaspace(if prefix(true)? { "always" } else { "never" }, true);
            let steps = vec![json!({"type": "WhitespaceSplit"}), space.clone()];
            [charsmap.unwrap_or_default(), sequence("pretokenizers", "Sequence", steps), space]
        }
        Rebuild::Albert => albert(settings, charsmap, prefix(true)?)?,
        Rebuild::DebertaV2 => deberta(settings, prefix(true)?)?,
        Rebuild::BertAround | Rebuild::Refused => [Value::Null, Value::Null, Value::Null],
    })
}

fn sentence_piece_decoder(strip: bool) -> Value {
    let mut steps = vec![
        json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if strip {
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    sequence("decoders", "Sequence", steps)
}

fn albert(settings: &Settings<'_>, charsmap: Option<Value>, prefix: bool) -> Result<[Value; 3], String> {
    let quote = |text: &str| json!({"type": "Replace", "pattern": {"String": text}, "content": "\""});
    let mut steps = vec![quote("``"), quote("''")];
    if !settings.flag("keep_accents", false)? {
        steps.extend([json!({"type": "NFKD"}), json!({"type": "StripAccents"})]);
    }
    if settings.flag("do_lower_case", true)? {
        steps.push(json!({"type": "Lowercase"}));
    }
    steps.extend(charsmap);
    let space = metaspace(if prefix { "always" } else { "never" }, true);
    let before = vec![json!({"type": "WhitespaceSplit"}), space.clone()];
    Ok([sequence("normalizers", "Sequence", steps), sequence("pretokenizers", "Sequence", before), space])
}

fn deberta(settings: &Settings<'_>, prefix: bool) -> Result<[Value; 3], String> {
    let lower = settings.flag("do_lower_case", false)?.then(|| json!({"type": "Lowercase"}));
    let others = [
        json!({"type": "Replace", "pattern": {"Regex": r"\s{2,}|[\n\r\t]"}, "content": " "}),
        json!({"type": "NFC"}),
        json!({"type": "Strip", "strip_left": false, "strip_right": true}),
    ];
    let space = metaspace(if prefix { "always" } else { "first" }, true);
    let split = settings.flag("split_by_punct", false)?;
    let split = split.then(|| json!({"type": "Punctuation", "behavior": "Isolated"}));
    let normalizers = lower.into_iter().chain(others).collect();
    let before = split.into_iter().chain([space.clone()]).collect();
    Ok([sequence("normalizers", "Sequence", normalizers), sequence("pretokenizers", "Sequence", before), space])
}

/// The table of characters that SentencePiece compiled, if the file's normalizer has one.
fn charsmap(normalizer: Option<&Value>) -> Option<Value> {
    let normalizer = normalizer?;
    let steps = normalizer.get("normalizers").and_then(Value::as_array);
    let steps = steps.map_or(std::slice::from_ref(normalizer), Vec::as_slice);
    steps.iter().find(|step| step.get("type").is_some_and(|kind| kind == "Precompiled")).cloned()
}

/// Keeps the vocabulary and the merges; everything else of the model is the class's.
fn build_model(tokenizer: &mut Map<String, Value>, names: &Names, class: Rebuild) -> Result<(), String> {
    let model = tokenizer.get_mut("model").and_then(Value::as_object_mut).ok_or("`model` is not an object")?;
    let kind = model.get("type").and_then(Value::as_str).unwrap_or("BPE").to_owned();
    let wanted = class.model();
    if kind != wanted {
        return Err(format!(
            "it is built from {wanted}, but `model` is {kind}. Set `tokenizer_class` to TokenizersBackend"
        ));
    }
    let vocab = model.remove("vocab").unwrap_or_default();
    let unknown = names.text("unk_token");
    *model = match wanted {
        "WordPiece" => json!({"type": wanted, "unk_token": unknown, "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab}),
        "Unigram" => {
            let is_unknown = |piece: &Value| {
                piece.get(0).and_then(Value::as_str) == unknown && piece.get(1).and_then(Value::as_f64) == Some(0.0)
            };
            let place = vocab.as_array().and_then(|pieces| pieces.iter().position(is_unknown));
            let id = match class {
                Rebuild::XlmRoberta => 3,
                Rebuild::DebertaV2 => place.unwrap_or(1),
                _ => 1,
            };
            json!({"type": wanted, "unk_id": id, "byte_fallback": false, "vocab": vocab})
        }
        _ => {
            let merges = model.remove("merges").unwrap_or_default();
            let pieces = matches!(class, Rebuild::Llama | Rebuild::Gemma);
            let affix = if pieces { Value::Null } else { "".into() };
            json!({"type": wanted, "dropout": null, "unk_token": unknown.filter(|_| class == Rebuild::Gemma),
                "continuing_subword_prefix": affix, "end_of_word_suffix": affix, "fuse_unk": pieces,
                "byte_fallback": pieces, "ignore_merges": false, "vocab": vocab, "merges": merges})
        }
    }
    .as_object()
    .cloned()
    .unwrap_or_default();
    Ok(())
}
