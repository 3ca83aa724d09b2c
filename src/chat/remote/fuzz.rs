//! The entry point of the fuzzers: a body of a reply, as it comes from the network.

use std::time::Duration;

use super::client::Complaint;
use super::coding::decoded;
use super::request::Wanted;
use super::{Decisions, Endpoint, Extensions, JsonMode, MaxTokensField, OnEchoedKey, Secret, reply};

/// The first byte chooses the body's coding. The rest is read in every possible way.
pub(in crate::chat) fn reply(data: &[u8]) {
    let Some((coding, body)) = data.split_first() else { return };
    let coding = [None, None, None, Some("gzip"), Some("deflate"), Some("br")][usize::from(*coding) % 6];
    let Ok(body) = decoded(body.to_vec(), coding, 1 << 20) else { return };
    let endpoint = Endpoint {
        name: "fuzz".into(),
        base_url: "http://localhost/v1".into(),
        model: "m".into(),
        key: Some(Secret::new("sk-0123456789abcdef".into())),
        headers: Vec::new(),
        timeout: Duration::from_secs(1),
        connect_timeout: Duration::from_secs(1),
        max_retries: 0,
        max_concurrent: 1,
        requests_per_minute: None,
        max_tokens_field: MaxTokensField::MaxTokens,
        send_seed: true,
        logprobs: true,
        decisions: Decisions::None,
        json_mode: JsonMode::JsonSchema,
        on_echoed_key: OnEchoedKey::Note,
        extensions: Extensions::default(),
    };
    let answers = vec![vec!["Yes".to_owned(), "yes".to_owned()], vec!["No".to_owned()]];
    let choice = |logprobs| Wanted::Choice { answers: answers.clone(), logprobs };
    let options = vec!["Yes".to_owned(), "No".to_owned()];
    let decision = |dialect| Wanted::Decision { options: options.clone(), dialect };
    let decisions = [Decisions::Openai, Decisions::Vllm, Decisions::Sglang].map(decision);
    for wanted in [Wanted::Text, choice(true), choice(false)].into_iter().chain(decisions) {
        match reply::read(&endpoint, &wanted, &body, Duration::ZERO) {
            Ok((reply, _)) => {
                if let crate::chat::ChatOutput::Choice { probabilities } = reply.output {
                    assert!(probabilities.iter().all(|p| (0.0..=1.0).contains(p)), "{probabilities:?}");
                    assert!(probabilities.iter().sum::<f64>() <= 1.0 + 1e-9, "{probabilities:?}");
                }
            }
            Err(error) => {
                let error = error.to_string();
                assert!(!error.contains("sk-0123456789abcdef") && !error.contains('\u{1b}'), "{error:?}");
            }
        }
    }
    let quote = endpoint.quote(&Complaint::read(&body).message);
    assert!(quote.chars().count() <= 301 && !quote.contains("sk-0123456789abcdef"), "{quote:?}");
}
