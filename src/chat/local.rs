//! An exported model as a chat model.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::backend::Backend;
use super::{
    ChatModel, ChatOutput, ChatReply, ChatRequest, ChatTask, Finish, Message, Role, SampledTokens, Ticket, Usage,
    reasoning,
};
use crate::decode::constraint::Constraints;
use crate::decode::reader::{AnyReader, Choose, Generate, GenerateOptions, LogProbs};
use crate::decode::scheduler::{Ended, SequenceCost, SequenceId};
use crate::decode::{DecodeOptions, DecoderStats};
use crate::model::ModelFolder;
use crate::model::tokenizer::{EncodedChat, RenderOptions};
use crate::runtime::{ProviderReport, RuntimeOptions};
use crate::score::input::{self, Encoded, Prompting};
use crate::score::output::{self, Given};
use crate::score::{ScoreInput, ScoreOutput, ScoreTask};
use crate::{Error, ErrorKind, Result};

/// A model in this process, with its tokenizer and chat template.
pub(crate) struct LocalChat {
    name: Arc<str>,
    backend: Backend,
    prompting: Prompting,
    /// Whether the chat template takes no system message, so that one goes in front of the first message instead.
    folds_system: bool,
    bitwise: bool,
    constraints: Constraints,
    next: u64,
    under_way: HashMap<SequenceId, UnderWay>,
    sequences: HashMap<Ticket, SequenceId>,
    /// Ended without a step: cancelled requests.
    ready: Vec<(Ticket, Result<ChatReply>)>,
    ended: Vec<Ended<AnyReader>>,
}

/// How a local model runs, and what it has done.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ModelStatus {
    /// Which execution provider runs it, and which preferred ones could not be had.
    pub provider: ProviderReport,
    /// Counters since it was loaded.
    pub stats: DecoderStats,
}

struct UnderWay {
    ticket: Ticket,
    start: Instant,
    /// See [`ChatOutput::Text`].
    retokenized_differs: Vec<usize>,
    /// Whether the prompt ended in the middle of reasoning.
    opens_reasoning: bool,
    /// What a score is read as; `None` for other requests.
    score: Option<ScoreTask>,
    /// Takes the whole result instead of the chat reply.
    direct: Option<OnCompletion>,
}

/// Receives the result of a request that is not a chat.
pub(crate) type OnCompletion = Box<dyn FnOnce(Result<Completion>) + Send>;

/// A finished request with everything that is known of its tokens.
#[derive(Debug, Clone)]
pub(crate) struct Completion {
    /// Sampled tokens, the end-of-turn token included; empty for scored tokens.
    pub(crate) tokens: Vec<u32>,
    pub(crate) text: String,
    pub(crate) finish: Finish,
    /// Of the sampled tokens, or of the scored ones.
    pub(crate) logprobs: Vec<f32>,
    /// Of a scoring request.
    pub(crate) score: Option<ScoreOutput>,
    pub(crate) usage: Usage,
}

impl LocalChat {
    /// Loads `folder`'s model under `name`; `prompting` says how conversations become its prompts.
    pub(crate) fn load(
        name: Arc<str>,
        folder: Arc<ModelFolder>,
        prompting: Prompting,
        decode: &DecodeOptions,
        runtime: &RuntimeOptions,
    ) -> Result<Self> {
        let bitwise = folder.inspect().bitwise;
        let render = RenderOptions { model: Some(Arc::clone(&name)), ..prompting.render };
        let folds_system = folder.tokenizer().refuses_system(&render);
        let backend = Backend::load(folder, decode, runtime).map_err(|e| e.context(format!("model `{name}`")))?;
        Ok(LocalChat {
            name,
            backend,
            prompting: Prompting { render, ..prompting },
            folds_system,
            bitwise,
            constraints: Constraints::default(),
            next: 0,
            under_way: HashMap::new(),
            sequences: HashMap::new(),
            ready: Vec::new(),
            ended: Vec::new(),
        })
    }

    pub(crate) fn folder(&self) -> &Arc<ModelFolder> {
        self.backend.folder()
    }

    pub(crate) fn status(&self) -> ModelStatus {
        ModelStatus { provider: self.backend.provider().clone(), stats: self.backend.stats() }
    }

