//! What kinds of reward say over all tasks: what they choose, what chance does to them, and how far they agree.
//!
//! A task is the unit, as in evaluations. Intervals are Student's t over tasks.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::kind::{Kind, Reading, Simulated};
use super::numbers::{Read, means, spread};
use super::row::check_metrics;
use crate::evaluate::hold::Policy;
use crate::evaluate::summary::Column;
use crate::rank::ModelRole;
use crate::stats::{Difference, Estimate, kendall};
use crate::tasks::PROGRAM;
use crate::{Error, Result};

const SCHEMA: u32 = 1;

/// Kinds of reward compared. The same conversations give the same result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Sweep {
    /// Version of this format: 1. Fields may be added under the same number.
    pub schema: u32,
    /// The program that made it.
    pub program: String,
    /// The policy whose responses were ranked.
    pub policy: String,
    /// The kinds, in the order in which they were given.
    pub kinds: Vec<KindResult>,
    /// R* of whole conversations from a response that nobody chose: the mean over responses.
    pub unchosen: Option<Column>,
    /// What a kind's choices lead to, minus what another's do, by task.
    pub differences: Vec<ComparedKinds>,
    /// How far kinds rank responses alike.
    pub agreement: Vec<Agreement>,
    /// Tasks that failed, and lines that are not tasks.
    pub set_aside: usize,
    /// The weights of the models, by role, where they are known.
    pub weights: BTreeMap<ModelRole, BTreeSet<String>>,
}

/// A kind of reward over all tasks. A field is `None` where its value is unknown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct KindResult {
    /// Its name.
    pub name: String,
    /// The mean of its rewards, in its own unit.
    pub reward: Option<Column>,
    /// R* of whole conversations with the response that it chooses. Half of the samples choose, the others are averaged, and
    /// the other way round: so a choice by luck earns nothing. Unknown at one sample.
    pub chosen: Option<Column>,
    /// Kendall's τ of its ranking by half of the samples with that by the others.
    pub repeat: Option<Column>,
    /// Thousands of tokens for a response.
    pub tokens_k: Option<Column>,
    /// The variance of one sample's reward about the response's mean, without the luck that all responses share.
    pub noise: Option<Column>,
    /// The variance of a response's reward if it got 1,000 tokens: that of one sample times thousands of tokens per sample.
    pub noise_at_1k: Option<Column>,
    /// The variance between the true rewards of responses.
    pub between: Option<Column>,
    /// The share of the variance of rewards at 1,000 tokens for each response that is between responses, in [0, 1]: a number
    /// without a unit, for kinds with different ones. The rest is chance.
    pub reliability_at_1k: Option<f64>,
}

/// The difference between what two kinds choose.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ComparedKinds {
    /// The kind.
    pub kind: String,
    /// The kind whose numbers are subtracted.
    pub minus: String,
    /// The mean of the differences by task.
    #[serde(flatten)]
    pub difference: Difference,
    /// The number of tasks that both have.
    pub tasks: usize,
}

/// How far two kinds rank responses alike.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Agreement {
    /// A kind.
    pub kind: String,
    /// The other one.
    pub with: String,
    /// Kendall's τ on the same conversations: kinds share the luck of these.
    pub same: Option<Column>,
    /// Kendall's τ where each kind has half of the samples, which the other does not see. Compare it with `repeat` of both.
    /// Unknown at one sample.
    pub apart: Option<Column>,
}

/// What is known of a kind in one task.
struct Known {
    estimates: Vec<f64>,
    /// The estimates by half of the samples, and by the others.
    halves: Option<[Vec<f64>; 2]>,
    chosen: Option<f64>,
    tokens: Option<f64>,
    noise: Option<f64>,
    noise_at_1k: Option<f64>,
    between: Option<f64>,
}

type Rows = BTreeMap<Option<String>, BTreeMap<String, Read>>;
type ByTask<'a> = BTreeMap<&'a str, Known>;

