//! `[models.NAME]`: a model in a folder, or behind an address, and how it samples.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::LazyLock;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value as Json};

use super::json::TemplateArguments;
use super::keys::keys;
use super::remote::RemoteConfig;
use super::sections::{at_least_one, check_providers};
#[cfg(feature = "remote")]
use crate::chat::remote::Extensions;
use crate::decode::SamplingOptions;
use crate::model::tokenizer::{Bos, Compat, DateTime, RenderOptions};
use crate::model::{Batching, CacheType, Dtype, OpenOptions};
use crate::runtime::{OnUnavailable, Provider, ProviderOptions, RuntimeOptions};
use crate::{Error, Result};

/// `[models.NAME]`: where a model is, and how it samples.
///
/// ```
/// use foreturn::config::{Config, LocalConfig, ModelConfig, RemoteConfig};
///
/// let mut config = Config::default();
/// let small = ModelConfig { temperature: Some(0.8), ..ModelConfig::local("models/small") };
/// config.models.insert("small".into(), small);
///
/// let dated = LocalConfig { date: Some("2024-07-26".into()), ..LocalConfig::new("models/dated") };
/// config.models.insert("dated".into(), dated.into());
///
/// let large = RemoteConfig { timeout_s: Some(30), ..RemoteConfig::new("http://localhost:8000/v1", "large") };
/// config.models.insert("large".into(), large.into());
/// config.validate()?;
/// # Ok::<(), foreturn::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelConfig {
    /// Where the model is.
    #[serde(flatten)]
    pub source: ModelSource,
    /// Divides the logits; 0 is greedy. In [0, ∞); 1 if absent.
    pub temperature: Option<f32>,
    /// Nucleus sampling. In (0, 1]; 1 (off) if absent.
    pub top_p: Option<f32>,
    /// Keeps this many of the likeliest tokens; 0 (off) if absent.
    pub top_k: Option<usize>,
    /// Drops tokens that are less likely than this share of the likeliest. In [0, 1]; 0 (off) if absent.
    pub min_p: Option<f32>,
    /// Discourages tokens that are already there. In (0, ∞); 1 (off) if absent.
    pub repetition_penalty: Option<f32>,
    /// The most tokens of a message, for roles that have no limit in `[rollout]`. At least 1.
    pub max_tokens: Option<usize>,
}

keys!(ModelConfig [source] temperature, top_p, top_k, min_p, repetition_penalty, max_tokens);

/// The place of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum ModelSource {
    /// An exported model, which runs in this process.
    Local(LocalConfig),
    /// A model behind an endpoint.
    Remote(RemoteConfig),
}

/// The settings of a model that runs in this process.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LocalConfig {
    /// The exported model's folder. In a file, it is relative to the file.
    pub path: PathBuf,
    /// The way in which sequences are batched: "auto" (the default), or "padded". The latter runs the graph as it is,
    /// which is slower.
    pub batching: Batching,
    /// The element type of the cache: "auto" (the default), "float32", "bfloat16", or "int8". "auto" is int8 if the
    /// weights are quantised and the processor multiplies bytes, bfloat16 if products are in bfloat16 and the processor
    /// multiplies pairs of it, otherwise float32.
    pub cache_type: CacheType,
    /// The numbers in which products are computed: "auto" (the default), "float32", or "bfloat16". "auto" is bfloat16 for an
    /// export in bfloat16, otherwise float32.
    pub dtype: Dtype,
    /// Execution providers, the preferred one first; those of `[runtime]` if absent. At least one.
    pub providers: Option<Vec<Provider>>,
    /// The consequence of a preferred provider that is not available; that of `[runtime]` if absent.
    pub on_unavailable: Option<OnUnavailable>,
    /// Options of the providers, by ONNX Runtime's names. They go before those of `[runtime]`.
    pub provider_options: ProviderOptions,
    /// The name of the model's chat template; `default` if absent.
    pub template: Option<String>,
    /// Further arguments of the chat template, such as `enable_thinking = false`. In a file, a date becomes its text;
    /// `nan` and `inf` are refused.
    pub template_arguments: Map<String, Json>,
    /// The date that the chat template prints, as 2024-07-26 or 2024-07-26T13:45:00. If absent, it is the day on which
    /// the engine started, in UTC. If the template prints a date and this is absent, scores change from day to day.
    pub date: Option<String>,
    /// Says whether the content of messages may act as control tokens: "safe" (the default) or "transformers".
    pub compat: Compat,
    /// The tokens around a conversation that is scored: "once" (the default), "template" or "double". Prompts of
    /// language models are what their template renders.
    pub bos: Bos,
    /// The name of the weights in rankings and traces, such as a training step. The default is a fingerprint of the files.
    pub version: Option<String>,
}

