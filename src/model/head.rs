//! The output of models that don't predict the next token: `foreturn.json`, which exports with a head write.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, Result, files, json};

/// File name in a model folder.
pub(crate) const FILE: &str = "foreturn.json";

/// The meaning of a head's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HeadKind {
    /// One score per label for the whole text.
    SequenceClassification,
    /// One score per label for each token.
    TokenClassification,
    /// A vector for the whole text.
    Embedding,
}

/// The rows of the graph's output that make up the result. If the graph pools by itself, its output has one row per
/// text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Pooling {
    /// The row of the last token that is not padding.
    Last,
    /// The first token's row.
    First,
    /// The mean over all tokens that are not padding.
    Mean,
    /// No pooling: every row counts, or the graph pools by itself.
    #[default]
    None,
}

/// A model's head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The meaning of its numbers.
    pub kind: HeadKind,
    /// Names of the scores, in order; empty for embeddings.
    #[serde(default)]
    pub labels: Vec<String>,
    /// The rows of the output that make up the result.
    #[serde(default)]
    pub pooling: Pooling,
    /// Whether vectors are normalised to length 1.
    #[serde(default)]
    pub normalize: bool,
    /// Numbers in a row of the output: one per label, or an embedding's dimensions.
    pub size: usize,
    /// Maximum number of tokens of a text, including special tokens, if the checkpoint has its own bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_length: Option<usize>,
    /// When decoders pool, trailing tokens with this id count as padding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pad_token_id: Option<u32>,
}

/// The whole file.
#[derive(Serialize, Deserialize)]
struct Contents {
    head: Head,
}

impl Head {
    /// Reads `folder`'s head, if the folder names one.
    ///
    /// # Errors
    /// The file can't be read or is inconsistent.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(FILE);
        let Some(bytes) = files::read_if_there(&path, files::Kind::CONFIG)? else { return Ok(None) };
        let Contents { head } = json::parse(&bytes).map_err(|e| {
            let message = format!("{}: {e}. Correct it, or export the model again", path.display());
            Error::invalid_model(message).with_source(e)
        })?;
        head.check().map_err(|why| Error::invalid_model(format!("{}: {why}", path.display())))?;
        Ok(Some(head))
    }

    /// The file's contents.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string_pretty(&Contents { head: self.clone() }).unwrap_or_default()
    }

    fn check(&self) -> Result<(), String> {
        if self.size == 0 || self.size > 1 << 20 {
            return Err(format!("head.size is {}; it has to be a positive number below a million", self.size));
        }
        if self.kind != HeadKind::Embedding && self.labels.len() != self.size {
            return Err(format!("head.labels has {} names, but head.size is {}", self.labels.len(), self.size));
        }
        if self.max_length == Some(0) {
            return Err("head.max_length is 0; no text would fit".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_was_written_and_contradictions_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(Head::read(folder.path()).expect("nothing there"), None);
        let head = Head {
            kind: HeadKind::SequenceClassification,
            labels: vec!["bad".into(), "good".into()],
            pooling: Pooling::Last,
            normalize: false,
            size: 2,
            max_length: None,
            pad_token_id: Some(7),
        };
        let path = folder.path().join(FILE);
        std::fs::write(&path, head.to_json()).expect("written");
        assert_eq!(Head::read(folder.path()).expect("read"), Some(head.clone()));
        for (wrong, why) in [
            (Head { size: 3, ..head.clone() }, "head.labels has 2 names"),
            (Head { size: 0, labels: Vec::new(), ..head.clone() }, "head.size is 0"),
            (Head { max_length: Some(0), ..head.clone() }, "head.max_length is 0"),
        ] {
            std::fs::write(&path, wrong.to_json()).expect("written");
            let message = Head::read(folder.path()).expect_err("refused").to_string();
            assert!(message.contains(why), "{message}");
        }
    }
}
