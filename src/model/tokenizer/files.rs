//! Reads the tokenizer's files of a model folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::auto::Settled;
use crate::files::{self, Kind};
use crate::{Error, Result, json};

/// What the folder says, before anything is built from it.
pub(super) struct Files {
    /// The tokenizer as transformers leaves it.
    pub(super) settled: Settled,
    /// Sources of the chat templates by name; the one without a name is `default`.
    pub(super) templates: BTreeMap<String, String>,
}

impl Files {
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let settled = Settled::read(folder)?;
        let templates = read_templates(folder, &settled.config, &folder.join("tokenizer_config.json"))?;
        Ok(Files { settled, templates })
    }
}

/// The tokenizer's files that are read here, as `save_pretrained` of transformers writes them: what an export takes
/// along, in the order in which it is copied. All but the first may be absent; [`TEMPLATES`] may hold more.
const NAMES: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
];

/// The folder of further chat templates.
const TEMPLATES: &str = "additional_chat_templates";

/// The names of the tokenizer's files that are in `folder`, relative to it.
///
/// # Errors
/// Fails where the folder of chat templates can't be listed.
pub(crate) fn present(folder: &Path) -> Result<Vec<String>> {
    let names = NAMES.iter().filter(|name| folder.join(name).exists()).map(|&name| name.to_owned());
    let templates = additional_templates(&folder.join(TEMPLATES))?;
    let templates = templates.into_iter().map(|(name, _)| format!("{TEMPLATES}/{name}.jinja"));
    Ok(names.chain(templates).collect())
}

/// Reads a JSON object; `None` where the file does not exist.
pub(super) fn read_object(path: &Path, kind: Kind) -> Result<Option<Map<String, Value>>> {
    let Some(bytes) = files::read_if_there(path, kind)? else { return Ok(None) };
    json::parse(&bytes).map(Some).map_err(|e| {
        Error::invalid_model(format!("{} is not a JSON object: {e}. Fetch or export it again", path.display()))
            .with_source(e)
    })
}

/// Collects the chat templates. Files of their own win over the configuration, as in transformers.
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
        // As transformers holds them; files that were written by hand have this form.
        Some(Value::Object(named)) if named.values().all(Value::is_string) => {
            let text = |source: &Value| source.as_str().unwrap_or_default().to_owned();
            templates.extend(named.iter().map(|(name, source)| (name.clone(), text(source))));
        }
        Some(_) => {
            return Err(Error::invalid_model(format!(
                "{}: `chat_template` is neither a string nor a list of named templates nor an object with one string for \
                 each name",
                config_path.display()
            )));
        }
    }
    let mut own = BTreeMap::new();
    if let Some(source) = read_template(&folder.join("chat_template.jinja"))? {
        own.insert("default".to_owned(), source);
    }
    for (name, path) in additional_templates(&folder.join(TEMPLATES))? {
        if let Some(source) = read_template(&path)? {
            own.insert(name, source);
        }
    }
    if !own.is_empty() {
        templates = own;
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
    found.sort();
    Ok(found)
}
