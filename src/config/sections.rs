//! The sections of a configuration.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::byte_size::ByteSize;
use crate::rank::{AllocationSettings, FailurePolicy, Strategy};
use crate::reward::{ExtractConfig, MetricSettings};
use crate::rollout::{InstructedUser, JsonUser, OnRoleConfusion, RoleStyle, Simulator, Style, TrainedUser};
use crate::runtime::{OnUnavailable, Provider, RuntimeOptions};
use crate::{Error, Result};

/// `[runtime]`: ONNX Runtime and memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuntimeConfig {
    /// ONNX Runtime's library; searched for where absent. Relative to the file.
    pub library: Option<PathBuf>,
    /// Threads shared by all models; one per core where absent. At least 1.
    pub threads: Option<usize>,
    /// Execution providers, the preferred one first. At least one.
    pub providers: Vec<Provider>,
    /// What happens when the preferred provider is not there.
    pub on_unavailable: OnUnavailable,
    /// Budget of each model's key-value cache; chosen by the engine where absent.
    pub kv_cache: Option<ByteSize>,
    /// Time that one step may take, in milliseconds; sizes prompt chunks, and bounds how long a cancellation takes. At
    /// least 1.
    pub step_budget_ms: u64,
    /// Seconds after which a run of a model is ended, for graphs that never come to an end. At least 1; 600 if absent.
    pub step_limit_s: u64,
    /// Rankings, and calls to single models, that may wait for their turn; what comes beyond is refused. At least 1; 256
    /// of either if absent.
    pub max_queued: usize,
    /// Where ONNX Runtime writes, for each model, how long each node of its graph took: a path that the date and `.json`
    /// are put behind. Relative to the file. Slows runs down.
    pub profile: Option<PathBuf>,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        RuntimeConfig {
            library: None,
            threads: None,
            providers: vec![Provider::Cpu],
            on_unavailable: OnUnavailable::default(),
            kv_cache: None,
            step_budget_ms: 250,
            step_limit_s: 600,
            max_queued: 256,
            profile: None,
        }
    }
}

impl RuntimeConfig {
    pub(super) fn validate(&self) -> Result<()> {
        if self.threads == Some(0) {
            return Err(Error::invalid_config("threads = 0: at least 1 is needed; leave it out to use all cores"));
        }
        RuntimeOptions { threads: self.threads.unwrap_or(0), ..RuntimeOptions::default() }.check_threads()?;
        if self.providers.is_empty() {
            return Err(Error::invalid_config(
                "providers is empty: name at least one of \"cpu\", \"cuda\", \"tensorrt\"",
            ));
        }
        if self.step_budget_ms == 0 {
            return Err(Error::invalid_config("step_budget_ms = 0: a step needs at least 1 ms; the default is 250"));
        }
        if !(1..=86_400).contains(&self.step_limit_s) {
            return Err(Error::invalid_config(format!(
                "step_limit_s = {}: give a number of seconds from 1 to 86400; the default is 600",
                self.step_limit_s
            )));
        }
        if self.max_queued == 0 {
            return Err(Error::invalid_config("max_queued = 0: at least 1 is needed; the default is 256"));
        }
        if self.kv_cache == Some(ByteSize(0)) {
            return Err(Error::invalid_config("kv_cache = 0: give a size such as \"512MiB\", or leave it out"));
        }
        Ok(())
    }
}

/// `[roles]`: which model plays which role, by name. Where there is a single model, it plays those left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolesConfig {
    /// The assistant under test.
    pub policy: Option<String>,
    /// The user simulator.
    pub user: Option<String>,
    /// The judge.
    pub judge: Option<String>,
    /// Extracts artefacts; the judge does where absent.
    pub extractor: Option<String>,
}

/// `[rollout]`: how futures are sampled.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutConfig {
    /// Turns sampled ahead, w; the preset's, else 2.
    pub window: Option<usize>,
    /// Futures for each candidate, S; the preset's, else 3.
    pub samples: Option<usize>,
    /// How the user's model plays the user: "text" (told to, in words), "json" (told to, and thinks before the message), or
    /// "user_lm" (trained to); the preset's, else "text".
    pub role_style: Option<RoleStyle>,
    /// The words by which the simulated user ends the conversation; `[[TERMINATE CHAT]]` if absent.
    pub stop_signal: Option<String>,
    /// Who the simulated user is.
    pub persona: Option<String>,
    /// How the simulated user writes: a text, or a list of traits.
    pub style: Option<Style>,
    /// What happens when the simulated user talks like the assistant: "report" (the default), "fail" or "ignore".
    pub on_role_confusion: Option<OnRoleConfusion>,
    /// Whether the simulated user sees what the policy reasoned before its replies; no if absent.
    pub show_reasoning: Option<bool>,
    /// Whether sample k of every candidate shares its random stream; yes if absent.
    pub common_random_numbers: Option<bool>,
    /// Most tokens of a simulated user's message; the model's `max_tokens`, else 128, in JSON 1024.
    pub max_user_tokens: Option<usize>,
    /// Most tokens of a policy reply; the model's `max_tokens`, else 512.
    pub max_policy_tokens: Option<usize>,
    /// What happens when a rollout fails: "drop" (the default) or "error".
    pub on_failure: FailurePolicy,
    /// Which candidates get how many futures: "fixed" (the default), "sequential_halving", "stop_when_sure", or a table with
    /// `strategy` and its settings.
    pub allocation: Option<AllocationConfig>,
    /// Whether the worse half of the candidates is given up after the first turn of their first futures; no if absent.
    pub prune_after_first_turn: Option<bool>,
}

