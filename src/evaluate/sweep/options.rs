//! How kinds of reward are compared, and what cannot be.

use serde_json::{Map, Value, json};

use super::kind::Kind;
use crate::chat::{Message, Role};
use crate::evaluate::hold::Policy;
use crate::rank::{Candidates, MAX_CANDIDATES, MAX_WINDOW, RankRequest};
use crate::tasks::{RunOptions, seed_below};
use crate::{Error, Result};

/// How kinds of reward are compared.
#[derive(Debug, Clone)]
pub struct SweepOptions {
    /// Responses to each task; at least 2.
    pub candidates: usize,
    /// Conversations from each response. With 2 or more, a choice by half of them is valued by the others.
    pub samples: usize,
    /// Most turns of the policy in a conversation, with the response; 2 to 33.
    pub turns: usize,
    /// Decides all random draws, with the tasks' ids.
    pub seed: u64,
    /// A description of the configuration that has to stay the same when a sweep goes on: a hash, or a version.
    pub configuration: String,
    /// How the run goes about the conversations.
    pub run: RunOptions,
}

impl Default for SweepOptions {
    fn default() -> Self {
        let (configuration, run) = (String::new(), RunOptions::default());
        SweepOptions { candidates: 4, samples: 4, turns: 4, seed: 0, configuration, run }
    }
}

impl SweepOptions {
    pub(super) fn validate(&self, policy: &Policy, kinds: &[Kind]) -> Result<()> {
        let Self { candidates, samples, turns, .. } = *self;
        if policy.best_of.is_some() {
            return Err(Error::invalid_request(format!(
                "policy `{}` answers with the best of several responses, and a sweep compares ways to choose: give the policy \
                 itself",
                policy.name
            )));
        }
        if !(2..=MAX_CANDIDATES).contains(&candidates) {
            return Err(Error::invalid_request(format!(
                "candidates is {candidates}: between 2 and {MAX_CANDIDATES} responses are ranked"
            )));
        }
        if !(2..=MAX_WINDOW + 1).contains(&turns) {
            return Err(Error::invalid_request(format!(
                "turns is {turns}: a conversation of a sweep has between 2 and {}, because the response is the first",
                MAX_WINDOW + 1
            )));
        }
        if kinds.is_empty() {
            return Err(Error::invalid_request("there is no kind of reward to compare"));
        }
        for (at, kind) in kinds.iter().enumerate() {
            if kinds[..at].iter().any(|other| other.name == kind.name) {
                return Err(Error::invalid_request(format!("kind `{}` is given twice", kind.name)));
            }
            kind.check(turns, samples)?;
        }
        let conversation = vec![Message::new(Role::User, "?")];
        futures(conversation, vec!["?".into(); candidates], self, 0).validate_size()?;
        self.run.validate()
    }

    /// What has to stay the same when a sweep goes on. Kinds may come and go.
    pub(super) fn settings(&self) -> Map<String, Value> {
        let settings = json!({
            "for": "sweep", "configuration": self.configuration, "seed": self.seed, "turns": self.turns,
            "candidates": self.candidates, "samples": self.samples,
        });
        settings.as_object().cloned().unwrap_or_default()
    }
}

/// The request for the conversations from given responses.
pub(super) fn futures(
    conversation: Vec<Message>,
    responses: Vec<String>,
    options: &SweepOptions,
    seed: u64,
) -> RankRequest {
    RankRequest {
        conversation,
        candidates: Candidates::Given(responses),
        window: Some(options.turns - 1),
        samples: Some(options.samples),
        seed: Some(seed_below(seed, &[FUTURES])),
        ..RankRequest::default()
    }
}

/// Separates the seed of the conversations from that of the responses.
const FUTURES: u64 = 1;
