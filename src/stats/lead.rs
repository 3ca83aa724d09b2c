//! The lead of the best candidate of a ranking.
//!
//! The interval of a [`Difference`] holds for two candidates that were chosen beforehand. The leader is chosen by its
//! rewards, so it owes a part of its lead to luck. Measured on eight equal candidates, the 95% interval then holds for 88%.
//! So it is widened here. If the leader may be any candidate, it is widened as much as equal candidates need. If the leader
//! is surely the best, it is not widened. In between, the root of the doubt decides, which gave the best measurements
//! (docs/allocation.md). For two candidates there is nothing to widen, because a difference and its opposite have the same
//! interval.

use statrs::distribution::{Continuous as _, ContinuousCDF as _, Normal};

use super::{Difference, probability_best};

/// The factors by which intervals are wider if the rewards stopped the sampling, with common random numbers and without.
/// docs/allocation.md has the measurements.
const WIDENING_WHEN_STOPPED: [f64; 2] = [1.03, 1.09];
/// The 97.5% quantile of the normal distribution.
const NORMAL_975: f64 = 1.959_963_984_540_054;

/// The lead of `leader`, the candidate with the highest mean, over each candidate. The 95% interval allows for the fact that
/// the leader was chosen by its rewards. `None` for the leader itself, and if there is nothing to compare. See
/// [`Difference::of`] for `paired` and for unknown values. `stopped` says that sampling went on until the rewards told the
/// candidates apart.
///
/// ```
/// use foreturn::reward::leads;
///
/// let rewards = [vec![Some(0.9), Some(0.7), Some(0.8)], vec![Some(0.4), Some(0.3), Some(0.2)]];
/// let leads = leads(&rewards, 0, true, false);
/// assert!(leads[0].is_none() && leads[1].unwrap().interval.unwrap()[0] > 0.0);
/// ```
pub fn leads(rewards: &[Vec<Option<f64>>], leader: usize, paired: bool, stopped: bool) -> Vec<Option<Difference>> {
    let Some(of_leader) = rewards.get(leader) else { return vec![None; rewards.len()] };
    let candidates = rewards.iter().filter(|of| of.iter().any(Option::is_some)).count();
    let chance = 1.0 / candidates.max(2) as f64;
    let best = probability_best(rewards, paired)[leader].unwrap_or(chance);
    let doubt = ((1.0 - best) / (1.0 - chance)).clamp(0.0, 1.0);
    let chosen = 1.0 + (widening_of_equals(candidates) - 1.0) * doubt.sqrt();
    let [common, own] = WIDENING_WHEN_STOPPED;
    let factor = match (stopped, paired) {
        (false, _) => chosen,
        (true, true) => chosen * common,
        (true, false) => chosen * own,
    };
    let lead = |(candidate, of): (usize, &Vec<Option<f64>>)| {
        let difference = Difference::of(of_leader, of, paired).filter(|_| candidate != leader)?;
        let widened = |[low, high]: [f64; 2]| {
            let mean = difference.mean;
            [mean - factor * (mean - low), mean + factor * (high - mean)]
        };
        Some(Difference { interval: difference.interval.map(widened), ..difference })
    };
    rewards.iter().enumerate().map(lead).collect()
}

/// The factor by which intervals must be wider so that they hold 95% of the leads of the best of `candidates` equals over the
/// others.
fn widening_of_equals(candidates: usize) -> f64 {
    if candidates <= 2 {
        return 1.0;
    }
    let (mut low, mut high) = (1.0, 3.0);
    // To 1e-9; at 1,024 candidates it is 1.8.
    for _ in 0..31 {
        let middle = (low + high) / 2.0;
        if exceeding(candidates, middle * NORMAL_975 * std::f64::consts::SQRT_2) > 0.05 {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

/// The share of the others over which the largest of so many standard normals leads by more than `lead`:
/// n ∫ φ(x) Φ(x)ⁿ⁻² Φ(x − lead) dx.
fn exceeding(candidates: usize, lead: f64) -> f64 {
    const STEPS: i32 = 320;
    let normal = Normal::standard();
    let integrand = |x: f64| normal.pdf(x) * normal.cdf(x).powi(candidates as i32 - 2) * normal.cdf(x - lead);
    // The integrand vanishes at both ends, so the trapezoid rule is as good as any.
    let step = 16.0 / f64::from(STEPS);
    candidates as f64 * step * (0..=STEPS).map(|at| integrand(f64::from(at) * step - 8.0)).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_widening_is_that_of_a_simulation() {
        // By simulation in Python: 40,000 sets of normals each (6,000 for 64); see docs/allocation.md.
        for (candidates, simulated) in [(3, 1.066), (4, 1.114), (8, 1.222), (16, 1.325), (64, 1.502)] {
            let computed = widening_of_equals(candidates);
            assert!((computed - simulated).abs() < 0.008, "{candidates}: {computed}");
        }
        assert_eq!(widening_of_equals(2), 1.0);
        // For two the formula is that of one difference.
        assert!((exceeding(2, NORMAL_975 * std::f64::consts::SQRT_2) - 0.05).abs() < 1e-9);
    }

    #[test]
    fn intervals_are_widened_by_the_doubt() {
        let rows = |values: [[f64; 4]; 3]| values.map(|row| row.map(Some).to_vec());
        let width = |difference: Difference| difference.interval.map(|[low, high]| high - low).unwrap();
        let factor = |rewards: &[Vec<Option<f64>>], adaptive| {
            width(leads(rewards, 0, true, adaptive)[1].unwrap())
                / width(Difference::of(&rewards[0], &rewards[1], true).unwrap())
        };
        let close = rows([[0.5, 0.7, 0.4, 0.7], [0.6, 0.6, 0.5, 0.5], [0.4, 0.5, 0.7, 0.6]]);
        let clear = rows([[9.5, 9.7, 9.4, 9.7], [0.6, 0.6, 0.5, 0.5], [0.4, 0.5, 0.7, 0.6]]);
        assert!(factor(&close, false) > 1.02 && factor(&close, false) < 1.067);
        assert!(factor(&clear, false) < 1.005);
        assert!((factor(&clear, true) - 1.03).abs() < 0.006);
        assert_eq!(leads(&close, 0, true, false)[0], None);
        assert_eq!(leads(&close, 7, true, false), [None; 3]);
    }
}
