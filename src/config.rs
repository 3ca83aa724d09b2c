//! `foreturn.toml`: models, their roles, how futures are sampled, what is rewarded.
//!
//! ```toml
//! preset = "paper"
//! task = "math"
//!
//! [models.small]
//! path = "models/smollm2"          # relative to this file
//!
//! [roles]                          # with a single model, these may be left out
//! policy = "small"
//! user = "small"
//! judge = "small"
//! ```
//!
//! A setting comes from the request, otherwise from the file, otherwise from the preset, otherwise it has a default. A
//! configuration can also be built without a file, because every section has defaults. [`Config::plan`] resolves it for
//! rankings. Unknown keys, and settings that this version cannot honour, are errors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::rank::FailurePolicy;
use crate::reward::{Preset, Task};
use crate::{Error, Result, files, mistaken};

mod json;
mod keys;
mod model;
mod remote;
mod resolve;
mod sections;
#[cfg(test)]
mod tests;

pub use crate::byte_size::ByteSize;
pub use json::template_argument;
pub use model::{LocalConfig, ModelConfig, ModelSource};
pub use remote::RemoteConfig;
pub use sections::{AllocationConfig, MetricConfig, RolesConfig, RolloutConfig, RuntimeConfig};

pub use crate::chat::remote::{Decisions, JsonMode, MaxTokensField, OnEchoedKey};
pub use crate::runtime::{OnUnavailable, OptionValue, Provider, ProviderOptions};

/// Everything that a `foreturn.toml` says.
///
/// ```
/// use foreturn::config::{Config, ModelConfig};
///
/// let mut config = Config::default();
/// config.seed = Some(7);
/// config.models.insert("small".into(), ModelConfig::local("models/small"));
/// config.validate()?;
/// # Ok::<(), foreturn::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// A published setup whose constants are the defaults.
    pub preset: Option<Preset>,
    /// The task whose constants the preset uses.
    pub task: Option<Task>,
    /// The seed of rankings whose request has none; 0 if absent.
    pub seed: Option<u64>,
    /// The consequence of a metric that has no value for a rollout: "drop" (the default) or "error".
    pub on_metric_failure: FailurePolicy,
    /// ONNX Runtime and memory.
    pub runtime: RuntimeConfig,
    /// The models, by a name of your own.
    #[serde(deserialize_with = "model::by_name")]
    pub models: BTreeMap<String, ModelConfig>,
    /// The models that play the roles.
    pub roles: RolesConfig,
    /// The settings of sampled futures.
    pub rollout: RolloutConfig,
    /// The metrics, which replace the preset's list.
    pub metrics: Option<Vec<MetricConfig>>,
    /// The file that this came from, for messages.
    #[serde(skip)]
    pub(crate) origin: Option<PathBuf>,
}

impl Config {
    /// Reads a configuration file. Relative paths in it are relative to its folder.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] where it can't be read, [`crate::ErrorKind::InvalidConfig`] where it makes no sense;
    /// the message names the file, the key and the remedy. The names of models are checked when the engine is built,
    /// because the host may bring models of its own.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = files::read_text(path, files::Kind::SETTINGS)?;
        Self::parse(&text, path.parent().unwrap_or(Path::new("")), Some(path))
    }

    /// Reads a configuration from text. Relative paths in it are relative to `base_dir`.
    ///
    /// # Errors
    /// As [`Config::from_file`].
    pub fn from_toml(toml: &str, base_dir: impl AsRef<Path>) -> Result<Self> {
        Self::parse(toml, base_dir.as_ref(), None)
    }

    fn parse(text: &str, base_dir: &Path, origin: Option<&Path>) -> Result<Self> {
        let mut config: Config = toml::from_str(text).map_err(|e| not_a_configuration(e, origin))?;
        json::spell_dates_of_arguments(config.models.iter_mut(), text);
        config.origin = origin.map(Path::to_owned);
        for metric in config.metrics.iter_mut().flatten() {
            metric.settings = std::mem::take(&mut metric.settings).in_folder(base_dir);
        }
        let folders = config.models.values_mut().filter_map(ModelConfig::as_local_mut).map(|local| &mut local.path);
        let runtime = [&mut config.runtime.library, &mut config.runtime.profile].into_iter().flatten();
        for path in folders.chain(runtime).chain(&mut config.rollout.real_users) {
            *path = base_dir.join(&*path);
        }
        config.validate()?;
        Ok(config)
    }

    /// Refuses values that make no sense and settings that this version cannot honour.
    ///
    /// It does not look at names of models, because a host may bring models of its own. [`Config::plan`] and
    /// [`EngineBuilder::build`](crate::engine::EngineBuilder::build) do.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidConfig`] or [`crate::ErrorKind::Unsupported`], naming the key.
    pub fn validate(&self) -> Result<()> {
        self.validate_sections().and_then(|()| self.build_metrics().map(drop)).map_err(|error| self.locate(error))
    }

    /// Everything except the metrics, which are built to be validated.
    fn validate_sections(&self) -> Result<()> {
        if self.task.is_some() && self.preset.is_none() {
            return Err(Error::invalid_config(
                "task is set without a preset: it only chooses a preset's constants. Add preset = \"paper\"",
            ));
        }
        self.runtime.validate().map_err(|e| e.context("[runtime]"))?;
        for (name, model) in &self.models {
            model.validate().map_err(|e| e.context(format!("[models.{name}]")))?;
        }
        self.rollout.validate().map_err(|e| e.context("[rollout]"))
    }

    /// Puts the file's name before an error.
    fn locate(&self, error: Error) -> Error {
        match &self.origin {
            Some(path) => error.context(path.display()),
            None => error,
        }
    }
}

/// The error for a text that the parser refused.
fn not_a_configuration(error: toml::de::Error, origin: Option<&Path>) -> Error {
    let what = error.message();
    if what.starts_with('[') {
        // A message about a whole table begins with the table's name, and needs no line.
        let error = Error::invalid_config(what);
        return match origin {
            Some(path) => error.context(path.display()),
            None => error,
        };
    }
    // The parser's message shows the line and what was expected there.
    let name = origin.map_or_else(|| "configuration".into(), |path| path.display().to_string());
    let message = format!("{name}: {}{}", error.to_string().trim_end(), mistaken::suggestion(what));
    Error::invalid_config(message).with_source(error)
}

/// Reads a configuration from text. Relative paths in it are relative to the working directory.
impl FromStr for Config {
    type Err = Error;

    fn from_str(toml: &str) -> Result<Self> {
        Config::from_toml(toml, "")
    }
}
