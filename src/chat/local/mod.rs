//! An exported model as a chat model: its chat template and tokenizer over a [`LocalModel`], which takes tokens.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

mod backend;
mod model;

use self::backend::Loaded;
use self::model::LocalModel;
pub use self::model::ModelStatus;
pub(crate) use self::model::{Completion, Output, Task};
use super::{ChatOutput, ChatReply, ChatRequest, ChatTask, Finish, Message, Role, SampledTokens, Ticket};
use crate::decode::reader::{Generate, GenerateOptions};
use crate::decode::urgency::Urgency;
use crate::decode::{DecodeOptions, DecoderStats};
use crate::message::{self, reasoning};
use crate::model::ModelFolder;
use crate::model::source::Source;
use crate::model::tokenizer::RenderOptions;
use crate::runtime::RuntimeOptions;
use crate::score::ScoreInput;
use crate::score::input::{self, Prompting};
use crate::{Error, Result, thread};

/// A model in this process, with its tokenizer and chat template.
pub(crate) struct LocalChat {
    name: Arc<str>,
    model: LocalModel,
    prompting: Prompting,
    /// Whether the chat template takes no system message, so that one goes in front of the first message instead.
    folds_system: bool,
    bitwise: bool,
    /// What its weights are called.
    weights: Arc<str>,
    refreshes: u64,
    /// Requests that are chats; the others get their [`Completion`].
    chats: HashMap<Ticket, Chat>,
}

/// What is known of a chat's prompt.
#[derive(Default)]
struct Chat {
    /// See [`ChatOutput::Text`].
    retokenized_differs: Vec<usize>,
    /// Whether the prompt ended in the middle of reasoning.
    opens_reasoning: bool,
}

/// A model's weights, loaded and ready. A thread may load them for another.
pub(crate) struct Weights {
    loaded: Loaded,
    /// What they are called.
    pub(crate) version: Arc<str>,
}

impl Weights {
    /// The folder that they were loaded from, or for.
    pub(crate) fn folder(&self) -> &Arc<ModelFolder> {
        self.loaded.folder()
    }

    /// Loads those of `given` for `folder`'s graph, or those in its files, under the name `version`.
    ///
    /// # Errors
    /// The model can't be loaded; or weights are given, and the model is not on the paged path.
    pub(crate) fn load(
        folder: Arc<ModelFolder>,
        given: Option<&dyn Source>,
        version: &str,
        decode: &DecodeOptions,
        runtime: &RuntimeOptions,
    ) -> Result<Self> {
        let load = || Loaded::load(folder, given, decode, runtime);
        let loaded = match &runtime.cores {
            None => load()?,
            // Threads that begin meanwhile stay on them, and the thread that asks is not the engine's to confine.
            Some(cores) => std::thread::scope(|scope| {
                let load = || cores.confine().and_then(|()| load());
                thread::join(thread::spawn_scoped(scope, "foreturn-load", "to load weights", load)?)
            })?,
        };
        Ok(Weights { loaded, version: version.into() })
    }
}

/// What a request gave.
pub(crate) enum Answer {
    /// Of a [`ChatRequest`], and what the weights are called that it was computed with, where known.
    Chat(ChatReply, Option<Arc<str>>),
    /// Of a [`Task`].
    Task(Completion),
}

impl LocalChat {
    /// Makes a model called `name`; `prompting` says how conversations become its prompts.
    pub(crate) fn new(name: Arc<str>, weights: Weights, prompting: Prompting, decode: &DecodeOptions) -> Self {
        let Weights { loaded, version } = weights;
        let folder = loaded.folder();
        let render = RenderOptions { model: Some(Arc::clone(&name)), ..prompting.render };
        LocalChat {
            name,
            folds_system: folder.tokenizer().refuses_system(&render),
            bitwise: folder.inspect().bitwise,
            model: LocalModel::new(loaded, decode),
            prompting: Prompting { render, ..prompting },
            weights: version,
            refreshes: 0,
            chats: HashMap::new(),
        }
    }

    /// Takes other weights of the same model; its prompts stay what they are. Gives back the old ones.
    ///
    /// # Errors
    /// Requests are under way. Nothing has changed then.
    pub(crate) fn exchange(&mut self, fresh: Weights) -> Result<Weights> {
        let loaded = self.model.exchange(fresh.loaded)?;
        self.bitwise = self.folder().inspect().bitwise;
        self.refreshes += 1;
        Ok(Weights { loaded, version: std::mem::replace(&mut self.weights, fresh.version) })
    }

    /// Queues what computes the pinned prefixes again. Nobody has to take what comes of it.
    pub(crate) fn rewarm(&mut self) -> Result<Vec<Ticket>> {
        self.model.rewarm()
    }

    pub(crate) fn folder(&self) -> &Arc<ModelFolder> {
        self.model.folder()
    }

    /// What its weights are called.
    pub(crate) fn weights(&self) -> &Arc<str> {
        &self.weights
    }

    /// See [`ChatModel::is_bitwise`](super::ChatModel::is_bitwise).
    pub(crate) fn is_bitwise(&self) -> bool {
        self.bitwise
    }

    pub(crate) fn stats(&self) -> DecoderStats {
        self.model.stats()
    }

    pub(crate) fn status(&self) -> ModelStatus {
        let (provider, weights) = (self.model.provider().clone(), self.weights.to_string());
        let (refreshes, block_bytes) = (self.refreshes, self.folder().block_bytes());
        ModelStatus { provider, weights, refreshes, block_bytes, stats: self.stats() }
    }

