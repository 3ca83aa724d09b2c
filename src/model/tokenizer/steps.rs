//! Solutions whose steps are marked, as process reward models read them.
//!
//! Such a model has a token of its own (`<extra_0>`) that stands after each step, and its scores are read off there. In
//! the content of a message that token is text like any other; so the caller says where steps end, and the marks are put
//! in here.

use super::disguise::PrivateChars;
use super::{Bos, RenderOptions, Tokenizer};
use crate::message::Message;
use crate::{Error, Result};

/// A conversation whose last message is marked step by step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedSteps {
    /// The prompt.
    pub tokens: Vec<u32>,
    /// Where the marks stand: one a step.
    pub marks: Vec<usize>,
}

impl Tokenizer {
    /// The tokens of a conversation whose last message is cut at each `separator`, every piece followed by the control
    /// token `marker` instead. Blank pieces are no steps.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_chat`]; the model has no such control token, there is no message or no step in it, or the
    /// template drops or repeats marks.
    pub fn encode_steps(
        &self,
        messages: &[Message],
        options: &RenderOptions,
        bos: Bos,
        (separator, marker): (&str, &str),
    ) -> Result<EncodedSteps> {
        let control = self.vocabulary.controls().iter().position(|control| control.text == marker);
        let control = control.ok_or_else(|| self.no_marker(marker))?;
        let id = self.vocabulary.controls()[control].id;
        let placeholder = PrivateChars::unused_in("", messages).take()?;
        let mut messages = messages.to_vec();
        let last = messages.last_mut().ok_or_else(|| Error::invalid_request("the conversation is empty"))?;
        let steps: Vec<&str> = last.content.split(separator).filter(|step| !step.trim().is_empty()).collect();
        if steps.is_empty() {
            return Err(Error::invalid_request("the last message is blank: it has no steps to score"));
        }
        let count = steps.len();
        // Its tokens, if it was sampled, have no marks.
        (last.content, last.tokens) = (steps.iter().flat_map(|step| step.chars().chain([placeholder])).collect(), None);
        let options = RenderOptions { add_generation_prompt: false, ..options.clone() };
        let chat = self.encode_marked_chat(&messages, &options, (placeholder, control))?;
        let tokens = self.with_bos(chat.tokens, bos)?.tokens;
        let marks: Vec<usize> = (0..tokens.len()).filter(|&at| tokens[at] == id).collect();
        if marks.len() != count {
            return Err(Error::invalid_request(format!(
                "the last message has {count} steps, but its prompt has {} tokens `{marker}`: the chat template or, with \
                 compat = \"transformers\", the content has some of its own, or the template drops some",
                marks.len()
            )));
        }
        Ok(EncodedSteps { tokens, marks })
    }

    /// The error of a model without such a control token.
    pub(crate) fn no_marker(&self, marker: &str) -> Error {
        Error::invalid_config(format!(
            "{} has no control token `{marker}` to mark steps with; name the one that the model was trained on",
            self.folder
        ))
    }
}