impl Sweep {
    pub(super) fn of(policy: &Policy, kinds: &[Kind], rows: &Rows, set_aside: usize) -> Result<Self> {
        let none = BTreeMap::new();
        let own = rows.get(&None).unwrap_or(&none);
        let known: Vec<ByTask<'_>> = kinds.iter().map(|kind| by_task(kind, own, rows)).collect::<Result<_>>()?;
        let results = kinds.iter().zip(&known).map(|(kind, tasks)| result(kind, tasks));
        let mut differences = Vec::new();
        let mut agreement = Vec::new();
        for (at, (kind, tasks)) in kinds.iter().zip(&known).enumerate() {
            for (other, others) in kinds[..at].iter().zip(&known) {
                differences.extend(compared((kind, tasks), (other, others)));
                agreement.push(agreed((kind, tasks), (other, others)));
            }
        }
        let whole =
            own.values().filter_map(|read| Some(mean(&means(&read.values(&whole(read)?, &read.row.complete())?))));
        let mut weights: BTreeMap<ModelRole, BTreeSet<String>> = BTreeMap::new();
        for (role, model) in rows.values().flat_map(BTreeMap::values).flat_map(|read| &read.row.models) {
            weights.entry(*role).or_default().extend(model.weights.clone());
        }
        weights.retain(|_, names| !names.is_empty());
        let unchosen = column(whole);
        let (program, policy) = (PROGRAM.into(), policy.name.clone());
        let kinds = results.collect();
        Ok(Sweep { schema: SCHEMA, program, policy, kinds, unchosen, differences, agreement, set_aside, weights })
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn column(values: impl Iterator<Item = f64>) -> Option<Column> {
    let Estimate { mean, std_error, interval, n } = Estimate::of(&values.collect::<Vec<f64>>())?;
    Some(Column { mean, std_error, interval, tasks: n })
}

/// The reading by which choices are valued: R* of whole conversations, as configured.
fn whole(read: &Read) -> Option<Kind> {
    let window = read.row.tokens.sampling.len();
    let simulated = Simulated::default();
    let reading = Reading::Window(window);
    (window > 0).then(|| Kind { name: String::new(), reading, metrics: Vec::new(), samples: None, simulated })
}

fn by_task<'a>(kind: &Kind, own: &'a BTreeMap<String, Read>, rows: &'a Rows) -> Result<ByTask<'a>> {
    let Some(rows) = rows.get(&kind.simulated.label()) else { return Ok(BTreeMap::new()) };
    let mut tasks = BTreeMap::new();
    for (id, read) in rows {
        let names: Vec<&str> = read.row.weights.keys().map(String::as_str).collect();
        check_metrics(kind, &names)?;
        if let Some(known) = own.get(id).and_then(|own| known(kind, read, own)) {
            tasks.insert(id.as_str(), known);
        }
    }
    Ok(tasks)
}

/// The even places, and the odd ones.
fn halves(samples: &[usize]) -> [Vec<usize>; 2] {
    let half = |rest| samples.iter().enumerate().filter(move |(at, _)| at % 2 == rest).map(|(_, sample)| *sample);
    [half(0).collect(), half(1).collect()]
}

/// `own` is the same task with the configuration's user, by which choices are valued.
fn known(kind: &Kind, read: &Read, own: &Read) -> Option<Known> {
    let samples = read.row.complete();
    let values = read.values(kind, &samples)?;
    let half = |samples: &Vec<usize>| Some(means(&read.values(kind, samples)?));
    let [first, second] = halves(&samples);
    let halves_of = half(&first).zip(half(&second)).map(|(first, second)| [first, second]);
    let tokens = read.tokens(kind);
    let sampled = kind.reading != Reading::Window(0);
    let spread = spread(&values, read.row.paired, sampled);
    let per_sample = |tokens: f64| if sampled { tokens / values[0].len() as f64 } else { tokens };
    Some(Known {
        chosen: halves_of.as_ref().and_then(|halves| chosen(halves, own)),
        halves: halves_of,
        noise: spread.map(|spread| spread.noise),
        noise_at_1k: spread.zip(tokens).map(|(spread, tokens)| spread.noise * per_sample(tokens)),
        between: spread.map(|spread| spread.between),
        estimates: means(&values),
        tokens,
    })
}

/// R* of whole conversations with the response that half of the samples choose, by the samples of the other half.
fn chosen(by: &[Vec<f64>; 2], own: &Read) -> Option<f64> {
    let whole = whole(own)?;
    let [first, second] = halves(&own.row.complete());
    let worth = [means(&own.values(&whole, &second)?), means(&own.values(&whole, &first)?)];
    let of = |(estimates, worth): (&Vec<f64>, &Vec<f64>)| {
        let best = estimates.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        // Equals are chosen equally often.
        let equals: Vec<f64> =
            estimates.iter().zip(worth).filter(|(estimate, _)| **estimate == best).map(|(_, worth)| *worth).collect();
        mean(&equals)
    };
    Some(mean(&by.iter().zip(&worth).map(of).collect::<Vec<f64>>()))
}

fn result(kind: &Kind, tasks: &ByTask<'_>) -> KindResult {
    let of = |value: &dyn Fn(&Known) -> Option<f64>| column(tasks.values().filter_map(value));
    let (noise_at_1k, between) = (of(&|known| known.noise_at_1k), of(&|known| known.between));
    let reliability_at_1k = between.zip(noise_at_1k).and_then(|(between, noise)| {
        let sum = between.mean + noise.mean;
        (sum > 0.0).then(|| between.mean / sum)
    });
    KindResult {
        name: kind.name.clone(),
        reward: of(&|known| Some(mean(&known.estimates))),
        chosen: of(&|known| known.chosen),
        repeat: of(&|known| known.halves.as_ref().and_then(|[first, second]| kendall(first, second))),
        tokens_k: of(&|known| known.tokens),
        noise: of(&|known| known.noise),
        noise_at_1k,
        between,
        reliability_at_1k,
    }
}

/// The tasks that both have.
fn both<'a>(one: &'a ByTask<'_>, other: &'a ByTask<'_>) -> Vec<(&'a Known, &'a Known)> {
    one.iter().filter_map(|(id, known)| Some((known, other.get(id)?))).collect()
}

fn compared((kind, tasks): (&Kind, &ByTask<'_>), (minus, others): (&Kind, &ByTask<'_>)) -> Option<ComparedKinds> {
    let pairs: Vec<(Option<f64>, Option<f64>)> =
        both(tasks, others).into_iter().map(|(one, other)| (one.chosen, other.chosen)).collect();
    let (one, other): (Vec<_>, Vec<_>) = pairs.into_iter().filter(|(a, b)| a.is_some() && b.is_some()).unzip();
    Some(ComparedKinds {
        kind: kind.name.clone(),
        minus: minus.name.clone(),
        difference: Difference::of(&one, &other, true)?,
        tasks: one.len(),
    })
}

fn agreed((kind, tasks): (&Kind, &ByTask<'_>), (with, others): (&Kind, &ByTask<'_>)) -> Agreement {
    let pairs = both(tasks, others);
    let apart = |(one, other): &(&Known, &Known)| {
        let ([a, b], [c, d]) = (one.halves.as_ref()?, other.halves.as_ref()?);
        let taus: Vec<f64> = [kendall(a, d), kendall(b, c)].into_iter().flatten().collect();
        (!taus.is_empty()).then(|| mean(&taus))
    };
    Agreement {
        kind: kind.name.clone(),
        with: with.name.clone(),
        same: column(pairs.iter().filter_map(|(one, other)| kendall(&one.estimates, &other.estimates))),
        apart: column(pairs.iter().filter_map(apart)),
    }
}

/// Refuses a result that cannot be read back.
pub(super) fn parse(bytes: &[u8]) -> Result<Sweep> {
    crate::json::parse(bytes).map_err(|e| Error::invalid_request(format!("it is not the result of a sweep: {e}")))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::evaluate::sweep::row::{Comparisons, Swept};

    #[derive(Deserialize)]
    struct Fixture {
        rows: Vec<Swept>,
        compared: Vec<Comparisons>,
        expected: BTreeMap<String, Value>,
    }

    /// Every number of `expected` is in `found`, where it may stand among others.
    #[track_caller]
    fn assert_within(found: &Value, expected: &Value, path: &str) {
        match expected {
            Value::Object(fields) => {
                fields.iter().for_each(|(name, value)| assert_within(&found[name], value, &format!("{path}.{name}")));
            }
            Value::Array(items) => {
                assert_eq!(found.as_array().map(Vec::len), Some(items.len()), "{path}");
                items
                    .iter()
                    .enumerate()
                    .for_each(|(at, item)| assert_within(&found[at], item, &format!("{path}[{at}]")));
            }
            Value::Number(number) => {
                let (number, found) = (number.as_f64().unwrap(), found.as_f64());
                assert!(found.is_some_and(|found| (found - number).abs() < 1e-9), "{path}: {found:?}, not {number}");
            }
            other => assert_eq!(found, other, "{path}"),
        }
    }

    fn fixture() -> (Fixture, Vec<Kind>) {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/evaluate/sweep.json");
        let fixture: Fixture = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let kinds = fixture.expected["kinds"].as_array().unwrap().iter();
        let kinds = kinds.map(|kind| kind["name"].as_str().unwrap().parse().unwrap()).collect();
        (fixture, kinds)
    }

    #[test]
    fn numbers_are_those_of_scipy_and_statsmodels() {
        let (fixture, kinds) = fixture();
        let reads = fixture.rows.into_iter().zip(fixture.compared);
        let reads = reads.map(|(row, compared)| (row.id.clone(), Read { row, compared: Some(compared) }));
        let rows = [(None, reads.collect())].into();
        let sweep = Sweep::of(&Policy::new("p"), &kinds, &rows, 3).unwrap();
        let found = serde_json::to_value(&sweep).unwrap();
        fixture.expected.iter().for_each(|(name, expected)| assert_within(&found[name], expected, name));
        assert_eq!((&*sweep.policy, sweep.set_aside, sweep.kinds.len()), ("p", 3, kinds.len()));
        assert_eq!(parse(&serde_json::to_vec(&sweep).unwrap()).unwrap(), sweep);
    }

    #[test]
    fn other_simulators_choose_and_are_valued_by_the_configurations() {
        let (fixture, _) = fixture();
        let read = |row: &Swept| (row.id.clone(), Read { row: row.clone(), compared: None });
        let mut other = fixture.rows.clone();
        other.truncate(4);
        let kinds: Vec<Kind> = ["w=3", "w=3,user=small"].iter().map(|kind| kind.parse().unwrap()).collect();
        let label = kinds[1].simulated.label();
        let rows: Rows =
            [(None, fixture.rows.iter().map(read).collect()), (label, other.iter().map(read).collect())].into();
        let sweep = Sweep::of(&Policy::new("p"), &kinds, &rows, 0).unwrap();
        let tasks = |kind: usize| sweep.kinds[kind].chosen.unwrap().tasks;
        assert_eq!((tasks(0), tasks(1), sweep.differences[0].tasks), (fixture.rows.len(), 4, 4));
        // The same conversations choose the same.
        assert_eq!((sweep.differences[0].difference.mean, sweep.agreement[0].same.unwrap().mean), (0.0, 1.0));
        let unknown: Vec<Kind> = vec!["w=1,metrics=z".parse().unwrap()];
        let message = Sweep::of(&Policy::new("p"), &unknown, &rows, 0).unwrap_err().to_string();
        assert!(message.contains("there is no metric `z`; the configuration has a, b, c"), "{message}");
    }

    #[test]
    fn one_sample_tells_nothing_of_chance() {
        let (mut fixture, _) = fixture();
        for response in fixture.rows.iter_mut().flat_map(|row| &mut row.responses) {
            response.futures.truncate(1);
        }
        let read = |row: &Swept| (row.id.clone(), Read { row: row.clone(), compared: None });
        let rows = [(None, fixture.rows.iter().map(read).collect())].into();
        let kinds: Vec<Kind> = ["w=0", "w=2", "preference=judge"].iter().map(|kind| kind.parse().unwrap()).collect();
        let sweep = Sweep::of(&Policy::new("p"), &kinds, &rows, 0).unwrap();
        let [now, ahead, judged] = &sweep.kinds[..] else { panic!("{sweep:?}") };
        assert!(ahead.reward.is_some() && ahead.chosen.is_none() && ahead.noise.is_none());
        assert!(now.noise.is_some() && judged.reward.is_none(), "nobody asked the judge");
        assert!(sweep.agreement[0].same.is_some() && sweep.agreement[0].apart.is_none());
    }
}
