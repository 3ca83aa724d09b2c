//! Workers that hold the conversations of a run, within limits, and write them down.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Map, Value};

use super::file::{SetAside, Task};
use super::journal::{Failure, Journal, Places};
use super::spend::{Estimate, Price, Spent, check_prices, cost};
use crate::config::{Config, ModelSource};
use crate::engine::CancelToken;
use crate::{Error, ErrorKind, Result, thread};

/// Conversations in a row that may fail before the run stops, because then something other than the tasks is wrong.
const MAX_FAILURES: usize = 10;

/// Most conversations at the same time. Each waits for one request of its own, and so many may wait by default.
const MAX_CONCURRENCY: usize = 256;

/// A part of the tasks, for one of several machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shard {
    /// Which one, from 1.
    pub number: usize,
    /// How many there are.
    pub of: usize,
}

impl Shard {
    /// True if it has the task `id`. Other lines of the file have no part in it, so that a task stays in its shard when
    /// lines are mended, added or removed.
    pub(crate) fn has(self, id: &str) -> bool {
        super::number_of(id) % self.of as u64 == self.number as u64 - 1
    }
}

/// Parses `i/n`, such as `1/4`.
impl FromStr for Shard {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = text.split_once('/').and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
        match parts {
            Some((number, of)) if 1 <= number && number <= of => Ok(Shard { number, of }),
            _ => Err(Error::invalid_request(format!(
                "`{text}` is not a shard: give its number from 1 and how many there are, as in 1/4"
            ))),
        }
    }
}

/// How a run goes about its conversations. None of it changes what they hold.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Conversations at the same time; 1 to 256.
    pub concurrency: usize,
    /// The part of the tasks to take; all if absent.
    pub shard: Option<Shard>,
    /// No conversation begins that would probably take the run beyond this many tokens, of all roles and with those of
    /// earlier runs in the same folder.
    pub max_tokens: Option<u64>,
    /// As `max_tokens`, for the cost. It needs prices.
    pub max_cost: Option<f64>,
    /// Prices by the names of models.
    pub prices: BTreeMap<String, Price>,
    /// The number of conversations to have, spread over the tasks, so that the rest can be estimated; all if absent.
    pub probe: Option<usize>,
    /// Folders of other runs with the same settings, such as shards. Their conversations are taken over first.
    pub merge: Vec<PathBuf>,
    /// Holds conversations again that failed because of their task: it was refused, or is too long. Those that failed for
    /// other reasons, such as an endpoint that was down, are held again anyway.
    pub retry_failed: bool,
    /// Ends the run from outside. Conversations under way are given up, and held by the next run. A run never cancels it
    /// by itself.
    pub cancel: CancelToken,
}

impl Default for RunOptions {
    fn default() -> Self {
        RunOptions {
            concurrency: 8,
            shard: None,
            max_tokens: None,
            max_cost: None,
            prices: BTreeMap::new(),
            probe: None,
            merge: Vec::new(),
            retry_failed: false,
            cancel: CancelToken::new(),
        }
    }
}

impl RunOptions {
    pub(crate) fn validate(&self) -> Result<()> {
        if !(1..=MAX_CONCURRENCY).contains(&self.concurrency) {
            return Err(Error::invalid_request(format!(
                "concurrency is {}: between 1 and {MAX_CONCURRENCY} conversations are held at the same time",
                self.concurrency
            )));
        }
        if self.max_cost.is_some() && self.prices.is_empty() {
            return Err(Error::invalid_request("a limit on the cost needs prices: give those of the models that cost"));
        }
        if let Some(cost) = self.max_cost.filter(|cost| !cost.is_finite() || *cost < 0.0) {
            return Err(Error::invalid_request(format!("the limit {cost} on the cost is not a number of at least 0")));
        }
        if self.probe == Some(0) {
            return Err(Error::invalid_request("an estimate needs at least 1 conversation"));
        }
        Ok(())
    }

