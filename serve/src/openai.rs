//! What OpenAI's clients speak: `/v1/models`, `/v1/chat/completions`, `/v1/embeddings`.
//!
//! Fields that would change an answer and are not understood are refused by name. Those that are no more than a note
//! (`user`, `metadata`, `store`, `service_tier`) are left alone.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use base64::Engine as _;
use foreturn::chat::{self, Finish, Message, Role, Usage};
use foreturn::decode::GenerateOptions;
use foreturn::engine::{Generation, Model};
use foreturn::score::{ScoreOutput, ScoreTask};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::asked::{self, Caller, Strings};
use crate::failure::{Answer, Failure, done};
use crate::heads::Texts;
use crate::stream::{self, Events};

/// The models of the engine.
pub(crate) async fn models(State(app): State<App>) -> Response {
    let model = |name: &String| Named { id: name.clone(), object: "model", created: 0, owned_by: "foreturn" };
    done(&Models { object: "list", data: app.engine.models().iter().map(model).collect() })
}

/// A list of models.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Models {
    object: &'static str,
    data: Vec<Named>,
}

/// A model by its name in the configuration.
#[derive(Serialize, JsonSchema)]
struct Named {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

/// A text, or the parts of one.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a text, or a list of parts")]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// What else a part has depends on its type, and only texts are read.
#[derive(Deserialize, JsonSchema)]
struct Part {
    r#type: String,
    text: Option<String>,
}

/// A message as OpenAI's clients write it.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Said {
    role: Role,
    content: Content,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl Said {
    pub(crate) fn message(self) -> Answer<Message> {
        // Clients send back the fields of an answer, which are null in ours.
        if let Some((name, value)) = self.rest.iter().find(|(_, value)| !value.is_null()) {
            return Err(Failure::refused(format!("{name} = {value} in a message is not supported here")));
        }
        let text = match self.content {
            Content::Text(text) => text,
            Content::Parts(parts) => parts
                .into_iter()
                .map(|part| match (&*part.r#type, part.text) {
                    ("text", Some(text)) => Ok(text),
                    (kind, _) => {
                        Err(Failure::refused(format!("a part of a message is of type {kind:?}: only texts are read")))
                    }
                })
                .collect::<Answer<String>>()?,
        };
        Ok(Message::new(self.role, text))
    }
}

/// A conversation to go on with. Fields that are not here and would change the reply are refused.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Chat {
    model: String,
    messages: Vec<Said>,
    #[serde(alias = "max_completion_tokens")]
    max_tokens: Option<usize>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<usize>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    seed: Option<u64>,
    stop: Option<Strings>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    logprobs: Option<bool>,
    response_format: Option<Format>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct StreamOptions {
    include_usage: Option<bool>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Format {
    Text,
    JsonSchema { json_schema: Shape },
}

#[derive(Deserialize, JsonSchema)]
struct Shape {
    schema: Value,
}

/// Refuses fields that would change the answer.
fn check(rest: &Map<String, Value>) -> Answer<()> {
    let harmless = |name: &str, value: &Value| match name {
        _ if value.is_null() => true,
        "user" | "metadata" | "store" | "service_tier" => true,
        "n" => *value == json!(1),
        "top_logprobs" => *value == json!(0),
        "presence_penalty" | "frequency_penalty" => value.as_f64() == Some(0.0),
        _ => false,
    };
    match rest.iter().find(|(name, value)| !harmless(name, value)) {
        Some((name, value)) => Err(Failure::refused(format!("{name} = {value} is not supported here"))),
        None => Ok(()),
    }
}

impl Chat {
    /// How to sample: what is asked for, before what the configuration says.
    fn options(&self, app: &App) -> Answer<GenerateOptions> {
        check(&self.rest)?;
        let default = GenerateOptions::default();
        let config = app.models.get(&self.model);
        let mut sampling = config.map(|config| config.sampling()).unwrap_or_default();
        sampling.temperature = self.temperature.unwrap_or(sampling.temperature);
        sampling.top_p = self.top_p.unwrap_or(sampling.top_p);
        sampling.top_k = self.top_k.unwrap_or(sampling.top_k);
        sampling.min_p = self.min_p.unwrap_or(sampling.min_p);
        sampling.repetition_penalty = self.repetition_penalty.unwrap_or(sampling.repetition_penalty);
        sampling.validate()?;
        let schema = match &self.response_format {
            None | Some(Format::Text) => None,
            Some(Format::JsonSchema { json_schema }) => {
                Some(Arc::new(chat::JsonSchema { name: "reply".into(), schema: json_schema.schema.clone() }))
            }
        };
        let max_tokens = self.max_tokens.or_else(|| config.and_then(|config| config.max_tokens));
        Ok(GenerateOptions {
            max_tokens: max_tokens.unwrap_or(default.max_tokens),
            sampling,
            // Who names no seed gets another reply each time.
            seed: self
                .seed
                .unwrap_or_else(|| nanoseconds() ^ app.numbers.fetch_add(1, Ordering::Relaxed).rotate_left(32)),
            stop: self.stop.clone().map_or_else(Vec::new, Strings::list),
            schema,
            ..default
        })
    }
}

pub(crate) fn nanoseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs().wrapping_mul(1_000_000_000).wrapping_add(u64::from(since.subsec_nanos()))
}

/// What every part of an answer begins with.
struct Head {
    id: String,
    created: u64,
    model: String,
}

impl Head {
    fn with<'a>(&'a self, choices: Vec<Piece<'a>>, usage: Option<Tokens>) -> Chunk<'a> {
        Chunk {
            id: &self.id,
            object: "chat.completion.chunk",
            created: self.created,
            model: &self.model,
            choices,
            usage,
        }
    }

