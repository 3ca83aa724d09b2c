//! One simulated ranking.

use foreturn::rank::{AllocationSettings, Allocator, Decision, Spent};

use crate::world::{Table, World};

/// How a ranking went.
pub(crate) struct Outcome {
    /// As the allocator saw them.
    pub(crate) rewards: Vec<Vec<Option<f64>>>,
    pub(crate) rollouts: usize,
    /// The candidate with the highest mean of those not given up.
    pub(crate) leader: usize,
}

/// Runs an allocation to its end.
pub(crate) fn run(world: &World, settings: AllocationSettings, samples: usize, seed: u64) -> Outcome {
    let candidates = world.means.len();
    let mut allocator = Allocator::new(settings, candidates, samples, world.rho > 0.0).expect("settings");
    let mut table = Table::new(candidates, seed);
    let mut rewards = vec![Vec::new(); candidates];
    let mut spent = Spent::default();
    loop {
        match allocator.next(&rewards, spent) {
            Decision::Done(_) => break,
            Decision::Sample { rollouts } => {
                for (candidate, samples) in rollouts {
                    table.extend(world, samples.end);
                    spent.rollouts += samples.len();
                    rewards[candidate].extend(samples.map(|sample| Some(table.rewards[candidate][sample])));
                }
            }
        }
    }
    let given_up: Vec<bool> = (0..candidates).map(|candidate| allocator.is_given_up(candidate)).collect();
    let key = |candidate: usize| if given_up[candidate] { f64::NEG_INFINITY } else { mean(&rewards[candidate]) };
    let leader = (0..candidates).max_by(|&a, &b| key(a).total_cmp(&key(b)).then(b.cmp(&a))).expect("a candidate");
    Outcome { rollouts: spent.rollouts, leader, rewards }
}

pub(crate) fn mean(rewards: &[Option<f64>]) -> f64 {
    rewards.iter().flatten().sum::<f64>() / rewards.iter().flatten().count() as f64
}
