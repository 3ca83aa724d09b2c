//! The allocation of rollouts to candidates.
//!
//! An [`Allocator`] is the allocation of one ranking as a state machine. It has no rollouts and no clock. It hands out a
//! round of rollouts, takes the rewards when all of them are finished, and hands out the next round, until it is done:
//!
//! ```text
//! loop {
//!     match allocator.next(&rewards, spent) {
//!         Sample { rollouts } ─▶ run all of them at once, put their rewards in place (None: lost)
//!         Done(why)           ─▶ break
//!     }
//! }
//! ```
//!
//! It hands out rounds and not single rollouts, because models are fast in batches. All candidates in play have the same
//! number of samples. With common random numbers, sample k is the same luck for each of them, so comparisons are fair after
//! every round. Nothing is random here, so equal rewards and costs give equal decisions.

use std::ops::Range;

use super::request::MAX_SAMPLES;
use crate::reward::{MAX_COMPARED, Posterior};
use crate::{Error, Result};

mod settings;
#[cfg(test)]
mod tests;

pub use settings::{AllocationSettings, Budget, DEFAULT_CONFIDENCE, DEFAULT_FIRST, Strategy};

/// The share of the allowed doubt that may be spent on giving candidates up.
const DOUBT_FOR_GIVING_UP: f64 = 0.5;

/// A round of `stop_when_sure` adds at least one sample for this many that a candidate has. More frequent looks at long
/// rankings save almost nothing, and batches stay large.
const GROWTH: usize = 8;

/// The cost of a ranking so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spent {
    /// Rollouts that were run.
    pub rollouts: usize,
    /// Tokens of all models, read and written.
    pub tokens: u64,
    /// Seconds of wall time since the ranking began.
    pub seconds: f64,
}

/// The next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// A round. Run these rollouts, then ask again.
    Sample {
        /// For each candidate, the numbers of the samples, which continue those that it has. All candidates have equally many.
        rollouts: Vec<(usize, Range<usize>)>,
    },
    /// No more rollouts.
    Done(Why),
}

/// The reason why there are no more rollouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The strategy is finished.
    Complete,
    /// The budget doesn't hold another round.
    Budget,
    /// The best is known with the confidence asked for.
    Sure,
}

/// The state of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    InPlay,
    GivenUp,
    /// It has no reward at all.
    Lost,
}

/// The allocation of one ranking. It takes the rewards of a finished round, and names the next round.
#[derive(Debug, Clone)]
pub struct Allocator {
    settings: AllocationSettings,
    states: Vec<State>,
    /// Futures for each candidate, if the strategy is fixed.
    samples: usize,
    paired: bool,
    /// Samples of every candidate in play.
    taken: usize,
    /// Rollouts handed out, of all candidates.
    handed_out: usize,
    rounds: usize,
    /// True if the last round only showed what a rollout costs.
    was_pilot: bool,
    /// The probability that one of the candidates given up is the best, at the time when they were given up.
    doubt: f64,
    done: Option<Why>,
}

impl Allocator {
    /// Makes an allocator for `candidates` candidates (at least 1). Under the fixed strategy each has `samples` futures (1 to
    /// [`MAX_SAMPLES`]). Adaptive strategies without a budget may spend as much in all. `paired` says that the rollouts of a
    /// sample share their random numbers across candidates.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidConfig`] for settings that make no sense; [`crate::ErrorKind::InvalidRequest`] where the
    /// budget holds no round, or there are more candidates than the strategy can compare.
    pub fn new(settings: AllocationSettings, candidates: usize, samples: usize, paired: bool) -> Result<Self> {
        settings.validate()?;
        if let Some(rollouts) = settings.budget.rollouts.filter(|rollouts| *rollouts < candidates) {
            return Err(Error::invalid_request(format!(
                "budget.rollouts = {rollouts} doesn't hold one for each of the {candidates} candidates: give at least {candidates}"
            )));
        }
        if settings.strategy == Strategy::StopWhenSure && candidates > MAX_COMPARED {
            return Err(Error::invalid_request(format!(
                "strategy stop_when_sure compares at most {MAX_COMPARED} candidates, and there are {candidates}: use sequential_halving"
            )));
        }
        Ok(Allocator {
            settings,
            states: vec![State::InPlay; candidates],
            samples: samples.clamp(1, MAX_SAMPLES),
            paired,
            taken: 0,
            handed_out: 0,
            rounds: 0,
            was_pilot: false,
            doubt: 0.0,
            done: None,
        })
    }

