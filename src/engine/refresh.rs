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
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::command::Command;
use super::job::{Job, Kind, Question, Watch};
use super::models::Models;
use super::owner::closed;
use super::pending::{self, Pending};
use super::statistics::Stage;
use super::{CancelToken, Local, Model, process};
use crate::chat::local::{Answer, Weights};
use crate::decode::DecodeOptions;
use crate::export::{Adapter, GivenWeights, NamedTensor, Refreshed};
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
    /// A LoRA adapter that is merged into the weights, in float32: into those of the folder, or into the tensors that are
    /// given. Without tensors, the base is the folder that the model runs from.
    pub adapter: Option<Adapter>,
}

/// How a local model was loaded, and whether it is being loaded again.
pub(super) struct Recipe {
    pub(super) open: OpenOptions,
    pub(super) decode: DecodeOptions,
    pub(super) runtime: RuntimeOptions,
    /// The folder whose graph runs now: the one that weights came from last.
    current: Mutex<Arc<ModelFolder>>,
    /// Whether its weights are others than that folder's, because they were given in memory.
    from_memory: AtomicBool,
    refreshing: AtomicBool,
    refreshes: AtomicU64,
}

impl Recipe {
    pub(super) fn new(
        folder: Arc<ModelFolder>,
        open: OpenOptions,
        decode: DecodeOptions,
        runtime: RuntimeOptions,
    ) -> Self {
        let (current, from_memory, refreshing) = (Mutex::new(folder), AtomicBool::new(false), AtomicBool::new(false));
        Recipe { open, decode, runtime, current, from_memory, refreshing, refreshes: AtomicU64::new(0) }
    }

