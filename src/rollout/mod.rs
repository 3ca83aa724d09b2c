//! Forward sampling: the futures of a conversation after a response is set.
//!
//! A [`Rollout`] is one sampled future. It is a state machine without threads or models: it names its next request to a
//! model, takes the reply, and names the next one, until it has [`Ended`]. Each rollout goes on as soon as its own reply
//! is there; none waits for another.
//!
//! ```text
//! history · response ─▶ user message ─▶ policy reply ─▶ … `window` times … ─▶ Ended
//!                       (Simulator)      (the policy)
//! ```
//!
//! - [`simulator`]: what the user model is shown and how its reply is read; [`JsonUser`] is one who thinks first,
//!   [`TrainedUser`] one that was trained to be the user.
//! - [`seed`]: where every request's random stream comes from.
//! - `style`, `confusion`: how simulated users write, and when they are none.
//! - `transcript`: foreign text, fenced off, for simulators and judges.

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

/// Which part a model plays in a ranking. One model may play several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelRole {
    /// The assistant whose responses are scored, and who goes on in the futures.
    Policy,
    /// The user simulator.
    User,
    /// Scores conversations.
    Judge,
    /// Distils an artefact (a document, an answer) from a conversation.
    Extractor,
    /// Gives a conversation a number of its own accord. No model plays it by configuration: metrics name theirs.
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

/// What the user is after. Never shown to the policy; metrics see all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Goal {
    /// What kind of task it is, in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The full request, as the user would have put it had they said everything at once.
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
    /// Whether the last user message before the response leaves open what is meant, so that a good response asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ambiguous: Option<bool>,
}

/// Why a rollout ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// The simulated user said the stop signal.
    StopSignal,
    /// All turns of the window were sampled. Also where the window is 0.
    Window,
    /// All turns were sampled, and the last reply was cut off at its limit of new tokens.
    Length,
    /// A model's context was full. The rollout counts with what was said until then: leaving it out would favour
    /// responses that lead to endless conversations.
    Context,
    /// The deadline passed.
    Deadline,
    /// An allocation of rollouts gave it up.
    Pruned,
    /// The caller cancelled.
    Cancelled,
    /// A model failed, or gave something that can't go on (an empty user message).
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

    /// Whether a rollout that ended so is judged.
    pub fn is_scored(self) -> bool {
        matches!(self, Ended::StopSignal | Ended::Window | Ended::Length | Ended::Context)
    }

    /// Whether it was the clock or the caller that ended it, rather than the conversation.
    pub fn is_interrupted(self) -> bool {
        matches!(self, Ended::Deadline | Ended::Cancelled)
    }
}

/// How the user's model plays the user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoleStyle {
    /// It is told to, and replies with the message and nothing else: [`InstructedUser`].
    #[default]
    Text,
    /// It is told to, and replies in JSON, with what the user thinks before the message: [`JsonUser`].
    Json,
    /// It was trained to: [`TrainedUser`].
    UserLm,
}

impl RoleStyle {
    /// Most tokens of a reply, unless configured.
    pub(crate) fn max_tokens(self) -> usize {
        match self {
            RoleStyle::Text | RoleStyle::UserLm => DEFAULT_USER_TOKENS,
            RoleStyle::Json => DEFAULT_JSON_USER_TOKENS,
        }
    }
}

/// How one of the speakers writes.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplySettings {
    /// Most tokens in one message; at least 1.
    pub max_tokens: usize,
    /// How tokens are drawn.
    pub sampling: SamplingOptions,
}

/// How futures are sampled, alike for all rollouts of a ranking.
#[derive(Debug, Clone, PartialEq)]
pub struct RolloutSettings {
    /// How the policy writes.
    pub policy: ReplySettings,
    /// How the simulated user writes.
    pub user: ReplySettings,
    /// Whether sample k of every candidate draws from the same random stream, so that candidates are compared on equal
    /// luck.
    pub common_random_numbers: bool,
    /// What happens when the simulated user talks like the assistant.
    pub on_role_confusion: OnRoleConfusion,
}

/// What happens when the simulated user talks like the assistant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnRoleConfusion {
    /// The message is marked, and rankings count such rollouts.
    #[default]
    Report,
    /// The rollout fails: `rollout.on_failure` says what follows.
    Fail,
    /// Nobody looks.
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

/// Most tokens of a policy reply, unless configured.
pub const DEFAULT_POLICY_TOKENS: usize = 512;
/// Most tokens of a simulated user's message, unless configured.
pub const DEFAULT_USER_TOKENS: usize = 128;
/// Most tokens of a simulated user's reply in JSON, which holds more than the message, unless configured.
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
