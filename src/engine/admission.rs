//! Which requests wait, and which have a place.
//!
//! Any thread submits; a full queue refuses at once. A thread of its own gives out places, the most urgent request first,
//! prepares what got one (texts become tokens there), and passes it on to the owner of the models. Another one watches the
//! clock: it ends the wait of requests whose time is over, those under way included, so nobody waits for a step, or for
//! other texts to become tokens, to learn that.

use std::collections::BTreeMap;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::command::Command;
use super::job::{Job, Kind, Late, Punctual, Run, Watch};
use super::owner::closed;
use super::queue::Queue;
use super::statistics::{Recorder, Stage};
use crate::decode::urgency::Turn;
use crate::rank::StopReason;
use crate::{Error, Result};

/// Rankings that sample at the same time; more would only wait for each other's blocks.
const MAX_RANKINGS: usize = 16;
/// Texts to continue or to score that are under way on the models at the same time; a call that begins may exceed it.
const MAX_TEXTS: usize = 64;
/// How often the requests that wait are asked whether their time is over.
const LOOK: Duration = Duration::from_millis(5);

/// Shared by the handles, its two threads, and the owner.
pub(super) struct Admission {
    state: Mutex<State>,
    /// Wakes the thread that gives out places.
    changed: Condvar,
    /// Wakes the thread that watches the clock.
    timed: Condvar,
}

struct State {
    rankings: Queue<Box<Run>>,
    calls: Queue<Box<Run>>,
    /// Requests under way that are answered at their deadline, by that and their arrival.
    due: BTreeMap<(Instant, u64), (Weak<dyn Punctual>, Late)>,
    /// Places that are taken.
    active_rankings: usize,
    active_texts: usize,
    refused: u64,
    arrivals: u64,
    /// No request is taken any more, and none waits.
    drained: bool,
    closed: bool,
}

/// How many requests wait, and how many places are taken.
pub(super) struct Counts {
    pub(super) queued_rankings: usize,
    pub(super) queued_calls: usize,
    pub(super) active_rankings: usize,
    pub(super) active_texts: usize,
    pub(super) refused: u64,
}

