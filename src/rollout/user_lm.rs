//! A model that was trained to be the user (UserLM, arXiv 2510.06552) and is not told to play one.
//!
//! Such a model reads the user's goal as its system message, and then the conversation as it is. It writes the next
//! message under the header of the `user` role, which its own chat template opens. A special control token ends the
//! conversation.

use super::{Goal, ModelRole, Simulator, UserTurn};
use crate::chat::{Message, Role};
use crate::{Error, ErrorKind, Result};

/// The token by which UserLM ends a conversation.
pub const END_OF_CONVERSATION: &str = "<|endconversation|>";

/// A model trained to be the user.
///
/// It sees `goal.prompt`, otherwise `goal.task`, otherwise `goal.reference`. It never sees the tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainedUser {
    /// The user's persona, which precedes the goal.
    pub persona: Option<String>,
    /// The token that ends the conversation: a control token of the model, or a text.
    pub stop_signal: String,
    /// Whether the user sees the assistant's reasoning.
    pub show_reasoning: bool,
}

impl Default for TrainedUser {
    fn default() -> Self {
        TrainedUser { persona: None, stop_signal: END_OF_CONVERSATION.to_owned(), show_reasoning: false }
    }
}

impl TrainedUser {
    /// The user's goal, addressed to the model as in its training.
    fn intent(&self, goal: &Goal) -> String {
        let wanted = [&goal.prompt, &goal.task, &goal.reference].into_iter().flatten().next();
        let wanted = wanted.map_or("", |text| text.trim());
        let intent = match wanted {
            "" => "You are a user who is chatting with an assistant.".to_owned(),
            told if told.starts_with("You are") => told.to_owned(),
            wanted => format!("You are a user who is after this: {wanted}"),
        };
        match &self.persona {
            Some(persona) => format!("{persona} {intent}"),
            None => intent,
        }
    }
}

impl Simulator for TrainedUser {
    fn prompt(&self, goal: &Goal, conversation: &[&Message]) -> Vec<Message> {
        let shown = |message: &&Message| {
            if self.show_reasoning { (**message).clone() } else { Message::new(message.role, message.visible()) }
        };
        let said = conversation.iter().filter(|message| message.role != Role::System).map(shown);
        std::iter::once(Message::new(Role::System, self.intent(goal))).chain(said).collect()
    }

    fn is_trained(&self) -> bool {
        true
    }

    fn stop_texts(&self) -> Vec<String> {
        vec![self.stop_signal.clone()]
    }

    fn read(&self, reply: &str) -> Result<UserTurn> {
        let (words, leaves) = match reply.find(&self.stop_signal) {
            Some(at) => (reply[..at].trim(), true),
            None => (reply.trim(), false),
        };
        UserTurn::of(words, leaves).ok_or_else(|| {
            Error::new(
                ErrorKind::ModelOutput,
                format!(
                    "the model trained as the user wrote nothing (reply {reply:?}): is it one, and does its chat template open \
                     the user's turn? See roles.{}",
                    ModelRole::User.as_str()
                ),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prompt_is_the_intent_and_the_conversation_as_it_is() {
        let goal =
            Goal { prompt: Some("a poem about my dog".into()), tests: Some("assert x".into()), ..Goal::default() };
        let said = [
            Message::new(Role::System, "Be kind."),
            Message::new(Role::User, "poem pls"),
            Message::new(Role::Assistant, "<think>hm</think>About what?"),
        ];
        let prompt = TrainedUser::default().prompt(&goal, &said.iter().collect::<Vec<_>>());
        let texts: Vec<(Role, &str)> = prompt.iter().map(|m| (m.role, m.content.as_str())).collect();
        assert_eq!(
            texts,
            [
                (Role::System, "You are a user who is after this: a poem about my dog"),
                (Role::User, "poem pls"),
                (Role::Assistant, "About what?"),
            ]
        );
        let told = Goal { prompt: Some("You are a user who wants a poem.".into()), ..Goal::default() };
        let user = TrainedUser { persona: Some("You are a pilot.".into()), ..TrainedUser::default() };
        assert_eq!(user.prompt(&told, &[])[0].content, "You are a pilot. You are a user who wants a poem.");
    }

    #[test]
    fn its_token_ends_the_conversation() {
        let user = TrainedUser::default();
        assert_eq!(user.read(" about my dog ").unwrap(), UserTurn::Says("about my dog".into()));
        assert_eq!(user.read("<|endconversation|>").unwrap(), UserTurn::Leaves(None));
        assert_eq!(user.read("thx<|endconversation|>").unwrap(), UserTurn::Leaves(Some("thx".into())));
        assert_eq!(user.read("").unwrap_err().kind(), ErrorKind::ModelOutput);
    }
}
