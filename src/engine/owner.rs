//! The thread that owns an engine's models, and drives the jobs that ask them.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel, sync_channel};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Shared;
use super::builder::Factory;
use super::command::Command;
use super::job::{Kind, Question, Run, interrupted};
use super::models::{Model, Models};
use super::refresh::Exchange;
use crate::chat::local::Answer;
use crate::chat::{Finish, Ticket};
use crate::decode::urgency::{Turn, Urgency};
use crate::rank::{AskId, MetricValues, StopReason};
use crate::runtime::Cores;
use crate::{Error, ErrorKind, Result};

/// How long requests are handed to models, which write and tokenise prompts for them, before the clock, cancellations and
/// those under way have their turn.
const HANDING_OUT: Duration = Duration::from_millis(100);

/// How long to leave models outside of this process alone before asking them again.
const OUTSIDE_PAUSE: Duration = Duration::from_millis(1);

/// How long after the last deadline a step may go on: most are done by then, and their rows stay in the cache.
const GRACE: Duration = Duration::from_secs(1);

/// How long metrics may go on after the deadline with what is sampled: as long as a step.
const METRICS_GRACE: Duration = Duration::from_millis(250);

thread_local! {
    /// Whether this thread scores for an engine, which waits for it in the end.
    pub(super) static MEASURING: Cell<bool> = const { Cell::new(false) };
}

/// What metrics made of a job's rollouts, and since which of its beginnings they were at work.
type Measured = (Turn, u32, MetricValues);

/// Everything the thread owns.
pub(super) struct Owner {
    pub(super) models: Models,
    commands: Receiver<Command>,
    pub(super) shared: Arc<Shared>,
    /// The most urgent first.
    pub(super) active: BTreeMap<Turn, Box<Run>>,
    /// Weights that wait until nothing uses those that they replace.
    pub(super) exchanges: Vec<Exchange>,
    /// Jobs that wait for them.
    pub(super) held: BTreeMap<Turn, Box<Run>>,
    /// Who waits for a model's answer.
    pub(super) asked: HashMap<(usize, Ticket), (Turn, AskId)>,
    /// Until when requests are handed out in this turn.
    handing_out: Instant,
    /// Threads on which metrics score, and how their values come back.
    measuring: Vec<JoinHandle<()>>,
    values: (Sender<Measured>, Receiver<Measured>),
}

