//! The one interface behind which every model sits: [`ChatModel`].
//!
//! A chat model takes requests and gives replies later, so that whoever drives it can batch what is due: `submit`
//! queues, `poll` advances by one bounded step and hands out what has finished. `local` puts an exported model
//! behind it, `remote` an endpoint; host callbacks fit the same trait.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::decode::SamplingOptions;
use crate::score::{ScoreOutput, ScoreTask};

pub use crate::decode::constraint::JsonSchema;
pub use crate::decode::reader::Finish;
pub use crate::message::{Conversations, Message, Role, SampledTokens, parse_messages};

#[cfg(all(fuzzing, feature = "remote"))]
pub mod fuzz;
pub(crate) mod json_reply;
pub(crate) mod local;
pub(crate) mod remote;

/// What is asked of a chat model.
#[derive(Debug, Clone)]
pub struct ChatRequest {
    /// The conversation so far; the model speaks next.
    pub messages: Vec<Message>,
    /// What to do with it.
    pub task: ChatTask,
    /// Identifies the random stream of this reply: same request and same seed, same reply.
    pub seed: u64,
}

/// The three things that chat models can do; which of them one can is its own.
#[derive(Debug, Clone)]
pub enum ChatTask {
    /// Write a reply.
    Generate {
        /// Most tokens to sample.
        max_tokens: usize,
        /// How to sample.
        sampling: SamplingOptions,
        /// Texts that end the reply; they are not part of it.
        stop: Vec<String>,
        /// The reply is to be a JSON document of this schema; free text where absent.
        schema: Option<Arc<JsonSchema>>,
        /// Whose message it writes: the assistant's, or the user's where a model was trained to be one. In a user's message,
        /// a control token of the model that is among the `stop` texts stays at the end: by it the user ends the conversation.
        speaker: Role,
    },
    /// Read off, from one prefill, how likely each of these answers opens the reply.
    Choose {
        /// For each answer, its accepted spellings.
        answers: Vec<Vec<String>>,
    },
    /// Score the conversation as it stands; nobody speaks next. For an embedding, a single message is a text by itself,
    /// without who says it.
    Score(ScoreTask),
}

/// A finished request.
#[derive(Debug, Clone)]
pub struct ChatReply {
    /// What came.
    pub output: ChatOutput,
    /// What it cost.
    pub usage: Usage,
    /// What whoever reads the ranking has to know of it, for the ranking's notes.
    pub note: Option<String>,
}

/// What a reply holds, by task.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ChatOutput {
    /// For [`ChatTask::Generate`].
    Text {
        /// The reply's text, without the stop text.
        text: String,
        /// Its tokens, where the model is local.
        tokens: Option<SampledTokens>,
        /// Why it ended.
        finish: Finish,
        /// Indices of messages in the request whose sampled tokens differ from those of their re-tokenised text.
        retokenized_differs: Vec<usize>,
    },
    /// For [`ChatTask::Choose`].
    Choice {
        /// Probability that each answer opens the reply, in the order asked; in [0, 1], summing to at most 1.
        probabilities: Vec<f64>,
    },
    /// For [`ChatTask::Score`].
    Score(ScoreOutput),
}

/// What a request cost. Reused tokens depend on what the cache held before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Usage {
    /// Tokens of the prompts.
    pub prompt_tokens: u64,
    /// Of these, how many were not computed because the prefix was already in the cache.
    pub reused_tokens: u64,
    /// Tokens sampled.
    pub generated_tokens: u64,
    /// Seconds from submission to completion, summed over requests (they overlap).
    #[serde(deserialize_with = "crate::json::null_is_nan::number")]
    pub seconds: f64,
}

impl Usage {
    /// The usage of a request that took no time and reused nothing.
    pub fn new(prompt_tokens: u64, generated_tokens: u64) -> Self {
        Usage { prompt_tokens, generated_tokens, ..Usage::default() }
    }
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Usage) {
        self.prompt_tokens += other.prompt_tokens;
        self.reused_tokens += other.reused_tokens;
        self.generated_tokens += other.generated_tokens;
        self.seconds += other.seconds;
    }
}

/// Names one submitted request within its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// A model that answers chat requests. Not thread-safe by itself: one thread owns and drives it.
///
/// # Why `submit` and `poll` rather than one blocking call?
///
/// Twelve rollouts share most of their prompts. Only a model that sees all of them at once can compute the shared part
/// once and decode the rest as a batch.
pub trait ChatModel {
    /// The model's name in the configuration.
    fn name(&self) -> &str;

    /// What identifies its weights in a ranking (a hash or a version), where known.
    fn weights(&self) -> Option<String> {
        None
    }

    /// The date that its prompts show, where its chat template prints one.
    fn prompt_date(&self) -> Option<String> {
        None
    }

    /// Whether equal requests with equal seeds give equal replies to the last bit, whatever else is in the batch.
    fn is_bitwise(&self) -> bool {
        false
    }

    /// Queues a request.
    ///
    /// # Errors
    /// Refuses what can never be answered: a prompt beyond the context, a request beyond the memory budget, a template
    /// that raises.
    fn submit(&mut self, request: ChatRequest) -> Result<Ticket>;

    /// Advances by one bounded step and appends what finished. Returns whether requests are still under way.
    fn poll(&mut self, finished: &mut Vec<(Ticket, Result<ChatReply>)>) -> bool;

    /// Ends a request early; it still comes out of [`ChatModel::poll`], with [`Finish::Cancelled`] or an error.
    fn cancel(&mut self, ticket: Ticket);
}
