//! An endpoint's reply, in JSON. Nothing in it is trusted, and nothing that is missing is made up.

use std::time::Duration;

use serde_json::Value;

use super::choice::{self, Position};
use super::client::Complaint;
use super::endpoint::{Endpoint, Route};
use super::fields::{self, Counts, present};
use super::request::Wanted;
use super::{Decisions, OnEchoedKey, decisions};
use crate::chat::{ChatOutput, ChatReply, Finish, Usage};
use crate::{Error, ErrorKind, Result, json};

/// Maximum number of characters in a fingerprint.
const MAX_FINGERPRINT: usize = 100;

/// Reads a reply that took this long. Also returns the endpoint's name for the model's version.
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
    let expected = match wanted.route() {
        Route::ChatCompletions => "chat completion",
        Route::Decisions => "decision",
    };
    let something_else = |what: String| {
        let shown = endpoint.quote(&String::from_utf8_lossy(body));
        format!("its reply is not a {expected}: {what}. It begins {shown:?}")
    };
    let reply: Value = json::parse(body).map_err(|e| something_else(e.to_string()))?;
    if !reply.is_object() {
        return Err(something_else("it is not an object".into()));
    }
    if let Some(error) = fields::error(&reply) {
        return Err(format!("it answered with an error: {}", endpoint.quote(&Complaint::of(error).message)));
    }
    let (output, note) = output(endpoint, wanted, &reply)?;
    let names = if reports_as_decision(wanted) { fields::DECISION } else { fields::COMPLETION };
    let counts = Counts::read(reply.get("usage"), &names).map_err(|e| endpoint.quote(&e))?;
    let usage = Usage {
        prompt_tokens: counts.prompt,
        reused_tokens: counts.cached,
        generated_tokens: counts.generated,
        seconds: took.as_secs_f64(),
    };
    let fingerprint = fields::fingerprint(&reply).map(|text| endpoint.scrub(&text));
    let fingerprint = fingerprint.map(|text| text.chars().take(MAX_FINGERPRINT).collect());
    Ok((ChatReply { output, usage, note }, fingerprint))
}

/// What was asked for, and a note if it contains the key.
fn output(endpoint: &Endpoint, wanted: &Wanted, reply: &Value) -> Result<(ChatOutput, Option<String>), String> {
    if let Wanted::Decision { options, dialect } = wanted {
        let probabilities = decisions::reply::probabilities(*dialect, options, reply);
        // Numbers alone are kept of it, so there is nothing that could repeat the key.
        return Ok((ChatOutput::Choice { probabilities: probabilities.map_err(|e| endpoint.quote(&e))? }, None));
    }
    let choice = fields::choice(reply).map_err(|e| endpoint.quote(&e))?;
    let (text, finish) = said(endpoint, choice)?;
    let note = echo(endpoint, &text)?;
    let output = match wanted {
        Wanted::Choice { answers, logprobs: false } => by_text(answers, &text, finish)?,
        Wanted::Choice { answers, logprobs: true } => by_logprobs(endpoint, choice, answers, finish)?,
        _ => ChatOutput::Text { text, tokens: None, finish, retokenized_differs: Vec::new() },
    };
    Ok((output, note))
}

/// Whether the reply's usage has the names of OpenAI's decisions. SGLang's has those of completions.
fn reports_as_decision(wanted: &Wanted) -> bool {
    matches!(wanted, Wanted::Decision { dialect, .. } if *dialect != Decisions::Sglang)
}

