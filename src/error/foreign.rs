//! Foreign text, made safe for our messages.

use std::borrow::Cow;
use std::fmt::Write;

/// Maximum number of characters in a message, and how many of them come from its end.
const MOST: usize = 8192;
const FROM_THE_END: usize = 1024;

/// The text without control characters, and without its middle if it is very long.
pub(super) fn harmless(text: String) -> String {
    let text = match escaped(&text) {
        Cow::Borrowed(_) => text,
        Cow::Owned(escaped) => escaped,
    };
    // A text never has more characters than bytes.
    if text.len() <= MOST {
        return text;
    }
    let count = text.chars().count();
    let Some(left_out) = count.checked_sub(MOST).filter(|&count| count > 0) else { return text };
    let at = |n: usize| text.char_indices().nth(n).map_or(text.len(), |(at, _)| at);
    let (start, end) = (&text[..at(MOST - FROM_THE_END)], &text[at(count - FROM_THE_END)..]);
    format!("{start} … ({left_out} characters are left out here) … {end}")
}

/// The beginning of a foreign text: at most `most` characters, on one line and without control characters.
#[cfg(feature = "remote")]
pub(crate) fn quoted(text: &str, most: usize) -> String {
    // Escapes make a text longer, and white space may be long, so only this much is looked at.
    let mut words = String::new();
    for word in text.split_whitespace() {
        if !words.is_empty() {
            words.push(' ');
        }
        let word = word.char_indices().nth(most + 1).map_or(word, |(at, _)| &word[..at]);
        words.push_str(&escaped(word));
        if words.chars().count() > most {
            break;
        }
    }
    match words.char_indices().nth(most) {
        None => words,
        Some((at, _)) => format!("{}…", &words[..at]),
    }
}

/// Control characters as `\u{1b}`; line breaks and tabs stay.
fn escaped(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_obeyed) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_obeyed(c) {
            true => write!(out, "{}", c.escape_unicode()).unwrap_or_default(),
            false => out.push(c),
        }
    }
    out.into()
}

/// Whether a terminal acts on it, or shows the following text in another order.
fn is_obeyed(c: char) -> bool {
    (c.is_control() && !matches!(c, '\n' | '\t'))
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Error, ErrorKind};

    #[test]
    fn what_a_terminal_obeys_is_escaped_wherever_it_stands() {
        let bad = "\u{1b}[2J\u{1b}]0;owned\u{7}\r\u{9b}31m\u{202e}x\u{7f}\0";
        let shown = "\\u{1b}[2J\\u{1b}]0;owned\\u{7}\\u{d}\\u{9b}31m\\u{202e}x\\u{7f}\\u{0}";
        let error = Error::new(ErrorKind::Io, format!("it says {bad}")).context(format!("file {bad}"));
        assert_eq!(error.to_string(), format!("file {shown}: it says {shown}"));
        assert_eq!(quoted(&format!("a\n {bad}"), 200), format!("a {}", shown.replacen("\\u{d}", " ", 1)));
        assert_eq!(Error::new(ErrorKind::Io, "two\n\tlines – ok").to_string(), "two\n\tlines – ok");
    }

    #[test]
    fn long_messages_lose_their_middle() {
        let error = Error::new(ErrorKind::Io, format!("begin {} end", "é".repeat(1 << 20)));
        let text = error.context("model `m`").to_string();
        assert!(text.starts_with("model `m`: begin éé") && text.ends_with("éé end"), "{}", text.len());
        assert!(text.chars().count() < MOST + 100, "{}", text.chars().count());
        assert_eq!(quoted(&"é".repeat(1 << 20), 10), format!("{}…", "é".repeat(10)));
    }

    proptest! {
        #[test]
        fn quotes_are_short_and_harmless(text in "\\PC*[\\x00-\\x1f\\x7f-\\x9f a-z\u{202e}]{0,40}", most in 0_usize..30) {
            let quote = quoted(&text, most);
            prop_assert!(quote.chars().count() <= most + 1);
            prop_assert!(!quote.chars().any(|c| c.is_control() || c == '\u{202e}'), "{:?}", quote);
        }
    }
}
