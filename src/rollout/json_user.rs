//! A simulated user who thinks in JSON before speaking: `{"current_answer", "thought", "response"}`.
//!
//! collabllm and verl's recipe ask for this form: the state of the assistant's solution, the user's thoughts about it,
//! and then the message. As there, the message is all of `response`, including a stop signal, so judges and counts see
//! the same as there.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Goal, InstructedUser, Simulator, UserTurn};
use crate::chat::{JsonSchema, Message, Role, json_reply};
use crate::message::reasoning::visible;
use crate::{Error, ErrorKind, Result};

const ANSWER: &str = "current_answer";
const THOUGHT: &str = "thought";
const RESPONSE: &str = "response";

/// An instruction-tuned model told to play the user, who replies in JSON.
///
/// It sees the same as [`InstructedUser`]. Only `response` is said, and only there does the stop signal end the
/// conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonUser {
    /// The user's identity and style.
    pub user: InstructedUser,
    schema: Arc<JsonSchema>,
}

impl JsonUser {
    /// `user`, but replying in JSON.
    pub fn new(user: InstructedUser) -> Self {
        let keys = [ANSWER, THOUGHT, RESPONSE].map(|key| (key, json!({"type": "string"})));
        JsonUser { user, schema: Arc::new(json_reply::schema("user_turn", keys)) }
    }
}

impl Default for JsonUser {
    fn default() -> Self {
        JsonUser::new(InstructedUser::default())
    }
}

const DELIVERED: &str = "\
You write one JSON object. What it has under \"response\" is delivered to the assistant exactly as it stands; the rest stays \
with you:
- \"current_answer\": in a sentence, what the assistant has come up with so far.
- \"thought\": what the person makes of that. Do they have what they came for? If not, what is missing or unclear to them, did \
the assistant ask or propose something, and what do they say to it?
- \"response\": the person's next message and nothing around it.
";

impl Simulator for JsonUser {
    fn prompt(&self, goal: &Goal, conversation: &[&Message]) -> Vec<Message> {
        let text = self.user.situation(goal, conversation) + json_reply::instruction(&self.schema).trim_start();
        vec![Message::new(Role::System, self.user.instructions(DELIVERED)), Message::new(Role::User, text)]
    }

    fn schema(&self) -> Option<Arc<JsonSchema>> {
        Some(Arc::clone(&self.schema))
    }

    fn read(&self, reply: &str) -> Result<UserTurn> {
        let object = json_reply::object(visible(reply))?;
        for key in [ANSWER, THOUGHT] {
            if !object.contains_key(key) {
                return Err(json_reply::wrong(key, "a text", None));
            }
        }
        let words = match object.get(RESPONSE) {
            Some(Value::String(words)) => words.trim(),
            other => return Err(json_reply::wrong(RESPONSE, "a text", other)),
        };
        UserTurn::of(words, words.contains(&self.user.stop_signal)).ok_or_else(|| {
            Error::new(
                ErrorKind::ModelOutput,
                format!("the simulated user said nothing (reply {reply:?}): use a better model for roles.user"),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_response_is_said_and_only_it_ends_the_conversation() {
        let user = JsonUser::default();
        let reply = |response: &str| {
            format!(r#"{{"current_answer": "a", "thought": "[[TERMINATE CHAT]]?", "response": {response}}}"#)
        };
        let says = |text: &str| UserTurn::Says(text.to_owned());
        assert_eq!(user.read(&reply("\" go on\\n\"")).unwrap(), says("go on"));
        assert_eq!(user.read(&format!("<think>{{}}</think>```json\n{}\n```", reply("'42'"))).unwrap(), says("42"));
        for words in ["[[TERMINATE CHAT]]", "thanks [[TERMINATE CHAT]] bye"] {
            let turn = user.read(&reply(&format!("\"{words}\""))).unwrap();
            assert_eq!(turn, UserTurn::Leaves(Some(words.to_owned())));
        }
        for bad in
            [reply("42"), reply("\" \""), reply("null"), r#"{"response": "hi"}"#.into(), "hi".into(), String::new()]
        {
            assert_eq!(user.read(&bad).unwrap_err().kind(), ErrorKind::ModelOutput, "{bad}");
        }
    }

    #[test]
    fn the_prompt_asks_for_the_keys_in_order() {
        let user =
            JsonUser::new(InstructedUser { persona: Some("You are a pilot.".into()), ..InstructedUser::default() });
        let goal = Goal { prompt: Some("find x".into()), reference: Some("41".into()), ..Goal::default() };
        let prompt = user.prompt(&goal, &[&Message::new(Role::User, "help")]);
        assert!(prompt[0].content.contains("You are a pilot.") && prompt[0].content.contains("[[TERMINATE CHAT]]"));
        assert!(!prompt[0].content.contains("Whatever you write is delivered"));
        let text = &prompt[1].content;
        assert!(text.starts_with("<goal>\nfind x\n</goal>\n<conversation>\n") && !text.contains("41"));
        assert!(text.ends_with("</conversation>\nReply with one JSON object with the keys, in this order \"current_answer\", \"thought\", \"response\"."));
        let schema = user.schema().unwrap();
        assert_eq!(schema.schema["required"], json!(["current_answer", "thought", "response"]));
    }
}
