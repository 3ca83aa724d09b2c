//! The conversations of a sweep.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use super::kind::{Kind, Reading, Simulated};
use super::numbers::Read;
use super::options::{SweepOptions, futures};
use super::row::{Comparisons, Swept, SweptResponse, SweptTokens, Values};
use super::scored::{all, complete, divided, in_order, kept, scoring, thousands, up_to};
use super::summary::Sweep;
use super::{page, row};
use crate::chat::{Message, Role};
use crate::engine::{Engine, Limits};
use crate::evaluate::hold::{Policy, refuse_other_weights};
use crate::rank::{Candidates, RankPlan, RankRequest, RankedCandidate, Ranking, Strategy};
use crate::tasks::{
    self, Held, Journal, OnProgress, Places, Spent, Stopped, Summary, Talk, Tasks, Unit, check_prices, is_due,
    json_line, json_row, rows, run, seed_below, task_seed, write_atomically,
};
use crate::{Error, ErrorKind, Result};

/// Separate the seeds of the first message and of comparisons from that of the responses.
const OPENING: u64 = u64::MAX;
const COMPARISONS: u64 = 2;

/// Compares kinds of reward on the same conversations, or goes on with what is in `folder`. `engine` makes an engine in which
/// the policy plays its role, and the simulator the user; it is called only for what is not held yet.
///
/// The folder then has `sweep.json` (the result), `sweep.csv`, `responses.jsonl` with a [`Swept`] per line, `failed.jsonl`,
/// and `journal.jsonl`, from which a killed sweep goes on.
///
/// ```no_run
/// use foreturn::evaluate::{Kind, Policy, SweepOptions, sweep};
/// use foreturn::tasks::Tasks;
/// use foreturn::{Config, Engine};
///
/// let tasks = Tasks::read("examples/tasks/everyday.jsonl")?;
/// let (policy, options) = (Policy::new("small"), SweepOptions::default());
/// let engine = |_: &Policy, _: &_| Engine::new(Config::from_file("foreturn.toml")?);
/// let (sweep, _) = sweep(&policy, &Kind::defaults(4), tasks, "swept".as_ref(), &options, engine, &|_| ())?;
/// for kind in &sweep.kinds {
///     println!("{}: {:?}", kind.name, kind.chosen.map(|chosen| chosen.mean));
/// }
/// # Ok::<(), foreturn::Error>(())
/// ```
///
/// # Errors
/// The options or the configuration are wrong, the folder cannot be written, belongs to other settings or is in use, or the
/// models fail again and again. What is finished by then stays.
pub fn sweep(
    policy: &Policy,
    kinds: &[Kind],
    tasks: Tasks,
    folder: &Path,
    options: &SweepOptions,
    mut engine: impl FnMut(&Policy, &Simulated) -> Result<Engine>,
    on_progress: OnProgress<'_>,
) -> Result<(Sweep, Summary)> {
    options.validate(policy, kinds)?;
    let places = Places::make(folder)?;
    let settings = options.settings();
    let journal = Journal::open(&places.journal(), &settings)?;
    let run_options = SweepOptions { run: options.run.within_run(), ..options.clone() };
    let work = Work { policy, tasks: &tasks, journal: &journal, options: &run_options };
    let parts = parts(kinds);
    tasks::take_over(&work.units(&parts), &options.run.merge, &journal, &settings)?;
    let held = work.hold_each(&parts, &mut engine, kinds, on_progress);
    // What is finished stays, whatever ended the run.
    let written = work.write(&places, &parts, kinds);
    let stopped = held?;
    let sweep = written?;
    let mut summary = tasks::summarise(&work.open(&parts)?, &journal, &options.run, stopped);
    summary.set_aside += tasks.set_aside.len();
    Ok((sweep, summary))
}

/// A part of the work: the conversations with a simulator, or the judge's comparisons of them.
#[derive(Clone, PartialEq)]
struct Part {
    simulated: Simulated,
    compares: bool,
}

/// The parts that kinds need, each after those that it rests on.
fn parts(kinds: &[Kind]) -> Vec<Part> {
    // All kinds choose among the same responses, and are valued by the configuration's user.
    let mut parts = vec![Part { simulated: Simulated::default(), compares: false }];
    for kind in kinds {
        for compares in [false, kind.reading == Reading::Judged] {
            let part = Part { simulated: kind.simulated.clone(), compares };
            if !parts.contains(&part) {
                parts.push(part);
            }
        }
    }
    parts
}

