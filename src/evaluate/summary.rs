//! From conversations to the columns of a table: means by policy, and paired differences between policies.
//!
//! A task is the unit: conversations about one task are averaged first, because they are not independent. Intervals are
//! Student's t over tasks.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::clarified::Clarified;
use super::hold::{EvaluatedConversation, Policy};
use crate::likeness::Likeness;
use crate::rank::ModelRole;
use crate::stats::{Difference, Estimate};
use crate::tasks::{PROGRAM, Spent};

const SCHEMA: u32 = 1;

/// The columns that are there besides the metrics.
const REWARD: &str = "reward";
const TOKENS: &str = "tokens_k";
const TURNS: &str = "turns";

/// The result of an evaluation. The same conversations give the same result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Evaluation {
    /// Version of this format: 1. Fields may be added under the same number.
    pub schema: u32,
    /// The program that made it.
    pub program: String,
    /// The policies, in the order in which they were given.
    pub policies: Vec<PolicyResult>,
    /// Differences between policies, by task.
    pub differences: Vec<Compared>,
    /// Conversations that failed, and lines that are not tasks.
    pub set_aside: usize,
    /// How much the simulated users write like real ones, where a file of real conversations is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub likeness: Option<Likeness>,
}

/// The numbers of a policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PolicyResult {
    /// Its name.
    pub name: String,
    /// The name of its model.
    pub model: String,
    /// The number of conversations.
    pub conversations: usize,
    /// The columns by name: each metric, `reward`, `tokens_k` (thousands of tokens that the user reads and writes) and
    /// `turns`.
    pub columns: BTreeMap<String, Column>,
    /// The weights of the models in its conversations, by role, where they are known. Two of one role mean that
    /// conversations with different weights are averaged.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<ModelRole, BTreeSet<String>>,
}

/// A mean over tasks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Column {
    /// The mean.
    pub mean: f64,
    /// Its standard error; unknown from one task.
    pub std_error: Option<f64>,
    /// Its 95% interval; unknown from one task.
    pub interval: Option<[f64; 2]>,
    /// The number of tasks.
    pub tasks: usize,
}

/// The difference between two policies in one column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Compared {
    /// The policy.
    pub policy: String,
    /// The policy whose numbers are subtracted.
    pub minus: String,
    /// The column.
    pub column: String,
    /// The mean of the differences by task.
    #[serde(flatten)]
    pub difference: Difference,
    /// The number of tasks that both have.
    pub tasks: usize,
}

/// What the conversations of a policy cost on average. Times are not the same twice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PolicyCost {
    /// The policy.
    pub policy: String,
    /// The number of conversations.
    pub conversations: usize,
    /// Thousands of tokens per conversation, by the role of the model.
    pub roles: BTreeMap<ModelRole, RoleCost>,
    /// Thousands of tokens of prompts per conversation that the cache held.
    pub reused_k: f64,
    /// Seconds per conversation. Conversations are held at the same time.
    pub seconds: f64,
}

/// Thousands of tokens per conversation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RoleCost {
    /// Tokens of prompts.
    pub in_k: f64,
    /// Sampled tokens.
    pub out_k: f64,
}

/// A column's values by task, averaged over the conversations about it.
type ByTask<'a> = BTreeMap<&'a str, f64>;

impl Evaluation {
    pub(super) fn of(policies: &[Policy], conversations: &[EvaluatedConversation], set_aside: usize) -> Self {
        let of = |policy: &Policy| {
            let name = policy.name.clone();
            conversations.iter().filter(move |conversation| conversation.policy == name)
        };
        let columns: Vec<BTreeMap<&str, ByTask<'_>>> = policies.iter().map(|policy| by_column(of(policy))).collect();
        let results = policies.iter().zip(&columns).map(|(policy, columns)| PolicyResult {
            name: policy.name.clone(),
            model: policy.model.clone(),
            conversations: of(policy).count(),
            columns: columns
                .iter()
                .filter_map(|(name, tasks)| Some(((*name).to_owned(), column(tasks)?)))
                .chain(clarified(of(policy)))
                .collect(),
            weights: weights(of(policy)),
        });
        let mut differences = Vec::new();
        for (at, policy) in policies.iter().enumerate() {
            for (other, minus) in policies[..at].iter().enumerate() {
                differences.extend(compare((policy, &columns[at]), (minus, &columns[other])));
            }
        }
        let (program, policies) = (PROGRAM.into(), results.collect());
        Evaluation { schema: SCHEMA, program, policies, differences, set_aside, likeness: None }
    }
}

fn by_column<'a>(conversations: impl Iterator<Item = &'a EvaluatedConversation>) -> BTreeMap<&'a str, ByTask<'a>> {
    let mut values: BTreeMap<&str, BTreeMap<&str, Vec<f64>>> = BTreeMap::new();
    for conversation in conversations {
        let own = [(REWARD, conversation.reward), (TOKENS, conversation.tokens_k), (TURNS, conversation.turns as f64)];
        // A metric may be called like a column of ours; then it is the metric that is shown.
        let metrics = conversation.metrics.iter().map(|(name, value)| (name.as_str(), *value));
        let own = own.into_iter().filter(|(name, _)| !conversation.metrics.contains_key(*name));
        for (column, value) in own.chain(metrics) {
            values.entry(column).or_default().entry(&conversation.id).or_default().push(value);
        }
    }
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
    let tasks = |tasks: BTreeMap<&'a str, Vec<f64>>| tasks.into_iter().map(|(id, values)| (id, mean(values))).collect();
    values.into_iter().map(|(column, by_task)| (column, tasks(by_task))).collect()
}

