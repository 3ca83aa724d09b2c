//! Models behind endpoints that speak OpenAI's chat-completions protocol: hosted ones, vLLM, llama.cpp, Ollama.
//!
//! ```text
//! RemoteChat ──Job──▶ pool of workers ──body──▶ client (HTTP) ──▶ endpoint
//!     ▲                  limits: pace, retries        │
//!     └──── ChatReply ◀── reply, choice ◀─────────────┘
//! ```
//!
//! - `model`: the [`ChatModel`](super::ChatModel); `pool`: the threads that wait for the network on its behalf.
//! - `endpoint`: address and settings; `request`, `reply`, `fields`, `choice`: the JSON of both directions.
//! - `decisions`: the same for questions that are asked at `/v1/decisions`.
//! - `client`: one request by HTTP; `coding`: compressed bodies; `limits`: when to send and retry.
//!
//! An endpoint is not trusted. Everything that it sends becomes a reply or an error, and never an answer that it didn't
//! give.

#[cfg(feature = "remote")]
mod choice;
#[cfg(feature = "remote")]
mod client;
#[cfg(feature = "remote")]
mod coding;
mod decisions;
#[cfg(feature = "remote")]
mod endpoint;
#[cfg(feature = "remote")]
mod fields;
#[cfg(all(fuzzing, feature = "remote"))]
pub(in crate::chat) mod fuzz;
#[cfg(feature = "remote")]
mod limits;
#[cfg(feature = "remote")]
mod model;
#[cfg(feature = "remote")]
mod pool;
#[cfg(feature = "remote")]
mod reply;
#[cfg(feature = "remote")]
mod request;

use serde::{Deserialize, Serialize};

pub use self::decisions::Decisions;
#[cfg(feature = "remote")]
pub(crate) use self::endpoint::{Endpoint, Extensions, Secret};
#[cfg(feature = "remote")]
pub(crate) use self::model::RemoteChat;

/// An endpoint's name for the limit on new tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaxTokensField {
    /// The older name, which nearly every server knows.
    #[default]
    MaxTokens,
    /// The newer name, which OpenAI's reasoning models require.
    MaxCompletionTokens,
}

impl MaxTokensField {
    /// The field's name in a request.
    pub fn as_str(self) -> &'static str {
        match self {
            MaxTokensField::MaxTokens => "max_tokens",
            MaxTokensField::MaxCompletionTokens => "max_completion_tokens",
        }
    }
}

/// The consequence if an endpoint repeats its key in a reply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnEchoedKey {
    /// The reply stays as it came, and the ranking's notes say so.
    #[default]
    Note,
    /// The request fails.
    Fail,
}

/// The way in which an endpoint is asked for a reply in JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JsonMode {
    /// The request contains the schema.
    #[default]
    JsonSchema,
    /// The request asks for JSON, and the prompt names the keys.
    JsonObject,
    /// Only the prompt asks for it.
    None,
}