    /// Samples a reply to these very tokens. `done` gets a refusal too; then there is no ticket.
    pub(crate) fn generate(
        &mut self,
        tokens: Vec<u32>,
        options: GenerateOptions,
        done: OnCompletion,
    ) -> Option<Ticket> {
        match self.generate_reader(options, tokens.len()) {
            Ok(reader) => {
                let max_new = reader.max_tokens();
                self.queue_direct(tokens, max_new, AnyReader::Generate(Box::new(reader)), done)
            }
            Err(error) => refuse(done, error),
        }
    }

    /// Scores each token of `tokens` after the first, given the ones before it. `done` as for [`LocalChat::generate`].
    pub(crate) fn logprobs(&mut self, tokens: Vec<u32>, done: OnCompletion) -> Option<Ticket> {
        let reader = AnyReader::LogProbs(LogProbs::new(tokens.clone().into(), 0));
        self.queue_direct(tokens, 0, reader, done)
    }

    /// Scores a text for `task`. `done` as for [`LocalChat::generate`].
    pub(crate) fn score(&mut self, encoded: Encoded, task: ScoreTask, done: OnCompletion) -> Option<Ticket> {
        match self.backend.score(encoded) {
            Ok(id) => Some(self.track(id, EncodedChat::default(), Some(task), Some(done))),
            Err(error) => refuse(done, error),
        }
    }

    /// Keeps a prefix's full blocks in the cache, and computes those that are not there. `done` as for
    /// [`LocalChat::generate`].
    pub(crate) fn warm(&mut self, key: u64, tokens: Vec<u32>, done: OnCompletion) -> Option<Ticket> {
        match self.backend.warm(key, tokens) {
            Ok(id) => Some(self.track(id, EncodedChat::default(), None, Some(done))),
            Err(error) => refuse(done, error),
        }
    }

    /// Undoes [`LocalChat::warm`].
    pub(crate) fn unpin(&mut self, key: u64) {
        self.backend.unpin(key);
    }

    /// Says when nobody will wait for this model any more, unless told otherwise by then.
    pub(crate) fn end_by(&mut self, end: Option<Instant>) {
        self.backend.end_by(end);
    }

    /// Whether a request has not ended yet.
    pub(crate) fn is_under_way(&self, ticket: Ticket) -> bool {
        self.sequences.contains_key(&ticket)
    }

    /// Ends a request early, for the reason that `finish` gives. What was sampled until now is a reply, cut short.
    pub(crate) fn end(&mut self, ticket: Ticket, finish: Finish) {
        let Some(&id) = self.sequences.get(&ticket) else { return };
        let Some((mut reader, cost)) = self.backend.cancel(id) else { return };
        let result = match (&mut reader, finish) {
            (AnyReader::Generate(reader), _) => reader.end(finish).map(|_| ()),
            (_, Finish::Deadline) => {
                Err(Error::new(ErrorKind::DeadlineExceeded, "the deadline passed before the result was there"))
            }
            _ => Err(Error::new(ErrorKind::Cancelled, "the request was cancelled")),
        };
        self.complete(id, reader, cost, result);
    }

    /// Answers every request that is not a chat with `error`, because nobody will drive this model any more.
    pub(crate) fn close(&mut self, error: &Error) {
        for (_, under_way) in self.under_way.drain() {
            if let Some(done) = under_way.direct {
                done(Err(error.duplicate()));
            }
        }
    }

    fn generate_reader(&mut self, options: GenerateOptions, prompt: usize) -> Result<Generate> {
        let folder = self.backend.folder();
        if prompt == 0 {
            return Err(Error::invalid_request("the prompt is empty; give at least one token"));
        }
        let (tokenizer, stop_tokens) = (folder.tokenizer(), folder.stop_tokens());
        let start = |schema: &_| self.constraints.start(schema, tokenizer, &stop_tokens);
        let constraint = options.schema.as_ref().map(start).transpose()?;
        Generate::new(options, prompt, folder.context_length(), tokenizer, &stop_tokens, constraint)
    }