fn column(tasks: &ByTask<'_>) -> Option<Column> {
    let Estimate { mean, std_error, interval, n } = Estimate::of(&tasks.values().copied().collect::<Vec<f64>>())?;
    Some(Column { mean, std_error, interval, tasks: n })
}

/// The weights that conversations name.
fn weights<'a>(
    conversations: impl Iterator<Item = &'a EvaluatedConversation>,
) -> BTreeMap<ModelRole, BTreeSet<String>> {
    let mut weights: BTreeMap<ModelRole, BTreeSet<String>> = BTreeMap::new();
    for (role, model) in conversations.flat_map(|conversation| &conversation.models) {
        if let Some(name) = &model.weights {
            weights.entry(*role).or_default().insert(name.clone());
        }
    }
    weights
}

/// The averages of the test on Abg-CoQA, if it was one. They are no means over tasks, so they have no errors.
fn clarified<'a>(conversations: impl Iterator<Item = &'a EvaluatedConversation>) -> Vec<(String, Column)> {
    let decisions: Vec<(bool, bool)> = conversations.filter_map(|held| Some((held.asked?, held.ambiguous?))).collect();
    let counts: Clarified = decisions.iter().copied().collect();
    let column = |mean| Column { mean, std_error: None, interval: None, tasks: decisions.len() };
    let named = [("macro_accuracy", counts.macro_accuracy()), ("macro_f1", counts.macro_f1())];
    named.into_iter().filter_map(|(name, mean)| Some((name.to_owned(), column(mean?)))).collect()
}

fn compare<'a>(
    (policy, columns): (&Policy, &BTreeMap<&'a str, ByTask<'a>>),
    (minus, others): (&Policy, &BTreeMap<&'a str, ByTask<'a>>),
) -> Vec<Compared> {
    let both = columns.iter().filter_map(|(name, tasks)| Some((*name, tasks, others.get(name)?)));
    let compared = both.filter_map(|(name, tasks, others)| {
        let ids: BTreeSet<&str> = tasks.keys().filter(|id| others.contains_key(*id)).copied().collect();
        let values = |of: &ByTask<'_>| ids.iter().map(|id| of.get(id).copied()).collect::<Vec<Option<f64>>>();
        Some(Compared {
            policy: policy.name.clone(),
            minus: minus.name.clone(),
            column: name.to_owned(),
            difference: Difference::of(&values(tasks), &values(others), true)?,
            tasks: ids.len(),
        })
    });
    compared.collect()
}

