//! Workers that hold the conversations of a run, within limits, and write them down.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::file::Task;
use super::journal::{Failure, Journal};
use super::options::RunOptions;
use super::outcome::{Stopped, Summary, summarise};
use super::spend::{Spent, cost};
use crate::{Error, ErrorKind, Result, thread};

/// Conversations in a row that may fail before the run stops, because then something other than the tasks is wrong.
const MAX_FAILURES: usize = 10;

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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::{Map, json};

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
