//! One model of an engine: replies, log-probabilities, prompts, warm prefixes.

use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock, Weak};

use super::call::{Call, Prepare};
use super::command::Command;
use super::pending::Pending;
use super::statistics::Stage;
use super::{Engine, Limits, Local, ModelStatus, Shared};
use crate::chat::local::{Completion, Output, Task};
use crate::chat::{Finish, Message, Usage};
use crate::decode::GenerateOptions;
use crate::message;
use crate::model::ModelFolder;
use crate::score::ScoreInput;
use crate::{Error, Result};

/// A model by its name. Cheap to share: clone it.
///
/// Local models can be asked for tokens and scores. Those behind endpoints, and the host's own, only play roles in rankings;
/// what they can't be asked is refused.
///
/// ```no_run
/// use foreturn::Engine;
/// use foreturn::chat::{Message, Role};
/// use foreturn::decode::GenerateOptions;
///
/// # fn main() -> foreturn::Result<()> {
/// # let engine = Engine::new(foreturn::Config::default())?;
/// let policy = engine.model("policy")?;
/// let reply = policy.generate(vec![Message::new(Role::User, "Name a sea.")], GenerateOptions::default())?;
/// println!("{}", reply.text);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Model {
    pub(super) engine: Engine,
    pub(super) index: usize,
    pub(super) name: Arc<str>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a model is to continue or to score.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Prompt {
    /// A conversation, rendered with the model's chat template.
    Messages {
        /// What was said.
        messages: Vec<Message>,
        /// Whether the header of a reply follows, so that the assistant speaks next.
        add_generation_prompt: bool,
    },
    /// These very tokens.
    Tokens(Vec<u32>),
}

impl Prompt {
    /// A conversation as it stands, without the header of a further reply.
    pub fn as_is(messages: Vec<Message>) -> Self {
        Prompt::Messages { messages, add_generation_prompt: false }
    }
}

/// A conversation in which the assistant speaks next.
impl From<Vec<Message>> for Prompt {
    fn from(messages: Vec<Message>) -> Self {
        Prompt::Messages { messages, add_generation_prompt: true }
    }
}

impl From<Vec<u32>> for Prompt {
    fn from(tokens: Vec<u32>) -> Self {
        Prompt::Tokens(tokens)
    }
}

/// A sampled reply.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Generation {
    /// The prompt as the model saw it.
    pub prompt_tokens: Vec<u32>,
    /// The sampled tokens, with the one that ended the turn.
    pub tokens: Vec<u32>,
    /// Their text, without special tokens and stop text.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// Log-probability of each sampled token under the model, before temperature and truncation, in nats.
    pub logprobs: Vec<f32>,
    /// What it cost.
    pub usage: Usage,
}

/// How likely a model finds a text.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LogProbs {
    /// The text as the model saw it.
    pub tokens: Vec<u32>,
    /// Log-probability of each token after the first, given the ones before it, in nats; one fewer than tokens.
    pub logprobs: Vec<f32>,
    /// What it cost.
    pub usage: Usage,
}

/// A prefix that stays in a model's cache; dropping it lets the prefix go.
#[derive(Debug)]
pub struct Pin {
    /// Not the engine itself: a pin doesn't keep it.
    commands: Sender<Command>,
    engine: Weak<Shared>,
    model: usize,
    name: Arc<str>,
    key: u64,
    /// The conversation, where one was pinned.
    history: Option<Arc<[Message]>>,
    tokens: Vec<u32>,
}

impl Pin {
    /// How many tokens the prefix has.
    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }

    /// The conversation that is pinned; `None` for tokens.
    pub fn conversation(&self) -> Option<&[Message]> {
        self.history.as_deref()
    }

    /// # Errors
    /// The prefix belongs to another engine.
    pub(super) fn check_engine(&self, engine: &Engine) -> Result<()> {
        if std::ptr::eq(self.engine.as_ptr(), Arc::as_ptr(&engine.inner.shared)) {
            return Ok(());
        }
        Err(Error::invalid_request(format!(
            "the pin belongs to another engine, whose model `{}` keeps the prefix. Warm it in this one, too",
            self.name
        )))
    }

    /// # Errors
    /// The prefix belongs to another engine, or to another model of this one.
    pub(super) fn check(&self, engine: &Engine, model: &str) -> Result<()> {
        self.check_engine(engine)?;
        if *self.name == *model {
            return Ok(());
        }
        Err(Error::invalid_request(format!(
            "the pin belongs to model `{}`, and model `{model}` is asked, which doesn't keep the prefix. Warm it there, too",
            self.name
        )))
    }

    /// # Errors
    /// It holds tokens.
    pub(super) fn history(&self) -> Result<&Arc<[Message]>> {
        self.history.as_ref().ok_or_else(|| {
            Error::invalid_request(
                "the pin holds tokens and no conversation, so a text can't reply to it. Pin the messages, or give the \
                 tokens of the responses",
            )
        })
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        // An engine that has ended has let go of everything.
        drop(self.commands.send(Command::Unpin { model: self.model, key: self.key }));
    }
}

