//! What an endpoint replies, in JSON. Nothing is taken on trust, and nothing that is missing is made up.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::choice::{self, Position};
use super::client::Complaint;
use super::endpoint::Endpoint;
use super::request::Wanted;
use crate::chat::{ChatOutput, ChatReply, Finish, Usage};
use crate::{Error, ErrorKind, Result};

/// No count of tokens is larger.
const MAX_TOKENS: u64 = 1 << 40;
/// Most characters of a fingerprint.
const MAX_FINGERPRINT: usize = 100;

/// A reply, as far as it is looked at.
#[derive(Deserialize)]
struct Completion {
    choices: Option<Vec<Choice>>,
    usage: Option<Counts>,
    system_fingerprint: Option<String>,
    /// Some servers fail with status 200.
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    message: Option<Said>,
    finish_reason: Option<String>,
    logprobs: Option<Logprobs>,
}

#[derive(Deserialize)]
struct Said {
    content: Option<String>,
    refusal: Option<String>,
}

#[derive(Deserialize)]
struct Logprobs {
    content: Option<Vec<Position>>,
}

#[derive(Deserialize)]
struct Counts {
    prompt_tokens: u64,
    completion_tokens: u64,
    prompt_tokens_details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    cached_tokens: Option<u64>,
}

/// Reads a reply that took this long; with it, what the endpoint says of the model's version.
///
/// # Errors
/// [`ErrorKind::ModelOutput`], naming what is wrong with it.
pub(super) fn read(
    endpoint: &Endpoint,
    wanted: &Wanted,
    body: &[u8],
    took: Duration,
) -> Result<(ChatReply, Option<String>)> {
    read_parts(endpoint, wanted, body, took).map_err(|what| endpoint.error(ErrorKind::ModelOutput, &what))
}

fn read_parts(
    endpoint: &Endpoint,
    wanted: &Wanted,
    body: &[u8],
    took: Duration,
) -> Result<(ChatReply, Option<String>), String> {
    let completion: Completion = serde_json::from_slice(body).map_err(|e| {
        let shown = endpoint.quote(&String::from_utf8_lossy(body));
        format!("its reply is not a chat completion: {e}. It begins {shown:?}")
    })?;
    if let Some(error) = completion.error.filter(|error| !error.is_null()) {
        return Err(format!("it answered with an error: {}", endpoint.quote(&Complaint::of(&error).message)));
    }
    let usage = usage(completion.usage, took)?;
    let [choice] = <[Choice; 1]>::try_from(completion.choices.unwrap_or_default())
        .map_err(|choices| format!("its reply has {} choices where one was asked for", choices.len()))?;
    let output = match wanted {
        Wanted::Text => text(endpoint, choice)?,
        Wanted::Choice { answers, logprobs } => probabilities(endpoint, choice, answers, *logprobs)?,
    };
    let fingerprint = completion.system_fingerprint.map(|text| endpoint.without_key(text));
    let fingerprint = fingerprint.map(|text| text.chars().take(MAX_FINGERPRINT).collect());
    Ok((ChatReply { output, usage }, fingerprint))
}

/// What was said, and why it ended.
fn said(endpoint: &Endpoint, choice: &mut Choice) -> Result<(String, Finish), String> {
    let said = choice.message.take().ok_or("its reply has no message")?;
    if let Some(refusal) = said.refusal.filter(|refusal| !refusal.is_empty()) {
        return Err(format!("the model refused: {}", endpoint.quote(&refusal)));
    }
    let finish = match choice.finish_reason.as_deref() {
        Some("stop") => Finish::Stop,
        Some("length") => Finish::Length,
        Some("content_filter") => {
            return Err("its filter held the reply back (finish_reason is \"content_filter\")".into());
        }
        Some(other) => {
            let other = endpoint.quote(other);
            return Err(format!("finish_reason is {other:?}, where \"stop\" or \"length\" says that a text has ended"));
        }
        None => return Err("finish_reason is missing, so the text may not be whole".into()),
    };
    let content = said.content.ok_or("message.content is null: the model wrote no text")?;
    Ok((endpoint.without_key(content), finish))
}

fn text(endpoint: &Endpoint, mut choice: Choice) -> Result<ChatOutput, String> {
    let (text, finish) = said(endpoint, &mut choice)?;
    Ok(ChatOutput::Text { text, tokens: None, finish, retokenized_differs: Vec::new() })
}

fn probabilities(
    endpoint: &Endpoint,
    mut choice: Choice,
    answers: &[Vec<String>],
    logprobs: bool,
) -> Result<ChatOutput, String> {
    let (text, finish) = said(endpoint, &mut choice)?;
    if !logprobs {
        if text.trim().is_empty() && finish == Finish::Length {
            return Err(
                "it wrote nothing within the few tokens of an answer, as models do that reason first. Use judging = \
                        \"json\""
                    .into(),
            );
        }
        return Ok(ChatOutput::Choice { probabilities: choice::by_text(answers, &text) });
    }
    let positions = choice.logprobs.take().and_then(|logprobs| logprobs.content).unwrap_or_default();
    if positions.first().is_none_or(Position::is_bare) {
        return Err(
            "its reply has no log-probabilities (logprobs.content with top_logprobs), though they were asked for. Set \
                    logprobs = false under [models], so that the written answer counts, or judging = \"json\""
                .into(),
        );
    }
    let probabilities = choice::by_logprobs(answers, &positions, finish == Finish::Stop)?;
    Ok(ChatOutput::Choice { probabilities })
}