    /// Refuses prices and limits that make no sense with this configuration. It is cheap: nothing is loaded.
    ///
    /// # Errors
    /// The configuration is wrong, a model behind an endpoint has no price although the cost is limited, or the models of
    /// metrics cannot be told apart.
    pub fn check(&self, config: &Config) -> Result<()> {
        let is_elsewhere =
            |name: &str| config.models.get(name).is_some_and(|model| matches!(model.source, ModelSource::Remote(_)));
        check_prices(self, &config.plan(Arc::new(|_| 0))?, &is_elsewhere)
    }

    /// The same options, with a token that the run may cancel without the caller's.
    pub(crate) fn within_run(&self) -> Self {
        RunOptions { cancel: self.cancel.child(), ..self.clone() }
    }
}

/// How far a run is.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// Conversations of this shard.
    pub total: usize,
    /// Those that are finished, in this run or an earlier one.
    pub finished: usize,
    /// Those that failed.
    pub failed: usize,
    /// Tokens of this run, of all roles.
    pub tokens: u64,
    /// Time since the run began.
    pub elapsed: Duration,
    /// The time that the rest will take, judged by this run.
    pub left: Option<Duration>,
}

/// Called on a thread of the run whenever a conversation has ended.
pub type OnProgress<'a> = &'a (dyn Fn(&Progress) + Sync);

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Stopped {
    /// There is nothing more to do: all conversations are finished or failed, or shards were merged.
    Complete,
    /// A limit on tokens or cost.
    Budget,
    /// The conversations of the estimate are held.
    Probe,
    /// The caller.
    Cancelled,
}

/// What has come of a run and those before it in the same folder.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// Conversations of this shard that are finished.
    pub finished: usize,
    /// Those that failed, and lines that are not tasks.
    pub set_aside: usize,
    /// Of those that failed, the ones whose task is not to blame. The next run holds them again.
    pub retried: usize,
    /// Those that are not held yet.
    pub left: usize,
    /// The reason why the run ended.
    pub stopped: Stopped,
    /// The cost of all conversations so far.
    pub spent: Spent,
    /// That cost in money, where prices are known.
    pub cost: Option<f64>,
    /// What the rest will cost.
    pub estimate: Option<Estimate>,
}

/// A conversation to hold.
pub(crate) struct Unit<'a, U> {
    /// Its name in the journal.
    pub(crate) key: String,
    pub(crate) task: &'a Task,
    /// What else its caller knows of it.
    pub(crate) of: U,
}

/// A conversation that was held, or why not, with what it cost.
pub(crate) struct Held {
    pub(crate) result: Result<Value>,
    pub(crate) spent: Spent,
}

/// Where the workers meet.
struct Shared<'a, U> {
    units: &'a [Unit<'a, U>],
    journal: &'a Journal,
    options: &'a RunOptions,
    on_progress: OnProgress<'a>,
    start: Instant,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Places of units that nobody has begun.
    due: std::vec::IntoIter<usize>,
    under_way: usize,
    finished: usize,
    failed: usize,
    /// Of this run.
    ended: usize,
    tokens: u64,
    /// Of all runs in the folder.
    spent: Spent,
    /// The cost of those of `units` that are finished.
    measured: Spent,
    in_a_row: usize,
    stopped: Option<Stopped>,
    error: Option<Error>,
}

