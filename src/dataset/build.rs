//! From tasks to conversations.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Map, Value, json};

use super::conversation::{Conversation, Ending, ScoredResponse, Turn, UnscoredResponse};
use super::export::write_built;
use crate::chat::{Message, Role};
use crate::engine::{Engine, Limits};
use crate::likeness::{self, Corpus};
use crate::rank::{Candidates, Ended, RankPlan, RankRequest, RankedCandidate, Ranking};
use crate::reward::probability_best;
use crate::tasks::{
    Held, Journal, OnProgress, PROGRAM, Places, RunOptions, Spent, Stopped, Summary, Talk, Task, Tasks, Unit,
    check_prices, json_line, json_row, rows, run, seed_below, summarise, take_over, task_seed, write_atomically,
};
use crate::{Error, ErrorKind, Result};

/// The version of the rows.
const SCHEMA: u32 = 1;

/// The file of finished conversations, in the folder of a build.
pub(super) const ROWS: &str = "dataset.jsonl";
/// The same as Parquet.
const PARQUET: &str = "dataset.parquet";
/// How much the simulated users write like real ones.
const LIKENESS: &str = "likeness.json";
/// The file of tasks that were set aside.
const FAILED: &str = "failed.jsonl";

/// How conversations are built.
#[derive(Debug, Clone)]
pub struct BuildOptions {
    /// Candidates at each turn; at least 2.
    pub candidates: usize,
    /// Most turns of the assistant in a conversation; at least 1.
    pub turns: usize,
    /// Decides all random draws, with the tasks' ids; the configuration's seed if absent.
    pub seed: Option<u64>,
    /// A description of the configuration that has to stay the same when a build goes on: a hash, or a version.
    pub configuration: String,
    /// True if the rows are written as `dataset.parquet` as well. It takes the feature `parquet`.
    pub parquet: bool,
    /// How the run goes about them.
    pub run: RunOptions,
}

impl Default for BuildOptions {
    fn default() -> Self {
        let (configuration, run) = (String::new(), RunOptions::default());
        BuildOptions { candidates: 4, turns: 4, seed: None, configuration, parquet: false, run }
    }
}

impl BuildOptions {
    /// Refuses options that make no sense.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`](crate::ErrorKind::InvalidRequest), naming the option and its value.
    pub fn validate(&self) -> Result<()> {
        if !(2..=crate::rank::MAX_CANDIDATES).contains(&self.candidates) {
            return Err(Error::invalid_request(format!(
                "candidates is {}: at least 2 are needed for a best and a worst, and at most {} are ranked",
                self.candidates,
                crate::rank::MAX_CANDIDATES
            )));
        }
        if !(1..=MAX_TURNS).contains(&self.turns) {
            return Err(Error::invalid_request(format!(
                "turns is {}: a conversation has between 1 and {MAX_TURNS}",
                self.turns
            )));
        }
        if self.parquet && !cfg!(feature = "parquet") {
            return Err(Error::unsupported(
                "this build of foreturn writes no Parquet, because it has not the feature `parquet`: leave it out",
            ));
        }
        self.run.validate()
    }

    fn settings(&self, seed: u64) -> Map<String, Value> {
        let settings = json!({
            "for": "dataset", "configuration": self.configuration, "seed": seed, "candidates": self.candidates,
            "turns": self.turns,
        });
        settings.as_object().cloned().unwrap_or_default()
    }
}

/// Most turns of a conversation.
const MAX_TURNS: usize = 256;

