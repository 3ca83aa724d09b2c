//! A watchdog that ends runs of a graph that take too long. A graph may loop for ever, and nothing else can stop its
//! thread.
//!
//! One thread for the whole process sleeps until the earliest limit of the current runs. Runs start and end many times
//! a second, but their limits are far away. A run that ends before its limit doesn't wake the thread, so watching it
//! costs two uncontended locks.
//!
//! The limit is `step_limit_s` under `[runtime]`, or one second after the last deadline of the requests that wait for
//! the model, if all of them have one. That second lets ordinary steps finish. The sequences of an ended run fail, or
//! end as `deadline` in a ranking that is over. The session keeps working.
//!
//! ONNX Runtime checks the flag of `RunOptions::terminate` before each node, so a loop without nodes could not be
//! ended. Such loops are refused, and graphs with loops are not optimised, because optimisation could empty others.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ort::session::RunOptions;

use crate::Result;

/// A watched run. Dropping this ends the watch.
pub(super) struct Watch {
    id: u64,
}

struct State {
    runs: Vec<Watched>,
    next: u64,
    thread: bool,
    /// The time when the thread wakes by itself; `None` if it waits to be woken.
    wakes: Option<Instant>,
}

struct Watched {
    id: u64,
    until: Instant,
    options: Arc<RunOptions>,
    ended: bool,
}

static STATE: Mutex<State> = Mutex::new(State { runs: Vec::new(), next: 0, thread: false, wakes: None });
static EARLIER: Condvar = Condvar::new();

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the thread, unless it is there. It is the process's, so the thread that asks must not be confined to an engine's cores.
pub(super) fn start() -> Result<()> {
    let mut state = state();
    if !state.thread {
        crate::thread::spawn("foreturn-watchdog", "that ends runs of a graph", guard)?;
        state.thread = true;
    }
    Ok(())
}

/// Ends the run under `options` at `until`, unless the watch is dropped by then.
pub(super) fn watch(options: &Arc<RunOptions>, until: Instant) -> Watch {
    let mut state = state();
    let id = state.next;
    state.next += 1;
    state.runs.push(Watched { id, until, options: Arc::clone(options), ended: false });
    if state.wakes.is_none_or(|wakes| until < wakes) {
        EARLIER.notify_one();
    }
    Watch { id }
}

/// The body of the thread: sleeps until the earliest limit, and ends the runs that are past theirs.
fn guard() {
    let mut state = state();
    loop {
        let now = Instant::now();
        for run in state.runs.iter_mut().filter(|run| !run.ended && run.until <= now) {
            // This sets a flag in memory. It can't fail, and an error could not be reported here.
            run.ended = run.options.terminate().is_ok();
        }
        state.wakes = state.runs.iter().filter(|run| !run.ended).map(|run| run.until).min();
        state = match state.wakes {
            None => EARLIER.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(wakes) => {
                let pause = wakes.saturating_duration_since(now);
                EARLIER.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0
            }
        };
    }
}

impl Watch {
    /// Stops watching. Returns whether the run was ended.
    pub(super) fn finish(self) -> bool {
        self.remove()
    }

    /// Under one lock, so that the run can't be ended after the check.
    fn remove(&self) -> bool {
        let mut state = state();
        let at = state.runs.iter().position(|run| run.id == self.id);
        at.is_some_and(|at| state.runs.swap_remove(at).ended)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.remove();
    }
}
