//! The engine: loaded models behind a handle that any thread may use.
//!
//! ```text
//! rank(), generate(), … ──command──▶ owner thread ⇄ models (one step at a time) ──▶ result
//! ```
//!
//! One thread owns the models of an engine and drives everything that is under way on them: it takes commands, lets
//! each model advance by one bounded step, hands replies to the rankings that wait for them, and looks at deadlines and
//! cancellations in between. So rankings that arrive together share batches and prefixes, and nothing needs a lock.

mod builder;
mod command;
mod limits;
mod opening;
mod owner;
mod pending;
mod process;
mod queue;
mod score;
mod statistics;
mod trace;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

pub use self::builder::EngineBuilder;
use self::builder::check_templates;
use self::command::{Call, Command, RankRun, Task};
pub use self::limits::{CancelToken, Limits};
use self::owner::MEASURING;
pub use self::pending::Pending;
pub use self::score::ScoreOptions;
pub use self::statistics::{Latency, Stage, Statistics};
pub use crate::chat::local::ModelStatus;
use crate::chat::local::{Completion, OnCompletion};
use crate::chat::{ChatModel, Finish, Message, Usage};
use crate::config::{Config, ModelConfig, RuntimeConfig};
use crate::decode::GenerateOptions;
use crate::message;
use crate::model::ModelFolder;
use crate::model::tokenizer::RenderOptions;
use crate::rank::{Candidates, EndedRollout, ModelRole, Progress, RankJob, RankPlan, RankRequest, Ranking};
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
/// let request = RankRequest::from_json(r#"{
///     "conversation": [{"role": "user", "content": "Write a poem."}],
///     "candidates": ["What should it be about?", "Roses are red."],
///     "goal": {"task": "write a poem", "prompt": "A poem about my late dog, who loved the sea."}
/// }"#, "the request")?;
/// let ranking = engine.rank(request, RankOptions::default())?;
/// println!("best: candidate {}", ranking.candidates[0].candidate);
/// # Ok::<(), foreturn::Error>(())
/// ```
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    commands: Sender<Command>,
    /// Taken by whoever closes the engine.
    thread: Mutex<Option<JoinHandle<()>>>,
    process: u32,
    plan: Option<Arc<RankPlan>>,
    /// Why there is no plan, where there is none.
    no_plan: Option<Error>,
    /// The metrics that the caller gave.
    _metrics: Vec<WeightedMetric>,
    names: Vec<String>,
    locals: BTreeMap<String, Local>,
    pins: AtomicU64,
}

/// What the handle itself has to know of a model of this process.
struct Local {
    folder: Arc<ModelFolder>,
    prompting: Prompting,
}

impl Local {
    fn render_options(&self, add_generation_prompt: bool) -> RenderOptions {
        RenderOptions { add_generation_prompt, ..self.prompting.render.clone() }
    }
}