struct Work<'a> {
    policy: &'a Policy,
    tasks: &'a Tasks,
    journal: &'a Journal,
    options: &'a SweepOptions,
}

impl<'a> Work<'a> {
    fn key(&self, part: &Part, id: &str) -> String {
        let Policy { name, model, system, configuration, .. } = self.policy;
        json!([name, model, configuration, system, part.simulated.label(), part.compares, id]).to_string()
    }

    fn units<'b>(&self, parts: &'b [Part]) -> Vec<Unit<'a, &'b Part>> {
        let tasks = || self.tasks.list.iter().filter(|task| self.options.run.takes(task));
        let units = parts
            .iter()
            .flat_map(|part| tasks().map(move |task| Unit { key: self.key(part, &task.id), task, of: part }));
        units.collect()
    }

    /// The units whose ground is laid: what failed before is not missed after.
    fn open<'b>(&self, parts: &'b [Part]) -> Result<Vec<Unit<'a, &'b Part>>> {
        let mut open = Vec::new();
        for unit in self.units(parts) {
            let ground = ground(unit.of);
            let laid = ground.is_none_or(|part| {
                let entry = self.journal.entry(&self.key(&part, &unit.task.id), &unit.task.fingerprint());
                entry.is_some_and(|entry| entry.failed.is_none())
            });
            if laid {
                open.push(unit);
            }
        }
        Ok(open)
    }

    /// A row of the journal.
    fn read<T: serde::de::DeserializeOwned>(&self, part: &Part, task: &tasks::Task) -> Result<Option<T>> {
        let Some(value) = self.journal.read(&self.key(part, &task.id), &task.fingerprint())? else { return Ok(None) };
        let parsed = serde_json::from_value(value);
        parsed.map(Some).map_err(|e| Error::internal(format!("a row of a sweep cannot be read back: {e}")))
    }

    fn hold_each(
        &self,
        parts: &[Part],
        engine: &mut impl FnMut(&Policy, &Simulated) -> Result<Engine>,
        kinds: &[Kind],
        on_progress: OnProgress<'_>,
    ) -> Result<Stopped> {
        let (mut stopped, mut loaded) = (Stopped::Complete, None);
        for part in parts {
            let units = self.open(std::slice::from_ref(part))?;
            if !is_due(&units, self.journal, &self.options.run) {
                continue;
            }
            // One engine at a time is in memory; a simulator's comparisons follow its conversations.
            let known = loaded.take().filter(|(simulated, _)| *simulated == part.simulated);
            let engine = match known {
                Some((_, engine)) => engine,
                None => engine(self.policy, &part.simulated)?,
            };
            let held = self.hold_all(&units, &engine, kinds, on_progress)?.stopped;
            loaded = Some((part.simulated.clone(), engine));
            if stopped == Stopped::Complete {
                stopped = held;
            }
            if held.ends_all() {
                return Ok(held);
            }
        }
        Ok(stopped)
    }

    fn hold_all(
        &self,
        units: &[Unit<'_, &Part>],
        engine: &Engine,
        kinds: &[Kind],
        on_progress: OnProgress<'_>,
    ) -> Result<Summary> {
        let (plan, run_options) = (engine.plan()?, &self.options.run);
        check_plan(plan, kinds)?;
        check_prices(run_options, plan, &|name| engine.is_elsewhere(name))?;
        if units.iter().all(|unit| !unit.of.compares) {
            refuse_other_weights(units, self.journal, engine)?;
        }
        let engine = engine.within(Limits { cancel: Some(run_options.cancel.clone()), ..Limits::default() });
        run(units, self.journal, run_options, on_progress, |unit| {
            let (mut talk, start) = (Talk::new(&engine, &unit.task.goal), Instant::now());
            let result = self.hold(&mut talk, plan, unit);
            Held { result, spent: Spent::new(&talk.costs, start.elapsed().as_secs_f64(), plan) }
        })
    }

    fn hold(&self, talk: &mut Talk<'_>, plan: &RankPlan, unit: &Unit<'_, &Part>) -> Result<Value> {
        let seed = task_seed(self.options.seed, &unit.task.id);
        let ground: Option<Swept> = match ground(unit.of) {
            Some(part) => self.read(&part, unit.task)?,
            None => None,
        };
        match (unit.of.compares, ground) {
            (true, Some(row)) => json_row(&compare(talk, &row, seed)?),
            (true, None) => Err(Error::internal("a comparison of nothing")),
            (false, given) => {
                // A task that lacks what a metric needs is refused before it costs anything.
                plan.check_goal(&unit.task.goal)?;
                let given = match given {
                    Some(given) => Responses::of(given),
                    None => self.respond(talk, unit.task, seed)?,
                };
                json_row(&self.follow(talk, plan, unit, given, seed)?)
            }
        }
    }

    /// Samples the responses, and scores each as it stands.
    fn respond(&self, talk: &mut Talk<'_>, task: &tasks::Task, seed: u64) -> Result<Responses> {
        let conversation = talk.begin(&task.conversation, seed_below(seed, &[OPENING]))?;
        let ranking = talk.rank(RankRequest {
            conversation: self.policy.begin(conversation.clone()),
            candidates: Candidates::Sample(self.options.candidates),
            window: Some(0),
            seed: Some(seed),
            ..RankRequest::default()
        })?;
        let scored = |candidate: &RankedCandidate| {
            let text = candidate.response.clone().filter(|text| !text.trim().is_empty())?;
            Some((text, complete(&candidate.rollouts.first()?.metrics)?))
        };
        let now: Vec<(String, Values)> = in_order(&ranking).into_iter().filter_map(scored).collect();
        if now.len() < 2 {
            let why = ranking.candidates.iter().find_map(|candidate| {
                candidate.note.clone().or_else(|| candidate.rollouts.iter().find_map(|rollout| rollout.reason.clone()))
            });
            return Err(Error::new(
                ErrorKind::ModelOutput,
                format!("fewer than 2 responses have a reward: {}", why.unwrap_or_else(|| "they are empty".into())),
            ));
        }
        let scoring = thousands(scoring(&ranking)) / now.len() as f64;
        Ok(Responses { conversation, now, scoring })
    }

    /// Holds the conversations from the responses, and scores them after every turn.
    fn follow(
        &self,
        talk: &mut Talk<'_>,
        plan: &RankPlan,
        unit: &Unit<'_, &Part>,
        given: Responses,
        seed: u64,
    ) -> Result<Swept> {
        let texts: Vec<String> = given.now.iter().map(|(text, _)| text.clone()).collect();
        let request = futures(self.policy.begin(given.conversation.clone()), texts, self.options, seed);
        let whole = talk.rank(request.clone())?;
        let last = self.options.turns - 1;
        let mut scored: Vec<Ranking> = Vec::new();
        for turns in 1..last {
            scored.push(talk.rescore(request.clone(), &up_to(&whole, turns))?);
        }
        scored.push(whole);
        let whole = &scored[last - 1];
        let count = given.now.len() as f64;
        let scoring = scored.iter().map(|ranking| thousands(scoring(ranking)) / count);
        let tokens = SweptTokens {
            sampling: divided(whole, &given.conversation, last, plan).into_iter().map(|all| all / count).collect(),
            scoring: std::iter::once(given.scoring).chain(scoring).collect(),
        };
        let (models, bitwise) = (whole.models.clone(), scored.iter().all(|ranking| ranking.bitwise));
        let by_depth: Vec<Vec<&RankedCandidate>> = scored.iter().map(in_order).collect();
        let responses = given.now.into_iter().enumerate().map(|(at, (response, now))| {
            let depths: Vec<&RankedCandidate> = by_depth.iter().map(|candidates| candidates[at]).collect();
            SweptResponse { response, now, futures: kept(&depths) }
        });
        Ok(Swept {
            policy: self.policy.name.clone(),
            id: unit.task.id.clone(),
            simulator: unit.of.simulated.label(),
            conversation: given.conversation,
            responses: responses.collect(),
            weights: plan.metrics.iter().map(|weighted| (weighted.name.clone(), weighted.weight)).collect(),
            paired: plan.rollout.common_random_numbers,
            tokens,
            seed,
            models,
            bitwise,
        })
    }

    /// Writes what there is by now.
    fn write(&self, places: &Places, parts: &[Part], kinds: &[Kind]) -> Result<Sweep> {
        let units = self.units(parts);
        let (_, failed) = rows(&units, self.journal);
        let set_aside = self.tasks.set_aside_with(failed);
        let mut read: BTreeMap<Option<String>, BTreeMap<String, Read>> = BTreeMap::new();
        let mut lines: Vec<Swept> = Vec::new();
        for part in parts.iter().filter(|part| !part.compares) {
            for unit in self.units(std::slice::from_ref(part)) {
                let Some(row) = self.read::<Swept>(part, unit.task)? else { continue };
                let compares = Part { compares: true, ..part.clone() };
                let compared: Option<Comparisons> = self.read(&compares, unit.task)?;
                lines.push(row.clone());
                let by_task = read.entry(part.simulated.label()).or_default();
                by_task.insert(unit.task.id.clone(), Read { row, compared });
            }
        }
        let sweep = Sweep::of(self.policy, kinds, &read, set_aside.len())?;
        write_atomically(&places.file("responses.jsonl"), lines.iter().map(json_line))?;
        write_atomically(&places.file("failed.jsonl"), set_aside.iter().map(json_line))?;
        write_atomically(&places.file("sweep.csv"), page::csv(&sweep).into_iter().map(Ok))?;
        write_atomically(&places.file("sweep.json"), [json_line(&sweep)])?;
        Ok(sweep)
    }
}

