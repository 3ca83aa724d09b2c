//! Does to a tokenizer what transformers' `AutoTokenizer` does after it has read `tokenizer.json`.
//!
//! The file is not the last word. The class that the configuration names may change the normalizer (`do_lower_case`),
//! the pre-tokenizer (`add_prefix_space`) and what stands around a text (`add_bos_token`), and every token that
//! `tokenizer_config.json`, `special_tokens_map.json` or `added_tokens.json` names is taught to the tokenizer. The rules
//! are those of transformers 4.57 and 5, which differ: `version` says which one the files were written for, `class` is
//! the table of classes, `names` finds the named tokens, `added` adds them, and `four` and `five` change the rest.
//! docs/tokenizers.md tells users the same.

use std::collections::HashSet;
use std::path::Path;

use serde_json::{Map, Value};

use super::bounds;
use super::files::read_object;
use crate::files::Kind;
use crate::{Error, Result};

mod added;
mod class;
mod five;
mod four;
mod names;
mod version;

use added::Added;
use class::Chosen;
use five::Rebuild;
use names::Names;
use version::Version;

/// The files that a tokenizer is made of, as they were read.
pub(super) struct Sources {
    /// Where `tokenizer.json` lies, for messages.
    path: String,
    tokenizer: Map<String, Value>,
    /// `tokenizer_config.json`; empty where there is none.
    config: Map<String, Value>,
    /// `special_tokens_map.json`.
    special: Map<String, Value>,
    /// `added_tokens.json`, as versions before 4.34 wrote it: text to id.
    added: Map<String, Value>,
    /// `config.json` of the model.
    model: Map<String, Value>,
    /// `generation_config.json`.
    generation: Map<String, Value>,
}

/// A tokenizer as `AutoTokenizer` leaves it.
pub(crate) struct Settled {
    /// Where `tokenizer.json` lies, for messages.
    pub(crate) path: String,
    /// `tokenizer.json`, with everything that the other files change in it.
    pub(crate) tokenizer: Map<String, Value>,
    /// Named tokens (`bos_token`, …) as chat templates see them.
    pub(crate) named: Map<String, Value>,
    /// Texts of tokens that a file names as beginning or end: those of a class's defaults may be missing.
    pub(crate) needed: HashSet<String>,
    /// `tokenizer_config.json`; empty where there is none.
    pub(crate) config: Map<String, Value>,
    /// The end of a text that `special_tokens_map.json` names.
    passed_over: Option<String>,
    chosen: Chosen,
}

impl Settled {
    /// Reads the tokenizer's files in `folder` and settles them.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidModel`] where a file is missing or damaged; [`crate::ErrorKind::Unsupported`] where the
    /// class changes the tokenizer by a rule that isn't known here.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        bounds::caught(&folder.display().to_string(), || settle(Sources::read(folder)?))
    }

    /// The id of the token that is named `role`, such as `eos_token`; `None` where it isn't named, or has no id.
    pub(crate) fn named_id(&self, role: &str) -> Option<u64> {
        self.id(self.named.get(role)?.as_str()?)
    }

    /// The id of the token that ends a text. Where transformers knows none, it is the one that a file names which
    /// transformers passed over: a model stops too late without it.
    pub(crate) fn end(&self) -> Option<u64> {
        self.named_id("eos_token").or_else(|| self.id(self.passed_over.as_deref()?))
    }

    fn id(&self, text: &str) -> Option<u64> {
        let added = self.tokenizer.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
        let mut added = added.filter(|token| token.get("content").and_then(Value::as_str) == Some(text));
        match added.next() {
            Some(token) => token.get("id")?.as_u64(),
            None => added::Vocabulary::of(&self.tokenizer).id(text),
        }
    }

    /// `tokenizer_config.json` with class and version, where a copy of the tokenizer's files without the model's
    /// `config.json` would be read by other rules; `None` where the file can be copied as it is.
    pub(crate) fn config_for_copy(&self, generation: &Map<String, Value>) -> Option<Map<String, Value>> {
        let bare = |config: &Map<String, Value>| {
            class::choose(&Map::new(), config, generation, &self.tokenizer).ok().as_ref() == Some(&self.chosen)
        };
        if bare(&self.config) {
            return None;
        }
        let mut config = self.config.clone();
        config.insert("tokenizer_class".to_owned(), self.chosen.class.clone().into());
        config.insert("transformers_version".to_owned(), self.chosen.version.number().into());
        Some(config)
    }
}

