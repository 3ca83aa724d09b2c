//! Simulated rankings whose truth is known.

use std::f64::consts::TAU;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use statrs::distribution::{ContinuousCDF as _, Normal};

/// How rewards scatter around a candidate's true value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Noise {
    /// Normal.
    Normal,
    /// Normal, with standard deviations from half to one and a half times the common one.
    Unequal,
    /// Exponential: many a little below the value, a few far above.
    Skewed,
    /// 0 or 1, with the value as the probability of 1.
    TwoPoint,
}

/// Candidates, and how their rewards come about.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) means: Vec<f64>,
    pub(crate) noise: Noise,
    /// Standard deviation of a reward.
    pub(crate) spread: f64,
    /// Correlation of two candidates' rewards of one sample.
    pub(crate) rho: f64,
}

impl World {
    /// The place of the true best; the first of equals.
    pub(crate) fn best(&self) -> usize {
        (0..self.means.len()).rev().max_by(|&a, &b| self.means[a].total_cmp(&self.means[b])).unwrap()
    }
}

/// The rewards of one simulated ranking, made as they are asked for. Sample k is the same however many are asked for.
pub(crate) struct Table {
    pub(crate) rewards: Vec<Vec<f64>>,
    random: Random,
}

impl Table {
    pub(crate) fn new(candidates: usize, seed: u64) -> Self {
        Table { rewards: vec![Vec::new(); candidates], random: Random::new(seed) }
    }

    pub(crate) fn extend(&mut self, world: &World, samples: usize) {
        while self.rewards[0].len() < samples {
            let luck = self.random.normal();
            for (candidate, of) in self.rewards.iter_mut().enumerate() {
                let own = self.random.normal();
                of.push(reward(world, candidate, luck, own));
            }
        }
    }
}

fn reward(world: &World, candidate: usize, luck: f64, own: f64) -> f64 {
    let (mean, share) = (world.means[candidate], world.rho.sqrt());
    let normal = share * luck + (1.0 - world.rho).sqrt() * own;
    let standard = Normal::standard();
    match world.noise {
        Noise::Normal => mean + world.spread * normal,
        Noise::Unequal => {
            let step = candidate as f64 / (world.means.len() - 1) as f64;
            mean + world.spread * (0.5 + step) * normal
        }
        Noise::Skewed => mean + world.spread * (-(standard.sf(normal)).ln() - 1.0),
        Noise::TwoPoint => f64::from(u8::from(standard.cdf(normal) < mean)),
    }
}

/// Random numbers with a fixed seed.
pub(crate) struct Random {
    random: ChaCha8Rng,
    spare: Option<f64>,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random { random: ChaCha8Rng::seed_from_u64(seed), spare: None }
    }

    fn uniform(&mut self) -> f64 {
        ((self.random.next_u64() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    pub(crate) fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let (radius, angle) = ((-2.0 * self.uniform().ln()).sqrt(), TAU * self.uniform());
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }
}

/// Eight candidates with the values of Table 5 of the CollabLLM paper (MATH: 0.863 chosen, 0.547 rejected): one good among
/// equals, or evenly from one to the other. The best is not the first, so that ties don't favour it.
pub(crate) fn slippage() -> Vec<f64> {
    let mut means = vec![0.547; 8];
    means[3] = 0.863;
    means
}

/// See [`slippage`].
pub(crate) fn ladder() -> Vec<f64> {
    let order = [4, 2, 6, 0, 5, 1, 7, 3];
    order.map(|step| 0.863 - (0.863 - 0.547) * step as f64 / 7.0).to_vec()
}
