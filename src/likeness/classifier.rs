//! A simple classifier that tries to tell two kinds of conversations apart: a logistic regression over the features, with
//! cross-validation. The better it does, the less alike the two are.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::features::{NAMES, Numbers};
use crate::chat::Message;

/// Parts of the cross-validation.
const FOLDS: u64 = 5;
/// Steps of gradient descent. The loss is convex and smooth, and the features are standardised.
const STEPS: usize = 200;
const RATE: f64 = 0.5;
/// Weight of the squared coefficients in the loss, per conversation of training.
const PENALTY: f64 = 1e-2;
/// The 97.5% quantile of the normal distribution.
const NORMAL_975: f64 = 1.959_963_984_540_054;

/// How well a classifier tells simulated from real conversations.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Separability {
    /// The area under the ROC curve: the probability that a simulated conversation looks more simulated than a real one.
    /// 0.5 means that they cannot be told apart, 1 that they always can.
    pub auc: f64,
    /// Its 95% interval, over tasks. It is on the wide side, because it holds for all distributions of scores.
    pub interval: [f64; 2],
}

/// A conversation as the classifier sees it.
pub(super) struct Example {
    pub(super) numbers: Numbers,
    pub(super) simulated: bool,
    /// A number of its task, otherwise of its text, which decides the part of the cross-validation that it is in. Equal
    /// conversations and those about one task are in one part, whichever side they are on, because a classifier that has seen
    /// the one knows the other.
    pub(super) group: u64,
    /// True if the number is a task's.
    pub(super) of_task: bool,
}

impl Example {
    pub(super) fn new(said: &[Message], task: Option<&str>, numbers: Numbers, simulated: bool) -> Self {
        let mut hasher = Sha256::new();
        match task {
            Some(task) => hasher.update(task),
            None => said.iter().for_each(|one| hasher.update(format!("{}\0{}\0", one.role.as_str(), one.content))),
        }
        let digest = hasher.finalize();
        let group = digest[..8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        Example { numbers, simulated, group, of_task: task.is_some() }
    }
}

/// Trains and tests in turn. `None` with fewer than ten tasks on either side, or if a part has no training data of one side.
pub(super) fn separability(examples: &[Example]) -> Option<Separability> {
    let sides = [true, false].map(|side| {
        let side = || examples.iter().filter(move |example| example.simulated == side);
        let tasks: BTreeSet<u64> = side().filter(|example| example.of_task).map(|example| example.group).collect();
        tasks.len() + side().filter(|example| !example.of_task).count()
    });
    if sides.into_iter().any(|side| side < 10) {
        return None;
    }
    let (mut wins, mut pairs) = (0.0, 0.0);
    for fold in 0..FOLDS {
        let (test, train): (Vec<&Example>, Vec<&Example>) =
            examples.iter().partition(|example| example.group % FOLDS == fold);
        let model = Model::train(&train)?;
        let scores = |simulated: bool| -> Vec<f64> {
            let side = test.iter().filter(|example| example.simulated == simulated);
            side.map(|example| model.score(&example.numbers)).collect()
        };
        // Only what one model scored is compared. Scores of several models in one curve would be biased against the side
        // that a model saw less of.
        let (simulated, real) = (scores(true), scores(false));
        wins += simulated.iter().map(|one| won(*one, &real)).sum::<f64>();
        pairs += (simulated.len() * real.len()) as f64;
    }
    let smaller = sides.into_iter().min().unwrap_or_default();
    (pairs > 0.0).then(|| Separability::of(wins / pairs, smaller))
}

/// How many of the others a score is above. Equals count half.
fn won(one: f64, others: &[f64]) -> f64 {
    others.iter().map(|other| f64::from(u8::from(one > *other)) + 0.5 * f64::from(u8::from(one == *other))).sum()
}

impl Separability {
    /// The variance of an area is at most auc · (1 − auc) / n, with n the smaller of the two counts, whatever the scores'
    /// distributions (Birnbaum, Klose 1957). Cross-validation doubles it: what one part by chance has in common with
    /// another counts twice, when either is the test of the other. The interval is Wilson's for such a share, because
    /// the plain one would be a point at 0 and at 1.
    fn of(auc: f64, smaller: usize) -> Self {
        let (count, square) = (smaller as f64 / 2.0, NORMAL_975 * NORMAL_975);
        let middle = (auc + square / (2.0 * count)) / (1.0 + square / count);
        let variance = auc * (1.0 - auc) / count + square / (4.0 * count * count);
        let half = NORMAL_975 / (1.0 + square / count) * variance.sqrt();
        Separability { auc, interval: [(middle - half).clamp(0.0, auc), (middle + half).clamp(auc, 1.0)] }
    }
}

/// Standardised features and their coefficients.
struct Model {
    means: Numbers,
    spreads: Numbers,
    weights: Numbers,
    bias: f64,
}

impl Model {
    fn train(examples: &[&Example]) -> Option<Self> {
        let count = examples.len() as f64;
        let both = [true, false].iter().all(|side| examples.iter().any(|example| example.simulated == *side));
        if !both {
            return None;
        }
        let mean = |value: &dyn Fn(&Numbers) -> f64| examples.iter().map(|e| value(&e.numbers)).sum::<f64>() / count;
        let means: Numbers = std::array::from_fn(|at| mean(&|numbers| numbers[at]));
        let spreads: Numbers = std::array::from_fn(|at| mean(&|numbers| (numbers[at] - means[at]).powi(2)).sqrt());
        let mut model = Model { means, spreads, weights: [0.0; NAMES.len()], bias: 0.0 };
        let rows: Vec<(Numbers, f64)> =
            examples.iter().map(|e| (model.standardised(&e.numbers), f64::from(u8::from(e.simulated)))).collect();
        for _ in 0..STEPS {
            model.step(&rows);
        }
        Some(model)
    }

