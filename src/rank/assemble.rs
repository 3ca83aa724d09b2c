//! From finished rollouts to a [`Ranking`]: scores, weighted sums (Eq. 2), means over futures (Eq. 1).

use std::collections::BTreeMap;

use super::count::{self, Loss, Outcome};
use super::job::{Candidate, Future, RankJob, StopReason, future_messages, is_interruption, metric_input};
use super::plan::FailurePolicy;
use super::ranking::{Cost, MetricSummary, ModelsInfo, RankedCandidate, Ranking, RolloutTrace, TracedMessage};
use crate::chat::{ChatOutput, Finish, Message};
use crate::reward::{Combination, Estimate, MetricInput, MetricValue, Scored, WeightedMetric};
use crate::rollout::{Ended, RolloutMessage};
use crate::{Error, ErrorKind, Result};

/// The result of a job that is done.
pub(super) fn ranking(job: &RankJob, models: ModelsInfo, seconds: f64) -> Result<Ranking> {
    let mut outcomes = score(job)?;
    let complete = job.stopped().is_none() && !count::is_interrupted(&outcomes);
    // With nothing sampled there are no rounds: each candidate has its one evaluation.
    if job.scene.window > 0 {
        count::settle(&mut outcomes, job.scene.settings.common_random_numbers);
    }
    if complete {
        refuse_if_nothing_counts(&outcomes)?;
    }
    let metrics = &job.plan.metrics;
    let mut ranking: Vec<RankedCandidate> = job
        .candidates
        .iter()
        .zip(&outcomes)
        .enumerate()
        .map(|(at, (candidate, outcomes))| ranked(at, candidate, outcomes, (metrics, job.plan.combination)))
        .collect();
    // Stable, so equals stay in the order of the request; no reward sorts below every reward.
    let key = |candidate: &RankedCandidate| candidate.reward.unwrap_or(f64::NEG_INFINITY);
    ranking.sort_by(|a, b| key(b).total_cmp(&key(a)));
    let cost = Cost { roles: job.cost, seconds };
    let ModelsInfo { models, reward_models, bitwise } = models;
    let mut ranking =
        Ranking { schema: 1, ranking, cost, models, reward_models, bitwise: bitwise && complete, complete };
    if let Some(origin) = &job.origin {
        origin.mark(&mut ranking);
    }
    Ok(ranking)
}

/// Everything failed: a ranking of nulls would hide what is wrong.
fn refuse_if_nothing_counts(outcomes: &[Vec<Outcome>]) -> Result<()> {
    let mut losses = outcomes.iter().flatten().filter_map(|outcome| outcome.loss.as_ref());
    let total = outcomes.iter().map(Vec::len).sum::<usize>();
    if losses.clone().count() < total {
        return Ok(());
    }
    let failed = losses.find(|loss| matches!(loss, Loss::Failed(_)));
    let reason = failed.map_or("no rollout was asked for", Loss::reason);
    Err(Error::new(
        ErrorKind::ModelOutput,
        format!("none of the {total} rollouts counts; the first failed because {reason}"),
    ))
}

/// Outcomes by candidate and sample, before pairing. Each metric scores all conversations in one batch.
fn score(job: &RankJob) -> Result<Vec<Vec<Outcome>>> {
    let metrics = &job.plan.metrics;
    let mut outcomes: Vec<Vec<Outcome>> =
        job.candidates.iter().map(|candidate| unscored(candidate, job, metrics.len())).collect();
    let mut places: Vec<(usize, usize)> = Vec::new();
    for (candidate, of) in outcomes.iter().enumerate() {
        places.extend(
            of.iter().enumerate().filter(|(_, outcome)| outcome.loss.is_none()).map(|(sample, _)| (candidate, sample)),
        );
    }
    let futures: Vec<&Future> =
        places.iter().map(|&(candidate, sample)| &job.candidates[candidate].futures[sample]).collect();
    for (at, weighted) in metrics.iter().enumerate() {
        for (&(candidate, sample), result) in places.iter().zip(score_metric(job, at, weighted, &futures)) {
            let outcome = &mut outcomes[candidate][sample];
            match result {
                Ok(value) => outcome.values[at] = Some(value),
                Err(error) if is_interruption(&error) => {
                    outcome.loss.get_or_insert(Loss::Interrupted(error.to_string()));
                }
                Err(error) if job.plan.on_metric_failure == FailurePolicy::Error => {
                    return Err(error.context(format!("candidate {candidate}, sample {sample}")));
                }
                Err(error) => {
                    outcome.loss.get_or_insert(Loss::Failed(error.to_string()));
                }
            }
        }
    }
    for outcome in outcomes.iter_mut().flatten().filter(|outcome| outcome.loss.is_none()) {
        outcome.reward = weighted_sum(&outcome.values, metrics);
        if outcome.reward.is_none() {
            outcome.loss = Some(Loss::Failed("the weighted sum of its metrics is not a finite number".into()));
        }
    }
    Ok(outcomes)
}

/// The outcomes of a candidate's rollouts before metrics score, with the losses known so far.
fn unscored(candidate: &Candidate, job: &RankJob, metrics: usize) -> Vec<Outcome> {
    let outcome = |loss| Outcome { values: vec![None; metrics], reward: None, loss };
    if candidate.response.is_none() {
        let loss = match &candidate.failure {
            Some(error) if !is_interruption(error) => Loss::Failed(error.to_string()),
            _ => Loss::Interrupted("the response was not sampled in time".into()),
        };
        return vec![outcome(Some(loss)); candidate.samples];
    }
    candidate.futures.iter().map(|future| outcome(loss_of(future, job.stopped()))).collect()
}

