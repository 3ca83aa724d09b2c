//! The sections of a configuration.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::byte_size::ByteSize;
use crate::rank::{AllocationSettings, FailurePolicy, Strategy};
use crate::reward::{ExtractConfig, MetricSettings};
use crate::rollout::{InstructedUser, JsonUser, OnRoleConfusion, RoleStyle, Simulator, Style, TrainedUser};
use crate::runtime::{Cores, OnUnavailable, Provider, ProviderOptions, RuntimeOptions};
use crate::{Error, Result};

/// `[runtime]`: ONNX Runtime and memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuntimeConfig {
    /// The library of ONNX Runtime, relative to the file; searched for if absent.
    pub library: Option<PathBuf>,
    /// Threads that all models share; one for each core if absent. At least 1.
    pub threads: Option<usize>,
    /// The processors that the engine's threads stay on; those of the thread that makes the engine if absent.
    pub cores: Option<Cores>,
    /// Execution providers, the preferred one first. At least one.
    pub providers: Vec<Provider>,
    /// The consequence of a preferred provider that is not available.
    pub on_unavailable: OnUnavailable,
    /// Options of the providers, by ONNX Runtime's names.
    pub provider_options: ProviderOptions,
    /// The budget of each model's key-value cache; chosen by the engine if absent.
    pub kv_cache: Option<ByteSize>,
    /// The time that one step may take, in milliseconds. It sizes the chunks of prompts, and bounds how long a
    /// cancellation takes. At least 1.
    pub step_budget_ms: u64,
    /// Seconds after which a run of a model is ended, because a graph may never finish. At least 1; 600 if absent.
    pub step_limit_s: u64,
    /// Rankings that may wait for their turn, and calls to single models that may wait. Further ones are refused. At
    /// least 1; 256 of each if absent.
    pub max_queued: usize,
    /// A path, relative to the file, where ONNX Runtime writes for each model how long each node of its graph took. The
    /// date and `.json` are appended. Runs become slower.
    pub profile: Option<PathBuf>,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        RuntimeConfig {
            library: None,
            threads: None,
            cores: None,
            providers: vec![Provider::Cpu],
            on_unavailable: OnUnavailable::default(),
            provider_options: ProviderOptions::default(),
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
        let (threads, cores) = (self.threads.unwrap_or(0), self.cores.clone());
        RuntimeOptions { threads, cores, ..RuntimeOptions::default() }.check_threads()?;
        check_providers(&self.providers)?;
        self.provider_options.check().map_err(Error::invalid_config)?;
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

/// Refuses an empty list, and a provider that stands in it twice.
pub(super) fn check_providers(providers: &[Provider]) -> Result<()> {
    if providers.is_empty() {
        return Err(Error::invalid_config(
            "providers is empty: name at least one of \"cpu\", \"cuda\", \"tensorrt\", \"webgpu\"",
        ));
    }
    match providers.iter().enumerate().find(|(at, provider)| providers[..*at].contains(provider)) {
        None => Ok(()),
        Some((_, twice)) => {
            Err(Error::invalid_config(format!("providers: \"{}\" is there twice; name it once", twice.as_str())))
        }
    }
}

/// `[roles]`: the name of the model that plays each role. If there is only one model, it plays the roles that are left
/// out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolesConfig {
    /// The assistant under test.
    pub policy: Option<String>,
    /// The user simulator.
    pub user: Option<String>,
    /// The judge.
    pub judge: Option<String>,
    /// The extractor of artefacts; the judge if absent.
    pub extractor: Option<String>,
}

/// `[rollout]`: the settings of sampled futures.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutConfig {
    /// Turns that are sampled ahead, w; the preset's, otherwise 2.
    pub window: Option<usize>,
    /// Futures for each candidate, S; the preset's, otherwise 3.
    pub samples: Option<usize>,
    /// The way in which a model plays the user. With "text" it is told to, and replies with the message. With "json" it
    /// is told to, and thinks before the message. "user_lm" is for models that were trained to be the user. The
    /// preset's, otherwise "text".
    pub role_style: Option<RoleStyle>,
    /// The words by which the simulated user ends the conversation; `[[TERMINATE CHAT]]` if absent.
    pub stop_signal: Option<String>,
    /// A description of the simulated user.
    pub persona: Option<String>,
    /// The simulated user's way of writing: a text, or a list of traits.
    pub style: Option<Style>,
    /// The consequence of a simulated user who talks like the assistant: "report" (the default), "fail" or "ignore".
    pub on_role_confusion: Option<OnRoleConfusion>,
    /// Shows the simulated user what the policy reasoned before its replies; no if absent.
    pub show_reasoning: Option<bool>,
    /// Lets sample k of every candidate share its random numbers; yes if absent.
    pub common_random_numbers: Option<bool>,
    /// The most tokens of a simulated user's message; the model's `max_tokens`, otherwise 128, and 1024 in JSON.
    pub max_user_tokens: Option<usize>,
    /// The most tokens of a policy's reply; the model's `max_tokens`, otherwise 512.
    pub max_policy_tokens: Option<usize>,
    /// The consequence of a rollout that fails: "drop" (the default) or "error".
    pub on_failure: FailurePolicy,
    /// The strategy that decides which candidates get how many futures: "fixed" (the default), "sequential_halving",
    /// "stop_when_sure", or a table with `strategy` and its settings.
    pub allocation: Option<AllocationConfig>,
    /// Gives up the worse half of the candidates after the first turn of their first futures; no if absent.
    pub prune_after_first_turn: Option<bool>,
    /// A file of real conversations, as JSON Lines. Data sets and evaluations record how much their simulated users write like
    /// the users in it.
    pub real_users: Option<PathBuf>,
}

/// `allocation` of `[rollout]`: a strategy, or a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected \"fixed\", \"sequential_halving\", \"stop_when_sure\", or a table with strategy and its settings"
)]
pub enum AllocationConfig {
    /// A strategy with its defaults.
    Strategy(Strategy),
    /// A strategy with settings.
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
    /// The simulator that plays the user.
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
    /// The kind of the metric, one of `metric_kinds`.
    pub kind: String,
    /// Its name in rankings; the kind if absent.
    #[serde(default)]
    pub name: Option<String>,
    /// Its factor in the reward; the preset's for its kind, otherwise 1.
    #[serde(default)]
    pub weight: Option<f64>,
    /// The artefact that is extracted from the conversation first. The metric then looks at that. The preset's for its
    /// kind, otherwise none.
    #[serde(default)]
    pub extract: Option<ExtractConfig>,
    /// The settings of the kind. Each takes precedence over the preset's.
    #[serde(flatten)]
    pub settings: MetricSettings,
}
