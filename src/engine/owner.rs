//! The thread that owns an engine's models.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::pending::Responder;
use super::{CancelToken, ChatModelFactory, RankOptions};
use crate::chat::local::{LocalChat, ModelStatus, OnCompletion};
use crate::chat::{ChatModel, ChatReply, Finish, Ticket};
use crate::decode::{DecodeOptions, GenerateOptions};
use crate::model::ModelFolder;
use crate::rank::{Ask, AskId, ModelInfo, ModelsInfo, Progress, RankJob, RankPlan, Ranking, StopReason};
use crate::runtime::RuntimeOptions;
use crate::score::ScoreTask;
use crate::score::input::{Encoded, Prompting};
use crate::{Error, ErrorKind, Result};

/// Rankings that sample at the same time; more would only wait for each other's blocks.
const MAX_ACTIVE: usize = 16;
/// Rankings that wait for a place.
const MAX_QUEUED: usize = 256;

/// How long to leave models outside of this process alone before asking them again.
const OUTSIDE_PAUSE: Duration = Duration::from_millis(1);

/// How long after the last deadline a step may go on: most are done by then, and their rows stay in the cache.
const GRACE: Duration = Duration::from_secs(1);

/// What the handle asks of the thread.
pub(super) enum Command {
    Rank(Box<RankRun>),
    Direct(Vec<Direct>),
    Unpin { model: usize, key: u64 },
    Status { model: usize, respond: Responder<ModelStatus> },
    Shutdown,
}

/// A request to one local model. Those of one command begin together.
pub(super) struct Direct {
    pub(super) model: usize,
    pub(super) task: Task,
    pub(super) deadline: Option<Instant>,
    pub(super) cancel: CancelToken,
    pub(super) done: OnCompletion,
}

/// What a local model can do beside chatting.
pub(super) enum Task {
    Generate(Vec<u32>, GenerateOptions),
    LogProbs(Vec<u32>),
    Warm(u64, Vec<u32>),
    Score(Encoded, ScoreTask),
}

/// A ranking under way.
pub(super) struct RankRun {
    job: RankJob,
    plan: Arc<RankPlan>,
    start: Instant,
    deadline: Option<Instant>,
    cancel: CancelToken,
    on_progress: Option<Box<dyn FnMut(Progress) + Send>>,
    reported: usize,
    respond: Responder<Ranking>,
}

impl RankRun {
    pub(super) fn new(
        job: RankJob,
        plan: Arc<RankPlan>,
        start: Instant,
        options: RankOptions,
        cancel: CancelToken,
        respond: Responder<Ranking>,
    ) -> Self {
        let deadline = options.limits.deadline();
        RankRun { job, plan, start, deadline, cancel, on_progress: options.on_progress, reported: 0, respond }
    }

    /// Why it should end now, if it should.
    fn interruption(&self, now: Instant) -> Option<StopReason> {
        if self.cancel.is_cancelled() {
            return Some(StopReason::Cancelled);
        }
        self.deadline.is_some_and(|deadline| now >= deadline).then_some(StopReason::Deadline)
    }

    fn report(&mut self) {
        let progress = self.job.progress();
        if let Some(on_progress) = self.on_progress.as_mut().filter(|_| progress.finished != self.reported) {
            self.reported = progress.finished;
            on_progress(progress);
        }
    }
}

/// Loads a local model, for the thread to call.
pub(super) fn local_factory(
    name: &str,
    folder: Arc<ModelFolder>,
    prompting: Prompting,
    decode: DecodeOptions,
    runtime: RuntimeOptions,
) -> ChatModelFactory {
    let name: Arc<str> = name.into();
    Box::new(move || Ok(Box::new(LocalChat::load(name, folder, prompting, &decode, &runtime)?)))
}

/// A ranking's number, by arrival.
type RunId = u64;

