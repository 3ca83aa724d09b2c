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
//! A setting comes from the request, else from the file, else from the preset, else it has a default. Every field is public
//! and has a default, so that a configuration can also be built without a file. [`Config::plan`] resolves it for rankings;
//! unknown keys, and settings that this version can't honour, are errors rather than ignored.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::rank::FailurePolicy;
use crate::reward::{Preset, Task};
use crate::{Error, Result, files};

mod json;
mod remote;
mod resolve;
mod sections;
#[cfg(test)]
mod tests;

pub use crate::byte_size::ByteSize;
pub use json::template_argument;
pub use sections::{AllocationConfig, MetricConfig, ModelConfig, RolesConfig, RolloutConfig, RuntimeConfig};

pub use crate::chat::remote::{JsonMode, MaxTokensField, OnEchoedKey};
pub use crate::runtime::{OnUnavailable, Provider};

/// Everything that a `foreturn.toml` says.
///
/// ```
/// use foreturn::config::{Config, ModelConfig};
///
/// let mut config = Config { seed: Some(7), ..Config::default() };
/// config.models.insert("small".into(), ModelConfig { path: Some("models/small".into()), ..ModelConfig::default() });
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
    /// Seed of rankings whose request has none; 0 if absent.
    pub seed: Option<u64>,
    /// What happens when a metric has no value for a rollout: "drop" (the default) or "error".
    pub on_metric_failure: FailurePolicy,
    /// ONNX Runtime and memory.
    pub runtime: RuntimeConfig,
    /// The models, by a name of your own.
    pub models: BTreeMap<String, ModelConfig>,
    /// Which model plays which role.
    pub roles: RolesConfig,
    /// How futures are sampled.
    pub rollout: RolloutConfig,
    /// The metrics; replaces the preset's list.
    pub metrics: Option<Vec<MetricConfig>>,
    /// Names of models that the host brings itself; roles may name them. See
    /// [`EngineBuilder::chat_model`](crate::engine::EngineBuilder::chat_model).
    #[serde(skip)]
    pub host_models: Vec<String>,
    /// The folder that relative paths in settings of metrics are relative to; the working directory where empty.
    #[serde(skip)]
    pub base_dir: PathBuf,
    /// The file this came from, for messages.
    #[serde(skip)]
    pub origin: Option<PathBuf>,
}

impl Config {
    /// Reads a configuration file. Relative paths in it are relative to its folder.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] where it can't be read, [`crate::ErrorKind::InvalidConfig`] where it makes no sense; the
    /// message names the file, the key and the remedy.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        Self::from_file_with(path, &[])
    }

    /// As [`Config::from_file`], where roles may name models that the host brings itself.
    ///
    /// # Errors
    /// As [`Config::from_file`].
    pub fn from_file_with(path: impl AsRef<Path>, host_models: &[String]) -> Result<Self> {
        let path = path.as_ref();
        let text = files::read_text(path, files::Kind::SETTINGS)?;
        let base = path.parent().unwrap_or(Path::new(""));
        Self::parse(&text, base, Some(path), host_models)
    }

    /// Reads a configuration from text. Relative paths in it are relative to `base_dir`.
    ///
    /// # Errors
    /// As [`Config::from_file`].
    pub fn from_toml(toml: &str, base_dir: impl AsRef<Path>) -> Result<Self> {
        Self::from_toml_with(toml, base_dir, &[])
    }

    /// As [`Config::from_toml`], where roles may name models that the host brings itself.
    ///
    /// # Errors
    /// As [`Config::from_file`].
    pub fn from_toml_with(toml: &str, base_dir: impl AsRef<Path>, host_models: &[String]) -> Result<Self> {
        Self::parse(toml, base_dir.as_ref(), None, host_models)
    }

    fn parse(text: &str, base_dir: &Path, origin: Option<&Path>, host_models: &[String]) -> Result<Self> {
        let mut config: Config = toml::from_str(text).map_err(|e| {
            // The parser's message shows the line and what was expected there.
            let name = origin.map_or_else(|| "configuration".into(), |path| path.display().to_string());
            Error::invalid_config(format!("{name}: {e}")).with_source(e)
        })?;
        let models = config.models.iter_mut();
        json::spell_dates_of_arguments(models.map(|(name, model)| (name, &mut model.template_arguments)), text);
        config.origin = origin.map(Path::to_owned);
        config.host_models = host_models.to_vec();
        config.base_dir = base_dir.to_owned();
        let runtime = [&mut config.runtime.library, &mut config.runtime.profile].into_iter().flatten();
        for path in config.models.values_mut().filter_map(|model| model.path.as_mut()).chain(runtime) {
            *path = base_dir.join(&*path);
        }
        config.validate()?;
        Ok(config)
    }

    /// Refuses values of nonsense and settings that this version can't honour.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidConfig`] or [`crate::ErrorKind::Unsupported`], naming the key.
    pub fn validate(&self) -> Result<()> {
        self.validate_all().map_err(|error| self.locate(error))
    }

    fn validate_all(&self) -> Result<()> {
        if self.task.is_some() && self.preset.is_none() {
            return Err(Error::invalid_config(
                "task is set without a preset: it only chooses a preset's constants. Add preset = \"paper\"",
            ));
        }
        self.runtime.validate().map_err(|e| e.context("[runtime]"))?;
        for (name, model) in &self.models {
            model.validate().map_err(|e| e.context(format!("[models.{name}]")))?;
        }
        self.rollout.validate().map_err(|e| e.context("[rollout]"))?;
        self.resolve_roles()?;
        self.resolve_metrics()?;
        Ok(())
    }

    /// Puts the file's name before an error.
    fn locate(&self, error: Error) -> Error {
        match &self.origin {
            Some(path) => error.context(path.display()),
            None => error,
        }
    }
}
