//! The settings of a ranking, resolved: everything that it needs except the request.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::allocation::AllocationSettings;
use super::request::RankRequest;
use crate::reward::{Combination, TokenCounter, WeightedMetric};
use crate::rollout::{Goal, InstructedUser, ModelRole, RolloutSettings, Simulator};
use crate::{Error, Result};

/// The treatment of failures in a ranking.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailurePolicy {
    /// The ranking fails at the first failure.
    Error,
    /// The rollout is left out and reported. With common random numbers, the same sample of the other candidates is left out
    /// too, because a comparison on unequal luck would favour one of them.
    #[default]
    Drop,
}

/// The models that play the roles, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roles {
    /// Model name by role. Without an extractor, the judge extracts.
    pub models: BTreeMap<ModelRole, String>,
}

impl Roles {
    /// The role that stands in for `role`, and the name of its model.
    pub fn resolve(&self, role: ModelRole) -> Option<(ModelRole, &str)> {
        match (self.models.get(&role), role) {
            (Some(model), _) => Some((role, model)),
            (None, ModelRole::Extractor) => {
                self.models.get(&ModelRole::Judge).map(|model| (ModelRole::Judge, model.as_str()))
            }
            (None, _) => None,
        }
    }
}

/// The settings of rankings. Built from a [`Config`](crate::config::Config), or by hand.
#[derive(Clone)]
pub struct RankPlan {
    /// The models that play the roles.
    pub roles: Roles,
    /// Turns sampled ahead, unless the request says.
    pub window: usize,
    /// Futures for each candidate, unless the request says.
    pub samples: usize,
    /// The seed, unless the request says.
    pub seed: u64,
    /// The settings of futures.
    pub rollout: RolloutSettings,
    /// The allocation of futures to candidates.
    pub allocation: AllocationSettings,
    /// True if futures pause after their first turn, so that the worse half of the candidates can be given up there. Without
    /// effect if there is one turn, or two candidates.
    pub prune_after_first_turn: bool,
    /// The simulator of the user.
    pub simulator: Arc<dyn Simulator>,
    /// A file of real conversations, with whose users the simulated ones are compared.
    pub real_users: Option<PathBuf>,
    /// The metrics and their weights; at least one.
    pub metrics: Vec<WeightedMetric>,
    /// The way from their values to a reward.
    pub combination: Combination,
    /// The treatment of a rollout for which a metric has no value.
    pub on_metric_failure: FailurePolicy,
    /// The treatment of a rollout that fails.
    pub on_rollout_failure: FailurePolicy,
    /// The counter of tokens for metrics: the tokenizer of the policy.
    pub count_tokens: TokenCounter,
}

impl std::fmt::Debug for RankPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RankPlan")
            .field("roles", &self.roles)
            .field("window", &self.window)
            .field("samples", &self.samples)
            .field("seed", &self.seed)
            .field("metrics", &self.metrics)
            .finish_non_exhaustive()
    }
}

impl RankPlan {
    /// A plan with the paper's window and samples (2 and 3), no models, and no metrics yet.
    pub fn new(count_tokens: TokenCounter) -> Self {
        RankPlan {
            roles: Roles::default(),
            window: 2,
            samples: 3,
            seed: 0,
            rollout: RolloutSettings::default(),
            allocation: AllocationSettings::default(),
            prune_after_first_turn: false,
            simulator: Arc::new(InstructedUser::default()),
            real_users: None,
            metrics: Vec::new(),
            combination: Combination::default(),
            on_metric_failure: FailurePolicy::default(),
            on_rollout_failure: FailurePolicy::default(),
            count_tokens,
        }
    }

    /// Refuses a goal that lacks what a metric needs.
    pub(crate) fn check_goal(&self, goal: &Goal) -> Result<()> {
        self.metrics.iter().try_for_each(|weighted| weighted.metric.check(goal))
    }

    /// The models that metrics name, each once.
    pub fn metric_models(&self) -> Vec<Arc<str>> {
        let mut names: Vec<Arc<str>> = self.metrics.iter().flat_map(|weighted| weighted.metric.models()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The window in force for `request`.
    pub fn window(&self, request: &RankRequest) -> usize {
        request.window.unwrap_or(self.window)
    }

    /// The number of futures in force for `request`. If nothing is sampled, there is one evaluation.
    pub fn samples(&self, request: &RankRequest) -> usize {
        if self.window(request) == 0 { 1 } else { request.samples.unwrap_or(self.samples) }
    }

    /// The roles that models have to play if this many turns are sampled.
    pub(crate) fn needs(&self, window: usize) -> Vec<ModelRole> {
        let sampling = if window > 0 { &[ModelRole::Policy, ModelRole::User][..] } else { &[] };
        let roles = |weighted: &WeightedMetric| {
            let extractor = weighted.extract.as_ref().map(|_| ModelRole::Extractor);
            weighted.metric.roles().iter().copied().chain(extractor).collect::<Vec<_>>()
        };
        sampling.iter().copied().chain(self.metrics.iter().flat_map(roles)).collect()
    }

    /// Refuses plans and goals with which a ranking could not be finished.
    pub(super) fn check(&self, needs: impl IntoIterator<Item = ModelRole>, goal: &Goal) -> Result<()> {
        if self.metrics.is_empty() {
            return Err(Error::invalid_config("there are no metrics: choose a preset, or list [[metrics]]"));
        }
        for role in needs {
            self.check_role(role, "sampling futures or candidates")?;
        }
        WeightedMetric::check_all(&self.metrics)?;
        for weighted in &self.metrics {
            weighted.metric.check(goal)?;
            let extractor = weighted.extract.as_ref().map(|_| &ModelRole::Extractor);
            for &role in weighted.metric.roles().iter().chain(extractor) {
                self.check_role(role, &format!("metric `{}`", weighted.name))?;
            }
        }
        Ok(())
    }

    fn check_role(&self, role: ModelRole, who: &str) -> Result<()> {
        let name = role.as_str();
        match self.roles.resolve(role) {
            Some(_) => Ok(()),
            None => Err(Error::invalid_config(format!(
                "roles.{name} is missing, and {who} needs it: name one of [models] there"
            ))),
        }
    }
}
