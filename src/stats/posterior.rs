//! The probability that a candidate is the best.
//!
//! Rewards follow a two-way model: reward(candidate, sample) = value(candidate) + luck(sample) + noise. With common random
//! numbers, the candidates share the luck of a sample. It drops out, so only the noise counts. Without them there is no such
//! term. Nothing is assumed about the luck. The noise is normal, with one unknown size σ. Values are normal around an
//! unknown centre with a spread g·σ, where g is unknown as well (half-Cauchy with scale 0.5). The prior pulls candidates
//! together as far as the data say that they are alike. So the luckiest of many equals is not declared the best (Gelman,
//! Hill, Yajima 2012, "Why we (usually) don't have to worry about multiple comparisons"). A posterior may be looked at after
//! every round, because a stop at the moment of certainty does not spoil it.
//!
//! Given g, everything is a normal and a χ² in closed form. So g runs over a grid with its posterior weights, and the values
//! are drawn. The draws are a fixed sequence, so equal rewards give equal results.

use std::f64::consts::TAU;

use super::linear::{Cholesky, Square};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

/// Most candidates that are compared with each other, because the work grows with their cube (128 take 0.1 seconds).
pub const MAX_COMPARED: usize = 128;

/// Draws of the values: a probability of 0.9 is then known to ± 0.005.
const DRAWS: usize = 4096;
/// Points of the grid of g, evenly spaced in its logarithm.
const SPREADS: usize = 20;
const SMALLEST_SPREAD: f64 = 0.02;
const LARGEST_SPREAD: f64 = 8.0;
/// Scale of g's prior. Table 5 of the CollabLLM paper has 0.3 / 0.5.
const SPREAD_SCALE: f64 = 0.5;
/// The weight of the prior on the noise, in rewards. The prior says that the noise has the spread of all rewards. It keeps a
/// variance of exactly zero (0/1 rewards that happen to agree) from passing for certainty, and matters little otherwise.
const PRIOR_REWARDS: f64 = 0.1;

/// The knowledge about the values of candidates, as draws from their joint distribution.
#[derive(Debug, Clone)]
pub struct Posterior {
    /// The place of each candidate among those compared.
    place: Vec<Option<usize>>,
    compared: usize,
    /// The values of the candidates compared, one draw after the other, up to a shift that they share, in units of `scale`.
    draws: Vec<f64>,
    scale: f64,
}

impl Posterior {
    /// Computes it from `rewards[candidate][sample]`, where `None` is a missing reward. Rows may differ in length. `paired`
    /// says that the rewards of a sample share their random numbers across candidates.
    ///
    /// `None` if the rewards cannot tell noise from value: with one sample each, or with fewer than two candidates. Also `None`
    /// with more than [`MAX_COMPARED`] candidates, and if a reward is not finite.
    pub fn of(rewards: &[Vec<Option<f64>>], paired: bool) -> Option<Self> {
        let data = Data::of(rewards, paired)?;
        let draws = if data.is_flat() { vec![0.0; data.compared()] } else { data.draw()? };
        Some(Posterior { compared: data.compared(), place: data.place, draws, scale: data.scale })
    }

    /// The probability for each candidate that none is better. They sum to 1. Ties share. `None` for a candidate without a
    /// reward that can be compared.
    pub fn best(&self) -> Vec<Option<f64>> {
        let mut wins = vec![0.0; self.compared];
        for values in self.draws.chunks_exact(self.compared) {
            let best = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let ties = values.iter().filter(|&&value| value == best).count() as f64;
            wins.iter_mut().zip(values).filter(|(_, value)| **value == best).for_each(|(wins, _)| *wins += 1.0 / ties);
        }
        let draws = (self.draws.len() / self.compared) as f64;
        self.place.iter().map(|place| place.map(|at| wins[at] / draws)).collect()
    }

    /// The probability that no candidate is better than `candidate` by more than `margin` (in units of reward, at least 0).
    /// `None` for a candidate that cannot be compared.
    pub fn within(&self, candidate: usize, margin: f64) -> Option<f64> {
        let at = (*self.place.get(candidate)?)?;
        let good = |values: &&[f64]| values.iter().all(|value| *value <= values[at] + margin / self.scale);
        let draws = self.draws.chunks_exact(self.compared);
        Some(draws.clone().filter(good).count() as f64 / draws.len() as f64)
    }
}

