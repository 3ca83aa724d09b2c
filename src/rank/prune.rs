//! Candidates are given up early: after the first turn of their first futures, when much of their cost is still ahead.
//!
//! The first round's futures pause after one turn and are judged as they stand. The worse half of the candidates is given
//! up there; the futures of the others go on and are judged anew when they have ended. What a candidate was worth at the
//! pause is not an estimate of its reward. So a candidate that is given up has no reward; its note says what it was worth.

use super::allocation::mean;
use super::future::Future;
use super::job::RankJob;
use crate::rollout::Ended;

/// With fewer candidates, the extra judging costs more than it saves.
const FEWEST: usize = 3;

impl RankJob {
    /// Tells whether futures that are made now pause after their first turn.
    pub(super) fn prunes_next_round(&self) -> bool {
        let first = self.allocator.as_ref().is_some_and(|allocator| allocator.rounds() == 1);
        self.plan.prune_after_first_turn && first && self.scene.window > 1 && self.candidates.len() >= FEWEST
    }

    /// Gives the worse half up, now that every future of the first round pauses or has ended, and resumes the others.
    pub(super) fn prune(&mut self) {
        let means: Vec<Option<f64>> = self.rewards().iter().map(|of| mean(of)).collect();
        let mut order: Vec<usize> = (0..means.len()).filter(|&at| means[at].is_some()).collect();
        // Stable: of equals, the first stay.
        order.sort_by(|&a, &b| means[b].unwrap_or_default().total_cmp(&means[a].unwrap_or_default()));
        for at in order.split_off(order.len().div_ceil(2)) {
            let then = means[at].unwrap_or_default();
            let reason = format!("given up after the first turn, where its mean reward was {then:.4}");
            if let Some(allocator) = &mut self.allocator {
                allocator.give_up(at);
            }
            let candidate = &mut self.candidates[at];
            for future in &mut candidate.futures {
                future.rollout.end(Ended::Pruned);
                future.left_out = Some(reason.clone());
            }
            candidate.given_up = true;
            candidate.note = Some(reason);
        }
        let paused = |future: &Future| future.rollout.is_paused();
        let places: Vec<_> = self.futures().filter(|(_, future)| paused(future)).map(|(place, _)| place).collect();
        self.resume_all(places);
    }
}
