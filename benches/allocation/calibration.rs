//! Whether a candidate that is the best with probability p is the best in a share p of rankings.

use foreturn::rank::{AllocationSettings, Budget, Strategy};
use foreturn::reward::probability_best;
use serde_json::{Value, json};

use crate::run::run;
use crate::world::{Noise, Random, World};

const EDGES: [f64; 9] = [0.0, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95];

pub(crate) fn measure(repetitions: u64) -> Value {
    let sure = AllocationSettings {
        strategy: Strategy::StopWhenSure,
        budget: Budget { rollouts: Some(96), ..Budget::default() },
        ..AllocationSettings::default()
    };
    let fixed = AllocationSettings::default();
    let mut rows = Vec::new();
    for noise in [Noise::Normal, Noise::Unequal, Noise::Skewed, Noise::TwoPoint] {
        for (label, settings, samples) in
            [("fixed 3", fixed, 3), ("fixed 10", fixed, 10), ("stop_when_sure 96", sure, 1)]
        {
            rows.push(row(noise, label, settings, samples, repetitions));
        }
    }
    json!({ "repetitions": repetitions, "spread_of_values": [0.05, 0.1, 0.2, 0.3], "rows": rows })
}

/// The values are drawn anew for each ranking, with four spreads in turn.
fn row(noise: Noise, label: &str, settings: AllocationSettings, samples: usize, repetitions: u64) -> Value {
    let mut bins = [(0_usize, 0.0, 0_usize); EDGES.len()];
    for seed in 0..repetitions {
        let mut random = Random::new(seed + 1_000_000);
        let spread = [0.05, 0.1, 0.2, 0.3][seed as usize % 4];
        let means = (0..8).map(|_| 0.6 + spread * random.normal());
        // Probabilities, where rewards are 0 or 1.
        let means =
            means.map(|mean: f64| if noise == Noise::TwoPoint { mean.clamp(0.02, 0.98) } else { mean }).collect();
        let world = World { means, noise, spread: 0.5, rho: 0.3 };
        let outcome = run(&world, settings, samples, seed);
        let Some(p) = probability_best(&outcome.rewards, true)[outcome.leader] else { continue };
        let bin = &mut bins[EDGES.iter().rposition(|edge| p >= *edge).unwrap_or(0)];
        *bin = (bin.0 + 1, bin.1 + p, bin.2 + usize::from(world.means[outcome.leader] == world.means[world.best()]));
    }
    let filled = EDGES.iter().zip(bins).filter(|(_, bin)| bin.0 > 0);
    let bins: Vec<Value> = filled
        .map(|(from, (count, sum, hits))| {
            json!({ "from": from, "rankings": count, "said": sum / count as f64, "was": hits as f64 / count as f64 })
        })
        .collect();
    eprintln!(
        "{noise:?} {label}: {}",
        bins.iter()
            .map(|b| format!("{:.2}/{:.2}({})", b["said"].as_f64().unwrap(), b["was"].as_f64().unwrap(), b["rankings"]))
            .collect::<Vec<_>>()
            .join(" ")
    );
    json!({ "noise": format!("{noise:?}").to_lowercase(), "strategy": label, "bins": bins })
}
