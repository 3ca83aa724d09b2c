//! The vocabulary of conversations: roles, messages, and sampled tokens.
//!
//! Everything that reads or writes conversations is built on it, from the tokenizer up.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Error, Result, json};

pub(crate) mod reasoning;

/// The role of a speaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions that precede the conversation.
    System,
    /// The user, or the model that simulates the user.
    User,
    /// The policy.
    Assistant,
}

impl Role {
    /// The role's name in chat templates and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }
}

/// The tokens of a message as the model sampled them.
///
/// The text of a reply does not determine its tokens. A conversation that goes on keeps the sampled tokens, so that the
/// policy is scored on what it really said (and its cache entries stay valid).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampledTokens {
    /// Name of the model that sampled them. Another model re-tokenises the text.
    pub model: Arc<str>,
    /// Token ids without the end-of-turn token.
    pub ids: Arc<[u32]>,
}

/// One message of a conversation.
///
/// Fields that this library doesn't know (tool calls, images, separate reasoning) are refused, because leaving them out
/// would change the conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// The speaker's role.
    pub role: Role,
    /// The text. It is never interpreted as control tokens of a chat template.
    pub content: String,
    /// The tokens that it was sampled as, if known.
    #[serde(skip)]
    pub tokens: Option<SampledTokens>,
}

impl Message {
    /// A message given as text.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Message { role, content: content.into(), tokens: None }
    }
}

/// Size of a conversation's text in bytes.
pub(crate) fn bytes(messages: &[Message]) -> usize {
    messages.iter().map(|message| message.content.len()).sum()
}

/// Parses a `--messages` file: a JSON list of `{"role","content"}`.
pub fn parse_messages(text: &str, origin: &str) -> Result<Vec<Message>> {
    json::parse_strictly(text).map_err(|e| {
        Error::invalid_request(format!("{origin}: not a list of messages: {e}. Expected [{{\"role\": \"user\", \"content\": \"…\"}}, …] with roles system, user, assistant"))
            .with_source(e)
    })
}

/// Reads a conversation, or a list of conversations. The flag says whether it was a list. `origin` names it in
/// messages.
///
/// # Errors
/// As [`parse_messages`].
pub fn parse_chats(text: &str, origin: &str) -> Result<(Vec<Vec<Message>>, bool)> {
    let is_list = json::parse_strictly::<Vec<serde_json::Value>>(text)
        .is_ok_and(|items| items.first().is_some_and(serde_json::Value::is_array));
    if !is_list {
        return Ok((vec![parse_messages(text, origin)?], false));
    }
    let chats = json::parse_strictly(text)
        .map_err(|e| Error::invalid_request(format!("{origin}: not a list of conversations: {e}")).with_source(e))?;
    Ok((chats, true))
}
