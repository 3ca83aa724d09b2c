//! How many rollouts a strategy needs to find the best with a probability of 90%.

use foreturn::rank::{AllocationSettings, Budget, Strategy};
use serde_json::{Value, json};

use crate::run::run;
use crate::world::{Noise, Table, World, ladder, slippage};

const WANTED: f64 = 0.9;
const CHEAP: u64 = 2000;

pub(crate) fn measure(repetitions: u64) -> Value {
    let mut rows = Vec::new();
    for (name, means, limit) in [("one good", slippage(), 60), ("ladder", ladder(), 700)] {
        for rho in [0.0, 0.3, 0.6] {
            let world = World { means: means.clone(), noise: Noise::Normal, spread: 0.5, rho };
            let fixed = fixed(&world, limit);
            let halving = halving(&world, fixed);
            let sure = stop_when_sure(&world, fixed, repetitions);
            eprintln!("{name}, rho {rho}: fixed {fixed}, halving {halving:?}, sure {}", sure["rollouts"]);
            rows.push(json!({
                "world": name, "rho": rho, "fixed": fixed, "sequential_halving": halving, "stop_when_sure": sure,
            }));
        }
    }
    json!({ "wanted": WANTED, "repetitions": { "fixed, halving": CHEAP, "stop_when_sure": repetitions }, "rows": rows })
}

/// The least S at which the best has the highest mean often enough, times the number of candidates.
fn fixed(world: &World, limit: usize) -> usize {
    let (candidates, best) = (world.means.len(), world.best());
    let mut hits = vec![0; limit];
    for seed in 0..CHEAP {
        let mut table = Table::new(candidates, seed);
        table.extend(world, limit);
        let mut sums = vec![0.0; candidates];
        for (sample, hits) in hits.iter_mut().enumerate() {
            (0..candidates).for_each(|candidate| sums[candidate] += table.rewards[candidate][sample]);
            *hits += u64::from(sums.iter().all(|&sum| sum <= sums[best]));
        }
    }
    let enough = hits.iter().position(|&hits| hits as f64 >= WANTED * CHEAP as f64);
    candidates * (enough.expect("the limit is high enough") + 1)
}

/// The least budget, to one in sixteen of `fixed`'s need.
fn halving(world: &World, fixed: usize) -> Option<usize> {
    (3..=24).map(|sixteenths| fixed * sixteenths / 16).filter(|&budget| budget >= 14).find(|&budget| {
        let settings = settings(Strategy::SequentialHalving, budget);
        let hits = (0..CHEAP).filter(|&seed| run(world, settings, 1, seed).leader == world.best()).count();
        hits as f64 >= WANTED * CHEAP as f64
    })
}

/// Mean rollouts by confidence, at most what `fixed` needs; between confidences on a line.
fn stop_when_sure(world: &World, fixed: usize, repetitions: u64) -> Value {
    let mut points: Vec<(f64, f64, f64)> = Vec::new();
    for confidence in [0.55, 0.65, 0.75, 0.85, 0.9] {
        let settings = AllocationSettings { confidence: Some(confidence), ..settings(Strategy::StopWhenSure, fixed) };
        let (mut hits, mut rollouts) = (0, 0);
        for seed in 0..repetitions {
            let outcome = run(world, settings, 1, seed);
            hits += u64::from(outcome.leader == world.best());
            rollouts += outcome.rollouts;
        }
        points.push((confidence, hits as f64 / repetitions as f64, rollouts as f64 / repetitions as f64));
    }
    let crossing = points.windows(2).find(|pair| pair[0].1 < WANTED && pair[1].1 >= WANTED);
    let rollouts = match crossing {
        _ if points[0].1 >= WANTED => Some(points[0].2),
        Some([a, b]) => Some(a.2 + (b.2 - a.2) * (WANTED - a.1) / (b.1 - a.1)),
        _ => None,
    };
    let points: Vec<Value> = points
        .iter()
        .map(|(confidence, found, mean)| json!({ "confidence": confidence, "found": found, "rollouts": mean }))
        .collect();
    json!({ "rollouts": rollouts, "by_confidence": points })
}

fn settings(strategy: Strategy, rollouts: usize) -> AllocationSettings {
    AllocationSettings {
        strategy,
        budget: Budget { rollouts: Some(rollouts), ..Budget::default() },
        ..AllocationSettings::default()
    }
}