    fn queue_direct(
        &mut self,
        tokens: Vec<u32>,
        max_new: usize,
        reader: AnyReader,
        done: OnCompletion,
    ) -> Option<Ticket> {
        match self.backend.submit(tokens, max_new, reader) {
            Ok(id) => Some(self.track(id, EncodedChat::default(), None, Some(done))),
            Err(error) => refuse(done, error),
        }
    }

    fn queue_chat(&mut self, mut prompt: EncodedChat, max_new: usize, reader: AnyReader) -> Result<Ticket> {
        let id = self.backend.submit(std::mem::take(&mut prompt.tokens), max_new, reader)?;
        Ok(self.track(id, prompt, None, None))
    }

    fn track(
        &mut self,
        id: SequenceId,
        prompt: EncodedChat,
        score: Option<ScoreTask>,
        direct: Option<OnCompletion>,
    ) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.sequences.insert(ticket, id);
        let EncodedChat { retokenized_differs, opens_reasoning, .. } = prompt;
        let start = Instant::now();
        self.under_way.insert(id, UnderWay { ticket, start, retokenized_differs, opens_reasoning, score, direct });
        ticket
    }

    /// Turns an ended sequence into whatever was asked for.
    fn complete(&mut self, id: SequenceId, reader: AnyReader, cost: SequenceCost, result: Result<()>) {
        let Some(mut under_way) = self.under_way.remove(&id) else { return };
        self.sequences.remove(&under_way.ticket);
        let usage = Usage {
            prompt_tokens: cost.prompt as u64,
            reused_tokens: cost.reused() as u64,
            generated_tokens: match &reader {
                AnyReader::Generate(reader) => reader.tokens.len() as u64,
                _ => 0,
            },
            seconds: under_way.start.elapsed().as_secs_f64(),
        };
        if let Some(done) = under_way.direct.take() {
            let completion = result.and_then(|()| match &under_way.score {
                Some(task) => {
                    let score = self.read_score(task, reader, cost.prompt)?;
                    Ok(Completion { score: Some(score), ..Completion::of(usage) })
                }
                None => Ok(completion(reader, usage)),
            });
            return done(completion);
        }
        let output = result.and_then(|()| match &under_way.score {
            Some(task) => self.read_score(task, reader, cost.prompt).map(ChatOutput::Score),
            None => Ok(self.output(reader, &under_way)),
        });
        self.ready.push((under_way.ticket, output.map(|output| ChatReply { output, usage })));
    }

    fn read_score(&self, task: &ScoreTask, reader: AnyReader, tokens: usize) -> Result<ScoreOutput> {
        let numbers = match reader {
            AnyReader::Rows(reader) => reader.rows,
            AnyReader::LogProbs(reader) => reader.logprobs,
            _ => return Err(Error::internal("a score was not read as one")),
        };
        output::read(self.folder(), task, Given { numbers, tokens })
    }

    fn output(&self, reader: AnyReader, under_way: &UnderWay) -> ChatOutput {
        match reader {
            AnyReader::Generate(mut reader) => {
                // JSON is no reasoning, whatever the prompt opened.
                if under_way.opens_reasoning && !reader.is_constrained() {
                    reader.text = reasoning::with_opening(std::mem::take(&mut reader.text));
                }
                // A stop text is cut from the text, so the tokens no longer spell it.
                let spelled = self.spells(&reader);
                let retokenized_differs = under_way.retokenized_differs.clone();
                let ids =
                    spelled.then(|| SampledTokens { model: Arc::clone(&self.name), ids: reader.reply_tokens().into() });
                let finish = reader.finish.unwrap_or(Finish::Cancelled);
                ChatOutput::Text { text: reader.text, tokens: ids, finish, retokenized_differs }
            }
            AnyReader::Choose(reader) => ChatOutput::Choice { probabilities: reader.probabilities },
            AnyReader::LogProbs(_) | AnyReader::Rows(_) => ChatOutput::Choice { probabilities: Vec::new() },
        }
    }

    fn spells(&self, reader: &Generate) -> bool {
        let tokenizer = self.backend.folder().tokenizer();
        tokenizer.decode(reader.reply_tokens(), true).is_ok_and(|text| text == reader.text)
    }
}

