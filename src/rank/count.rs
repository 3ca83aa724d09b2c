//! Which rollouts count.
//!
//! Nothing that failed counts as a zero; it is left out, and what would then be compared on unequal terms is left out
//! with it:
//!
//! - **Pairs.** With common random numbers, sample k of all candidates belongs together. If one of them failed, none
//!   counts. A candidate of which nothing can be scored at all is no partner: it has no reward, and the others keep theirs.
//! - **Rounds.** When the clock or the caller cut a ranking short, only samples that were finished for every candidate
//!   count. Short futures end first, so averaging whatever happens to be finished would reward brevity.

use crate::reward::MetricValue;

/// What became of one rollout.
#[derive(Debug, Clone, Default)]
pub(super) struct Outcome {
    /// By metric; `None` where the metric failed or was not asked.
    pub(super) values: Vec<Option<MetricValue>>,
    /// The weighted sum; `None` where a value is missing.
    pub(super) reward: Option<f64>,
    /// Why it doesn't count, if so.
    pub(super) loss: Option<Loss>,
}

/// Why a rollout doesn't count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Loss {
    /// It, or a metric on it, failed.
    Failed(String),
    /// The clock or the caller ended it, or its judging.
    Interrupted(String),
    /// Nothing went wrong, but there is nothing to compare it with, or it was given up.
    LeftOut(String),
}

impl Loss {
    pub(super) fn reason(&self) -> &str {
        match self {
            Loss::Failed(reason) | Loss::Interrupted(reason) | Loss::LeftOut(reason) => reason,
        }
    }
}

/// Whether any rollout was cut short by the clock or the caller.
pub(super) fn is_interrupted(outcomes: &[Vec<Outcome>]) -> bool {
    outcomes.iter().flatten().any(|outcome| matches!(outcome.loss, Some(Loss::Interrupted(_))))
}

/// Leaves out what has nothing to be compared with. `outcomes[candidate][sample]`; `common` says whether the samples of a
/// round share their random numbers.
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

/// Why the remaining rollouts of a round have nothing to be compared with, if so.
fn broken_round(outcomes: &[Vec<Outcome>], partner: &[bool], sample: usize, common: bool) -> Option<String> {
    let lost = |candidate: usize| outcomes[candidate].get(sample).and_then(|outcome| outcome.loss.as_ref());
    (0..outcomes.len()).find_map(|candidate| match lost(candidate)? {
        Loss::Interrupted(_) => Some(format!("sample {sample} was not finished for candidate {candidate}")),
        Loss::Failed(_) if common && partner[candidate] => {
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
                'f' => Some(Loss::Failed("f".into())),
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
