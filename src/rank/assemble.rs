//! From finished rollouts to a [`Ranking`]: scores, weighted sums (Eq. 2), means over futures (Eq. 1).

use std::collections::BTreeMap;

use super::allocation::{Allocator, Strategy, Why};
use super::count::{self, Loss, Outcome};
use super::future::{Candidate, Future, is_interruption};
use super::job::{RankJob, StopReason};
use super::ranking::{
    AllocationSummary, Cost, MetricSummary, ModelsInfo, RankedCandidate, Ranking, RolloutTrace, SCHEMA, Stopped,
    TracedMessage,
};
use super::record::named;
use crate::chat::Finish;
use crate::reward::{Combination, Difference, Estimate, MetricValue, WeightedMetric, leads, probability_best};
use crate::rollout::{Ended, RolloutMessage};
use crate::{Error, ErrorKind, Result};

/// The result of a job that is done.
pub(super) fn ranking(job: &RankJob, models: ModelsInfo, seconds: f64) -> Result<Ranking> {
    let mut outcomes = outcomes(job);
    let complete = job.stopped().is_none() && !count::is_interrupted(&outcomes);
    settle(&mut outcomes, job);
    if complete {
        refuse_if_nothing_counts(&outcomes, &job.candidates)?;
    }
    let rewards: Vec<Vec<Option<f64>>> = outcomes.iter().map(|of| rewards(of, job)).collect();
    let of = |(at, candidate): (usize, &Candidate)| ranked(at, candidate, (&outcomes[at], &rewards[at]), job);
    let mut candidates: Vec<RankedCandidate> = job.candidates.iter().enumerate().map(of).collect();
    // The sort is stable, so equals stay in the order of the request. A candidate without a reward comes after those with one.
    // A candidate that was given up comes after those that were not, because less is known of it.
    let key = |candidate: &RankedCandidate| candidate.reward.unwrap_or(f64::NEG_INFINITY);
    candidates.sort_by(|a, b| a.given_up.cmp(&b.given_up).then(key(b).total_cmp(&key(a))));
    compare(&mut candidates, &rewards, job);
    let cost = Cost { roles: job.cost, seconds };
    let ModelsInfo { mut models, reward_models, bitwise } = models;
    // The weights that replies came from, which may have changed since.
    for (role, names) in named(&job.weights) {
        models.entry(role).and_modify(|model| model.weights = Some(names.join(", ")));
    }
    // The clock is not the same twice.
    let timed = job.plan.allocation.budget.seconds.is_some();
    let mut ranking = Ranking {
        schema: SCHEMA,
        candidates,
        cost,
        models,
        allocation: allocation(job),
        reward_models,
        bitwise: bitwise && complete && !timed,
        complete,
        outage: outcomes.iter().flatten().find_map(|outcome| outcome.loss.as_ref()?.outage()).map(str::to_owned),
        notes: job.notes.iter().cloned().collect(),
    };
    if let Some(origin) = &job.origin {
        origin.mark(&mut ranking);
    }
    Ok(ranking)
}

/// Leaves out what has nothing to be compared with. If nothing is sampled, there are no rounds: each candidate has its one
/// evaluation.
pub(super) fn settle(outcomes: &mut [Vec<Outcome>], job: &RankJob) {
    if job.scene.window > 0 {
        count::settle(outcomes, job.scene.settings.common_random_numbers);
    }
}

/// Whether a candidate gets no more rollouts, by this job's allocation or by that of the ranking whose futures it scores.
pub(super) fn is_given_up(candidate: usize, job: &RankJob) -> bool {
    let by_allocator = job.allocator.as_ref().is_some_and(|allocator| allocator.is_given_up(candidate));
    by_allocator || job.candidates[candidate].given_up
}

/// Compares each candidate with the best, by the rollouts that count.
fn compare(candidates: &mut [RankedCandidate], rewards: &[Vec<Option<f64>>], job: &RankJob) {
    let paired = job.scene.settings.common_random_numbers;
    let probabilities = probability_best(rewards, paired);
    let stops = strategy(job) == Strategy::StopWhenSure;
    // Intervals are wider if the best was chosen for its rewards, because it may owe some of its lead to luck.
    let leads = candidates.first().map(|best| leads(rewards, best.candidate, paired, stops)).unwrap_or_default();
    for ranked in candidates {
        let at = ranked.candidate;
        ranked.probability_best = probabilities.get(at).copied().flatten();
        ranked.difference = leads.get(at).copied().flatten().map(Difference::reversed);
    }
}

