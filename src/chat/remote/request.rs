//! A request to an endpoint, in JSON.

use serde_json::{Map, Value, json};

use super::endpoint::{Endpoint, Route};
use super::{Decisions, JsonMode, decisions};
use crate::chat::{ChatRequest, ChatTask, JsonSchema, Role};
use crate::decode::SamplingOptions;
use crate::{Error, Result};

/// Number of log-probabilities to ask for at each position: the maximum that OpenAI gives.
const TOP_LOGPROBS: usize = 20;
/// Maximum number of tokens in an answer: a word or two, and a line break before it.
const ANSWER_TOKENS: usize = 16;

/// The kind of reply that is expected.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Wanted {
    /// Its text.
    Text,
    /// The probabilities of these answers, from the likely tokens or from the text alone.
    Choice { answers: Vec<Vec<String>>, logprobs: bool },
    /// The probabilities of these options, as `/v1/decisions` gives them.
    Decision { options: Vec<String>, dialect: Decisions },
}

impl Wanted {
    /// The part of the endpoint that gives this.
    pub(super) fn route(&self) -> Route {
        match self {
            Wanted::Text | Wanted::Choice { .. } => Route::ChatCompletions,
            Wanted::Decision { .. } => Route::Decisions,
        }
    }
}

/// The body of a request, and the expected kind of reply.
///
/// # Errors
/// [`crate::ErrorKind::Unsupported`] for scores, which this protocol doesn't have, and
/// [`crate::ErrorKind::InvalidRequest`] for answers that `/v1/decisions` can't tell apart.
pub(super) fn body(endpoint: &Endpoint, request: ChatRequest) -> Result<(Value, Wanted)> {
    if let (true, ChatTask::Choose { answers }) = (endpoint.decisions != Decisions::None, &request.task) {
        return decisions::request::body(endpoint, &request.messages, answers);
    }
    let messages: Vec<Value> = request
        .messages
        .iter()
        .map(|message| json!({"role": message.role.as_str(), "content": message.content}))
        .collect();
    let mut body = json!({"model": endpoint.model, "messages": messages});
    let fields = body.as_object_mut().ok_or_else(|| Error::internal("a request that is not an object"))?;
    if endpoint.send_seed {
        fields.insert("seed".into(), seed(request.seed).into());
    }
    let limit = |fields: &mut Map<String, Value>, tokens: usize| {
        fields.insert(endpoint.max_tokens_field.as_str().into(), tokens.into());
    };
    let wanted = match request.task {
        ChatTask::Generate { speaker: Role::User, .. } => {
            return Err(Error::unsupported(format!(
                "model `{}`: an endpoint writes the assistant's messages. A model that was trained to be the user \
                 (role_style = \"user_lm\") has to be a local one",
                endpoint.name
            )));
        }
        ChatTask::Generate { max_tokens, sampling, stop, schema, .. } => {
            limit(fields, max_tokens);
            sample(fields, endpoint, &sampling);
            if !stop.is_empty() {
                fields.insert("stop".into(), stop.into());
            }
            if let Some(format) = schema.and_then(|schema| response_format(endpoint.json_mode, &schema)) {
                fields.insert("response_format".into(), format);
            }
            Wanted::Text
        }
        ChatTask::Choose { answers } => {
            limit(fields, ANSWER_TOKENS);
            fields.insert("temperature".into(), 0.into());
            if endpoint.logprobs {
                fields.insert("logprobs".into(), true.into());
                fields.insert("top_logprobs".into(), TOP_LOGPROBS.into());
            }
            Wanted::Choice { answers, logprobs: endpoint.logprobs }
        }
        ChatTask::Score(_) => {
            return Err(Error::unsupported(format!(
                "model `{}` is behind an endpoint, which gives no scores: metrics that read scores from a model need \
                 one with a path",
                endpoint.name
            )));
        }
    };
    Ok((body, wanted))
}

/// The sampling settings. Those of OpenAI's protocol are always sent, because servers have their own defaults. The
/// others are sent only if they were set, because OpenAI refuses them.
fn sample(fields: &mut Map<String, Value>, endpoint: &Endpoint, sampling: &SamplingOptions) {
    let (off, set) = (SamplingOptions::default(), endpoint.extensions);
    fields.insert("temperature".into(), decimal(sampling.temperature));
    fields.insert("top_p".into(), decimal(sampling.top_p));
    if set.top_k || sampling.top_k != off.top_k {
        fields.insert("top_k".into(), sampling.top_k.into());
    }
    if set.min_p || sampling.min_p != off.min_p {
        fields.insert("min_p".into(), decimal(sampling.min_p));
    }
    if set.repetition_penalty || sampling.repetition_penalty != off.repetition_penalty {
        fields.insert("repetition_penalty".into(), decimal(sampling.repetition_penalty));
    }
}

fn response_format(mode: JsonMode, schema: &JsonSchema) -> Option<Value> {
    match mode {
        JsonMode::JsonSchema => {
            let format = json!({"name": schema.name, "schema": schema.schema, "strict": true});
            Some(json!({"type": "json_schema", "json_schema": format}))
        }
        JsonMode::JsonObject => Some(json!({"type": "json_object"})),
        JsonMode::None => None,
    }
}