/// Bytes of what is said in a conversation.
pub(crate) fn bytes(messages: &[Message]) -> usize {
    messages.iter().map(|message| message.content.len()).sum()
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

/// Those of the stop texts that are control tokens of the model.
fn controls(stop: &[String], folder: &ModelFolder) -> Vec<(u32, String)> {
    stop.iter().filter_map(|text| Some((folder.tokenizer().control_token(text)?, text.clone()))).collect()
}

fn refuse(done: OnCompletion, error: Error) -> Option<Ticket> {
    done(Err(error));
    None
}

impl Completion {
    /// One of which nothing is known but what it cost.
    fn of(usage: Usage) -> Self {
        let (tokens, text, logprobs) = (Vec::new(), String::new(), Vec::new());
        Completion { tokens, text, finish: Finish::Stop, logprobs, score: None, usage }
    }
}

fn completion(reader: AnyReader, usage: Usage) -> Completion {
    let empty = Completion::of(usage);
    match reader {
        AnyReader::Generate(reader) => Completion {
            tokens: reader.tokens,
            text: reader.text,
            finish: reader.finish.unwrap_or(Finish::Cancelled),
            logprobs: reader.logprobs,
            ..empty
        },
        AnyReader::LogProbs(reader) => Completion { logprobs: reader.logprobs, ..empty },
        AnyReader::Choose(_) | AnyReader::Rows(_) => empty,
    }
}

impl ChatModel for LocalChat {
    fn name(&self) -> &str {
        &self.name
    }

    fn weights(&self) -> Option<String> {
        Some(self.folder().fingerprint().to_owned())
    }

    fn prompt_date(&self) -> Option<String> {
        let date = self.prompting.render.date?;
        self.folder().tokenizer().shows_date(&self.prompting.render).then(|| date.to_string())
    }

    fn is_bitwise(&self) -> bool {
        self.bitwise
    }

    fn submit(&mut self, request: ChatRequest) -> Result<Ticket> {
        let folder = Arc::clone(self.backend.folder());
        folder.check_bytes("the conversation", bytes(&request.messages))?;
        let messages = if self.folds_system { folded(request.messages) } else { request.messages };
        if let ChatTask::Score(task) = request.task {
            let encoded = input::encode(&folder, &self.prompting, ScoreInput::of(messages, &task), &task)?;
            let id = self.backend.score(encoded)?;
            return Ok(self.track(id, EncodedChat::default(), Some(task), None));
        }
        let prompt = match request.task {
            ChatTask::Generate { speaker: Role::User, .. } => {
                folder.tokenizer().encode_user_turn(&messages, &self.prompting.render)?
            }
            _ => folder.tokenizer().encode_chat(&messages, &self.prompting.render)?,
        };
        let length = prompt.tokens.len();
        match request.task {
            ChatTask::Generate { max_tokens, sampling, stop, schema, speaker } => {
                let seed = request.seed;
                let controls = if speaker == Role::User { controls(&stop, &folder) } else { Vec::new() };
                let options =
                    GenerateOptions { max_tokens, sampling, seed, stop, schema, ..GenerateOptions::default() };
                let reader = self.generate_reader(options, length)?.ending_with(controls);
                let max_new = reader.max_tokens();
                self.queue_chat(prompt, max_new, AnyReader::Generate(Box::new(reader)))
            }
            ChatTask::Choose { answers } => {
                let answers = answers
                    .iter()
                    .map(|spellings| folder.tokenizer().answer_tokens(spellings))
                    .collect::<Result<_>>()?;
                let reader = AnyReader::Choose(Choose::new(length.max(1), answers));
                self.queue_chat(prompt, 0, reader)
            }
            ChatTask::Score(_) => Err(Error::internal("a score is not asked as a chat")),
        }
    }

    fn poll(&mut self, finished: &mut Vec<(Ticket, Result<ChatReply>)>) -> bool {
        let mut ended = std::mem::take(&mut self.ended);
        self.backend.step(&mut ended);
        for Ended { id, reader, cost, result } in ended.drain(..) {
            self.complete(id, reader, cost, result);
        }
        self.ended = ended;
        finished.append(&mut self.ready);
        !self.under_way.is_empty()
    }

    fn cancel(&mut self, ticket: Ticket) {
        self.end(ticket, Finish::Cancelled);
    }

    fn as_local(&mut self) -> Option<&mut LocalChat> {
        Some(self)
    }
}
