//! `process_reward`: the soundness of each step of the assistant's last message, by a process reward model.
//!
//! Range [0, 1], before scale and offset: the positive label's probability after each step, aggregated.
//!
//! Settings: `model`, by its name in `[models]`; `separator` (a blank line) between steps, which gives way to `marker`
//! (`<extra_0>`), the token at which the model judges; `positive`, a label by name or place (the second of two);
//! `aggregate = "min" | "product" | "last" | "mean"`; `scale` (1) and `offset` (0), finite;
//! `scope = "conversation" | "response"` (the assistant's last message, or the response under test);
//! `show_reasoning = true` makes what the assistant reasoned part of its steps. Its tokens are `cost.reward_model`'s.

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::scored::{Line, Scope, answers, named, question, unexpected};
use super::settings;
use crate::chat::ChatOutput;
use crate::model::ModelFolder;
use crate::reward::metric::{Answered, Metric, MetricInput, MetricValue, Question};
use crate::score::{Label, ScoreOutput, ScoreTask, StepOptions, input};
use crate::{Error, Result};

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    model: Option<String>,
    separator: String,
    marker: String,
    positive: Option<Label>,
    aggregate: Aggregate,
    scale: f64,
    offset: f64,
    scope: Scope,
    show_reasoning: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let StepOptions { separator, marker, positive } = StepOptions::default();
        Settings {
            model: None,
            separator,
            marker,
            positive,
            aggregate: Aggregate::Min,
            scale: 1.0,
            offset: 0.0,
            scope: Scope::default(),
            show_reasoning: false,
        }
    }
}

/// The way in which the steps' rewards become one.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Aggregate {
    /// A solution is as sound as its weakest step.
    Min,
    /// The probability that all steps are right, if they are independent.
    Product,
    Last,
    Mean,
}

impl Aggregate {
    fn of(self, steps: &[f64]) -> Option<f64> {
        match self {
            Aggregate::Min => steps.iter().copied().reduce(f64::min),
            Aggregate::Product => (!steps.is_empty()).then(|| steps.iter().product()),
            Aggregate::Last => steps.last().copied(),
            Aggregate::Mean => (!steps.is_empty()).then(|| steps.iter().sum::<f64>() / steps.len() as f64),
        }
    }
}

struct ProcessReward {
    model: Arc<str>,
    task: ScoreTask,
    aggregate: Aggregate,
    line: Line,
    shown: (Scope, bool),
}

pub(super) fn build(table: toml::Table, _: &Path) -> Result<Arc<dyn Metric>> {
    let Settings { model, separator, marker, positive, aggregate, scale, offset, scope, show_reasoning } =
        settings(table)?;
    let line = Line { scale, offset };
    line.validate()?;
    if separator.is_empty() {
        return Err(Error::invalid_config("separator is empty: give the text between steps, such as \"\\n\\n\""));
    }
    let task = ScoreTask::Steps(StepOptions { separator, marker, positive });
    let shown = (scope, show_reasoning);
    Ok(Arc::new(ProcessReward { model: named("model", model)?, task, aggregate, line, shown }))
}

impl ProcessReward {
    fn value(&self, given: &[ChatOutput]) -> Result<MetricValue> {
        let [ScoreOutput::Steps(scores)] = answers(given)? else { return Err(unexpected()) };
        self.aggregate.of(&scores.steps).map(|reward| self.line.at(reward)).ok_or_else(unexpected)
    }
}

impl Metric for ProcessReward {
    fn kind(&self) -> &str {
        "process_reward"
    }

    fn takes_extract(&self) -> bool {
        false
    }

    fn models(&self) -> Vec<Arc<str>> {
        vec![Arc::clone(&self.model)]
    }

    fn check_model(&self, _: &str, folder: &ModelFolder) -> Result<()> {
        input::check(folder, &self.task)
    }

    fn questions(&self, input: &MetricInput<'_>, answers: &[ChatOutput]) -> Result<Vec<Question>> {
        Ok(if answers.is_empty() { vec![question(&self.model, input, self.shown, &self.task)] } else { Vec::new() })
    }

    fn score(&self, batch: &[Answered<'_>]) -> Vec<Result<MetricValue>> {
        batch.iter().map(|scored| self.value(scored.answers)).collect()
    }
}
