//! The result: candidates by reward, with everything that led to it.
//!
//! The types are written as JSON and read again. Unknown fields are passed over, because later versions add some. JSON has
//! only finite numbers: any other number is null there, and is read as unknown or as NaN.

use std::collections::BTreeMap;

use serde::de::value::{Error as ValueError, StrDeserializer};
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};

use super::allocation::Strategy;
use crate::chat::{Finish, Role, Usage};
use crate::json;
use crate::reward::Difference;
use crate::rollout::{Confusion, Ended, ModelRole};

/// The version of the JSON of rankings and their traces.
pub(crate) const SCHEMA: u32 = 1;

/// Candidates ranked by multiturn-aware reward. A field is `None`, null in JSON, where its value is unknown.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // What `foreturn rank --json` printed.
/// let ranking: foreturn::Ranking = serde_json::from_str(&std::fs::read_to_string("ranking.json")?)?;
/// println!("best: candidate {}", ranking.candidates[0].candidate);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Ranking {
    /// Version of this format: 1. Fields may be added under the same number. Reading refuses other versions.
    #[serde(deserialize_with = "schema")]
    pub schema: u32,
    /// The candidates, best first. Candidates without a reward come last. Equals are in the order of the request. The
    /// field is called `ranking` in JSON.
    #[serde(rename = "ranking")]
    pub candidates: Vec<RankedCandidate>,
    /// Its cost.
    pub cost: Cost,
    /// The models that played the roles.
    #[serde(deserialize_with = "known_roles")]
    pub models: BTreeMap<ModelRole, ModelInfo>,
    /// The allocation of rollouts to candidates, and why there were no more.
    pub allocation: AllocationSummary,
    /// The models that metrics asked by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reward_models: Vec<ModelInfo>,
    /// True if the same request with the same seed gives this ranking again, to the last bit, except for times and counts of
    /// reused tokens.
    pub bitwise: bool,
    /// True if every rollout ran to its own end. Otherwise a deadline or the caller cut the ranking short, and it rests on the
    /// samples that were finished for all candidates.
    pub complete: bool,
    /// Why a rollout was lost, if it was by what models run on (an endpoint that was away) and not by what they said. The same
    /// request may get another ranking later, so runs over many conversations hold such a conversation again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outage: Option<String>,
    /// Remarks that the reader has to know, such as that a model repeated its API key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Ranking {
    /// True if it ended early, before any candidate had a reward. Nobody can choose by it then.
    pub fn came_to_nothing(&self) -> bool {
        !self.complete && self.candidates.iter().all(|candidate| candidate.reward.is_none())
    }
}

/// A candidate and its reward.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct RankedCandidate {
    /// Its place in the request, from 0.
    pub candidate: usize,
    /// Its text. Unknown only if it had to be sampled and was not.
    pub response: Option<String>,
    /// The multiturn-aware reward (Eq. 1): the mean over the rollouts that count. Unknown if none does.
    pub reward: Option<f64>,
    /// Standard error of the reward; unknown at one sample.
    pub std_error: Option<f64>,
    /// 95% interval of the reward by Student's t; unknown at one sample.
    #[serde(default, deserialize_with = "json::null_is_nan::pair")]
    pub interval: Option<[f64; 2]>,
    /// Its reward minus that of the best. With common random numbers, it is sharper than the two intervals. Unknown for the
    /// best itself, and if either has no reward.
    pub difference: Option<Difference>,
    /// The probability that it is the best of the candidates, in [0, 1]; unknown at one sample.
    pub probability_best: Option<f64>,
    /// True if the allocation of rollouts gave it up. It then has fewer of them, on purpose.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub given_up: bool,
    /// Each metric over the rollouts that count, by name.
    pub metrics: BTreeMap<String, MetricSummary>,
    /// All rollouts, by sample.
    pub rollouts: Vec<RolloutTrace>,
    /// The number of rollouts that were asked for and do not count.
    pub excluded: usize,
    /// The number of rollouts in which the simulated user spoke as the assistant. They count, although they tell less.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub confused: usize,
    /// The reason why the response itself is missing or cut off, if it had to be sampled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// True if the response was sampled as other tokens than its text gives.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retokenized_differs: bool,
    /// This candidate's share of the cost.
    pub cost: RoleCosts,
}

/// The allocation of rollouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct AllocationSummary {
    /// The strategy that decided how many each candidate gets.
    pub strategy: Strategy,
    /// Rounds of rollouts. Between rounds, the strategy looked at the rewards.
    pub rounds: usize,
    /// Rollouts asked for in all.
    pub rollouts: usize,
    /// The reason why there were no more.
    pub stopped: Stopped,
}

/// The reason why a ranking asked for no more rollouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Stopped {
    /// All rollouts that the strategy wanted were sampled.
    Complete,
    /// The budget was spent.
    Budget,
    /// The best candidate was known with the confidence asked for.
    Sure,
    /// The deadline cut the ranking short.
    Deadline,
    /// The caller cut the ranking short.
    Cancelled,
}