/// The text, and the reason for its end.
fn said(endpoint: &Endpoint, choice: &Value) -> Result<(String, Finish), String> {
    let message = present(choice.get("message")).ok_or("its reply has no message")?;
    if let Some(refusal) = message.get("refusal").and_then(Value::as_str).filter(|refusal| !refusal.is_empty()) {
        return Err(format!("the model refused: {}", endpoint.quote(refusal)));
    }
    let finish = match present(choice.get("finish_reason")) {
        Some(Value::String(reason)) => match &**reason {
            // Also as Together and Text Generation Inference say it.
            "stop" | "eos" | "eos_token" | "stop_sequence" => Finish::Stop,
            // Also as Mistral says it.
            "length" | "model_length" => Finish::Length,
            "content_filter" => {
                return Err("its filter held the reply back (finish_reason is \"content_filter\")".into());
            }
            other => return Err(unknown_end(&format!("{:?}", endpoint.quote(other)))),
        },
        Some(other) => return Err(unknown_end(&fields::shown(other))),
        None => return Err("finish_reason is missing, so the text may not be whole".into()),
    };
    match present(message.get("content")) {
        Some(Value::String(text)) => Ok((text.clone(), finish)),
        Some(other) => {
            let other = endpoint.quote(&fields::shown(other));
            Err(format!("its reply is not a chat completion: message.content is {other}, not a text"))
        }
        None => Err("message.content is null: the model wrote no text".into()),
    }
}

fn unknown_end(reason: &str) -> String {
    format!("finish_reason is {reason}, which is neither \"stop\" nor \"length\"")
}

/// A note that a text contains the key. The text stays as it came, because metrics score what the model wrote.
fn echo(endpoint: &Endpoint, text: &str) -> Result<Option<String>, String> {
    if !endpoint.is_echo(text) {
        return Ok(None);
    }
    match endpoint.on_echoed_key {
        OnEchoedKey::Note => Ok(Some(format!(
            "model `{}` at {} repeated its API key in a reply, which is kept as it came: the key is in this ranking's \
             output, and may be in traces and prompts. Replace the key; on_echoed_key = \"fail\" drops such rollouts",
            endpoint.name,
            endpoint.host()
        ))),
        OnEchoedKey::Fail => Err("its reply repeats the API key (on_echoed_key = \"fail\"). Replace the key".into()),
    }
}

/// The probabilities of answers, from the written text.
fn by_text(answers: &[Vec<String>], text: &str, finish: Finish) -> Result<ChatOutput, String> {
    if text.trim().is_empty() && finish == Finish::Length {
        return Err(
            "it wrote nothing within the few tokens of an answer, as models that reason first do. Use judging = \
                    \"json\""
                .into(),
        );
    }
    Ok(ChatOutput::Choice { probabilities: choice::by_text(answers, text) })
}

/// The probabilities of answers, from the endpoint's log-probabilities.
fn by_logprobs(
    endpoint: &Endpoint,
    choice: &Value,
    answers: &[Vec<String>],
    finish: Finish,
) -> Result<ChatOutput, String> {
    let positions = fields::positions(choice).map_err(|e| endpoint.quote(&e))?;
    if positions.first().is_none_or(Position::is_bare) {
        return Err(
            "its reply has no log-probabilities (logprobs.content with top_logprobs), although they were requested. \
             Set logprobs = false under [models], so that the written answer counts, or judging = \"json\""
                .into(),
        );
    }
    let probabilities =
        choice::by_logprobs(answers, &positions, finish == Finish::Stop).map_err(|e| endpoint.quote(&e))?;
    Ok(ChatOutput::Choice { probabilities })
}

