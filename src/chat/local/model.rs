//! A local model that takes tokens: replies, log-probabilities, choices, scores, warm prefixes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::backend::{Backend, Loaded};
use crate::chat::{Finish, Ticket, Usage};
use crate::decode::constraint::Constraints;
use crate::decode::reader::{AnyReader, Choose, Generate, GenerateOptions, LogProbs};
use crate::decode::scheduler::{Ended, SequenceCost, SequenceId};
use crate::decode::urgency::Urgency;
use crate::decode::{DecodeOptions, DecoderStats};
use crate::model::ModelFolder;
use crate::runtime::ProviderReport;
use crate::score::input::Encoded;
use crate::score::output::{self, Given};
use crate::score::{ScoreOutput, ScoreTask};
use crate::{Error, ErrorKind, Result};

/// How a local model runs, and what it has done.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct ModelStatus {
    /// Which execution provider runs it, and which preferred ones could not be had.
    pub provider: ProviderReport,
    /// What its weights are called: their version, or their fingerprint.
    pub weights: String,
    /// How often its weights were exchanged.
    pub refreshes: u64,
    /// Bytes of one block of its key-value cache; 0 if it has none.
    pub block_bytes: usize,
    /// Counters since it was loaded.
    pub stats: DecoderStats,
}

/// What a local model can be asked beside chats.
pub(crate) enum Task {
    /// Sample a reply to these tokens.
    Generate(Vec<u32>, GenerateOptions),
    /// Score each token after the first, given the ones before it.
    LogProbs(Vec<u32>),
    /// Keep a prefix in the cache under this key, and compute what is not there yet.
    Warm(u64, Vec<u32>),
    /// Score a text.
    Score(Encoded, ScoreTask),
}

impl Task {
    /// The same task once more; `None` where a part of its result may have been passed on.
    pub(crate) fn again(&self) -> Option<Task> {
        Some(match self {
            Task::Generate(tokens, options) => Task::Generate(tokens.clone(), options.again()?),
            Task::LogProbs(tokens) => Task::LogProbs(tokens.clone()),
            Task::Warm(key, tokens) => Task::Warm(*key, tokens.clone()),
            Task::Score(encoded, task) => Task::Score(encoded.clone(), task.clone()),
        })
    }
}

/// A finished request.
pub(crate) struct Completion {
    pub(crate) output: Output,
    pub(crate) usage: Usage,
}

/// What a request gave.
pub(crate) enum Output {
    /// The reader of a reply, which has ended.
    Reply(Box<Generate>),
    /// Of each token after the first.
    LogProbs(Vec<f32>),
    /// Probability that each answer opens the reply.
    Choice(Vec<f64>),
    Score(ScoreOutput),
    /// Of a prefix that is in the cache now.
    Warm,
}

/// A model in this process.
pub(super) struct LocalModel {
    backend: Backend,
    constraints: Constraints,
    next: u64,
    under_way: HashMap<SequenceId, UnderWay>,
    sequences: HashMap<Ticket, SequenceId>,
    /// Ended, and not handed out yet.
    ready: Vec<(Ticket, Result<Completion>)>,
    ended: Vec<Ended<AnyReader>>,
}

struct UnderWay {
    ticket: Ticket,
    start: Instant,
    /// What a score is read as; `None` for other requests.
    score: Option<ScoreTask>,
}

impl LocalModel {
    pub(super) fn new(loaded: Loaded, decode: &DecodeOptions) -> Self {
        LocalModel {
            backend: Backend::new(loaded, decode),
            constraints: Constraints::default(),
            next: 0,
            under_way: HashMap::new(),
            sequences: HashMap::new(),
            ready: Vec::new(),
            ended: Vec::new(),
        }
    }

    /// Takes other weights of the same model, and gives back the old ones.
    ///
    /// # Errors
    /// Requests are under way. Nothing has changed then.
    pub(super) fn exchange(&mut self, fresh: Loaded) -> Result<Loaded> {
        self.backend.exchange(fresh)
    }

    /// Queues what computes the pinned prefixes again. Nobody has to take what comes of it.
    pub(super) fn rewarm(&mut self) -> Result<Vec<Ticket>> {
        let queued = self.backend.rewarm()?;
        Ok(queued.into_iter().map(|id| self.track(id, None)).collect())
    }

    pub(super) fn folder(&self) -> &Arc<ModelFolder> {
        self.backend.folder()
    }

    pub(super) fn stats(&self) -> DecoderStats {
        self.backend.stats()
    }

    pub(super) fn provider(&self) -> &ProviderReport {
        self.backend.provider()
    }

    /// Queues a task.
    pub(super) fn submit(&mut self, task: Task, urgency: Urgency) -> Result<Ticket> {
        match task {
            Task::Generate(tokens, options) => self.generate(tokens, options, Vec::new(), urgency),
            Task::LogProbs(tokens) => {
                let reader = AnyReader::LogProbs(LogProbs::new(tokens.clone().into(), 0));
                let id = self.backend.submit(tokens, 0, urgency, reader)?;
                Ok(self.track(id, None))
            }
            Task::Warm(key, tokens) => {
                let id = self.backend.warm(key, tokens, urgency)?;
                Ok(self.track(id, None))
            }
            Task::Score(encoded, task) => {
                let id = self.backend.score(encoded, urgency)?;
                Ok(self.track(id, Some(task)))
            }
        }
    }