/// Numbers whose mean is the reward, one for each sample; `None` where a rollout does not count.
pub(super) fn rewards(outcomes: &[Outcome], job: &RankJob) -> Vec<Option<f64>> {
    let counts = |outcome: &&Outcome| outcome.loss.is_none();
    let values = |outcome: &Outcome| outcome.values.iter().flatten().map(|value| value.value).collect();
    let conversations: Vec<Vec<f64>> = outcomes.iter().filter(counts).map(values).collect();
    let mut rewards = job.plan.combination.rewards(&conversations, &job.plan.metrics).into_iter();
    outcomes.iter().map(|outcome| counts(&outcome).then(|| rewards.next()).flatten()).collect()
}

/// The strategy that allocated the rollouts. If the rollouts come from an earlier ranking, it is the strategy of that one.
fn strategy(job: &RankJob) -> Strategy {
    match (&job.allocator, &job.origin) {
        (Some(allocator), _) => allocator.strategy(),
        (None, Some(origin)) => origin.strategy(),
        (None, None) => Strategy::Fixed,
    }
}

fn allocation(job: &RankJob) -> AllocationSummary {
    let stopped = match (job.stopped(), job.allocated) {
        (Some(StopReason::Deadline), None) => Stopped::Deadline,
        (Some(StopReason::Cancelled), None) => Stopped::Cancelled,
        (_, Some(Why::Budget)) => Stopped::Budget,
        (_, Some(Why::Sure)) => Stopped::Sure,
        _ => Stopped::Complete,
    };
    AllocationSummary {
        strategy: strategy(job),
        rounds: job.allocator.as_ref().map_or(1, Allocator::rounds),
        rollouts: job.candidates.iter().map(|candidate| candidate.samples).sum(),
        stopped,
    }
}

/// Refuses a ranking in which everything failed, because a ranking of nulls would hide what is wrong.
fn refuse_if_nothing_counts(outcomes: &[Vec<Outcome>], candidates: &[Candidate]) -> Result<()> {
    let mut losses = outcomes.iter().flatten().filter_map(|outcome| outcome.loss.as_ref());
    let total = outcomes.iter().map(Vec::len).sum::<usize>();
    if losses.clone().count() < total {
        return Ok(());
    }
    let failed = losses.find(|loss| matches!(loss, Loss::Failed(..)));
    let reason = failed.map_or("no rollout was asked for", Loss::reason);
    // Then the request is at fault, and not a model.
    let too_long = |candidate: &Candidate| {
        candidate.failure.as_ref().is_some_and(|error| error.kind() == ErrorKind::ContextLength)
    };
    let kind = if candidates.iter().all(too_long) { ErrorKind::ContextLength } else { ErrorKind::ModelOutput };
    Err(Error::new(kind, format!("none of the {total} rollouts counts; the first failed because {reason}")))
}

/// Outcomes by candidate and sample, before pairing.
pub(super) fn outcomes(job: &RankJob) -> Vec<Vec<Outcome>> {
    let metrics = &job.plan.metrics;
    let outcome = |future: &Future| Outcome {
        values: future.scores.iter().map(|score| score.as_ref()?.as_ref().ok().cloned()).collect(),
        reward: future.reward(metrics),
        loss: loss_of(future, metrics, job.stopped()),
    };
    let of = |candidate: &Candidate| match (&candidate.response, &candidate.failure) {
        (Some(_), _) => candidate.futures.iter().map(outcome).collect(),
        (None, failure) => {
            let loss = match failure {
                Some(error) if !is_interruption(error) => Loss::failed(error),
                _ => Loss::Interrupted("the response was not sampled in time".into()),
            };
            vec![Outcome { values: vec![None; metrics.len()], reward: None, loss: Some(loss) }; candidate.samples]
        }
    };
    job.candidates.iter().map(of).collect()
}

/// The reason why a future that has ended does not count by itself, if there is one.
pub(super) fn loss_of(future: &Future, metrics: &[WeightedMetric], stopped: Option<StopReason>) -> Option<Loss> {
    if let Some(reason) = &future.left_out {
        return Some(Loss::LeftOut(reason.clone()));
    }
    match future.rollout.ended() {
        Some(Ended::Failed) => Some(match future.rollout.failure() {
            Some(error) => Loss::failed(error),
            None => Loss::Failed(ErrorKind::Internal, "the rollout failed".into()),
        }),
        Some(Ended::Deadline) => Some(Loss::Interrupted("the deadline passed before it ended".into())),
        Some(Ended::Cancelled) => Some(Loss::Interrupted("it was cancelled before it ended".into())),
        Some(Ended::Pruned) => Some(Loss::LeftOut("it was given up by the allocation of rollouts".into())),
        _ if !future.is_settled() => Some(Loss::Interrupted(match stopped {
            Some(StopReason::Cancelled) => "it was cancelled before it was judged".into(),
            _ => "the deadline passed before it was judged".into(),
        })),
        _ => unscored(future, metrics),
    }
}

