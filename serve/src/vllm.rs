//! What vLLM's callers speak: `/score`, `/classify`, `/pooling`.
//!
//! `model` may be left out where only one model can do what is asked. A field that would change the answer and is not
//! understood is refused by name.

use std::sync::atomic::Ordering;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use foreturn::engine::Scored;
use foreturn::model::HeadKind;
use foreturn::score::ScoreInput;
use schemars::JsonSchema;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::app::App;
use crate::asked::{self, Caller, Strings};
use crate::calls;
use crate::failure::{Answer, Failure, done};
use crate::heads::{Headed, Need, Texts, dot, probabilities, unit};
use crate::openai::{Encoding, Said, base64, nanoseconds};

/// Refuses fields that would change the answer. Gives whether texts that are too long are to be cut.
fn check(rest: &Map<String, Value>) -> Answer<Option<bool>> {
    let harmless = |name: &str, value: &Value| match name {
        _ if value.is_null() => true,
        "user" | "request_id" | "truncation_side" => true,
        "priority" => value.as_i64() == Some(0),
        // Cut at the context, which no text that is answered is longer than.
        "truncate_prompt_tokens" => value.as_i64() == Some(-1),
        "encoding_format" => value.as_str() == Some("float"),
        "add_generation_prompt" | "continue_final_message" => *value == Value::Bool(false),
        _ => false,
    };
    match rest.iter().find(|(name, value)| !harmless(name, value)) {
        Some((name, value)) => Err(Failure::refused(format!("{name} = {value} is not supported here"))),
        None => Ok(rest.get("truncate_prompt_tokens").map(|tokens| !tokens.is_null())),
    }
}

/// What every answer begins and ends with.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "{T}List")]
pub(crate) struct List<T> {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    data: Vec<T>,
    usage: Tokens,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "PoolingTokens")]
pub(crate) struct Tokens {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
}

impl<T> List<T> {
    fn new(app: &App, kind: &str, headed: &Headed, scored: &[Scored], data: Vec<T>) -> Self {
        let read = scored.iter().map(|scored| scored.usage.prompt_tokens).sum();
        List {
            id: format!("{kind}-{}", app.numbers.fetch_add(1, Ordering::Relaxed)),
            object: "list",
            created: nanoseconds() / 1_000_000_000,
            model: headed.model.name().to_owned(),
            data,
            usage: Tokens { prompt_tokens: read, completion_tokens: 0, total_tokens: read },
        }
    }
}

/// Texts to compare. `text_1`, `text_2`, `data_1`, `data_2` and `items` are other names of the two.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Compare {
    model: Option<String>,
    /// What the others are compared with: one for all of them, or one for each.
    #[serde(alias = "text_1", alias = "data_1")]
    queries: Strings,
    #[serde(alias = "text_2", alias = "data_2", alias = "items")]
    documents: Strings,
    /// Whether scores are probabilities, and not logits; true if absent. Similarities of embeddings are neither.
    #[serde(alias = "activation", alias = "softmax")]
    use_activation: Option<bool>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// How well two texts fit each other.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Compared {
    index: usize,
    object: &'static str,
    score: f64,
}

/// `/v1/score` is ours where the request has `messages`, and vLLM's otherwise.
pub(crate) async fn score_or_compare(app: State<App>, headers: HeaderMap, body: Bytes) -> Answer {
    #[derive(Deserialize)]
    struct Peek {
        messages: Option<IgnoredAny>,
        queries: Option<IgnoredAny>,
        text_1: Option<IgnoredAny>,
        data_1: Option<IgnoredAny>,
    }
    let peek: Peek = asked::body(&body)?;
    let compares = peek.queries.is_some() || peek.text_1.is_some() || peek.data_1.is_some();
    if compares && peek.messages.is_none() {
        return compare(app, headers, body).await;
    }
    calls::score(app, headers, body).await
}

