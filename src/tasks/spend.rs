//! What conversations cost: tokens by role, and money where prices are known.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::options::RunOptions;
use crate::rank::{ModelRole, RankPlan, RoleCosts};
use crate::stats::Estimate as Mean;
use crate::{Error, Result};

/// Tokens of prompts, and tokens that were sampled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Tokens {
    /// Tokens of the prompts.
    pub prompt: u64,
    /// Tokens sampled.
    pub generated: u64,
}

impl Tokens {
    fn add(&mut self, other: Tokens) {
        self.prompt += other.prompt;
        self.generated += other.generated;
    }
}

/// The cost of a conversation, or of several.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Spent {
    /// Tokens by role, for the roles that had any.
    pub roles: BTreeMap<ModelRole, Tokens>,
    /// The same tokens by the names of the models.
    pub models: BTreeMap<String, Tokens>,
    /// Of the prompts' tokens, those that the cache held.
    pub reused: u64,
    /// Seconds, summed over conversations, which overlap.
    pub seconds: f64,
}

impl Spent {
    pub(crate) fn new(costs: &RoleCosts, seconds: f64, plan: &RankPlan) -> Self {
        let roles = [
            (ModelRole::Policy, Some(costs.policy)),
            (ModelRole::User, Some(costs.user)),
            (ModelRole::Judge, Some(costs.judge)),
            (ModelRole::Extractor, costs.extractor),
            (ModelRole::RewardModel, costs.reward_model),
        ];
        let mut spent = Spent { reused: costs.total().reused_tokens, seconds, ..Spent::default() };
        for (role, usage) in roles {
            let usage = usage.unwrap_or_default();
            if usage.prompt_tokens + usage.generated_tokens > 0 {
                let tokens = Tokens { prompt: usage.prompt_tokens, generated: usage.generated_tokens };
                let metric_models = plan.metric_models();
                let own = plan.roles.resolve(role).map(|(_, name)| name.to_owned());
                let model = own.unwrap_or_else(|| metric_models.join(", "));
                spent.models.entry(model).or_default().add(tokens);
                spent.roles.insert(role, tokens);
            }
        }
        spent
    }

    pub(crate) fn add(&mut self, other: &Spent) {
        other.roles.iter().for_each(|(role, tokens)| self.roles.entry(*role).or_default().add(*tokens));
        other.models.iter().for_each(|(model, tokens)| self.models.entry(model.clone()).or_default().add(*tokens));
        self.reused += other.reused;
        self.seconds += other.seconds;
    }

    /// All tokens, of all roles.
    pub fn total(&self) -> u64 {
        self.roles.values().map(|tokens| tokens.prompt + tokens.generated).sum()
    }
}

/// The price of a model's tokens, per million. The currency is the reader's.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Price {
    /// Of the prompts' tokens.
    pub prompt: f64,
    /// Of the sampled tokens.
    pub generated: f64,
}

/// Parses `PROMPT/GENERATED`, such as `0.15/0.6`.
impl FromStr for Price {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |text: &str| text.trim().parse().ok().filter(|price: &f64| price.is_finite() && *price >= 0.0);
        let parsed = text.split_once('/').and_then(|(prompt, generated)| Some((number(prompt)?, number(generated)?)));
        match parsed {
            Some((prompt, generated)) => Ok(Price { prompt, generated }),
            None => Err(Error::invalid_request(format!(
                "`{text}` is not a price: give those of a million tokens of prompts and of replies, as in 0.15/0.6"
            ))),
        }
    }
}

/// Prices by the names of models.
pub(crate) type Prices = BTreeMap<String, Price>;

/// Refuses prices with which the cost under `plan` would be wrong, and a limit on a cost that is not known. `is_elsewhere`
/// tells the models that somebody else runs, and bills.
pub(crate) fn check_prices(options: &RunOptions, plan: &RankPlan, is_elsewhere: &dyn Fn(&str) -> bool) -> Result<()> {
    let (prices, metric_models) = (&options.prices, plan.metric_models());
    let mut asked = plan.roles.models.values().map(String::as_str).chain(metric_models.iter().map(|name| &**name));
    if options.max_cost.is_some()
        && let Some(name) = asked.find(|name| is_elsewhere(name) && !prices.contains_key(*name))
    {
        return Err(Error::invalid_request(format!(
            "a limit on the cost: model `{name}` has no price, so the limit would be without effect; give it one, or \
             {name}=0/0 if it is free"
        )));
    }
    for name in prices.keys() {
        let asked = metric_models.iter().any(|model| **model == **name);
        if asked && metric_models.len() > 1 {
            return Err(Error::invalid_request(format!(
                "a price for `{name}`: metrics ask {} models, whose tokens are counted together, so the cost would be \
                 wrong; leave this price out",
                metric_models.len()
            )));
        }
    }
    Ok(())
}

/// The cost in money. `None` without prices. Models without a price cost nothing.
pub(crate) fn cost(prices: &Prices, spent: &Spent) -> Option<f64> {
    let of = |(model, tokens): (&String, &Tokens)| {
        let price = prices.get(model)?;
        Some((tokens.prompt as f64 * price.prompt + tokens.generated as f64 * price.generated) / 1e6)
    };
    (!prices.is_empty()).then(|| spent.models.iter().filter_map(of).sum())
}

/// What the conversations that are left will cost, judged by those that are finished.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Estimate {
    /// The number of finished conversations that it rests on.
    pub measured: usize,
    /// The number of conversations that are left.
    pub left: usize,
    /// Tokens of all roles.
    pub tokens: f64,
    /// 95% interval of the tokens; unknown from one conversation.
    pub tokens_interval: Option<[f64; 2]>,
    /// Seconds, at the concurrency of the run.
    pub seconds: f64,
    /// The cost, where prices are known.
    pub cost: Option<f64>,
    /// 95% interval of the cost.
    pub cost_interval: Option<[f64; 2]>,
}