/// The reason why a future has no reward although all its metrics were run, if there is one.
fn unscored(future: &Future, metrics: &[WeightedMetric]) -> Option<Loss> {
    match future.scores.iter().flatten().find_map(|score| score.as_ref().err()) {
        Some(error) if is_interruption(error) => Some(Loss::Interrupted(error.to_string())),
        Some(error) => Some(Loss::failed(error)),
        None if future.reward(metrics).is_none() => {
            let reason = "the weighted sum of its metrics is not a finite number";
            Some(Loss::Failed(ErrorKind::ModelOutput, reason.into()))
        }
        None => None,
    }
}

fn ranked(
    at: usize,
    candidate: &Candidate,
    (outcomes, rewards): (&[Outcome], &[Option<f64>]),
    job: &RankJob,
) -> RankedCandidate {
    let (metrics, combination) = (&job.plan.metrics, job.plan.combination);
    let counted: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.loss.is_none()).collect();
    let estimate = Estimate::of(&rewards.iter().copied().flatten().collect::<Vec<f64>>());
    let summaries = metrics.iter().enumerate().map(|(metric, weighted)| {
        let values: Vec<MetricValue> = counted.iter().filter_map(|outcome| outcome.values[metric].clone()).collect();
        (weighted.name.clone(), summary(&values, weighted.weight, combination))
    });
    let rollouts = candidate.futures.iter().zip(outcomes).enumerate();
    RankedCandidate {
        candidate: at,
        response: candidate.response.as_ref().map(|response| response.content.clone()),
        reward: estimate.map(|estimate| estimate.mean),
        std_error: estimate.and_then(|estimate| estimate.std_error),
        interval: estimate.and_then(|estimate| estimate.interval),
        difference: None,
        probability_best: None,
        given_up: is_given_up(at, job),
        metrics: summaries.collect(),
        rollouts: rollouts.map(|(sample, (future, outcome))| trace(sample, future, outcome, metrics)).collect(),
        excluded: outcomes.len() - counted.len(),
        confused: candidate.futures.iter().filter(|future| is_confused(future)).count(),
        note: note(candidate),
        retokenized_differs: candidate.retokenized_differs
            || candidate.futures.iter().any(|future| future.rollout.response_retokenized_differs()),
        cost: candidate.cost,
    }
}

fn is_confused(future: &Future) -> bool {
    future.rollout.future().iter().any(|said| said.confusion.is_some())
}

/// The note on a response that was sampled.
fn note(candidate: &Candidate) -> Option<String> {
    if candidate.note.is_some() {
        return candidate.note.clone();
    }
    match (&candidate.failure, candidate.finish) {
        (Some(error), _) => Some(error.to_string()),
        (None, Some(Finish::Length)) => Some("the response was cut off at its limit of new tokens".into()),
        (None, Some(Finish::Context)) => Some("the response was cut off by the policy's full context".into()),
        _ => None,
    }
}

fn summary(values: &[MetricValue], weight: f64, combination: Combination) -> MetricSummary {
    let estimate = Estimate::of(&values.iter().map(|value| value.value).collect::<Vec<f64>>());
    // A clamped mean does not tell any conversations apart.
    let clamped = combination.bound(estimate.map(|estimate| estimate.mean), weight).map(|_| 1.0);
    let clamps: Vec<bool> = values.iter().filter_map(|value| value.saturated).collect();
    let took_effect = clamps.iter().filter(|&&saturated| saturated).count();
    MetricSummary {
        mean: estimate.map(|estimate| estimate.mean),
        std_error: estimate.and_then(|estimate| estimate.std_error),
        weight,
        saturated: clamped.or((!clamps.is_empty()).then(|| took_effect as f64 / clamps.len() as f64)),
        mass: values.iter().filter_map(|value| value.mass).reduce(f64::min),
    }
}

fn trace(sample: usize, future: &Future, outcome: &Outcome, metrics: &[WeightedMetric]) -> RolloutTrace {
    let values = metrics
        .iter()
        .zip(&outcome.values)
        .map(|(weighted, value)| (weighted.name.clone(), value.as_ref().map(|v| v.value)));
    RolloutTrace {
        sample,
        messages: future.rollout.future().iter().map(traced).collect(),
        metrics: values.collect::<BTreeMap<_, _>>(),
        reward: outcome.reward,
        // All rollouts of a job that is done have ended. A rollout that was never started was not waited for.
        ended: future.rollout.ended().unwrap_or(Ended::Cancelled),
        seed: future.rollout.seed(),
        counted: outcome.loss.is_none(),
        reason: outcome.loss.as_ref().map(|loss| loss.reason().to_owned()),
    }
}

pub(super) fn traced(said: &RolloutMessage) -> TracedMessage {
    TracedMessage {
        role: said.message.role,
        content: said.message.content.clone(),
        finish: Some(said.finish).filter(|&finish| finish != Finish::Stop),
        retokenized_differs: said.retokenized_differs,
        confusion: said.confusion,
    }
}
