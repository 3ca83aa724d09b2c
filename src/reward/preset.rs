//! Published setups, by name.

use serde::{Deserialize, Serialize};

use super::combination::Combination;
use super::extract::{ExtractConfig, ExtractKind};
use crate::rollout::RoleStyle;
use crate::{Error, Result};

/// A published setup whose constants are defaults. The request and the file override them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Preset {
    /// The paper's own (CollabLLM, arXiv 2502.00640, Table 6): w = 2, S = 3, hard judging, λ by task, equal weights.
    Paper,
    /// The reference implementation's, `collabllm` 0.0.8: w = 2 (its `max_new_turns = 4` counts messages), S = 3; BLEU
    /// over characters; the assistant's words in thousands of cl100k tokens, weighted −0.5; user, extractor and judges
    /// write JSON.
    Collabllm,
    /// The CollabLLM recipe of verl: like the reference, but with the words of both sides from the response on,
    /// weighted −1e-4, and each metric's weighted mean clamped to ±1. Two differences remain: verl counts a failed
    /// judge as 0, which is left out here, and its loop doesn't score the last reply of the window.
    Verl,
}

/// The task whose constants a preset uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// MediumDocEdit-Chat.
    Document,
    /// BigCodeBench-Chat.
    Code,
    /// MATH-Chat.
    Math,
}

impl Task {
    /// The metric that compares with the goal.
    fn extrinsic(self) -> &'static str {
        match self {
            Task::Document => "bleu",
            Task::Code => "pass_rate",
            Task::Math => "accuracy",
        }
    }
}

/// The constants of a preset.
pub(crate) struct PresetValues {
    preset: Preset,
    task: Option<Task>,
    /// Turns sampled ahead.
    pub(crate) window: usize,
    /// Futures for each candidate.
    pub(crate) samples: usize,
    /// The style of the simulated user's replies.
    pub(crate) role_style: RoleStyle,
    /// The way in which values become a reward.
    pub(crate) combination: Combination,
    /// Whether extractors think aloud first.
    pub(crate) thought: bool,
}

impl Preset {
    /// The constants.
    ///
    /// # Errors
    /// They depend on a task, and none is given.
    pub(crate) fn values(self, task: Option<Task>) -> Result<PresetValues> {
        let json = PresetValues {
            preset: self,
            task,
            window: 2,
            samples: 3,
            role_style: RoleStyle::Json,
            combination: Combination::SumThenMean,
            thought: true,
        };
        match self {
            Preset::Paper if task.is_none() => Err(self.needs_task("its constants depend on it")),
            Preset::Paper => Ok(PresetValues { role_style: RoleStyle::Text, thought: false, ..json }),
            Preset::Collabllm => Ok(json),
            Preset::Verl => Ok(PresetValues { combination: Combination::ClampedMeans, ..json }),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Preset::Paper => "paper",
            Preset::Collabllm => "collabllm",
            Preset::Verl => "verl",
        }
    }

    fn needs_task(self, why: &str) -> Error {
        let name = self.name();
        Error::invalid_config(format!("preset = \"{name}\" needs task = \"document\", \"code\" or \"math\": {why}"))
    }
}

impl PresetValues {
    /// The metrics in use unless `[[metrics]]` lists others.
    ///
    /// # Errors
    /// They depend on a task, and none is given.
    pub(crate) fn kinds(&self) -> Result<[&'static str; 3]> {
        let Some(task) = self.task else {
            return Err(self.preset.needs_task("its metrics depend on it. Add it, or list [[metrics]]"));
        };
        Ok([task.extrinsic(), "token_amount", "interactivity"])
    }

    /// The weight of a kind of metric, whether or not it is in the preset's list.
    pub(crate) fn weight(&self, kind: &str) -> f64 {
        match (self.preset, kind) {
            (Preset::Collabllm, "token_amount") => -0.5,
            (Preset::Verl, "token_amount") => -1e-4,
            _ => 1.0,
        }
    }

    /// The extraction for a kind of metric.
    pub(crate) fn extract(&self, kind: &str) -> Option<ExtractConfig> {
        let of = |kind| Some(ExtractConfig::Kind(kind));
        match kind {
            "bleu" => of(ExtractKind::Document),
            "pass_rate" => of(ExtractKind::Code),
            _ => None,
        }
    }

    /// The preset's settings for a kind of metric, whether or not it is in the preset's list.
    pub(crate) fn settings(&self, kind: &str) -> toml::Table {
        match (kind, self.preset) {
            ("token_amount", Preset::Paper) => {
                let lambda = if self.task == Some(Task::Document) { 1e-4 } else { 5e-4 };
                table([("lambda", lambda.into())])
            }
            // Thousands of tokens of everything that the assistant said. The weight turns them into a cost.
            ("token_amount", Preset::Collabllm) => table([
                ("unit", "cl100k".into()),
                ("whose", "assistant".into()),
                ("joined", true.into()),
                ("count_reasoning", true.into()),
                ("lambda", 1e-3.into()),
                ("clamp", false.into()),
                ("sign", "amount".into()),
            ]),
            ("token_amount", Preset::Verl) => table([
                ("unit", "words".into()),
                ("scope", "continuation".into()),
                ("lambda", 1.0.into()),
                ("clamp", false.into()),
                ("sign", "amount".into()),
            ]),
            ("bleu", Preset::Collabllm | Preset::Verl) => table([("characters", true.into())]),
            // As BigCodeBench runs them.
            ("pass_rate", Preset::Collabllm | Preset::Verl) => table([("tests_run", "together".into())]),
            ("accuracy" | "interactivity" | "helpfulness", preset) => {
                let judging = if preset == Preset::Paper { "hard" } else { "json" };
                table([("judging", judging.into())])
            }
            _ => toml::Table::new(),
        }
    }
}

fn table<const N: usize>(settings: [(&str, toml::Value); N]) -> toml::Table {
    settings.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}