/// The probability for each candidate that it is the best. See [`Posterior`] for the model, for `rewards` and for `paired`.
/// All are `None` if there is no posterior.
///
/// ```
/// use foreturn::reward::probability_best;
///
/// let rewards = [vec![Some(0.9), Some(0.7), Some(0.8)], vec![Some(0.4), Some(0.3), Some(0.3)], vec![None; 3]];
/// let best = probability_best(&rewards, true);
/// assert!(best[0] > Some(0.9) && best[1] < Some(0.1) && best[2].is_none());
/// assert_eq!(probability_best(&[vec![Some(0.9)], vec![Some(0.4)]], true), [None, None]);
/// ```
pub fn probability_best(rewards: &[Vec<Option<f64>>], paired: bool) -> Vec<Option<f64>> {
    Posterior::of(rewards, paired).map_or_else(|| vec![None; rewards.len()], |posterior| posterior.best())
}

/// The rewards as sums, without the luck of samples.
struct Data {
    place: Vec<Option<usize>>,
    /// Precision of the values, in units of the noise.
    precision: Square,
    /// Precision times estimated values.
    cross: Vec<f64>,
    /// Sum of squares about the samples' means (paired) or the mean of all.
    total: f64,
    /// Its degrees of freedom.
    freedom: usize,
    /// The number that rewards were divided by.
    scale: f64,
}

impl Data {
    fn of(rewards: &[Vec<Option<f64>>], paired: bool) -> Option<Self> {
        let blocks = blocks(rewards, paired);
        let mut place = vec![None; rewards.len()];
        blocks.iter().flatten().for_each(|&(candidate, _)| place[candidate] = Some(0));
        let compared = place.iter_mut().flatten().enumerate().map(|(at, place)| *place = at).count();
        let count = blocks.iter().map(Vec::len).sum::<usize>();
        let freedom = count - blocks.len();
        // The values take one degree of freedom less than there are values. The noise needs some of the rest.
        if !(2..=MAX_COMPARED).contains(&compared) || freedom < compared {
            return None;
        }
        let largest = blocks.iter().flatten().map(|(_, reward)| reward.abs()).fold(0.0, f64::max);
        let scale = if largest > 0.0 { largest } else { 1.0 };
        if !blocks.iter().flatten().all(|(_, reward)| reward.is_finite()) {
            return None;
        }
        let mut data =
            Data { place, precision: Square::zero(compared), cross: vec![0.0; compared], total: 0.0, freedom, scale };
        blocks.iter().for_each(|block| data.add(block));
        Some(data)
    }

    /// Adds rewards that share an unknown level: those of a sample, or all.
    fn add(&mut self, block: &[(usize, f64)]) {
        let count = block.len() as f64;
        let mean = block.iter().map(|(_, reward)| reward / self.scale).sum::<f64>() / count;
        let mut counts = vec![0.0; self.compared()];
        for &(candidate, reward) in block {
            let Some(at) = self.place[candidate] else { continue };
            let deviation = reward / self.scale - mean;
            self.total += deviation * deviation;
            self.cross[at] += deviation;
            counts[at] += 1.0;
        }
        for (row, rows) in counts.iter().enumerate().filter(|(_, count)| **count > 0.0) {
            *self.precision.at(row, row) += rows;
            for (column, columns) in counts.iter().enumerate() {
                *self.precision.at(row, column) -= rows * columns / count;
            }
        }
    }

    /// Tells whether the rewards of candidates differ by no more than rounding.
    fn is_flat(&self) -> bool {
        self.total <= 1e-26 * self.freedom as f64
    }

    fn compared(&self) -> usize {
        self.cross.len()
    }