keys!(LocalConfig []
    path, batching, cache_type, dtype, providers, on_unavailable, provider_options, template, template_arguments as TemplateArguments, date as DateText, compat, bos,
    version,
);

/// A date of TOML, or a text in quotes.
struct DateText(Option<String>);

impl<'de> Deserialize<'de> for DateText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Option::deserialize(deserializer)? {
            None => Ok(DateText(None)),
            Some(toml::Value::Datetime(date)) => Ok(DateText(Some(date.to_string()))),
            Some(toml::Value::String(text)) => Ok(DateText(Some(text))),
            Some(other) => Err(D::Error::custom(format!("{other} is not a date: write it as 2024-07-26"))),
        }
    }
}

impl From<LocalConfig> for ModelConfig {
    fn from(local: LocalConfig) -> Self {
        ModelConfig::new(ModelSource::Local(local))
    }
}

impl From<RemoteConfig> for ModelConfig {
    fn from(remote: RemoteConfig) -> Self {
        ModelConfig::new(ModelSource::Remote(remote))
    }
}

impl ModelConfig {
    /// An exported model in the folder `path`, with the default settings.
    pub fn local(path: impl Into<PathBuf>) -> Self {
        LocalConfig::new(path).into()
    }

    /// The model that an endpoint at `base_url` calls `model`, with the default settings.
    pub fn remote(base_url: impl Into<String>, model: impl Into<String>) -> Self {
        RemoteConfig::new(base_url, model).into()
    }

    fn new(source: ModelSource) -> Self {
        ModelConfig {
            source,
            temperature: None,
            top_p: None,
            top_k: None,
            min_p: None,
            repetition_penalty: None,
            max_tokens: None,
        }
    }

    /// The settings of a local model; `None` if it is remote.
    pub fn as_local(&self) -> Option<&LocalConfig> {
        match &self.source {
            ModelSource::Local(local) => Some(local),
            ModelSource::Remote(_) => None,
        }
    }

    /// The settings of a local model, to be changed; `None` if it is remote.
    pub fn as_local_mut(&mut self) -> Option<&mut LocalConfig> {
        match &mut self.source {
            ModelSource::Local(local) => Some(local),
            ModelSource::Remote(_) => None,
        }
    }

    /// The settings of a remote model; `None` if it is local.
    pub fn as_remote(&self) -> Option<&RemoteConfig> {
        match &self.source {
            ModelSource::Local(_) => None,
            ModelSource::Remote(remote) => Some(remote),
        }
    }

    /// The options that the model samples with.
    pub fn sampling(&self) -> SamplingOptions {
        let default = SamplingOptions::default();
        SamplingOptions {
            temperature: self.temperature.unwrap_or(default.temperature),
            top_p: self.top_p.unwrap_or(default.top_p),
            top_k: self.top_k.unwrap_or(default.top_k),
            min_p: self.min_p.unwrap_or(default.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(default.repetition_penalty),
        }
    }

    /// The settings beyond OpenAI's protocol that were given.
    #[cfg(feature = "remote")]
    pub(crate) fn extensions(&self) -> Extensions {
        Extensions {
            top_k: self.top_k.is_some(),
            min_p: self.min_p.is_some(),
            repetition_penalty: self.repetition_penalty.is_some(),
        }
    }

    pub(super) fn validate(&self) -> Result<()> {
        match &self.source {
            ModelSource::Local(local) => local.validate()?,
            ModelSource::Remote(remote) => remote.validate()?,
        }
        if let Some((key, value, range)) = self.sampling().out_of_range() {
            return Err(Error::invalid_config(format!("{key} = {value} is not in {range}")));
        }
        at_least_one("max_tokens", self.max_tokens)
    }
}

impl LocalConfig {
    /// An exported model in the folder `path`, with the default settings.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        LocalConfig {
            path: path.into(),
            batching: Batching::default(),
            cache_type: CacheType::default(),
            dtype: Dtype::default(),
            providers: None,
            on_unavailable: None,
            provider_options: ProviderOptions::default(),
            template: None,
            template_arguments: Map::new(),
            date: None,
            compat: Compat::default(),
            bos: Bos::default(),
            version: None,
        }
    }

    fn validate(&self) -> Result<()> {
        self.render_options()?;
        self.providers.as_deref().map_or(Ok(()), check_providers)?;
        self.provider_options.check().map_err(Error::invalid_config)
    }

    /// The engine's options, with those that are set for this model.
    pub(crate) fn runtime_options(&self, engine: &RuntimeOptions) -> RuntimeOptions {
        let engine = engine.clone();
        RuntimeOptions {
            providers: self.providers.clone().unwrap_or(engine.providers),
            on_unavailable: self.on_unavailable.unwrap_or(engine.on_unavailable),
            provider_options: self.provider_options.over(&engine.provider_options),
            ..engine
        }
    }

    /// The options that the folder is opened with.
    pub(crate) fn open_options(&self) -> OpenOptions {
        OpenOptions { batching: self.batching, cache_type: self.cache_type, dtype: self.dtype }
    }

    /// The options by which conversations become the model's prompts.
    ///
    /// # Errors
    /// `date` is not a date.
    pub fn render_options(&self) -> Result<RenderOptions> {
        let date = match &self.date {
            Some(date) => date.parse().map_err(|e: Error| e.context("date"))?,
            None => DateTime::now(),
        };
        Ok(RenderOptions {
            compat: self.compat,
            arguments: self.template_arguments.clone(),
            date: Some(date),
            template: self.template.clone(),
            ..RenderOptions::default()
        })
    }
}