fn loss_of(future: &Future, stopped: Option<StopReason>) -> Option<Loss> {
    if let Some(reason) = &future.left_out {
        return Some(Loss::LeftOut(reason.clone()));
    }
    match future.rollout.ended() {
        Some(Ended::Failed) => {
            Some(Loss::Failed(future.rollout.failure().map_or_else(|| "the rollout failed".into(), Error::to_string)))
        }
        Some(Ended::Deadline) => Some(Loss::Interrupted("the deadline passed before it ended".into())),
        Some(Ended::Cancelled) => Some(Loss::Interrupted("it was cancelled before it ended".into())),
        Some(Ended::Pruned) => Some(Loss::LeftOut("it was given up by the allocation of rollouts".into())),
        _ if !future.evaluation.is_answered() => Some(Loss::Interrupted(match stopped {
            Some(StopReason::Cancelled) => "it was cancelled before it was judged".into(),
            _ => "the deadline passed before it was judged".into(),
        })),
        _ => None,
    }
}

/// One metric on all conversations that can be judged: one result each.
fn score_metric(job: &RankJob, at: usize, weighted: &WeightedMetric, futures: &[&Future]) -> Vec<Result<MetricValue>> {
    let answers: Vec<Result<Vec<ChatOutput>>> = futures.iter().map(|future| future.evaluation.answers(at)).collect();
    let messages: Vec<Vec<&Message>> = futures.iter().map(|future| future_messages(&future.rollout)).collect();
    let mut batch = Vec::new();
    for ((future, messages), answers) in futures.iter().zip(&messages).zip(&answers) {
        if let Ok(answers) = answers {
            let input = metric_input(&job.plan, &job.scene, &future.rollout, messages);
            let extracted = future.evaluation.extracted(weighted);
            batch.push(Scored { input: MetricInput { extracted, ..input }, answers });
        }
    }
    let scores = if batch.is_empty() { Vec::new() } else { weighted.metric.score(&batch) };
    let (asked, got) = (batch.len(), scores.len());
    let mut scores = scores.into_iter();
    let mut result = |answers: Result<Vec<ChatOutput>>| {
        answers?;
        let score = match scores.next() {
            Some(score) if asked == got => score.and_then(finite),
            _ => Err(Error::internal(format!("it gave {got} results for {asked} conversations"))),
        };
        score.map_err(|error| error.context(format!("metric `{}`", weighted.name)))
    };
    answers.into_iter().map(&mut result).collect()
}

fn finite(score: MetricValue) -> Result<MetricValue> {
    if score.value.is_finite() {
        return Ok(score);
    }
    Err(Error::new(ErrorKind::ModelOutput, format!("its value is {}, not a finite number", score.value)))
}

/// Eq. 2 for one conversation; `None` where a value is missing or the sum overflows.
fn weighted_sum(values: &[Option<MetricValue>], metrics: &[WeightedMetric]) -> Option<f64> {
    let terms = values.iter().zip(metrics).map(|(value, weighted)| value.map(|value| weighted.weight * value.value));
    terms.sum::<Option<f64>>().filter(|sum| sum.is_finite())
}

fn ranked(
    at: usize,
    candidate: &Candidate,
    outcomes: &[Outcome],
    (metrics, combination): (&[WeightedMetric], Combination),
) -> RankedCandidate {
    let counted: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.loss.is_none()).collect();
    let values = |outcome: &&Outcome| outcome.values.iter().flatten().map(|value| value.value).collect();
    let conversations: Vec<Vec<f64>> = counted.iter().map(values).collect();
    let estimate = Estimate::of(&combination.rewards(&conversations, metrics));
    let summaries = metrics.iter().enumerate().map(|(metric, weighted)| {
        let values: Vec<MetricValue> = counted.iter().filter_map(|outcome| outcome.values[metric]).collect();
        (weighted.name.clone(), summary(&values, weighted.weight, combination))
    });
    let rollouts = candidate.futures.iter().zip(outcomes).enumerate();
    RankedCandidate {
        candidate: at,
        response: candidate.response.as_ref().map(|response| response.content.clone()),
        reward: estimate.map(|estimate| estimate.mean),
        std_error: estimate.and_then(|estimate| estimate.std_error),
        interval: estimate.and_then(|estimate| estimate.interval),
        metrics: summaries.collect(),
        rollouts: rollouts.map(|(sample, (future, outcome))| trace(sample, future, outcome, metrics)).collect(),
        excluded: outcomes.len() - counted.len(),
        note: note(candidate),
        retokenized_differs: candidate.retokenized_differs
            || candidate.futures.iter().any(|future| future.rollout.response_retokenized_differs()),
        cost: candidate.cost,
    }
}

/// What there is to say about a response that was sampled.
fn note(candidate: &Candidate) -> Option<String> {
    match (&candidate.failure, candidate.finish) {
        (Some(error), _) => Some(error.to_string()),
        (None, Some(Finish::Length)) => Some("the response was cut off at its limit of new tokens".into()),
        (None, Some(Finish::Context)) => Some("the response was cut off by the policy's full context".into()),
        _ => None,
    }
}

fn summary(values: &[MetricValue], weight: f64, combination: Combination) -> MetricSummary {
    let estimate = Estimate::of(&values.iter().map(|value| value.value).collect::<Vec<f64>>());
    // A clamped mean tells no conversations apart at all.
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
    let values =
        metrics.iter().zip(&outcome.values).map(|(weighted, value)| (weighted.name.clone(), value.map(|v| v.value)));
    RolloutTrace {
        sample,
        messages: future.rollout.future().iter().map(traced).collect(),
        metrics: values.collect::<BTreeMap<_, _>>(),
        reward: outcome.reward,
        // A done job's rollouts have all ended; one that was never started was not waited for.
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
    }
}
