//! The lines of a trace as types. They are written as JSON and read again, so a line that was read can be written as it was.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::chat::{Message, Role};
use crate::json;
use crate::model::tokenizer::DateTime;
use crate::rank::{Candidates, EndedRollout, RankPlan, RankRequest, Ranking, SCHEMA, schema};
use crate::rollout::Goal;

/// A line of a trace. It serialises as the line.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Record {
    /// A ranking begins.
    Request {
        /// The name of the ranking.
        ranking: String,
        /// The request.
        request: Box<TracedRequest>,
    },
    /// A rollout has ended.
    Rollout {
        /// The name of the ranking.
        ranking: String,
        /// The rollout.
        rollout: Box<EndedRollout>,
    },
    /// A ranking has ended.
    Ranking {
        /// The name of the ranking.
        ranking: String,
        /// The ranking itself.
        result: Box<Ranking>,
    },
    /// A kind that this version does not know: a later version wrote it.
    Other {
        /// The kind.
        kind: String,
        /// All fields of the line, `kind` included.
        fields: Map<String, Value>,
    },
}

impl Record {
    /// The name of the ranking that the line belongs to. Known for all kinds that this version writes.
    pub fn ranking(&self) -> Option<&str> {
        match self {
            Record::Request { ranking, .. } | Record::Rollout { ranking, .. } | Record::Ranking { ranking, .. } => {
                Some(ranking)
            }
            Record::Other { fields, .. } => fields.get("ranking").and_then(Value::as_str),
        }
    }
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let line = match self {
            Record::Request { ranking, request } => Line::Request { ranking, request },
            Record::Rollout { ranking, rollout } => Line::Rollout { ranking, rollout },
            Record::Ranking { ranking, result } => Line::Ranking { ranking, result },
            Record::Other { fields, .. } => return fields.serialize(serializer),
        };
        line.serialize(serializer)
    }
}

/// A line as it is written.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Line<'a> {
    Request {
        ranking: &'a str,
        #[serde(flatten)]
        request: &'a TracedRequest,
    },
    Rollout {
        ranking: &'a str,
        #[serde(flatten)]
        rollout: &'a EndedRollout,
    },
    Ranking {
        ranking: &'a str,
        result: &'a Ranking,
    },
}

/// A request to rank, with the settings in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TracedRequest {
    /// Version of this format: 1. Fields may be added under the same number. Reading refuses other versions.
    #[serde(deserialize_with = "schema")]
    pub schema: u32,
    /// The time in UTC, as `2026-11-25T15:00:00Z`.
    pub time: String,
    /// The conversation before the candidates.
    #[serde(deserialize_with = "messages")]
    pub conversation: Vec<Message>,
    /// The responses that were ranked.
    pub candidates: Candidates,
    /// The goal of the user.
    #[serde(deserialize_with = "KnownGoal::deserialize")]
    pub goal: Goal,
    /// Turns sampled ahead.
    pub window: usize,
    /// Futures for each candidate.
    pub samples: usize,
    /// The seed that decided all random draws.
    pub seed: u64,
    /// The metrics that the reward is made of.
    pub metrics: Vec<TracedMetric>,
}

/// A metric of a ranking.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TracedMetric {
    /// Its name, unique in the ranking.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// Its factor in the reward.
    #[serde(deserialize_with = "json::null_is_nan::number")]
    pub weight: f64,
}

impl TracedRequest {
    /// The request as it is ranked under `plan`, now.
    pub(super) fn new(request: &RankRequest, plan: &RankPlan) -> Self {
        let metrics = plan.metrics.iter().map(|weighted| TracedMetric {
            name: weighted.name.clone(),
            kind: weighted.metric.kind().to_owned(),
            weight: weighted.weight,
        });
        TracedRequest {
            schema: SCHEMA,
            time: format!("{}Z", DateTime::now()),
            conversation: request.conversation.clone(),
            candidates: request.candidates.clone(),
            goal: request.goal.clone(),
            window: plan.window(request),
            samples: plan.samples(request),
            seed: request.seed.unwrap_or(plan.seed),
            metrics: metrics.collect(),
        }
    }
}

/// Messages with fields that a later version may have added. A request refuses these, because it is written by people.
fn messages<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Message>, D::Error> {
    #[derive(Deserialize)]
    struct Known {
        role: Role,
        content: String,
    }
    let known = Vec::<Known>::deserialize(deserializer)?;
    Ok(known.into_iter().map(|Known { role, content }| Message::new(role, content)).collect())
}

/// A [`Goal`] with fields that a later version may have added.
#[derive(Deserialize)]
#[serde(remote = "Goal")]
struct KnownGoal {
    task: Option<String>,
    prompt: Option<String>,
    reference: Option<String>,
    tests: Option<String>,
    entry_point: Option<String>,
    ambiguous: Option<bool>,
}