impl Estimate {
    /// The sum over policies, which are independent of each other and take their turns. Those of which nothing is finished
    /// are not in it. `None` if there are no others.
    pub(crate) fn sum(estimates: &[Estimate]) -> Option<Self> {
        let total = |value: &dyn Fn(&Estimate) -> f64| estimates.iter().map(value).sum::<f64>();
        let number = |value: &dyn Fn(&Estimate) -> usize| estimates.iter().map(value).sum::<usize>();
        let tokens = total(&|estimate| estimate.tokens);
        let cost = estimates.iter().map(|estimate| estimate.cost).sum::<Option<f64>>();
        // Where nothing is left, nothing is unsure.
        let half = |estimate: &Estimate, mean: f64, interval: Option<[f64; 2]>| match estimate.left {
            0 => Some(0.0),
            _ => interval.map(|[_, high]| high - mean),
        };
        let interval = |mean: f64, halves: Option<Vec<f64>>| {
            let half = halves?.iter().map(|half| half * half).sum::<f64>().sqrt();
            Some([(mean - half).max(0.0), mean + half])
        };
        let of_tokens = estimates.iter().map(|one| half(one, one.tokens, one.tokens_interval)).collect();
        let of_cost = estimates.iter().map(|one| half(one, one.cost?, one.cost_interval)).collect();
        (!estimates.is_empty()).then(|| Estimate {
            measured: number(&|estimate| estimate.measured),
            left: number(&|estimate| estimate.left),
            tokens,
            tokens_interval: interval(tokens, of_tokens),
            seconds: total(&|estimate| estimate.seconds),
            cost,
            cost_interval: cost.and_then(|cost| interval(cost, of_cost)),
        })
    }

    /// `None` if nothing is finished.
    pub(crate) fn of(finished: &[Spent], left: usize, concurrency: usize, prices: &Prices) -> Option<Self> {
        let mean = |value: &dyn Fn(&Spent) -> Option<f64>| {
            Mean::of(&finished.iter().map(value).collect::<Option<Vec<f64>>>()?)
        };
        let tokens = mean(&|spent| Some(spent.total() as f64))?;
        let seconds = mean(&|spent| Some(spent.seconds))?;
        let money = mean(&|spent| cost(prices, spent));
        let scaled = |bounds: [f64; 2]| bounds.map(|bound| bound.max(0.0) * left as f64);
        Some(Estimate {
            measured: finished.len(),
            left,
            tokens: tokens.mean * left as f64,
            tokens_interval: tokens.interval.map(scaled),
            seconds: seconds.mean * left as f64 / concurrency.clamp(1, left.max(1)) as f64,
            cost: money.map(|cost| cost.mean * left as f64),
            cost_interval: money.and_then(|cost| cost.interval).map(scaled),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spent(prompt: u64, generated: u64) -> Spent {
        let tokens = Tokens { prompt, generated };
        Spent {
            roles: [(ModelRole::Policy, tokens)].into(),
            models: [("small".into(), tokens)].into(),
            reused: 0,
            seconds: 2.0,
        }
    }

    #[test]
    fn prices_are_two_numbers() {
        assert_eq!("0.15/0.6".parse::<Price>().unwrap(), Price { prompt: 0.15, generated: 0.6 });
        for bad in ["", "1", "1/", "a/b", "-1/2", "inf/1", "1/2/3"] {
            assert!(bad.parse::<Price>().unwrap_err().to_string().contains("is not a price"), "{bad}");
        }
    }

    #[test]
    fn an_estimate_scales_means_and_their_intervals() {
        let prices: Prices = [("small".into(), Price { prompt: 1.0, generated: 10.0 })].into();
        assert_eq!(cost(&prices, &spent(1_000_000, 100_000)), Some(2.0));
        let finished = [spent(100, 0), spent(200, 0), spent(600, 0)];
        let estimate = Estimate::of(&finished, 10, 4, &prices).unwrap();
        assert_eq!((estimate.measured, estimate.left, estimate.tokens, estimate.seconds), (3, 10, 3000.0, 5.0));
        assert!((estimate.cost.unwrap() - 0.003).abs() < 1e-12);
        let [low, high] = estimate.tokens_interval.unwrap();
        // Student's t with 2 degrees of freedom, standard error √(70000 / 3) per conversation. Tokens are not negative.
        assert_eq!(low, 0.0);
        assert!((high - 3000.0 - 10.0 * 4.302_652_729_7 * (70_000.0_f64 / 3.0).sqrt()).abs() < 1e-3);
        assert_eq!(Estimate::of(&finished, 10, 4, &Prices::default()).unwrap().cost, None);
        assert_eq!(Estimate::of(&[], 10, 4, &prices), None);
        // A cheap policy with many conversations left and a dear one with few: each counts with its own.
        let dear = Estimate::of(&[spent(5000, 0), spent(7000, 0)], 2, 4, &prices).unwrap();
        let both = Estimate::sum(&[estimate.clone(), dear.clone()]).unwrap();
        assert_eq!((both.measured, both.left, both.tokens), (5, 12, 3000.0 + 12_000.0));
        let half = |of: &Estimate| of.tokens_interval.unwrap()[1] - of.tokens;
        assert!((half(&both) - half(&estimate).hypot(half(&dear))).abs() < 1e-6);
        let done = Estimate::of(&[spent(5, 0)], 0, 4, &prices).unwrap();
        assert_eq!(
            Estimate::sum(&[estimate.clone(), done]).unwrap().tokens_interval.unwrap()[1],
            3000.0 + half(&estimate)
        );
        assert_eq!(Estimate::sum(&[]), None);
    }
}
