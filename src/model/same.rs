//! Whether one folder's weights may take the place of another's.

use super::ModelFolder;
use crate::model::tokenizer::Tokenizer;
use crate::{Error, Result};

impl ModelFolder {
    /// Refuses `other` if it is not an export of the same model: prompts made for this one would mean something else there,
    /// or not fit.
    ///
    /// # Errors
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest), with what differs.
    pub(crate) fn check_same(&self, other: &ModelFolder) -> Result<()> {
        let numbers = |folder: &ModelFolder| {
            [
                ("logits a row", folder.row_width()),
                ("tokens of context", folder.context_length()),
                ("tokens in a cache block", folder.block_size()),
                ("bytes in a cache block", folder.block_bytes()),
                ("tokens with short rotary tables", folder.longest_short().unwrap_or(usize::MAX)),
            ]
        };
        let differ = |what: &str, old: &dyn std::fmt::Display, new: &dyn std::fmt::Display| {
            Err(Error::invalid_request(format!(
                "{} is not the model that is loaded from {}: {what}: {new} instead of {old}. Export the same model with the \
                 same options, or make an engine for the new one",
                other.path.display(),
                self.path.display()
            )))
        };
        if self.kind() != other.kind() {
            return differ("its graph", &self.layout.name, &other.layout.name);
        }
        if let Some(((what, old), (_, new))) = numbers(self).into_iter().zip(numbers(other)).find(|(a, b)| a != b) {
            return differ(what, &old, &new);
        }
        if self.head() != other.head() {
            return differ("its head", &format!("{:?}", self.head()), &format!("{:?}", other.head()));
        }
        if self.stop_tokens() != other.stop_tokens() {
            let list = |folder: &ModelFolder| format!("{:?}", folder.stop_tokens());
            return differ("tokens that end a turn", &list(self), &list(other));
        }
        match Tokenizer::difference(&self.tokenizer, &other.tokenizer) {
            Some(what) => differ(what, &"the same", &"another"),
            None => Ok(()),
        }
    }
}
