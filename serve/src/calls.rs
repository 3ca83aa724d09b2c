//! Calls to one model: `/v1/score`, `/v1/logprobs`, `/v1/warm`, `/v1/refresh`.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use foreturn::chat::{Message, Usage};
use foreturn::engine::{Prompt, RefreshOptions, ScoreRequest, Scored};
use foreturn::score::ScoreOutput;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::app::{App, Kept};
use crate::asked::{self, Caller};
use crate::failure::{Answer, Failure, done};

/// Scores conversations, or candidate replies to one.
pub(crate) async fn score(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Answer {
    let asked: ScoreRequest = asked::body(&body)?;
    let (inputs, task) = (asked.inputs()?, asked.task()?);
    let caller = Caller::new(&headers)?;
    let model = app.model(&asked.model)?.within(caller.limits());
    let scored = caller.wait(model.submit_score(inputs, task)).await?;
    Ok(done(&Scores { model: asked.model, scores: scored.iter().map(written).collect() }))
}

/// A score for each input.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Scores {
    model: String,
    scores: Vec<Written>,
}

/// The numbers of an input: logits, probabilities of steps, or a log-probability.
#[derive(Serialize, JsonSchema)]
struct Written {
    values: Vec<f64>,
    /// The names of the logits.
    labels: Option<Vec<String>>,
    usage: Usage,
}

fn written(scored: &Scored) -> Written {
    let labels = match &scored.output {
        ScoreOutput::Labels(score) => Some(score.labels.clone()),
        _ => None,
    };
    Written { values: scored.output.numbers(), labels, usage: scored.usage }
}

/// Either a conversation or tokens.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Logprobs {
    model: String,
    messages: Option<Vec<Message>>,
    tokens: Option<Vec<u32>>,
}

/// Tokens, and the log-probability of each after the first, in nats.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Read {
    model: String,
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    usage: Usage,
}

/// The log-probabilities of a conversation's tokens, or of these very tokens, in nats.
pub(crate) async fn logprobs(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Answer {
    let asked: Logprobs = asked::body(&body)?;
    let prompt = match (asked.messages, asked.tokens) {
        (Some(messages), None) => Prompt::as_is(messages),
        (None, Some(tokens)) => Prompt::Tokens(tokens),
        _ => return Err(Failure::refused("give either messages or tokens")),
    };
    let caller = Caller::new(&headers)?;
    let model = app.model(&asked.model)?.within(caller.limits());
    let read = caller.wait(model.submit_logprobs(prompt)).await?;
    Ok(done(&Read { model: asked.model, tokens: read.tokens, logprobs: read.logprobs, usage: read.usage }))
}

/// The longest time that a prefix is kept, in seconds.
const LONGEST: f64 = 86_400.0;
/// Most prefixes that are kept at once.
const MOST_PINS: usize = 1024;

/// A prefix.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Warm {
    model: String,
    messages: Vec<Message>,
    /// Seconds.
    keep: f64,
}

/// A prefix that is kept.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Warmed {
    /// Its number, by which it is released.
    pin: u64,
    tokens: usize,
    /// Seconds.
    keep: f64,
}

/// Computes a prefix and keeps it in the cache for a stated time.
pub(crate) async fn warm(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Answer {
    let asked: Warm = asked::body(&body)?;
    if !(asked.keep > 0.0 && asked.keep <= LONGEST) {
        return Err(Failure::refused(format!(
            "keep is {}: it is a number of seconds above 0, at most {LONGEST}",
            asked.keep
        )));
    }
    let full = || {
        let message = format!("{MOST_PINS} prefixes are kept already; release some (DELETE /v1/warm/PIN)");
        Failure::from(foreturn::Error::new(foreturn::ErrorKind::Overloaded, message))
    };
    if app.pins().len() >= MOST_PINS {
        return Err(full());
    }
    let caller = Caller::new(&headers)?;
    let model = app.model(&asked.model)?.within(caller.limits());
    let pin = caller.wait(model.submit_warm(asked.messages)).await?;
    let tokens = pin.tokens();
    let number = app.numbers.fetch_add(1, Ordering::Relaxed);
    let pins = Arc::downgrade(&app.pins);
    let mut kept = app.pins();
    if kept.len() >= MOST_PINS {
        return Err(full());
    }
    let end = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs_f64(asked.keep)).await;
        if let Some(pins) = pins.upgrade() {
            pins.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        }
    });
    kept.insert(number, Kept { pin, end: end.abort_handle() });
    drop(kept);
    Ok(done(&Warmed { pin: number, tokens, keep: asked.keep }))
}

/// Tokens that are no longer kept.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Released {
    released: usize,
}

/// Lets a prefix go before its time.
pub(crate) async fn release(State(app): State<App>, Path(pin): Path<String>) -> Answer {
    match pin.parse().ok().and_then(|number: u64| app.pins().remove(&number)) {
        Some(kept) => {
            kept.end.abort();
            Ok(done(&Released { released: kept.pin.tokens() }))
        }
        None => Err(Failure::unknown(format!("there is no prefix {pin:?}: it was released, or its time is over"))),
    }
}

/// New weights.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Refresh {
    model: String,
    /// The path of an export, on the server's machine.
    folder: PathBuf,
    version: Option<String>,
    mode: Option<String>,
    #[serde(default)]
    shared: bool,
}

/// The weights that a model has now.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Refreshed {
    model: String,
    version: String,
}

/// Exchanges a model's weights for those of another export. Only with a key or on the machine itself, as everything.
pub(crate) async fn refresh(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Answer {
    let asked: Refresh = asked::body(&body)?;
    let caller = Caller::new(&headers)?;
    let model = app.model(&asked.model)?.within(caller.limits());
    let options = RefreshOptions {
        version: asked.version,
        mode: asked.mode.as_deref().map(str::parse).transpose()?.unwrap_or_default(),
        shared: asked.shared,
        ..RefreshOptions::default()
    };
    let version = caller.wait(model.submit_refresh(asked.folder, options)).await.map_err(Failure::of_folder)?;
    Ok(done(&Refreshed { model: asked.model, version }))
}