/// Models by role, without roles of later versions.
fn known_roles<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<ModelRole, ModelInfo>, D::Error> {
    let roles = BTreeMap::<String, ModelInfo>::deserialize(deserializer)?;
    let known = |name: &str| ModelRole::deserialize(StrDeserializer::<ValueError>::new(name)).ok();
    Ok(roles.into_iter().filter_map(|(name, model)| Some((known(&name)?, model))).collect())
}

/// Reads the version, and refuses one that this library does not know.
pub(crate) fn schema<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    match u64::deserialize(deserializer)? {
        number if number == u64::from(SCHEMA) => Ok(SCHEMA),
        other => Err(D::Error::custom(format_args!("it has schema {other}; this version reads {SCHEMA}"))),
    }
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// One metric over the rollouts that count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct MetricSummary {
    /// Mean; unknown if no rollout counts.
    pub mean: Option<f64>,
    /// Standard error of the mean; unknown at one sample.
    pub std_error: Option<f64>,
    /// Its factor in the reward.
    #[serde(deserialize_with = "json::null_is_nan::number")]
    pub weight: f64,
    /// For metrics with a clamp: the share of rollouts on which it took effect, in [0, 1]. 1 where the mean was clamped
    /// ([`Combination::ClampedMeans`](crate::reward::Combination)).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saturated: Option<f64>,
    /// For judged metrics: the smallest probability mass that fell on the answers, in [0, 1].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mass: Option<f64>,
}

/// One sampled future and its value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct RolloutTrace {
    /// Its number among the samples, from 0.
    pub sample: usize,
    /// The messages after the response.
    pub messages: Vec<TracedMessage>,
    /// Value of each metric; `None` where it failed or was not asked.
    pub metrics: BTreeMap<String, Option<f64>>,
    /// Weighted sum of the metrics (Eq. 2); `None` where one is missing.
    pub reward: Option<f64>,
    /// The reason why it ended.
    pub ended: Ended,
    /// Seed of its random stream.
    pub seed: u64,
    /// True if it counts.
    pub counted: bool,
    /// The reason why it does not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A message of a future.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct TracedMessage {
    /// The speaker.
    pub role: Role,
    /// The text.
    pub content: String,
    /// The reason why the model stopped writing, if it did not end its turn itself ("length": cut off).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finish: Option<Finish>,
    /// True if it was sampled as other tokens than its text gives. The conversation went on from the sampled ones.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retokenized_differs: bool,
    /// The sign that the model of the user speaks as the assistant, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confusion: Option<Confusion>,
}

/// Usage by role.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct RoleCosts {
    /// The policy's.
    pub policy: Usage,
    /// The user simulator's.
    pub user: Usage,
    /// The judge's.
    pub judge: Usage,
    /// The extractor's, if it is another model than the judge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extractor: Option<Usage>,
    /// The usage of all models that metrics name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reward_model: Option<Usage>,
}

impl RoleCosts {
    /// Adds a request's usage to its role's.
    pub fn add(&mut self, role: ModelRole, usage: Usage) {
        *match role {
            ModelRole::Policy => &mut self.policy,
            ModelRole::User => &mut self.user,
            ModelRole::Judge => &mut self.judge,
            ModelRole::Extractor => self.extractor.get_or_insert_default(),
            ModelRole::RewardModel => self.reward_model.get_or_insert_default(),
        } += usage;
    }

    /// The sum over roles.
    pub fn total(&self) -> Usage {
        let mut total = self.policy;
        for usage in [self.user, self.judge, self.extractor.unwrap_or_default(), self.reward_model.unwrap_or_default()]
        {
            total += usage;
        }
        total
    }
}

impl std::ops::AddAssign for RoleCosts {
    fn add_assign(&mut self, other: Self) {
        self.policy += other.policy;
        self.user += other.user;
        self.judge += other.judge;
        for (sum, usage) in [(&mut self.extractor, other.extractor), (&mut self.reward_model, other.reward_model)] {
            if let Some(usage) = usage {
                *sum.get_or_insert_default() += usage;
            }
        }
    }
}

/// The cost of a ranking.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Cost {
    /// By role.
    #[serde(flatten)]
    pub roles: RoleCosts,
    /// Wall time in seconds.
    #[serde(deserialize_with = "json::null_is_nan::number")]
    pub seconds: f64,
}

/// A model that played a role.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ModelInfo {
    /// Its name in the configuration.
    pub name: String,
    /// A hash or version of its weights, if known.
    pub weights: Option<String>,
    /// The date that its chat template printed, if it prints one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
}

impl ModelInfo {
    /// The model called `name`, with these weights.
    pub fn new(name: impl Into<String>, weights: Option<String>) -> Self {
        ModelInfo { name: name.into(), weights, date: None }
    }
}

/// The models as the driver of a job knows them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelsInfo {
    /// The models by role.
    pub models: BTreeMap<ModelRole, ModelInfo>,
    /// The models that metrics name, by name.
    pub reward_models: Vec<ModelInfo>,
    /// True if all of them give equal replies to equal requests, to the last bit.
    pub bitwise: bool,
}
