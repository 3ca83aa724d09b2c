//! The rollouts that count.
//!
//! A rollout that failed does not count as a zero. It is left out, and so are the rollouts that would otherwise be compared
//! on unequal terms:
//!
//! - **Pairs.** With common random numbers, sample k of all candidates belongs together. If one of them failed, none
//!   counts. A candidate without any score is not a partner: it has no reward, and the others keep theirs.
//! - **Rounds.** When the clock or the caller cut a ranking short, only samples that were finished for every candidate
//!   count. Short futures end first, so averaging whatever happens to be finished would reward brevity.

use crate::reward::MetricValue;
use crate::{Error, ErrorKind};

/// The outcome of one rollout.
#[derive(Debug, Clone, Default)]
pub(super) struct Outcome {
    /// The values, one for each metric; `None` where the metric failed or was not asked.
    pub(super) values: Vec<Option<MetricValue>>,
    /// The weighted sum; `None` where a value is missing.
    pub(super) reward: Option<f64>,
    /// The reason why it does not count, if it does not.
    pub(super) loss: Option<Loss>,
}

/// The reason why a rollout does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Loss {
    /// It, or a metric on it, failed.
    Failed(ErrorKind, String),
    /// The clock or the caller ended it, or its judging.
    Interrupted(String),
    /// Nothing went wrong, but there is nothing to compare it with, or it was given up.
    LeftOut(String),
}

impl Loss {
    pub(super) fn failed(error: &Error) -> Self {
        Loss::Failed(error.kind(), error.to_string())
    }

    pub(super) fn reason(&self) -> &str {
        match self {
            Loss::Failed(_, reason) | Loss::Interrupted(reason) | Loss::LeftOut(reason) => reason,
        }
    }

    /// The reason, if it comes from what the models run on, and not from what they said: the same rollout would count another
    /// time.
    pub(super) fn outage(&self) -> Option<&str> {
        match self {
            Loss::Failed(ErrorKind::Io | ErrorKind::Overloaded | ErrorKind::Runtime | ErrorKind::Closed, reason) => {
                Some(reason)
            }
            _ => None,
        }
    }
}

/// Tells whether the clock or the caller cut any rollout short.
pub(super) fn is_interrupted(outcomes: &[Vec<Outcome>]) -> bool {
    outcomes.iter().flatten().any(|outcome| matches!(outcome.loss, Some(Loss::Interrupted(_))))
}

/// Leaves out rollouts that have nothing to be compared with. The outcomes are `outcomes[candidate][sample]`. `common` says that
/// the samples of a round share their random numbers.
pub(super) fn settle(outcomes: &mut [Vec<Outcome>], common: bool) {
    let samples = outcomes.iter().map(Vec::len).max().unwrap_or(0);
    let partner: Vec<bool> = outcomes.iter().map(|of| of.iter().any(|outcome| outcome.loss.is_none())).collect();
    for sample in 0..samples {
        let Some(reason) = broken_round(outcomes, &partner, sample, common) else { continue };
        for outcome in outcomes.iter_mut().filter_map(|of| of.get_mut(sample)) {
            outcome.loss.get_or_insert_with(|| Loss::LeftOut(reason.clone()));
        }
    }
}

/// The reason why the remaining rollouts of a round have nothing to be compared with, if there is one.
fn broken_round(outcomes: &[Vec<Outcome>], partner: &[bool], sample: usize, common: bool) -> Option<String> {
    let lost = |candidate: usize| outcomes[candidate].get(sample).and_then(|outcome| outcome.loss.as_ref());
    (0..outcomes.len()).find_map(|candidate| match lost(candidate)? {
        Loss::Interrupted(_) => Some(format!("sample {sample} was not finished for candidate {candidate}")),
        Loss::Failed(..) if common && partner[candidate] => {
            Some(format!("paired with sample {sample} of candidate {candidate}, which failed"))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[&str]) -> Vec<Vec<Outcome>> {
        let outcome = |c| Outcome {
            loss: match c {
                'f' => Some(Loss::Failed(ErrorKind::ModelOutput, "f".into())),
                'i' => Some(Loss::Interrupted("i".into())),
                _ => None,
            },
            ..Outcome::default()
        };
        rows.iter().map(|row| row.chars().map(outcome).collect()).collect()
    }

    fn counted(rows: &[&str], common: bool) -> Vec<String> {
        let mut outcomes = table(rows);
        settle(&mut outcomes, common);
        let mark = |outcome: &Outcome| if outcome.loss.is_none() { 'x' } else { '-' };
        outcomes.iter().map(|row| row.iter().map(mark).collect()).collect()
    }

    #[test]
    fn a_failed_sample_takes_its_pairs_with_it() {
        assert_eq!(counted(&["xfx", "xxx"], true), ["x-x", "x-x"]);
        assert_eq!(counted(&["xfx", "xxx"], false), ["x-x", "xxx"]);
        assert_eq!(counted(&["xfx", "fxx", "xxx"], true), ["--x", "--x", "--x"]);
    }

    #[test]
    fn a_candidate_without_any_score_is_no_partner() {
        assert_eq!(counted(&["fff", "xxx", "xxf"], true), ["---", "xx-", "xx-"]);
    }

    #[test]
    fn only_complete_rounds_count_when_cut_short() {
        for common in [false, true] {
            assert_eq!(counted(&["xxi", "xix", "xxx"], common), ["x--", "x--", "x--"]);
            assert_eq!(counted(&["iii", "xxx"], common), ["---", "---"]);
        }
    }
}
