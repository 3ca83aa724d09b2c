//! What comes out: candidates by reward, with everything that led to it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::allocation::Strategy;
use crate::chat::{Finish, Role, Usage};
use crate::reward::Difference;
use crate::rollout::{Confusion, Ended, ModelRole};

/// Candidates ranked by multiturn-aware reward. What is unknown is `None`, null in JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ranking {
    /// Version of this format: 1. Fields may be added under the same number.
    pub schema: u32,
    /// Best first; candidates without a reward last. Equals are in the order of the request.
    pub ranking: Vec<RankedCandidate>,
    /// What it cost.
    pub cost: Cost,
    /// Which models played which role.
    pub models: BTreeMap<ModelRole, ModelInfo>,
    /// Which candidates got how many rollouts, and why there were no more.
    pub allocation: AllocationSummary,
    /// Which models metrics asked by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reward_models: Vec<ModelInfo>,
    /// Whether the same request with the same seed gives this ranking again, to the last bit (but for times and counts of
    /// reused tokens).
    pub bitwise: bool,
    /// Whether every rollout ran to its own end. If not, a deadline or the caller cut the ranking short, and it rests on
    /// the samples that were finished for all candidates.
    pub complete: bool,
    /// What else its reader has to know, such as that a model said its API key back.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A candidate and its reward.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RankedCandidate {
    /// Its place in the request, from 0.
    pub candidate: usize,
    /// Its text; unknown only where it was to be sampled and was not.
    pub response: Option<String>,
    /// The multiturn-aware reward (Eq. 1): the mean over the rollouts that count. Unknown where none does.
    pub reward: Option<f64>,
    /// Standard error of the reward; unknown at one sample.
    pub std_error: Option<f64>,
    /// 95% interval of the reward by Student's t; unknown at one sample.
    pub interval: Option<[f64; 2]>,
    /// Its reward less that of the best; sharper than the two intervals where random numbers are common. Unknown for the
    /// best itself, and where either has no reward.
    pub difference: Option<Difference>,
    /// Probability that it is the best of the candidates, in [0, 1]; unknown at one sample.
    pub probability_best: Option<f64>,
    /// Whether the allocation of rollouts gave it up: it has fewer of them, on purpose.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub given_up: bool,
    /// Each metric over the rollouts that count, by name.
    pub metrics: BTreeMap<String, MetricSummary>,
    /// All rollouts, by sample.
    pub rollouts: Vec<RolloutTrace>,
    /// How many of the rollouts asked for do not count.
    pub excluded: usize,
    /// In how many rollouts the simulated user spoke as the assistant; they count, but tell less.
    #[serde(skip_serializing_if = "is_zero")]
    pub confused: usize,
    /// Why the response itself is missing or cut off, if it was to be sampled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Whether the response was sampled as other tokens than its text gives.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub retokenized_differs: bool,
    /// This candidate's share of the cost.
    pub cost: RoleCosts,
}

/// How rollouts were allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct AllocationSummary {
    /// Which candidates were to get how many.
    pub strategy: Strategy,
    /// Rounds of rollouts; between them, rewards were looked at.
    pub rounds: usize,
    /// Rollouts asked for in all.
    pub rollouts: usize,
    /// Why there were no more: "complete", "budget", "sure"; "deadline" or "cancelled" where the ranking was cut short.
    pub stopped: &'static str,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// One metric over the rollouts that count.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MetricSummary {
    /// Mean; unknown where no rollout counts.
    pub mean: Option<f64>,
    /// Standard error of the mean; unknown at one sample.
    pub std_error: Option<f64>,
    /// Its factor in the reward.
    pub weight: f64,
    /// For metrics with a clamp: the share of rollouts on which it took effect, in [0, 1]. 1 where the mean was clamped
    /// ([`Combination::ClampedMeans`](crate::reward::Combination)).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saturated: Option<f64>,
    /// For judged metrics: the least probability mass that fell on the answers, in [0, 1].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mass: Option<f64>,
}

/// One sampled future and what it was worth.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RolloutTrace {
    /// Which sample this is, from 0.
    pub sample: usize,
    /// What was said after the response.
    pub messages: Vec<TracedMessage>,
    /// Value of each metric; `None` where it failed or was not asked.
    pub metrics: BTreeMap<String, Option<f64>>,
    /// Weighted sum of the metrics (Eq. 2); `None` where one is missing.
    pub reward: Option<f64>,
    /// Why it ended.
    pub ended: Ended,
    /// Seed of its random stream.
    pub seed: u64,
    /// Whether it counts.
    pub counted: bool,
    /// If not, why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A message of a future.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TracedMessage {
    /// Who speaks.
    pub role: Role,
    /// The text.
    pub content: String,
    /// Why the model stopped writing, where it was not of its own accord ("length": cut off).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finish: Option<Finish>,
    /// Whether it was sampled as other tokens than its text gives; the conversation went on from the sampled ones.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub retokenized_differs: bool,
    /// How a user's message shows that its model speaks as the assistant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confusion: Option<Confusion>,
}

/// Usage by role.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct RoleCosts {
    /// The policy's.
    pub policy: Usage,
    /// The user simulator's.
    pub user: Usage,
    /// The judge's.
    pub judge: Usage,
    /// The extractor's, where it is another model than the judge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extractor: Option<Usage>,
    /// That of the models which metrics name, all together.
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

/// What a ranking cost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Cost {
    /// By role.
    #[serde(flatten)]
    pub roles: RoleCosts,
    /// Wall time in seconds.
    pub seconds: f64,
}

/// Which model played a role.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ModelInfo {
    /// Its name in the configuration.
    pub name: String,
    /// A hash or version of its weights, where known.
    pub weights: Option<String>,
    /// The date that its chat template printed, where it prints one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
}

/// What the driver of a job knows about the models.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelsInfo {
    /// The models by role.
    pub models: BTreeMap<ModelRole, ModelInfo>,
    /// Those that metrics name, by name.
    pub reward_models: Vec<ModelInfo>,
    /// Whether all of them give equal replies to equal requests, to the last bit.
    pub bitwise: bool,
}
