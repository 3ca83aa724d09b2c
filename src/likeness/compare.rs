//! Two corpora compared, feature by feature.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::classifier::{Example, Separability, separability};
use super::corpus::{Conversation, Corpus};
use super::features::{self, NAMES, Numbers};
use crate::stats::{Difference, Estimate};

/// How much simulated users write like real ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Likeness {
    /// The number of simulated conversations.
    pub simulated: usize,
    /// The number of real conversations.
    pub real: usize,
    /// The number of tasks that the simulated conversations are about. A conversation without a task counts as one.
    pub simulated_tasks: usize,
    /// The number of tasks that the real conversations are about.
    pub real_tasks: usize,
    /// Lines of both files without a message of the user.
    pub passed_over: usize,
    /// The features, in the order of docs/evaluation.md.
    pub features: Vec<ComparedFeature>,
    /// The mean over features of the difference in standard deviations, without its sign. 0 means that the means are equal.
    pub distance: f64,
    /// How well a classifier tells the two apart. Unknown with fewer than ten tasks on either side.
    pub separability: Option<Separability>,
}

/// A feature of both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ComparedFeature {
    /// Its name.
    pub name: String,
    /// Its mean over tasks of simulated conversations.
    pub simulated: f64,
    /// The 95% interval of that mean; unknown from one task.
    pub simulated_interval: Option<[f64; 2]>,
    /// Its mean over tasks of real conversations.
    pub real: f64,
    /// The 95% interval of that mean; unknown from one task.
    pub real_interval: Option<[f64; 2]>,
    /// Simulated minus real.
    pub difference: Difference,
    /// The difference in standard deviations of the conversations of both; 0 if they do not differ at all.
    pub standardised: f64,
}

/// Compares the users' messages of two corpora. A task is the unit: conversations about one are averaged first.
///
/// ```
/// use foreturn::chat::{Message, Role};
/// use foreturn::likeness::{Corpus, compare};
///
/// let corpus = |text: &str| Corpus::new(vec![vec![Message::new(Role::User, text)]; 12]);
/// let likeness = compare(&corpus("Could you please help me with my taxes?"), &corpus("taxes. how"));
/// assert!(likeness.distance > 0.0 && likeness.features[0].name == "words");
/// ```
pub fn compare(simulated: &Corpus, real: &Corpus) -> Likeness {
    let sides = [Side::of(simulated), Side::of(real)];
    let compared: Vec<ComparedFeature> = (0..NAMES.len()).filter_map(|at| feature(at, &sides)).collect();
    let distance =
        compared.iter().map(|feature| feature.standardised.abs()).sum::<f64>() / compared.len().max(1) as f64;
    let examples = [(simulated, true), (real, false)].into_iter().flat_map(|(corpus, is_simulated)| {
        let of = move |one: &Conversation| {
            Some(Example::new(&one.said, one.task.as_deref(), features::of(&one.said)?, is_simulated))
        };
        corpus.conversations.iter().filter_map(of)
    });
    Likeness {
        simulated: sides[0].all.len(),
        real: sides[1].all.len(),
        simulated_tasks: sides[0].tasks.len(),
        real_tasks: sides[1].tasks.len(),
        passed_over: simulated.passed_over + real.passed_over,
        features: compared,
        distance,
        separability: separability(&examples.collect::<Vec<_>>()),
    }
}

/// The features of a corpus.
struct Side {
    /// By conversation.
    all: Vec<Numbers>,
    /// Means by task.
    tasks: Vec<Numbers>,
}

impl Side {
    fn of(corpus: &Corpus) -> Self {
        let mut by_task: BTreeMap<(&str, usize), Vec<Numbers>> = BTreeMap::new();
        for (at, one) in corpus.conversations.iter().enumerate() {
            // A conversation without a task has one of its own.
            let task = one.task.as_deref().map_or(("", at + 1), |task| (task, 0));
            by_task.entry(task).or_default().extend(features::of(&one.said));
        }
        by_task.retain(|_, numbers| !numbers.is_empty());
        let mean = |all: &Vec<Numbers>| -> Numbers {
            std::array::from_fn(|at| all.iter().map(|numbers| numbers[at]).sum::<f64>() / all.len() as f64)
        };
        Side { tasks: by_task.values().map(mean).collect(), all: by_task.into_values().flatten().collect() }
    }
}

fn feature(at: usize, sides: &[Side; 2]) -> Option<ComparedFeature> {
    let values = |side: &[Numbers]| side.iter().map(|numbers| numbers[at]).collect::<Vec<f64>>();
    let [simulated, real] = [values(&sides[0].tasks), values(&sides[1].tasks)];
    let [of_simulated, of_real] = [Estimate::of(&simulated)?, Estimate::of(&real)?];
    let some = |values: &[f64]| values.iter().copied().map(Some).collect::<Vec<_>>();
    let difference = Difference::of(&some(&simulated), &some(&real), false)?;
    // Deviations are those of conversations, whatever number of them is about a task.
    let [spread_simulated, spread_real] =
        [variance(&values(&sides[0].all), of_simulated.mean), variance(&values(&sides[1].all), of_real.mean)];
    let spread = ((spread_simulated + spread_real) / 2.0).sqrt();
    // Features that are constant on both sides and differ are as far apart as can be; one deviation stands for it.
    let standardised = match (difference.mean == 0.0, spread > 1e-12) {
        (true, _) => 0.0,
        (false, true) => difference.mean / spread,
        (false, false) => difference.mean.signum(),
    };
    Some(ComparedFeature {
        name: NAMES[at].to_owned(),
        simulated: of_simulated.mean,
        simulated_interval: of_simulated.interval,
        real: of_real.mean,
        real_interval: of_real.interval,
        difference,
        standardised,
    })
}

