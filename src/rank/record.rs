//! What is known of one rollout once it has ended and is scored: what a trace keeps.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::assemble::{loss_of, traced};
use super::future::Future;
use super::plan::RankPlan;
use super::ranking::{RoleCosts, TracedMessage};
use crate::chat::{ChatOutput, Finish};
use crate::reward::WeightedMetric;
use crate::rollout::Ended;

/// A rollout that has ended and is scored, or that will not be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EndedRollout {
    /// Its candidate, from 0.
    pub candidate: usize,
    /// Which of the candidate's samples it is, from 0.
    pub sample: usize,
    /// The candidate's text.
    pub response: String,
    /// What was said after the response.
    pub messages: Vec<RecordedMessage>,
    /// Why it ended.
    pub ended: Ended,
    /// Seed of its random stream.
    pub seed: u64,
    /// The weighted sum of its metrics (Eq. 2); unknown where one is missing. Whether it counts, the ranking says: what it
    /// is paired with may have failed.
    pub reward: Option<f64>,
    /// Why it has no reward.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Each metric by name, with what models answered; empty where it was not judged.
    pub metrics: BTreeMap<String, MetricRecord>,
    /// What it cost.
    pub cost: RoleCosts,
}

/// A message with the tokens that it was sampled as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecordedMessage {
    /// The message.
    #[serde(flatten)]
    pub message: TracedMessage,
    /// Its tokens without the one that ends the turn, where its model is a local one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Vec<u32>>,
}

/// One metric on one rollout.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MetricRecord {
    /// Its value; `None` where it failed.
    pub value: Option<f64>,
    /// For metrics with a clamp: whether it took effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saturated: Option<bool>,
    /// For judged metrics: the least probability mass that fell on the answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mass: Option<f64>,
    /// What the metric says about its value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What was extracted from the conversation for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extracted: Option<String>,
    /// What models answered to its questions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<RawAnswer>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A model's answer as it came.
#[derive(Debug, Clone, PartialEq)]
pub enum RawAnswer {
    /// A text, and why it ended.
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
        }
    }
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
