//! Rebuilds `tokenizer.json` and `tokenizer_config.json` from a GGUF file's metadata.
//!
//! Two kinds of tokenizer are rebuilt, each by its own file; what they share, special tokens and templates, is here.

mod byte_level;
mod sentencepiece;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::{Map, Value as Json, json};

use super::Source;
use super::parse::{Array, Value};
use crate::export::checkpoint::{Content, SpecialTokens, TokenizerFile};
use crate::model::tokenizer::bounds::caught;
use crate::{Error, Result};

/// llama.cpp's token types: these become added tokens, found in text before it is split.
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;

/// Control tokens that end a turn or a text in any case, because many files name only one of theirs.
const ENDS: [&str; 6] = ["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>"];

/// The sections of `tokenizer.json` that differ between the kinds of tokenizer.
struct Parts {
    normalizer: Json,
    pre_tokenizer: Json,
    decoder: Json,
    model: Json,
    /// Adds a beginning-of-sequence token where the file does not say.
    adds_bos: bool,
}

/// The tokenizer's files, checked to load.
pub(super) fn files(source: &Source<'_>) -> Result<Vec<TokenizerFile>> {
    let model = required_text(source, "tokenizer.ggml.model")?;
    let (vocabulary, parts) = match model {
        "gpt2" => {
            let vocabulary = Vocabulary::read(source, |token, _| Cow::Borrowed(token))?;
            let parts = byte_level::parts(source, &vocabulary)?;
            (vocabulary, parts)
        }
        "llama" => {
            let vocabulary = Vocabulary::read(source, sentencepiece::spelling)?;
            let parts = sentencepiece::parts(source, &vocabulary)?;
            (vocabulary, parts)
        }
        _ => {
            return Err(Error::unsupported(format!(
                "{}: `tokenizer.ggml.model` is `{}`: this version rebuilds `gpt2` (byte-level BPE) and `llama` \
                 (SentencePiece) tokenizers; export the Hugging Face checkpoint instead",
                source.label,
                model.escape_debug()
            )));
        }
    };
    let bos = flag(source, "tokenizer.ggml.add_bos_token", parts.adds_bos)?;
    let eos = flag(source, "tokenizer.ggml.add_eos_token", false)?;

    let tokenizer = tokenizer_json(source, parts, &vocabulary, bos, eos)?;
    let bytes = serde_json::to_vec(&tokenizer).map_err(|error| Error::internal(error.to_string()))?;
    caught(source.label, || {
        tokenizers::Tokenizer::from_bytes(&bytes).map_err(|error| {
            Error::invalid_model(format!("{}: its `tokenizer.ggml.tokens` make no tokenizer: {error}", source.label))
        })
    })?;
    let config = tokenizer_config(source, &vocabulary, bos, eos)?;
    let config = serde_json::to_vec_pretty(&config).map_err(|error| Error::internal(error.to_string()))?;
    let made = |name: &str, content| TokenizerFile { name: name.to_owned(), content: Content::Made(content) };
    Ok(vec![made("tokenizer.json", bytes), made("tokenizer_config.json", config)])
}

/// The tokens that begin a text and end a reply. The file's own end comes first.
pub(super) fn special_tokens(source: &Source<'_>) -> Result<SpecialTokens> {
    let unknown = source.token_id("unknown_token_id")?;
    let mut eos = Vec::new();
    for name in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        eos.extend(source.token_id(name)?.filter(|id| !eos.contains(id)));
    }
    let tokens = required_array(source, "tokenizer.ggml.tokens")?.iter();
    let kinds = required_array(source, "tokenizer.ggml.token_type")?.iter();
    for (id, (token, kind)) in (0..).zip(tokens.zip(kinds)) {
        let ends = kind.unsigned() == Some(CONTROL) && token.text().is_some_and(|token| ENDS.contains(&token));
        // SmolLM2 names the end of a text as its unknown token, and does not mean it as an end.
        if ends && !eos.contains(&id) && unknown != Some(id) {
            eos.push(id);
        }
    }
    Ok(SpecialTokens { bos: source.token_id("bos_token_id")?, eos, pad: source.token_id("padding_token_id")? })
}

