//! Forward sampling: the futures of a conversation after a given response.
//!
//! A [`Rollout`] is one sampled future. It is a state machine without threads or models: it names its next request to a
//! model, takes the reply, and names the next one, until it has [`Ended`]. Each rollout goes on as soon as its own
//! reply has arrived; none waits for another.
//!
//! ```text
//! history · response ─▶ user message ─▶ policy reply ─▶ … `window` times … ─▶ Ended
//!                       (Simulator)      (the policy)
//! ```
//!
//! - [`simulator`]: prompts for the user model, and the reading of its replies. [`JsonUser`] thinks first, and
//!   [`TrainedUser`] was trained to be the user.
//! - [`seed`]: the random stream of every request.
//! - `style`, `confusion`: how simulated users write, and how they fall out of their role.
//! - `transcript`: foreign text for simulators and judges, fenced off.

use serde::{Deserialize, Serialize};

use crate::decode::SamplingOptions;

mod confusion;
mod json_user;
mod machine;
pub mod seed;
pub mod simulator;
mod style;
pub(crate) mod transcript;
mod user_lm;

pub use confusion::{Confusion, confusion};
pub use json_user::JsonUser;
pub use machine::{Rollout, RolloutMessage, Scene};
pub use simulator::{InstructedUser, Simulator, UserTurn};
pub use style::{Style, Trait};
pub use user_lm::{END_OF_CONVERSATION, TrainedUser};

/// The role of a model in a ranking. One model may play several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ModelRole {
    /// The assistant. Its responses are scored, and it goes on in the futures.
    Policy,
    /// The user simulator.
    User,
    /// Scores conversations.
    Judge,
    /// Extracts an artefact (a document, an answer) from a conversation.
    Extractor,
    /// Gives a conversation a number by itself. The configuration assigns no model to it, because metrics name theirs.
    RewardModel,
}

impl ModelRole {
    /// The role's name in configuration and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            ModelRole::Policy => "policy",
            ModelRole::User => "user",
            ModelRole::Judge => "judge",
            ModelRole::Extractor => "extractor",
            ModelRole::RewardModel => "reward_model",
        }
    }
}

/// The user's goal. It is never shown to the policy. Metrics see all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Goal {
    /// The kind of task, in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The full request, as the user would have written it if they had said everything at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// The answer or text that extrinsic metrics compare with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Unit tests for generated code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tests: Option<String>,
    /// Name of the function that the tests call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry_point: Option<String>,
    /// Whether the last user message before the response is ambiguous, so that a good response asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ambiguous: Option<bool>,
}

/// Why a rollout ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Ended {
    /// The simulated user said the stop signal.
    StopSignal,
    /// All turns of the window were sampled, or the window is 0.
    Window,
    /// All turns were sampled, and the last reply was cut off at its limit of new tokens.
    Length,
    /// A model's context was full. The rollout counts with its messages so far, because leaving it out would favour
    /// responses that lead to endless conversations.
    Context,
    /// The deadline passed.
    Deadline,
    /// An allocation of rollouts gave it up.
    Pruned,
    /// The caller cancelled.
    Cancelled,
    /// A model failed, or gave a reply that can't be continued (an empty user message).
    Failed,
}

impl Ended {
    /// Its name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Ended::StopSignal => "stop_signal",
            Ended::Window => "window",
            Ended::Length => "length",
            Ended::Context => "context",
            Ended::Deadline => "deadline",
            Ended::Pruned => "pruned",
            Ended::Cancelled => "cancelled",
            Ended::Failed => "failed",
        }
    }

    /// Whether a rollout that ended in this way is judged.
    pub fn is_scored(self) -> bool {
        matches!(self, Ended::StopSignal | Ended::Window | Ended::Length | Ended::Context)
    }

    /// Whether the clock or the caller ended it, and not the conversation.
    pub fn is_interrupted(self) -> bool {
        matches!(self, Ended::Deadline | Ended::Cancelled)
    }
}

/// The way in which the user's model plays the user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoleStyle {
    /// It is told to, and replies with only the message: [`InstructedUser`].
    #[default]
    Text,
    /// It is told to, and replies in JSON, with the user's thoughts before the message: [`JsonUser`].
    Json,
    /// It was trained to: [`TrainedUser`].
    UserLm,
}

impl RoleStyle {
    /// Default maximum number of tokens of a reply.
    pub(crate) fn max_tokens(self) -> usize {
        match self {
            RoleStyle::Text | RoleStyle::UserLm => DEFAULT_USER_TOKENS,
            RoleStyle::Json => DEFAULT_JSON_USER_TOKENS,
        }
    }
}

/// Settings for the messages of one speaker.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplySettings {
    /// Maximum number of tokens in a message; at least 1.
    pub max_tokens: usize,
    /// The sampling of tokens.
    pub sampling: SamplingOptions,
}

/// Settings for sampling futures, equal for all rollouts of a ranking.
#[derive(Debug, Clone, PartialEq)]
pub struct RolloutSettings {
    /// Settings for the policy's messages.
    pub policy: ReplySettings,
    /// Settings for the simulated user's messages.
    pub user: ReplySettings,
    /// Whether sample k of every candidate draws from the same random stream, so that candidates are compared with
    /// equal luck.
    pub common_random_numbers: bool,
    /// The consequence if the simulated user talks like the assistant.
    pub on_role_confusion: OnRoleConfusion,
}

/// The consequence if the simulated user talks like the assistant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnRoleConfusion {
    /// The message is marked, and rankings count such rollouts.
    #[default]
    Report,
    /// The rollout fails. `rollout.on_failure` says what follows.
    Fail,
    /// Messages are not checked.
    Ignore,
}

impl Default for RolloutSettings {
    fn default() -> Self {
        RolloutSettings {
            policy: ReplySettings { max_tokens: DEFAULT_POLICY_TOKENS, sampling: SamplingOptions::default() },
            user: ReplySettings { max_tokens: DEFAULT_USER_TOKENS, sampling: SamplingOptions::default() },
            common_random_numbers: true,
            on_role_confusion: OnRoleConfusion::default(),
        }
    }
}

/// Default maximum number of tokens of a policy's reply.
pub const DEFAULT_POLICY_TOKENS: usize = 512;
/// Default maximum number of tokens of a simulated user's message.
pub const DEFAULT_USER_TOKENS: usize = 128;
/// Default maximum number of tokens of a simulated user's reply in JSON, which contains more than the message.
pub const DEFAULT_JSON_USER_TOKENS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_called_as_in_json() {
        use Ended::*;
        for ended in [StopSignal, Window, Length, Context, Deadline, Pruned, Cancelled, Failed] {
            assert_eq!(serde_json::to_value(ended).expect("a text"), ended.as_str());
        }
        use crate::chat::Finish;
        for finish in [Finish::Stop, Finish::Length, Finish::Context, Finish::Deadline, Finish::Cancelled] {
            assert_eq!(serde_json::to_value(finish).expect("a text"), finish.as_str());
        }
    }
}
