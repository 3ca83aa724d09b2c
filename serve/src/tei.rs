//! What text-embeddings-inference's clients speak: `/embed`, `/predict`, `/rerank`.
//!
//! Their requests name no model, so the address may (`/embed?model=NAME`). Without one, the only model that can do what is
//! asked answers. Their errors have a shape of their own.

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use foreturn::score::ScoreInput;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::app::App;
use crate::asked::{self, Caller, Chosen};
use crate::failure::{Answer, Failure, done, json_response};
use crate::heads::{Headed, Need, Texts, probabilities, unit};

/// Which end of a long text is cut.
#[derive(Deserialize, JsonSchema, Clone, Copy)]
pub(crate) enum Direction {
    #[serde(alias = "left")]
    Left,
    #[serde(alias = "right")]
    Right,
}

/// Texts to embed. Nothing is cut: a text that is too long is an error, with `truncate` as without it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Embed {
    /// A text, its tokens, or several of either.
    inputs: Texts,
    /// Whether vectors get length 1; true if absent.
    normalize: Option<bool>,
    truncate: Option<bool>,
    #[serde(rename = "truncation_direction")]
    _direction: Option<Direction>,
    /// Not supported: only null.
    prompt_name: Option<String>,
    /// Not supported: only the vectors' own number.
    dimensions: Option<usize>,
}

/// Embeddings: a vector for each text.
pub(crate) async fn embed(State(app): State<App>, chosen: Chosen, headers: HeaderMap, body: Bytes) -> Answer {
    let asked: Embed = asked::body(&body)?;
    let headed = app.headed(chosen.model.as_deref(), Need::Embedding)?;
    if let Some(name) = asked.prompt_name {
        return Err(Failure::refused(format!(
            "prompt_name = {name:?} is not supported here: put the prompt into the text"
        )));
    }
    if let Some(dimensions) = asked.dimensions.filter(|dimensions| *dimensions != headed.head.size) {
        let size = headed.head.size;
        return Err(Failure::refused(format!("dimensions = {dimensions} is not supported: the vectors have {size}")));
    }
    let normalizes = asked.normalize.unwrap_or(true);
    if !normalizes && headed.head.normalize {
        return Err(Failure::refused("normalize = false is not supported: the model itself gives vectors of length 1"));
    }
    let caller = Caller::new(&headers)?;
    let scored = headed.score(&caller, asked.inputs.inputs("inputs")?).await.map_err(|e| e.uncut(asked.truncate))?;
    let vectors = scored.iter().map(Headed::row).collect::<Answer<Vec<_>>>()?;
    let vectors = vectors.into_iter().map(|vector| match normalizes && !headed.head.normalize {
        true => unit(&vector),
        false => vector,
    });
    // The vectors are float32. Shorter texts say the same.
    Ok(done(&vectors.map(|vector| vector.into_iter().map(|number| number as f32).collect()).collect::<Vec<Vec<f32>>>()))
}

/// A text, a pair of texts, or a list of lists with one or two.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a text, a pair of texts, or a list of lists of one or two texts")]
pub(crate) enum Pairs {
    Text(String),
    Pair(Vec<String>),
    Several(Vec<Vec<String>>),
}

/// Texts to classify.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Predict {
    inputs: Pairs,
    /// Whether scores are the logits, and not probabilities.
    #[serde(default)]
    raw_scores: bool,
    truncate: Option<bool>,
    #[serde(rename = "truncation_direction")]
    _direction: Option<Direction>,
    /// Sent by Hugging Face's client; empty.
    #[serde(default)]
    parameters: Option<Map<String, Value>>,
}

/// A label, and its score.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Prediction {
    label: String,
    score: f64,
}

/// The labels of one text, or of several.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Predictions {
    One(Vec<Prediction>),
    Several(Vec<Vec<Prediction>>),
}

fn pair(texts: Vec<String>) -> Answer<ScoreInput> {
    let count = texts.len();
    let mut texts = texts.into_iter();
    match (texts.next(), texts.next(), count) {
        (Some(text), None, _) => Ok(ScoreInput::Text(text)),
        (Some(one), Some(other), 2) => Ok(ScoreInput::Pair(one, other)),
        _ => Err(Failure::refused(format!("one of the inputs has {count} texts: give one, or a pair"))),
    }
}

