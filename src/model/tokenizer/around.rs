//! The tokens that a tokenizer puts around texts of its own accord: its post-processor's BOS, `[CLS]` and `[SEP]`.
//!
//! Prompts of language models need none, for their templates write every token. Encoders do, and reward models differ.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::{Encoding, PostProcessor, Token};

use super::{EncodedChat, RenderOptions, Tokenizer};
use crate::message::Message;
use crate::{Error, Result};

/// Which tokens a reward model's conversation has around what the chat template renders.
///
/// Published reward models were trained on one or the other, by how their authors called the tokenizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bos {
    /// The tokenizer's own, and none by the template: exactly one BOS where the tokenizer adds one, else none.
    #[default]
    Once,
    /// Just what the template renders.
    Template,
    /// The tokenizer's own in front of what the template renders, although that may begin with a BOS.
    Double,
}

/// A text as an encoder reads it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EncodedText {
    /// Token ids, those of `[CLS]` and the like included.
    pub tokens: Vec<u32>,
    /// Which of two texts each token belongs to (`token_type_ids`).
    pub types: Vec<u32>,
}

/// What stands where around one text or two.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Token(u32),
    First,
    Second,
}

/// A post-processor, reduced to where it puts its tokens.
#[derive(Debug, Clone)]
pub(super) struct Around {
    single: Vec<(Part, u32)>,
    pair: Vec<(Part, u32)>,
}

/// Stand for the texts while the post-processor is tried; no vocabulary has such ids.
const FIRST: u32 = u32::MAX - 1;
const SECOND: u32 = u32::MAX;

impl Around {
    /// Tries out `tokenizer.json`'s post-processor.
    pub(super) fn new(processor: &Value) -> Result<Self, String> {
        let processor: Option<PostProcessorWrapper> = serde_json::from_value(processor.clone())
            .map_err(|e| format!("`post_processor` is none that this library knows: {e}"))?;
        let Some(processor) = processor else {
            let single = vec![(Part::First, 0)];
            return Ok(Around { pair: vec![(Part::First, 0), (Part::Second, 1)], single });
        };
        let parts = |second: bool| {
            let text = |id: u32, kind: u32| Encoding::from_tokens(vec![Token::new(id, String::new(), (0, 0))], kind);
            let pair = second.then(|| text(SECOND, 1));
            let processed = processor.process(text(FIRST, 0), pair, true);
            let processed = processed.map_err(|e| format!("`post_processor` fails: {e}"))?;
            let part = |&id: &u32| match id {
                FIRST => Part::First,
                SECOND => Part::Second,
                id => Part::Token(id),
            };
            Ok::<_, String>(
                processed.get_ids().iter().map(part).zip(processed.get_type_ids().iter().copied()).collect::<Vec<_>>(),
            )
        };
        let around = Around { single: parts(false)?, pair: parts(true)? };
        let count = |parts: &[(Part, u32)], wanted: Part| parts.iter().filter(|(part, _)| *part == wanted).count();
        match (count(&around.single, Part::First), count(&around.pair, Part::First), count(&around.pair, Part::Second))
        {
            (1, 1, 1) => Ok(around),
            _ => Err("`post_processor` drops or repeats texts".into()),
        }
    }

    /// The largest id that it puts anywhere.
    pub(super) fn largest(&self) -> Option<u32> {
        let ids = self.single.iter().chain(&self.pair).filter_map(|(part, _)| match part {
            Part::Token(id) => Some(*id),
            _ => None,
        });
        ids.max()
    }

    pub(super) fn put(&self, first: &[u32], second: Option<&[u32]>) -> EncodedText {
        let mut text = EncodedText::default();
        for (part, kind) in if second.is_some() { &self.pair } else { &self.single } {
            match part {
                Part::Token(id) => text.tokens.push(*id),
                Part::First => text.tokens.extend(first),
                Part::Second => text.tokens.extend(second.unwrap_or_default()),
            }
            text.types.resize(text.tokens.len(), *kind);
        }
        text
    }
}

impl Tokenizer {
    /// The tokens of one foreign text, or of two that belong together, as an encoder reads them: with the tokenizer's own
    /// around them. What the texts spell is never taken for control tokens.
    ///
    /// # Errors
    /// Fails where the tokenizer does, and where its post-processor can't be read.
    pub fn encode_with_special(&self, text: &str, second: Option<&str>) -> Result<EncodedText> {
        let second = second.map(|text| self.encode_text(text)).transpose()?;
        Ok(self.around()?.put(&self.encode_text(text)?, second.as_deref()))
    }

    /// The tokens of a whole conversation as a reward model reads it.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_chat`] and [`Tokenizer::encode_with_special`].
    pub fn encode_conversation(&self, messages: &[Message], options: &RenderOptions, bos: Bos) -> Result<EncodedText> {
        let options = RenderOptions { add_generation_prompt: false, ..options.clone() };
        let EncodedChat { tokens, .. } = self.encode_chat(messages, &options)?;
        self.with_bos(tokens, bos)
    }

    /// Puts the tokenizer's own tokens around a rendered conversation, as `bos` says.
    pub(super) fn with_bos(&self, mut tokens: Vec<u32>, bos: Bos) -> Result<EncodedText> {
        if bos == Bos::Template {
            let types = vec![0; tokens.len()];
            return Ok(EncodedText { tokens, types });
        }
        if bos == Bos::Once && !tokens.is_empty() && tokens.first().copied() == self.bos_token() {
            tokens.remove(0);
        }
        Ok(self.around()?.put(&tokens, None))
    }

    pub(super) fn around(&self) -> Result<&Around> {
        self.around.as_ref().map_err(Error::duplicate)
    }
}
