//! The settings of a metric, before its kind has read them.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Error, Result, mistaken};

/// A metric's own settings: what stands in its `[[metrics]]` beside `kind`, `name`, `weight` and `extract`.
///
/// ```
/// use foreturn::reward::{MetricSettings, build_metric};
///
/// let settings: MetricSettings = "lambda = 5e-4".parse()?;
/// let metric = build_metric("token_amount", settings)?;
/// assert_eq!(metric.kind(), "token_amount");
/// # Ok::<(), foreturn::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MetricSettings {
    pub(super) table: toml::Table,
    /// The folder that relative paths start from.
    #[serde(skip)]
    folder: PathBuf,
}

impl MetricSettings {
    pub(crate) fn new(table: toml::Table) -> Self {
        MetricSettings { table, folder: PathBuf::new() }
    }

    /// The same settings, with paths relative to `folder` instead of the working directory.
    #[must_use]
    pub fn in_folder(self, folder: impl Into<PathBuf>) -> Self {
        MetricSettings { folder: folder.into(), ..self }
    }

    /// These settings, and those of `others` that are not among them.
    #[must_use]
    pub fn or(self, others: MetricSettings) -> Self {
        let MetricSettings { table: mut all, .. } = others;
        all.extend(self.table);
        MetricSettings { table: all, folder: self.folder }
    }

    /// The folder that relative paths start from.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Parses TOML. Paths are relative to the working directory.
impl FromStr for MetricSettings {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let table =
            text.parse().map_err(|e| Error::invalid_config(format!("settings of a metric: {e}")).with_source(e));
        table.map(MetricSettings::new)
    }
}

/// Reads the settings of a kind from their table.
pub(super) fn settings<T: DeserializeOwned>(table: toml::Table) -> Result<T> {
    T::deserialize(toml::Value::Table(table)).map_err(|e| {
        let message = e.message().to_owned() + &mistaken::suggestion(e.message());
        Error::invalid_config(message).with_source(e)
    })
}