fn variance(values: &[f64], mean: f64) -> f64 {
    values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

    use super::*;
    use crate::chat::{Message, Role};

    const REAL: &[&str] =
        &["no thats wrong", "make it shorter", "my dog likes it lol", "wait. use the other one", "why?"];
    const POLITE: &[&str] = &[
        "Thank you, that sounds wonderful. Could you please also add a second verse about the sea?",
        "Yes, that works perfectly for me. I would appreciate it if you could explain each step in more detail.",
        "Great idea! Please go on, and thank you so much for your patience with all of my many questions.",
    ];

    /// So many conversations of messages drawn from a list.
    fn corpus(from: &[&str], count: usize, seed: u64) -> Corpus {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut pick = |list: &[&str]| list[(random.next_u64() % list.len() as u64) as usize].to_owned();
        let conversation = |_| {
            let mut said = Vec::new();
            for _ in 0..3 {
                said.push(Message::new(Role::User, pick(from)));
                said.push(Message::new(Role::Assistant, format!("Reply {}.", pick(&["a", "b", "c", "d"]))));
            }
            said
        };
        Corpus::new((0..count).map(conversation).collect::<Vec<_>>())
    }

    #[test]
    fn identical_corpora_cannot_be_told_apart() {
        let all: Vec<&str> = REAL.iter().chain(POLITE).copied().collect();
        for seed in 0..10 {
            let one = corpus(&all, 40, seed);
            let same = compare(&one, &one);
            let found = same.separability.unwrap();
            assert_eq!((same.distance, found.auc), (0.0, 0.5));
            assert!(same.features.iter().all(|feature| feature.difference.mean == 0.0));
        }
        // Neither can two corpora of the same users, as often as the interval says.
        let covers = |seed: &u64| {
            let likeness = compare(&corpus(&all, 40, 2 * seed + 100), &corpus(&all, 40, 2 * seed + 101));
            let [low, high] = likeness.separability.unwrap().interval;
            (low..=high).contains(&0.5)
        };
        let covered = (0..60).filter(covers).count();
        assert!((54..60).contains(&covered), "{covered} of 60 intervals contain 0.5");
    }

    #[test]
    fn users_who_write_otherwise_are_told_apart_by_what_differs() {
        let likeness = compare(&corpus(POLITE, 40, 1), &corpus(REAL, 30, 2));
        let found = likeness.separability.unwrap();
        assert!(found.auc > 0.99 && likeness.distance > 1.0, "{likeness:?}");
        assert_eq!((likeness.simulated, likeness.real), (40, 30));
        let of = |name: &str| likeness.features.iter().find(|feature| feature.name == name).unwrap().standardised;
        for more in ["words", "agreement"] {
            assert!(of(more) > 0.5, "{more}: {}", of(more));
        }
        for less in ["fragments", "slips", "untidiness", "changes_of_direction", "personal_detail", "bluntness"] {
            assert!(of(less) < -0.5, "{less}: {}", of(less));
        }
        let few = compare(&corpus(POLITE, 9, 1), &corpus(REAL, 30, 2));
        assert_eq!(few.separability, None);
    }

    /// The same corpus, with so many conversations about each task.
    fn about_tasks(mut corpus: Corpus, each: usize) -> Corpus {
        for (at, one) in corpus.conversations.iter_mut().enumerate() {
            one.task = Some((at / each).to_string());
        }
        corpus
    }

    #[test]
    fn conversations_about_a_task_count_once() {
        // Users of one task all write the same: forty conversations are ten opinions.
        let repeated = |from: &[&str], seed: u64| {
            let one = corpus(from, 10, seed).conversations;
            let all = one.into_iter().flat_map(|one| vec![one.said; 4]);
            about_tasks(Corpus::new(all), 4)
        };
        let all: Vec<&str> = REAL.iter().chain(POLITE).copied().collect();
        let (once, four) = (about_tasks(corpus(&all, 10, 3), 1), repeated(&all, 3));
        let real = corpus(REAL, 40, 5);
        let (few, many) = (compare(&once, &real), compare(&four, &real));
        assert_eq!((many.simulated, many.simulated_tasks, many.real_tasks), (40, 10, 40));
        for (few, many) in few.features.iter().zip(&many.features) {
            assert!((few.difference.mean - many.difference.mean).abs() < 1e-12, "{}", few.name);
            let error = |feature: &ComparedFeature| feature.difference.std_error.unwrap();
            assert!((error(few) - error(many)).abs() < 1e-12, "{}: repetition is not evidence", few.name);
        }
        let width = |likeness: &Likeness| {
            let [low, high] = likeness.separability.unwrap().interval;
            high - low
        };
        let unaware = compare(&Corpus::new(four.conversations.iter().map(|one| one.said.clone())), &real);
        assert!(width(&many) > 1.3 * width(&unaware), "{} {}", width(&many), width(&unaware));
        let same = compare(&four, &four);
        assert_eq!((same.distance, same.separability.unwrap().auc), (0.0, 0.5));
    }
}