/// A positive seed of 31 bits, the most that every server accepts.
fn seed(seed: u64) -> u32 {
    let folded = (seed ^ (seed >> 32)) as u32;
    folded & 0x7fff_ffff
}

/// A number as it was written: 0.7, and not the nearest double to the nearest float.
fn decimal(number: f32) -> Value {
    number.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::MaxTokensField;
    use super::super::endpoint::tests::endpoint;
    use super::*;
    use crate::chat::{Message, Role};

    fn request(task: ChatTask) -> ChatRequest {
        ChatRequest { messages: vec![Message::new(Role::User, "hi")], task, seed: u64::MAX - 5 }
    }

    fn generate(sampling: SamplingOptions, stop: Vec<String>, schema: bool) -> ChatRequest {
        let schema = schema.then(|| Arc::new(JsonSchema { name: "s".into(), schema: json!({"type": "object"}) }));
        request(ChatTask::Generate { max_tokens: 9, sampling, stop, schema, speaker: Role::Assistant })
    }

    #[test]
    fn a_reply_is_asked_for_as_openai_wants_it() {
        let sampling = SamplingOptions { temperature: 0.7, ..SamplingOptions::default() };
        let (body, wanted) = body(&endpoint(), generate(sampling, vec!["END".into()], true)).unwrap();
        assert_eq!(
            body,
            json!({
                "model": "big", "messages": [{"role": "user", "content": "hi"}], "seed": 5, "max_tokens": 9,
                "temperature": 0.7, "top_p": 1.0, "stop": ["END"],
                "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}, "strict": true}}
            })
        );
        assert_eq!(wanted, Wanted::Text);
    }

    #[test]
    fn settings_change_what_is_sent() {
        let mut endpoint = endpoint();
        endpoint.send_seed = false;
        endpoint.max_tokens_field = MaxTokensField::MaxCompletionTokens;
        endpoint.json_mode = JsonMode::JsonObject;
        endpoint.extensions.top_k = true;
        let sampling = SamplingOptions { min_p: 0.1, ..SamplingOptions::default() };
        let ask = |endpoint: &Endpoint| body(endpoint, generate(sampling.clone(), vec![], true)).unwrap().0;
        assert_eq!(
            ask(&endpoint),
            json!({
                "model": "big", "messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 9,
                "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.1, "response_format": {"type": "json_object"}
            })
        );
        endpoint.json_mode = JsonMode::None;
        assert_eq!(ask(&endpoint).get("response_format"), None);
    }

    #[test]
    fn decisions_change_only_the_questions_with_fixed_answers() {
        let mut endpoint = endpoint();
        let choose = || request(ChatTask::Choose { answers: vec![vec!["Yes".into()], vec!["No".into()]] });
        let chat = body(&endpoint, choose()).unwrap().1;
        assert_eq!(
            (chat.route(), endpoint.url(chat.route())),
            (Route::ChatCompletions, "http://localhost:8000/v1/chat/completions".into())
        );
        for dialect in [Decisions::Openai, Decisions::Vllm, Decisions::Sglang] {
            endpoint.decisions = dialect;
            let (asked, wanted) = body(&endpoint, choose()).unwrap();
            assert_eq!(
                (wanted.route(), endpoint.url(wanted.route())),
                (Route::Decisions, "http://localhost:8000/v1/decisions".into())
            );
            let mut fields: Vec<&String> = asked.as_object().unwrap().keys().collect();
            fields.sort();
            assert_eq!(fields, ["input", "model", "questions"], "servers refuse fields that they don't know");
            assert_eq!(wanted, Wanted::Decision { options: vec!["Yes".into(), "No".into()], dialect });
            let (asked, wanted) = body(&endpoint, generate(SamplingOptions::default(), vec![], false)).unwrap();
            assert_eq!((wanted, asked.get("questions")), (Wanted::Text, None));
        }
    }

    #[test]
    fn answers_are_asked_for_greedily_and_scores_are_refused() {
        let mut endpoint = endpoint();
        let choose = || request(ChatTask::Choose { answers: vec![vec!["Yes".into()], vec!["No".into()]] });
        let (asked, wanted) = body(&endpoint, choose()).unwrap();
        assert_eq!(
            (&asked["temperature"], &asked["top_logprobs"], &asked["logprobs"]),
            (&json!(0), &json!(20), &json!(true))
        );
        assert!(matches!(wanted, Wanted::Choice { logprobs: true, .. }));
        endpoint.logprobs = false;
        let (asked, wanted) = body(&endpoint, choose()).unwrap();
        assert!(asked.get("logprobs").is_none() && asked.get("top_logprobs").is_none());
        assert!(matches!(wanted, Wanted::Choice { logprobs: false, .. }));
        let error = body(&endpoint, request(ChatTask::Score(crate::score::ScoreTask::Labels))).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Unsupported);
    }
}