impl Sources {
    fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        let tokenizer = read_object(&path, Kind::TOKENIZER)?.ok_or_else(|| {
            Error::invalid_model(format!(
                "{} is missing: a model folder needs its tokenizer in this format. Copy it from the checkpoint, or save \
                 it with transformers: AutoTokenizer.from_pretrained(…).save_pretrained(…)",
                path.display()
            ))
        })?;
        bounds::check(&tokenizer, &path.display().to_string())?;
        let other = |name: &str| Ok::<_, Error>(read_object(&folder.join(name), Kind::CONFIG)?.unwrap_or_default());
        Ok(Sources {
            path: path.display().to_string(),
            tokenizer,
            config: other("tokenizer_config.json")?,
            special: other("special_tokens_map.json")?,
            added: other("added_tokens.json")?,
            model: other("config.json")?,
            generation: other("generation_config.json")?,
        })
    }
}

/// Applies the rules of the class and the version that the files call for.
fn settle(mut sources: Sources) -> Result<Settled> {
    let chosen = class::choose(&sources.model, &sources.config, &sources.generation, &sources.tokenizer)
        .map_err(|why| Error::unsupported(format!("{}: {why}", sources.path)))?;
    let wrong = |why: String| Error::invalid_model(format!("{}: {why}", sources.path));
    let names = Names::find(&sources, &chosen).map_err(wrong)?;
    let fresh = chosen.version == Version::Five && chosen.five().is_some_and(|rule| rule != Rebuild::BertAround);
    let added = Added::of(&sources.tokenizer, chosen.version, fresh).map_err(wrong)?;
    let added = names.teach(added, &chosen);
    bounds::check_added(Some(&added)).map_err(wrong)?;
    sources.tokenizer.insert("added_tokens".to_owned(), added);
    let settings = Settings(&sources.config);
    let changed = match chosen.version {
        Version::Four => four::change(&mut sources.tokenizer, &names, &settings, chosen.four()),
        Version::Five => match chosen.five() {
            Some(rule) => five::rebuild(&mut sources.tokenizer, &names, &settings, rule),
            None => Ok(()),
        },
    };
    changed.map_err(|why| {
        let version = chosen.version.number();
        Error::unsupported(format!("{}: {} of transformers {version}: {why}", sources.path, chosen.class))
    })?;
    let passed_over = sources.special.get("eos_token").and_then(added::Token::read).map(|token| token.content);
    let (path, tokenizer, config) = (sources.path, sources.tokenizer, sources.config);
    let named = names.for_templates(chosen.version);
    Ok(Settled { path, tokenizer, named, needed: names.needed, config, passed_over, chosen })
}

/// The flags of `tokenizer_config.json` that classes take.
struct Settings<'a>(&'a Map<String, Value>);

impl Settings<'_> {
    /// A flag that may be null: `None` then, and `default` where it isn't there.
    fn option(&self, key: &str, default: Option<bool>) -> Result<Option<bool>, String> {
        match self.0.get(key) {
            None => Ok(default),
            Some(Value::Null) => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(format!("`{key}` of tokenizer_config.json is {other}; expected true or false")),
        }
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, String> {
        self.option(key, Some(default))?
            .ok_or_else(|| format!("`{key}` of tokenizer_config.json is null; expected true or false"))
    }
}

/// The post-processor that puts these tokens around a text. `A` and `B` stand for the texts, everything else for the
/// token of that name; `:1` marks what belongs to the second text, `=2` the id that a class takes where the token isn't
/// named. Other tokens without an id are left out.
fn around(names: &Names, tokenizer: &Map<String, Value>, single: &str, pair: &str) -> Value {
    let mut special = Map::new();
    let mut parts = |pattern: &str| -> Value {
        let mut list = Vec::new();
        for part in pattern.split_whitespace() {
            let (name, kind) = part.strip_suffix(":1").map_or((part, 0), |name| (name, 1));
            let (name, otherwise) = name.split_once('=').map_or((name, None), |(name, id)| (name, id.parse().ok()));
            let token = names.token(name, tokenizer).or_else(|| Some(("None".to_owned(), otherwise?)));
            if name.len() == 1 {
                list.push(serde_json::json!({"Sequence": {"id": name, "type_id": kind}}));
            } else if let Some((text, id)) = token {
                special.insert(text.clone(), serde_json::json!({"id": text, "ids": [id], "tokens": [text]}));
                list.push(serde_json::json!({"SpecialToken": {"id": text, "type_id": kind}}));
            }
        }
        list.into()
    };
    let (single, pair) = (parts(single), parts(pair));
    serde_json::json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special})
}

#[cfg(test)]
mod tests;
