//! The engine: loaded models behind a handle that any thread may use.
//!
//! ```text
//! rank(), generate(), … ──Job──▶ admission ──place──▶ owner ⇄ models (one step at a time) ──▶ result
//! ```
//!
//! Whatever is asked is a `Job`. `admission` refuses what a full queue has no room for, gives out places by priority,
//! and tokenises on a thread of its own; another one watches the clock. One more thread, the `owner`, has the models and
//! drives every job that has a place: it lets each model advance by one bounded step, hands answers to the jobs that wait
//! for them, and looks at deadlines and cancellations in between. So requests that arrive together share batches and
//! prefixes, and no model needs a lock.
//!
//! - [`Engine`], [`Model`]: the handles; `builder` makes an engine of a configuration; `limits`, `pending`: how long a
//!   request may take, and its result.
//! - `job`: what the owner drives; `ranking`, `call`, `opening`: the three kinds; `preference`: a question to the judge.
//! - `refresh`: new weights for a model; `request`: requests in JSON; `score`: calls that score texts; `trace`: rankings that are
//!   written to a file; `statistics`.

mod admission;
mod builder;
mod call;
mod command;
mod exchange;
mod job;
mod limits;
mod model;
mod models;
mod opening;
mod owner;
mod pending;
mod preference;
mod process;
mod queue;
mod ranking;
mod refresh;
mod request;
mod score;
mod statistics;
mod trace;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use self::admission::Admission;
pub use self::builder::EngineBuilder;
use self::builder::check_templates;
use self::command::Command;
use self::job::{Job, Watch};
pub use self::limits::{CancelToken, Limits};
pub use self::model::{Generation, LogProbs, Model, Pin, Prompt};
use self::owner::MEASURING;
pub use self::pending::Pending;
use self::pending::Responder;
use self::ranking::Rank;
use self::refresh::Recipe;
pub use self::refresh::{RefreshMode, RefreshOptions};
pub use self::request::{Chats, Request, ScoreKind, ScoreRequest};
pub use self::score::Scored;
use self::statistics::Recorder;
pub use self::statistics::{Latency, Stage, Statistics};
use crate::chat::ChatModel;
pub use crate::chat::local::ModelStatus;
use crate::config::{Config, ModelConfig, RuntimeConfig};
use crate::message;
use crate::model::ModelFolder;
use crate::model::tokenizer::RenderOptions;
use crate::rank::{Candidates, EndedRollout, Interim, ModelRole, Progress, RankJob, RankPlan, RankRequest, Ranking};
use crate::reward::WeightedMetric;
use crate::runtime::Places;
use crate::score::input::Prompting;
use crate::{Error, Result};

/// Makes a chat model on the engine's own thread.
pub type ChatModelFactory = Box<dyn FnOnce() -> Result<Box<dyn ChatModel>> + Send>;

/// Models, loaded and ready. Cheap to share: clone it, or use it from several threads at once.
///
/// ```no_run
/// use foreturn::{Config, Engine, RankOptions, RankRequest};
///
/// let engine = Engine::new(Config::from_file("examples/foreturn.toml")?)?;
/// let request: RankRequest = r#"{
///     "conversation": [{"role": "user", "content": "Write a poem."}],
///     "candidates": ["What should it be about?", "Roses are red."],
///     "goal": {"task": "write a poem", "prompt": "A poem about my late dog, who loved the sea."}
/// }"#.parse()?;
/// let ranking = engine.rank(request, RankOptions::default())?;
/// println!("best: candidate {}", ranking.candidates[0].candidate);
/// # Ok::<(), foreturn::Error>(())
/// ```
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
    /// Of the requests that this handle makes.
    limits: Limits,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("models", &self.inner.names).field("limits", &self.limits).finish()
    }
}