fn required_text<'a>(source: &Source<'a>, key: &str) -> Result<&'a str> {
    source.get(key).and_then(Value::text).ok_or_else(|| source.wrong(key, "is missing or no text"))
}

fn flag(source: &Source<'_>, key: &str, default: bool) -> Result<bool> {
    match source.get(key) {
        None => Ok(default),
        Some(Value::Bool(flag)) => Ok(flag),
        Some(_) => Err(source.wrong(key, "expected true or false")),
    }
}

fn required_array<'a>(source: &Source<'a>, key: &str) -> Result<Array<'a>> {
    source.get(key).and_then(Value::array).ok_or_else(|| source.wrong(key, "is missing or no list"))
}

/// The tokens by id, and the kind of each.
struct Vocabulary<'a> {
    tokens: Vec<Cow<'a, str>>,
    kinds: Vec<u64>,
}

impl<'a> Vocabulary<'a> {
    /// `spelling` makes the token that `tokenizer.json` has of the file's, given its type.
    fn read(source: &Source<'a>, spelling: fn(&'a str, u64) -> Cow<'a, str>) -> Result<Self> {
        let key = "tokenizer.ggml.tokens";
        let tokens: Option<Vec<&str>> = required_array(source, key)?.iter().map(Value::text).collect();
        let tokens = tokens.ok_or_else(|| source.wrong(key, "expected a list of texts"))?;
        let key = "tokenizer.ggml.token_type";
        let kinds: Option<Vec<u64>> = required_array(source, key)?.iter().map(Value::unsigned).collect();
        let kinds = kinds.ok_or_else(|| source.wrong(key, "expected a list of token types"))?;
        if kinds.len() != tokens.len() {
            return Err(source.wrong(key, &format!("{} types for {} tokens", kinds.len(), tokens.len())));
        }
        let key = "tokenizer.ggml.tokens";
        let tokens = tokens.into_iter().zip(&kinds);
        let tokens: Vec<Cow<'_, str>> = tokens.map(|(token, kind)| spelling(token, *kind)).collect();
        let mut ids = HashMap::new();
        for (id, token) in tokens.iter().enumerate() {
            if let Some(first) = ids.insert(token, id) {
                let complaint = format!("tokens {first} and {id} are the same text, {token:?}");
                return Err(source.wrong(key, &complaint));
            }
        }
        Ok(Vocabulary { tokens, kinds })
    }

    /// The ids by token, as `tokenizer.json` lists them.
    fn json(&self) -> Map<String, Json> {
        self.tokens.iter().enumerate().map(|(id, token)| (token.to_string(), id.into())).collect()
    }

    /// Control tokens are special: decoding may leave them out. User-defined ones are ordinary text in one token.
    fn added(&self) -> impl Iterator<Item = (usize, Json)> {
        let kinds = self.tokens.iter().zip(&self.kinds).enumerate();
        kinds.filter(|(_, (_, kind))| matches!(**kind, UNKNOWN | CONTROL | USER_DEFINED)).map(|(id, (token, kind))| {
            let fields = json!({
                "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                "special": *kind != USER_DEFINED,
            });
            (id, fields)
        })
    }

    /// The text of the special token whose id is under `tokenizer.ggml.NAME`.
    fn special(&self, source: &Source<'_>, name: &str) -> Result<Option<&str>> {
        let Some(id) = source.token_id(name)? else { return Ok(None) };
        let token = usize::try_from(id).ok().and_then(|id| self.tokens.get(id));
        token.map(|token| Some(&**token)).ok_or_else(|| {
            let complaint = format!("{id} is beyond the vocabulary of {} tokens", self.tokens.len());
            source.wrong(&format!("tokenizer.ggml.{name}"), &complaint)
        })
    }
}

