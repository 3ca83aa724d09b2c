//! A comparison of the orders into which models put candidates.

use foreturn::Ranking;
use foreturn::reward::Estimate;
use serde::Serialize;

/// Rewards of a request's candidates; empty where it has no ranking.
type Rewards = Vec<Option<f64>>;

/// The differences between rewards.
#[derive(Serialize)]
pub(super) struct Order {
    /// Requests with at least two candidates to put in order.
    pub(super) requests: usize,
    /// Kendall's tau-b between rewards, the mean over requests; unknown where nothing can be ordered.
    pub(super) tau: Option<f64>,
    /// Standard error of that mean.
    pub(super) tau_std_error: Option<f64>,
    /// Requests whose best candidate is the same.
    pub(super) same_best: usize,
    /// Mean change of a candidate's reward; unknown where no candidate has two.
    pub(super) mean_change: Option<f64>,
}

impl Order {
    pub(super) fn of(wanted: &[Option<Ranking>], found: &[Option<Ranking>]) -> Self {
        Order::of_rewards(wanted.iter().zip(found).map(|(wanted, found)| (rewards(wanted), rewards(found))))
    }

    fn of_rewards(requests: impl Iterator<Item = (Rewards, Rewards)>) -> Self {
        let (mut taus, mut changes) = (Vec::new(), Vec::new());
        let (mut compared, mut same_best) = (0, 0);
        for (wanted, found) in requests {
            let pairs: Vec<(f64, f64)> = wanted.iter().zip(&found).filter_map(|(w, f)| Some(((*w)?, (*f)?))).collect();
            taus.extend(kendall(&pairs));
            changes.extend(pairs.iter().map(|(wanted, found)| (wanted - found).abs()));
            compared += usize::from(pairs.len() > 1);
            same_best += usize::from(pairs.len() > 1 && best(&wanted) == best(&found));
        }
        let tau = Estimate::of(&taus);
        Order {
            requests: compared,
            tau: tau.map(|tau| tau.mean),
            tau_std_error: tau.and_then(|tau| tau.std_error),
            same_best,
            mean_change: Estimate::of(&changes).map(|change| change.mean),
        }
    }
}

/// In the order of the request.
fn rewards(ranking: &Option<Ranking>) -> Rewards {
    let candidates = ranking.iter().flat_map(|ranking| &ranking.candidates);
    let mut rewards: Vec<_> = candidates.map(|ranked| (ranked.candidate, ranked.reward)).collect();
    rewards.sort_by_key(|(candidate, _)| *candidate);
    rewards.into_iter().map(|(_, reward)| reward).collect()
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
        let wanted = [vec![Some(1.0), Some(0.5), None], vec![Some(0.0), Some(1.0)], vec![Some(1.0), Some(2.0)]];
        // The third has no ranking.
        let found = [vec![Some(0.5), Some(1.0), Some(9.0)], vec![Some(0.0), Some(1.0)], vec![]];
        let order = Order::of_rewards(wanted.into_iter().zip(found));
        assert_eq!((order.requests, order.tau, order.same_best), (2, Some(0.0), 1));
        assert_eq!((order.mean_change, order.tau_std_error), (Some(0.25), Some(1.0)));
        let nothing = Order::of(&[None], &[None]);
        assert_eq!((nothing.requests, nothing.tau, nothing.mean_change), (0, None, None));
    }
}
