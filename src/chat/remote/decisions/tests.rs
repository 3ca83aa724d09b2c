//! Our requests and our reading of replies beside those of OpenAI's client and of the types of vLLM and SGLang, as
//! `tests/reference/make_decision_fixtures.py` recorded them.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::super::endpoint::tests::endpoint;
use super::super::{reply, request};
use super::Decisions;
use crate::chat::{ChatOutput, ChatRequest, ChatTask, Message, Usage};

#[derive(Deserialize)]
struct Case {
    about: String,
    dialect: Decisions,
    messages: Vec<Message>,
    answers: Vec<Vec<String>>,
    /// The request; null where only the reply matters.
    body: Value,
    reply: Value,
    #[serde(default)]
    probabilities: Vec<f64>,
    #[serde(default)]
    usage: Value,
    /// A part of the error, where the reply is one.
    error: Option<String>,
}

#[test]
fn requests_and_replies_are_those_of_the_servers_types() {
    let fixture = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/decisions.json"));
    let cases: Vec<Case> = serde_json::from_str(fixture).unwrap();
    assert_eq!(cases.len(), 10);
    for case in cases {
        let about = format!("{} ({:?})", case.about, case.dialect);
        let mut endpoint = endpoint();
        endpoint.decisions = case.dialect;
        let task = ChatTask::Choose { answers: case.answers };
        let (body, wanted) = request::body(&endpoint, ChatRequest { messages: case.messages, task, seed: 7 }).unwrap();
        assert!(case.body.is_null() || body == case.body, "{about}: {body}");

        let read = reply::read(&endpoint, &wanted, case.reply.to_string().as_bytes(), Duration::ZERO);
        if let Some(part) = case.error {
            let error = read.unwrap_err().to_string();
            assert!(error.contains(&part), "{about}: {error}");
            continue;
        }
        let reply = read.unwrap_or_else(|error| panic!("{about}: {error}")).0;
        let ChatOutput::Choice { probabilities } = reply.output else { panic!("{about}: a choice") };
        assert_eq!(probabilities, case.probabilities, "{about}");
        let count = |name: &str| case.usage[name].as_u64().unwrap();
        let usage = Usage {
            reused_tokens: count("reused_tokens"),
            ..Usage::new(count("prompt_tokens"), count("generated_tokens"))
        };
        assert_eq!(reply.usage, usage, "{about}");
    }
}