    fn current(&self) -> MutexGuard<'_, Arc<ModelFolder>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
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
        let (pending, respond) = pending::pair(self.engine.limits.cancel.clone(), None);
        let (refresh, path) = (self.begin_refresh(options, pending.token())?, path.into());
        let work = move || respond.send(refresh.run(false, |refresh| refresh.confined()?.load(&path)));
        let thread = crate::thread::spawn("foreturn-load", "to load weights", work)?;
        let mut threads = self.engine.inner.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(pending)
    }

    /// Exchanges the model's weights for `tensors`, those of a live model's state dict, as [`Model::refresh`] does for a
    /// folder. No file is written. The bits are those of an export of the same tensors: float32 is used as it is,
    /// half precision is widened, and a model that was exported in few bits is quantised by the same rules. With an adapter
    /// in the options, `tensors` may be empty: the base is then the folder that the model runs from.
    ///
    /// The engine's threads go on; the calling thread packs the weights and waits. The memory of the packed weights that are
    /// replaced stays with the model for the next call.
    ///
    /// ```no_run
    /// use foreturn::engine::{Engine, RefreshOptions};
    /// use foreturn::export::{NamedTensor, TensorType};
    ///
    /// # fn main() -> foreturn::Result<()> {
    /// # let engine = Engine::new(foreturn::Config::default())?;
    /// # let (shape, bytes) = ([49152_usize, 576], Vec::<u8>::new());
    /// let tensors = [NamedTensor::new("model.embed_tokens.weight", TensorType::Bfloat16, &shape, &bytes)];
    /// engine.model("policy")?.refresh_with(&tensors, RefreshOptions::default())?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Model::refresh`]. The model is not an export of this library for the paged path. A tensor is missing, has another
    /// shape, is not finite, belongs to an adapter, or has no place in the model. The files that the model was loaded from
    /// were written to in place: its rotary tables are still read. The folder may be replaced, or be gone.
    pub fn refresh_with(&self, tensors: &[NamedTensor<'_>], options: RefreshOptions) -> Result<String> {
        let cancel = self.engine.limits.cancel.clone().unwrap_or_default();
        self.begin_refresh(options, cancel)?.run(!tensors.is_empty(), |refresh| refresh.take(tensors))
    }

    /// Checks what shows before weights are looked at, and claims the model's refresh.
    fn begin_refresh(&self, options: RefreshOptions, cancel: CancelToken) -> Result<Refresh> {
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
        let watch = Watch { deadline: self.engine.limits.deadline(), cancel };
        let (name, commands) = (Arc::clone(&self.name), inner.commands.clone());
        Ok(Refresh { name, local, options, watch, commands })
    }

    /// Refuses a model that plays several roles.
    fn check_roles(&self) -> Result<()> {
        let Some(plan) = self.engine.inner.plan.as_ref().filter(|plan| !plan.metrics.is_empty()) else { return Ok(()) };
        // A request may ask for another window than the configuration.
        let roles = plan.needs(plan.window.max(1)).into_iter().filter_map(|role| plan.roles.resolve(role));
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

/// One refresh, on the thread that loads the weights.
struct Refresh {
    name: Arc<str>,
    local: Arc<Local>,
    options: RefreshOptions,
    watch: Watch,
    commands: Sender<Command>,
}

impl Drop for Refresh {
    fn drop(&mut self) {
        self.local.recipe.refreshing.store(false, Ordering::Release);
    }
}

impl Refresh {
    /// `from_memory` says that the weights are not those of the folder whose graph they are given to.
    fn run(self, from_memory: bool, load: impl FnOnce(&Self) -> Result<Weights>) -> Result<String> {
        let result = load(&self).and_then(|fresh| self.exchange(fresh, from_memory));
        result.map_err(|error| error.context(format!("refresh of model `{}`", self.name)))
    }

    /// Keeps this thread, which is the refresh's own, and those that it starts on the engine's cores: it reads a folder before
    /// weights are loaded.
    fn confined(&self) -> Result<&Self> {
        self.local.recipe.runtime.cores.as_ref().map_or(Ok(()), |cores| cores.confine())?;
        Ok(self)
    }

    /// Loads the weights of a folder.
    fn load(&self, path: &Path) -> Result<Weights> {
        let Local { folder, recipe, .. } = &*self.local;
        let fresh = folder.open_alike(path, recipe.open)?;
        folder.check_same(&fresh)?;
        self.watch.check("the weights were loaded")?;
        if self.options.adapter.is_some() {
            return self.pack(fresh, &[]);
        }
        let version = self.version(&fresh);
        Weights::load(fresh, None, &version, &recipe.decode, &recipe.runtime)
    }

    /// Packs a live model's tensors.
    fn take(&self, tensors: &[NamedTensor<'_>]) -> Result<Weights> {
        let recipe = &self.local.recipe;
        let folder = Arc::clone(&recipe.current());
        if tensors.is_empty() && self.options.adapter.is_some() && recipe.from_memory.load(Ordering::Relaxed) {
            let why = "its weights came from memory last, so the folder that it was loaded from is not the adapter's base. Give \
                       the base's tensors with the adapter, or its folder";
            return Err(Error::invalid_request(why));
        }
        self.pack(folder, tensors)
    }

    /// Packs `tensors` for the graph of `folder`, with the adapter merged into them. Without tensors, the adapter's base are
    /// the folder's own weights.
    fn pack(&self, folder: Arc<ModelFolder>, tensors: &[NamedTensor<'_>]) -> Result<Weights> {
        let (recipe, adapter) = (&self.local.recipe, self.options.adapter.as_ref());
        let more = Refreshed::open(&folder, adapter, tensors.is_empty() && adapter.is_some())?;
        let given = GivenWeights::new(&folder, tensors, &more)?;
        self.watch.check("the weights were looked at")?;
        let version = self.version(&folder);
        let loaded = Weights::load(Arc::clone(&folder), Some(&given), &version, &recipe.decode, &recipe.runtime)?;
        more.check()?;
        Ok(loaded)
    }

    fn version(&self, folder: &ModelFolder) -> String {
        let count = self.local.recipe.refreshes.load(Ordering::Relaxed) + 1;
        self.options.version.clone().unwrap_or_else(|| format!("{}-{count}", folder.fingerprint()))
    }

    fn exchange(&self, fresh: Weights, from_memory: bool) -> Result<String> {
        let (version, folder) = (fresh.version.to_string(), Arc::clone(fresh.folder()));
        let (done, wait) = sync_channel(1);
        let (mode, watch) = (self.options.mode, self.watch.clone());
        let exchange = Exchange { name: Arc::clone(&self.name), fresh, mode, watch, done };
        let gone = || closed("before the weights were exchanged");
        self.commands.send(Command::Exchange(Box::new(exchange))).map_err(|_| gone())?;
        let old = wait.recv().map_err(|_| gone())??;
        // Nobody else counts meanwhile, because a model is refreshed once at a time.
        self.local.recipe.refreshes.fetch_add(1, Ordering::Relaxed);
        *self.local.recipe.current() = folder;
        self.local.recipe.from_memory.store(from_memory, Ordering::Relaxed);
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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::config::{Config, ModelConfig};
    use crate::export::Quantize;
    use crate::testing;

    #[test]
    fn a_folder_is_read_on_the_engines_cores() {
        let processors = || {
            let status = std::fs::read_to_string("/proc/thread-self/status").expect("a status");
            let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).expect("a list");
            list.trim().to_owned()
        };
        let all = processors();
        let first: String = all.chars().take_while(char::is_ascii_digit).collect();
        let (_files, path) = testing::exported("llama", Quantize::None);
        let mut config = Config::default();
        config.runtime.library = testing::runtime(1).library;
        config.runtime.cores = Some(first.parse().expect("cores"));
        config.models.insert("one".into(), ModelConfig::local(&path));
        let engine = super::super::Engine::new(config).expect("an engine");
        let model = engine.model("one").expect("a model");
        let refresh =
            model.begin_refresh(RefreshOptions::default(), CancelToken::default()).expect("nothing is under way");
        let seen = std::thread::scope(|scope| {
            #[allow(clippy::disallowed_methods, reason = "a test may panic where the system refuses a thread")]
            let own = scope.spawn(|| refresh.confined().map(|_| processors()));
            own.join().expect("no panic").expect("confined")
        });
        assert_eq!((seen, processors()), (first, all), "the thread that asks is not confined");
    }
}
