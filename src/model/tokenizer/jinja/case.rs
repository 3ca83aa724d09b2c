//! Upper and lower case, and which characters a text is made of: methods of Python's `str` without arguments.

use minijinja::Error;
use minijinja::value::Value;

use super::error;
use super::lexer::is_space;

/// Methods without arguments.
pub(super) fn simple(text: &str, name: &str) -> Result<Value, Error> {
    Ok(match name {
        "upper" => Value::from(text.to_uppercase()),
        "lower" => Value::from(text.to_lowercase()),
        "title" => Value::from(title(text)),
        "capitalize" => Value::from(capitalize(text)),
        "swapcase" => Value::from(swap_case(text)),
        "casefold" => Value::from(fold_case(text)?),
        _ => Value::from(all_are(text, name)?),
    })
}

fn all_are(text: &str, name: &str) -> Result<bool, Error> {
    let every = |test: fn(char) -> bool| !text.is_empty() && text.chars().all(test);
    Ok(match name {
        "isspace" => every(is_space),
        "isalpha" => every(is_letter),
        "isalnum" => every(|c| is_letter(c) || c.is_numeric()),
        "isascii" => text.is_ascii(),
        "isnumeric" => every(char::is_numeric),
        "isdecimal" | "isdigit" => digits_only(text, name)?,
        "isprintable" => text.chars().all(super::repr::is_printable),
        "isidentifier" => {
            text.chars().next().is_some_and(|c| c == '_' || is_letter(c))
                && text.chars().all(|c| c == '_' || is_letter(c) || c.is_alphanumeric())
        }
        "islower" => text.chars().any(char::is_lowercase) && !text.chars().any(|c| c.is_uppercase() || is_titled(c)),
        "isupper" => text.chars().any(char::is_uppercase) && !text.chars().any(|c| c.is_lowercase() || is_titled(c)),
        "istitle" => is_title(text),
        _ => return Err(error(format!("the method `{name}` of str is not supported"))),
    })
}

/// Python's letters are Unicode's general category L; Rust's alphabetic characters have marks and letter numbers, too.
fn is_letter(c: char) -> bool {
    c.is_alphabetic() && !c.is_numeric()
}

fn digits_only(text: &str, name: &str) -> Result<bool, Error> {
    if let Some(c) = text.chars().find(|c| !c.is_ascii() && c.is_numeric()) {
        return Err(error(format!("{name} of the digit {c:?} is not supported")));
    }
    Ok(!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))
}

/// The four letters that are neither upper nor lower case, of which `ǅ` is one.
fn is_titled(c: char) -> bool {
    matches!(c, '\u{1c5}' | '\u{1c8}' | '\u{1cb}' | '\u{1f2}' | '\u{1f88}'..='\u{1f8f}' | '\u{1f98}'..='\u{1f9f}'
        | '\u{1fa8}'..='\u{1faf}' | '\u{1fbc}' | '\u{1fcc}' | '\u{1ffc}')
}

fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase() || is_titled(c)
}

fn is_title(text: &str) -> bool {
    let (mut cased, mut after_cased) = (false, false);
    for c in text.chars() {
        let upper = c.is_uppercase() || is_titled(c);
        if (upper && after_cased) || (c.is_lowercase() && !after_cased) {
            return false;
        }
        after_cased = upper || c.is_lowercase();
        cased |= after_cased;
    }
    cased
}

/// A character as it begins a word: `ǆ` becomes `ǅ`, and `ﬁ` becomes `Fi`.
fn to_title(c: char, out: &mut String) {
    let mapped = match c {
        '\u{1c4}'..='\u{1c6}' => '\u{1c5}',
        '\u{1c7}'..='\u{1c9}' => '\u{1c8}',
        '\u{1ca}'..='\u{1cc}' => '\u{1cb}',
        '\u{1f1}'..='\u{1f3}' => '\u{1f2}',
        c => {
            let mut upper = c.to_uppercase();
            out.extend(upper.next());
            out.extend(upper.flat_map(char::to_lowercase));
            return;
        }
    };
    out.push(mapped);
}

/// `str.title`: each letter behind one without case begins a word.
fn title(text: &str) -> String {
    let lower = Lower::of(text);
    let (mut out, mut in_word) = (String::with_capacity(text.len()), false);
    for (at, c) in text.char_indices() {
        if in_word {
            lower.push(at, c, &mut out)
        } else {
            to_title(c, &mut out)
        }
        in_word = is_cased(c);
    }
    out
}

pub(super) fn capitalize(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let lower = Lower::of(text);
    for (at, c) in text.char_indices() {
        if at == 0 { to_title(c, &mut out) } else { lower.push(at, c, &mut out) }
    }
    out
}

fn swap_case(text: &str) -> String {
    let lower = Lower::of(text);
    let mut out = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        if c.is_uppercase() {
            lower.push(at, c, &mut out);
        } else if c.is_lowercase() {
            out.extend(c.to_uppercase());
        } else {
            out.push(c);
        }
    }
    out
}

/// Lower case, with the sigma that ends a word.
struct Lower<'a>(&'a str);

impl<'a> Lower<'a> {
    fn of(text: &'a str) -> Self {
        Lower(text)
    }

    fn push(&self, at: usize, c: char, out: &mut String) {
        let (before, after) = (&self.0[..at], &self.0[at + c.len_utf8()..]);
        let cased = |c: &char| is_cased(*c);
        let ends =
            before.chars().next_back().is_some_and(|c| cased(&c)) && !after.chars().next().is_some_and(|c| cased(&c));
        if c == 'Σ' && ends { out.push('ς') } else { out.extend(c.to_lowercase()) }
    }
}

/// Case folding as far as it is lower case; what folds otherwise is refused, but for `ß`.
fn fold_case(text: &str) -> Result<String, Error> {
    let odd = |c: char| !c.is_ascii() && c.to_uppercase().flat_map(char::to_lowercase).ne(c.to_lowercase()) && c != 'ß';
    if let Some(c) = text.chars().find(|c| odd(*c) || matches!(*c, 'ς' | 'ẞ' | 'İ')) {
        return Err(error(format!("casefold of {c:?} is not supported")));
    }
    Ok(text.chars().flat_map(char::to_lowercase).collect::<String>().replace('ß', "ss"))
}