/// Everything the thread owns.
pub(super) struct Owner {
    models: Vec<(String, Box<dyn ChatModel>)>,
    commands: Receiver<Command>,
    /// Rankings waiting for a place: earliest deadline first, those without one last, by arrival.
    queued: BTreeMap<(bool, Option<Instant>, RunId), Box<RankRun>>,
    active: BTreeMap<RunId, Box<RankRun>>,
    /// Who waits for a model's reply.
    asked: HashMap<(usize, Ticket), (RunId, AskId)>,
    /// Requests to single models that can be interrupted.
    direct: Vec<(usize, Ticket, Option<Instant>, CancelToken)>,
    next: RunId,
    finished: Vec<(Ticket, Result<ChatReply>)>,
}

impl Owner {
    /// Loads the models on a new thread; returns once they are there.
    pub(super) fn start(factories: Vec<(String, ChatModelFactory)>) -> Result<(Sender<Command>, JoinHandle<()>)> {
        let (commands, receiver) = channel();
        let (loaded, wait) = sync_channel(1);
        let run = move || {
            let models = factories.into_iter().map(|(name, make)| Ok((name, make()?))).collect::<Result<Vec<_>>>();
            match models {
                Ok(models) => {
                    drop(loaded.send(Ok(())));
                    Owner::new(models, receiver).run();
                }
                Err(error) => drop(loaded.send(Err(error))),
            }
        };
        let thread = std::thread::Builder::new()
            .name("foreturn".into())
            .spawn(run)
            .map_err(|e| Error::new(ErrorKind::Io, format!("cannot start the engine's thread: {e}")).with_source(e))?;
        match wait.recv() {
            Ok(Ok(())) => Ok((commands, thread)),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::internal("the engine's thread ended while loading models")),
        }
    }

    fn new(models: Vec<(String, Box<dyn ChatModel>)>, commands: Receiver<Command>) -> Self {
        Owner {
            models,
            commands,
            queued: BTreeMap::new(),
            active: BTreeMap::new(),
            asked: HashMap::new(),
            direct: Vec::new(),
            next: 0,
            finished: Vec::new(),
        }
    }

    fn run(mut self) {
        while self.receive() {
            self.interrupt();
            self.admit();
            let advanced = self.advance();
            self.settle();
            if !advanced && !self.is_idle() {
                // Only models outside of this process have work; they need no processor of ours.
                std::thread::sleep(OUTSIDE_PAUSE);
            }
        }
        let closed = Error::new(ErrorKind::Cancelled, "the engine was closed while the request was under way");
        for local in self.models.iter_mut().filter_map(|(_, model)| model.as_local()) {
            local.close(&closed);
        }
        let runs = std::mem::take(&mut self.active).into_values().chain(std::mem::take(&mut self.queued).into_values());
        for run in runs {
            run.respond.send(Err(closed.duplicate()));
        }
    }

    fn is_idle(&self) -> bool {
        self.active.is_empty() && self.queued.is_empty() && self.direct.is_empty()
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
            Command::Direct(all) => all.into_iter().for_each(|direct| self.begin(direct)),
            Command::Unpin { model, key } => {
                if let Ok(local) = self.local(model) {
                    local.unpin(key);
                }
            }
            Command::Status { model, respond } => respond.send(self.local(model).map(|local| local.status())),
        }
        true
    }

    fn enqueue(&mut self, run: Box<RankRun>) {
        // Places may be free that nobody has taken yet.
        self.admit();
        if self.queued.len() >= MAX_QUEUED {
            return run.respond.send(Err(Error::new(
                ErrorKind::Overloaded,
                format!("{MAX_QUEUED} rankings are waiting already; try again later, or spread them over more engines"),
            )));
        }
        let id = self.next;
        self.next += 1;
        self.queued.insert((run.deadline.is_none(), run.deadline, id), run);
    }

    fn local(&mut self, model: usize) -> Result<&mut LocalChat> {
        let (name, model) = &mut self.models[model];
        model.as_local().ok_or_else(|| Error::invalid_request(format!("model `{name}` is not a local model")))
    }

    fn begin(&mut self, direct: Direct) {
        let Direct { model, task, deadline, cancel, done } = direct;
        let queued = match (self.local(model), task) {
            (Err(error), _) => return done(Err(error)),
            (Ok(local), Task::Generate(tokens, options)) => local.generate(tokens, options, done),
            (Ok(local), Task::LogProbs(tokens)) => local.logprobs(tokens, done),
            (Ok(local), Task::Warm(key, tokens)) => local.warm(key, tokens, done),
            (Ok(local), Task::Score(encoded, task)) => local.score(encoded, task, done),
        };
        if let Some(ticket) = queued {
            self.direct.push((model, ticket, deadline, cancel));
        }
    }

    /// Ends what was cancelled or is out of time.
    fn interrupt(&mut self) {
        let now = Instant::now();
        for run in self.queued.values_mut().chain(self.active.values_mut()) {
            if let Some(why) = run.interruption(now) {
                run.job.stop(why);
            }
        }
        for (model, ticket, deadline, cancel) in std::mem::take(&mut self.direct) {
            let finish = match deadline {
                _ if cancel.is_cancelled() => Finish::Cancelled,
                Some(deadline) if now >= deadline => Finish::Deadline,
                _ => {
                    self.direct.push((model, ticket, deadline, cancel));
                    continue;
                }
            };
            if let Ok(local) = self.local(model) {
                local.end(ticket, finish);
            }
        }
    }

    /// Starts queued rankings while there are places.
    fn admit(&mut self) {
        while self.active.len() < MAX_ACTIVE {
            let Some(((_, _, id), mut run)) = self.queued.pop_first() else { return };
            let mut asks = Vec::new();
            if !run.job.is_done() {
                run.job.start(&mut asks);
            }
            self.active.insert(id, run);
            self.submit(id, asks);
        }
    }

    /// Sends a ranking's requests to their models; a refusal is a reply like any other.
    fn submit(&mut self, id: RunId, asks: Vec<Ask>) {
        let mut asks = VecDeque::from(asks);
        while let Some(Ask { id: ask, role, model, request }) = asks.pop_front() {
            let Some(run) = self.active.get_mut(&id) else { return };
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
                    asks.extend(more);
                }
            }
        }
    }

    /// When nobody will wait for this model any more: a while after the last deadline, if all that it does has one.
    fn end_of(&self, model: usize) -> Option<Instant> {
        let runs = self.asked.iter().filter(|((asked, _), _)| *asked == model);
        let runs = runs.filter_map(|(_, (id, _))| self.active.get(id)).map(|run| run.deadline);
        let direct = self.direct.iter().filter(|(asked, ..)| *asked == model).map(|(_, _, deadline, _)| *deadline);
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
                self.direct.retain(|(other, ticket, ..)| *other != model || local.is_under_way(*ticket));
            }
            for (ticket, reply) in finished.drain(..) {
                let Some((id, ask)) = self.asked.remove(&(model, ticket)) else { continue };
                let Some(run) = self.active.get_mut(&id) else { continue };
                // A step that was ended at the deadline is no failure of the rollout.
                let overdue = reply.as_ref().is_err_and(|e| e.kind() == ErrorKind::DeadlineExceeded);
                if let Some(why) = run.interruption(Instant::now()).filter(|_| overdue) {
                    run.job.stop(why);
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

    /// Hands out rankings that are done.
    fn settle(&mut self) {
        let done: Vec<RunId> = self.active.iter().filter(|(_, run)| run.job.is_done()).map(|(id, _)| *id).collect();
        for id in done {
            let Some(run) = self.active.remove(&id) else { continue };
            let orphans: Vec<_> = self.asked.iter().filter(|(_, (run, _))| *run == id).map(|(key, _)| *key).collect();
            for (model, ticket) in orphans {
                self.asked.remove(&(model, ticket));
                self.models[model].1.cancel(ticket);
            }
            let info = self.models_info(&run.plan);
            let RankRun { job, start, respond, .. } = *run;
            // Metrics score here, and a metric of the caller's may block: not on this thread.
            let score = move || respond.send(job.finish(info, start.elapsed().as_secs_f64()));
            drop(std::thread::Builder::new().name("foreturn-score".into()).spawn(score));
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

/// Gives a ranking a reply. A reply that nobody waits for would be a defect of this file; the ranking goes on without it.
fn deliver(run: &mut RankRun, ask: AskId, reply: Result<ChatReply>, asks: &mut Vec<Ask>) {
    let known = run.job.on_reply(ask, reply, asks);
    debug_assert!(known.is_ok(), "a reply that nobody waits for");
}
