//! `reward_model`: the score that a classifier with a score head gives the conversation.
//!
//! Range: the head's raw logits, any number, unless `apply` says otherwise; then scale · score + offset.
//!
//! Settings: `model`, by its name in `[models]`; `label`, by name or place, if the head has several; `apply = "none" |
//! "sigmoid" | "softmax"` (softmax over all labels); `scale` (1) and `offset` (0), finite; `scope = "conversation" |
//! "response"` (up to the assistant's last message, or without the future); `show_reasoning = true` shows the model
//! what the assistant reasoned. Its tokens are `cost.reward_model`'s.

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::scored::{Line, Scope, answers, named, question, unexpected};
use super::settings;
use crate::chat::ChatOutput;
use crate::model::{Head, HeadKind, ModelFolder};
use crate::reward::metric::{Answered, Metric, MetricInput, MetricValue, Question};
use crate::score::output::softmax;
use crate::score::{Label, ScoreOutput, ScoreTask, Scores, input};
use crate::{Error, Result};

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    model: Option<String>,
    label: Option<Label>,
    apply: Apply,
    scale: f64,
    offset: f64,
    scope: Scope,
    show_reasoning: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            model: None,
            label: None,
            apply: Apply::None,
            scale: 1.0,
            offset: 0.0,
            scope: Scope::default(),
            show_reasoning: false,
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Apply {
    None,
    Sigmoid,
    Softmax,
}

struct RewardModel {
    model: Arc<str>,
    label: Option<Label>,
    apply: Apply,
    line: Line,
    shown: (Scope, bool),
}

pub(super) fn build(table: toml::Table, _: &Path) -> Result<Arc<dyn Metric>> {
    let Settings { model, label, apply, scale, offset, scope, show_reasoning } = settings(table)?;
    let line = Line { scale, offset };
    line.validate()?;
    Ok(Arc::new(RewardModel { model: named("model", model)?, label, apply, line, shown: (scope, show_reasoning) }))
}

impl RewardModel {
    fn place(&self, labels: &[String]) -> Result<usize> {
        match (&self.label, labels.len()) {
            (Some(label), _) => label.find(labels).map_err(|e| e.context("label")),
            (None, 1) => Ok(0),
            (None, _) => Err(Error::invalid_config(format!(
                "label is missing: model `{}` has the labels {}; say which is the reward",
                self.model,
                labels.join(", ")
            ))),
        }
    }

    fn value(&self, given: &[ChatOutput]) -> Result<MetricValue> {
        let [ScoreOutput::Labels(score)] = answers(given)? else { return Err(unexpected()) };
        let Scores::Text(logits) = &score.scores else { return Err(unexpected()) };
        let place = self.place(&score.labels)?;
        Ok(self.line.at(match self.apply {
            Apply::None => f64::from(logits[place]),
            Apply::Sigmoid => 1.0 / (1.0 + (-f64::from(logits[place])).exp()),
            Apply::Softmax => softmax(logits)[place],
        }))
    }
}

impl Metric for RewardModel {
    fn kind(&self) -> &str {
        "reward_model"
    }

    fn takes_extract(&self) -> bool {
        false
    }

    fn models(&self) -> Vec<Arc<str>> {
        vec![Arc::clone(&self.model)]
    }

    fn check_model(&self, name: &str, folder: &ModelFolder) -> Result<()> {
        input::check(folder, &ScoreTask::Labels)?;
        match folder.head() {
            Some(Head { kind: HeadKind::SequenceClassification, labels, .. }) => self.place(labels).map(|_| ()),
            _ => Err(Error::invalid_config(format!(
                "model `{name}` scores tokens, not whole conversations; use metric `process_reward`"
            ))),
        }
    }

    fn questions(&self, input: &MetricInput<'_>, answers: &[ChatOutput]) -> Result<Vec<Question>> {
        Ok(if answers.is_empty() {
            vec![question(&self.model, input, self.shown, &ScoreTask::Labels)]
        } else {
            Vec::new()
        })
    }

    fn score(&self, batch: &[Answered<'_>]) -> Vec<Result<MetricValue>> {
        batch.iter().map(|scored| self.value(scored.answers)).collect()
    }
}
