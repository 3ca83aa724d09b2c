//! The values of a kind of reward: one for each response and sample.

use super::kind::{Kind, Reading};
use super::row::{Comparisons, Swept, SweptFuture, SweptResponse, Values};

/// A task with one simulator.
pub(super) struct Read {
    pub(super) row: Swept,
    pub(super) compared: Option<Comparisons>,
}

/// The variance that chance makes, and the variance between responses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spread {
    /// Of one sample about the response's own mean, without the luck that all responses share.
    pub(super) noise: f64,
    /// Of the true values of responses; at least 0.
    pub(super) between: f64,
}

impl Read {
    /// The values of a kind, by response and by sample. What does not depend on a future has one value.
    pub(super) fn values(&self, kind: &Kind, samples: &[usize]) -> Option<Vec<Vec<f64>>> {
        let samples = &samples[..kind.samples.unwrap_or(samples.len()).min(samples.len())];
        let rewards = |of: &dyn Fn(&SweptResponse, &SweptFuture) -> f64| {
            let by_sample = |response| futures(response, samples).map(|future| of(response, future)).collect();
            self.row.responses.iter().map(by_sample).collect::<Vec<Vec<f64>>>()
        };
        let values = match kind.reading {
            Reading::Window(0) => {
                self.row.responses.iter().map(|response| vec![self.reward(kind, &response.now)]).collect()
            }
            Reading::Window(window) => rewards(&|_, future| self.reward(kind, &future.values[window - 1])),
            Reading::Returns(discount) => rewards(&|response, future| self.returns(kind, discount, response, future)),
            Reading::Preference => {
                wins(&rewards(&|_, future| future.values.last().map_or(0.0, |last| self.reward(kind, last))))
            }
            Reading::Judged => self.judged(samples)?,
        };
        values.iter().all(|of| !of.is_empty()).then_some(values)
    }

    /// Thousands of tokens that the kind takes for a response with all samples.
    pub(super) fn tokens(&self, kind: &Kind) -> Option<f64> {
        let tokens = &self.row.tokens;
        let all = self.row.complete().len().max(1);
        let share = kind.samples.map_or(1.0, |own| own.min(all) as f64 / all as f64);
        let sampled = |turns: usize| Some(tokens.sampling.get(turns - 1)? * share);
        let turns = tokens.sampling.len();
        match kind.reading {
            Reading::Window(0) => tokens.scoring.first().copied(),
            Reading::Window(window) => Some(sampled(window)? + tokens.scoring.get(window)? * share),
            // Every turn is scored, the response itself once.
            Reading::Returns(_) => {
                let (first, rest) = tokens.scoring.split_first()?;
                Some(sampled(turns)? + first + rest.iter().sum::<f64>() * share)
            }
            Reading::Preference => Some(sampled(turns)? + tokens.scoring.last()? * share),
            Reading::Judged => Some(sampled(turns)? + self.compared.as_ref()?.tokens * share),
        }
    }

    /// R* with the metrics of the kind: the weighted sum.
    fn reward(&self, kind: &Kind, values: &Values) -> f64 {
        let named = |name: &&String| kind.metrics.is_empty() || kind.metrics.contains(name);
        let term = |name: &String| {
            let weight = self.row.weights.get(name).copied().unwrap_or_default();
            // A metric that is shown and does not choose would otherwise be a kind without values.
            let weight = if weight == 0.0 && !kind.metrics.is_empty() { 1.0 } else { weight };
            weight * values[name]
        };
        values.keys().filter(named).map(term).sum()
    }

    /// What the response and each turn after it add to R*, discounted by turn. A conversation that is over adds nothing.
    fn returns(&self, kind: &Kind, discount: f64, response: &SweptResponse, future: &SweptFuture) -> f64 {
        let mut before = self.reward(kind, &response.now);
        let (mut sum, mut factor) = (before, 1.0);
        for values in &future.values {
            let now = self.reward(kind, values);
            factor *= discount;
            sum += factor * (now - before);
            before = now;
        }
        sum
    }