/// Scores pairs of texts: by a model with a single score, or by the cosine of two embeddings.
pub(crate) async fn compare(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Answer {
    let asked: Compare = asked::body(&body)?;
    let cuts = check(&asked.rest)?;
    let headed = app.headed(asked.model.as_deref(), Need::Similarity)?;
    let (queries, documents) = (asked.queries.list(), asked.documents.list());
    let (many, others) = (queries.len(), documents.len());
    if many == 0 || others == 0 || (many != 1 && many != others) {
        return Err(Failure::refused(format!(
            "there are {many} queries and {others} documents: give one query for all documents, or one for each"
        )));
    }
    let caller = Caller::new(&headers)?;
    let is_embedder = headed.head.kind == HeadKind::Embedding;
    let inputs = if is_embedder {
        queries.into_iter().chain(documents).map(ScoreInput::Text).collect()
    } else {
        let queries = queries.iter().cycle().cloned();
        queries.zip(documents).map(|(query, document)| ScoreInput::Pair(query, document)).collect()
    };
    let scored = headed.score(&caller, inputs).await.map_err(|e| e.uncut(cuts))?;
    let rows = scored.iter().map(Headed::row).collect::<Answer<Vec<_>>>()?;
    let scores: Vec<f64> = if is_embedder {
        let units: Vec<_> = rows.iter().map(|vector| unit(vector)).collect();
        let (queries, documents) = units.split_at(many);
        queries.iter().cycle().zip(documents).map(|(query, document)| dot(query, document)).collect()
    } else {
        let one = |row: &Vec<f64>| match asked.use_activation {
            Some(false) => row.clone(),
            _ => probabilities(row),
        };
        rows.iter().flat_map(one).collect()
    };
    let data = scores.into_iter().enumerate().map(|(index, score)| Compared { index, object: "score", score });
    Ok(done(&List::new(&app, "score", &headed, &scored, data.collect())))
}

/// Either texts or a conversation.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Classify {
    model: Option<String>,
    /// A text, its tokens, or several of either.
    input: Option<Texts>,
    /// A conversation, in the place of `input`.
    messages: Option<Vec<Said>>,
    /// Whether `probs` are probabilities, and not logits; true if absent.
    #[serde(alias = "activation", alias = "softmax")]
    use_activation: Option<bool>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

fn inputs(input: Option<Texts>, messages: Option<Vec<Said>>) -> Answer<Vec<ScoreInput>> {
    match (input, messages) {
        (Some(texts), None) => texts.inputs("input"),
        (None, Some(said)) => {
            let messages = said.into_iter().map(Said::message).collect::<Answer<_>>()?;
            Ok(vec![ScoreInput::Chat(messages)])
        }
        _ => Err(Failure::refused("give either input or messages")),
    }
}

/// The classes of a text.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Classified {
    index: usize,
    /// The likeliest.
    label: Option<String>,
    probs: Vec<f64>,
    num_classes: usize,
}

