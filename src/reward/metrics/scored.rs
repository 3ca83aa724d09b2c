//! Shared parts of the metrics that ask a model for scores.

use std::sync::Arc;

use serde::Deserialize;

use crate::chat::{ChatOutput, ChatTask, Message, Role};
use crate::reward::metric::{MetricInput, MetricValue, Question};
use crate::rollout::ModelRole;
use crate::score::{ScoreOutput, ScoreTask};
use crate::{Error, ErrorKind, Result};

/// The part of the conversation that is scored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Scope {
    /// History, response and future, up to the assistant's last message, because models are trained on conversations
    /// that end with it.
    #[default]
    Conversation,
    /// History and response.
    Response,
}

impl Scope {
    fn messages(self, input: &MetricInput<'_>, show_reasoning: bool) -> Vec<Message> {
        let mut messages: Vec<&Message> = match self {
            Scope::Conversation => input.messages().collect(),
            Scope::Response => input.history.iter().chain(std::iter::once(input.response)).collect(),
        };
        while messages.last().is_some_and(|message| message.role != Role::Assistant) {
            messages.pop();
        }
        let shown = |message: &Message| match show_reasoning || message.visible() == message.content {
            true => message.clone(),
            false => Message::new(message.role, message.visible()),
        };
        messages.into_iter().map(shown).collect()
    }
}

/// A question to a model by its name.
pub(super) fn question(
    model: &Arc<str>,
    input: &MetricInput<'_>,
    (scope, show_reasoning): (Scope, bool),
    task: &ScoreTask,
) -> Question {
    Question {
        role: ModelRole::RewardModel,
        model: Some(Arc::clone(model)),
        messages: scope.messages(input, show_reasoning),
        task: ChatTask::Score(task.clone()),
    }
}

/// The scores among a metric's answers, `COUNT` of them.
pub(super) fn answers<const COUNT: usize>(answers: &[ChatOutput]) -> Result<[&ScoreOutput; COUNT]> {
    let mut scores = Vec::new();
    for answer in answers {
        match answer {
            ChatOutput::Score(score) => scores.push(score),
            _ => return Err(Error::new(ErrorKind::ModelOutput, "the model gave no score")),
        }
    }
    let count = scores.len();
    scores.try_into().map_err(|_| Error::internal(format!("it asked {COUNT} questions and got {count} answers")))
}

/// A score of a kind that was not asked for.
pub(super) fn unexpected() -> Error {
    Error::new(ErrorKind::ModelOutput, "the model gave a score of the wrong kind")
}

/// A model's number on the metric's own scale.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line {
    pub(super) scale: f64,
    pub(super) offset: f64,
}

impl Line {
    pub(super) fn validate(self) -> Result<()> {
        for (key, value) in [("scale", self.scale), ("offset", self.offset)] {
            if !value.is_finite() {
                return Err(Error::invalid_config(format!("{key} = {value} is not a finite number")));
            }
        }
        Ok(())
    }

    pub(super) fn at(self, number: f64) -> MetricValue {
        MetricValue::from(self.scale * number + self.offset)
    }
}

/// Refuses an absent or empty name of a model.
pub(super) fn named(key: &str, name: Option<String>) -> Result<Arc<str>> {
    match name {
        Some(name) if !name.trim().is_empty() => Ok(name.into()),
        _ => Err(Error::invalid_config(format!("{key} is missing: name one of [models], as in {key} = \"NAME\""))),
    }
}