    /// Samples a reply. A token of `controls` ends it, and its spelling there stays at the end of the text.
    pub(super) fn generate(
        &mut self,
        tokens: Vec<u32>,
        options: GenerateOptions,
        controls: Vec<(u32, String)>,
        urgency: Urgency,
    ) -> Result<Ticket> {
        let reader = self.reader(options, tokens.len())?.ending_with(controls);
        let max_new = reader.max_tokens();
        let id = self.backend.submit(tokens, max_new, urgency, AnyReader::Generate(Box::new(reader)))?;
        Ok(self.track(id, None))
    }

    /// Reads off how likely each answer, given by its spellings, opens the reply.
    pub(super) fn choose(&mut self, tokens: Vec<u32>, answers: &[Vec<String>], urgency: Urgency) -> Result<Ticket> {
        let tokenizer = self.folder().tokenizer();
        let answers = answers.iter().map(|spellings| tokenizer.answer_tokens(spellings)).collect::<Result<_>>()?;
        let reader = AnyReader::Choose(Choose::new(tokens.len().max(1), answers));
        let id = self.backend.submit(tokens, 0, urgency, reader)?;
        Ok(self.track(id, None))
    }

    fn reader(&mut self, options: GenerateOptions, prompt: usize) -> Result<Generate> {
        if prompt == 0 {
            return Err(Error::invalid_request("the prompt is empty; give at least one token"));
        }
        let folder = self.backend.folder();
        let (tokenizer, stop_tokens) = (folder.tokenizer(), folder.stop_tokens());
        let start = |schema: &_| self.constraints.start(schema, tokenizer, &stop_tokens);
        let constraint = options.schema.as_ref().map(start).transpose()?;
        Generate::new(options, prompt, folder.context_length(), tokenizer, &stop_tokens, constraint)
    }

    /// Undoes [`Task::Warm`].
    pub(super) fn unpin(&mut self, key: u64) {
        self.backend.unpin(key);
    }

    /// Says when nobody will wait for this model any more, unless told otherwise by then.
    pub(super) fn end_by(&mut self, end: Option<Instant>) {
        self.backend.end_by(end);
    }

    /// Ends a request early, for the reason that `finish` gives. What was sampled until now is a reply, cut short.
    pub(super) fn end(&mut self, ticket: Ticket, finish: Finish) {
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

    /// One step.
    pub(super) fn step(&mut self) {
        let mut ended = std::mem::take(&mut self.ended);
        self.backend.step(&mut ended);
        for Ended { id, reader, cost, result } in ended.drain(..) {
            self.complete(id, reader, cost, result);
        }
        self.ended = ended;
    }

    /// Takes what has ended.
    pub(super) fn take_ready(&mut self) -> Vec<(Ticket, Result<Completion>)> {
        std::mem::take(&mut self.ready)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    fn track(&mut self, id: SequenceId, score: Option<ScoreTask>) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.sequences.insert(ticket, id);
        self.under_way.insert(id, UnderWay { ticket, start: Instant::now(), score });
        ticket
    }

    /// Turns an ended sequence into what was asked for.
    fn complete(&mut self, id: SequenceId, reader: AnyReader, cost: SequenceCost, result: Result<()>) {
        let Some(UnderWay { ticket, start, score }) = self.under_way.remove(&id) else { return };
        self.sequences.remove(&ticket);
        let generated = if let AnyReader::Generate(reader) = &reader { reader.tokens.len() } else { 0 };
        let usage = Usage {
            prompt_tokens: cost.prompt as u64,
            reused_tokens: cost.reused() as u64,
            generated_tokens: generated as u64,
            seconds: start.elapsed().as_secs_f64(),
        };
        let output = result.and_then(|()| self.output(reader, score, cost.prompt));
        self.ready.push((ticket, output.map(|output| Completion { output, usage })));
    }

    fn output(&self, reader: AnyReader, score: Option<ScoreTask>, tokens: usize) -> Result<Output> {
        let (numbers, response) = match (reader, &score) {
            (AnyReader::Generate(reader), _) => return Ok(Output::Reply(reader)),
            (AnyReader::Choose(reader), _) => return Ok(Output::Choice(reader.probabilities)),
            (AnyReader::LogProbs(reader), None) => return Ok(Output::LogProbs(reader.logprobs)),
            (AnyReader::Rows(_), None) => return Ok(Output::Warm),
            (AnyReader::LogProbs(reader), Some(_)) => {
                let response = reader.scored().to_vec();
                (reader.logprobs, response)
            }
            (AnyReader::Rows(reader), Some(_)) => (reader.rows, Vec::new()),
        };
        let task = score.unwrap_or_default();
        output::read(self.folder(), &task, Given { numbers, tokens, response }).map(Output::Score)
    }
}
