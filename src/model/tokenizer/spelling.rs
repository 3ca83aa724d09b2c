//! What each token of a vocabulary spells, in bytes: for replies that are held to a grammar.
//!
//! The decoder of `tokenizer.json` says how names of tokens become text, for a whole reply at once. Here the same is done
//! for one token in the middle of a text, and without replacing bytes that are only part of a character.

use std::borrow::Cow;

use serde_json::Value;

use super::Tokenizer;
use crate::{Error, Result};

/// One step from a token's name to its bytes.
#[derive(Debug, PartialEq)]
enum Step {
    /// A character stands for a text, mostly `▁` for a space.
    Replace(char, String),
    /// `<0x0A>` is a byte.
    ByteFallback,
    /// Every character stands for a byte, as in GPT-2's vocabulary.
    ByteLevel,
}

impl Tokenizer {
    /// The bytes of every token in the middle of a text, by id. Empty for ids without a token and for those that are never
    /// text, such as control tokens.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) where the decoder joins tokens in another way than end to end.
    pub(crate) fn spellings(&self) -> Result<Vec<Vec<u8>>> {
        let real = self.vocabulary.real();
        let decoder = serde_json::to_value(real.get_decoder()).unwrap_or_default();
        let mut steps = Vec::new();
        read_steps(&decoder, &mut steps).map_err(|what| {
            Error::unsupported(format!(
                "{}: what its tokens spell can't be told one by one, for the tokenizer has {what}. Replies in JSON need a \
                 decoder of bytes (ByteLevel), or of pieces with ▁ for a space (Metaspace, or Replace and ByteFallback)",
                self.folder
            ))
        })?;
        let count = real.get_vocab(true).values().max().map_or(0, |id| id + 1);
        let spelling = |id| self.vocabulary.text_token(id).map(|name| spell(&name, &steps)).unwrap_or_default();
        Ok((0..count).map(spelling).collect())
    }
}

/// Reads a decoder as it stands in `tokenizer.json`; an error says what can't be done.
fn read_steps(decoder: &Value, steps: &mut Vec<Step>) -> std::result::Result<(), String> {
    match decoder["type"].as_str().unwrap_or("none") {
        "Sequence" => {
            decoder["decoders"].as_array().into_iter().flatten().try_for_each(|part| read_steps(part, steps))?
        }
        "ByteLevel" => steps.push(Step::ByteLevel),
        "ByteFallback" => steps.push(Step::ByteFallback),
        "Metaspace" => steps.push(Step::Replace(only_char(&decoder["replacement"])?, " ".into())),
        "Replace" => {
            let content = decoder["content"].as_str().unwrap_or_default();
            steps.push(Step::Replace(only_char(&decoder["pattern"]["String"])?, content.into()));
        }
        // Tokens end to end.
        "Fuse" => {}
        // Only at the ends of a text, where JSON has no spaces.
        "Strip" if decoder["content"] == " " => {}
        other => return Err(format!("a decoder of type {other}")),
    }
    Ok(())
}

fn only_char(value: &Value) -> std::result::Result<char, String> {
    let mut chars = value.as_str().unwrap_or_default().chars();
    match (chars.next(), chars.next()) {
        (Some(c), None) => Ok(c),
        _ => Err(format!("a decoder that replaces {value}")),
    }
}

fn spell(name: &str, steps: &[Step]) -> Vec<u8> {
    let mut text = Cow::Borrowed(name);
    for step in steps {
        match step {
            Step::Replace(from, to) => text = text.replace(*from, to).into(),
            Step::ByteFallback => {
                let digits = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
                let byte =
                    digits.filter(|digits| digits.len() == 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
                if let Some(byte) = byte {
                    return vec![byte];
                }
            }
            Step::ByteLevel => {
                // Added tokens are written as they are.
                return text.chars().map(byte_of).collect::<Option<_>>().unwrap_or_else(|| text.as_bytes().to_vec());
            }
        }
    }
    text.into_owned().into_bytes()
}

/// The byte that a character stands for in GPT-2's vocabulary: printable ones for themselves, the 68 others, in order,
/// are written from U+0100 on.
fn byte_of(c: char) -> Option<u8> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    match u32::from(c) {
        code @ 0..=0xFF => u8::try_from(code).ok().filter(printable),
        code => (0..=u8::MAX).filter(|byte| !printable(byte)).nth(code as usize - 0x100),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::model::tokenizer::tests::folder;

    fn of_chat(kind: &str) -> Tokenizer {
        Tokenizer::load(folder(kind, &json!({})).path(), 1000).unwrap()
    }

    fn of_model(name: &str) -> Tokenizer {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/tokenizers").join(name);
        Tokenizer::load(&path, 1000).unwrap()
    }

    /// Between two others, a token gives the text that it spells; unless that is no whole character.
    fn agrees_with_the_decoder(tokenizer: &Tokenizer) {
        let spellings = tokenizer.spellings().unwrap();
        let letter = spellings.iter().position(|bytes| bytes == b"a").unwrap() as u32;
        let mut shown = 0;
        for (id, bytes) in (0..).zip(&spellings) {
            let Ok(text) = std::str::from_utf8(bytes) else { continue };
            if !bytes.is_empty() {
                assert_eq!(tokenizer.decode(&[letter, id, letter], false).unwrap(), format!("a{text}a"), "token {id}");
                shown += 1;
            }
        }
        assert!(shown > 50, "{shown} tokens");
    }

    #[test]
    fn tokens_spell_what_the_decoder_writes() {
        for tokenizer in [of_chat("bytes"), of_chat("pieces"), of_model("bytes"), of_model("unigram")] {
            agrees_with_the_decoder(&tokenizer);
        }
    }

    #[test]
    fn every_byte_can_be_spelled() {
        for kind in ["bytes", "pieces"] {
            let spellings = of_chat(kind).spellings().unwrap();
            for byte in 0..=u8::MAX {
                assert!(spellings.contains(&vec![byte]), "{kind}: {byte}");
            }
        }
    }

    #[test]
    fn control_tokens_spell_nothing() {
        for (kind, names) in [("bytes", ["<|im_end|>", "<think>"]), ("pieces", ["<unk>", "</s>"])] {
            let tokenizer = of_chat(kind);
            let spellings = tokenizer.spellings().unwrap();
            for name in names {
                assert!(spellings[tokenizer.token_id(name).unwrap() as usize].is_empty(), "{kind}: {name}");
            }
            assert!(!spellings.iter().any(|bytes| tokenizer.vocabulary.has_marker(&String::from_utf8_lossy(bytes))));
        }
    }

    #[test]
    fn other_decoders_are_refused_by_name() {
        let error = of_model("word-pieces").spellings().unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Unsupported);
        assert!(error.to_string().contains("WordPiece"), "{error}");
        for bad in [json!(null), json!({"type": "Replace", "pattern": {"Regex": "x"}, "content": ""})] {
            assert!(read_steps(&bad, &mut Vec::new()).is_err(), "{bad}");
        }
    }

    #[test]
    fn decoders_are_read_in_order() {
        let llama = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
        let mut steps = Vec::new();
        read_steps(&llama, &mut steps).unwrap();
        assert_eq!(steps, [Step::Replace('▁', " ".into()), Step::ByteFallback]);
        assert_eq!(spell("▁the", &steps), b" the");
        assert_eq!(spell("<0xE2>", &steps), [0xE2]);
        assert_eq!(spell("<0xZZ>", &steps), b"<0xZZ>");
    }
}