    fn judged(&self, samples: &[usize]) -> Option<Vec<Vec<f64>>> {
        let compared = self.compared.as_ref()?;
        let tables: Vec<_> = samples.iter().map(|sample| compared.samples.get(sample)).collect::<Option<_>>()?;
        let count = self.row.responses.len();
        let others = |one: usize, table: &Vec<Vec<f64>>| {
            let against = (0..count).filter(|other| *other != one).map(|other| table[one][other]);
            against.sum::<f64>() / (count - 1) as f64
        };
        Some((0..count).map(|one| tables.iter().map(|table| others(one, table)).collect()).collect())
    }
}

fn futures<'a>(response: &'a SweptResponse, samples: &'a [usize]) -> impl Iterator<Item = &'a SweptFuture> {
    samples.iter().filter_map(|sample| response.futures.iter().find(|future| future.sample == *sample))
}

/// For each conversation, the share of the other responses' conversations that it beats; a tie is half a win.
fn wins(rewards: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let beats = |one: f64, other: f64| match one.partial_cmp(&other) {
        Some(std::cmp::Ordering::Greater) => 1.0,
        Some(std::cmp::Ordering::Less) => 0.0,
        _ => 0.5,
    };
    let share = |own: usize, reward: f64| {
        let others = rewards.iter().enumerate().filter(|(at, _)| *at != own).flat_map(|(_, others)| others);
        let (sum, count) = others.fold((0.0, 0), |(sum, count), other| (sum + beats(reward, *other), count + 1));
        sum / f64::from(count.max(1))
    };
    let of = |(at, own): (usize, &Vec<f64>)| own.iter().map(|reward| share(at, *reward)).collect();
    rewards.iter().enumerate().map(of).collect()
}

/// The estimate of each response: its mean over samples.
pub(super) fn means(values: &[Vec<f64>]) -> Vec<f64> {
    values.iter().map(|of| mean(of)).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn variance(values: &[f64]) -> f64 {
    let mean = mean(values);
    values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (values.len() - 1) as f64
}

/// Splits the variance as an analysis of variance does: over samples and responses where samples share their luck, over
/// responses alone otherwise. `None` from one sample, unless nothing was sampled.
pub(super) fn spread(values: &[Vec<f64>], paired: bool, sampled: bool) -> Option<Spread> {
    let (responses, samples) = (values.len(), values.first()?.len());
    if responses < 2 {
        return None;
    }
    let own = means(values);
    if !sampled {
        return Some(Spread { noise: 0.0, between: variance(&own) });
    }
    if samples < 2 {
        return None;
    }
    let luck = |sample: usize| mean(&values.iter().map(|of| of[sample]).collect::<Vec<f64>>());
    let centre = mean(&own);
    let mut squares = 0.0;
    for (of, own) in values.iter().zip(&own) {
        for (sample, value) in of.iter().enumerate() {
            let expected = if paired { own + luck(sample) - centre } else { *own };
            squares += (value - expected).powi(2);
        }
    }
    let freedom = if paired { (responses - 1) * (samples - 1) } else { responses * (samples - 1) };
    let noise = squares / freedom as f64;
    Some(Spread { noise, between: (variance(&own) - noise / samples as f64).max(0.0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn luck_that_responses_share_is_not_noise() {
        // By hand: value + luck(sample), values 0, 1, 3, luck -1, 1. The residuals are zero.
        let values = vec![vec![-1.0, 1.0], vec![0.0, 2.0], vec![2.0, 4.0]];
        let paired = spread(&values, true, true).unwrap();
        assert!(paired.noise.abs() < 1e-12 && (paired.between - 7.0 / 3.0).abs() < 1e-12, "{paired:?}");
        // Alone, each response has variance 2, which is 1 of the variance of means.
        let alone = spread(&values, false, true).unwrap();
        assert!((alone.noise - 2.0).abs() < 1e-12 && (alone.between - 4.0 / 3.0).abs() < 1e-12, "{alone:?}");
        assert_eq!(spread(&[vec![1.0], vec![2.0]], true, true), None);
        assert_eq!(spread(&[vec![1.0], vec![2.0]], true, false), Some(Spread { noise: 0.0, between: 0.5 }));
    }

    #[test]
    fn a_win_is_against_all_conversations_of_the_others() {
        let won = wins(&[vec![1.0, 3.0], vec![2.0, 3.0]]);
        assert_eq!(won, [[0.0, 0.75], [0.5, 0.75]]);
        // Every pair is counted once from either side.
        let sum: f64 = won.iter().map(|of| mean(of)).sum();
        assert_eq!(sum, 1.0);
    }
}