    fn chunk<'a>(&'a self, delta: &'a Value, finish: Option<&'a str>, logprobs: Option<&'a Spelled>) -> Chunk<'a> {
        self.with(vec![Piece { index: 0, delta, finish_reason: finish, logprobs }], None)
    }
}

/// A part of a reply that comes piece by piece.
#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<Piece<'a>>,
    usage: Option<Tokens>,
}

#[derive(Serialize)]
struct Piece<'a> {
    index: usize,
    delta: &'a Value,
    finish_reason: Option<&'a str>,
    logprobs: Option<&'a Spelled>,
}

/// A reply.
pub(crate) async fn chat(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Answer {
    let asked: Chat = asked::body(&body)?;
    let options = asked.options(&app)?;
    let caller = Caller::new(&headers)?;
    let model = app.model(&asked.model)?.within(caller.limits());
    let number = app.numbers.fetch_add(1, Ordering::Relaxed);
    let head = Head { id: format!("chatcmpl-{number}"), created: nanoseconds() / 1_000_000_000, model: asked.model };
    let messages = asked.messages.into_iter().map(Said::message).collect::<Answer<Vec<_>>>()?;
    let with_logprobs = asked.logprobs == Some(true);
    if asked.stream == Some(true) {
        let with_usage = asked.stream_options.is_some_and(|options| options.include_usage == Some(true));
        let (events, response) = stream::open(Arc::new(caller));
        Streamed { events, head: Arc::new(head), model, with_logprobs, with_usage }.submit(messages, options)?;
        return Ok(response);
    }
    let made = caller.wait(model.submit_generate(messages, options)).await?;
    let choice = Choice {
        index: 0,
        logprobs: with_logprobs.then(|| spelled(&model, &made)).transpose()?,
        finish_reason: finish(made.finish)?,
        message: Reply { role: "assistant", content: made.text, refusal: None },
    };
    Ok(done(&Completion {
        id: head.id,
        object: "chat.completion",
        created: head.created,
        model: head.model,
        choices: vec![choice],
        usage: Tokens::of(&made.usage),
    }))
}

/// A reply that comes piece by piece.
struct Streamed {
    events: Events,
    head: Arc<Head>,
    model: Model,
    with_logprobs: bool,
    with_usage: bool,
}

impl Streamed {
    fn submit(self, messages: Vec<Message>, options: GenerateOptions) -> Answer<()> {
        let first = json!({"role": "assistant", "content": ""});
        self.events.send("", &self.head.chunk(&first, None, None));
        let (events, head) = (self.events.clone(), Arc::clone(&self.head));
        let on_text = move |text: &str| events.send("", &head.chunk(&json!({"content": text}), None, None));
        let options = GenerateOptions { on_text: Some(Box::new(on_text)), ..options };
        let pending = self.model.submit_generate(messages, options)?;
        pending.on_ready(move |result| {
            let ended = result.map_err(Failure::of_result).and_then(|made| self.finish(&made));
            if let Err(failure) = ended {
                self.events.fail("", &failure);
            }
            self.events.end();
        });
        Ok(())
    }

    /// The log-probabilities come with the last piece, because a piece of text may end in the middle of a token.
    fn finish(&self, made: &Generation) -> Answer<()> {
        let reason = finish(made.finish)?;
        let logprobs = self.with_logprobs.then(|| spelled(&self.model, made)).transpose()?;
        self.events.send("", &self.head.chunk(&json!({}), Some(reason), logprobs.as_ref()));
        if self.with_usage {
            self.events.send("", &self.head.with(Vec::new(), Some(Tokens::of(&made.usage))));
        }
        self.events.text("", "[DONE]");
        Ok(())
    }
}

/// A reply that its deadline cut off is an error, because OpenAI's protocol has no word for it.
fn finish(finish: Finish) -> Answer<&'static str> {
    match finish {
        Finish::Stop => Ok("stop"),
        Finish::Length | Finish::Context => Ok("length"),
        Finish::Deadline => {
            let message = "the deadline passed before the reply had ended";
            Err(foreturn::Error::new(foreturn::ErrorKind::DeadlineExceeded, message).into())
        }
        Finish::Cancelled => {
            Err(foreturn::Error::new(foreturn::ErrorKind::Cancelled, "the reply was cancelled").into())
        }
    }
}