/// The part that a part rests on.
fn ground(part: &Part) -> Option<Part> {
    match part.compares {
        true => Some(Part { compares: false, ..part.clone() }),
        false if part.simulated == Simulated::default() => None,
        false => Some(Part { simulated: Simulated::default(), compares: false }),
    }
}

/// Refuses configurations with which kinds could not be compared.
fn check_plan(plan: &RankPlan, kinds: &[Kind]) -> Result<()> {
    if plan.allocation.strategy != Strategy::default() || plan.prune_after_first_turn {
        return Err(Error::invalid_config(
            "a sweep gives all responses equally many conversations: leave out rollout.allocation and \
             rollout.prune_after_first_turn",
        ));
    }
    let names: Vec<&str> = plan.metrics.iter().map(|weighted| &*weighted.name).collect();
    kinds.iter().try_for_each(|kind| row::check_metrics(kind, &names))
}

/// The responses to a task, each with its metrics as it stands.
struct Responses {
    conversation: Vec<Message>,
    now: Vec<(String, Values)>,
    /// Thousands of tokens that it took to score one.
    scoring: f64,
}

impl Responses {
    /// Those of a row. Who plays the user afterwards does not change them.
    fn of(row: Swept) -> Self {
        let now = row.responses.into_iter().map(|response| (response.response, response.now));
        let scoring = row.tokens.scoring.first().copied().unwrap_or_default();
        Responses { conversation: row.conversation, now: now.collect(), scoring }
    }
}

