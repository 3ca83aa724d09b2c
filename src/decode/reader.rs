//! Uses of a sequence's logits: write a reply, score given tokens, compare answers, or keep rows of a head's scores.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::constraint::{Constraint, JsonSchema};
use super::sampler::{Sampler, SamplingOptions, log_sum_exp};
use super::scheduler::{Next, Reader};
use super::stop::StopMatcher;
use crate::model::tokenizer::{TextStream, Tokenizer};
use crate::{Error, Result};

/// Why a reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model ended its turn, or a stop text came.
    Stop,
    /// The limit on new tokens was reached.
    Length,
    /// The model's context is full.
    Context,
    /// The deadline passed; what was sampled until then is returned.
    Deadline,
    /// The caller cancelled; what was sampled until then is returned.
    Cancelled,
}

impl Finish {
    /// Its name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
            Finish::Context => "context",
            Finish::Deadline => "deadline",
            Finish::Cancelled => "cancelled",
        }
    }
}

/// Receives a reply's text as it is sampled.
pub type OnText = Box<dyn FnMut(&str) + Send>;

/// Options of a reply.
pub struct GenerateOptions {
    /// Most tokens to sample.
    pub max_tokens: usize,
    /// Rules for drawing tokens.
    pub sampling: SamplingOptions,
    /// Names the random stream.
    pub seed: u64,
    /// Texts that end the reply; they are not part of it.
    pub stop: Vec<String>,
    /// Goes on past end-of-turn tokens.
    pub ignore_eos: bool,
    /// The reply is a JSON document of this schema, on one line, with the keys of objects in the schema's order; free text
    /// where absent. It ends with the document ([`Finish::Stop`]), or in the middle of it when `max_tokens` are there. Takes
    /// neither `stop` nor `ignore_eos`.
    ///
    /// Needs the feature `constraints`. Draft 2020-12, less what depends on values elsewhere in the document (`not`, `if`,
    /// `uniqueItems`, …) and `$ref` to other files, which is refused. Texts and numbers without a bound in the schema
    /// (`maxLength`; `minimum` and `maximum`) have none.
    pub schema: Option<Arc<JsonSchema>>,
    /// Called with each piece of text that can't be part of a stop text any more.
    pub on_text: Option<OnText>,
}

impl std::fmt::Debug for GenerateOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GenerateOptions")
            .field("max_tokens", &self.max_tokens)
            .field("sampling", &self.sampling)
            .field("seed", &self.seed)
            .field("stop", &self.stop)
            .field("ignore_eos", &self.ignore_eos)
            .field("schema", &self.schema)
            .field("on_text", &self.on_text.is_some())
            .finish()
    }
}

impl GenerateOptions {
    /// The same options once more; `None` where somebody listens.
    pub(crate) fn again(&self) -> Option<GenerateOptions> {
        if self.on_text.is_some() {
            return None;
        }
        let GenerateOptions { max_tokens, seed, ignore_eos, .. } = *self;
        let (sampling, stop, schema) = (self.sampling.clone(), self.stop.clone(), self.schema.clone());
        Some(GenerateOptions { max_tokens, sampling, seed, stop, ignore_eos, schema, on_text: None })
    }
}

impl Default for GenerateOptions {
    fn default() -> Self {
        GenerateOptions {
            max_tokens: 256,
            sampling: SamplingOptions::default(),
            seed: 0,
            stop: Vec::new(),
            ignore_eos: false,
            schema: None,
            on_text: None,
        }
    }
}

/// Any of the readers, so that one scheduler serves them all.
pub(crate) enum AnyReader {
    Generate(Box<Generate>),
    LogProbs(LogProbs),
    Choose(Choose),
    Rows(Rows),
}

impl Reader for AnyReader {
    fn next_position(&self) -> usize {
        match self {
            AnyReader::Generate(reader) => reader.next,
            AnyReader::LogProbs(reader) => reader.next,
            AnyReader::Choose(reader) => reader.position,
            AnyReader::Rows(reader) => reader.next().unwrap_or(0),
        }
    }

    fn read(&mut self, position: usize, tokens: &[u32], logits: &[f32]) -> Result<Next> {
        match self {
            AnyReader::Generate(reader) => reader.read(tokens, logits),
            AnyReader::LogProbs(reader) => reader.read(position, logits),
            AnyReader::Choose(reader) => reader.read(logits),
            AnyReader::Rows(reader) => Ok(reader.read(position, logits)),
        }
    }
}