/// Builds conversations about `tasks` in `folder`, or goes on with what is there.
///
/// The folder then has `dataset.jsonl`, with a [`Conversation`] per line in the order of the tasks, `failed.jsonl`, with
/// the tasks that were set aside and why, and `journal.jsonl`, from which a killed build goes on. Where the configuration
/// names a file of real conversations, it has `likeness.json`, a [`Likeness`](crate::likeness::Likeness), as well.
///
/// ```no_run
/// use foreturn::dataset::{BuildOptions, build};
/// use foreturn::tasks::Tasks;
/// use foreturn::{Config, Engine};
///
/// let engine = Engine::new(Config::from_file("examples/foreturn.toml")?)?;
/// let tasks = Tasks::read("examples/tasks/everyday.jsonl")?;
/// let summary = build(&engine, tasks, "built".as_ref(), &BuildOptions::default(), &|progress| {
///     println!("{} of {}", progress.finished, progress.total);
/// })?;
/// println!("{} conversations, {} set aside", summary.finished, summary.set_aside);
/// # Ok::<(), foreturn::Error>(())
/// ```
///
/// # Errors
/// The options or the configuration are wrong, the folder cannot be written, belongs to other settings or is in use, or the
/// models fail again and again. What is finished by then stays.
pub fn build(
    engine: &Engine,
    tasks: Tasks,
    folder: &Path,
    options: &BuildOptions,
    on_progress: OnProgress<'_>,
) -> Result<Summary> {
    options.validate()?;
    let plan = engine.plan()?;
    check_prices(&options.run, plan, &|name| engine.is_elsewhere(name))?;
    // A file that cannot be read is found before a conversation is paid for.
    let real = plan.real_users.as_ref().map(Corpus::read).transpose()?;
    let run_options = options.run.within_run();
    let seed = options.seed.unwrap_or(plan.seed);
    let engine = engine.within(Limits { cancel: Some(run_options.cancel.clone()), ..Limits::default() });
    let places = Places::make(folder)?;
    let journal = Journal::open(&places.journal(), &options.settings(seed))?;
    let units: Vec<Unit<'_, ()>> = units(&tasks).filter(|unit| options.run.takes(unit.task)).collect();
    take_over(&units, &options.run.merge, &journal, &options.settings(seed))?;
    let held = run(&units, &journal, &run_options, on_progress, |unit| {
        let talk = Talk::new(&engine, &unit.task.goal);
        let mut build = Build { talk, options, task: unit.task, plan };
        let start = Instant::now();
        // A task that lacks what a metric needs is refused before it costs anything.
        let result = plan.check_goal(&unit.task.goal).and_then(|()| build.conversation(task_seed(seed, &unit.task.id)));
        Held { result, spent: Spent::new(&build.talk.costs, start.elapsed().as_secs_f64(), plan) }
    });
    // What is finished stays, whatever ended the run.
    let written = write(&places, &units, &journal, &tasks).and_then(|()| record(&places, real.as_ref()));
    let written = written.and_then(|()| match options.parquet {
        true => write_built(&places.file(ROWS), &places.file(PARQUET)),
        false => Ok(()),
    });
    let mut summary = held?;
    written?;
    summary.set_aside += tasks.set_aside.len();
    Ok(summary)
}

/// Puts the shards of a build together: the conversations in `shards`, which are folders of builds, about `tasks` in the
/// order of `tasks`. `folder` then is a build of its own, which can go on.
///
/// # Errors
/// A shard was built with other settings or is in use, two shards disagree about a conversation, or a file cannot be read or
/// written.
pub fn merge(tasks: Tasks, shards: &[PathBuf], folder: &Path) -> Result<Summary> {
    let Some(first) = shards.first() else {
        return Err(Error::invalid_request("there are no shards to merge"));
    };
    let settings = Journal::settings(&Places::of(first).journal())?;
    let places = Places::make(folder)?;
    let journal = Journal::open(&places.journal(), &settings)?;
    let units: Vec<Unit<'_, ()>> = units(&tasks).collect();
    take_over(&units, shards, &journal, &settings)?;
    let mut summary = summarise(&units, &journal, &RunOptions::default(), Stopped::Complete);
    summary.set_aside += tasks.set_aside.len();
    write(&places, &units, &journal, &tasks)?;
    Ok(summary)
}

fn units(tasks: &Tasks) -> impl Iterator<Item = Unit<'_, ()>> {
    tasks.list.iter().map(|task| Unit { key: task.id.clone(), task, of: () })
}

/// Writes what there is by now.
fn write(places: &Places, units: &[Unit<'_, ()>], journal: &Journal, tasks: &Tasks) -> Result<()> {
    let (rows, failed) = rows(units, journal);
    write_atomically(&places.file(ROWS), rows.map(|row| json_line(&row?)))?;
    write_atomically(&places.file(FAILED), tasks.set_aside_with(failed).iter().map(json_line))
}

/// Records how much the simulated users write like real ones.
fn record(places: &Places, real: Option<&Corpus>) -> Result<()> {
    let rows = places.file(ROWS);
    let empty = std::fs::metadata(&rows).map_err(|e| Error::io("read", &rows, e))?.len() == 0;
    match real.filter(|_| !empty) {
        Some(real) => {
            let likeness = likeness::compare(&Corpus::read(&rows)?, real);
            write_atomically(&places.file(LIKENESS), [json_line(&likeness)])
        }
        None => Ok(()),
    }
}

/// A conversation that is being built.
struct Build<'a> {
    talk: Talk<'a>,
    options: &'a BuildOptions,
    task: &'a Task,
    plan: &'a RankPlan,
}

