//! The rows of a data set. They are in the nested form of collabllm's data classes, with more fields.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::chat::Message;
use crate::rank::{Goal, ModelInfo, ModelRole};
use crate::tasks::Tokens;

/// A conversation that was built, with what was tried at each turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Conversation {
    /// Version of this format: 1. Fields may be added under the same number.
    pub schema: u32,
    /// The id of its task.
    pub id: String,
    /// The full request: the goal's prompt, otherwise the first message.
    pub single_turn_prompt: String,
    /// The goal's reference.
    pub single_turn_completion: Option<String>,
    /// The task's metadata.
    pub single_turn_metadata: Map<String, Value>,
    /// The goal of the user.
    pub goal: Goal,
    /// The turns of the assistant.
    pub turns: Vec<Turn>,
    /// The reason why there are no more.
    pub ended: Ending,
    /// The last words of a user who ended the conversation with words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_words: Option<Message>,
    /// The seed that its seeds come from.
    pub seed: u64,
    /// The models that played the roles.
    pub models: BTreeMap<ModelRole, ModelInfo>,
    /// The models that metrics asked by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reward_models: Vec<ModelInfo>,
    /// True if the same task with the same seed gives this row again, to the last bit.
    pub bitwise: bool,
    /// Its tokens by role.
    pub tokens: BTreeMap<ModelRole, Tokens>,
    /// The program that built it.
    pub program: String,
}

/// The reason why a conversation has no more turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Ending {
    /// It has as many turns as were asked for.
    Turns,
    /// The simulated user ended it.
    StopSignal,
    /// A model's context is full.
    Context,
}

/// A turn of the assistant: what was said before it, and the candidates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Turn {
    /// The conversation before it.
    pub prompt: Vec<Message>,
    /// The candidates with a reward, in the order in which they were sampled.
    pub responses: Vec<ScoredResponse>,
    /// The place of the best response, with which the conversation goes on.
    pub chosen: usize,
    /// The place of the worst response; unknown if all others have the text of the best.
    pub rejected: Option<usize>,
    /// The probability that the best is better than the worst, judged by their futures; unknown at one sample.
    pub probability: Option<f64>,
    /// Candidates without a reward.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unscored: Vec<UnscoredResponse>,
    /// The seed of the ranking.
    pub seed: u64,
}

/// A candidate with its reward.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ScoredResponse {
    /// Its text.
    pub completion: String,
    /// The multiturn-aware reward.
    pub score: f64,
    /// Standard error of the reward; unknown at one sample.
    pub std_error: Option<f64>,
    /// The probability that it is the best of the candidates; unknown at one sample.
    pub probability_best: Option<f64>,
    /// The mean of each metric.
    pub metrics: BTreeMap<String, f64>,
    /// The number of futures that the reward rests on.
    pub samples: usize,
    /// A remark on the response, such as that it was cut off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A candidate without a reward.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct UnscoredResponse {
    /// Its text, if it was sampled at all.
    pub completion: Option<String>,
    /// The reason.
    pub reason: String,
}
