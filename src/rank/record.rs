//! The record of a rollout that has ended and is scored, as a trace keeps it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};

use super::assemble::{loss_of, traced};
use super::future::Future;
use super::plan::RankPlan;
use super::ranking::{RoleCosts, TracedMessage};
use crate::chat::{ChatOutput, Finish};
use crate::json;
use crate::reward::WeightedMetric;
use crate::rollout::{Ended, ModelRole};

/// A rollout that has ended. It is scored, or it will not be scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EndedRollout {
    /// The number of its candidate, from 0.
    pub candidate: usize,
    /// Its number among the candidate's samples, from 0.
    pub sample: usize,
    /// The candidate's text.
    pub response: String,
    /// The messages after the response.
    pub messages: Vec<RecordedMessage>,
    /// The reason why it ended.
    pub ended: Ended,
    /// Seed of its random stream.
    pub seed: u64,
    /// The weighted sum of its metrics (Eq. 2); unknown where one is missing. The ranking says whether the rollout counts,
    /// because the rollout that it is paired with may have failed.
    pub reward: Option<f64>,
    /// The reason why it has no reward.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Each metric by name, with the answers of models. Empty if the rollout was not judged.
    pub metrics: BTreeMap<String, MetricRecord>,
    /// Its cost.
    pub cost: RoleCosts,
    /// The names of the weights that its replies were computed with, by role. Several, if the weights changed meanwhile.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<ModelRole, Vec<String>>,
}

/// A message with the tokens that it was sampled as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RecordedMessage {
    /// The message.
    #[serde(flatten)]
    pub message: TracedMessage,
    /// Its tokens, without the one that ends the turn. Known if its model is local.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Vec<u32>>,
}

/// One metric on one rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MetricRecord {
    /// Its value; `None` if it failed.
    pub value: Option<f64>,
    /// For metrics with a clamp: true if the clamp took effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saturated: Option<bool>,
    /// For judged metrics: the smallest probability mass that fell on the answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mass: Option<f64>,
    /// A remark of the metric on its value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The text that was extracted from the conversation for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extracted: Option<String>,
    /// The answers of models to its questions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<RawAnswer>,
    /// The reason why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A model's answer as it came.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum RawAnswer {
    /// A text, and the reason why it ended.
    Text(String, Finish),
    /// Probabilities of the answers that were asked for.
    Probabilities(Vec<f64>),
    /// Numbers of a reward model.
    Score(Vec<f64>),
}

/// As `{"text", "finish"}`, `{"probabilities"}` or `{"score"}`.
impl Serialize for RawAnswer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(None)?;
        match self {
            RawAnswer::Text(text, finish) => {
                map.serialize_entry("text", text)?;
                map.serialize_entry("finish", finish)?;
            }
            RawAnswer::Probabilities(probabilities) => map.serialize_entry("probabilities", probabilities)?,
            RawAnswer::Score(numbers) => map.serialize_entry("score", numbers)?,
        }
        map.end()
    }
}

/// By hand, because an untagged enum says only that no variant matched.
impl<'de> Deserialize<'de> for RawAnswer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Parts {
            text: Option<String>,
            finish: Option<Finish>,
            #[serde(default, deserialize_with = "json::null_is_nan::list")]
            probabilities: Option<Vec<f64>>,
            #[serde(default, deserialize_with = "json::null_is_nan::list")]
            score: Option<Vec<f64>>,
        }
        match Parts::deserialize(deserializer)? {
            Parts { text: Some(text), finish: Some(finish), .. } => Ok(RawAnswer::Text(text, finish)),
            Parts { text: Some(_), finish: None, .. } => Err(D::Error::missing_field("finish")),
            Parts { probabilities: Some(probabilities), .. } => Ok(RawAnswer::Probabilities(probabilities)),
            Parts { score: Some(numbers), .. } => Ok(RawAnswer::Score(numbers)),
            _ => Err(D::Error::custom("an answer has none of `text`, `probabilities` and `score`")),
        }
    }
}

impl EndedRollout {
    pub(super) fn of(candidate: usize, sample: usize, future: &Future, plan: &RankPlan) -> Self {
        let said = future.rollout.future().iter().map(|said| RecordedMessage {
            message: traced(said),
            tokens: said.message.tokens.as_ref().map(|tokens| tokens.ids.to_vec()),
        });
        let judged = future.evaluation.is_started();
        let metrics = plan.metrics.iter().enumerate().filter(|_| judged);
        let reward = future.reward(&plan.metrics);
        EndedRollout {
            candidate,
            sample,
            response: future.rollout.response().content.clone(),
            messages: said.collect(),
            ended: future.rollout.ended().unwrap_or(Ended::Cancelled),
            seed: future.rollout.seed(),
            reward,
            reason: loss_of(future, &plan.metrics, None).map(|loss| loss.reason().to_owned()),
            metrics: metrics.map(|(at, weighted)| (weighted.name.clone(), record(at, weighted, future))).collect(),
            cost: future.cost,
            weights: named(&future.weights),
        }
    }
}

/// The names of weights, by role.
pub(super) fn named(weights: &BTreeMap<ModelRole, BTreeSet<Arc<str>>>) -> BTreeMap<ModelRole, Vec<String>> {
    weights.iter().map(|(role, names)| (*role, names.iter().map(|name| name.to_string()).collect())).collect()
}

fn record(at: usize, weighted: &WeightedMetric, future: &Future) -> MetricRecord {
    let score = future.scores.get(at).and_then(Option::as_ref);
    let value = score.and_then(|score| score.as_ref().ok());
    let error = score.and_then(|score| score.as_ref().err().map(ToString::to_string));
    MetricRecord {
        value: value.map(|value| value.value),
        saturated: value.and_then(|value| value.saturated),
        mass: value.and_then(|value| value.mass),
        note: value.and_then(|value| value.note.clone()),
        extracted: future.evaluation.extracted(weighted).map(str::to_owned),
        answers: future.evaluation.raw_answers(at).map(raw).collect(),
        error,
    }
}

fn raw(output: &ChatOutput) -> RawAnswer {
    match output {
        ChatOutput::Text { text, finish, .. } => RawAnswer::Text(text.clone(), *finish),
        ChatOutput::Choice { probabilities } => RawAnswer::Probabilities(probabilities.clone()),
        ChatOutput::Score(score) => RawAnswer::Score(score.numbers()),
    }
}