/// `allocation` of `[rollout]`: a strategy, or a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected \"fixed\", \"sequential_halving\", \"stop_when_sure\", or a table with strategy and its settings"
)]
pub enum AllocationConfig {
    /// With its defaults.
    Strategy(Strategy),
    /// With settings.
    Settings(AllocationSettings),
}

impl AllocationConfig {
    pub(super) fn settings(&self) -> AllocationSettings {
        match self {
            AllocationConfig::Strategy(strategy) => AllocationSettings { strategy: *strategy, ..Default::default() },
            AllocationConfig::Settings(settings) => *settings,
        }
    }
}

impl RolloutConfig {
    /// Who plays the user.
    pub(super) fn simulator(&self, role_style: RoleStyle) -> Arc<dyn Simulator> {
        let show_reasoning = self.show_reasoning.unwrap_or_default();
        if role_style == RoleStyle::UserLm {
            let stop_signal = self.stop_signal.clone().unwrap_or_else(|| TrainedUser::default().stop_signal);
            return Arc::new(TrainedUser { persona: self.persona.clone(), stop_signal, show_reasoning });
        }
        let user = InstructedUser {
            persona: self.persona.clone(),
            style: self.style.clone(),
            show_reasoning,
            stop_signal: self.stop_signal.clone().unwrap_or_else(|| InstructedUser::default().stop_signal),
        };
        if role_style == RoleStyle::Json { Arc::new(JsonUser::new(user)) } else { Arc::new(user) }
    }

    pub(super) fn validate(&self) -> Result<()> {
        let as_config = |error: Error| Error::invalid_config(error.to_string());
        crate::rank::validate_window(self.window).map_err(as_config)?;
        crate::rank::validate_samples(self.samples).map_err(as_config)?;
        if self.role_style == Some(RoleStyle::UserLm) && self.style.is_some() {
            return Err(Error::invalid_config(
                "style is set, and role_style = \"user_lm\": a model that was trained to be the user writes as it learned to; leave \
                 style out, or tell an instructed model (role_style = \"text\")",
            ));
        }
        if let Some(allocation) = &self.allocation {
            allocation.settings().validate().map_err(|e| e.context("allocation"))?;
        }
        at_least_one("max_user_tokens", self.max_user_tokens)?;
        at_least_one("max_policy_tokens", self.max_policy_tokens)?;
        if self.style.as_ref().is_some_and(Style::is_empty) {
            return Err(Error::invalid_config("style is empty: give a text or a list of traits, or leave it out"));
        }
        for (key, text) in [("stop_signal", &self.stop_signal), ("persona", &self.persona)] {
            if text.as_ref().is_some_and(|text| text.trim().is_empty()) {
                return Err(Error::invalid_config(format!("{key} is empty: give a text, or leave it out")));
            }
        }
        Ok(())
    }
}

pub(super) fn at_least_one(key: &str, value: Option<usize>) -> Result<()> {
    match value {
        Some(0) => Err(Error::invalid_config(format!("{key} = 0: at least 1 is needed"))),
        _ => Ok(()),
    }
}

/// `[[metrics]]`: one metric.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MetricConfig {
    /// Which metric; see [`metric_kinds`](crate::reward::metric_kinds).
    pub kind: String,
    /// Its name in rankings; the kind if absent.
    #[serde(default)]
    pub name: Option<String>,
    /// Its factor in the reward; the preset's for its kind, else 1.
    #[serde(default)]
    pub weight: Option<f64>,
    /// What is distilled from the conversation first, for the metric to look at instead of all of it; the preset's for its
    /// kind, else nothing.
    #[serde(default)]
    pub extract: Option<ExtractConfig>,
    /// The kind's own settings; each goes before the preset's.
    #[serde(flatten)]
    pub settings: MetricSettings,
}
