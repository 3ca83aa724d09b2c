//! `similarity`: the similarity in meaning of what was written to `goal.reference`, as the cosine of their embeddings
//! by a sentence encoder.
//!
//! What was written is the result of `extract`, otherwise the assistant's last message. Range [−1, 1], before scale and
//! offset. Needs `goal.reference`. A text longer than the encoder's context is a failure; it is not cut off.
//!
//! Settings: `model`, an exported sentence encoder by its name in `[models]`; `scale` (1) and `offset` (0), finite. Its
//! tokens are `cost.reward_model`'s.

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::scored::{Line, answers, named, unexpected};
use super::settings;
use crate::chat::{ChatOutput, ChatTask, Message, Role};
use crate::model::ModelFolder;
use crate::reward::metric::{Answered, Metric, MetricInput, MetricValue, Question};
use crate::rollout::{Goal, ModelRole};
use crate::score::{ScoreOutput, ScoreTask, input};
use crate::{Error, ErrorKind, Result};

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    model: Option<String>,
    scale: f64,
    offset: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { model: None, scale: 1.0, offset: 0.0 }
    }
}

struct Similarity {
    model: Arc<str>,
    line: Line,
}

pub(super) fn build(table: toml::Table, _: &Path) -> Result<Arc<dyn Metric>> {
    let Settings { model, scale, offset } = settings(table)?;
    let line = Line { scale, offset };
    line.validate()?;
    Ok(Arc::new(Similarity { model: named("model", model)?, line }))
}

impl Similarity {
    fn question(&self, text: &str) -> Question {
        Question {
            role: ModelRole::RewardModel,
            model: Some(Arc::clone(&self.model)),
            messages: vec![Message::new(Role::User, text)],
            task: ChatTask::Score(ScoreTask::Embedding),
        }
    }

    fn value(&self, given: &[ChatOutput]) -> Result<MetricValue> {
        match answers(given)? {
            [ScoreOutput::Embedding(text), ScoreOutput::Embedding(reference)] => {
                Ok(self.line.at(cosine(text, reference)?))
            }
            _ => Err(unexpected()),
        }
    }
}

/// The cosine of the angle between two vectors, in [−1, 1].
fn cosine(one: &[f32], other: &[f32]) -> Result<f64> {
    if one.len() != other.len() {
        return Err(unexpected());
    }
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let lengths = (dot(one, one) * dot(other, other)).sqrt();
    if lengths > 0.0 && lengths.is_finite() {
        return Ok((dot(one, other) / lengths).clamp(-1.0, 1.0));
    }
    let what = format!("an embedding has no direction: the product of their lengths is {lengths}");
    Err(Error::new(ErrorKind::ModelOutput, what))
}

impl Metric for Similarity {
    fn kind(&self) -> &str {
        "similarity"
    }

    fn models(&self) -> Vec<Arc<str>> {
        vec![Arc::clone(&self.model)]
    }

    fn check_model(&self, _: &str, folder: &ModelFolder) -> Result<()> {
        input::check(folder, &ScoreTask::Embedding)
    }

    fn check(&self, goal: &Goal) -> Result<()> {
        super::reference(goal, "similarity").map(|_| ())
    }

    fn questions(&self, input: &MetricInput<'_>, answers: &[ChatOutput]) -> Result<Vec<Question>> {
        if !answers.is_empty() {
            return Ok(Vec::new());
        }
        let reference = super::reference(input.goal, "similarity")?;
        Ok(vec![self.question(input.subject()), self.question(reference)])
    }

    fn score(&self, batch: &[Answered<'_>]) -> Vec<Result<MetricValue>> {
        batch.iter().map(|scored| self.value(scored.answers)).collect()
    }
}
