//! A response and its sampled futures, as a ranking in the making keeps them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::chat::{Finish, Message, Role};
use crate::reward::{Evaluation, MetricInput, MetricValue, WeightedMetric};
use crate::rollout::{Ended, ModelRole, Rollout, Scene};
use crate::{Error, ErrorKind, Result};

use super::plan::RankPlan;
use super::ranking::{RoleCosts, RolloutTrace};

/// A response and its futures.
pub(super) struct Candidate {
    /// `None` until it is sampled.
    pub(super) response: Option<Message>,
    pub(super) futures: Vec<Future>,
    /// Its futures, if they are known from the start and need no sampling.
    pub(super) given: Option<Vec<RolloutTrace>>,
    /// The number of futures asked for so far.
    pub(super) samples: usize,
    /// The reason why the policy stopped writing it, if it was sampled.
    pub(super) finish: Option<Finish>,
    pub(super) failure: Option<Error>,
    /// True if an earlier ranking gave it up.
    pub(super) given_up: bool,
    /// A remark on it.
    pub(super) note: Option<String>,
    /// True if an earlier ranking sampled it as other tokens than its text gives.
    pub(super) retokenized_differs: bool,
    pub(super) cost: RoleCosts,
}

impl Candidate {
    pub(super) fn new(response: Option<String>, samples: usize) -> Self {
        Candidate {
            response: response.map(|text| Message::new(Role::Assistant, text)),
            futures: Vec::new(),
            given: None,
            samples,
            finish: None,
            failure: None,
            given_up: false,
            note: None,
            retokenized_differs: false,
            cost: RoleCosts::default(),
        }
    }
}

/// A future's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) candidate: usize,
    pub(super) sample: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "candidate {}, sample {}", self.candidate, self.sample)
    }
}

/// A rollout, its judging, and its scores.
pub(super) struct Future {
    pub(super) rollout: Rollout,
    pub(super) evaluation: Evaluation,
    /// The scores, one for each metric; `None` until the metric has scored.
    pub(super) scores: Vec<Option<Result<MetricValue>>>,
    /// The reason why it is not judged, although it may have ended well.
    pub(super) left_out: Option<String>,
    /// True once [`RankJob::take_ended`](super::RankJob::take_ended) gave it out.
    pub(super) told: bool,
    pub(super) cost: RoleCosts,
    /// What the weights are called that its replies were computed with, by role.
    pub(super) weights: BTreeMap<ModelRole, BTreeSet<Arc<str>>>,
}

impl Future {
    /// A future at its beginning, which `metrics` metrics will score.
    pub(super) fn new(rollout: Rollout, metrics: usize) -> Self {
        Future {
            rollout,
            evaluation: Evaluation::default(),
            scores: std::iter::repeat_with(|| None).take(metrics).collect(),
            left_out: None,
            told: false,
            cost: RoleCosts::default(),
            weights: BTreeMap::new(),
        }
    }

    /// Tells whether no model is asked about it any more, unless it is resumed.
    pub(super) fn is_answered(&self) -> bool {
        (self.rollout.ended().is_some() || self.rollout.is_paused()) && self.evaluation.is_answered()
    }

    /// Tells whether it is judged: it ended by itself, or it pauses.
    pub(super) fn is_judged(&self) -> bool {
        self.left_out.is_none() && (self.rollout.is_paused() || self.rollout.ended().is_some_and(Ended::is_scored))
    }

    /// Tells whether metrics score it: it is judged, and all their questions are answered.
    pub(super) fn is_scorable(&self) -> bool {
        self.is_judged() && self.evaluation.is_answered()
    }

    /// Forgets its judging, so that it is judged anew when it has ended.
    pub(super) fn forget_scores(&mut self) {
        self.evaluation = Evaluation::default();
        self.scores.iter_mut().for_each(|score| *score = None);
    }

    /// Tells whether nothing about it will change any more.
    pub(super) fn is_settled(&self) -> bool {
        self.is_answered() && (!self.is_scorable() || self.scores.iter().all(Option::is_some))
    }

    /// Its reward: the weighted sum of its metrics (Eq. 2); `None` where one is missing or the sum overflows.
    pub(super) fn reward(&self, metrics: &[WeightedMetric]) -> Option<f64> {
        let value = |score: &Option<Result<MetricValue>>| score.as_ref()?.as_ref().ok().map(|value| value.value);
        let terms = self.scores.iter().zip(metrics).map(|(score, weighted)| Some(weighted.weight * value(score)?));
        self.left_out.is_none().then(|| terms.sum::<Option<f64>>()).flatten().filter(|sum| sum.is_finite())
    }

    /// Lets its evaluation go on. Metrics whose questions have failed have nothing more to score.
    pub(super) fn evaluate<T>(
        &mut self,
        plan: &RankPlan,
        scene: &Scene,
        go_on: impl FnOnce(&mut Evaluation, &MetricInput<'_>) -> T,
    ) -> T {
        let mut evaluation = std::mem::take(&mut self.evaluation);
        let messages = self.messages();
        let response = self.rollout.response();
        let went = go_on(&mut evaluation, &metric_input(plan, scene, response, &messages, self.ended_so_far()));
        self.evaluation = evaluation;
        for (metric, score) in self.scores.iter_mut().enumerate().filter(|(_, score)| score.is_none()) {
            *score = self.evaluation.failure_of(metric).map(|failure| Err(failure.duplicate()));
        }
        went
    }

    /// The reason why it ended. A future that pauses is judged as if its window ended there.
    pub(super) fn ended_so_far(&self) -> Ended {
        self.rollout.ended().unwrap_or(Ended::Window)
    }

    /// Its messages, without notes.
    pub(super) fn messages(&self) -> Vec<&Message> {
        self.rollout.future().iter().map(|said| &said.message).collect()
    }
}

/// The view that a metric has of a response and its future.
pub(super) fn metric_input<'a>(
    plan: &'a RankPlan,
    scene: &'a Scene,
    response: &'a Message,
    future: &'a [&'a Message],
    ended: Ended,
) -> MetricInput<'a> {
    MetricInput {
        history: &scene.history,
        future,
        ended,
        ..MetricInput::new(response, &scene.goal, &*plan.count_tokens)
    }
}

/// Tells whether an error says that the clock or the caller ended a request.
pub(super) fn is_interruption(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::DeadlineExceeded | ErrorKind::Cancelled)
}
