//! Published setups, by name.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A published setup whose constants are defaults: request and file go before them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// The paper's own (CollabLLM, arXiv 2502.00640, Table 6): w = 2, S = 3, hard judging, λ by task, equal weights.
    Paper,
    /// The reference implementation's.
    Collabllm,
    /// The recipe in verl.
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

/// What a preset stands for.
pub(crate) struct PresetValues {
    /// Turns sampled ahead.
    pub(crate) window: usize,
    /// Futures for each candidate.
    pub(crate) samples: usize,
    /// The metrics in use unless `[[metrics]]` lists others, all of weight 1.
    pub(crate) kinds: Vec<&'static str>,
    judging: &'static str,
    lambda: f64,
}

impl Preset {
    /// The constants.
    ///
    /// # Errors
    /// Where this version doesn't have the preset, or it depends on a task and none is given.
    pub(crate) fn values(self, task: Option<Task>) -> Result<PresetValues> {
        if self != Preset::Paper {
            let name = format!("{self:?}").to_lowercase();
            return Err(Error::unsupported(format!(
                "preset = \"{name}\" is not available in this version: use preset = \"paper\", or leave it out and list [[metrics]]"
            )));
        }
        let (extrinsic, lambda) = match task {
            Some(Task::Document) => ("bleu", 1e-4),
            Some(Task::Code) => ("pass_rate", 5e-4),
            Some(Task::Math) => ("accuracy", 5e-4),
            None => {
                return Err(Error::invalid_config(
                    "preset = \"paper\" needs task = \"document\", \"code\" or \"math\": its constants depend on it",
                ));
            }
        };
        let kinds = vec![extrinsic, "token_amount", "interactivity"];
        Ok(PresetValues { window: 2, samples: 3, kinds, judging: "hard", lambda })
    }
}

impl PresetValues {
    /// The preset's settings for a kind of metric, whether or not it is in the preset's list.
    pub(crate) fn settings(&self, kind: &str) -> toml::Table {
        let mut table = toml::Table::new();
        match kind {
            "token_amount" => table.insert("lambda".into(), self.lambda.into()),
            "accuracy" | "interactivity" | "helpfulness" => table.insert("judging".into(), self.judging.into()),
            _ => None,
        };
        table
    }
}
