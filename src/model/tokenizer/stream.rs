//! Tokens into text, one at a time.

use std::sync::Arc;

use super::Tokenizer;
use crate::Result;

/// What a decoder puts in place of bytes that are not (yet) UTF-8.
const REPLACEMENT: char = '\u{FFFD}';

/// Most tokens that are held back in the hope that they become a character. A character has four bytes at most, so
/// beyond a few tokens the bytes are simply not UTF-8.
const MAX_PENDING: usize = 8;

/// Turns sampled tokens into text as they come.
///
/// Tokens and characters don't line up: a token may hold part of a character, and some decoders treat a token by what
/// precedes it (a leading space, a run of bytes). So each step decodes a window of recent tokens with and without the
/// new ones and gives out the difference, once it doesn't end within a character.
#[derive(Debug, Clone)]
pub struct TextStream {
    tokenizer: Arc<Tokenizer>,
    skip_special: bool,
    /// The window: tokens already given out, for context, then pending ones.
    tokens: Vec<u32>,
    /// How many tokens of the window were given out.
    given: usize,
}

impl TextStream {
    /// A stream at the beginning of a text. With `skip_special`, special tokens give no text.
    pub fn new(tokenizer: Arc<Tokenizer>, skip_special: bool) -> Self {
        TextStream { tokenizer, skip_special, tokens: Vec::new(), given: 0 }
    }

    /// Takes the next token and gives out the text that is complete now, often empty.
    ///
    /// # Errors
    /// Fails where the tokenizer's decoder does.
    pub fn push(&mut self, token: u32) -> Result<String> {
        self.tokens.push(token);
        let pending = self.tokens.len() - self.given;
        let new = self.difference()?;
        if new.is_empty() || (new.ends_with(REPLACEMENT) && pending < MAX_PENDING) {
            if new.is_empty() && pending >= MAX_PENDING {
                // Tokens without any text (special ones) needn't stay; the context before them does.
                self.tokens.truncate(self.given);
            }
            return Ok(String::new());
        }
        self.advance();
        Ok(new)
    }

    /// The end of the stream: gives out what was held back, with U+FFFD for an unfinished character.
    ///
    /// # Errors
    /// Fails where the tokenizer's decoder does.
    pub fn finish(&mut self) -> Result<String> {
        let rest = if self.given < self.tokens.len() { self.difference()? } else { String::new() };
        self.tokens.clear();
        self.given = 0;
        Ok(rest)
    }

    /// The text by which the pending tokens extend what was given out.
    fn difference(&self) -> Result<String> {
        let whole = self.tokenizer.decode(&self.tokens, self.skip_special)?;
        let before = self.tokenizer.decode(&self.tokens[..self.given], self.skip_special)?;
        match whole.strip_prefix(before.as_str()) {
            Some(new) => Ok(new.to_owned()),
            // A decoder that takes back text it gave for fewer tokens (bytes that turn out not to be UTF-8): what was
            // given out stays, and the pending tokens speak for themselves.
            None => self.tokenizer.decode(&self.tokens[self.given..], self.skip_special),
        }
    }

    /// Marks all tokens as given out and keeps only the newest ones as context.
    fn advance(&mut self) {
        self.tokens.drain(..self.given);
        self.given = self.tokens.len();
    }
}