impl Build<'_> {
    /// The conversation, as a row.
    fn conversation(&mut self, seed: u64) -> Result<Value> {
        let mut said = self.talk.begin(&self.task.conversation, seed_below(seed, &[OPENING]))?;
        let (mut turns, mut last): (Vec<Turn>, Option<Ranking>) = (Vec::new(), None);
        let (ended, last_words) = loop {
            let turn_seed = seed_below(seed, &[turns.len() as u64]);
            let request = RankRequest {
                conversation: said.clone(),
                candidates: Candidates::Sample(self.options.candidates),
                seed: Some(turn_seed),
                ..RankRequest::default()
            };
            let ranking = match self.talk.rank(request) {
                Err(error) if error.kind() == ErrorKind::ContextLength && last.is_some() => {
                    break (Ending::Context, None);
                }
                ranking => ranking.map_err(|e| e.context(format!("turn {}", turns.len() + 1)))?,
            };
            let turn = turn(said.clone(), &ranking, turn_seed, self.plan.rollout.common_random_numbers)?;
            said.push(Message::new(Role::Assistant, turn.responses[turn.chosen].completion.clone()));
            turns.push(turn);
            last = Some(ranking);
            if turns.len() == self.options.turns {
                break (Ending::Turns, None);
            }
            match self.talk.reply(&said, seed_below(turn_seed, &[REPLY]))? {
                (Some(message), None) => said.push(message),
                (message, Some(Ended::Context)) => break (Ending::Context, message),
                (message, _) => break (Ending::StopSignal, message),
            }
        };
        let Some(last) = last else { return Err(Error::internal("a conversation without a turn")) };
        self.row(seed, turns, (ended, last_words), last)
    }

    fn row(
        &self,
        seed: u64,
        turns: Vec<Turn>,
        (ended, last_words): (Ending, Option<Message>),
        last: Ranking,
    ) -> Result<Value> {
        let conversation = Conversation {
            schema: SCHEMA,
            id: self.task.id.clone(),
            single_turn_prompt: self.task.prompt(&turns[0].prompt).to_owned(),
            single_turn_completion: self.task.goal.reference.clone(),
            single_turn_metadata: self.task.metadata.clone(),
            goal: self.task.goal.clone(),
            turns,
            ended,
            last_words,
            seed,
            models: last.models,
            reward_models: last.reward_models,
            bitwise: last.bitwise,
            tokens: Spent::new(&self.talk.costs, 0.0, self.plan).roles,
            program: PROGRAM.into(),
        };
        json_row(&conversation)
    }
}

/// Separate the seeds of the user's messages from those of rankings.
const OPENING: u64 = u64::MAX;
const REPLY: u64 = u64::MAX;

/// What a ranking says about a turn.
fn turn(prompt: Vec<Message>, ranking: &Ranking, seed: u64, paired: bool) -> Result<Turn> {
    let mut ranked: Vec<&RankedCandidate> = ranking.candidates.iter().collect();
    ranked.sort_by_key(|candidate| candidate.candidate);
    let (mut responses, mut unscored, mut scored) = (Vec::new(), Vec::new(), Vec::new());
    for candidate in ranked {
        match (&candidate.response, candidate.reward) {
            (Some(text), Some(reward)) => {
                responses.push(response(candidate, text, reward));
                scored.push(candidate);
            }
            (text, _) => unscored.push(UnscoredResponse { completion: text.clone(), reason: reason(candidate) }),
        }
    }
    let chosen = best(&responses).ok_or_else(|| {
        let why = unscored.first().map_or("", |first| first.reason.as_str());
        Error::new(ErrorKind::ModelOutput, format!("no candidate has a reward: {why}"))
    })?;
    let rejected = worst(&responses, chosen);
    let probability = rejected.and_then(|rejected| {
        let rewards = [chosen, rejected].map(|at| rewards(scored[at]));
        probability_best(&rewards, paired)[0]
    });
    Ok(Turn { prompt, responses, chosen, rejected, probability, unscored, seed })
}

fn response(candidate: &RankedCandidate, text: &str, reward: f64) -> ScoredResponse {
    let metrics = candidate.metrics.iter().filter_map(|(name, summary)| Some((name.clone(), summary.mean?)));
    ScoredResponse {
        completion: text.to_owned(),
        score: reward,
        std_error: candidate.std_error,
        probability_best: candidate.probability_best,
        metrics: metrics.collect(),
        samples: candidate.rollouts.iter().filter(|rollout| rollout.counted).count(),
        note: candidate.note.clone(),
    }
}

fn reason(candidate: &RankedCandidate) -> String {
    let of_rollout = candidate.rollouts.iter().find_map(|rollout| rollout.reason.clone());
    candidate.note.clone().or(of_rollout).unwrap_or_else(|| "none of its futures counts".into())
}

/// The first of the responses with the highest reward.
fn best(responses: &[ScoredResponse]) -> Option<usize> {
    (0..responses.len()).reduce(|best, at| if responses[at].score > responses[best].score { at } else { best })
}

/// The last of the responses with the lowest reward, among those with another text than the best.
fn worst(responses: &[ScoredResponse], best: usize) -> Option<usize> {
    let others = (0..responses.len()).filter(|&at| responses[at].completion != responses[best].completion);
    others.reduce(|worst, at| if responses[at].score <= responses[worst].score { at } else { worst })
}

/// The rewards of a candidate's futures, by sample.
fn rewards(candidate: &RankedCandidate) -> Vec<Option<f64>> {
    candidate.rollouts.iter().map(|rollout| rollout.reward.filter(|_| rollout.counted)).collect()
}
