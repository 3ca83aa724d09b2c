//! New weights for a model of an engine that goes on serving.
//!
//! ```text
//! refresh() ─▶ load (on a thread of its own) ─▶ Command::Exchange ─▶ jobs that use the model end ─▶ exchange ─▶ warm pins
//! ```
//!
//! A job is the barrier: nothing that a ranking or a call gives was computed with two sets of weights. The owner makes
//! the exchange between two steps, and holds jobs that come meanwhile and need the model. The prompts stay what they
//! are, because the handle tokenises them without asking: weights of a model with another tokenizer or shape are refused.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, SyncSender, sync_channel};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::command::Command;
use super::job::{Job, Kind, Question, Watch};
use super::models::Models;
use super::owner::closed;
use super::pending::{self, Pending, Responder};
use super::statistics::Stage;
use super::{Local, Model, process};
use crate::chat::local::{Answer, Weights};
use crate::decode::DecodeOptions;
use crate::model::{ModelFolder, OpenOptions};
use crate::rank::{AskId, StopReason};
use crate::runtime::RuntimeOptions;
use crate::{Error, ErrorKind, Result};

/// What becomes of the requests under way that use a model whose weights are exchanged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefreshMode {
    /// They end with the old weights first.
    #[default]
    Wait,
    /// They begin again, with the new ones. Callbacks hear of their rollouts again. Replies that are streamed end with an
    /// error instead.
    Restart,
    /// They end with an error of kind [`Cancelled`](ErrorKind::Cancelled).
    Abort,
}

impl RefreshMode {
    /// Its name: `wait`, `restart` or `abort`.
    pub fn as_str(self) -> &'static str {
        match self {
            RefreshMode::Wait => "wait",
            RefreshMode::Restart => "restart",
            RefreshMode::Abort => "abort",
        }
    }
}

impl FromStr for RefreshMode {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        [RefreshMode::Wait, RefreshMode::Restart, RefreshMode::Abort]
            .into_iter()
            .find(|mode| mode.as_str() == name)
            .ok_or_else(|| Error::invalid_request(format!("mode {name:?}: use \"wait\", \"restart\" or \"abort\"")))
    }
}

/// Options of [`Model::refresh`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RefreshOptions {
    /// What the new weights are called in rankings and traces, such as a training step. The default is a fingerprint of
    /// the files and how often weights were exchanged.
    pub version: Option<String>,
    /// What becomes of the requests under way.
    pub mode: RefreshMode,
    /// Whether a model that plays several roles may change in all of them. Without it, such a model is refused: new
    /// weights for the policy would move its judge, too.
    pub shared: bool,
}

/// How a local model was loaded, and whether it is being loaded again.
pub(super) struct Recipe {
    pub(super) open: OpenOptions,
    pub(super) decode: DecodeOptions,
    pub(super) runtime: RuntimeOptions,
    refreshing: AtomicBool,
    refreshes: AtomicU64,
}

impl Recipe {
    pub(super) fn new(open: OpenOptions, decode: DecodeOptions, runtime: RuntimeOptions) -> Self {
        Recipe { open, decode, runtime, refreshing: AtomicBool::new(false), refreshes: AtomicU64::new(0) }
    }
}

/// New weights on their way to the owner.
pub(super) struct Exchange {
    /// The model's name.
    pub(super) name: Arc<str>,
    pub(super) fresh: Weights,
    pub(super) mode: RefreshMode,
    pub(super) watch: Watch,
    /// Takes the old weights, which are let go of elsewhere.
    pub(super) done: SyncSender<Result<Weights>>,
}

impl Model {
    /// Exchanges the model's weights for those in the folder `path`, an export of the same model, while the engine goes on
    /// serving. Returns what the new weights are called.
    ///
    /// They are loaded beside the old ones, which takes the memory of both for a moment, and exchanged between two steps of
    /// the model. No ranking and no call sees both. Cached prefixes of the old weights are dropped, and pins are warmed again.
    /// Nothing has changed after an error.
    ///
    /// ```no_run
    /// use foreturn::engine::{Engine, RefreshOptions};
    ///
    /// # fn main() -> foreturn::Result<()> {
    /// # let engine = Engine::new(foreturn::Config::default())?;
    /// let options = RefreshOptions { version: Some("step 200".into()), ..RefreshOptions::default() };
    /// engine.model("policy")?.refresh("checkpoints/200", options)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// It is not a local model; it plays several roles and `shared` is not set; the folder can't be loaded, or has another
    /// tokenizer, chat template or shape; another refresh of the model is under way; the limits of the handle are over.
    pub fn refresh(&self, path: impl Into<PathBuf>, options: RefreshOptions) -> Result<String> {
        self.submit_refresh(path, options)?.wait()
    }