// ---- parsing ----

/// The keys that a model may have.
static KEYS: LazyLock<Vec<&'static str>> =
    LazyLock::new(|| [LocalConfig::KEYS, RemoteConfig::KEYS, ModelConfig::KEYS].concat());

/// One of [`KEYS`]. It is a type, so that the parser shows where an unknown key stands.
struct Key(&'static str);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let key = String::deserialize(deserializer)?;
        let known = KEYS.iter().find(|known| **known == key);
        known.map(|known| Key(known)).ok_or_else(|| D::Error::unknown_field(&key, &KEYS))
    }
}

/// A model's table: the model, or what is wrong with the table as a whole.
struct Section(Result<ModelConfig, String>);

impl<'de> Deserialize<'de> for Section {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(SectionVisitor)
    }
}

struct SectionVisitor;

impl<'de> Visitor<'de> for SectionVisitor {
    type Value = Section;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a table with path, or with base_url and model")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Section, A::Error> {
        let (mut local, mut remote) = (LocalConfig::new(""), RemoteConfig::new("", ""));
        let mut shared = ModelConfig::local("");
        let mut keys = Vec::new();
        while let Some(Key(key)) = map.next_key()? {
            let _read = local.read(key, &mut map)? || remote.read(key, &mut map)? || shared.read(key, &mut map)?;
            keys.push(key);
        }
        let source = match (keys.contains(&"path"), keys.contains(&"base_url")) {
            (false, false) => {
                Err("path is missing: give the folder of an exported model, or base_url and model for a remote one"
                    .to_owned())
            }
            (true, true) => Err(
                "path and base_url are both set: a model is either a folder here or behind an address; leave one out"
                    .to_owned(),
            ),
            (true, false) => refuse(&keys, RemoteConfig::KEYS, "base_url", "path").map(|()| ModelSource::Local(local)),
            (false, true) => refuse(&keys, LocalConfig::KEYS, "path", "base_url").map(|()| ModelSource::Remote(remote)),
        };
        Ok(Section(source.map(|source| ModelConfig { source, ..shared })))
    }
}

/// Refuses the keys of the other kind of model.
fn refuse(keys: &[&str], others: &[&str], needs: &str, has: &str) -> Result<(), String> {
    match keys.iter().find(|key| others.contains(key)) {
        None => Ok(()),
        Some(key) => Err(format!("{key} is for models with a {needs}, and this one has a {has}: leave it out")),
    }
}

impl<'de> Deserialize<'de> for ModelConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Section::deserialize(deserializer)?.0.map_err(D::Error::custom)
    }
}

/// Reads `[models]`. What is wrong with a whole table is said with the table's name in front.
pub(super) fn by_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, ModelConfig>, D::Error> {
    let sections = BTreeMap::<String, Section>::deserialize(deserializer)?;
    let named = sections.into_iter().map(|(name, section)| match section.0 {
        Ok(model) => Ok((name, model)),
        Err(what) => Err(D::Error::custom(format!("[models.{name}]: {what}"))),
    });
    named.collect()
}