    /// Takes a candidate out of play because nothing can be sampled for it.
    pub fn leave_out(&mut self, candidate: usize) {
        if let Some(state) = self.states.get_mut(candidate) {
            *state = State::Lost;
        }
    }

    /// Takes a candidate out of play because the caller gives it up.
    pub fn give_up(&mut self, candidate: usize) {
        if let Some(state) = self.states.get_mut(candidate) {
            *state = State::GivenUp;
        }
    }

    /// The next step, now that all rollouts of the last round are finished. `rewards[candidate][sample]` holds all finished
    /// rewards. `None`, or a row that ends early, says that a reward was lost or never asked for.
    pub fn next(&mut self, rewards: &[Vec<Option<f64>>], spent: Spent) -> Decision {
        if let Some(why) = self.done {
            return Decision::Done(why);
        }
        match self.plan(rewards, spent) {
            Ok(each) => self.hand_out(each),
            Err(why) => {
                self.done = Some(why);
                Decision::Done(why)
            }
        }
    }

    /// Tells whether a candidate was given up. It then has fewer samples than those in play, on purpose.
    pub fn is_given_up(&self, candidate: usize) -> bool {
        self.states.get(candidate) == Some(&State::GivenUp)
    }

    /// The strategy.
    pub fn strategy(&self) -> Strategy {
        self.settings.strategy
    }

    /// Rounds handed out so far.
    pub fn rounds(&self) -> usize {
        self.rounds
    }

    fn hand_out(&mut self, each: usize) -> Decision {
        let samples = self.taken..self.taken + each;
        let rollouts: Vec<_> = self.in_play().into_iter().map(|candidate| (candidate, samples.clone())).collect();
        self.taken += each;
        self.handed_out += each * rollouts.len();
        self.rounds += 1;
        Decision::Sample { rollouts }
    }

    /// The number of samples that each candidate in play gets next; at least 1.
    fn plan(&mut self, rewards: &[Vec<Option<f64>>], spent: Spent) -> Result<usize, Why> {
        let rewards = self.complete_rounds(rewards);
        self.let_go_of_lost(&rewards);
        let affordable = self.affordable(spent);
        let in_play = self.in_play().len();
        if in_play == 0 {
            return Err(Why::Complete);
        }
        if self.taken == 0 && self.settings.budget.needs_pilot() {
            self.was_pilot = true;
            return if affordable < in_play { Err(Why::Budget) } else { Ok(1) };
        }
        let wanted = match self.settings.strategy {
            _ if self.states.len() == 1 => self.fixed(),
            Strategy::Fixed => self.fixed(),
            Strategy::SequentialHalving => self.halve(&rewards, affordable),
            Strategy::StopWhenSure => self.narrow(&rewards),
        }?;
        self.was_pilot = false;
        match wanted.min(MAX_SAMPLES - self.taken).min(affordable / self.in_play().len()) {
            0 if self.taken == MAX_SAMPLES => Err(Why::Complete),
            0 => Err(Why::Budget),
            each => Ok(each),
        }
    }

    /// The samples that are left of S.
    fn fixed(&self) -> Result<usize, Why> {
        if self.taken >= self.samples { Err(Why::Complete) } else { Ok(self.samples - self.taken) }
    }

    /// Gives up the worse half. Each round that is left adds as many samples as the budget allows.
    fn halve(&mut self, rewards: &[Vec<Option<f64>>], affordable: usize) -> Result<usize, Why> {
        let mut in_play = self.in_play();
        if self.taken > 0 && !self.was_pilot {
            if in_play.len() <= 2 {
                return Err(Why::Complete);
            }
            let means: Vec<f64> = rewards.iter().map(|of| mean(of).unwrap_or(f64::NEG_INFINITY)).collect();
            // Stable: of equals, the first stay.
            in_play.sort_by(|&a, &b| means[b].total_cmp(&means[a]));
            for candidate in in_play.split_off(in_play.len().div_ceil(2)) {
                self.states[candidate] = State::GivenUp;
            }
        }
        let (mut size, mut left) = (in_play.len(), in_play.len());
        while size > 2 {
            size = size.div_ceil(2);
            left += size;
        }
        Ok((affordable / left).max(1))
    }