/// Classifies texts.
pub(crate) async fn classify(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Answer {
    let asked: Classify = asked::body(&body)?;
    let cuts = check(&asked.rest)?;
    let headed = app.headed(asked.model.as_deref(), Need::Classes)?;
    let caller = Caller::new(&headers)?;
    let inputs = inputs(asked.input, asked.messages)?;
    let scored = headed.score(&caller, inputs).await.map_err(|e| e.uncut(cuts))?;
    let data = scored.iter().enumerate().map(|(index, scored)| {
        let logits = Headed::row(scored)?;
        let best = (0..logits.len()).rev().max_by(|&one, &other| logits[one].total_cmp(&logits[other]));
        let label = best.and_then(|best| headed.head.labels.get(best).cloned());
        let probs = if asked.use_activation == Some(false) { logits } else { probabilities(&logits) };
        Ok(Classified { index, label, num_classes: probs.len(), probs })
    });
    let data = data.collect::<Answer<Vec<_>>>()?;
    Ok(done(&List::new(&app, "classify", &headed, &scored, data)))
}

/// What a head is asked for.
#[derive(Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "PoolingTask")]
pub(crate) enum Task {
    Embed,
    Classify,
    TokenClassify,
    TokenEmbed,
}

/// Either texts or a conversation.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Pool {
    model: Option<String>,
    /// A text, its tokens, or several of either.
    input: Option<Texts>,
    /// A conversation, in the place of `input`.
    messages: Option<Vec<Said>>,
    /// What the model's head gives, if absent.
    task: Option<Task>,
    /// Whether scores are probabilities, and vectors have length 1; true if absent.
    #[serde(alias = "activation", alias = "softmax", alias = "normalize")]
    use_activation: Option<bool>,
    encoding_format: Option<Encoding>,
    /// Not supported: only the vectors' own number.
    dimensions: Option<usize>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// The numbers of a text: a row, a row for each token, or the row's bytes in base64.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Numbers {
    Row(Vec<f64>),
    Rows(Vec<Vec<f64>>),
    Bytes(String),
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Pooled {
    index: usize,
    object: &'static str,
    data: Numbers,
}

impl Pool {
    /// What the head gives, if this is what is asked for.
    fn task(&self, headed: &Headed) -> Answer<Task> {
        let given = match headed.head.kind {
            HeadKind::Embedding => Task::Embed,
            HeadKind::SequenceClassification => Task::Classify,
            HeadKind::TokenClassification => Task::TokenClassify,
            _ => return Err(Failure::unable("the model has a head that this route does not know")),
        };
        let name = headed.model.name();
        match self.task {
            None => Ok(given),
            Some(task) if task == given => Ok(given),
            Some(_) => Err(Failure::unable(match given {
                Task::Embed => format!("model `{name}` gives one embedding for a text: ask for task \"embed\""),
                Task::Classify => format!("model `{name}` scores whole texts: ask for task \"classify\""),
                _ => format!("model `{name}` scores tokens: ask for task \"token_classify\""),
            })),
        }
    }

    fn check_vectors(&self, task: Task, headed: &Headed) -> Answer<()> {
        let size = headed.head.size;
        match self.dimensions {
            Some(dimensions) if task != Task::Embed || dimensions != size => Err(Failure::refused(format!(
                "dimensions = {dimensions} is not supported: the model gives {size} numbers"
            ))),
            _ if self.use_activation == Some(false) && task == Task::Embed && headed.head.normalize => Err(
                Failure::refused("use_activation = false is not supported: the model itself gives vectors of length 1"),
            ),
            _ if task == Task::TokenClassify && matches!(self.encoding_format, Some(Encoding::Base64)) => {
                Err(Failure::refused("encoding_format = \"base64\" is not supported for rows of tokens"))
            }
            _ => Ok(()),
        }
    }

    fn numbers(&self, task: Task, headed: &Headed, scored: &Scored) -> Answer<Numbers> {
        let active = |row: Vec<f64>| match task {
            _ if self.use_activation == Some(false) => row,
            Task::Embed if headed.head.normalize => row,
            Task::Embed => unit(&row),
            _ => probabilities(&row),
        };
        if task == Task::TokenClassify {
            return Ok(Numbers::Rows(Headed::rows(scored)?.into_iter().map(active).collect()));
        }
        let row = active(Headed::row(scored)?);
        Ok(match self.encoding_format {
            Some(Encoding::Base64) => {
                Numbers::Bytes(base64(&row.iter().map(|number| *number as f32).collect::<Vec<_>>()))
            }
            _ => Numbers::Row(row),
        })
    }
}

/// The numbers of a model's head, of whatever kind it is.
pub(crate) async fn pooling(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Answer {
    let mut asked: Pool = asked::body(&body)?;
    let cuts = check(&asked.rest)?;
    let headed = app.headed(asked.model.as_deref(), Need::Head)?;
    let task = asked.task(&headed)?;
    asked.check_vectors(task, &headed)?;
    let caller = Caller::new(&headers)?;
    let inputs = inputs(asked.input.take(), asked.messages.take())?;
    let scored = headed.score(&caller, inputs).await.map_err(|e| e.uncut(cuts))?;
    let data = scored.iter().enumerate().map(|(index, scored)| {
        let data = asked.numbers(task, &headed, scored)?;
        Ok(Pooled { index, object: "pooling", data })
    });
    let data = data.collect::<Answer<Vec<_>>>()?;
    Ok(done(&List::new(&app, "pool", &headed, &scored, data)))
}
