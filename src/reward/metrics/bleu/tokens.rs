//! Sacrebleu's tokenizers (2.5), whose tokens BLEU counts.
//!
//! Text is handled as in Python: characters are code points, and white space includes four control characters that
//! Unicode doesn't count as white space.

use serde::Deserialize;

/// The division of a text into tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Tokenizer {
    /// That of mteval-v13a: punctuation is separate from words, but not inside numbers.
    #[default]
    #[serde(rename = "13a")]
    Mteval13a,
    /// Only at white space.
    None,
    /// Each character except white space.
    Char,
}

impl Tokenizer {
    /// The tokens of `text`.
    pub(super) fn split(self, text: &str) -> Vec<String> {
        let text = text.trim_end_matches(is_space);
        match self {
            Tokenizer::None => words(text),
            Tokenizer::Char => text.chars().filter(|&c| !is_space(c)).map(String::from).collect(),
            Tokenizer::Mteval13a => words(&spaced(text)),
        }
    }
}

/// `str.isspace`.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

fn words(text: &str) -> Vec<String> {
    text.split(is_space).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// `text` with a space wherever 13a begins or ends a token.
fn spaced(text: &str) -> String {
    let mut text = text.replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    for (entity, character) in [("&quot;", "\""), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")] {
        text = text.replace(entity, character);
    }
    let mut line: Vec<char> = vec![' '];
    for c in text.chars() {
        if stands_alone(c) { line.extend([' ', c, ' ']) } else { line.push(c) }
    }
    line.push(' ');
    let digit = |c: char| c.is_ascii_digit();
    let stop = |c: char| c == '.' || c == ',';
    // A full stop is part of a number only with digits on both sides. A dash after a digit is not.
    let line = between(&line, |one, two| (!digit(one) && stop(two)).then_some([one, ' ', two, ' ']));
    let line = between(&line, |one, two| (stop(one) && !digit(two)).then_some([' ', one, ' ', two]));
    let line = between(&line, |one, two| (digit(one) && two == '-').then_some([one, ' ', two, ' ']));
    line.into_iter().collect()
}

/// Characters that are tokens everywhere: ASCII punctuation except the apostrophe, comma, dash and full stop.
fn stands_alone(c: char) -> bool {
    c.is_ascii_punctuation() && !matches!(c, '\'' | ',' | '-' | '.')
}

/// Replaces pairs of neighbours, from left to right, none overlapping the last.
fn between(line: &[char], replaced: impl Fn(char, char) -> Option<[char; 4]>) -> Vec<char> {
    let mut out = Vec::with_capacity(line.len() * 2);
    let mut at = 0;
    while let Some(&one) = line.get(at) {
        match line.get(at + 1).and_then(|&two| replaced(one, two)) {
            Some(pair) => {
                out.extend(pair);
                at += 2;
            }
            None => {
                out.push(one);
                at += 1;
            }
        }
    }
    out
}