struct Inner {
    commands: Sender<Command>,
    shared: Arc<Shared>,
    /// Taken by whoever closes the engine.
    threads: Mutex<Vec<JoinHandle<()>>>,
    process: u32,
    plan: Option<Arc<RankPlan>>,
    /// Why there is no plan, where there is none.
    no_plan: Option<Error>,
    /// The metrics that the caller gave.
    _metrics: Vec<WeightedMetric>,
    names: Vec<String>,
    locals: BTreeMap<String, Arc<Local>>,
    pins: AtomicU64,
}

/// What the engine's threads and its handles share.
struct Shared {
    admission: Admission,
    recorder: Arc<Recorder>,
    /// How the local models run, after the last step.
    models: Mutex<BTreeMap<String, ModelStatus>>,
}

/// What the handle itself has to know of a model of this process.
struct Local {
    folder: Arc<ModelFolder>,
    prompting: Prompting,
    recipe: Recipe,
}

impl Local {
    fn render_options(&self, add_generation_prompt: bool) -> RenderOptions {
        RenderOptions { add_generation_prompt, ..self.prompting.render.clone() }
    }
}

impl Inner {
    /// Ends the threads, and with them everything under way. A child process has no such threads.
    fn close(&self) {
        if process::refuse_child(self.process).is_err() {
            return;
        }
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.admission.close();
        // The thread may be gone already; then there is nobody to tell.
        drop(self.commands.send(Command::Shutdown));
        // A callback on one of the engine's threads, or a metric, may hold the last handle; they can't wait for themselves.
        let this = std::thread::current().id();
        if !MEASURING.get() && threads.iter().all(|thread| thread.thread().id() != this) {
            threads.into_iter().for_each(|thread| drop(thread.join()));
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

/// What a caller wants to hear of a ranking under way.
#[derive(Default)]
pub struct RankOptions {
    /// Called on the engine's thread whenever a rollout has ended; must return quickly and not call the engine.
    pub on_progress: Option<Box<dyn FnMut(Progress) + Send>>,
    /// Called with each rollout once it has ended and is scored, or won't be; as for `on_progress`.
    pub on_rollout: Option<Box<dyn FnMut(EndedRollout) + Send>>,
    /// Called with the candidates that have a reward by now, the best first, whenever another sample has ended for all of
    /// them; as for `on_progress`.
    pub on_interim: Option<Box<dyn FnMut(Vec<Interim>) + Send>>,
}

impl std::fmt::Debug for RankOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RankOptions")
            .field("on_progress", &self.on_progress.is_some())
            .field("on_rollout", &self.on_rollout.is_some())
            .field("on_interim", &self.on_interim.is_some())
            .finish()
    }
}

impl Engine {
    /// Loads the models of `config`.
    ///
    /// # Errors
    /// As [`EngineBuilder::build`].
    pub fn new(config: Config) -> Result<Engine> {
        Engine::builder(config).build()
    }

    /// For settings beyond the configuration.
    pub fn builder(config: Config) -> EngineBuilder {
        EngineBuilder { config, places: Places::default(), custom: Vec::new(), metrics: Vec::new() }
    }

    /// An engine with the one model in `path`, named `model`.
    ///
    /// # Errors
    /// As [`EngineBuilder::build`].
    pub fn with_model(path: impl Into<PathBuf>, runtime: RuntimeConfig, places: Places) -> Result<Engine> {
        let mut config = Config { runtime, ..Config::default() };
        config.models.insert("model".into(), ModelConfig::local(path));
        Engine::builder(config).places(places).build()
    }

    /// Names of the models.
    pub fn models(&self) -> &[String] {
        &self.inner.names
    }

    /// A model by its name.
    ///
    /// # Errors
    /// There is no such model.
    pub fn model(&self, name: &str) -> Result<Model> {
        let index = self.index(name)?;
        Ok(Model { engine: self.clone(), index, name: name.into() })
    }