impl Inner {
    /// Ends the thread, and with it everything under way. A child process has no such thread.
    fn close(&self) {
        if process::refuse_child(self.process).is_err() {
            return;
        }
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The thread may be gone already; then there is nobody to tell.
        drop(self.commands.send(Command::Shutdown));
        // A callback on the engine's thread, or a metric, may hold the last handle; they can't wait for themselves.
        let own = |thread: &JoinHandle<()>| thread.thread().id() == std::thread::current().id() || MEASURING.get();
        if let Some(thread) = thread.filter(|thread| !own(thread)) {
            drop(thread.join());
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

/// How a ranking is run, beside what the request says.
#[derive(Default)]
pub struct RankOptions {
    /// Deadline and cancellation. At the deadline, what is finished is ranked, and the ranking says it is incomplete.
    pub limits: Limits,
    /// Called on the engine's thread whenever a rollout has ended; must return quickly and not call the engine.
    pub on_progress: Option<Box<dyn FnMut(Progress) + Send>>,
    /// Called with each rollout once it has ended and is scored, or won't be; as for `on_progress`.
    pub on_rollout: Option<Box<dyn FnMut(EndedRollout) + Send>>,
}

/// What a model is to continue or score.
#[derive(Debug, Clone)]
pub enum Prompt {
    /// A conversation, rendered with the model's chat template. The flag says whether the header of a reply follows.
    Messages(Vec<Message>, bool),
    /// These very tokens.
    Tokens(Vec<u32>),
}

/// A sampled reply.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The prompt as the model saw it.
    pub prompt_tokens: Vec<u32>,
    /// The sampled tokens, with the one that ended the turn.
    pub tokens: Vec<u32>,
    /// Their text, without special tokens and stop text.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// Log-probability of each sampled token under the model, before temperature and truncation.
    pub logprobs: Vec<f32>,
    /// What it cost.
    pub usage: Usage,
}

/// A prefix that stays in a model's cache; dropping it lets the prefix go.
pub struct Pin {
    /// Not the engine itself: a pin doesn't keep it.
    commands: Sender<Command>,
    model: usize,
    key: u64,
    /// Tokens of the prefix.
    pub tokens: usize,
}

impl Drop for Pin {
    fn drop(&mut self) {
        // An engine that has ended has let go of everything.
        drop(self.commands.send(Command::Unpin { model: self.model, key: self.key }));
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
        let model = ModelConfig { path: Some(path.into()), ..Default::default() };
        config.models.insert("model".into(), model);
        Engine::builder(config).places(places).build()
    }

    /// Names of the models.
    pub fn models(&self) -> &[String] {
        &self.inner.names
    }

    /// The folder of a local model.
    pub fn folder(&self, model: &str) -> Option<&Arc<ModelFolder>> {
        self.inner.locals.get(model).map(|local| &local.folder)
    }

    /// Ranks a request's candidates.
    ///
    /// # Errors
    /// The request or the configuration is wrong, the queue is full, a failure that the configuration does not forgive,
    /// or nothing was left to rank.
    pub fn rank(&self, request: RankRequest, options: RankOptions) -> Result<Ranking> {
        self.submit_rank(request, options)?.wait()
    }

    /// Queues a ranking.
    ///
    /// # Errors
    /// The request or the configuration is wrong. A full queue shows when the result is asked for.
    pub fn submit_rank(&self, request: RankRequest, options: RankOptions) -> Result<Pending<Ranking>> {
        self.submit_job(options, |plan| {
            self.check_texts(&plan, &request)?;
            let sampled = matches!(request.candidates, Candidates::Sample(_)).then_some(ModelRole::Policy);
            let roles = plan.needs(plan.window(&request)).into_iter().chain(sampled).collect();
            check_templates(&plan, roles, &self.inner.locals)?;
            RankJob::new(request, plan)
        })
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
    /// As [`Engine::rescore`], for what shows before a model runs. A full queue shows when the result is asked for.
    pub fn submit_rescore(
        &self,
        request: RankRequest,
        ranking: &Ranking,
        options: RankOptions,
    ) -> Result<Pending<Ranking>> {
        self.submit_job(options, |plan| {
            self.check_texts(&plan, &request)?;
            RankJob::rescore(request, ranking, plan)
        })
    }

    fn submit_job(
        &self,
        options: RankOptions,
        job: impl FnOnce(Arc<RankPlan>) -> Result<RankJob>,
    ) -> Result<Pending<Ranking>> {
        let start = Instant::now();
        let plan = Arc::clone(self.plan()?);
        self.check_roles(&plan)?;
        let job = job(Arc::clone(&plan))?;
        let (pending, respond) = pending::pair(options.limits.cancel.clone());
        let run = RankRun::new(job, plan, start, options, pending.token(), respond);
        self.send(Command::Rank(Box::new(run)))?;
        Ok(pending)
    }

    /// How rankings are made: the configuration, resolved.
    ///
    /// # Errors
    /// The configuration doesn't say how to rank.
    pub fn plan(&self) -> Result<&Arc<RankPlan>> {
        match (&self.inner.plan, &self.inner.no_plan) {
            (Some(plan), _) => Ok(plan),
            (None, Some(error)) => Err(error.duplicate()),
            (None, None) => Err(Error::internal("an engine without a plan")),
        }
    }

    /// Refuses texts that can't fit the policy's context: metrics may tokenise them, too.
    fn check_texts(&self, plan: &RankPlan, request: &RankRequest) -> Result<()> {
        let policy = plan.roles.resolve(ModelRole::Policy).and_then(|(_, name)| self.inner.locals.get(name));
        let Some(Local { folder, .. }) = policy else { return Ok(()) };
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

    /// Samples a reply.
    ///
    /// # Errors
    /// There is no such local model, the prompt can't be taken, or the model failed.
    pub fn generate(
        &self,
        model: &str,
        prompt: Prompt,
        options: GenerateOptions,
        limits: Limits,
    ) -> Result<Generation> {
        self.submit_generate(model, prompt, options, limits)?.wait()
    }

    /// Queues a reply.
    ///
    /// # Errors
    /// There is no such local model, or the prompt can't be taken.
    pub fn submit_generate(
        &self,
        model: &str,
        prompt: Prompt,
        options: GenerateOptions,
        limits: Limits,
    ) -> Result<Pending<Generation>> {
        let deadline = limits.deadline();
        let tokens = self.encode(model, prompt)?;
        let prompt_tokens = tokens.clone();
        let (pending, respond) = pending::pair(limits.cancel.clone());
        let done = move |result: Result<Completion>| {
            respond.send(result.map(|completion| {
                let Completion { tokens, text, finish, logprobs, usage, .. } = completion;
                Generation { prompt_tokens, tokens, text, finish, logprobs, usage }
            }));
        };
        self.call(
            model,
            Stage::Generate,
            vec![(Task::Generate(tokens, options), Box::new(done))],
            (deadline, limits.priority),
            pending.token(),
        )?;
        Ok(pending)
    }

    /// The tokens of `prompt`, and the log-probability of each after the first given the ones before it.
    ///
    /// # Errors
    /// As [`Engine::generate`]; a single token has nothing to score.
    pub fn logprobs(&self, model: &str, prompt: Prompt, limits: Limits) -> Result<(Vec<u32>, Vec<f32>)> {
        let tokens = self.encode(model, prompt)?;
        if tokens.len() < 2 {
            return Err(Error::invalid_request(
                "log-probabilities need at least two tokens: one to condition on, one to score",
            ));
        }
        let completion = self.wait_for(model, Stage::LogProbs, Task::LogProbs(tokens.clone()), &limits)?;
        Ok((tokens, completion.logprobs))
    }

    /// Computes a prefix ahead of its use and keeps it in the cache until the pin is dropped. Language models and decoders
    /// that score have such a cache.
    ///
    /// # Errors
    /// As [`Engine::generate`]; the memory budget has no room for it; the model has no cache.
    pub fn warm(&self, model: &str, prompt: Prompt) -> Result<Pin> {
        self.warm_within(model, prompt, &Limits::default())
    }

    /// As [`Engine::warm`], with limits; a prefix that is not there in time is let go.
    ///
    /// # Errors
    /// As [`Engine::warm`].
    pub fn warm_within(&self, model: &str, prompt: Prompt, limits: &Limits) -> Result<Pin> {
        let tokens = self.encode(model, prompt)?;
        let key = self.inner.pins.fetch_add(1, Ordering::Relaxed);
        let length = tokens.len();
        let model_index = self.index(model)?;
        // Made first, so that a failure lets go of what was pinned by then.
        let pin = Pin { commands: self.inner.commands.clone(), model: model_index, key, tokens: length };
        self.wait_for(model, Stage::Warm, Task::Warm(key, tokens), limits)?;
        Ok(pin)
    }

    /// The text that `messages` become for `model`.
    ///
    /// # Errors
    /// There is no such local model, or its template raises.
    pub fn render(&self, model: &str, messages: &[Message], generation_prompt: bool) -> Result<String> {
        let local = self.local(model)?;
        local.folder.tokenizer().render(messages, &local.render_options(generation_prompt))
    }

    /// How a model runs, and its counters since it was loaded.
    ///
    /// # Errors
    /// There is no such local model.
    pub fn status(&self, model: &str) -> Result<ModelStatus> {
        self.local(model)?;
        let status = self.statistics()?.models.remove(model);
        status.ok_or_else(|| Error::internal("a local model without a status"))
    }

    /// What has been done since the engine was made, and what is under way.
    ///
    /// # Errors
    /// The engine was closed.
    pub fn statistics(&self) -> Result<Statistics> {
        let (pending, respond) = pending::pair(None);
        self.send(Command::Statistics(respond))?;
        pending.wait()
    }

    /// Ends the engine for all its handles. What is under way or waits ends with [`crate::ErrorKind::Closed`], and so does
    /// what is asked later. Dropping the last handle does the same.
    pub fn close(&self) {
        self.inner.close();
    }

    fn wait_for(&self, model: &str, stage: Stage, task: Task, limits: &Limits) -> Result<Completion> {
        let (pending, respond) = pending::pair(limits.cancel.clone());
        let done = Box::new(move |result| respond.send(result));
        self.call(model, stage, vec![(task, done)], (limits.deadline(), limits.priority), pending.token())?;
        pending.wait()
    }

    fn call(
        &self,
        model: &str,
        stage: Stage,
        tasks: Vec<(Task, OnCompletion)>,
        (deadline, priority): (Option<Instant>, i32),
        cancel: CancelToken,
    ) -> Result<()> {
        let (model, start) = (self.index(model)?, Instant::now());
        self.send(Command::Call(Call { model, stage, tasks, start, deadline, priority, cancel }))
    }

    fn encode(&self, model: &str, prompt: Prompt) -> Result<Vec<u32>> {
        let local = self.local(model)?;
        let tokens = match prompt {
            Prompt::Tokens(tokens) => tokens,
            Prompt::Messages(messages, generation_prompt) => {
                local.folder.check_bytes("the conversation", message::bytes(&messages))?;
                local.folder.tokenizer().encode_chat(&messages, &local.render_options(generation_prompt))?.tokens
            }
        };
        crate::decode::check_prompt(&local.folder, &tokens)?;
        Ok(tokens)
    }

    fn local(&self, model: &str) -> Result<&Local> {
        self.index(model)?;
        self.inner.locals.get(model).ok_or_else(|| {
            Error::invalid_request(format!(
                "model `{model}` is not a local model, so its tokens can't be had: only rankings can use it"
            ))
        })
    }

    fn index(&self, model: &str) -> Result<usize> {
        self.inner.names.iter().position(|name| name == model).ok_or_else(|| {
            Error::invalid_request(format!(
                "there is no model `{model}`; this engine has {}",
                self.inner.names.join(", ")
            ))
        })
    }

    fn send(&self, command: Command) -> Result<()> {
        process::refuse_child(self.inner.process)?;
        self.inner.commands.send(command).map_err(|_| owner::closed("before this request"))
    }
}

#[cfg(test)]
mod tests;