/// Holds the conversations that the journal does not have yet.
///
/// # Errors
/// The journal cannot be written, the engine was closed, or too many conversations failed in a row.
pub(crate) fn run<U: Sync>(
    units: &[Unit<'_, U>],
    journal: &Journal,
    options: &RunOptions,
    on_progress: OnProgress<'_>,
    hold: impl Fn(&Unit<'_, U>) -> Held + Sync,
) -> Result<Summary> {
    let known: Vec<Known> = units.iter().map(|unit| known(unit, journal)).collect();
    let finished = known.iter().filter(|known| **known == Known::Done).count();
    let mut due: Vec<usize> = (0..units.len()).filter(|&at| is_open(known[at], options)).collect();
    let all = due.len();
    if let Some(probe) = options.probe {
        // What is finished tells as much.
        due = spread(&due, probe.saturating_sub(finished));
    }
    let state = State {
        under_way: 0,
        finished,
        failed: units.len() - finished - all,
        ended: 0,
        tokens: 0,
        spent: journal.spent(),
        measured: measured(units, journal),
        in_a_row: 0,
        stopped: (due.len() < all).then_some(Stopped::Probe),
        error: None,
        due: due.into_iter(),
    };
    let workers = options.concurrency.min(state.due.len());
    let shared = Shared {
        units,
        journal,
        options,
        on_progress,
        start: Instant::now(),
        state: Mutex::new(state),
        changed: Condvar::new(),
    };
    std::thread::scope(|scope| -> Result<()> {
        for _ in 0..workers {
            let worker = || shared.work(&hold);
            if let Err(error) = thread::spawn_scoped(scope, "foreturn-hold", "for a conversation", worker) {
                shared.end(Stopped::Cancelled, Some(error));
                break;
            }
        }
        Ok(())
    })?;
    shared.summary()
}

/// True if there is something to do.
pub(crate) fn is_due<U>(units: &[Unit<'_, U>], journal: &Journal, options: &RunOptions) -> bool {
    units.iter().any(|unit| is_open(known(unit, journal), options))
}

/// What the journal says of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Nothing,
    Done,
    Failed { own: bool },
}

/// True if the conversation is to be held: nobody has held it, or what failed may go well this time.
fn is_open(known: Known, options: &RunOptions) -> bool {
    match known {
        Known::Nothing => true,
        Known::Done => false,
        Known::Failed { own } => !own || options.retry_failed,
    }
}

fn known<U>(unit: &Unit<'_, U>, journal: &Journal) -> Known {
    match journal.entry(&unit.key, &unit.task.fingerprint()).map(|entry| entry.failed) {
        None => Known::Nothing,
        Some(None) => Known::Done,
        Some(Some(Failure { own, .. })) => Known::Failed { own },
    }
}

/// The cost of the conversations that are finished.
fn measured<U>(units: &[Unit<'_, U>], journal: &Journal) -> Spent {
    let mut sum = Spent::default();
    let entries = units.iter().filter_map(|unit| journal.entry(&unit.key, &unit.task.fingerprint()));
    entries.filter(|entry| entry.failed.is_none()).for_each(|entry| sum.add(&entry.spent));
    sum
}

/// True if the task is to blame: it would fail again in the same way.
fn is_own(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidRequest | ErrorKind::ContextLength)
}

/// So many places, spread evenly.
fn spread(due: &[usize], count: usize) -> Vec<usize> {
    let count = count.min(due.len());
    (0..count).map(|nth| due[nth * due.len() / count]).collect()
}

impl<U: Sync> Shared<'_, U> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, why: Stopped, error: Option<Error>) {
        let mut state = self.state();
        state.stopped = Some(why);
        state.due = Vec::new().into_iter();
        if let Some(error) = error {
            state.error.get_or_insert(error);
            // What is under way would come to nothing.
            self.options.cancel.cancel();
        }
        drop(state);
        self.changed.notify_all();
    }

    fn work(&self, hold: &(impl Fn(&Unit<'_, U>) -> Held + Sync)) {
        let _guard = EndsOnPanic(self);
        while let Some(at) = self.next() {
            let unit = &self.units[at];
            let held = hold(unit);
            let written = self.write(unit, &held);
            let mut state = self.state();
            state.under_way -= 1;
            let progress = matches!(written, Ok(true)).then(|| {
                state.count(&held);
                self.progress(&state)
            });
            let failure = held.result.as_ref().err().filter(|_| state.in_a_row >= MAX_FAILURES);
            let failure = failure.map(|error| error.duplicate().context(format!(
                "{MAX_FAILURES} conversations in a row failed, so the run stops; what is finished stays. The last one, about \
                 task `{}`",
                unit.task.id
            )));
            drop(state);
            self.changed.notify_all();
            // The caller's function may take its time, or panic.
            if let Some(progress) = progress {
                (self.on_progress)(&progress);
            }
            match (written, failure) {
                (Err(error), _) | (Ok(_), Some(error)) => self.end(Stopped::Cancelled, Some(error)),
                (Ok(false), None) => self.end(Stopped::Cancelled, None),
                (Ok(true), None) => {}
            }
        }
    }

    /// Writes a conversation down. False if it was cancelled, and there is nothing to write.
    fn write(&self, unit: &Unit<'_, U>, held: &Held) -> Result<bool> {
        let task = unit.task.fingerprint();
        match &held.result {
            Ok(entry) => self.journal.done(&unit.key, &task, &held.spent, entry)?,
            Err(error) if error.kind() == ErrorKind::Cancelled => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Closed => return Err(error.duplicate()),
            Err(error) => {
                let failure = Failure { reason: error.to_string(), own: is_own(error) };
                self.journal.failed(&unit.key, &task, &held.spent, &failure)?;
            }
        }
        Ok(true)
    }

    /// The next conversation to begin. `None` at the end of the run.
    fn next(&self) -> Option<usize> {
        let mut state = self.state();
        loop {
            if self.options.cancel.is_cancelled() {
                state.due = Vec::new().into_iter();
                state.stopped = Some(Stopped::Cancelled);
            }
            if state.due.len() == 0 {
                return None;
            }
            if self.affords(&state) {
                state.under_way += 1;
                return state.due.next();
            }
            if state.under_way == 0 {
                state.due = Vec::new().into_iter();
                state.stopped = Some(Stopped::Budget);
                continue;
            }
            // Conversations that end may turn out cheaper than those before.
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// True if one more conversation probably stays within the limits: those under way are taken to cost as much as those
    /// that are finished did on average. Failed ones say nothing: many cost nothing at all.
    fn affords(&self, state: &State) -> bool {
        let within = |spent: f64, measured: f64, limit: f64| match state.finished {
            // Nothing is known before the first one is finished.
            0 => state.under_way == 0 && spent < limit,
            count => spent + (state.under_way + 1) as f64 * measured / count as f64 <= limit,
        };
        let tokens = |spent: &Spent| spent.total() as f64;
        let money = |spent: &Spent| cost(&self.options.prices, spent).unwrap_or_default();
        let within_tokens = |most: u64| within(tokens(&state.spent), tokens(&state.measured), most as f64);
        self.options.max_tokens.is_none_or(within_tokens)
            && self.options.max_cost.is_none_or(|most| within(money(&state.spent), money(&state.measured), most))
    }

    fn progress(&self, state: &State) -> Progress {
        let elapsed = self.start.elapsed();
        let left = (state.due.len() + state.under_way) as u32;
        Progress {
            total: self.units.len(),
            finished: state.finished,
            failed: state.failed,
            tokens: state.tokens,
            elapsed,
            left: (state.ended > 0).then(|| elapsed.mul_f64(f64::from(left) / state.ended as f64)),
        }
    }

    fn summary(self) -> Result<Summary> {
        let Shared { units, journal, options, state, .. } = self;
        let state = state.into_inner().unwrap_or_else(PoisonError::into_inner);
        match state.error {
            Some(error) => Err(error),
            None => Ok(summarise(units, journal, options, state.stopped.unwrap_or(Stopped::Complete))),
        }
    }
}

/// Ends the run when a worker panics, because the others may wait for it. The panic itself goes on to the caller.
struct EndsOnPanic<'a, 'b, U: Sync>(&'a Shared<'b, U>);

impl<U: Sync> Drop for EndsOnPanic<'_, '_, U> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end(Stopped::Cancelled, Some(Error::internal("a conversation of the run panicked")));
        }
    }
}

/// What the journal has of these conversations.
pub(crate) fn summarise<U>(
    units: &[Unit<'_, U>],
    journal: &Journal,
    options: &RunOptions,
    stopped: Stopped,
) -> Summary {
    let entries = units.iter().filter_map(|unit| journal.entry(&unit.key, &unit.task.fingerprint()));
    let (failed, finished): (Vec<_>, Vec<_>) = entries.partition(|entry| entry.failed.is_some());
    let left = units.len() - failed.len() - finished.len();
    let spent = journal.spent();
    let costs: Vec<Spent> = finished.into_iter().map(|entry| entry.spent).collect();
    Summary {
        finished: costs.len(),
        set_aside: failed.len(),
        retried: failed.iter().filter(|entry| entry.failed.as_ref().is_some_and(|failure| !failure.own)).count(),
        left,
        stopped: if left > 0 { stopped } else { Stopped::Complete },
        cost: cost(&options.prices, &spent),
        spent,
        estimate: Estimate::of(&costs, left, options.concurrency, &options.prices),
    }
}

impl State {
    fn count(&mut self, held: &Held) {
        self.ended += 1;
        self.tokens += held.spent.total();
        self.spent.add(&held.spent);
        match &held.result {
            Ok(_) => {
                (self.finished, self.in_a_row) = (self.finished + 1, 0);
                self.measured.add(&held.spent);
            }
            // A task that asks for the impossible says nothing about the others.
            Err(error) => {
                self.failed += 1;
                self.in_a_row += usize::from(!is_own(error));
            }
        }
    }
}

/// The finished conversations in the order of `units`, and the failures among them.
pub(crate) fn rows<'a, U>(
    units: &'a [Unit<'a, U>],
    journal: &'a Journal,
) -> (impl Iterator<Item = Result<Value>> + 'a, Vec<SetAside>) {
    let failed = units.iter().filter_map(|unit| {
        let entry = journal.entry(&unit.key, &unit.task.fingerprint())?;
        Some(SetAside { line: unit.task.line, id: Some(unit.task.id.clone()), reason: entry.failed?.reason })
    });
    let failed = failed.collect();
    let rows = units.iter().filter_map(|unit| journal.read(&unit.key, &unit.task.fingerprint()).transpose());
    (rows, failed)
}

