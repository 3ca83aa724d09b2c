//! What a sweep keeps of a task: the responses, their conversations, and R* after every turn.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::kind::Kind;
use crate::chat::Message;
use crate::rank::{Ended, ModelInfo, ModelRole};
use crate::{Error, Result};

/// Metrics by name.
pub(super) type Values = BTreeMap<String, f64>;

/// A task with one simulator: a line of `responses.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Swept {
    /// The name of the policy.
    pub policy: String,
    /// The id of the task.
    pub id: String,
    /// The simulator, where it is another one than the configuration's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub simulator: Option<String>,
    /// The conversation before the responses, without the policy's system message.
    pub conversation: Vec<Message>,
    /// The responses.
    pub responses: Vec<SweptResponse>,
    /// The weight of each metric in R*.
    pub weights: Values,
    /// True if sample k of all responses shares its random numbers.
    pub paired: bool,
    /// Tokens, per response.
    pub tokens: SweptTokens,
    /// The seed that its seeds come from.
    pub seed: u64,
    /// The models that played the roles.
    pub models: BTreeMap<ModelRole, ModelInfo>,
    /// True if the same task with the same seed gives this row again, to the last bit.
    pub bitwise: bool,
}

/// A response and its conversations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SweptResponse {
    /// Its text.
    pub response: String,
    /// The metrics of the conversation that ends with it.
    pub now: Values,
    /// The conversations from it on. Those for which a metric failed are left out.
    pub futures: Vec<SweptFuture>,
}

/// A conversation from a response on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SweptFuture {
    /// Its number among those of the response, from 0.
    pub sample: usize,
    /// The messages after the response.
    pub messages: Vec<Message>,
    /// The reason why it ended.
    pub ended: Ended,
    /// The metrics after each turn: one turn first. After its end, a conversation keeps its metrics.
    pub values: Vec<Values>,
}

/// Thousands of tokens that were read and written for a response: all of its samples together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SweptTokens {
    /// To sample the conversations up to each turn: one turn first. Policy and user together. The sum is measured, and
    /// divided over turns by the lengths of the messages.
    pub sampling: Vec<f64>,
    /// To score the conversations after each turn. The first is for the response as it stands, once.
    pub scoring: Vec<f64>,
}

/// What the judge says about pairs of conversations of a row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Comparisons {
    /// For each sample, which is a number of `SweptFuture::sample`: the probability that the conversation from one response
    /// is better than that from another, `[one][other]`.
    pub(super) samples: BTreeMap<usize, Vec<Vec<f64>>>,
    /// Thousands of tokens per response.
    pub(super) tokens: f64,
}

impl Swept {
    /// The samples that all responses have. A comparison on unequal luck would favour one of them.
    pub(super) fn complete(&self) -> Vec<usize> {
        let has = |response: &SweptResponse, sample| response.futures.iter().any(|future| future.sample == sample);
        let samples = self.responses.first().into_iter().flat_map(|first| &first.futures).map(|future| future.sample);
        samples.filter(|sample| self.responses.iter().all(|response| has(response, *sample))).collect()
    }
}

/// Refuses a kind that names a metric that there is not.
pub(super) fn check_metrics(kind: &Kind, names: &[&str]) -> Result<()> {
    match kind.metrics.iter().find(|name| !names.contains(&name.as_str())) {
        None => Ok(()),
        Some(unknown) => Err(Error::invalid_request(format!(
            "kind `{}`: there is no metric `{unknown}`; the configuration has {}",
            kind.name,
            names.join(", ")
        ))),
    }
}