impl Owner {
    /// Loads the models on a new thread; returns once they are there.
    pub(super) fn start(
        factories: Vec<(String, Factory)>,
        shared: Arc<Shared>,
        cores: Option<Cores>,
    ) -> Result<(Sender<Command>, JoinHandle<()>)> {
        let (commands, receiver) = channel();
        let (loaded, wait) = sync_channel(1);
        let run = move || {
            let confined = cores.map_or(Ok(()), |cores| cores.confine());
            let make = || factories.into_iter().map(|(name, make)| Ok((name, make()?))).collect::<Result<Vec<_>>>();
            match confined.and_then(|()| make()) {
                Ok(models) => {
                    let owner = Owner::new(Models(models), receiver, shared);
                    owner.publish();
                    drop(loaded.send(Ok(())));
                    owner.run();
                }
                Err(error) => drop(loaded.send(Err(error))),
            }
        };
        let thread = crate::thread::spawn("foreturn", "for the engine", run)?;
        match wait.recv() {
            Ok(Ok(())) => Ok((commands, thread)),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::internal("the engine's thread ended while loading models")),
        }
    }

    fn new(models: Models, commands: Receiver<Command>, shared: Arc<Shared>) -> Self {
        Owner {
            models,
            commands,
            shared,
            active: BTreeMap::new(),
            exchanges: Vec::new(),
            held: BTreeMap::new(),
            asked: HashMap::new(),
            handing_out: Instant::now(),
            measuring: Vec::new(),
            values: channel(),
        }
    }

    fn run(mut self) {
        while self.receive() {
            self.handing_out = Instant::now() + HANDING_OUT;
            self.interrupt();
            self.exchange();
            self.active.keys().copied().collect::<Vec<_>>().into_iter().for_each(|turn| self.hand_out(turn));
            let mut advanced = self.advance();
            advanced |= self.measure();
            self.settle();
            if !advanced && !self.active.is_empty() {
                // Only metrics and models outside of this process have work; they need nothing of this thread.
                if let Ok(measured) = self.values.1.recv_timeout(OUTSIDE_PAUSE) {
                    self.take_values(measured);
                }
            }
        }
        self.shared.admission.close();
        for (_, run) in std::mem::take(&mut self.active).into_iter().chain(std::mem::take(&mut self.held)) {
            run.job.refuse(closed("while the request was under way"));
        }
        // Jobs that are on their way here are refused, and what metrics that are still at work ask for.
        let left = std::mem::replace(&mut self.commands, channel().1);
        for command in left.try_iter() {
            if let Command::Begin(run) = command {
                run.job.refuse(closed("while the request was under way"));
            }
        }
        drop(left);
        // A metric may be a caller's, who takes it for gone once the engine is.
        self.measuring.drain(..).for_each(|thread| drop(thread.join()));
    }

    /// Takes what commands there are, waiting for one when there is nothing else to do; `false` to end.
    fn receive(&mut self) -> bool {
        loop {
            let command = match self.active.is_empty() && self.exchanges.is_empty() {
                true => self.commands.recv().map_err(|_| TryRecvError::Disconnected),
                false => self.commands.try_recv(),
            };
            match command {
                Ok(command) => {
                    if !self.obey(command) {
                        return false;
                    }
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn obey(&mut self, command: Command) -> bool {
        match command {
            Command::Shutdown => return false,
            Command::Begin(run) => self.begin(run),
            Command::Exchange(exchange) => self.prepare_exchange(*exchange),
            Command::Unpin { model, key } => {
                if let Some((_, Model::Local(model))) = self.models.0.get_mut(model) {
                    model.unpin(key);
                }
                self.publish();
            }
        }
        true
    }

    pub(super) fn begin(&mut self, mut run: Box<Run>) {
        if self.exchanges.iter().any(|exchange| run.job.asks(&exchange.name)) {
            self.held.insert(run.turn, run);
            return;
        }
        let mut questions = Vec::new();
        run.job.start(&mut questions);
        run.questions.extend(questions);
        self.active.insert(run.turn, run);
    }

    /// Ends what was cancelled or is out of time, and hands out what came of it; nobody waits for a step.
    fn interrupt(&mut self) {
        let now = Instant::now();
        for run in self.active.values_mut().filter(|run| run.stopped.is_some_and(|end| now >= end)) {
            run.job.leave_metrics();
        }
        let over = self.active.iter().filter(|(_, run)| run.stopped.is_none());
        let over = over.filter_map(|(turn, run)| Some((*turn, run.watch.interruption(now)?)));
        for (turn, why) in over.collect::<Vec<_>>() {
            self.stop(turn, why);
        }
        self.expire(now);
        self.collect();
        self.settle();
    }

    /// Ends a job early, with what it has asked. What it has not asked yet is asked no more.
    fn stop(&mut self, turn: Turn, why: StopReason) {
        let Some(run) = self.active.get_mut(&turn) else { return };
        let grace = if why == StopReason::Deadline { METRICS_GRACE } else { Duration::ZERO };
        if run.stopped.is_none() {
            run.late.count(&self.shared.recorder, why);
        }
        run.stopped = Some(Instant::now() + grace);
        run.job.stop(why);
        for Question { id, .. } in std::mem::take(&mut run.questions) {
            let error = interrupted(why, "the request waited for its turn");
            run.job.on_answer(id, Err(error), &mut Vec::new());
        }
        let finish = if why == StopReason::Deadline { Finish::Deadline } else { Finish::Cancelled };
        for ((model, ticket), _) in self.asked.iter().filter(|(_, (asker, _))| *asker == turn) {
            self.models.0[*model].1.end(*ticket, finish);
        }
    }

    /// Hands out what has ended without a step.
    fn collect(&mut self) {
        let mut finished = Vec::new();
        for model in 0..self.models.0.len() {
            self.models.0[model].1.collect(&mut finished);
            self.deliver(model, &mut finished);
        }
    }

    /// Takes a job's further questions, and hands out what it may.
    fn ask(&mut self, turn: Turn, questions: Vec<Question>) {
        if let Some(run) = self.active.get_mut(&turn) {
            run.questions.extend(questions);
            self.hand_out(turn);
        }
    }

    /// Sends a job's questions to their models, until its time is over or that of this turn; one at least. A refusal is an
    /// answer like any other.
    fn hand_out(&mut self, turn: Turn) {
        let Some(run) = self.active.get_mut(&turn) else { return };
        while let Some(Question { id, model, request, further }) = run.questions.pop_front() {
            let submitted = self.models.index(&model).and_then(|model| {
                let ticket = self.models.0[model].1.submit(request, Urgency { further, ..turn.urgency })?;
                Ok((model, ticket))
            });
            match submitted {
                Ok(key) => drop(self.asked.insert(key, (turn, id))),
                Err(error) => {
                    let mut more = Vec::new();
                    run.job.on_answer(id, Err(error), &mut more);
                    run.questions.extend(more);
                }
            }
            let now = Instant::now();
            if let Some(why) = run.watch.interruption(now) {
                return self.stop(turn, why);
            }
            if now >= self.handing_out {
                return;
            }
        }
    }

    /// When nobody will wait for this model any more: a while after the last deadline, if all that it does has one.
    fn end_of(&self, model: usize) -> Option<Instant> {
        let jobs = self.asked.iter().filter(|((asked, _), _)| *asked == model);
        let jobs = jobs.filter_map(|(_, (turn, _))| self.active.get(turn)).map(|run| run.watch.deadline);
        let last = jobs.reduce(|one, other| Some(one?.max(other?))).flatten();
        last.and_then(|deadline| deadline.checked_add(GRACE))
    }

    /// One step of each model. Returns whether anything came of it, or a model of this process is at work.
    fn advance(&mut self) -> bool {
        let (mut advanced, mut finished) = (false, Vec::new());
        for model in 0..self.models.0.len() {
            let end = self.end_of(model);
            let of = &mut self.models.0[model].1;
            of.end_by(end);
            advanced |= of.advance(&mut finished) | !finished.is_empty();
            self.publish();
            self.deliver(model, &mut finished);
        }
        advanced
    }

    /// Gives answers to the jobs that wait for them.
    fn deliver(&mut self, model: usize, finished: &mut Vec<(Ticket, Result<Answer>)>) {
        for (ticket, answer) in finished.drain(..) {
            let Some((turn, id)) = self.asked.remove(&(model, ticket)) else { continue };
            let Some(run) = self.active.get_mut(&turn) else { continue };
            // A step that was ended at the deadline is no failure of the request.
            let overdue = answer.as_ref().is_err_and(|e| e.kind() == ErrorKind::DeadlineExceeded);
            if let Some(why) = run.watch.interruption(Instant::now()).filter(|_| overdue && run.stopped.is_none()) {
                self.stop(turn, why);
            }
            let Some(run) = self.active.get_mut(&turn) else { continue };
            let mut questions = Vec::new();
            run.job.on_answer(id, answer, &mut questions);
            run.job.report();
            if run.texts > 0 {
                run.texts -= 1;
                self.shared.admission.leave(Kind::Call { texts: 1 });
            }
            self.ask(turn, questions);
        }
    }

    /// Sends metrics to work on what has ended, and takes what they made of it. Returns whether anything came of it.
    fn measure(&mut self) -> bool {
        let mut advanced = false;
        while let Ok(measured) = self.values.1.try_recv() {
            self.take_values(measured);
            advanced = true;
        }
        for (turn, run) in &mut self.active {
            let Some(batch) = run.job.take_metrics() else { continue };
            let (turn, begun, sender) = (*turn, run.begun, self.values.0.clone());
            // A metric may block: not on this thread.
            let measure = move || {
                MEASURING.set(true);
                // Nobody listens once the engine has ended.
                drop(sender.send((turn, begun, batch.run())));
            };
            self.measuring.retain(|thread| !thread.is_finished());
            match crate::thread::spawn("foreturn-score", "for metrics", measure) {
                Ok(thread) => self.measuring.push(thread),
                Err(error) => run.job.fail(error),
            }
        }
        advanced
    }

    fn take_values(&mut self, (turn, begun, values): Measured) {
        let Some(run) = self.active.get_mut(&turn).filter(|run| run.begun == begun) else { return };
        let mut questions = Vec::new();
        run.job.on_values(values, &mut questions);
        run.job.report();
        self.ask(turn, questions);
    }

    /// Hands out the results of jobs that are done.
    pub(super) fn settle(&mut self) {
        let done = self.active.iter().filter(|(_, run)| run.job.is_done()).map(|(turn, _)| *turn);
        for turn in done.collect::<Vec<_>>() {
            self.withdraw(turn);
            let Some(run) = self.active.remove(&turn) else { continue };
            // Whole, and late.
            let why = run.watch.interruption(Instant::now()).filter(|_| run.stopped.is_none());
            if let Some(why @ StopReason::Deadline) = why {
                run.late.count(&self.shared.recorder, why);
            }
            self.leave(&run);
            run.job.finish(&self.models, run.start);
        }
    }

    /// Gives back the places of a job that is over.
    pub(super) fn leave(&self, run: &Run) {
        let texts = run.texts;
        let kind = if run.job.kind() == Kind::Ranking { Kind::Ranking } else { Kind::Call { texts } };
        self.shared.admission.leave(kind);
        self.shared.admission.forget(run.turn);
        self.shared.recorder.record(run.job.stage(), run.start.elapsed());
    }

    /// Ends what a job has asked and needs no more.
    pub(super) fn withdraw(&mut self, turn: Turn) {
        let orphans = self.asked.extract_if(|_, (asker, _)| *asker == turn);
        for ((model, ticket), _) in orphans {
            self.models.0[model].1.end(ticket, Finish::Cancelled);
        }
    }

    /// Shows what the models have done to whoever asks for statistics.
    fn publish(&self) {
        let mut shown = self.shared.models.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, model) in &self.models.0 {
            match (shown.get_mut(name), model.stats()) {
                (Some(shown), Some(stats)) => shown.stats = stats,
                (None, Some(_)) => drop(model.status().map(|status| shown.insert(name.clone(), status))),
                (_, None) => {}
            }
        }
    }
}

/// The error of what an engine does not do any more.
pub(super) fn closed(when: &str) -> Error {
    Error::new(ErrorKind::Closed, format!("the engine was closed {when}"))
}