    /// Begins to exchange the model's weights.
    ///
    /// # Errors
    /// As [`Model::refresh`], for what shows before the folder is read.
    pub fn submit_refresh(&self, path: impl Into<PathBuf>, options: RefreshOptions) -> Result<Pending<String>> {
        let inner = &self.engine.inner;
        process::refuse_child(inner.process)?;
        let local = Arc::clone(self.local()?);
        if !options.shared {
            self.check_roles()?;
        }
        if local.recipe.refreshing.swap(true, Ordering::Acquire) {
            return Err(Error::invalid_request(format!(
                "model `{}`: another refresh is under way. Wait for it before the next",
                self.name
            )));
        }
        let limits = &self.engine.limits;
        let recorder = Arc::clone(&inner.shared.recorder);
        let (pending, respond) = pending::pair(limits.cancel.clone(), Some(recorder));
        let watch = Watch { deadline: limits.deadline(), cancel: pending.token() };
        let commands = inner.commands.clone();
        let refresh = Refresh { name: Arc::clone(&self.name), path: path.into(), options, watch, commands, respond };
        let of = Arc::clone(&local);
        let spawned = crate::thread::spawn("foreturn-load", "to load weights", move || refresh.run(&of));
        let thread = spawned.inspect_err(|_| local.recipe.refreshing.store(false, Ordering::Release))?;
        let mut threads = inner.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(pending)
    }

    /// Refuses a model that plays several roles.
    fn check_roles(&self) -> Result<()> {
        let Some(plan) = self.engine.inner.plan.as_ref().filter(|plan| !plan.metrics.is_empty()) else { return Ok(()) };
        let roles = plan.needs(plan.window).into_iter().filter_map(|role| plan.roles.resolve(role));
        let roles = roles.filter(|(_, name)| **name == *self.name).map(|(role, _)| role.as_str());
        let metrics = plan.metric_models().contains(&self.name).then_some("a metric's model");
        let played: BTreeSet<&str> = roles.chain(metrics).collect();
        if played.len() < 2 {
            return Ok(());
        }
        Err(Error::invalid_request(format!(
            "model `{}` plays {}: new weights would change it in all of these roles. Give each role a model of its own \
             under [models] (two may have the same path), or set `shared`",
            self.name,
            played.into_iter().collect::<Vec<_>>().join(" and ")
        )))
    }
}

/// One refresh, on a thread of its own.
struct Refresh {
    name: Arc<str>,
    path: PathBuf,
    options: RefreshOptions,
    watch: Watch,
    commands: Sender<Command>,
    respond: Responder<String>,
}

impl Refresh {
    fn run(self, local: &Local) {
        let result = self.load(local).and_then(|fresh| self.exchange(fresh));
        local.recipe.refreshing.store(false, Ordering::Release);
        let name = &self.name;
        self.respond.send(result.map_err(|error| error.context(format!("refresh of model `{name}`"))));
    }

    fn load(&self, local: &Local) -> Result<Weights> {
        let Recipe { open, decode, runtime, refreshes, .. } = &local.recipe;
        let folder = Arc::new(ModelFolder::open_with(&self.path, *open)?);
        local.folder.check_same(&folder)?;
        self.watch.check("the weights were loaded")?;
        let count = refreshes.fetch_add(1, Ordering::Relaxed) + 1;
        let version = self.options.version.clone().unwrap_or_else(|| format!("{}-{count}", folder.fingerprint()));
        Weights::load(folder, Some(version), decode, runtime)
    }

    fn exchange(&self, fresh: Weights) -> Result<String> {
        let (version, (done, wait)) = (fresh.version.to_string(), sync_channel(1));
        let (mode, watch) = (self.options.mode, self.watch.clone());
        let exchange = Exchange { name: Arc::clone(&self.name), fresh, mode, watch, done };
        let gone = || closed("before the weights were exchanged");
        self.commands.send(Command::Exchange(Box::new(exchange))).map_err(|_| gone())?;
        let old = wait.recv().map_err(|_| gone())??;
        // Unmapping takes a while, and the model goes on meanwhile.
        drop(old);
        Ok(version)
    }
}

/// The error of a request that new weights end.
pub(super) fn changed(model: &str) -> Error {
    let message = format!("the weights of model `{model}` were exchanged before this was done. Ask again");
    Error::new(ErrorKind::Cancelled, message)
}

/// Prefixes that are computed again after an exchange. Nobody waits for them.
pub(super) struct Rewarm {
    pub(super) model: Arc<str>,
    pub(super) left: usize,
}

impl Job for Rewarm {
    fn kind(&self) -> Kind {
        Kind::Call { texts: 0 }
    }

    fn stage(&self) -> Stage {
        Stage::Warm
    }

    fn asks(&self, model: &str) -> bool {
        *self.model == *model
    }

    /// The owner has asked already.
    fn start(&mut self, _: &mut Vec<Question>) {}

    fn on_answer(&mut self, _: AskId, _: Result<Answer>, _: &mut Vec<Question>) {
        self.left -= 1;
    }

    fn start_over(&mut self) -> Result<()> {
        Err(changed(&self.model))
    }

    fn stop(&mut self, _: StopReason) {}

    fn fail(&mut self, _: Error) {
        self.left = 0;
    }

    fn is_done(&self) -> bool {
        self.left == 0
    }

    fn finish(self: Box<Self>, _: &Models, _: Instant) {}

    fn refuse(self: Box<Self>, _: Error) {}
}