/// Takes over the conversations of other runs with the same settings, which are in the folders `shards`.
pub(crate) fn take_over<U>(
    units: &[Unit<'_, U>],
    shards: &[PathBuf],
    to: &Journal,
    settings: &Map<String, Value>,
) -> Result<()> {
    for shard in shards {
        let from = Journal::open_existing(&Places::of(shard).journal(), settings)?;
        units.iter().try_for_each(|unit| take(unit, &from, to)).map_err(|e| e.context(shard.display()))?;
    }
    Ok(())
}

/// Takes over what a shard has of a conversation.
fn take<U>(unit: &Unit<'_, U>, from: &Journal, to: &Journal) -> Result<()> {
    let task = unit.task.fingerprint();
    let Some(entry) = from.entry(&unit.key, &task) else { return Ok(()) };
    let known = to.entry(&unit.key, &task);
    if known.is_none() && entry.earlier != Spent::default() {
        // What it took counts as well.
        let failure = Failure { reason: "an earlier attempt".into(), own: false };
        to.failed(&unit.key, &task, &entry.earlier, &failure)?;
    }
    if let Some(failure) = &entry.failed {
        // That a task is to blame says more than that it was not held.
        let says_more = known.is_none_or(|known| known.failed.is_some_and(|known| failure.own && !known.own));
        return if says_more { to.failed(&unit.key, &task, &entry.spent, failure) } else { Ok(()) };
    }
    let Some(row) = from.read(&unit.key, &task)? else { return Ok(()) };
    match to.read(&unit.key, &task)? {
        Some(other) if other == row => Ok(()),
        Some(_) => Err(Error::invalid_request(format!(
            "its conversation about task `{}` is another one than that of an earlier shard",
            unit.task.id
        ))),
        None => to.done(&unit.key, &task, &entry.spent, &row),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;

    use super::super::file::Tasks;
    use super::super::spend::Tokens;
    use super::*;
    use crate::rank::ModelRole;

    fn tasks(count: usize) -> Tasks {
        let lines: Vec<String> = (0..count).map(|n| json!({"id": n, "prompt": "p"}).to_string()).collect();
        Tasks::parse(lines.join("\n").as_bytes(), "t")
    }

    fn held(result: Result<Value>, prompt: u64) -> Held {
        let roles = [(ModelRole::Policy, Tokens { prompt, ..Tokens::default() })].into();
        Held { result, spent: Spent { roles, ..Spent::default() } }
    }

    /// Runs conversations about so many tasks in a folder.
    fn run_in(
        folder: &std::path::Path,
        tasks: &Tasks,
        options: &RunOptions,
        on_progress: OnProgress<'_>,
        hold: impl Fn(&str) -> Held + Sync,
    ) -> Result<Summary> {
        let journal = Journal::open(&folder.join("journal.jsonl"), &Map::new())?;
        let units = tasks.list.iter().map(|task| Unit { key: task.id.clone(), task, of: () });
        let options = options.within_run();
        run(&units.collect::<Vec<_>>(), &journal, &options, on_progress, |unit| hold(&unit.task.id))
    }

    #[test]
    fn a_panic_ends_the_run_and_reaches_the_caller() {
        for in_progress in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            // The limit makes the other workers wait for the first conversation.
            let options = RunOptions { max_tokens: Some(1000), concurrency: 4, ..RunOptions::default() };
            let told = |_: &Progress| assert!(!in_progress, "a panic of the caller");
            let hold = |_: &str| {
                assert!(in_progress, "a panic of a conversation");
                held(Ok(json!(1)), 1)
            };
            let run = || run_in(folder.path(), &tasks(8), &options, &told, hold);
            assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err());
            assert!(!options.cancel.is_cancelled(), "the token is the caller's");
        }
    }

    #[test]
    fn limits_hold_whatever_fails_for_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let options = RunOptions { max_tokens: Some(1000), concurrency: 8, ..RunOptions::default() };
        let begun = AtomicUsize::new(0);
        // The first tasks fail and cost nothing; each of the others costs 400.
        let hold = |_: &str| match begun.fetch_add(1, Ordering::Relaxed) {
            0..6 => held(Err(Error::invalid_request("refused")), 0),
            _ => held(Ok(json!(1)), 400),
        };
        let summary = run_in(folder.path(), &tasks(20), &options, &|_| (), hold).unwrap();
        assert_eq!((summary.spent.total(), summary.finished, summary.stopped), (800, 2, Stopped::Budget));
    }

    #[test]
    fn an_error_of_a_run_leaves_the_callers_token_alone() {
        let folder = tempfile::tempdir().unwrap();
        let options = RunOptions::default();
        let down = |_: &str| held(Err(Error::new(ErrorKind::Io, "down")), 0);
        let error = run_in(folder.path(), &tasks(20), &options, &|_| (), down).unwrap_err();
        assert!(error.to_string().contains("in a row failed") && !options.cancel.is_cancelled());
        let well = |_: &str| held(Ok(json!(1)), 1);
        let summary = run_in(folder.path(), &tasks(20), &options, &|_| (), well).unwrap();
        assert_eq!((summary.finished, summary.set_aside, summary.retried), (20, 0, 0));
    }
}