fn tokenizer_json(
    source: &Source<'_>,
    parts: Parts,
    vocabulary: &Vocabulary<'_>,
    bos: bool,
    eos: bool,
) -> Result<Json> {
    let added: Vec<Json> = vocabulary
        .added()
        .map(|(id, mut token)| {
            token["id"] = id.into();
            token
        })
        .collect();
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": parts.normalizer,
        "pre_tokenizer": parts.pre_tokenizer,
        "post_processor": post_processor(source, vocabulary, bos, eos)?,
        "decoder": parts.decoder,
        "model": parts.model,
    }))
}

/// Puts the beginning and end tokens around a text, where the model wants them.
fn post_processor(source: &Source<'_>, vocabulary: &Vocabulary<'_>, bos: bool, eos: bool) -> Result<Json> {
    let mut around = [None, None];
    for (slot, (wanted, name)) in around.iter_mut().zip([(bos, "bos_token_id"), (eos, "eos_token_id")]) {
        if wanted {
            let key = format!("tokenizer.ggml.{name}");
            let token = vocabulary.special(source, name)?;
            let token = token.ok_or_else(|| source.wrong(&key, "is missing, but the tokenizer is to add it"))?;
            *slot = source.token_id(name)?.map(|id| (token, id));
        }
    }
    if around == [None, None] {
        return Ok(Json::Null);
    }
    let template = |sequences: &[(&str, u8)]| -> Vec<Json> {
        let mut parts = Vec::new();
        for (sequence, kind) in sequences {
            let special = |token: &(&str, u64)| json!({"SpecialToken": {"id": token.0, "type_id": kind}});
            parts.extend(around[0].as_ref().map(special));
            parts.push(json!({"Sequence": {"id": sequence, "type_id": kind}}));
            parts.extend(around[1].as_ref().map(special));
        }
        parts
    };
    let special: Map<String, Json> = around
        .iter()
        .flatten()
        .map(|(token, id)| ((*token).to_owned(), json!({"id": token, "ids": [id], "tokens": [token]})))
        .collect();
    Ok(json!({
        "type": "TemplateProcessing",
        "single": template(&[("A", 0)]),
        "pair": template(&[("A", 0), ("B", 1)]),
        "special_tokens": special,
    }))
}

fn tokenizer_config(source: &Source<'_>, vocabulary: &Vocabulary<'_>, bos: bool, eos: bool) -> Result<Json> {
    let decoder: Map<String, Json> = vocabulary.added().map(|(id, token)| (id.to_string(), token)).collect();
    let mut config = Map::new();
    config.insert("add_bos_token".into(), bos.into());
    config.insert("add_eos_token".into(), eos.into());
    config.insert("added_tokens_decoder".into(), decoder.into());
    for (field, name) in [
        ("bos_token", "bos_token_id"),
        ("eos_token", "eos_token_id"),
        ("pad_token", "padding_token_id"),
        ("unk_token", "unknown_token_id"),
    ] {
        if let Some(token) = vocabulary.special(source, name)? {
            config.insert(field.into(), token.into());
        }
    }
    if let Some(template) = chat_template(source)? {
        config.insert("chat_template".into(), template);
    }
    config.insert("clean_up_tokenization_spaces".into(), false.into());
    if let (_, Some(Value::Unsigned(length))) = source.own("context_length") {
        config.insert("model_max_length".into(), length.into());
    }
    config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    Ok(config.into())
}

/// The template, or where there are further, named ones, the list of all that transformers reads.
fn chat_template(source: &Source<'_>) -> Result<Option<Json>> {
    let key = "tokenizer.chat_template";
    let text =
        |key: &str| source.get(key).map(|value| value.text().ok_or_else(|| source.wrong(key, "expected a text")));
    let default = text(key).transpose()?;
    let Some(names) = source.get("tokenizer.chat_templates").and_then(Value::array) else {
        return Ok(default.map(Json::from));
    };
    let mut templates = Vec::new();
    templates.extend(default.map(|template| json!({"name": "default", "template": template})));
    for name in names.iter().filter_map(Value::text) {
        if let Some(template) = text(&format!("{key}.{name}")).transpose()? {
            templates.push(json!({"name": name, "template": template}));
        }
    }
    Ok(Some(templates.into()))
}
