//! The sections of a configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::json;
use crate::byte_size::ByteSize;
use crate::chat::remote::{JsonMode, MaxTokensField, OnEchoedKey};
use crate::decode::SamplingOptions;
use crate::model::tokenizer::{Bos, Compat, DateTime, RenderOptions};
use crate::model::{Batching, CacheType, OpenOptions};
use crate::rank::{AllocationSettings, FailurePolicy, Strategy};
use crate::reward::ExtractConfig;
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

/// `[models.NAME]`: where a model is, and how it samples.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// An exported model's folder; relative to the file.
    pub path: Option<PathBuf>,
    /// How its sequences are batched: "auto" (the default), or "padded" for the graph as it is in ONNX Runtime, which is
    /// slower.
    pub batching: Batching,
    /// What its cache holds: "auto" (the default: int8 for quantised weights where the processor multiplies bytes, else
    /// float32), "float32", "bfloat16", or "int8".
    pub cache_type: CacheType,
    /// Address of an endpoint that speaks OpenAI's protocol, instead of a path: `https://host/v1`. It and the settings down
    /// to `headers` are for remote models alone; see `docs/remote-models.md`.
    pub base_url: Option<String>,
    /// The model's name at the endpoint.
    pub model: Option<String>,
    /// Environment variable with the endpoint's key, which is read when the engine is built; no key is sent if absent.
    pub api_key_env: Option<String>,
    /// Seconds that one request may take, from the first byte to the last. 1 to 86400; 120 if absent.
    pub timeout_s: Option<u64>,
    /// Seconds within which a connection has to stand. 1 to 86400; 10 if absent.
    pub connect_timeout_s: Option<u64>,
    /// How often a request is sent again that was not answered, or with a status that may pass. At most 20; 3 if absent.
    pub max_retries: Option<u32>,
    /// Requests under way at the same time. 1 to 256; 8 if absent.
    pub max_concurrent: Option<usize>,
    /// Requests a minute, repeated ones included, evenly spaced. At least 1; no limit if absent.
    pub requests_per_minute: Option<u32>,
    /// What the endpoint calls the limit on new tokens: "max_tokens" if absent, or "max_completion_tokens".
    pub max_tokens_field: Option<MaxTokensField>,
    /// Whether requests carry a seed; yes if absent.
    pub send_seed: Option<bool>,
    /// Whether judges' answers are read off log-probabilities (yes if absent), or off the text that the model writes.
    pub logprobs: Option<bool>,
    /// How a reply in JSON is asked for: "json_schema" if absent, "json_object" or "none".
    pub json_mode: Option<JsonMode>,
    /// What happens when a reply holds the endpoint's key, if that has at least 16 characters: "note" if absent, which leaves
    /// the reply as it came and says so in the ranking's notes, or "fail".
    pub on_echoed_key: Option<OnEchoedKey>,
    /// Further HTTP headers.
    pub headers: BTreeMap<String, String>,
    /// Divides the logits; 0 is greedy. In [0, ∞); 1 if absent.
    pub temperature: Option<f32>,
    /// Nucleus sampling. In (0, 1]; 1 (off) if absent.
    pub top_p: Option<f32>,
    /// Keeps this many of the likeliest tokens; 0 (off) if absent.
    pub top_k: Option<usize>,
    /// Drops tokens less likely than this share of the likeliest. In [0, 1]; 0 (off) if absent.
    pub min_p: Option<f32>,
    /// Discourages tokens that are there already. In (0, ∞); 1 (off) if absent.
    pub repetition_penalty: Option<f32>,
    /// Most tokens of a message, for roles without a limit of their own in `[rollout]`. At least 1.
    pub max_tokens: Option<usize>,
    /// Which of the model's named chat templates; `default` if absent.
    pub template: Option<String>,
    /// Further arguments of the chat template, such as `enable_thinking = false`. A date becomes its text; `nan` and `inf`
    /// are refused.
    pub template_arguments: toml::Table,
    /// The date that the chat template prints, as 2024-07-26 or 2024-07-26T13:45:00; the day the engine started, in UTC,
    /// if absent. Scores drift from day to day without it, if the template prints a date.
    #[serde(deserialize_with = "text_of_date")]
    pub date: Option<String>,
    /// Whether message content may act as control tokens: "safe" (the default) or "transformers".
    pub compat: Compat,
    /// Which tokens a conversation to be scored has around what the chat template renders: "once" (the default),
    /// "template" or "double". Prompts of language models are what their template renders.
    pub bos: Bos,
}

/// A date as TOML has them, or in quotes.
fn text_of_date<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    match toml::Value::deserialize(deserializer)? {
        toml::Value::Datetime(date) => Ok(Some(date.to_string())),
        toml::Value::String(text) => Ok(Some(text)),
        other => Err(D::Error::custom(format!("{other} is not a date: write it as 2024-07-26"))),
    }
}

impl ModelConfig {
    /// How its folder is to be run.
    pub(crate) fn open_options(&self) -> OpenOptions {
        OpenOptions { batching: self.batching, cache_type: self.cache_type }
    }

    /// How the model samples.
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

    /// How conversations become the model's prompts.
    ///
    /// # Errors
    /// `date` is not a date, or a template argument has no counterpart in JSON.
    pub fn render_options(&self) -> Result<RenderOptions> {
        let date = match &self.date {
            Some(date) => date.parse().map_err(|e: Error| e.context("date"))?,
            None => DateTime::now(),
        };
        Ok(RenderOptions {
            compat: self.compat,
            arguments: json::object("template_arguments", &self.template_arguments)?,
            date: Some(date),
            template: self.template.clone(),
            ..RenderOptions::default()
        })
    }

    pub(super) fn validate(&self) -> Result<()> {
        self.render_options()?;
        self.validate_place()?;
        if let Some((key, value, range)) = self.sampling().out_of_range() {
            return Err(Error::invalid_config(format!("{key} = {value} is not in {range}")));
        }
        at_least_one("max_tokens", self.max_tokens)
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

fn at_least_one(key: &str, value: Option<usize>) -> Result<()> {
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
    pub settings: toml::Table,
}
