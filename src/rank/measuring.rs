//! Metrics at work: they turn conversations whose questions are answered into values.
//!
//! A metric may block, because it may be a program or a callback of the host. So metrics do not run on the thread that drives
//! the models. A [`MetricBatch`] owns everything that they look at. The driver of the job runs it on any thread and brings the
//! [`MetricValues`] back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::future::{Future, Place, metric_input};
use super::plan::RankPlan;
use crate::chat::{ChatOutput, Message};
use crate::reward::{Answered, MetricInput, MetricValue, WeightedMetric};
use crate::rollout::{Ended, Scene};
use crate::{Error, ErrorKind, Result};

/// Conversations that metrics have to score.
#[must_use = "the job waits for its scores"]
pub struct MetricBatch {
    plan: Arc<RankPlan>,
    scene: Arc<Scene>,
    conversations: Vec<Conversation>,
    /// For each metric, the conversations that it scores, with the answers about each.
    work: Vec<(usize, Vec<Owed>)>,
}

/// The result of a [`MetricBatch`].
pub struct MetricValues(pub(super) Vec<(Place, usize, Result<MetricValue>)>);

struct Conversation {
    place: Place,
    response: Message,
    future: Vec<Message>,
    ended: Ended,
}

struct Owed {
    conversation: usize,
    answers: Vec<ChatOutput>,
    extracted: Option<String>,
}

impl MetricBatch {
    pub(super) fn new(plan: &Arc<RankPlan>, scene: &Arc<Scene>) -> Self {
        let work = (0..plan.metrics.len()).map(|metric| (metric, Vec::new())).collect();
        MetricBatch { plan: Arc::clone(plan), scene: Arc::clone(scene), conversations: Vec::new(), work }
    }

    /// Adds a future for the metrics that `wanted` names and that have their answers.
    pub(super) fn add(&mut self, place: Place, future: &Future, wanted: impl Fn(&WeightedMetric) -> bool) {
        let conversation = self.conversations.len();
        let mut any = false;
        for (metric, answered) in &mut self.work {
            let weighted = &self.plan.metrics[*metric];
            if future.scores[*metric].is_none()
                && wanted(weighted)
                && let Ok(answers) = future.evaluation.answers(*metric)
            {
                let extracted = future.evaluation.extracted(weighted).map(str::to_owned);
                answered.push(Owed { conversation, answers, extracted });
                any = true;
            }
        }
        if any {
            self.conversations.push(Conversation {
                place,
                response: future.rollout.response().clone(),
                future: future.messages().into_iter().cloned().collect(),
                ended: future.ended_so_far(),
            });
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.conversations.is_empty()
    }

    /// MetricValues. Takes as long as the metrics do.
    pub fn run(self) -> MetricValues {
        let mut scores = Vec::new();
        for (metric, answered) in self.work.iter().filter(|(_, answered)| !answered.is_empty()) {
            let places = answered.iter().map(|answered| self.conversations[answered.conversation].place);
            let results = self.score(&self.plan.metrics[*metric], answered);
            scores.extend(places.zip(results).map(|(place, result)| (place, *metric, result)));
        }
        MetricValues(scores)
    }

    /// Runs one metric on its conversations. Returns one result for each.
    fn score(&self, weighted: &WeightedMetric, answered: &[Owed]) -> Vec<Result<MetricValue>> {
        let futures: Vec<Vec<&Message>> =
            answered.iter().map(|answered| self.conversations[answered.conversation].future.iter().collect()).collect();
        let batch: Vec<Answered<'_>> = answered
            .iter()
            .zip(&futures)
            .map(|(answered, future)| Answered { input: self.input(answered, future), answers: &answered.answers })
            .collect();
        let named = |error: Error| error.context(format!("metric `{}`", weighted.name));
        // The metric may be the host's. Its panic is a failure of the metric, and does not end the ranking.
        let results = catch_unwind(AssertUnwindSafe(|| weighted.metric.score(&batch))).unwrap_or_else(|panic| {
            let error = Error::internal(format!("it panicked: {}", said(&*panic)));
            batch.iter().map(|_| Err(error.duplicate())).collect()
        });
        let (asked, got) = (batch.len(), results.len());
        if asked != got {
            let error = named(Error::internal(format!("it gave {got} results for {asked} conversations")));
            return batch.iter().map(|_| Err(error.duplicate())).collect();
        }
        results.into_iter().map(|result| result.and_then(finite).map_err(named)).collect()
    }

    fn input<'a>(&'a self, answered: &'a Owed, future: &'a [&'a Message]) -> MetricInput<'a> {
        let conversation = &self.conversations[answered.conversation];
        let Conversation { response, ended, .. } = conversation;
        let input = metric_input(&self.plan, &self.scene, response, future, *ended);
        MetricInput { extracted: answered.extracted.as_deref(), ..input }
    }
}

/// The message of a panic.
fn said(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

fn finite(score: MetricValue) -> Result<MetricValue> {
    if score.value.is_finite() {
        return Ok(score);
    }
    Err(Error::new(ErrorKind::ModelOutput, format!("its value is {}, not a finite number", score.value)))
}
