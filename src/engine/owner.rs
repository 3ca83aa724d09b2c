//! The thread that owns an engine's models.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::command::{Call, Command, RankRun, Task};
use super::queue::Queue;
use super::statistics::{Recorder, Stage, Statistics};
use super::{CancelToken, ChatModelFactory};
use crate::chat::local::{LocalChat, OnCompletion};
use crate::chat::{ChatModel, ChatReply, Finish, Ticket};
use crate::decode::urgency::Turn;
use crate::rank::{Ask, AskId, MetricValues, ModelInfo, ModelsInfo, RankPlan};
use crate::{Error, ErrorKind, Result};

/// Rankings that sample at the same time; more would only wait for each other's blocks.
const MAX_ACTIVE: usize = 16;
/// Texts to continue or to score that are under way on the models at the same time; a call that begins may exceed it.
const MAX_UNDER_WAY: usize = 64;

/// How long requests are handed to models, which write and tokenise prompts for them, before the clock, cancellations and
/// those under way have their turn.
const HANDING_OUT: Duration = Duration::from_millis(100);

/// How long to leave models outside of this process alone before asking them again.
const OUTSIDE_PAUSE: Duration = Duration::from_millis(1);

/// How long after the last deadline a step may go on: most are done by then, and their rows stay in the cache.
const GRACE: Duration = Duration::from_secs(1);

thread_local! {
    /// Whether this thread scores for an engine, which waits for it in the end.
    pub(super) static MEASURING: Cell<bool> = const { Cell::new(false) };
}

/// A task of a call, on its model.
struct UnderWay {
    model: usize,
    ticket: Ticket,
    deadline: Option<Instant>,
    cancel: CancelToken,
}

/// A ranking's number, by arrival.
type RunId = u64;

/// What metrics made of a ranking's rollouts.
type Measured = (RunId, MetricValues);

/// Everything the thread owns.
pub(super) struct Owner {
    models: Vec<(String, Box<dyn ChatModel>)>,
    commands: Receiver<Command>,
    /// Rankings that wait for a place.
    queued: Queue<Box<RankRun>>,
    /// Calls that wait for one.
    calls: Queue<Call>,
    active: BTreeMap<RunId, Box<RankRun>>,
    /// Who waits for a model's reply.
    asked: HashMap<(usize, Ticket), (RunId, AskId)>,
    /// Tasks of calls that have begun.
    direct: Vec<UnderWay>,
    next: RunId,
    /// Until when requests are handed out in this turn.
    handing_out: Instant,
    finished: Vec<(Ticket, Result<ChatReply>)>,
    /// Threads on which metrics score, and how their scores come back.
    scoring: Vec<JoinHandle<()>>,
    scores: (Sender<Measured>, Receiver<Measured>),
    recorder: Recorder,
}

