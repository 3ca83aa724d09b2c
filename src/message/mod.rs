//! The vocabulary of conversations: roles, messages, and sampled tokens.
//!
//! Everything that reads or writes conversations is built on it, from the tokenizer up.

use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Error, Result, json};

pub(crate) mod reasoning;

/// The role of a speaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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

/// Parses a conversation: a JSON list of `{"role": …, "content": …}`.
///
/// # Errors
/// [`ErrorKind::InvalidRequest`](crate::ErrorKind::InvalidRequest) where it is not such a list.
pub fn parse_messages(text: &str) -> Result<Vec<Message>> {
    json::parse_strictly(text).map_err(|e| {
        Error::invalid_request(format!("not a list of messages: {e}. Expected [{{\"role\": \"user\", \"content\": \"…\"}}, …] with roles system, user, assistant"))
            .with_source(e)
    })
}

/// Reads a conversation, or a list of conversations. The flag says whether it was a list. `origin` names it in
/// messages.
///
/// ```
/// use foreturn::chat::Conversations;
///
/// let one: Conversations = r#"[{"role": "user", "content": "Hi"}]"#.parse()?;
/// assert!(matches!(&one, Conversations::One(messages) if messages.len() == 1));
/// let list: Conversations = r#"[[{"role": "user", "content": "Hi"}]]"#.parse()?;
/// assert!(matches!(&list, Conversations::List(_)));
/// assert_eq!(one.into_list(), list.into_list());
/// # Ok::<(), foreturn::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conversations {
    /// A list of messages.
    One(Vec<Message>),
    /// A list of lists of messages.
    List(Vec<Vec<Message>>),
}

impl Conversations {
    /// All of them.
    pub fn into_list(self) -> Vec<Vec<Message>> {
        match self {
            Conversations::One(messages) => vec![messages],
            Conversations::List(conversations) => conversations,
        }
    }
}

/// Parses JSON. Errors are those of [`parse_messages`].
impl FromStr for Conversations {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let is_list = json::parse_strictly::<Vec<serde_json::Value>>(text)
            .is_ok_and(|items| items.first().is_some_and(serde_json::Value::is_array));
        if !is_list {
            return parse_messages(text).map(Conversations::One);
        }
        json::parse_strictly(text)
            .map(Conversations::List)
            .map_err(|e| Error::invalid_request(format!("not a list of conversations: {e}")).with_source(e))
    }
}
