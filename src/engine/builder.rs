//! From a configuration to an engine.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::command::Command;
use super::models::Model;
use super::owner::Owner;
use super::refresh::Recipe;
use super::{Admission, ChatModelFactory, Engine, Inner, Limits, Local, Recorder, Shared};
use crate::chat::local::{LocalChat, Weights};
#[cfg(feature = "remote")]
use crate::chat::remote::RemoteChat;
use crate::config::{Config, LocalConfig, ModelConfig, ModelSource, RemoteConfig, RuntimeConfig};
use crate::decode::DecodeOptions;
use crate::model::ModelFolder;
use crate::rank::{ModelRole, RankPlan};
use crate::reward::WeightedMetric;
use crate::runtime::{Cores, Places, RuntimeOptions};
use crate::score::input::Prompting;
use crate::{Error, Result};

/// Makes a model on the engine's thread.
pub(super) type Factory = Box<dyn FnOnce() -> Result<Model> + Send>;

/// The local models by name.
type Locals = BTreeMap<String, Arc<Local>>;

/// Collects what an engine is made of.
pub struct EngineBuilder {
    pub(super) config: Config,
    pub(super) places: Places,
    pub(super) custom: Vec<(String, ChatModelFactory)>,
    pub(super) metrics: Vec<WeightedMetric>,
}

impl std::fmt::Debug for EngineBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let custom: Vec<_> = self.custom.iter().map(|(name, _)| name).collect();
        f.debug_struct("EngineBuilder")
            .field("config", &self.config)
            .field("places", &self.places)
            .field("custom", &custom)
            .field("metrics", &self.metrics)
            .finish()
    }
}

impl EngineBuilder {
    /// Where ONNX Runtime is looked for when the configuration names no path.
    #[must_use]
    pub fn places(mut self, places: Places) -> Self {
        self.places = places;
        self
    }

    /// Adds a model of your own under `name`; roles may then name it. It is made, driven and dropped on the engine's
    /// thread.
    #[must_use]
    pub fn chat_model(mut self, name: impl Into<String>, factory: ChatModelFactory) -> Self {
        self.custom.push((name.into(), factory));
        self
    }

    /// Adds a metric of your own to those of the configuration. Its name tells it apart from theirs.
    #[must_use]
    pub fn metric(mut self, metric: WeightedMetric) -> Self {
        self.metrics.push(metric);
        self
    }

    /// Loads the models and starts the engine.
    ///
    /// # Errors
    /// The configuration is wrong, ONNX Runtime is not found, or a model can't be loaded.
    pub fn build(self) -> Result<Engine> {
        let EngineBuilder { config, places, custom, metrics } = self;
        let hosts: Vec<String> = custom.iter().map(|(name, _)| name.clone()).collect();
        let policy = config.policy_model(&hosts)?;
        let runtime = runtime_options(&config.runtime, places);
        runtime.check_threads().map_err(|e| e.context("[runtime]"))?;
        WeightedMetric::check_all(&metrics)?;
        let (locals, mut factories) = sources(&config, &runtime)?;
        factories.extend(custom.into_iter().map(|(name, make)| (name, other(make))));
        let names: Vec<String> = factories.iter().map(|(name, _)| name.clone()).collect();
        // The host's are let go of with the engine, whether they were of use or not.
        let kept = metrics.clone();
        let (plan, no_plan) = match plan(&config, &hosts, policy, metrics, &locals)? {
            Ok(plan) => (Some(Arc::new(plan)), None),
            Err(error) => (None, Some(error)),
        };
        // Without metrics nothing is ranked, and models may be there for their tokens alone.
        if let Some(plan) = plan.as_ref().filter(|plan| !plan.metrics.is_empty()) {
            check_templates(plan, plan.needs(plan.window), &locals)?;
        }
        let shared = Arc::new(Shared {
            admission: Admission::new(config.runtime.max_queued),
            recorder: Arc::new(Recorder::default()),
            models: Mutex::default(),
        });
        // Made here, because what a confined thread starts is confined as well, and the environment is the process's.
        if runtime.cores.is_some() && !locals.is_empty() {
            crate::runtime::load(&runtime)?;
        }
        let (commands, threads) = start(factories, &shared, runtime.cores.as_ref())?;
        let (threads, process, pins) = (Mutex::new(threads), std::process::id(), AtomicU64::new(0));
        let inner = Inner { commands, shared, threads, process, plan, no_plan, _metrics: kept, names, locals, pins };
        Ok(Engine { inner: Arc::new(inner), limits: Limits::default() })
    }
}