/// A reply.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Completion {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<Choice>,
    usage: Tokens,
}

#[derive(Serialize, JsonSchema)]
struct Choice {
    index: usize,
    message: Reply,
    finish_reason: &'static str,
    logprobs: Option<Spelled>,
}

#[derive(Serialize, JsonSchema)]
struct Reply {
    role: &'static str,
    content: String,
    /// Always null.
    refusal: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct Spelled {
    content: Vec<Spelling>,
    /// Always null.
    refusal: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct Spelling {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
    top_logprobs: [f32; 0],
}

#[derive(Serialize, JsonSchema)]
struct Tokens {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    prompt_tokens_details: Cached,
}

#[derive(Serialize, JsonSchema)]
struct Cached {
    cached_tokens: u64,
}

impl Tokens {
    fn of(usage: &Usage) -> Self {
        Tokens {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.generated_tokens,
            total_tokens: usage.prompt_tokens + usage.generated_tokens,
            prompt_tokens_details: Cached { cached_tokens: usage.reused_tokens },
        }
    }
}

/// The tokens' texts beside their log-probabilities, which are the model's own, before temperature and truncation.
fn spelled(model: &Model, made: &Generation) -> Answer<Spelled> {
    let folder = model.folder()?;
    let tokens = made.tokens.iter().zip(&made.logprobs).map(|(token, logprob)| {
        let text = folder.tokenizer().decode(&[*token], false)?;
        Ok(Spelling { bytes: text.as_bytes().to_vec(), token: text, logprob: *logprob, top_logprobs: [] })
    });
    Ok(Spelled { content: tokens.collect::<foreturn::Result<Vec<_>>>()?, refusal: None })
}

/// Texts.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Embeddings {
    model: String,
    input: Texts,
    encoding_format: Option<Encoding>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// How vectors are written.
#[derive(Deserialize, JsonSchema, Clone, Copy)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Encoding {
    Float,
    Base64,
}

/// The bytes of float32 numbers, the lowest first.
pub(crate) fn base64(vector: &[f32]) -> String {
    let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The embeddings of texts.
pub(crate) async fn embeddings(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Answer {
    let asked: Embeddings = asked::body(&body)?;
    check(&asked.rest)?;
    let caller = Caller::new(&headers)?;
    let model = app.model(&asked.model)?.within(caller.limits());
    let scored = caller.wait(model.submit_score(asked.input.inputs("input")?, ScoreTask::Embedding)).await?;
    let tokens: u64 = scored.iter().map(|scored| scored.usage.prompt_tokens).sum();
    let data = scored.iter().enumerate().filter_map(|(index, scored)| {
        let ScoreOutput::Embedding(vector) = &scored.output else { return None };
        let embedding = match asked.encoding_format {
            None | Some(Encoding::Float) => Vector::Numbers(vector.clone()),
            Some(Encoding::Base64) => Vector::Bytes(base64(vector)),
        };
        Some(Embedding { object: "embedding", index, embedding })
    });
    let usage = Read { prompt_tokens: tokens, total_tokens: tokens };
    Ok(done(&Embedded { object: "list", data: data.collect(), model: asked.model, usage }))
}

/// A vector for each text.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Embedded {
    object: &'static str,
    data: Vec<Embedding>,
    model: String,
    usage: Read,
}

#[derive(Serialize, JsonSchema)]
struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

/// Its numbers, or their bytes in base64.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
enum Vector {
    Numbers(Vec<f32>),
    Bytes(String),
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EmbeddingTokens")]
struct Read {
    prompt_tokens: u64,
    total_tokens: u64,
}