    /// The date that its prompts show, where its chat template prints one.
    pub(crate) fn prompt_date(&self) -> Option<String> {
        let date = self.prompting.render.date?;
        self.folder().tokenizer().shows_date(&self.prompting.render).then(|| date.to_string())
    }

    /// Queues a task. As [`LocalChat::submit`].
    pub(crate) fn submit_task(&mut self, task: Task, urgency: Urgency) -> Result<Ticket> {
        self.model.submit(task, urgency)
    }

    /// Queues a chat.
    ///
    /// # Errors
    /// As [`ChatModel::submit`](super::ChatModel::submit).
    pub(crate) fn submit(&mut self, request: ChatRequest, urgency: Urgency) -> Result<Ticket> {
        let folder = Arc::clone(self.folder());
        folder.check_bytes("the conversation", message::bytes(&request.messages))?;
        let ChatRequest { messages, task, seed } = request;
        let messages = if self.folds_system { folded(messages) } else { messages };
        let (ticket, chat) = match task {
            ChatTask::Score(task) => {
                let encoded = input::encode(&folder, &self.prompting, ScoreInput::of(messages, &task), &task)?;
                (self.model.submit(Task::Score(encoded, task), urgency)?, Chat::default())
            }
            ChatTask::Choose { answers } => {
                let prompt = folder.tokenizer().encode_chat(&messages, &self.prompting.render)?;
                (self.model.choose(prompt.tokens, &answers, urgency)?, Chat::default())
            }
            ChatTask::Generate { max_tokens, sampling, stop, schema, speaker } => {
                let (prompt, controls) = match speaker {
                    Role::User => (
                        folder.tokenizer().encode_user_turn(&messages, &self.prompting.render)?,
                        controls(&stop, &folder),
                    ),
                    _ => (folder.tokenizer().encode_chat(&messages, &self.prompting.render)?, Vec::new()),
                };
                let options =
                    GenerateOptions { max_tokens, sampling, seed, stop, schema, ..GenerateOptions::default() };
                let ticket = self.model.generate(prompt.tokens, options, controls, urgency)?;
                let (retokenized_differs, opens_reasoning) = (prompt.retokenized_differs, prompt.opens_reasoning);
                (ticket, Chat { retokenized_differs, opens_reasoning })
            }
        };
        self.chats.insert(ticket, chat);
        Ok(ticket)
    }

    /// Runs one step. Returns whether requests are under way.
    pub(crate) fn step(&mut self) -> bool {
        self.model.step();
        !self.model.is_idle()
    }

    /// Appends what has ended, by a step or by [`LocalChat::end`].
    pub(crate) fn collect(&mut self, finished: &mut Vec<(Ticket, Result<Answer>)>) {
        for (ticket, result) in self.model.take_ready() {
            let answer = match self.chats.remove(&ticket) {
                Some(chat) => result
                    .and_then(|completion| self.reply(completion, chat))
                    .map(|reply| Answer::Chat(reply, Some(Arc::clone(&self.weights)))),
                None => result.map(Answer::Task),
            };
            finished.push((ticket, answer));
        }
    }

    /// Ends a request early, for the reason that `finish` gives. What was sampled until now is a reply, cut short.
    pub(crate) fn end(&mut self, ticket: Ticket, finish: Finish) {
        self.model.end(ticket, finish);
    }

    /// Undoes [`Task::Warm`].
    pub(crate) fn unpin(&mut self, key: u64) {
        self.model.unpin(key);
    }

    /// Says when nobody will wait for this model any more, unless told otherwise by then.
    pub(crate) fn end_by(&mut self, end: Option<Instant>) {
        self.model.end_by(end);
    }

    fn reply(&self, Completion { output, usage }: Completion, chat: Chat) -> Result<ChatReply> {
        let output = match output {
            Output::Reply(reader) => self.text(*reader, chat),
            Output::Choice(probabilities) => ChatOutput::Choice { probabilities },
            Output::Score(score) => ChatOutput::Score(score),
            Output::LogProbs(_) | Output::Warm => {
                return Err(Error::internal("a chat was answered with what no chat asks for"));
            }
        };
        Ok(ChatReply { output, usage, note: None })
    }

    fn text(&self, mut reader: Generate, chat: Chat) -> ChatOutput {
        // JSON is no reasoning, whatever the prompt opened.
        if chat.opens_reasoning && !reader.is_constrained() {
            reader.text = reasoning::with_opening(std::mem::take(&mut reader.text));
        }
        // A stop text is cut from the text, so the tokens no longer spell it.
        let tokens = self.spells(&reader).then(|| {
            let ids = reader.reply_tokens().into();
            SampledTokens { model: Arc::clone(&self.name), ids }
        });
        let finish = reader.finish.unwrap_or(Finish::Cancelled);
        ChatOutput::Text { text: reader.text, tokens, finish, retokenized_differs: chat.retokenized_differs }
    }

    fn spells(&self, reader: &Generate) -> bool {
        self.folder().tokenizer().decode(reader.reply_tokens(), true).is_ok_and(|text| text == reader.text)
    }
}

/// The conversation with its system message in front of the first message after it.
fn folded(mut messages: Vec<Message>) -> Vec<Message> {
    if messages.len() > 1 && messages[0].role == Role::System {
        let system = messages.remove(0);
        let first = &mut messages[0];
        first.content = format!("{}\n\n{}", system.content, first.content);
        // The tokens it was sampled as, if it was, no longer spell it.
        first.tokens = None;
    }
    messages
}

/// The stop texts that are control tokens of the model.
fn controls(stop: &[String], folder: &ModelFolder) -> Vec<(u32, String)> {
    stop.iter().filter_map(|text| Some((folder.tokenizer().control_token(text)?, text.clone()))).collect()
}