    fn draw(&self) -> Option<Vec<f64>> {
        let spreads: Vec<Spread> = (0..SPREADS).map(|at| Spread::of(self, at)).collect::<Option<_>>()?;
        let likeliest = spreads.iter().map(|spread| spread.log_weight).fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = spreads.iter().map(|spread| (spread.log_weight - likeliest).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let mut random = Random::new();
        let mut draws = vec![0.0; DRAWS * self.compared()];
        let mut noise = vec![0.0; self.compared()];
        let (mut at, mut reached) = (0, weights[0]);
        // Two draws at a time, which are mirror images of each other: that halves the work, and their mean errs less.
        for (pair, values) in draws.chunks_exact_mut(2 * self.compared()).enumerate() {
            while at + 1 < SPREADS && reached < (2 * pair + 1) as f64 / DRAWS as f64 * sum {
                at += 1;
                reached += weights[at];
            }
            let Spread { mean, factor, squares, .. } = &spreads[at];
            let size = (squares / random.chi_squared(self.freedom as f64 + PRIOR_REWARDS)).sqrt();
            noise.iter_mut().for_each(|noise| *noise = size * random.normal());
            factor.solve_transposed(&mut noise);
            let (one, other) = values.split_at_mut(self.compared());
            for (at, (mean, noise)) in mean.iter().zip(&noise).enumerate() {
                (one[at], other[at]) = (mean + noise, mean - noise);
            }
        }
        Some(draws)
    }
}

/// The rewards that share an unknown level: those of each sample with more than one, or all together.
fn blocks(rewards: &[Vec<Option<f64>>], paired: bool) -> Vec<Vec<(usize, f64)>> {
    let samples = rewards.iter().map(Vec::len).max().unwrap_or(0);
    let block = |sample: usize| -> Vec<(usize, f64)> {
        let reward = |of: &Vec<Option<f64>>| of.get(sample).copied().flatten();
        rewards.iter().enumerate().filter_map(|(at, of)| Some((at, reward(of)?))).collect()
    };
    let mut blocks: Vec<_> = (0..samples).map(block).collect();
    if !paired {
        blocks = vec![blocks.concat()];
    }
    blocks.retain(|block| block.len() > 1);
    blocks
}

/// The posterior given g.
struct Spread {
    log_weight: f64,
    mean: Vec<f64>,
    /// Of the posterior precision.
    factor: Cholesky,
    /// Sum of squares that is left for the noise.
    squares: f64,
}

impl Spread {
    fn of(data: &Data, at: usize) -> Option<Self> {
        let step = (LARGEST_SPREAD / SMALLEST_SPREAD).ln() / (SPREADS - 1) as f64;
        let spread = SMALLEST_SPREAD * (step * at as f64).exp();
        let mut precision = data.precision.clone();
        (0..data.compared()).for_each(|at| *precision.at(at, at) += spread.powi(-2));
        let factor = Cholesky::of(precision)?;
        let mean = factor.solve(&data.cross);
        let explained: f64 = mean.iter().zip(&data.cross).map(|(mean, cross)| mean * cross).sum();
        let freedom = data.freedom as f64 + PRIOR_REWARDS;
        let squares = (data.total - explained).max(0.0) + PRIOR_REWARDS * data.total / data.freedom as f64;
        // The points are evenly spaced in the logarithm, so the prior density has a factor g.
        let prior = spread.ln() - (spread / SPREAD_SCALE).powi(2).ln_1p();
        let likelihood =
            -(data.compared() as f64) * spread.ln() - factor.log_determinant() / 2.0 - freedom / 2.0 * squares.ln();
        Some(Spread { log_weight: prior + likelihood, mean, factor, squares })
    }
}

/// Random numbers that are always the same.
struct Random {
    bits: ChaCha8Rng,
    spare: Option<f64>,
}

impl Random {
    fn new() -> Self {
        Random { bits: ChaCha8Rng::seed_from_u64(0), spare: None }
    }