/// Asks the judge about each pair of conversations of the same sample, in both orders.
fn compare(talk: &mut Talk<'_>, row: &Swept, seed: u64) -> Result<Comparisons> {
    let before = all(talk.costs.total());
    let count = row.responses.len();
    let mut samples = BTreeMap::new();
    for sample in row.complete() {
        let whole = |response: &SweptResponse| {
            let mut said = row.conversation.clone();
            said.push(Message::new(Role::Assistant, response.response.clone()));
            let future = response.futures.iter().find(|future| future.sample == sample);
            said.extend(future.into_iter().flat_map(|future| future.messages.clone()));
            said
        };
        let said: Vec<Vec<Message>> = row.responses.iter().map(whole).collect();
        let pairs: Vec<(usize, usize)> =
            (0..count).flat_map(|one| (0..one).flat_map(move |other| [(one, other), (other, one)])).collect();
        let shown: Vec<[&[Message]; 2]> =
            pairs.iter().map(|(one, other)| [&said[*one][..], &said[*other][..]]).collect();
        let preferred = talk.prefer(&shown, seed_below(seed, &[COMPARISONS, sample as u64]))?;
        let mut better = vec![vec![0.5; count]; count];
        for (pair, both) in pairs.chunks_exact(2).zip(preferred.chunks_exact(2)) {
            // What the judge owes to the order of the two drops out.
            let ((one, other), probability) = (pair[0], (both[0] + 1.0 - both[1]) / 2.0);
            (better[one][other], better[other][one]) = (probability, 1.0 - probability);
        }
        samples.insert(sample, better);
    }
    let tokens = thousands(all(talk.costs.total()) - before) / count as f64;
    Ok(Comparisons { samples, tokens })
}
