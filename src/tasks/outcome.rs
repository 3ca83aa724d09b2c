//! What has come of a run: its summary, its rows, and what other runs have to add.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Map, Value};

use super::file::SetAside;
use super::journal::{Failure, Journal, Places};
use super::options::RunOptions;
use super::run::Unit;
use super::spend::{Estimate, Spent, cost};
use crate::{Error, Result};

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

impl Stopped {
    /// Whether nothing further is to be begun, of whatever kind.
    pub(crate) fn ends_all(self) -> bool {
        matches!(self, Stopped::Budget | Stopped::Cancelled)
    }
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
