//! Whether models put candidates in the same order.

use std::path::{Path, PathBuf};

use foreturn::config::Config;
use foreturn::{Engine, RankOptions, RankRequest, Result};
use serde::Serialize;

use super::super::models::places;
use super::super::output;

/// Rewards of a request's candidates.
pub(super) type Rewards = Vec<Option<f64>>;

/// Ranks each of `requests` with `model` in every role of the configuration.
pub(super) fn rewards(config: &Path, requests: &[PathBuf], model: &Path, other_seed: bool) -> Result<Vec<Rewards>> {
    let mut config = Config::from_file(config)?;
    let model = std::path::absolute(model).map_err(|error| foreturn::Error::io("resolve", model, error))?;
    config.models.values_mut().for_each(|settings| settings.path = Some(model.clone()));
    let seed = config.seed.unwrap_or(0);
    let engine = Engine::builder(config).places(places()).build()?;
    let mut all = Vec::new();
    for path in requests {
        let (text, origin) = output::read(path)?;
        let mut request = RankRequest::from_json(&text, &origin)?;
        if other_seed {
            request.seed = Some(request.seed.unwrap_or(seed).wrapping_add(1));
        }
        let ranking = engine.rank(request, RankOptions::default())?;
        let mut candidates: Vec<_> = ranking.ranking.iter().map(|c| (c.candidate, c.reward)).collect();
        candidates.sort_by_key(|(candidate, _)| *candidate);
        all.push(candidates.into_iter().map(|(_, reward)| reward).collect());
    }
    Ok(all)
}

/// How rewards differ.
#[derive(Serialize)]
pub(super) struct Order {
    pub(super) requests: usize,
    /// Kendall's tau-b between rewards, the mean over requests; unknown where nothing can be ordered.
    pub(super) tau: Option<f64>,
    /// Requests whose best candidate is the same.
    pub(super) same_best: usize,
    /// Mean change of a candidate's reward.
    pub(super) mean_change: f64,
}

impl Order {
    pub(super) fn of(wanted: &[Rewards], found: &[Rewards]) -> Self {
        let mut taus = Vec::new();
        let mut changes = Vec::new();
        let mut same_best = 0;
        for (wanted, found) in wanted.iter().zip(found) {
            let pairs: Vec<(f64, f64)> = wanted.iter().zip(found).filter_map(|(w, f)| Some(((*w)?, (*f)?))).collect();
            taus.extend(kendall(&pairs));
            changes.extend(pairs.iter().map(|(wanted, found)| (wanted - found).abs()));
            same_best += usize::from(!pairs.is_empty() && best(wanted) == best(found));
        }
        let mean = |numbers: &[f64]| numbers.iter().sum::<f64>() / numbers.len().max(1) as f64;
        let tau = (!taus.is_empty()).then(|| mean(&taus));
        Order { requests: wanted.len(), tau, same_best, mean_change: mean(&changes) }
    }
}

fn best(rewards: &[Option<f64>]) -> Option<usize> {
    let known = rewards.iter().enumerate().filter_map(|(index, reward)| Some((index, (*reward)?)));
    known.max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(index, _)| index)
}

/// Kendall's tau-b (Kendall 1945), which corrects for ties; none where one side is all ties.
fn kendall(pairs: &[(f64, f64)]) -> Option<f64> {
    let (mut balance, mut left, mut right) = (0.0, 0.0, 0.0);
    for (index, a) in pairs.iter().enumerate() {
        for b in &pairs[index + 1..] {
            let sign = |x: f64, y: f64| if x == y { 0.0 } else { (x - y).signum() };
            let (x, y) = (sign(a.0, b.0), sign(a.1, b.1));
            balance += x * y;
            left += x * x;
            right += y * y;
        }
    }
    (left > 0.0 && right > 0.0).then(|| balance / f64::sqrt(left * right))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kendalls_tau() {
        assert_eq!(kendall(&[(1.0, 10.0), (2.0, 20.0), (3.0, 30.0)]), Some(1.0));
        assert_eq!(kendall(&[(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]), Some(-1.0));
        // scipy.stats.kendalltau([1, 2, 3, 4, 4], [1, 3, 2, 4, 5])
        let tau = kendall(&[(1.0, 1.0), (2.0, 3.0), (3.0, 2.0), (4.0, 4.0), (4.0, 5.0)]).unwrap();
        assert!((tau - 0.737_864_787_372_621_8).abs() < 1e-12, "{tau}");
        assert_eq!(kendall(&[(1.0, 1.0), (1.0, 2.0)]), None);
        assert_eq!(kendall(&[]), None);
    }

    #[test]
    fn orders_are_compared_request_by_request() {
        let wanted = [vec![Some(1.0), Some(0.5), None], vec![Some(0.0), Some(1.0)]];
        let found = [vec![Some(0.5), Some(1.0), Some(9.0)], vec![Some(0.0), Some(1.0)]];
        let order = Order::of(&wanted, &found);
        assert_eq!((order.requests, order.tau, order.same_best), (2, Some(0.0), 1));
        assert_eq!(order.mean_change, 0.25);
    }
}