impl Owner {
    /// Loads the models on a new thread; returns once they are there.
    pub(super) fn start(
        factories: Vec<(String, ChatModelFactory)>,
        max_queued: usize,
    ) -> Result<(Sender<Command>, JoinHandle<()>)> {
        let (commands, receiver) = channel();
        let (loaded, wait) = sync_channel(1);
        let run = move || {
            let models = factories.into_iter().map(|(name, make)| Ok((name, make()?))).collect::<Result<Vec<_>>>();
            match models {
                Ok(models) => {
                    drop(loaded.send(Ok(())));
                    Owner::new(models, receiver, max_queued).run();
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

    fn new(models: Vec<(String, Box<dyn ChatModel>)>, commands: Receiver<Command>, max_queued: usize) -> Self {
        Owner {
            models,
            commands,
            queued: Queue::new(max_queued, "rankings"),
            calls: Queue::new(max_queued, "calls"),
            active: BTreeMap::new(),
            asked: HashMap::new(),
            direct: Vec::new(),
            next: 0,
            handing_out: Instant::now(),
            finished: Vec::new(),
            scoring: Vec::new(),
            scores: channel(),
            recorder: Recorder::default(),
        }
    }

    fn run(mut self) {
        while self.receive() {
            self.handing_out = Instant::now() + HANDING_OUT;
            self.interrupt();
            self.admit();
            self.active.keys().copied().collect::<Vec<_>>().into_iter().for_each(|id| self.hand_out(id));
            let mut advanced = self.advance();
            advanced |= self.score();
            self.settle();
            if !advanced && !self.is_idle() {
                // Only metrics and models outside of this process have work; they need nothing of this thread.
                if let Ok((id, scores)) = self.scores.1.recv_timeout(OUTSIDE_PAUSE) {
                    self.take_scores(id, scores);
                }
            }
        }
        let closed = closed("while the request was under way");
        for local in self.models.iter_mut().filter_map(|(_, model)| model.as_local()) {
            local.close(&closed);
        }
        let runs = std::mem::take(&mut self.active).into_values().chain(self.queued.drain());
        for run in runs {
            run.respond.send(Err(closed.duplicate()));
        }
        self.calls.drain().for_each(|call| call.refuse(&closed));
        // What is asked from now on, by metrics that are still scoring too, is refused.
        drop(std::mem::replace(&mut self.commands, channel().1));
        // A metric may be a caller's, who takes it for gone once the engine is.
        self.scoring.drain(..).for_each(|thread| drop(thread.join()));
    }

    fn is_idle(&self) -> bool {
        self.active.is_empty() && self.queued.is_empty() && self.direct.is_empty() && self.calls.is_empty()
    }

    /// Takes what commands there are, waiting for one when there is nothing else to do; `false` to end.
    fn receive(&mut self) -> bool {
        if self.is_idle() {
            match self.commands.recv() {
                Ok(command) => {
                    if !self.obey(command) {
                        return false;
                    }
                }
                Err(_) => return false,
            }
        }
        loop {
            match self.commands.try_recv() {
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
            Command::Rank(run) => self.enqueue(run),
            Command::Call(call) => self.enqueue_call(call),
            Command::Unpin { model, key } => {
                if let Ok(local) = self.local(model) {
                    local.unpin(key);
                }
            }
            Command::Statistics(respond) => respond.send(Ok(self.statistics())),
        }
        true
    }

    fn enqueue(&mut self, run: Box<RankRun>) {
        // Places may be free that nobody has taken yet.
        self.admit();
        if let Err(error) = self.queued.check() {
            self.recorder.refused += 1;
            return run.respond.send(Err(error));
        }
        let turn = self.turn(run.priority, run.deadline);
        self.queued.push(turn, run);
    }

    fn enqueue_call(&mut self, call: Call) {
        self.admit();
        if let Err(error) = self.calls.check() {
            self.recorder.refused += 1;
            return call.refuse(&error);
        }
        let turn = self.turn(call.priority, call.deadline);
        self.calls.push(turn, call);
    }

    fn turn(&mut self, priority: i32, deadline: Option<Instant>) -> Turn {
        self.next += 1;
        Turn::new(priority, deadline, self.next)
    }

    fn local(&mut self, model: usize) -> Result<&mut LocalChat> {
        let (name, model) = &mut self.models[model];
        model.as_local().ok_or_else(|| Error::invalid_request(format!("model `{name}` is not a local model")))
    }

    fn begin(&mut self, call: Call) {
        self.recorder.record(Stage::Queue, call.start.elapsed());
        let Call { model, stage, tasks, start, deadline, cancel, .. } = call;
        let timer = self.recorder.timer(stage, start, tasks.len());
        for (task, done) in tasks {
            let timer = timer.clone();
            let done: OnCompletion = Box::new(move |result| {
                timer.ended();
                done(result);
            });
            let queued = match (self.local(model), task) {
                (Err(error), _) => {
                    done(Err(error));
                    None
                }
                (Ok(local), Task::Generate(tokens, options)) => local.generate(tokens, options, done),
                (Ok(local), Task::LogProbs(tokens)) => local.logprobs(tokens, done),
                (Ok(local), Task::Warm(key, tokens)) => local.warm(key, tokens, done),
                (Ok(local), Task::Score(encoded, task)) => local.score(encoded, task, done),
            };
            let under_way = |ticket| UnderWay { model, ticket, deadline, cancel: cancel.clone() };
            self.direct.extend(queued.map(under_way));
        }
    }

    /// Ends what was cancelled or is out of time.
    fn interrupt(&mut self) {
        let now = Instant::now();
        for run in self.queued.values_mut().chain(self.active.values_mut()) {
            if let Some(why) = run.interruption(now) {
                run.stop(why);
            }
        }
        let stopped = self.active.iter().filter(|(_, run)| run.job.is_stopped()).map(|(id, _)| *id);
        stopped.collect::<Vec<_>>().into_iter().for_each(|id| self.withdraw(id));
        for (call, why) in self.calls.take_if(|call| call.interruption(now)) {
            call.refuse(&why);
        }
        for task in std::mem::take(&mut self.direct) {
            let finish = match task.deadline {
                _ if task.cancel.is_cancelled() => Finish::Cancelled,
                Some(deadline) if now >= deadline => Finish::Deadline,
                _ => {
                    self.direct.push(task);
                    continue;
                }
            };
            if let Ok(local) = self.local(task.model) {
                local.end(task.ticket, finish);
            }
        }
    }

    /// Starts what waits while there are places.
    fn admit(&mut self) {
        while self.direct.len() < MAX_UNDER_WAY
            && let Some((_, call)) = self.calls.pop()
        {
            self.begin(call);
        }
        while self.active.len() < MAX_ACTIVE {
            let Some((Turn { arrival: id, .. }, mut run)) = self.queued.pop() else { return };
            self.recorder.record(Stage::Queue, run.start.elapsed());
            let mut asks = Vec::new();
            if !run.job.is_done() {
                run.job.start(&mut asks);
            }
            run.asks.extend(asks);
            self.active.insert(id, run);
        }
    }

    /// Takes a ranking's further requests, and hands out what it may.
    fn submit(&mut self, id: RunId, asks: Vec<Ask>) {
        if let Some(run) = self.active.get_mut(&id) {
            run.asks.extend(asks);
            self.hand_out(id);
        }
    }

    /// Sends a ranking's requests to their models, until its time is over or that of this turn; one at least. A refusal is
    /// a reply like any other.
    fn hand_out(&mut self, id: RunId) {
        let Some(run) = self.active.get_mut(&id) else { return };
        while let Some(Ask { id: ask, role, model, request }) = run.asks.pop_front() {
            let name = model.as_deref().or_else(|| run.plan.roles.resolve(role).map(|(_, name)| name));
            let model = name.and_then(|name| self.models.iter().position(|(other, _)| other == name));
            let submitted = match model {
                Some(model) => self.models[model].1.submit(request).map(|ticket| (model, ticket)),
                None => Err(Error::invalid_config(format!("no model plays the role `{}`", role.as_str()))),
            };
            match submitted {
                Ok(key) => drop(self.asked.insert(key, (id, ask))),
                Err(error) => {
                    let mut more = Vec::new();
                    deliver(run, ask, Err(error), &mut more);
                    run.asks.extend(more);
                }
            }
            let now = Instant::now();
            if let Some(why) = run.interruption(now) {
                run.stop(why);
                return self.withdraw(id);
            }
            if now >= self.handing_out {
                return;
            }
        }
    }

    /// When nobody will wait for this model any more: a while after the last deadline, if all that it does has one.
    fn end_of(&self, model: usize) -> Option<Instant> {
        let runs = self.asked.iter().filter(|((asked, _), _)| *asked == model);
        let runs = runs.filter_map(|(_, (id, _))| self.active.get(id)).map(|run| run.deadline);
        let direct = self.direct.iter().filter(|task| task.model == model).map(|task| task.deadline);
        let last = runs.chain(direct).reduce(|one, other| Some(one?.max(other?))).flatten();
        last.and_then(|deadline| deadline.checked_add(GRACE))
    }

    /// One step of each model. Returns whether anything came of it, or a model of this process is at work.
    fn advance(&mut self) -> bool {
        let mut advanced = false;
        for model in 0..self.models.len() {
            let end = self.end_of(model);
            if let Some(local) = self.models[model].1.as_local() {
                local.end_by(end);
            }
            let mut finished = std::mem::take(&mut self.finished);
            let busy = self.models[model].1.poll(&mut finished);
            advanced |= !finished.is_empty();
            if let Some(local) = self.models[model].1.as_local() {
                advanced |= busy;
                self.direct.retain(|task| task.model != model || local.is_under_way(task.ticket));
            }
            for (ticket, reply) in finished.drain(..) {
                let Some((id, ask)) = self.asked.remove(&(model, ticket)) else { continue };
                let Some(run) = self.active.get_mut(&id) else { continue };
                // A step that was ended at the deadline is no failure of the rollout.
                let overdue = reply.as_ref().is_err_and(|e| e.kind() == ErrorKind::DeadlineExceeded);
                if let Some(why) = run.interruption(Instant::now()).filter(|_| overdue) {
                    run.stop(why);
                }
                let mut asks = Vec::new();
                deliver(run, ask, reply, &mut asks);
                run.report();
                self.submit(id, asks);
            }
            self.finished = finished;
        }
        advanced
    }

    /// Sends metrics to work on what has ended, and takes what they made of it. Returns whether anything came of it.
    fn score(&mut self) -> bool {
        let mut advanced = false;
        while let Ok((id, scores)) = self.scores.1.try_recv() {
            self.take_scores(id, scores);
            advanced = true;
        }
        for (id, run) in &mut self.active {
            let Some(batch) = run.job.take_metrics() else { continue };
            let (id, sender) = (*id, self.scores.0.clone());
            // A metric may block: not on this thread.
            let score = move || {
                MEASURING.set(true);
                // Nobody listens once the engine has ended.
                drop(sender.send((id, batch.run())));
            };
            self.scoring.retain(|thread| !thread.is_finished());
            match crate::thread::spawn("foreturn-score", "for metrics", score) {
                Ok(thread) => self.scoring.push(thread),
                Err(error) => run.job.fail(error),
            }
        }
        advanced
    }

    fn take_scores(&mut self, id: RunId, scores: MetricValues) {
        let Some(run) = self.active.get_mut(&id) else { return };
        let mut asks = Vec::new();
        run.job.on_values(scores, &mut asks);
        run.report();
        self.submit(id, asks);
    }

    /// Cancels what a ranking has asked and needs no more.
    fn withdraw(&mut self, id: RunId) {
        let orphans: Vec<_> = self.asked.iter().filter(|(_, (run, _))| *run == id).map(|(key, _)| *key).collect();
        for (model, ticket) in orphans {
            self.asked.remove(&(model, ticket));
            self.models[model].1.cancel(ticket);
        }
    }

    /// Hands out rankings that are done.
    fn settle(&mut self) {
        let done: Vec<RunId> = self.active.iter().filter(|(_, run)| run.job.is_done()).map(|(id, _)| *id).collect();
        for id in done {
            self.withdraw(id);
            let Some(mut run) = self.active.remove(&id) else { continue };
            let info = self.models_info(&run.plan);
            // What a deadline or a cancellation has ended.
            run.report();
            let RankRun { job, start, respond, .. } = *run;
            self.recorder.record(Stage::Rank, start.elapsed());
            respond.send(job.finish(info, start.elapsed().as_secs_f64()));
        }
    }

    /// What has been done, and what is under way.
    fn statistics(&mut self) -> Statistics {
        let mut models = BTreeMap::new();
        for (name, model) in &mut self.models {
            if let Some(local) = model.as_local() {
                models.insert(name.clone(), local.status());
            }
        }
        Statistics {
            queued_rankings: self.queued.len(),
            queued_calls: self.calls.len(),
            active_rankings: self.active.len(),
            active_texts: self.direct.len(),
            refused: self.recorder.refused,
            stages: self.recorder.stages(),
            models,
        }
    }

    fn models_info(&self, plan: &RankPlan) -> ModelsInfo {
        let find = |name: &str| self.models.iter().find(|(other, _)| other == name).map(|(_, model)| model);
        let info = |name: &str| {
            let weights = find(name).and_then(|model| model.weights());
            let date = find(name).and_then(|model| model.prompt_date());
            ModelInfo { name: name.to_owned(), weights, date }
        };
        let (roles, named) = (&plan.roles.models, plan.metric_models());
        let mut all = roles.values().map(String::as_str).chain(named.iter().map(|name| &**name));
        let bitwise = all.all(|name| find(name).is_some_and(|model| model.is_bitwise()));
        let models = roles.iter().map(|(role, name)| (*role, info(name))).collect();
        ModelsInfo { models, reward_models: named.iter().map(|name| info(name)).collect(), bitwise }
    }
}

/// The error of what an engine does not do any more.
pub(super) fn closed(when: &str) -> Error {
    Error::new(ErrorKind::Closed, format!("the engine was closed {when}"))
}

/// Gives a ranking a reply. A reply that nobody waits for would be a defect of this file; the ranking goes on without it.
fn deliver(run: &mut RankRun, ask: AskId, reply: Result<ChatReply>, asks: &mut Vec<Ask>) {
    let known = run.job.on_reply(ask, reply, asks);
    debug_assert!(known.is_ok(), "a reply that nobody waits for");
}
