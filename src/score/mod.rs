//! Scores of whole texts: reward models and classifiers, process rewards, implicit rewards, embeddings.
//!
//! ```text
//! ScoreInput + ScoreTask ──input──▶ tokens, wanted rows ──▶ Decoder or Classifier ──▶ rows ──output──▶ ScoreOutput
//! ```
//!
//! Decoders with a head run on the paged engine like any language model. So conversations that share a prefix compute
//! it once, and a score is the same to the last bit, alone or among others. Graphs without a cache (encoders) run in
//! padded batches (`classifier`), where scores differ by rounding.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::message::{Message, Role};
use crate::model::tokenizer::EncodedText;
use crate::{Error, Result};

pub(crate) mod classifier;
pub(crate) mod input;
pub(crate) mod output;

/// An input to score.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScoreInput {
    /// A whole conversation. The model's chat template renders it, without the header of a further reply. An encoder
    /// without a template reads two texts, the assistant's last message and the text before it.
    Chat(Vec<Message>),
    /// A reply of the assistant to a conversation that other inputs share. It counts as the conversation with that message.
    Reply {
        /// The conversation before it.
        history: Arc<[Message]>,
        /// The message.
        reply: String,
    },
    /// A text, with the tokens around it that the model's tokenizer adds.
    Text(String),
    /// Two texts that belong together, likewise.
    Pair(String, String),
    /// Tokens, used as they are. `types` may be empty if all are 0.
    Tokens(EncodedText),
    /// The tokens of a prompt, and those of a response to it. They count as one text except for
    /// [`ScoreTask::Response`].
    Response {
        /// The prompt's tokens.
        prompt: Vec<u32>,
        /// The response's tokens.
        response: Vec<u32>,
    },
}

impl ScoreInput {
    /// The conversation `history` once for each reply of the assistant to it.
    ///
    /// Each gives what it would give in a call of its own, to the last bit on the paged engine. The template renders each
    /// conversation as a whole, because it may look at the last message. The tokens of what they have in common are made once
    /// where the template puts control tokens between messages, and its rows are computed once.
    ///
    /// ```
    /// use foreturn::message::{Message, Role};
    /// use foreturn::score::ScoreInput;
    ///
    /// let inputs = ScoreInput::replies([Message::new(Role::User, "What is 2 + 3?")], ["5", "6"]);
    /// assert_eq!(inputs.len(), 2);
    /// ```
    pub fn replies(
        history: impl Into<Arc<[Message]>>,
        replies: impl IntoIterator<Item = impl Into<String>>,
    ) -> Vec<ScoreInput> {
        let history = history.into();
        let input = |reply: String| ScoreInput::Reply { history: Arc::clone(&history), reply };
        replies.into_iter().map(|reply| input(reply.into())).collect()
    }

    /// The same input, and a reply as the conversation that it ends.
    fn whole(self) -> Self {
        match self {
            ScoreInput::Reply { history, reply } => {
                ScoreInput::Chat(history.iter().cloned().chain([Message::new(Role::Assistant, reply)]).collect())
            }
            whole => whole,
        }
    }

    /// The scored part of a chat: the conversation, or the text to embed if it is a single message.
    pub(crate) fn of(mut messages: Vec<Message>, task: &ScoreTask) -> Self {
        match (messages.pop(), task) {
            (Some(only), ScoreTask::Embedding) if messages.is_empty() => ScoreInput::Text(only.content),
            (last, _) => {
                messages.extend(last);
                ScoreInput::Chat(messages)
            }
        }
    }
}

/// The kind of score.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScoreTask {
    /// A classification head's logits: one per label, for the text or for each token.
    #[default]
    Labels,
    /// A process reward for each step of the last message.
    Steps(StepOptions),
    /// The language model's log-probability of the last message, which has to be the assistant's, or of a
    /// [`ScoreInput::Response`].
    Response,
    /// The embedding of the text.
    Embedding,
}

/// The marking and reading of the last message's steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepOptions {
    /// The text between steps. The marker replaces it.
    pub separator: String,
    /// The control token after each step, where the model was trained to judge.
    pub marker: String,
    /// The label whose probability is the reward. If absent, the second of two.
    pub positive: Option<Label>,
}

impl Default for StepOptions {
    fn default() -> Self {
        StepOptions { separator: "\n\n".into(), marker: "<extra_0>".into(), positive: None }
    }
}

/// One of a head's labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "a label's name or its place")]
pub enum Label {
    /// By its index, from 0.
    Index(usize),
    /// By its name.
    Name(String),
}

impl Label {
    /// Its index in `labels`.
    ///
    /// # Errors
    /// It doesn't exist, or its name occurs twice.
    pub fn find(&self, labels: &[String]) -> Result<usize> {
        let known = || format!("the model's labels are {}", labels.join(", "));
        match self {
            Label::Index(index) if *index < labels.len() => Ok(*index),
            Label::Index(index) => {
                Err(Error::invalid_config(format!("there is no label {index}: {} (counted from 0)", known())))
            }
            Label::Name(name) => {
                let mut places = labels.iter().enumerate().filter(|(_, label)| *label == name).map(|(at, _)| at);
                match (places.next(), places.next()) {
                    (Some(at), None) => Ok(at),
                    (Some(_), Some(_)) => Err(Error::invalid_config(format!(
                        "label `{name}` occurs twice: {}. Give its index, counted from 0",
                        known()
                    ))),
                    (None, _) => Err(Error::invalid_config(format!("there is no label `{name}`: {}", known()))),
                }
            }
        }
    }
}

