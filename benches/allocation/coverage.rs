//! How often 95% intervals hold the truth.

use std::ops::Range;

use foreturn::rank::{AllocationSettings, Budget, Strategy};
use foreturn::reward::{Difference, Estimate, leads};
use serde_json::{Value, json};

use crate::run::{Outcome, run};
use crate::world::{Noise, World, ladder, slippage};

/// Of a kind of interval: how many there were, and how many held the truth.
#[derive(Default)]
struct Held {
    all: usize,
    held: usize,
}

impl Held {
    fn add(&mut self, interval: Option<[f64; 2]>, truth: f64) {
        if let Some([low, high]) = interval {
            self.all += 1;
            self.held += usize::from(low <= truth && truth <= high);
        }
    }

    fn share(&self) -> f64 {
        (1e4 * self.held as f64 / self.all as f64).round() / 1e4
    }
}

pub(crate) fn measure(repetitions: u64) -> Value {
    let mut rows = Vec::new();
    for (name, means) in [("one good", slippage()), ("ladder", ladder()), ("equals", vec![0.6; 8])] {
        for rho in [0.0, 0.6] {
            let world = World { means: means.clone(), noise: Noise::Normal, spread: 0.5, rho };
            for (label, settings, samples) in strategies(&[2, 3, 5, 10]) {
                rows.push(row(name, &world, &label, settings, samples, 0..repetitions));
            }
        }
    }
    for noise in [Noise::Unequal, Noise::Skewed, Noise::TwoPoint] {
        let world = World { means: ladder(), noise, spread: 0.5, rho: 0.3 };
        for (label, settings, samples) in strategies(&[3, 10]) {
            rows.push(row("ladder", &world, &label, settings, samples, 0..repetitions));
        }
    }
    // Not looked at when the widening of leads was chosen: other values, other numbers of candidates, other seeds.
    for (name, means) in [("five", vec![0.1, 0.35, 0.3, 0.0, 0.2]), ("twelve", twelve())] {
        for rho in [0.0, 0.45] {
            let world = World { means: means.clone(), noise: Noise::Normal, spread: 0.4, rho };
            for (label, settings, samples) in strategies(&[2, 4, 8]) {
                rows.push(row(name, &world, &label, settings, samples, 5_000_000..5_000_000 + repetitions));
            }
        }
    }
    json!({ "repetitions": repetitions, "rows": rows })
}

/// Four good ones that are close, eight that are not.
fn twelve() -> Vec<f64> {
    (0..12).map(|at| if at % 3 == 0 { 0.8 + 0.02 * f64::from(at) } else { 0.4 + 0.01 * f64::from(at) }).collect()
}

fn strategies(fixed: &[usize]) -> Vec<(String, AllocationSettings, usize)> {
    let limit = |rollouts| Budget { rollouts: Some(rollouts), ..Budget::default() };
    let adaptive = |strategy, rollouts| {
        let settings = AllocationSettings { strategy, budget: limit(rollouts), ..AllocationSettings::default() };
        (format!("{} {rollouts}", serde_json::to_value(strategy).unwrap().as_str().unwrap()), settings, 1)
    };
    let mut all: Vec<_> =
        fixed.iter().map(|&samples| (format!("fixed {samples}"), AllocationSettings::default(), samples)).collect();
    all.push(adaptive(Strategy::SequentialHalving, 64));
    all.push(adaptive(Strategy::SequentialHalving, 128));
    all.push(adaptive(Strategy::StopWhenSure, 168));
    all
}

fn row(
    name: &str,
    world: &World,
    label: &str,
    settings: AllocationSettings,
    samples: usize,
    seeds: Range<u64>,
) -> Value {
    let [mut means, mut chosen, mut to_best, mut to_leader, mut naive] = <[Held; 5]>::default();
    let paired = world.rho > 0.0;
    for seed in seeds {
        let Outcome { rewards, leader, .. } = run(world, settings, samples, seed);
        let leads = leads(&rewards, leader, paired, settings.strategy == Strategy::StopWhenSure);
        for candidate in 0..rewards.len() {
            let truth = |a: usize| world.means[a] - world.means[candidate];
            let difference =
                |a: usize| Difference::of(&rewards[a], &rewards[candidate], paired).and_then(|found| found.interval);
            let of: Vec<f64> = rewards[candidate].iter().flatten().copied().collect();
            let interval = Estimate::of(&of).and_then(|estimate| estimate.interval);
            means.add(interval, world.means[candidate]);
            if candidate == leader {
                chosen.add(interval, world.means[candidate]);
            } else {
                to_leader.add(leads[candidate].and_then(|lead| lead.interval), truth(leader));
                naive.add(difference(leader), truth(leader));
            }
            if candidate != world.best() {
                to_best.add(difference(world.best()), truth(world.best()));
            }
        }
    }
    eprintln!(
        "{name} {:?} rho {} {label}: {} {} {}",
        world.noise,
        world.rho,
        means.share(),
        to_best.share(),
        to_leader.share()
    );
    json!({
        "world": name, "noise": format!("{:?}", world.noise).to_lowercase(), "rho": world.rho, "strategy": label,
        "means": means.share(), "mean_of_leader": chosen.share(), "difference_to_true_best": to_best.share(),
        "lead": to_leader.share(), "lead_without_widening": naive.share(),
    })
}