/// Samples a reply.
pub(crate) struct Generate {
    next: usize,
    prompt: usize,
    max_tokens: usize,
    /// True if `max_tokens` was cut to what the context leaves.
    cut: bool,
    sampler: Sampler,
    constraint: Option<Constraint>,
    stop_tokens: Vec<u32>,
    /// Tokens that end the reply, and the text that each then leaves at its end.
    endings: Vec<(u32, String)>,
    stream: TextStream,
    stops: StopMatcher,
    on_text: Option<OnText>,
    pub(crate) tokens: Vec<u32>,
    pub(crate) logprobs: Vec<f32>,
    pub(crate) text: String,
    pub(crate) finish: Option<Finish>,
}

impl Generate {
    /// A reader for a reply to `prompt` tokens in a context of `context`. `constraint` is that of the schema, if there is one.
    pub(crate) fn new(
        options: GenerateOptions,
        prompt: usize,
        context: usize,
        tokenizer: &Arc<Tokenizer>,
        stop_tokens: &[u32],
        constraint: Option<Constraint>,
    ) -> Result<Self> {
        check_schema(&options, constraint.is_some())?;
        let room = context.saturating_sub(prompt);
        Ok(Generate {
            next: prompt - 1,
            prompt,
            max_tokens: options.max_tokens.min(room),
            cut: options.max_tokens > room,
            sampler: Sampler::new(options.sampling, options.seed)?,
            constraint,
            endings: Vec::new(),
            stop_tokens: if options.ignore_eos { Vec::new() } else { stop_tokens.to_vec() },
            stream: TextStream::new(Arc::clone(tokenizer), !options.ignore_eos),
            stops: StopMatcher::new(&options.stop)?,
            on_text: options.on_text,
            tokens: Vec::new(),
            logprobs: Vec::new(),
            text: String::new(),
            finish: None,
        })
    }

    /// Most tokens it will sample.
    pub(crate) fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Lets these tokens end the reply, too. It then ends with the text that stands beside the token.
    pub(crate) fn ending_with(self, endings: Vec<(u32, String)>) -> Self {
        Generate { endings, ..self }
    }

    /// True if the reply is held to a schema.
    pub(crate) fn is_constrained(&self) -> bool {
        self.constraint.is_some()
    }

    fn read(&mut self, tokens: &[u32], logits: &[f32]) -> Result<Next> {
        self.next += 1;
        if self.max_tokens == 0 {
            return self.end(self.limit());
        }
        let draw = (tokens.len() - self.prompt) as u64;
        let sampled = match &mut self.constraint {
            None => self.sampler.sample(draw, tokens, logits)?,
            Some(constraint) => self.sampler.sample_among(constraint.allowed()?, draw, tokens, logits)?,
        };
        self.tokens.push(sampled.token);
        self.logprobs.push(sampled.logprob);
        if let Some(at) = self.endings.iter().position(|(token, _)| *token == sampled.token) {
            let ended = self.end(Finish::Stop);
            let (_, text) = self.endings.swap_remove(at);
            self.give(&text);
            return ended;
        }
        if self.stop_tokens.contains(&sampled.token) {
            return self.end(Finish::Stop);
        }
        let piece = self.stream.push(sampled.token)?;
        if self.emit(&piece) {
            return self.end(Finish::Stop);
        }
        if let Some(constraint) = &mut self.constraint {
            constraint.accept(sampled.token)?;
            if constraint.is_complete() {
                return self.end(Finish::Stop);
            }
        }
        if self.tokens.len() == self.max_tokens {
            return self.end(self.limit());
        }
        Ok(Next::Append(sampled.token))
    }

    fn limit(&self) -> Finish {
        if self.cut { Finish::Context } else { Finish::Length }
    }

    /// Passes text on; `true` once a stop text is complete.
    fn emit(&mut self, piece: &str) -> bool {
        let step = self.stops.push(piece);
        self.give(&step.text);
        step.matched.is_some()
    }

    fn give(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        self.text.push_str(text);
        if let Some(on_text) = &mut self.on_text {
            on_text(text);
        }
    }