impl PolicyCost {
    pub(super) fn of(policy: &str, spent: &[Spent]) -> Self {
        let mut sum = Spent::default();
        spent.iter().for_each(|one| sum.add(one));
        let each = |number: f64| if spent.is_empty() { 0.0 } else { number / spent.len() as f64 };
        let roles = sum.roles.iter().map(|(role, tokens)| {
            let thousands = |tokens: u64| each(tokens as f64 / 1000.0);
            (*role, RoleCost { in_k: thousands(tokens.prompt), out_k: thousands(tokens.generated) })
        });
        PolicyCost {
            policy: policy.to_owned(),
            conversations: spent.len(),
            roles: roles.collect(),
            reused_k: each(sum.reused as f64 / 1000.0),
            seconds: each(sum.seconds),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

    use super::*;
    use crate::rank::{Ended, ModelInfo};

    fn conversation(policy: &str, id: usize, sample: usize, accuracy: f64) -> EvaluatedConversation {
        EvaluatedConversation {
            policy: policy.into(),
            id: id.to_string(),
            sample,
            messages: Vec::new(),
            ended: Ended::Window,
            turns: 2,
            metrics: [("accuracy".into(), accuracy)].into(),
            asked: None,
            ambiguous: None,
            reward: accuracy - 0.1,
            tokens_k: 0.5,
            seed: 1,
            models: BTreeMap::new(),
            bitwise: true,
            tokens: BTreeMap::new(),
        }
    }

    fn policies() -> [Policy; 2] {
        ["a", "b"].map(Policy::new)
    }

    #[test]
    fn samples_of_a_task_are_averaged_before_tasks_are() {
        let values = [
            ("a", 1, 0, 1.0),
            ("a", 1, 1, 0.0),
            ("a", 2, 0, 1.0),
            ("b", 1, 0, 1.0),
            ("b", 2, 0, 0.0),
            ("b", 3, 0, 1.0),
        ];
        let held = values.map(|(policy, id, sample, accuracy)| conversation(policy, id, sample, accuracy));
        let evaluation = Evaluation::of(&policies(), &held, 4);
        let a = &evaluation.policies[0].columns["accuracy"];
        // Means by task: 0.5 and 1.
        assert_eq!((a.mean, a.std_error, a.tasks), (0.75, Some(0.25), 2));
        assert_eq!((evaluation.policies[0].conversations, evaluation.set_aside), (3, 4));
        assert_eq!(evaluation.policies[1].columns["accuracy"].tasks, 3);
        let of = |column: &str| evaluation.differences.iter().find(|compared| compared.column == column).unwrap();
        // By task, b minus a: 0.5 and -1. The third task has no partner.
        assert_eq!((of("accuracy").difference.mean, of("accuracy").tasks), (-0.25, 2));
        assert_eq!((&*of("accuracy").policy, &*of("accuracy").minus), ("b", "a"));
        assert_eq!((of("turns").difference.mean, of("tokens_k").difference.mean), (0.0, 0.0));
        let text = serde_json::to_string(&evaluation).unwrap();
        assert_eq!(serde_json::from_str::<Evaluation>(&text).unwrap(), evaluation);
    }

    #[test]
    fn weights_are_named_by_role() {
        let with = |id: usize, weights: &str| EvaluatedConversation {
            models: [(ModelRole::Policy, ModelInfo::new("m", Some(weights.into())))].into(),
            ..conversation("a", id, 0, 1.0)
        };
        let evaluation = Evaluation::of(&policies(), &[with(1, "old"), with(2, "new"), with(3, "old")], 0);
        let expected = BTreeSet::from(["new".to_owned(), "old".to_owned()]);
        assert_eq!(evaluation.policies[0].weights[&ModelRole::Policy], expected);
        assert!(evaluation.policies[1].weights.is_empty());
    }

    #[test]
    fn decisions_to_ask_are_averaged_by_class() {
        // (asked, ambiguous): one of two ambiguous ones and all of three clear ones are right.
        let decisions = [(true, true), (false, true), (false, false), (false, false), (false, false)];
        let held = decisions.iter().enumerate().map(|(id, (asked, ambiguous))| EvaluatedConversation {
            asked: Some(*asked),
            ambiguous: Some(*ambiguous),
            ..conversation("a", id, 0, 1.0)
        });
        let evaluation = Evaluation::of(&policies()[..1], &held.collect::<Vec<_>>(), 0);
        let columns = &evaluation.policies[0].columns;
        assert_eq!((columns["macro_accuracy"].mean, columns["macro_accuracy"].tasks), (0.75, 5));
        // F1 of asking 2/3, of answering 6/7.
        assert!((columns["macro_f1"].mean - (2.0 / 3.0 + 6.0 / 7.0) / 2.0).abs() < 1e-12);
        assert_eq!(Evaluation::of(&policies(), &[conversation("a", 1, 0, 1.0)], 0).policies[0].columns.len(), 4);
    }

    /// A number in [0, 1), and one from the standard normal distribution.
    fn draw(random: &mut ChaCha8Rng) -> (f64, f64) {
        let mut unit = || random.next_u64() as f64 / 2f64.powi(64);
        let (first, second) = (unit(), unit());
        (first, (-2.0 * (1.0 - first).ln()).sqrt() * (std::f64::consts::TAU * second).cos())
    }

    /// How many of 1,000 evaluations of 20 tasks have the true difference in their interval. `value` makes a metric of the
    /// task's difficulty, the policy's advantage and the random numbers.
    fn covered(truth: f64, value: impl Fn(f64, f64, (f64, f64)) -> f64) -> usize {
        let mut random = ChaCha8Rng::seed_from_u64(19);
        let covers = |random: &mut ChaCha8Rng| {
            let mut held = Vec::new();
            for id in 0..20 {
                // Tasks differ more than policies do: what pairs them takes this out.
                let difficulty = draw(random).1;
                for (policy, advantage) in [("a", 0.0), ("b", truth)] {
                    held.push(conversation(policy, id, 0, value(difficulty, advantage, draw(random))));
                }
            }
            let evaluation = Evaluation::of(&policies(), &held, 0);
            let compared = evaluation.differences.iter().find(|compared| compared.column == "accuracy").unwrap();
            let [low, high] = compared.difference.interval.unwrap();
            (low..=high).contains(&truth)
        };
        (0..1000).filter(|_| covers(&mut random)).count()
    }

    #[test]
    fn paired_intervals_cover_the_truth_as_often_as_they_say() {
        let normal = covered(0.3, |difficulty, advantage, (_, noise)| 2.0 * difficulty + advantage + noise);
        assert!((930..=970).contains(&normal), "normal: {normal}");
        // Right or wrong, as accuracy is; the probability depends on the task, so that its mean difference is the truth.
        let binary = covered(0.2, |difficulty, advantage, (unit, _)| {
            f64::from(unit < 0.4 + 0.3 * (difficulty.tanh()) + advantage)
        });
        assert!((930..=970).contains(&binary), "binary: {binary}");
    }

    #[test]
    fn costs_are_means_over_conversations() {
        let cost = PolicyCost::of("a", &[]);
        assert_eq!((cost.seconds, cost.conversations), (0.0, 0));
    }
}