/// A head's raw logits.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Score {
    /// Names of the scores.
    pub labels: Vec<String>,
    /// The logits, in the labels' order.
    pub scores: Scores,
    /// Tokens that the model read.
    pub tokens: usize,
}

/// Logits of a text or of its tokens.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Scores {
    /// One per label.
    Text(Vec<f32>),
    /// One per label for each token.
    Tokens(Vec<Vec<f32>>),
}

/// Process rewards.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct StepScores {
    /// Names of the logits.
    pub labels: Vec<String>,
    /// The positive label's probability after each step, in [0, 1].
    pub steps: Vec<f64>,
    /// The logits after each step.
    pub scores: Vec<Vec<f32>>,
    /// Tokens that the model read.
    pub tokens: usize,
}

/// The probability of a response under a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ResponseLogProb {
    /// Sum over the response's tokens, including the one that ends the turn, in nats.
    pub logprob: f64,
    /// Number of these tokens.
    pub response_tokens: usize,
    /// Tokens that the model read.
    pub tokens: usize,
    /// The response's tokens as the model read them.
    pub token_ids: Vec<u32>,
    /// The log-probability of each of them, given everything before it, in nats.
    pub token_logprobs: Vec<f32>,
}

/// The result of a [`ScoreTask`].
#[derive(Debug, Clone, PartialEq)]
pub enum ScoreOutput {
    /// For [`ScoreTask::Labels`].
    Labels(Score),
    /// For [`ScoreTask::Steps`].
    Steps(StepScores),
    /// For [`ScoreTask::Response`].
    Response(ResponseLogProb),
    /// For [`ScoreTask::Embedding`].
    Embedding(Vec<f32>),
}

impl ScoreOutput {
    /// Its numbers, row by row: logits, probabilities of steps, the log-probability, the vector. Widening is exact.
    pub fn numbers(&self) -> Vec<f64> {
        let widen = |row: &[f32]| row.iter().map(|&number| f64::from(number)).collect();
        match self {
            ScoreOutput::Labels(Score { scores: Scores::Text(row), .. }) | ScoreOutput::Embedding(row) => widen(row),
            ScoreOutput::Labels(Score { scores: Scores::Tokens(rows), .. }) => widen(&rows.concat()),
            ScoreOutput::Steps(steps) => steps.steps.clone(),
            ScoreOutput::Response(scored) => vec![scored.logprob],
        }
    }
}

/// The reward that a preference-trained policy implies: β · (log π − log π_ref) of a response (DPO, arXiv 2305.18290,
/// equation 5 without the term that depends on the prompt alone).
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ImplicitReward {
    /// β · (log π − log π_ref), from means over tokens if this was requested.
    pub reward: f64,
    /// The policy's log-probability.
    pub policy: ResponseLogProb,
    /// The reference's log-probability.
    pub reference: ResponseLogProb,
}

/// Settings of an implicit reward.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImplicitOptions {
    /// β, the strength of DPO's pull towards the reference; finite and above 0.
    pub beta: f64,
    /// Divides each model's log-probability by its number of tokens, so that long responses are not at a disadvantage.
    pub length_normalized: bool,
}

impl Default for ImplicitOptions {
    fn default() -> Self {
        ImplicitOptions { beta: 0.1, length_normalized: false }
    }
}

impl ImplicitOptions {
    /// Refuses an invalid β.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidConfig`].
    pub fn validate(&self) -> Result<()> {
        if self.beta.is_finite() && self.beta > 0.0 {
            return Ok(());
        }
        Err(Error::invalid_config(format!("beta = {} is not a finite number above 0", self.beta)))
    }

    /// The reward, from both models' scores of one response.
    pub fn reward(&self, policy: ResponseLogProb, reference: ResponseLogProb) -> ImplicitReward {
        let of = |scored: &ResponseLogProb| match self.length_normalized {
            true => scored.logprob / scored.response_tokens as f64,
            false => scored.logprob,
        };
        ImplicitReward { reward: self.beta * (of(&policy) - of(&reference)), policy, reference }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_message_is_embedded_as_a_text() {
        let messages = |count| vec![Message::new(Role::User, "Why?"); count];
        let of = |count, task| ScoreInput::of(messages(count), &task);
        assert_eq!(of(1, ScoreTask::Embedding), ScoreInput::Text("Why?".into()));
        assert_eq!(of(1, ScoreTask::Labels), ScoreInput::Chat(messages(1)));
        assert_eq!(of(2, ScoreTask::Embedding), ScoreInput::Chat(messages(2)));
        assert_eq!(of(0, ScoreTask::Embedding), ScoreInput::Chat(vec![]));
    }

    #[test]
    fn replies_are_conversations_that_end_with_them() {
        let history = [Message::new(Role::User, "Why?")];
        let chat = |reply| vec![history[0].clone(), Message::new(Role::Assistant, reply)];
        let replies = ScoreInput::replies(history.clone(), ["So.", ""]);
        assert!(matches!(&replies[1], ScoreInput::Reply { reply, .. } if reply.is_empty()));
        let whole: Vec<ScoreInput> = replies.into_iter().map(ScoreInput::whole).collect();
        assert_eq!(whole, [ScoreInput::Chat(chat("So.")), ScoreInput::Chat(chat(""))]);
    }
}