/// What the reply cost. A reply that doesn't say would be counted as free.
fn usage(counts: Option<Counts>, took: Duration) -> Result<Usage, String> {
    let counts = counts.ok_or("its reply has no usage, so what it cost can't be counted")?;
    let reused = counts.prompt_tokens_details.and_then(|details| details.cached_tokens).unwrap_or(0);
    let (prompt, generated) = (counts.prompt_tokens, counts.completion_tokens);
    if prompt.max(generated) > MAX_TOKENS || reused > prompt {
        return Err(format!(
            "usage makes no sense: {prompt} tokens of the prompt, {reused} of them cached, {generated} generated"
        ));
    }
    Ok(Usage { prompt_tokens: prompt, reused_tokens: reused, generated_tokens: generated, seconds: took.as_secs_f64() })
}

/// The error of a thread that failed, for a reply that will not come.
pub(super) fn lost(endpoint: &Endpoint) -> Error {
    endpoint.error(ErrorKind::Internal, "a thread that waited for it panicked; this is a defect of foreturn")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::endpoint::tests::endpoint;
    use super::*;

    fn good() -> Value {
        json!({
            "choices": [{"message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop", "logprobs": null}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}},
            "system_fingerprint": "fp_1", "service_tier": "default"
        })
    }

    fn parse(wanted: &Wanted, body: &str) -> Result<(ChatReply, Option<String>)> {
        read(&endpoint(), wanted, body.as_bytes(), Duration::from_secs(2))
    }

    #[test]
    fn a_good_reply_is_read_whole() {
        let (reply, fingerprint) = parse(&Wanted::Text, &good().to_string()).unwrap();
        let ChatOutput::Text { text, finish, .. } = reply.output else { panic!("a text") };
        assert_eq!((text.as_str(), finish, fingerprint.as_deref()), ("Hi.", Finish::Stop, Some("fp_1")));
        assert_eq!(reply.usage, Usage { prompt_tokens: 9, reused_tokens: 4, generated_tokens: 2, seconds: 2.0 });
    }

    #[test]
    fn a_reply_that_says_the_key_back_is_read_without_it() {
        let mut body = good();
        body["choices"][0]["message"]["content"] = json!("I was sent sk-0123456789.");
        body["system_fingerprint"] = json!("sk-0123456789");
        let (reply, fingerprint) = parse(&Wanted::Text, &body.to_string()).unwrap();
        let ChatOutput::Text { text, .. } = reply.output else { panic!("a text") };
        assert_eq!((text.as_str(), fingerprint.as_deref()), ("I was sent [secret].", Some("[secret]")));
    }

    #[test]
    fn each_lie_is_an_error_that_names_it() {
        for (pointer, value, part) in [
            ("/choices", json!([]), "0 choices"),
            ("/choices", json!(null), "0 choices"),
            ("/choices", json!("x"), "not a chat completion"),
            ("/choices/0/message", json!(null), "no message"),
            ("/choices/0/message/content", json!(null), "content is null"),
            ("/choices/0/message/content", json!([{"type": "text"}]), "not a chat completion"),
            ("/choices/0/message/refusal", json!("I won't, sk-0123456789"), "the model refused: I won't, [secret]"),
            ("/choices/0/finish_reason", json!(null), "finish_reason is missing"),
            ("/choices/0/finish_reason", json!("content_filter"), "filter"),
            ("/choices/0/finish_reason", json!("tool_calls"), "finish_reason is \"tool_calls\""),
            ("/usage", json!(null), "no usage"),
            ("/usage/prompt_tokens", json!(-1), "invalid value: integer `-1`"),
            ("/usage/completion_tokens", json!(1.5), "floating point `1.5`"),
            ("/usage/completion_tokens", json!(u64::MAX), "usage makes no sense"),
            ("/usage/prompt_tokens_details/cached_tokens", json!(10), "10 of them cached"),
            ("/error", json!({"message": "no GPU"}), "answered with an error: no GPU"),
        ] {
            let mut body = good();
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            body.pointer_mut(parent).unwrap()[key] = value;
            let error = parse(&Wanted::Text, &body.to_string()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ModelOutput);
            assert!(error.to_string().starts_with("model `judge` at localhost:8000: "), "{error}");
            assert!(error.to_string().contains(part), "{pointer}: {error}");
        }
        let whole = good().to_string();
        for body in ["", "null", "[]", "<html>no</html>", &whole[..whole.len() - 3], &whole.replace("9", "NaN")] {
            let error = parse(&Wanted::Text, body).unwrap_err();
            assert!(error.to_string().contains("not a chat completion"), "{body}: {error}");
        }
    }

    #[test]
    fn an_answer_without_the_logprobs_asked_for_is_an_error() {
        let answers = vec![vec!["Yes".to_owned()], vec!["No".to_owned()]];
        let wanted = Wanted::Choice { answers: answers.clone(), logprobs: true };
        let bare = json!({"content": [{"token": "Yes", "logprob": -0.1, "top_logprobs": []}]});
        for logprobs in [json!(null), json!({"content": null}), json!({"content": []}), bare] {
            let mut body = good();
            body["choices"][0]["logprobs"] = logprobs;
            let error = parse(&wanted, &body.to_string()).unwrap_err();
            assert!(error.to_string().contains("Set logprobs = false"), "{error}");
        }
        let mut body = good();
        body["choices"][0]["message"]["content"] = json!("");
        body["choices"][0]["finish_reason"] = json!("length");
        let error = parse(&Wanted::Choice { answers, logprobs: false }, &body.to_string()).unwrap_err();
        assert!(error.to_string().contains("judging = \"json\""), "{error}");
    }
}
