//! What the classes of transformers 4.57 change in a tokenizer.

use serde_json::{Map, Value, json};
use tokenizers::{NormalizedString, Normalizer, NormalizerWrapper};

use super::names::Names;
use super::{Settings, around};

/// The changes of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Four {
    /// `do_lower_case`, `strip_accents` and, where it says so, `tokenize_chinese_chars` replace the values of a
    /// BertNormalizer.
    lowers: Option<bool>,
    /// `add_bos_token`, which is this where it isn't said, and `add_eos_token` replace the post-processor.
    around: Option<bool>,
    /// Where `add_prefix_space` isn't said. A pre-tokenizer that is a ByteLevel gets its value, unless that is null.
    prefix: Option<bool>,
    /// `add_prefix_space: true` goes into every ByteLevel of the pre-tokenizer.
    inner_prefix: bool,
    /// With `add_prefix_space`, the tokenizer is built anew as SentencePiece has it, by `legacy`.
    sentence_piece: bool,
}

impl Four {
    pub(super) const NOTHING: Four =
        Four { lowers: None, around: None, prefix: Some(false), inner_prefix: false, sentence_piece: false };

    pub(super) const fn lowering(self, chinese: bool) -> Self {
        Four { lowers: Some(chinese), ..self }
    }

    pub(super) const fn around(self, begins: bool) -> Self {
        Four { around: Some(begins), ..self }
    }

    pub(super) const fn prefix(self, prefix: Option<bool>) -> Self {
        Four { prefix, ..self }
    }

    pub(super) const fn inner_prefix(self) -> Self {
        Four { inner_prefix: true, ..self }
    }

    pub(super) const fn sentence_piece(self) -> Self {
        Four { sentence_piece: true, ..self }
    }
}

/// Applies the changes of a class.
pub(super) fn change(
    tokenizer: &mut Map<String, Value>,
    names: &Names,
    settings: &Settings<'_>,
    four: Four,
) -> Result<(), String> {
    let prefix = settings.option("add_prefix_space", four.prefix)?;
    if let (Some(prefix), Some(part)) = (prefix, tokenizer.get_mut("pre_tokenizer").and_then(Value::as_object_mut))
        && part.contains_key("add_prefix_space")
    {
        part.insert("add_prefix_space".to_owned(), prefix.into());
    }
    if four.inner_prefix && prefix == Some(true) {
        set_inner_prefix(tokenizer.get_mut("pre_tokenizer"));
    }
    if let Some(chinese) = four.lowers {
        let before = tokenizer.get("normalizer").cloned();
        lower(tokenizer, settings, chinese)?;
        refuse_torn(tokenizer, before)?;
    }
    if let Some(begins) = four.around {
        let (bos, eos) = (settings.flag("add_bos_token", begins)?, settings.flag("add_eos_token", false)?);
        let text = |text: &str, kind: &str| {
            let bos = if bos { format!("bos_token{kind} ") } else { String::new() };
            let eos = if eos { format!(" eos_token{kind}") } else { String::new() };
            format!("{bos}{text}{kind}{eos}")
        };
        let (first, second) = (text("A", ""), text("B", ":1"));
        let processor = around(names, tokenizer, &first, &format!("{first} {second}"));
        tokenizer.insert("post_processor".to_owned(), processor);
    }
    if four.sentence_piece && prefix.is_some() {
        as_sentence_piece(tokenizer, prefix == Some(true), settings.option("legacy", None)?.unwrap_or(true));
    }
    Ok(())
}

fn lower(tokenizer: &mut Map<String, Value>, settings: &Settings<'_>, chinese: bool) -> Result<(), String> {
    let lowercase = settings.flag("do_lower_case", true)?;
    let accents = settings.option("strip_accents", None)?;
    let split = settings.flag("tokenize_chinese_chars", true)?;
    let normalizer = tokenizer.entry("normalizer").or_insert(Value::Null);
    if normalizer.is_null() {
        // 4.57 fails on such a file; 5 puts this.
        *normalizer = json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": split,
            "strip_accents": accents, "lowercase": lowercase});
        return Ok(());
    }
    let Some(part) = normalizer.as_object_mut().filter(|part| part.get("type") == Some(&"BertNormalizer".into()))
    else {
        return Ok(());
    };
    let differs = |key: &str, value: &Value| part.get(key).is_some_and(|old| old != value);
    let own = differs("lowercase", &lowercase.into()) || differs("strip_accents", &accents.into());
    // MPNet's class looks at the two others only, and leaves this one as it is.
    if own || chinese {
        part.insert("lowercase".to_owned(), lowercase.into());
        part.insert("strip_accents".to_owned(), accents.into());
    }
    if chinese {
        part.insert("handle_chinese_chars".to_owned(), split.into());
    }
    Ok(())
}

/// The texts of added tokens are normalized before the class changes the normalizer, texts after it. 4.57 goes on with
/// both, so that such a token is found nowhere, or where it doesn't stand.
fn refuse_torn(tokenizer: &Map<String, Value>, before: Option<Value>) -> Result<(), String> {
    let after = tokenizer.get("normalizer");
    if before.as_ref() == after {
        return Ok(());
    }
    let read = |value: Option<&Value>| -> Option<NormalizerWrapper> { serde_json::from_value(value?.clone()).ok()? };
    let (before, after) = (read(before.as_ref()), read(after));
    let apply = |normalizer: &Option<NormalizerWrapper>, text: &str| {
        let mut normalized = NormalizedString::from(text);
        let done = normalizer.as_ref().map(|normalizer| normalizer.normalize(&mut normalized));
        done.is_none_or(|done| done.is_ok()).then(|| normalized.get().to_owned())
    };
    for token in tokenizer.get("added_tokens").and_then(Value::as_array).into_iter().flatten() {
        let text = token.get("content").and_then(Value::as_str).unwrap_or_default();
        if token.get("normalized") == Some(&true.into()) && apply(&before, text) != apply(&after, text) {
            return Err(format!(
                "the added token {text:?} is to be found in normalized text, but the class normalizes otherwise than \
                 tokenizer.json (`do_lower_case`, `strip_accents`). Give the token `\"normalized\": false`, or make the \
                 normalizer of tokenizer.json say the same"
            ));
        }
    }
    Ok(())
}

fn set_inner_prefix(part: Option<&mut Value>) {
    match part {
        Some(Value::Object(fields)) => {
            for (key, value) in fields {
                if key == "add_prefix_space" {
                    *value = true.into();
                } else {
                    set_inner_prefix(Some(value));
                }
            }
        }
        Some(Value::Array(list)) => list.iter_mut().for_each(|part| set_inner_prefix(Some(part))),
        _ => {}
    }
}

/// What transformers converts a SentencePiece model to. Byte-level files stay as they are: no such model stands behind
/// them.
fn as_sentence_piece(tokenizer: &mut Map<String, Value>, prefix: bool, legacy: bool) {
    let byte_fallback = tokenizer.get("model").and_then(|model| model.get("byte_fallback"));
    if byte_fallback != Some(&true.into()) {
        return;
    }
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
    let prepend = prefix.then(|| json!({"type": "Prepend", "prepend": "\u{2581}"}));
    let (normalizer, pre_tokenizer) = if legacy {
        let steps: Vec<Value> = prepend.into_iter().chain([replace]).collect();
        (json!({"type": "Sequence", "normalizers": steps}), Value::Null)
    } else {
        let scheme = if prefix { "first" } else { "never" };
        (Value::Null, json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": false}))
    };
    tokenizer.insert("normalizer".to_owned(), normalizer);
    tokenizer.insert("pre_tokenizer".to_owned(), pre_tokenizer);
}