    /// Ends the reply, giving out text that was held back.
    pub(crate) fn end(&mut self, finish: Finish) -> Result<Next> {
        if self.finish.is_none() {
            let rest = self.stream.finish()?;
            let finish = if self.emit(&rest) { Finish::Stop } else { finish };
            let held = self.stops.finish();
            self.give(&held);
            self.finish = Some(finish);
        }
        Ok(Next::Finish)
    }

    /// The sampled tokens without the one that ended the turn.
    pub(crate) fn reply_tokens(&self) -> &[u32] {
        match self.tokens.split_last() {
            Some((last, rest)) if self.stop_tokens.contains(last) => rest,
            _ => &self.tokens,
        }
    }
}

/// Refuses options that would cut a document short of its schema or go on after it.
fn check_schema(options: &GenerateOptions, constrained: bool) -> Result<()> {
    let Some(schema) = &options.schema else { return Ok(()) };
    let name = &schema.name;
    if !options.stop.is_empty() || options.ignore_eos {
        let other = if options.ignore_eos { "ignore_eos" } else { "stop texts" };
        return Err(Error::invalid_request(format!(
            "the JSON schema `{name}` and {other}: a reply in JSON ends with its document; leave out one of them"
        )));
    }
    match constrained {
        true => Ok(()),
        false => Err(Error::internal(format!("a reply was asked for in JSON (`{name}`) and isn't held to it"))),
    }
}

/// Log-probabilities of given tokens.
pub(crate) struct LogProbs {
    next: usize,
    tokens: Arc<[u32]>,
    /// One for each token after those that are given.
    pub(crate) logprobs: Vec<f32>,
}

impl LogProbs {
    /// Scores `tokens[from + 1..]`, each given the ones before it.
    pub(crate) fn new(tokens: Arc<[u32]>, from: usize) -> Self {
        LogProbs { next: from, tokens, logprobs: Vec::new() }
    }

    /// The tokens that have a log-probability, once all of them have: the last ones.
    pub(crate) fn scored(&self) -> &[u32] {
        &self.tokens[self.tokens.len() - self.logprobs.len()..]
    }

    fn read(&mut self, position: usize, logits: &[f32]) -> Result<Next> {
        self.next += 1;
        let normaliser = log_sum_exp(logits)?;
        let Some(&token) = self.tokens.get(position + 1) else { return Ok(Next::Finish) };
        self.logprobs.push((f64::from(logits[token as usize]) - normaliser) as f32);
        Ok(if position + 2 == self.tokens.len() { Next::Finish } else { Next::Continue })
    }
}

/// Probabilities of single-token answers right after the prompt.
pub(crate) struct Choose {
    position: usize,
    answers: Vec<Vec<u32>>,
    pub(crate) probabilities: Vec<f64>,
}

impl Choose {
    /// `answers` holds, for each answer, the tokens that spell it.
    pub(crate) fn new(prompt: usize, answers: Vec<Vec<u32>>) -> Self {
        Choose { position: prompt - 1, answers, probabilities: Vec::new() }
    }

    fn read(&mut self, logits: &[f32]) -> Result<Next> {
        let normaliser = log_sum_exp(logits)?;
        let probability = |&token: &u32| (f64::from(logits[token as usize]) - normaliser).exp();
        self.probabilities = self.answers.iter().map(|tokens| tokens.iter().map(probability).sum()).collect();
        Ok(Next::Finish)
    }
}

/// Rows of a head's scores at given tokens.
#[derive(Default)]
pub(crate) struct Rows {
    /// Positions that are read, in order.
    wanted: Vec<usize>,
    /// Number of positions that have been read.
    read: usize,
    /// One row after the other.
    pub(crate) rows: Vec<f32>,
}

impl Rows {
    /// Reads the rows at `positions`, which grow.
    pub(crate) fn new(positions: impl IntoIterator<Item = usize>) -> Self {
        Rows { wanted: positions.into_iter().collect(), read: 0, rows: Vec::new() }
    }

    /// Rows that are there already.
    pub(crate) fn given(rows: Vec<f32>) -> Self {
        Rows { rows, ..Rows::default() }
    }

    /// The next position to read.
    fn next(&self) -> Option<usize> {
        self.wanted.get(self.read).copied()
    }

    fn read(&mut self, position: usize, logits: &[f32]) -> Next {
        if self.next() == Some(position) {
            self.read += 1;
            self.rows.extend_from_slice(logits);
        }
        if self.next().is_none() { Next::Finish } else { Next::Continue }
    }
}