/// What the configuration names: the folders of local models, and how each model is made.
fn sources(config: &Config, runtime: &RuntimeOptions) -> Result<(Locals, Vec<(String, Factory)>)> {
    let decode = decode_options(&config.runtime);
    let (mut locals, mut factories) = (BTreeMap::new(), Vec::new());
    for (name, model) in &config.models {
        let factory = match &model.source {
            ModelSource::Remote(remote) => remote_factory(name, model, remote)?,
            ModelSource::Local(source) => {
                let known = local(source, &decode, runtime).map_err(|e| e.context(format!("model `{name}`")))?;
                locals.insert(name.clone(), Arc::clone(&known));
                local_factory(name, known, source.version.clone())
            }
        };
        factories.push((name.clone(), factory));
    }
    Ok((locals, factories))
}

/// Reads the folder of a local model.
fn local(source: &LocalConfig, decode: &DecodeOptions, runtime: &RuntimeOptions) -> Result<Arc<Local>> {
    let runtime = source.runtime_options(runtime);
    let folder = ModelFolder::open_on(&source.path, source.open_options(), &runtime)?;
    let prompting = Prompting { render: source.render_options()?, bos: source.bos };
    let recipe = Recipe::new(Arc::clone(&folder), source.open_options(), decode.clone(), runtime);
    Ok(Arc::new(Local { folder, prompting, recipe }))
}

/// Starts the engine's threads: the owner, which loads the models, the one that admits requests, and the one that looks at the
/// clock. If one is refused, the others end.
fn start(
    factories: Vec<(String, Factory)>,
    shared: &Arc<Shared>,
    cores: Option<&Cores>,
) -> Result<(Sender<Command>, Vec<JoinHandle<()>>)> {
    let (commands, owner) = Owner::start(factories, Arc::clone(shared), cores.cloned())?;
    let (to_owner, admitting, confined) = (commands.clone(), Arc::clone(shared), cores.cloned());
    let admit = move || {
        // The owner was confined to the same.
        drop(confined.map(|cores| cores.confine()));
        crate::thread::let_others_first();
        admitting.admission.give_places(&to_owner, &admitting.recorder);
    };
    let (watching, confined) = (Arc::clone(shared), cores.cloned());
    let watch = move || {
        drop(confined.map(|cores| cores.confine()));
        watching.admission.watch(&watching.recorder);
    };
    let admission = crate::thread::spawn("foreturn-admit", "for the engine", admit);
    let clock = crate::thread::spawn("foreturn-clock", "for the engine", watch);
    match (admission, clock) {
        (Ok(admission), Ok(clock)) => Ok((commands, vec![admission, clock, owner])),
        (admission, clock) => {
            shared.admission.close();
            drop(commands.send(Command::Shutdown));
            drop(owner.join());
            let started = [admission, clock].into_iter().map(|thread| thread.map(|thread| drop(thread.join())));
            Err(started.filter_map(Result::err).next().unwrap_or_else(|| Error::internal("no thread")))
        }
    }
}

fn other(make: ChatModelFactory) -> Factory {
    Box::new(move || Ok(Model::Other(make()?)))
}

/// Makes a model that an endpoint runs; its key is read now.
#[cfg(feature = "remote")]
fn remote_factory(name: &str, model: &ModelConfig, remote: &RemoteConfig) -> Result<Factory> {
    let endpoint = remote.endpoint(name, model.extensions()).map_err(|e| e.context(format!("model `{name}`")))?;
    Ok(other(Box::new(move || Ok(Box::new(RemoteChat::new(endpoint)?)))))
}