    /// The same engine, for requests within these limits. A timeout counts from the submission of each request.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use foreturn::engine::{Engine, Limits};
    /// # use foreturn::{RankOptions, RankRequest};
    /// # fn rank(engine: &Engine, request: RankRequest) -> foreturn::Result<()> {
    /// let limits = Limits { timeout: Some(Duration::from_millis(150)), ..Limits::default() };
    /// let ranking = engine.within(limits).rank(request, RankOptions::default())?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn within(&self, limits: Limits) -> Engine {
        Engine { inner: Arc::clone(&self.inner), limits }
    }

    /// True if the model is not in this process, so that its tokens may cost money.
    pub(crate) fn is_elsewhere(&self, name: &str) -> bool {
        !self.inner.locals.contains_key(name)
    }

    /// Ranks a request's candidates.
    ///
    /// # Errors
    /// The request or the configuration is wrong, the queue is full, a failure that the configuration does not forgive,
    /// or nothing was left to rank. At the deadline, what is finished is ranked, and the ranking says it is incomplete.
    pub fn rank(&self, request: RankRequest, options: RankOptions) -> Result<Ranking> {
        self.submit_rank(request, options)?.wait()
    }

    /// Queues a ranking.
    ///
    /// # Errors
    /// The request or the configuration is wrong, or the queue is full.
    pub fn submit_rank(&self, request: RankRequest, options: RankOptions) -> Result<Pending<Ranking>> {
        let plan = self.plan()?;
        self.check_texts(plan, &request)?;
        let sampled = matches!(request.candidates, Candidates::Sample(_)).then_some(ModelRole::Policy);
        let roles = plan.needs(plan.window(&request)).into_iter().chain(sampled).collect();
        check_templates(plan, roles, &self.inner.locals)?;
        self.submit_job(options, move |plan| RankJob::new(request.clone(), plan))
    }

    /// A request to rank `candidates` as replies to the conversation in `pin`, which the policy of this engine keeps.
    ///
    /// # Errors
    /// The pin belongs to another engine or to a model that is not the policy, or it holds tokens.
    pub fn request_of(&self, pin: &Pin, candidates: Candidates) -> Result<RankRequest> {
        match self.plan()?.roles.resolve(ModelRole::Policy) {
            Some((_, policy)) => pin.check(self, policy)?,
            None => pin.check_engine(self)?,
        }
        Ok(RankRequest { conversation: pin.history()?.to_vec(), candidates, ..RankRequest::default() })
    }

    /// Scores the rollouts of `ranking`, which was made of `request`, again: with this engine's judges and metrics, and
    /// without sampling anything. Rollouts that didn't count are left out. What differs between two engines' scores of
    /// the same futures is then the judges' doing, not chance's.
    ///
    /// ```no_run
    /// # use foreturn::{Engine, RankOptions, RankRequest};
    /// # fn compare(small: &Engine, large: &Engine, request: RankRequest) -> foreturn::Result<()> {
    /// let ranking = small.rank(request.clone(), RankOptions::default())?;
    /// let again = large.rescore(request, &ranking, RankOptions::default())?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Engine::rank`]; `ranking` was not made of `request`, or none of its rollouts counts.
    pub fn rescore(&self, request: RankRequest, ranking: &Ranking, options: RankOptions) -> Result<Ranking> {
        self.submit_rescore(request, ranking, options)?.wait()
    }

    /// Queues a ranking whose rollouts are scored again.
    ///
    /// # Errors
    /// As [`Engine::rescore`], for what shows before a model runs.
    pub fn submit_rescore(
        &self,
        request: RankRequest,
        ranking: &Ranking,
        options: RankOptions,
    ) -> Result<Pending<Ranking>> {
        self.check_texts(self.plan()?, &request)?;
        let ranking = ranking.clone();
        self.submit_job(options, move |plan| RankJob::rescore(request.clone(), &ranking, plan))
    }