impl Admission {
    pub(super) fn new(max_queued: usize) -> Self {
        let state = State {
            rankings: Queue::new(max_queued, "rankings"),
            calls: Queue::new(max_queued, "calls"),
            due: BTreeMap::new(),
            active_rankings: 0,
            active_texts: 0,
            refused: 0,
            arrivals: 0,
            drained: false,
            closed: false,
        };
        Admission { state: Mutex::new(state), changed: Condvar::new(), timed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a job that was submitted at `start`.
    ///
    /// # Errors
    /// [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded) if the queue is full, and
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed) after the engine has been drained or closed.
    pub(super) fn submit(&self, job: Box<dyn Job>, priority: i32, start: Instant, watch: Watch) -> Result<()> {
        let mut state = self.lock();
        if state.closed || state.drained {
            return Err(closed("before this request"));
        }
        let kind = job.kind();
        if let Err(error) = state.queue(kind).check(state.free(kind)) {
            state.refused += 1;
            return Err(error);
        }
        state.arrivals += 1;
        let turn = Turn::new(priority, watch.deadline, state.arrivals);
        let run = Box::new(Run::new(job, turn, start, watch));
        state.queue_mut(kind).push(turn, run);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// The number of a job that no handle submitted.
    pub(super) fn arrive(&self) -> u64 {
        let mut state = self.lock();
        state.arrivals += 1;
        state.arrivals
    }

    /// Gives back a ranking's place, or those of texts.
    pub(super) fn leave(&self, kind: Kind) {
        let mut state = self.lock();
        match kind {
            Kind::Ranking => state.active_rankings -= 1,
            Kind::Call { texts } => state.active_texts -= texts,
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Forgets the deadline of a request that is over.
    pub(super) fn forget(&self, turn: Turn) {
        if let Some(deadline) = turn.urgency.deadline {
            self.lock().due.remove(&(deadline, turn.arrival));
        }
    }

    pub(super) fn counts(&self) -> Result<Counts> {
        let state = self.lock();
        if state.closed {
            return Err(closed("before this request"));
        }
        Ok(Counts {
            queued_rankings: state.rankings.len(),
            queued_calls: state.calls.len(),
            active_rankings: state.active_rankings,
            active_texts: state.active_texts,
            refused: state.refused,
        })
    }

    /// Refuses what waits, and what is submitted from now on. Requests that have a place go on.
    pub(super) fn drain(&self) {
        let mut state = self.lock();
        state.drained = true;
        refuse_waiting(state, "while the request waited for a place");
    }

    /// Refuses what waits, and what is submitted from now on, and ends the two threads.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
        self.timed.notify_one();
    }

    /// Gives out places until the engine is closed.
    pub(super) fn give_places(&self, commands: &Sender<Command>, recorder: &Recorder) {
        let mut state = self.lock();
        while !state.closed {
            let next = state.take_next();
            // Whoever still waits has a clock to be watched.
            if !state.is_empty() {
                self.timed.notify_one();
            }
            match next {
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(run) => {
                    // Texts are tokenised without the lock.
                    drop(state);
                    self.begin(run, commands, recorder);
                    state = self.lock();
                }
            }
        }
        refuse_waiting(state, "while the request was under way");
    }

    /// Ends what is out of time until the engine is closed.
    pub(super) fn watch(&self, recorder: &Recorder) {
        let mut state = self.lock();
        while !state.closed {
            let now = Instant::now();
            let (due, over) = (state.take_due(now), state.take_over(now));
            if due.is_empty() && over.is_empty() {
                state = self.wait(state);
                continue;
            }
            // Results are handed out without the lock.
            drop(state);
            for (request, late) in due {
                late.count(recorder, StopReason::Deadline);
                request.answer();
            }
            for (run, why) in over {
                run.late.count(recorder, why);
                run.job.expire(why, run.start);
            }
            state = self.lock();
        }
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let due = state.due.keys().next().map(|(deadline, _)| deadline.saturating_duration_since(Instant::now()));
        let look = (!state.is_empty()).then_some(LOOK);
        match due.into_iter().chain(look).min() {
            Some(time) => self.timed.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0,
            None => self.timed.wait(state).unwrap_or_else(PoisonError::into_inner),
        }
    }

    fn begin(&self, mut run: Box<Run>, commands: &Sender<Command>, recorder: &Recorder) {
        recorder.record(Stage::Queue, run.start.elapsed());
        let kind = run.job.kind();
        let refuse = |run: Box<Run>, error: Error| {
            self.leave(kind);
            recorder.record(run.job.stage(), run.start.elapsed());
            run.job.refuse(error);
        };
        if let Err(error) = run.job.prepare(&run.watch) {
            recorder.ended_by(&error);
            return refuse(run, error);
        }
        if let (Some(deadline), Some(punctual)) = (run.watch.deadline, run.job.punctual()) {
            let due = (Arc::downgrade(&punctual), run.late.clone());
            self.lock().due.insert((deadline, run.turn.arrival), due);
            self.timed.notify_one();
        }
        if let Err(returned) = commands.send(Command::Begin(run))
            && let Command::Begin(run) = returned.0
        {
            refuse(run, closed("while the request was under way"));
        }
    }
}

/// Empties the queues. Callers hear of it without the lock.
fn refuse_waiting(mut state: MutexGuard<'_, State>, when: &str) {
    let left: Vec<_> = state.drain().collect();
    drop(state);
    left.into_iter().for_each(|run| run.job.refuse(closed(when)));
}

impl State {
    fn queue(&self, kind: Kind) -> &Queue<Box<Run>> {
        if kind == Kind::Ranking { &self.rankings } else { &self.calls }
    }

    fn queue_mut(&mut self, kind: Kind) -> &mut Queue<Box<Run>> {
        if kind == Kind::Ranking { &mut self.rankings } else { &mut self.calls }
    }

    /// Places that nobody has.
    fn free(&self, kind: Kind) -> usize {
        match kind {
            Kind::Ranking => MAX_RANKINGS.saturating_sub(self.active_rankings),
            Kind::Call { .. } => MAX_TEXTS.saturating_sub(self.active_texts),
        }
    }

    /// Takes out the most urgent request that a place is free for, and gives it the place.
    fn take_next(&mut self) -> Option<Box<Run>> {
        if self.active_texts < MAX_TEXTS
            && let Some(run) = self.calls.pop()
        {
            self.active_texts += run.texts;
            return Some(run);
        }
        let run = if self.active_rankings < MAX_RANKINGS { self.rankings.pop() } else { None };
        self.active_rankings += usize::from(run.is_some());
        run
    }

    /// Takes out the requests that were cancelled or are out of time.
    fn take_over(&mut self, now: Instant) -> Vec<(Box<Run>, StopReason)> {
        let mut over = self.rankings.take_if(|run| run.watch.interruption(now));
        over.extend(self.calls.take_if(|run| run.watch.interruption(now)));
        over
    }

    /// Takes out the requests under way whose deadline has passed.
    fn take_due(&mut self, now: Instant) -> Vec<(Arc<dyn Punctual>, Late)> {
        let later = self.due.split_off(&(now, u64::MAX));
        let due = std::mem::replace(&mut self.due, later).into_values();
        due.filter_map(|(request, late)| Some((request.upgrade()?, late))).collect()
    }

    /// Whether nobody waits for a place.
    fn is_empty(&self) -> bool {
        self.rankings.is_empty() && self.calls.is_empty()
    }

    fn drain(&mut self) -> impl Iterator<Item = Box<Run>> {
        self.rankings.drain().chain(self.calls.drain())
    }
}