impl Model {
    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same model, for requests within these limits.
    #[must_use]
    pub fn within(&self, limits: Limits) -> Model {
        Model { engine: self.engine.within(limits), ..self.clone() }
    }

    /// Samples a reply. A deadline or a cancellation cuts it short; [`Generation::finish`] says so.
    ///
    /// # Errors
    /// It is not a local model, the prompt can't be taken, the queue is full, or the model failed.
    pub fn generate(&self, prompt: impl Into<Prompt>, options: GenerateOptions) -> Result<Generation> {
        self.submit_generate(prompt, options)?.wait()
    }

    /// Queues a reply.
    ///
    /// # Errors
    /// It is not a local model, or the queue is full. What is wrong with the prompt shows in the result.
    pub fn submit_generate(&self, prompt: impl Into<Prompt>, options: GenerateOptions) -> Result<Pending<Generation>> {
        let (prepare, prompt) = self.prepare(prompt.into(), |tokens| Ok(Task::Generate(tokens, options)))?;
        self.call(Stage::Generate, prepare, move |Completion { output, usage }| match output {
            Output::Reply(reply) => Ok(Generation {
                prompt_tokens: taken(&prompt),
                tokens: reply.tokens,
                text: reply.text,
                finish: reply.finish.unwrap_or(Finish::Cancelled),
                logprobs: reply.logprobs,
                usage,
            }),
            _ => mixed(),
        })
    }

    /// How likely the model finds each token of `prompt` after the first.
    ///
    /// # Errors
    /// As [`Model::generate`]; a single token has nothing to score.
    pub fn logprobs(&self, prompt: impl Into<Prompt>) -> Result<LogProbs> {
        self.submit_logprobs(prompt)?.wait()
    }

    /// Queues log-probabilities.
    ///
    /// # Errors
    /// As [`Model::submit_generate`].
    pub fn submit_logprobs(&self, prompt: impl Into<Prompt>) -> Result<Pending<LogProbs>> {
        let task = |tokens: Vec<u32>| {
            if tokens.len() < 2 {
                return Err(Error::invalid_request(
                    "log-probabilities need at least two tokens: one to condition on, one to score",
                ));
            }
            Ok(Task::LogProbs(tokens))
        };
        let (prepare, prompt) = self.prepare(prompt.into(), task)?;
        self.call(Stage::LogProbs, prepare, move |Completion { output, usage }| match output {
            Output::LogProbs(logprobs) => Ok(LogProbs { tokens: taken(&prompt), logprobs, usage }),
            _ => mixed(),
        })
    }

    /// Computes a prefix ahead of its use and keeps it in the cache until the pin is dropped. Language models and decoders
    /// that score have such a cache. A prefix that is not there by the deadline is let go.
    ///
    /// # Errors
    /// As [`Model::generate`]; the memory budget has no room for it; the model has no cache.
    pub fn warm(&self, prompt: impl Into<Prompt>) -> Result<Pin> {
        self.submit_warm(prompt)?.wait()
    }

    /// Queues a prefix to be warmed.
    ///
    /// # Errors
    /// As [`Model::submit_generate`].
    pub fn submit_warm(&self, prompt: impl Into<Prompt>) -> Result<Pending<Pin>> {
        let key = self.engine.inner.pins.fetch_add(1, Ordering::Relaxed);
        let prompt = prompt.into();
        let history = match &prompt {
            Prompt::Messages { messages, .. } => Some(messages.as_slice().into()),
            Prompt::Tokens(_) => None,
        };
        let (prepare, prompt) = self.prepare(prompt, move |tokens| Ok(Task::Warm(key, tokens)))?;
        // Made first, so that a failure lets go of what was pinned by then.
        let (commands, engine) = (self.engine.inner.commands.clone(), Arc::downgrade(&self.engine.inner.shared));
        let (model, name) = (self.index, Arc::clone(&self.name));
        let pin = Pin { commands, engine, model, name, key, history, tokens: Vec::new() };
        self.call(Stage::Warm, prepare, move |_| {
            let mut pin = pin;
            pin.tokens = taken(&prompt);
            Ok(pin)
        })
    }

    /// Each of `replies` as the assistant's reply to the conversation in `pin`, to be scored by this model, which keeps that
    /// conversation. Nobody has to pass it again, and its tokens are not made again.
    ///
    /// ```no_run
    /// use foreturn::Engine;
    /// use foreturn::chat::{Message, Role};
    /// use foreturn::score::ScoreTask;
    ///
    /// # fn main() -> foreturn::Result<()> {
    /// # let engine = Engine::new(foreturn::Config::default())?;
    /// let judge = engine.model("reward-model")?;
    /// let pin = judge.warm(vec![Message::new(Role::User, "What is 2 + 3?")])?;
    /// let scores = judge.submit_score(judge.replies(&pin, ["5", "6"])?, ScoreTask::Labels)?.wait()?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The pin belongs to another engine or another model, or it holds tokens.
    pub fn replies(&self, pin: &Pin, replies: impl IntoIterator<Item = impl Into<String>>) -> Result<Vec<ScoreInput>> {
        pin.check(&self.engine, &self.name)?;
        Ok(ScoreInput::replies(Arc::clone(pin.history()?), replies))
    }