/// Classes: every label with its score, the best first.
pub(crate) async fn predict(State(app): State<App>, chosen: Chosen, headers: HeaderMap, body: Bytes) -> Answer {
    let asked: Predict = asked::body(&body)?;
    if let Some((name, value)) = asked.parameters.iter().flatten().find(|(_, value)| !value.is_null()) {
        return Err(Failure::refused(format!("parameters.{name} = {value} is not supported here")));
    }
    let headed = app.headed(chosen.model.as_deref(), Need::Classes)?;
    let is_one = !matches!(asked.inputs, Pairs::Several(_));
    let inputs = match asked.inputs {
        Pairs::Text(text) => vec![ScoreInput::Text(text)],
        Pairs::Pair(texts) => vec![pair(texts)?],
        Pairs::Several(all) => all.into_iter().map(pair).collect::<Answer<_>>()?,
    };
    let caller = Caller::new(&headers)?;
    let scored = headed.score(&caller, inputs).await.map_err(|e| e.uncut(asked.truncate))?;
    let predictions = scored.iter().map(|scored| {
        let logits = Headed::row(scored)?;
        let scores = if asked.raw_scores { logits } else { probabilities(&logits) };
        let labels = headed.head.labels.iter().cloned().zip(scores);
        let mut all: Vec<_> = labels.map(|(label, score)| Prediction { label, score }).collect();
        all.sort_by(|one, other| other.score.total_cmp(&one.score));
        Ok(all)
    });
    let mut predictions = predictions.collect::<Answer<Vec<_>>>()?;
    Ok(done(&match predictions.pop() {
        Some(only) if is_one => Predictions::One(only),
        last => {
            predictions.extend(last);
            Predictions::Several(predictions)
        }
    }))
}

/// Texts to order by how well they fit a query.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rerank {
    query: String,
    texts: Vec<String>,
    /// Whether scores are the logits, and not probabilities.
    #[serde(default)]
    raw_scores: bool,
    /// Whether the answer repeats the texts.
    #[serde(default)]
    return_text: bool,
    truncate: Option<bool>,
    #[serde(rename = "truncation_direction")]
    _direction: Option<Direction>,
}

/// A text's place in the request, and its score.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Rank {
    index: usize,
    score: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

/// How well each text fits a query, the best first.
pub(crate) async fn rerank(State(app): State<App>, chosen: Chosen, headers: HeaderMap, body: Bytes) -> Answer {
    let asked: Rerank = asked::body(&body)?;
    if asked.texts.is_empty() {
        return Err(Failure::refused("texts is empty: give at least one text"));
    }
    let headed = app.headed(chosen.model.as_deref(), Need::Rank)?;
    let caller = Caller::new(&headers)?;
    let inputs = asked.texts.iter().map(|text| ScoreInput::Pair(asked.query.clone(), text.clone())).collect();
    let scored = headed.score(&caller, inputs).await.map_err(|e| e.uncut(asked.truncate))?;
    let ranks = scored.iter().zip(asked.texts).enumerate().map(|(index, (scored, text))| {
        let logits = Headed::row(scored)?;
        let scores = if asked.raw_scores { logits } else { probabilities(&logits) };
        let score = scores.first().copied().unwrap_or(f64::NAN);
        Ok(Rank { index, score, text: asked.return_text.then_some(text) })
    });
    let mut ranks = ranks.collect::<Answer<Vec<_>>>()?;
    ranks.sort_by(|one, other| other.score.total_cmp(&one.score));
    Ok(done(&ranks))
}

/// An error as these clients read it.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Problem {
    error: String,
    error_type: &'static str,
}

/// Gives an answer that is a failure the shape and the status of this protocol.
pub(crate) async fn shape(response: Response) -> Response {
    let (parts, body) = response.into_parts();
    let Some(failure) = parts.extensions.get::<Failure>() else { return Response::from_parts(parts, body) };
    let (status, error_type) = match failure.status() {
        StatusCode::BAD_REQUEST if failure.kind() == "context_length" => (StatusCode::PAYLOAD_TOO_LARGE, "Validation"),
        StatusCode::BAD_REQUEST if failure.kind() == "unsupported" => (StatusCode::FAILED_DEPENDENCY, "Backend"),
        StatusCode::BAD_REQUEST => (StatusCode::UNPROCESSABLE_ENTITY, "Validation"),
        StatusCode::INTERNAL_SERVER_ERROR => (StatusCode::FAILED_DEPENDENCY, "Backend"),
        StatusCode::TOO_MANY_REQUESTS => (StatusCode::TOO_MANY_REQUESTS, "Overloaded"),
        status @ StatusCode::SERVICE_UNAVAILABLE => (status, "Unhealthy"),
        status if status.is_server_error() => (status, "Backend"),
        status => (status, "Validation"),
    };
    let mut shaped = json_response(status, &Problem { error: failure.message().to_owned(), error_type });
    for (name, value) in &parts.headers {
        shaped.headers_mut().entry(name).or_insert_with(|| value.clone());
    }
    shaped
}