    fn submit_job(
        &self,
        options: RankOptions,
        make: impl Fn(Arc<RankPlan>) -> Result<RankJob> + Send + 'static,
    ) -> Result<Pending<Ranking>> {
        let plan = Arc::clone(self.plan()?);
        self.check_roles(&plan)?;
        let of = Arc::clone(&plan);
        let make = move || make(Arc::clone(&of));
        let job = make()?;
        self.submit(|respond| Box::new(Rank::new(job, Box::new(make), plan, options, respond)))
    }

    /// Queues a job.
    fn submit<T>(&self, job: impl FnOnce(Responder<T>) -> Box<dyn Job>) -> Result<Pending<T>> {
        process::refuse_child(self.inner.process)?;
        let start = Instant::now();
        let recorder = Arc::clone(&self.inner.shared.recorder);
        let (pending, respond) = pending::pair(self.limits.cancel.clone(), Some(recorder));
        let watch = Watch { deadline: self.limits.deadline(), cancel: pending.token() };
        self.inner.shared.admission.submit(job(respond), self.limits.priority, start, watch)?;
        Ok(pending)
    }

    /// How rankings are made: the configuration, resolved.
    ///
    /// # Errors
    /// The configuration doesn't say how to rank.
    pub(crate) fn plan(&self) -> Result<&Arc<RankPlan>> {
        match (&self.inner.plan, &self.inner.no_plan) {
            (Some(plan), _) => Ok(plan),
            (None, Some(error)) => Err(error.duplicate()),
            (None, None) => Err(Error::internal("an engine without a plan")),
        }
    }

    /// The file of real conversations that the configuration names, with whose users the simulated ones are compared.
    pub fn real_users(&self) -> Option<PathBuf> {
        self.inner.plan.as_ref()?.real_users.clone()
    }

    /// Refuses texts that can't fit the policy's context: metrics may tokenise them, too.
    fn check_texts(&self, plan: &RankPlan, request: &RankRequest) -> Result<()> {
        let policy = plan.roles.resolve(ModelRole::Policy).and_then(|(_, name)| self.inner.locals.get(name));
        let Some(folder) = policy.map(|local| &local.folder) else { return Ok(()) };
        folder.check_bytes("conversation", message::bytes(&request.conversation))?;
        let Candidates::Given(texts) = &request.candidates else { return Ok(()) };
        let mut texts = texts.iter().enumerate();
        texts.try_for_each(|(at, text)| folder.check_bytes(format_args!("candidates[{at}]"), text.len()))
    }

    fn check_roles(&self, plan: &RankPlan) -> Result<()> {
        for (role, model) in &plan.roles.models {
            self.index(model).map_err(|e| e.context(format!("roles.{}", role.as_str())))?;
        }
        plan.metric_models().iter().try_for_each(|model| self.index(model).map(|_| ()))
    }

    /// What has been done since the engine was made, and what is under way. It waits for nothing.
    ///
    /// # Errors
    /// The engine was closed.
    pub fn statistics(&self) -> Result<Statistics> {
        process::refuse_child(self.inner.process)?;
        let Shared { admission, recorder, models } = &*self.inner.shared;
        let models = models.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Statistics::of(admission.counts()?, recorder.stages(), recorder.outcomes(), models))
    }

    /// Refuses what waits for a place, and what is asked from now on, with [`crate::ErrorKind::Closed`]. What is under way
    /// goes on to its end. A host that ends calls this first, and [`Engine::close`] when it can wait no longer.
    pub fn drain(&self) {
        if process::refuse_child(self.inner.process).is_ok() {
            self.inner.shared.admission.drain();
        }
    }

    /// Ends the engine for all its handles. What is under way or waits ends with [`crate::ErrorKind::Closed`], and so does
    /// what is asked later. Dropping the last handle does the same.
    pub fn close(&self) {
        self.inner.close();
    }

    fn index(&self, model: &str) -> Result<usize> {
        let names = &self.inner.names;
        let unknown = || models::unknown(model, names.iter().map(String::as_str));
        names.iter().position(|name| name == model).ok_or_else(unknown)
    }
}

#[cfg(test)]
mod tests;
