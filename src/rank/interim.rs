//! What a ranking would say if it ended now.

use super::assemble::{is_given_up, outcomes, rewards, settle};
use super::count::{Loss, Outcome};
use super::future::Candidate;
use super::job::RankJob;
use crate::reward::{Estimate, probability_best};

/// A candidate's reward while its futures are still being sampled.
///
/// Only samples that have ended for every candidate count, as in a ranking that its deadline ends: short futures end first,
/// so others would reward brevity.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Interim {
    /// Index in the request, from 0.
    pub candidate: usize,
    /// The mean over the rollouts that count so far, at least one.
    pub reward: f64,
    /// Its standard error, from two rollouts on.
    pub std_error: Option<f64>,
    /// The probability that the candidate is the best, where enough is known.
    pub probability_best: Option<f64>,
    /// The number of rollouts that count so far.
    pub rollouts: usize,
}

impl RankJob {
    /// The number of rollouts that are scored, or will not be.
    pub fn scored(&self) -> usize {
        self.candidates.iter().flat_map(|of| &of.futures).filter(|future| future.is_settled()).count()
    }

    /// The candidates that have a reward by now, in the order of a ranking. `None` while `counted` rollouts count, or none.
    pub fn interim(&self, counted: usize) -> Option<Vec<Interim>> {
        let mut outcomes = outcomes(self);
        for (candidate, of) in self.candidates.iter().zip(&mut outcomes) {
            mark_unfinished(candidate, of);
        }
        settle(&mut outcomes, self);
        let counts = outcomes.iter().flatten().filter(|outcome| outcome.loss.is_none()).count();
        if counts == 0 || counts == counted {
            return None;
        }
        let rewards: Vec<Vec<Option<f64>>> = outcomes.iter().map(|of| rewards(of, self)).collect();
        let best = probability_best(&rewards, self.scene.settings.common_random_numbers);
        let of = |(candidate, rewards): (usize, &Vec<Option<f64>>)| {
            let counted: Vec<f64> = rewards.iter().copied().flatten().collect();
            let Estimate { mean, std_error, .. } = Estimate::of(&counted)?;
            let probability_best = best.get(candidate).copied().flatten();
            Some(Interim { candidate, reward: mean, std_error, probability_best, rollouts: counted.len() })
        };
        let mut known: Vec<Interim> = rewards.iter().enumerate().filter_map(of).collect();
        let given_up = |of: &Interim| is_given_up(of.candidate, self);
        known.sort_by(|a, b| given_up(a).cmp(&given_up(b)).then(b.reward.total_cmp(&a.reward)));
        Some(known)
    }
}

/// Rollouts that pause or have not begun are as unfinished as those that are under way.
fn mark_unfinished(candidate: &Candidate, outcomes: &mut Vec<Outcome>) {
    let unfinished = || Some(Loss::Interrupted("it has not ended".into()));
    for (future, outcome) in candidate.futures.iter().zip(&mut *outcomes) {
        if future.rollout.ended().is_none() {
            outcome.loss = unfinished();
        }
    }
    if candidate.failure.is_none() {
        let asked = candidate.samples.max(outcomes.len());
        outcomes.resize_with(asked, || Outcome { loss: unfinished(), ..Outcome::default() });
    }
}