    /// A number in (0, 1], because 0 has no logarithm.
    fn uniform(&mut self) -> f64 {
        ((self.bits.next_u64() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// Box and Muller 1958.
    fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let (radius, angle) = ((-2.0 * self.uniform().ln()).sqrt(), TAU * self.uniform());
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }

    /// Twice a gamma variate of shape `freedom` / 2 (Marsaglia and Tsang 2000, with their way to shapes below 1).
    fn chi_squared(&mut self, freedom: f64) -> f64 {
        let d = freedom / 2.0 + 1.0 - 1.0 / 3.0;
        loop {
            let x = self.normal();
            let v = (1.0 + x / (9.0 * d).sqrt()).powi(3);
            if v > 0.0 && self.uniform().ln() < x * x / 2.0 + d * (1.0 - v + v.ln()) {
                return 2.0 * d * v * self.uniform().powf(2.0 / freedom);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use statrs::distribution::{ContinuousCDF as _, StudentsT};

    use super::*;

    fn rows<const N: usize>(rows: &[[f64; N]]) -> Vec<Vec<Option<f64>>> {
        rows.iter().map(|row| row.map(Some).to_vec()).collect()
    }

    fn sum(best: &[Option<f64>]) -> f64 {
        best.iter().flatten().sum()
    }

    #[test]
    fn one_sample_says_nothing() {
        for paired in [false, true] {
            assert_eq!(probability_best(&rows(&[[0.9], [0.1], [0.3]]), paired), [None; 3]);
            assert_eq!(probability_best(&rows(&[[0.9, 0.8]]), paired), [None]);
            assert_eq!(probability_best(&[], paired), []);
        }
        // Pairs that never meet.
        let apart = [vec![Some(0.9), Some(0.8), None, None], vec![None, None, Some(0.1), Some(0.2)]];
        assert_eq!(probability_best(&apart, true), [None; 2]);
        assert!(probability_best(&apart, false)[0] > Some(0.8));
    }

    #[test]
    fn who_has_no_reward_has_no_probability() {
        let mut rewards = rows(&[[0.9, 0.7, 0.8], [0.4, 0.6, 0.3], [0.0; 3]]);
        rewards[2] = vec![None; 3];
        let best = probability_best(&rewards, true);
        assert!(best[2].is_none() && (sum(&best) - 1.0).abs() < 1e-12 && best[0] > best[1]);
        rewards[2].clear();
        assert_eq!(probability_best(&rewards, true), best);
    }

    #[test]
    fn equals_share() {
        let equal = probability_best(&rows(&[[0.5; 4]; 4]), true);
        assert_eq!(equal, [Some(0.25); 4]);
        assert_eq!(
            probability_best(&rows(&[[0.1, 0.7, 0.3]; 3]), true),
            [Some(1.0 / 3.0); 3],
            "all luck, which they share"
        );
        // The same numbers in another order: equal means, unpaired.
        let shuffled = rows(&[[0.1, 0.5, 0.3], [0.3, 0.1, 0.5], [0.5, 0.3, 0.1]]);
        for p in probability_best(&shuffled, false) {
            assert!((p.unwrap() - 1.0 / 3.0).abs() < 0.02, "{p:?}");
        }
    }

    #[test]
    fn a_variance_of_zero_is_not_certainty() {
        let twice = probability_best(&rows(&[[1.0; 2], [0.0; 2]]), true)[0].unwrap();
        let often = probability_best(&rows(&[[1.0; 20], [0.0; 20]]), true)[0].unwrap();
        assert!(twice > 0.6 && twice < 0.99 && often > 0.99, "{twice} {often}");
    }

    #[test]
    fn two_candidates_far_apart_are_as_student_says() {
        // With a wide spread of values the prior has no say: the posterior of a difference is Student's t. 20 pairs with
        // differences 0 ± 1 around 0.35.
        let noise: Vec<f64> = (0..20).map(|at| if at % 2 == 0 { 1.0 } else { -1.0 }).collect();
        let rewards = [
            noise.iter().map(|noise| Some(0.35 + noise / 2.0)).collect(),
            noise.iter().map(|noise| Some(-noise / 2.0)).collect::<Vec<_>>(),
        ];
        let error = (20.0_f64 / 19.0 / 20.0).sqrt();
        let flat = StudentsT::new(0.0, 1.0, 19.0).unwrap().cdf(0.35 / error);
        let computed = probability_best(&rewards, true)[0].unwrap();
        // The prior takes a little; it never adds.
        assert!(computed < flat && computed > flat - 0.09, "{computed} {flat}");
    }

    #[test]
    fn pairs_take_out_luck_that_is_shared() {
        let luck = [0.0, 3.0, -2.0, 5.0, 1.0];
        let row = |value: f64, noise: [f64; 5]| (0..5).map(|at| Some(value + luck[at] + noise[at])).collect::<Vec<_>>();
        let rewards = [row(0.5, [0.1, -0.1, 0.05, 0.0, -0.05]), row(0.0, [-0.1, 0.0, 0.1, 0.05, -0.05])];
        assert!(probability_best(&rewards, true)[0] > Some(0.95));
        assert!(probability_best(&rewards, false)[0] < Some(0.7));
        // Whoever was given up early is compared on the samples that it has, lucky or not.
        let early = [rewards[0].clone(), rewards[1].clone(), row(-0.5, [0.0; 5])[..2].to_vec()];
        let best = probability_best(&early, true);
        assert!(best[0] > Some(0.9) && best[2] < Some(0.1), "{best:?}");
    }

    #[test]
    fn it_does_not_depend_on_the_unit_and_is_the_same_every_time() {
        let rewards = rows(&[[0.9, 0.2, 0.8], [0.4, 0.6, 0.3], [0.5, 0.1, 0.6]]);
        let best = probability_best(&rewards, true);
        assert_eq!(best, probability_best(&rewards, true));
        let scaled: Vec<Vec<_>> =
            rewards.iter().map(|row| row.iter().map(|x| x.map(|x| 1e200 * x)).collect()).collect();
        for (p, scaled) in best.iter().zip(probability_best(&scaled, true)) {
            assert!((p.unwrap() - scaled.unwrap()).abs() < 1e-3);
        }
        assert_eq!(probability_best(&rows(&[[f64::INFINITY, 0.0], [1.0, 2.0]]), true), [None; 2]);
    }

    #[test]
    fn a_margin_makes_it_likelier() {
        let posterior = Posterior::of(&rows(&[[0.9, 0.2, 0.8], [0.4, 0.6, 0.3], [0.5, 0.1, 0.6]]), true).unwrap();
        let within = [0.0, 0.2, 10.0].map(|margin| posterior.within(0, margin).unwrap());
        assert_eq!(Some(within[0]), posterior.best()[0]);
        assert!(within[0] < within[1] && within[1] < within[2]);
        assert_eq!(posterior.within(5, 0.0), None);
    }
}
