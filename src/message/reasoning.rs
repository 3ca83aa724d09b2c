//! Reasoning inside replies: the text between `<think>` and `</think>`, which a model writes for itself.
//!
//! It stays in the message, because the model's own template decides what happens to it in later prompts. Users and
//! judges see the message without it, unless the configuration says otherwise.

use super::{Message, Role};

/// The tag that opens reasoning in a reply (Qwen3, DeepSeek-R1, SmolLM3 and others).
const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

impl Message {
    /// The text that users and judges see: a reply without its reasoning, anything else unchanged.
    ///
    /// ```
    /// use foreturn::chat::{Message, Role};
    ///
    /// let reply = Message::new(Role::Assistant, "<think>\nEasy.\n</think>\n\nFour.");
    /// assert_eq!(reply.visible(), "Four.");
    /// ```
    pub fn visible(&self) -> &str {
        if self.role == Role::Assistant { visible(&self.content) } else { &self.content }
    }
}

/// A reply without its reasoning. Templates may open the reasoning themselves, so the text before a closing tag counts
/// as reasoning even if nothing opened it. A reply that was cut off during its reasoning becomes empty.
pub(crate) fn visible(reply: &str) -> &str {
    if let Some((_, after)) = reply.rsplit_once(CLOSE) {
        return after.trim_start();
    }
    match reply.trim_start().starts_with(OPEN) {
        true => "",
        false => reply,
    }
}

/// Whether `prompt` leaves a reply in the middle of reasoning.
pub(crate) fn opens_reasoning(prompt: &str) -> bool {
    prompt.trim_end().ends_with(OPEN)
}

/// A reply to a prompt that opened the reasoning. If it was cut off before the closing tag, nothing in it shows that
/// all of it is reasoning, so the opening tag is put back.
pub(crate) fn with_opening(reply: String) -> String {
    if reply.contains(CLOSE) { reply } else { format!("{OPEN}\n{reply}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasoning_is_not_seen() {
        for (reply, seen) in [
            ("Four.", "Four."),
            (" Four. ", " Four. "),
            ("<think>\nEasy.\n</think>\n\nFour.", "Four."),
            ("Easy.\n</think>\nFour.", "Four."),
            ("<think>a</think>b<think>c</think>d", "d"),
            ("<think>\nStill thinking", ""),
            ("The tag <think> opens reasoning.", "The tag <think> opens reasoning."),
        ] {
            assert_eq!(visible(reply), seen, "{reply:?}");
        }
        assert_eq!(Message::new(Role::User, "x </think> y").visible(), "x </think> y", "a user's words are all seen");
    }

    #[test]
    fn reasoning_opened_by_the_template_counts() {
        assert!(opens_reasoning("<|im_start|>assistant\n<think>\n") && !opens_reasoning("<think>\n\n</think>\n\n"));
        assert_eq!(visible(&with_opening("cut off".into())), "");
        assert_eq!(visible(&with_opening("hm</think>yes".into())), "yes");
    }
}