#[cfg(not(feature = "remote"))]
fn remote_factory(name: &str, _: &ModelConfig, _: &RemoteConfig) -> Result<Factory> {
    Err(crate::Error::unsupported(format!(
        "model `{name}` has a base_url, and this build has no remote models. Build with the feature `remote`, or give \
         the path of an exported model"
    )))
}

/// The plan for rankings, or why these models can't be ranked with. Metrics count tokens with the policy's tokenizer, or words
/// where it is not ours. Names of models that aren't there, and metrics that don't go together, are errors at once.
fn plan(
    config: &Config,
    hosts: &[String],
    policy: Option<String>,
    metrics: Vec<WeightedMetric>,
    locals: &Locals,
) -> Result<Result<RankPlan>> {
    let tokenizer = policy.and_then(|name| locals.get(&name)).map(|local| Arc::clone(local.folder.tokenizer()));
    let count_tokens = Arc::new(move |text: &str| match &tokenizer {
        Some(tokenizer) => tokenizer.encode_text(text).map_or(0, |tokens| tokens.len()),
        None => text.split_whitespace().count(),
    });
    let mut plan = config.plan_with(count_tokens, hosts)?;
    plan.metrics.extend(metrics);
    WeightedMetric::check_all(&plan.metrics)?;
    let checked = check_models(&plan.metrics, locals);
    Ok(checked.map(|()| plan))
}

fn check_models(metrics: &[WeightedMetric], locals: &Locals) -> Result<()> {
    for WeightedMetric { name, metric, .. } in metrics {
        for model in metric.models() {
            let Some(local) = locals.get(&*model) else { continue };
            metric.check_model(&model, &local.folder).map_err(|e| e.context(format!("metric `{name}`")))?;
        }
    }
    Ok(())
}

/// Refuses models that are to play a role and can't be given a conversation.
pub(super) fn check_templates(plan: &RankPlan, roles: Vec<ModelRole>, locals: &Locals) -> Result<()> {
    for role in roles {
        let Some((role, name)) = plan.roles.resolve(role) else { continue };
        let Some(local) = locals.get(name).filter(|local| local.folder.head().is_none()) else { continue };
        let checked = local.folder.tokenizer().check_template(&local.prompting.render);
        checked.map_err(|e| e.context(format!("roles.{}: model `{name}`", role.as_str())))?;
    }
    Ok(())
}

fn runtime_options(config: &RuntimeConfig, places: Places) -> RuntimeOptions {
    RuntimeOptions {
        library: config.library.clone(),
        places,
        threads: config.threads.unwrap_or(0),
        cores: config.cores.clone(),
        providers: config.providers.clone(),
        on_unavailable: config.on_unavailable,
        provider_options: config.provider_options.clone(),
        step_limit: Duration::from_secs(config.step_limit_s),
        profile: config.profile.clone(),
    }
}

fn decode_options(config: &RuntimeConfig) -> DecodeOptions {
    let default = DecodeOptions::default();
    DecodeOptions {
        kv_cache: config.kv_cache.map_or(default.kv_cache, |size| size.0 as usize),
        step_budget: Duration::from_millis(config.step_budget_ms),
        ..default
    }
}

/// Loads a local model, for the thread to call.
fn local_factory(name: &str, local: Arc<Local>, version: Option<String>) -> Factory {
    let name: Arc<str> = name.into();
    Box::new(move || {
        let (Local { folder, prompting, .. }, Recipe { decode, runtime, .. }) = (&*local, &local.recipe);
        let version = version.as_deref().unwrap_or(folder.fingerprint());
        let weights = Weights::load(Arc::clone(folder), None, version, decode, runtime);
        let weights = weights.map_err(|e| e.context(format!("model `{name}`")))?;
        Ok(Model::Local(Box::new(LocalChat::new(name, weights, prompting.clone(), decode))))
    })
}