    /// Stops if the leader is surely the best, and gives up candidates that surely are not.
    fn narrow(&mut self, rewards: &[Vec<Option<f64>>]) -> Result<usize, Why> {
        if self.taken == 0 {
            return Ok(self.settings.first.unwrap_or(DEFAULT_FIRST));
        }
        if let Some(posterior) = Posterior::of(rewards, self.paired) {
            let best: Vec<f64> = posterior.best().into_iter().map(|best| best.unwrap_or(0.0)).collect();
            let mut in_play = self.in_play();
            in_play.sort_by(|&a, &b| best[b].total_cmp(&best[a]));
            let sure = posterior.within(in_play[0], self.settings.margin.unwrap_or(0.0));
            if sure >= Some(self.settings.confidence()) {
                return Err(Why::Sure);
            }
            let allowed = DOUBT_FOR_GIVING_UP * (1.0 - self.settings.confidence());
            while in_play.len() > 2 {
                let Some(worst) = in_play.pop().filter(|&worst| self.doubt + best[worst] <= allowed) else { break };
                self.doubt += best[worst];
                self.states[worst] = State::GivenUp;
            }
        }
        let round = self.settings.round.unwrap_or(self.states.len()).div_ceil(self.in_play().len());
        Ok(round.max(self.taken / GROWTH))
    }

    fn in_play(&self) -> Vec<usize> {
        (0..self.states.len()).filter(|&candidate| self.states[candidate] == State::InPlay).collect()
    }

    /// The rewards of samples that every candidate in play has. In pairs, other samples have nothing to be compared with.
    fn complete_rounds(&self, rewards: &[Vec<Option<f64>>]) -> Vec<Vec<Option<f64>>> {
        let mut rewards = rewards.to_vec();
        rewards.resize(self.states.len(), Vec::new());
        rewards.iter_mut().for_each(|of| of.resize(self.taken, None));
        let partners = self.in_play();
        let partners: Vec<usize> =
            partners.into_iter().filter(|&candidate| rewards[candidate].iter().any(Option::is_some)).collect();
        let is_complete = |sample: &usize| partners.iter().all(|&candidate| rewards[candidate][*sample].is_some());
        let complete: Vec<bool> = (0..self.taken).map(|sample| is_complete(&sample)).collect();
        if self.paired && complete.contains(&true) {
            for of in &mut rewards {
                of.iter_mut().zip(&complete).filter(|(_, complete)| !**complete).for_each(|(reward, _)| *reward = None);
            }
        }
        rewards
    }

    fn let_go_of_lost(&mut self, rewards: &[Vec<Option<f64>>]) {
        for (state, of) in self.states.iter_mut().zip(rewards) {
            if self.taken > 0 && *state == State::InPlay && of.iter().all(Option::is_none) {
                *state = State::Lost;
            }
        }
    }

    /// The number of rollouts that the budget still holds, at their average cost so far.
    fn affordable(&self, spent: Spent) -> usize {
        let Budget { rollouts, tokens, seconds } = self.settings.budget;
        let spent_rollouts = spent.rollouts.max(self.handed_out);
        let unlimited = self.settings.strategy == Strategy::Fixed || self.settings.budget.needs_pilot();
        let rollouts = rollouts.or((!unlimited).then_some(self.states.len() * self.samples));
        let by_count = rollouts.map_or(usize::MAX, |rollouts| rollouts.saturating_sub(spent_rollouts));
        let by_cost = |limit: f64, spent: f64| {
            let mean = spent / spent_rollouts as f64;
            // Nothing is known of the cost before the first round. The conversion saturates.
            if limit <= spent {
                0
            } else if mean > 0.0 && mean.is_finite() {
                ((limit - spent) / mean) as usize
            } else {
                usize::MAX
            }
        };
        let by_tokens = tokens.map_or(usize::MAX, |tokens| by_cost(tokens as f64, spent.tokens as f64));
        let by_seconds = seconds.map_or(usize::MAX, |seconds| by_cost(seconds, spent.seconds));
        by_count.min(by_tokens).min(by_seconds)
    }
}

/// The mean of the rewards that are there.
pub(super) fn mean(rewards: &[Option<f64>]) -> Option<f64> {
    crate::reward::Estimate::of(&rewards.iter().copied().flatten().collect::<Vec<f64>>()).map(|estimate| estimate.mean)
}
