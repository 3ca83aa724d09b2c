//! Rankings as the sweep reads them: the same conversations at several depths, and what each cost.

use std::collections::BTreeMap;

use super::row::{SweptFuture, Values};
use crate::chat::{Message, Usage};
use crate::rank::{Ended, RankPlan, RankedCandidate, Ranking, RolloutTrace};

/// The candidates in the order of the request.
pub(super) fn in_order(ranking: &Ranking) -> Vec<&RankedCandidate> {
    let mut candidates: Vec<&RankedCandidate> = ranking.candidates.iter().collect();
    candidates.sort_by_key(|candidate| candidate.candidate);
    candidates
}

/// The metrics, if all have a value.
pub(super) fn complete(metrics: &BTreeMap<String, Option<f64>>) -> Option<Values> {
    metrics.iter().map(|(name, value)| Some((name.clone(), (*value)?))).collect()
}

/// The conversations of a response that have all metrics after every turn.
pub(super) fn kept(depths: &[&RankedCandidate]) -> Vec<SweptFuture> {
    let [.., whole] = depths else { return Vec::new() };
    let future = |rollout: &RolloutTrace| {
        let values = depths.iter().map(|candidate| {
            let same = candidate.rollouts.iter().find(|other| other.sample == rollout.sample);
            complete(&same.filter(|same| same.ended.is_scored())?.metrics)
        });
        let said = rollout.messages.iter().map(|message| Message::new(message.role, message.content.clone()));
        let (sample, ended) = (rollout.sample, rollout.ended);
        Some(SweptFuture { sample, messages: said.collect(), ended, values: values.collect::<Option<_>>()? })
    };
    whole.rollouts.iter().filter_map(future).collect()
}

/// The same conversations, cut off after so many turns.
pub(super) fn up_to(whole: &Ranking, turns: usize) -> Ranking {
    let mut cut = whole.clone();
    for rollout in cut.candidates.iter_mut().flat_map(|candidate| &mut candidate.rollouts) {
        // A turn is a message of the user and a reply.
        if rollout.messages.len() > 2 * turns {
            rollout.messages.truncate(2 * turns);
            rollout.ended = Ended::Window;
        }
    }
    cut
}

pub(super) fn thousands(tokens: u64) -> f64 {
    tokens as f64 / 1000.0
}

pub(super) fn all(usage: Usage) -> u64 {
    usage.prompt_tokens + usage.generated_tokens
}

/// Tokens of whoever scores.
pub(super) fn scoring(ranking: &Ranking) -> u64 {
    let costs = ranking.cost.roles;
    all(costs.total()) - all(costs.policy) - all(costs.user)
}

/// Thousands of tokens that it took to sample up to each turn. What was measured in all is divided by what each turn reads and
/// writes.
pub(super) fn divided(whole: &Ranking, conversation: &[Message], turns: usize, plan: &RankPlan) -> Vec<f64> {
    let costs = whole.cost.roles;
    let measured = thousands(all(costs.policy) + all(costs.user));
    let count = |message: &str| (plan.count_tokens)(message) as f64;
    let before: f64 = conversation.iter().map(|message| count(message.visible())).sum();
    let mut by_turn = vec![0.0; turns];
    for candidate in &whole.candidates {
        let response = candidate.response.as_deref().map_or(0.0, count);
        for rollout in &candidate.rollouts {
            let mut said = before + response;
            for (at, message) in rollout.messages.iter().enumerate() {
                // Whoever speaks has read what was said before.
                let written = count(&message.content);
                if let Some(turn) = by_turn.get_mut(at / 2) {
                    *turn += said + written;
                }
                said += written;
            }
        }
    }
    let sum: f64 = by_turn.iter().sum();
    let mut reached = 0.0;
    let mut share = |turn: &f64| {
        reached += turn;
        if sum > 0.0 { measured * reached / sum } else { measured }
    };
    by_turn.iter().map(&mut share).collect()
}
