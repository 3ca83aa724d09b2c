//! Reads the tokenizer's files of a model folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::files::{self, Kind};
use crate::{Error, Result, json};

/// The named tokens that transformers hands to a chat template.
const NAMED: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// What the folder says, before anything is built from it.
#[derive(Debug)]
pub(super) struct Files {
    /// Path of `tokenizer.json`, for messages.
    pub(super) path: PathBuf,
    /// `tokenizer.json`, with the added tokens that only `tokenizer_config.json` lists.
    pub(super) tokenizer: Map<String, Value>,
    /// Named tokens (`bos_token`, …) as chat templates see them.
    pub(super) named: Map<String, Value>,
    /// Sources of the chat templates by name; the one without a name is `default`.
    pub(super) templates: BTreeMap<String, String>,
    /// `tokenizer_config.json`; empty where there is none.
    pub(super) config: Map<String, Value>,
}

impl Files {
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        let mut tokenizer = read_object(&path, Kind::TOKENIZER)?.ok_or_else(|| {
            Error::invalid_model(format!(
                "{} is missing: a model folder needs its tokenizer in this format. Copy it from the checkpoint, or save \
                 it with transformers: AutoTokenizer.from_pretrained(…).save_pretrained(…)",
                path.display()
            ))
        })?;
        let config_path = folder.join("tokenizer_config.json");
        let config = read_object(&config_path, Kind::CONFIG)?.unwrap_or_default();
        let legacy = read_object(&folder.join("special_tokens_map.json"), Kind::CONFIG)?.unwrap_or_default();
        let named = named_tokens(&config, &legacy);
        add_missing_tokens(&mut tokenizer, &config, &path)?;
        let templates = read_templates(folder, &config, &config_path)?;
        Ok(Files { path, tokenizer, named, templates, config })
    }
}

fn read_object(path: &Path, kind: Kind) -> Result<Option<Map<String, Value>>> {
    let Some(bytes) = files::read_if_there(path, kind)? else { return Ok(None) };
    json::parse(&bytes).map(Some).map_err(|e| {
        Error::invalid_model(format!("{} is not a JSON object: {e}. Fetch or export it again", path.display()))
            .with_source(e)
    })
}

/// A token in a configuration is a string or an `AddedToken` object.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

fn named_tokens(config: &Map<String, Value>, legacy: &Map<String, Value>) -> Map<String, Value> {
    let mut named = Map::new();
    let find = |key: &str| config.get(key).or_else(|| legacy.get(key)).filter(|value| !value.is_null());
    for key in NAMED {
        if let Some(text) = find(key).and_then(token_text) {
            named.insert(key.to_owned(), text.into());
        }
    }
    if let Some(list) = find("additional_special_tokens").and_then(Value::as_array) {
        named.insert("additional_special_tokens".to_owned(), list.iter().filter_map(token_text).collect());
    }
    if let Some(extra) = config.get("extra_special_tokens").and_then(Value::as_object) {
        let extra = extra.iter().filter_map(|(key, value)| Some((key.clone(), token_text(value)?.into())));
        named.extend(extra);
    }
    named
}

/// transformers adds the tokens of `added_tokens_decoder` that `tokenizer.json` lacks, and lets its flags win.
fn add_missing_tokens(tokenizer: &mut Map<String, Value>, config: &Map<String, Value>, path: &Path) -> Result<()> {
    let Some(decoder) = config.get("added_tokens_decoder").and_then(Value::as_object) else { return Ok(()) };
    let mut listed: Vec<(u32, &Map<String, Value>)> = decoder
        .iter()
        .filter_map(|(id, token)| Some((id.parse().ok()?, token.as_object()?)))
        .filter(|(_, token)| token.get("content").is_some_and(Value::is_string))
        .collect();
    listed.sort_by_key(|(id, _)| *id);
    let added = tokenizer.entry("added_tokens").or_insert_with(|| Value::Array(Vec::new()));
    let Some(added) = added.as_array_mut() else {
        return Err(Error::invalid_model(format!("{}: `added_tokens` is not a list", path.display())));
    };
    for (id, token) in listed {
        let mut entry = Map::new();
        entry.insert("id".to_owned(), id.into());
        for flag in ["single_word", "lstrip", "rstrip", "normalized", "special"] {
            let value = token.get(flag).and_then(Value::as_bool).unwrap_or(flag == "normalized");
            entry.insert(flag.to_owned(), value.into());
        }
        entry.insert("content".to_owned(), token["content"].clone());
        match added.iter_mut().find(|known| known.get("content") == token.get("content")) {
            Some(known) => {
                // The id of `tokenizer.json` is the one in force.
                entry.insert("id".to_owned(), known["id"].clone());
                *known = Value::Object(entry);
            }
            None => added.push(Value::Object(entry)),
        }
    }
    Ok(())
}

/// Collects the chat templates. A file of its own wins over the configuration, as in transformers.
fn read_templates(folder: &Path, config: &Map<String, Value>, config_path: &Path) -> Result<BTreeMap<String, String>> {
    let mut templates = BTreeMap::new();
    match config.get("chat_template") {
        None | Some(Value::Null) => {}
        Some(Value::String(source)) => {
            templates.insert("default".to_owned(), source.clone());
        }
        Some(Value::Array(list)) => {
            for (index, entry) in list.iter().enumerate() {
                let field = |key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned);
                let (Some(name), Some(source)) = (field("name"), field("template")) else {
                    return Err(Error::invalid_model(format!(
                        "{}: chat_template[{index}] is not an object with the strings `name` and `template`",
                        config_path.display()
                    )));
                };
                templates.insert(name, source);
            }
        }
        Some(_) => {
            return Err(Error::invalid_model(format!(
                "{}: `chat_template` is neither a string nor a list of named templates",
                config_path.display()
            )));
        }
    }
    let own = folder.join("chat_template.jinja");
    if let Some(source) = read_template(&own)? {
        templates = BTreeMap::from([("default".to_owned(), source)]);
        for (name, path) in additional_templates(&folder.join("additional_chat_templates"))? {
            if let Some(source) = read_template(&path)? {
                templates.insert(name, source);
            }
        }
    }
    if let Some((name, source)) = templates.iter().find(|(_, source)| source.len() as u64 > Kind::TEMPLATE.most()) {
        return Err(Error::invalid_model(format!(
            "{}: chat template `{name}` has {} bytes; more than {} are not accepted",
            folder.display(),
            source.len(),
            Kind::TEMPLATE.most()
        )));
    }
    Ok(templates)
}

fn read_template(path: &Path) -> Result<Option<String>> {
    let Some(bytes) = files::read_if_there(path, Kind::TEMPLATE)? else { return Ok(None) };
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|e| Error::invalid_model(format!("{} is not UTF-8: {e}", path.display())).with_source(e))
}

/// `NAME.jinja` files of the folder where transformers keeps further templates.
fn additional_templates(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(e) => return Err(Error::io("list", folder, e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| Error::io("list", folder, e))?.path();
        if path.extension().is_some_and(|extension| extension == "jinja")
            && let Some(name) = path.file_stem().and_then(|name| name.to_str())
        {
            found.push((name.to_owned(), path));
        }
    }
    Ok(found)
}