    /// Each of `responses` as the tokens that follow those in `pin`. As [`Model::replies`], for hosts that have tokens: nothing
    /// is rendered or tokenised.
    ///
    /// # Errors
    /// The pin belongs to another engine or another model.
    pub fn responses(&self, pin: &Pin, responses: impl IntoIterator<Item = Vec<u32>>) -> Result<Vec<ScoreInput>> {
        pin.check(&self.engine, &self.name)?;
        let input = |response| ScoreInput::Response { prompt: pin.tokens.clone(), response };
        Ok(responses.into_iter().map(input).collect())
    }

    /// The text that the model sees of `prompt`.
    ///
    /// # Errors
    /// It is not a local model, its template raises, or a token is not one of its own.
    pub fn render(&self, prompt: impl Into<Prompt>) -> Result<String> {
        let local = self.local()?;
        match prompt.into() {
            Prompt::Messages { messages, add_generation_prompt } => {
                local.folder.tokenizer().render(&messages, &local.render_options(add_generation_prompt))
            }
            Prompt::Tokens(tokens) => local.folder.tokenizer().decode(&tokens, false),
        }
    }

    /// The tokens that the model sees of `prompt`; how many they are says what it costs.
    ///
    /// # Errors
    /// As [`Model::render`]; the prompt is empty or longer than the model's context.
    pub fn tokens(&self, prompt: impl Into<Prompt>) -> Result<Vec<u32>> {
        encode(self.local()?, prompt.into())
    }

    /// How it runs, and its counters since it was loaded.
    ///
    /// # Errors
    /// It is not a local model, or the engine was closed.
    pub fn status(&self) -> Result<ModelStatus> {
        self.local()?;
        let status = self.engine.statistics()?.models.remove(&*self.name);
        status.ok_or_else(|| Error::internal("a local model without a status"))
    }

    /// The folder that it was loaded from.
    ///
    /// # Errors
    /// It is not a local model.
    pub fn folder(&self) -> Result<Arc<ModelFolder>> {
        self.local().map(|local| Arc::clone(&local.folder))
    }

    pub(super) fn local(&self) -> Result<&Arc<Local>> {
        self.engine.inner.locals.get(&*self.name).ok_or_else(|| {
            Error::invalid_request(format!(
                "model `{}` is not a local model, so its tokens can't be had: only rankings can use it",
                self.name
            ))
        })
    }

    /// What makes the task of a prompt, and where the prompt's tokens are then.
    fn prepare(
        &self,
        prompt: Prompt,
        task: impl FnOnce(Vec<u32>) -> Result<Task> + Send + 'static,
    ) -> Result<(Prepare, Arc<OnceLock<Vec<u32>>>)> {
        let (local, seen) = (Arc::clone(self.local()?), Arc::new(OnceLock::new()));
        let kept = Arc::clone(&seen);
        let prepare = move || {
            let tokens = encode(&local, prompt)?;
            kept.get_or_init(|| tokens.clone());
            task(tokens)
        };
        Ok((Prepare::once(prepare), seen))
    }

    /// Queues a call of one task.
    fn call<T: Send + 'static>(
        &self,
        stage: Stage,
        prepare: Prepare,
        read: impl FnOnce(Completion) -> Result<T> + Send + 'static,
    ) -> Result<Pending<T>> {
        let name = Arc::clone(&self.name);
        let only = |results: Vec<Result<Completion>>| results.into_iter().next().unwrap_or_else(mixed).and_then(read);
        self.engine.submit(move |respond| Box::new(Call::new(name, stage, prepare, only, respond)))
    }
}

fn encode(local: &Local, prompt: Prompt) -> Result<Vec<u32>> {
    let tokens = match prompt {
        Prompt::Tokens(tokens) => tokens,
        Prompt::Messages { messages, add_generation_prompt } => {
            local.folder.check_bytes("the conversation", message::bytes(&messages))?;
            local.folder.tokenizer().encode_chat(&messages, &local.render_options(add_generation_prompt))?.tokens
        }
    };
    crate::decode::check_prompt(&local.folder, &tokens)?;
    Ok(tokens)
}

/// The tokens of a prompt whose task is done.
fn taken(prompt: &OnceLock<Vec<u32>>) -> Vec<u32> {
    prompt.get().cloned().unwrap_or_default()
}

pub(super) fn mixed<T>() -> Result<T> {
    Err(Error::internal("a result of another kind than was asked for"))
}