    /// A step of gradient descent. Both sides weigh the same, however many conversations each has.
    fn step(&mut self, rows: &[(Numbers, f64)]) {
        let of_side = |side: f64| rows.iter().filter(|row| row.1 == side).count() as f64;
        let sides = [of_side(0.0), of_side(1.0)];
        let mut gradient = self.weights.map(|weight| PENALTY * weight);
        let mut bias = 0.0;
        for (row, label) in rows {
            let error = (self.probability(row) - label) / (2.0 * sides[usize::from(*label > 0.5)]);
            gradient.iter_mut().zip(row).for_each(|(sum, number)| *sum += error * number);
            bias += error;
        }
        self.weights.iter_mut().zip(gradient).for_each(|(weight, slope)| *weight -= RATE * slope);
        self.bias -= RATE * bias;
    }

    /// A feature that never differs tells nothing.
    fn standardised(&self, numbers: &Numbers) -> Numbers {
        std::array::from_fn(|at| match self.spreads[at] > 1e-12 {
            true => (numbers[at] - self.means[at]) / self.spreads[at],
            false => 0.0,
        })
    }

    fn logit(&self, row: &Numbers) -> f64 {
        self.bias + self.weights.iter().zip(row).map(|(weight, number)| weight * number).sum::<f64>()
    }

    fn probability(&self, row: &Numbers) -> f64 {
        1.0 / (1.0 + (-self.logit(row)).exp())
    }

    fn score(&self, numbers: &Numbers) -> f64 {
        // Rounding does not tell conversations apart.
        (self.logit(&self.standardised(numbers)) * 1e9).round()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_is_that_of_pairs() {
        // Of 6 pairs: 4 wins, 1 tie, 1 loss.
        let real = [0.0, 2.0, 1.0];
        assert_eq!(won(3.0, &real) + won(2.0, &real), 5.5);
        // Wilson's interval of 10 and of 20 in 20. The latter begins at n / (n + z²).
        for (auc, expected) in [(0.5, [0.299_298_008, 0.700_701_992]), (1.0, [0.838_874_842, 1.0])] {
            let found = Separability::of(auc, 40).interval;
            assert!(found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-6), "{found:?}");
        }
        assert_eq!(Separability::of(0.0, 40).interval[0], 0.0);
    }
}
