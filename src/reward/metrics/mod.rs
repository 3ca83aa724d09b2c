//! The kinds of metrics: one file each, one line each in the list below.

use std::path::Path;
use std::sync::Arc;

mod scored;
mod settings;

pub use settings::MetricSettings;
use settings::settings;

use super::metric::Metric;
use crate::rollout::Goal;
use crate::{Error, Result};

/// Declares the modules and registers each under its name. A module has a function
/// `build(settings: toml::Table, base: &Path) -> Result<Arc<dyn Metric>>`, which takes what stands in `[[metrics]]` beside
/// `kind`, `name`, `weight` and `extract`, and the folder that paths among it are relative to.
macro_rules! kinds {
    ($($(#[$condition:meta])* $kind:ident,)*) => {
        $($(#[$condition])* mod $kind;)*
        const KINDS: &[(&str, Build)] = &[$($(#[$condition])* (stringify!($kind), $kind::build),)*];
    };
}

type Build = fn(toml::Table, &Path) -> Result<Arc<dyn Metric>>;

kinds! {
    accuracy,
    bleu,
    clarification,
    command,
    helpfulness,
    implicit_reward,
    interactivity,
    judge,
    #[cfg(all(feature = "sandbox", target_os = "linux"))]
    pass_rate,
    process_reward,
    reward_model,
    similarity,
    token_amount,
}

/// The kinds that can be configured.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|(kind, _)| *kind)
}

/// Builds a metric of `kind` from its settings.
///
/// # Errors
/// [`crate::ErrorKind::InvalidConfig`] for an unknown kind or settings that it doesn't take.
pub fn build(kind: &str, settings: MetricSettings) -> Result<Arc<dyn Metric>> {
    match KINDS.iter().find(|(name, _)| *name == kind) {
        Some((_, build)) => {
            let folder = settings.folder().to_owned();
            build(settings.table, &folder).map_err(|e| e.context(format!("metric `{kind}`")))
        }
        None => {
            let known: Vec<&str> = kinds().collect();
            Err(Error::invalid_config(format!(
                "there is no metric `{kind}` in this version; there are {}",
                known.join(", ")
            )))
        }
    }
}

/// What `kind` compares with.
///
/// # Errors
/// There is nothing.
fn reference<'a>(goal: &'a Goal, kind: &str) -> Result<&'a str> {
    goal.reference.as_deref().filter(|text| !text.trim().is_empty()).ok_or_else(|| missing("reference", kind))
}

/// The error of a goal without `field`, which `kind` needs.
fn missing(field: &str, kind: &str) -> Error {
    Error::invalid_request(format!(
        "goal.{field} is missing, and metric `{kind}` needs it: add it to the request, or leave the metric out of [[metrics]]"
    ))
}