/// The error for a reply that will not come because its thread failed.
pub(super) fn lost(endpoint: &Endpoint) -> Error {
    endpoint.error(ErrorKind::Internal, "a thread that waited for it panicked; this is a defect of foreturn")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::endpoint::Secret;
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
    fn a_reply_stays_as_it_came_whatever_the_key_is() {
        let text = "\u{1b}Before the next summer EMPTY tests, none: x ollama, sk-0123456789abcdef.";
        let mut body = good();
        body["choices"][0]["message"]["content"] = json!(text);
        body["system_fingerprint"] = json!("x-sk-0123456789abcdef");
        for key in
            ["x", "EMPTY", "ollama", "tests", "none", "sk-0123456789ab", "sk-0123456789abcdef", "sk-another-0123456789"]
        {
            let mut endpoint = endpoint();
            endpoint.key = Some(Secret::new(key.into()));
            let read = |endpoint: &Endpoint| read(endpoint, &Wanted::Text, body.to_string().as_bytes(), Duration::ZERO);
            let (reply, fingerprint) = read(&endpoint).unwrap();
            let ChatOutput::Text { text: found, .. } = reply.output else { panic!("a text") };
            assert_eq!(found, text, "{key}");
            let echoed = key == "sk-0123456789abcdef";
            assert_eq!(reply.note.is_some(), echoed, "{key}");
            assert!(
                reply
                    .note
                    .is_none_or(|note| note.contains("model `judge` at localhost:8000 repeated") && !note.contains(key))
            );
            assert_eq!(fingerprint.unwrap().contains("[secret]"), echoed, "{key}");

            endpoint.on_echoed_key = OnEchoedKey::Fail;
            let failed = read(&endpoint).err().map(|error| error.to_string());
            assert_eq!(failed.is_some(), echoed, "{key}");
            assert!(failed.is_none_or(|error| error.contains("on_echoed_key") && !error.contains(key)));
        }
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
            ("/choices/0/finish_reason", json!(3), "finish_reason is 3"),
            ("/choices/0/finish_reason", json!("\u{1b}[2J"), "finish_reason is \"\\\\u{1b}[2J\""),
            ("/usage", json!(null), "no usage"),
            ("/choices/0/finish_reason", json!("abort"), "finish_reason is \"abort\""),
            ("/usage/prompt_tokens", json!(-1), "usage.prompt_tokens is `-1`"),
            ("/usage/completion_tokens", json!(1.5), "usage.completion_tokens is `1.5`"),
            ("/usage/completion_tokens", json!(u64::MAX), "usage is inconsistent"),
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
        for (body, said) in [
            (json!({"object": "error", "message": "no such model", "code": 404}), "no such model"),
            (json!({"detail": "Not Found"}), "Not Found"),
            (json!({"message": "busy", "choices": null}), "busy"),
        ] {
            let error = parse(&Wanted::Text, &body.to_string()).unwrap_err().to_string();
            assert!(error.ends_with(&format!("it answered with an error: {said}")), "{error}");
        }
        let whole = good().to_string();
        for body in ["", "null", "[]", "<html>no</html>", &whole[..whole.len() - 3], &whole.replace("9", "Nan")] {
            let error = parse(&Wanted::Text, body).unwrap_err();
            assert!(error.to_string().contains("not a chat completion"), "{body}: {error}");
        }
    }

    #[test]
    fn ends_are_read_as_servers_write_them() {
        for (reason, expected) in [
            ("stop", Finish::Stop),
            ("eos", Finish::Stop),
            ("eos_token", Finish::Stop),
            ("stop_sequence", Finish::Stop),
            ("length", Finish::Length),
            ("model_length", Finish::Length),
        ] {
            let mut body = good();
            body["choices"][0]["finish_reason"] = json!(reason);
            let (reply, _) = parse(&Wanted::Text, &body.to_string()).unwrap();
            assert!(matches!(reply.output, ChatOutput::Text { finish, .. } if finish == expected), "{reason}");
        }
    }

    #[test]
    fn pythons_constants_matter_only_in_fields_that_are_read() {
        let whole = format!("\u{feff}{}", good());
        let body = whole.replace("\"default\"", "NaN, \"stats\": {\"tokens_per_second\": Infinity}");
        assert!(parse(&Wanted::Text, &body).is_ok(), "{body}");
        for (old, new, part) in [
            ("9", "NaN", "usage.prompt_tokens is `NaN`"),
            ("\"Hi.\"", "-Infinity", "message.content is -Infinity, not a text"),
            ("\"stop\"", "NaN", "finish_reason is NaN"),
        ] {
            let error = parse(&Wanted::Text, &whole.replace(old, new)).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_token_that_is_impossible_has_no_probability() {
        let answers = vec![vec!["Yes".to_owned()], vec!["No".to_owned()]];
        let wanted = Wanted::Choice { answers, logprobs: true };
        let mut body = good();
        body["choices"][0]["logprobs"] = json!({"content": [{"token": "Yes", "logprob": -0.5, "bytes": [], "top_logprobs": [
            {"token": "Yes", "logprob": -0.5, "bytes": []}, {"token": "No", "logprob": "LEAST", "bytes": [78, 111]}
        ]}]});
        for least in ["-Infinity", "-9999.0", "-3.4028234663852886e38"] {
            let body = body.to_string().replace("\"LEAST\"", least);
            let ChatOutput::Choice { probabilities } = parse(&wanted, &body).unwrap().0.output else {
                panic!("a choice")
            };
            assert_eq!(probabilities, [(-0.5_f64).exp(), 0.0], "{least}");
        }
        for lie in ["NaN", "Infinity", "null", "\"x\""] {
            let error = parse(&wanted, &body.to_string().replace("\"LEAST\"", lie)).unwrap_err().to_string();
            assert!(error.contains(&format!("the log-probability of \"No\" is {lie}")), "{error}");
        }
    }

    #[test]
    fn a_decision_is_read_with_its_cost_and_its_errors_are_scrubbed() {
        let wanted = |dialect| Wanted::Decision { options: vec!["Yes".to_owned(), "No".to_owned()], dialect };
        let openai = json!({
            "model": "big", "answers": [{"type": "choice", "name": "answer", "choice": "No", "confidence": 0.7, "probabilities": [
                {"value": "Yes", "probability": 0.25}, {"value": "No", "probability": 0.75}
            ]}],
            "usage": {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 1, "total_tokens": 10}
        });
        let sglang = json!({
            "model": "big", "answers": {"answer": {"type": "choice", "label_mass": 1.0, "probabilities": {"Yes": 0.25, "No": 0.75}}},
            "usage": {"prompt_tokens": 9, "total_tokens": 10, "prompt_tokens_details": {"cached_tokens": 4}}
        });
        for (dialect, body) in [(Decisions::Openai, &openai), (Decisions::Sglang, &sglang)] {
            let reply = parse(&wanted(dialect), &body.to_string()).unwrap().0;
            let ChatOutput::Choice { probabilities } = reply.output else { panic!("a choice") };
            assert_eq!(probabilities, [0.25, 0.75]);
            assert_eq!(reply.usage, Usage { prompt_tokens: 9, reused_tokens: 4, generated_tokens: 1, seconds: 2.0 });
        }
        let whole = openai.to_string();
        for (body, part) in [
            (whole.replace("0.75", "NaN"), "the probability of \"No\" is NaN, not a number in [0, 1]"),
            (whole.replace("0.75", "1e999"), "not a decision"),
            (whole.replace("\"No\"", "\"sk-0123456789\""), "has the option \"[secret]\", which was not asked for"),
            (whole.replace("\"No\"", "\"\\u001b[2J\""), "the option \"\\u{1b}[2J\""),
            (whole.replace("usage", "cost"), "no usage"),
            (whole.replace("_tokens", "_words"), "usage has no input_tokens"),
            (whole.replace('}', ""), "not a decision"),
            (good().to_string(), "not a decision: answers is missing, not a list"),
            ("{\"error\": {\"message\": \"busy\"}}".into(), "answered with an error: busy"),
            ("[]".into(), "not a decision: it is not an object"),
        ] {
            let error = parse(&wanted(Decisions::Openai), &body).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ModelOutput);
            assert!(error.to_string().starts_with("model `judge` at localhost:8000: "), "{error}");
            assert!(error.to_string().contains(part), "{body}: {error}");
        }
        let dialect = parse(&wanted(Decisions::Sglang), &whole).unwrap_err().to_string();
        assert!(dialect.contains("answers is [") && dialect.contains("Check decisions"), "{dialect}");
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
