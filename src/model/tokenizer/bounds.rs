//! Bounds on `tokenizer.json`, checked before the `tokenizers` library sees it, and the net under the library.
//!
//! The library trusts its files: a few bytes can make it reserve gigabytes, a chain of short rules can make a text grow
//! without end, and deep nesting overflows its stack. Published tokenizers stay far below these bounds; what exceeds one
//! is refused with the field and its value. What else makes the library panic becomes an error.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::{Map, Value};

use crate::{Error, ErrorKind, Result};

/// Steps in a section, nested ones included. Published ones have up to 10.
const MAX_STEPS: usize = 64;
/// Sequences within sequences.
const MAX_DEPTH: usize = 8;
/// What the replacements of a section may make of one byte, all together. Published ones make 3 of a space.
const MAX_GROWTH: f64 = 64.0;
/// Bytes of a pattern. The longest published one has some 2,000.
const MAX_PATTERN: usize = 16 << 10;
/// Groups within groups of a pattern.
const MAX_GROUPS: usize = 50;
/// What the counted repetitions of a pattern multiply to, such as 1,000 in `(a{10}){100}`.
const MAX_REPEATS: u64 = 1_000;
/// Bytes of a text that a step puts into another.
const MAX_TEXT: usize = 1 << 10;
/// Bytes that a SentencePiece table makes of a character. Unicode's longest has 33.
const MAX_CHARACTER: usize = 64;
/// Added tokens. Published tokenizers have up to 7,000.
const MAX_ADDED: usize = 100_000;
/// Characters of a word that WordPiece looks up; the time is their square. 100 is usual.
const MAX_WORD: u64 = 1_000;
/// Ids: they are numbers of rows in a matrix.
const MAX_ID: u64 = 1 << 24;
/// Tokens that a post-processor puts around a text.
const MAX_AROUND: usize = 256;
/// Absolute value of a Unigram score, which is a logarithm.
const MAX_SCORE: f64 = 1e6;

/// Refuses a `tokenizer.json` that is beyond the bounds.
pub(crate) fn check(tokenizer: &Map<String, Value>, path: &str) -> Result<()> {
    let checked = (|| {
        for (section, list) in
            [("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers"), ("decoder", "decoders")]
        {
            if let Some(part) = tokenizer.get(section) {
                let mut chain = Chain { list, steps: 0, growth: 1.0 };
                chain.step(part, section, 0)?;
            }
        }
        check_added(tokenizer.get("added_tokens"))?;
        check_model(tokenizer.get("model"))?;
        tokenizer.get("post_processor").map_or(Ok(()), |part| check_around(part, "post_processor", 0))
    })();
    checked.map_err(|why: String| {
        Error::invalid_model(format!("{path}: {why}. Is it the file that the model was published with?"))
    })
}

/// Runs what calls the library; a panic in there becomes an error.
pub(crate) fn caught<T>(what: &str, body: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        let why: String = text.unwrap_or("it doesn't say why").chars().take(200).collect();
        Err(Error::new(
            ErrorKind::InvalidModel,
            format!(
                "{what}: the tokenizers library panicked ({why}). Its tokenizer.json may be damaged: fetch it again"
            ),
        ))
    })
}

fn too_much(field: &str, value: impl std::fmt::Display, limit: impl std::fmt::Display) -> String {
    format!("`{field}` is {value}; at most {limit} is accepted")
}

/// A section's steps, one after the other.
struct Chain {
    /// What a sequence calls its list.
    list: &'static str,
    steps: usize,
    growth: f64,
}

impl Chain {
    fn step(&mut self, part: &Value, at: &str, depth: usize) -> std::result::Result<(), String> {
        let Some(fields) = part.as_object() else { return Ok(()) };
        self.steps += 1;
        if self.steps > MAX_STEPS {
            return Err(format!("`{at}` is step {} of its section; at most {MAX_STEPS} are accepted", self.steps));
        }
        if depth > MAX_DEPTH {
            return Err(format!("`{at}` is nested {depth} deep; at most {MAX_DEPTH} is accepted"));
        }
        for (index, inner) in fields.get(self.list).and_then(Value::as_array).into_iter().flatten().enumerate() {
            self.step(inner, &format!("{at}.{}[{index}]", self.list), depth + 1)?;
        }
        for key in ["content", "prepend", "prefix", "suffix", "replacement"] {
            let length = fields.get(key).and_then(Value::as_str).map_or(0, str::len);
            if length > MAX_TEXT {
                return Err(too_much(&format!("{at}.{key}"), format!("a text of {length} bytes"), MAX_TEXT));
            }
        }
        for key in ["start", "stop", "length"] {
            let number = fields.get(key).and_then(Value::as_u64).unwrap_or(0);
            if number > MAX_TEXT as u64 {
                return Err(too_much(&format!("{at}.{key}"), number, MAX_TEXT));
            }
        }
        if let Some(pattern) = fields.get("pattern") {
            check_pattern(pattern, &format!("{at}.pattern"))?;
            self.grow(fields, pattern, at)?;
        }
        match fields.get("precompiled_charsmap").and_then(Value::as_str) {
            Some(charsmap) => check_charsmap(charsmap, &format!("{at}.precompiled_charsmap")),
            None => Ok(()),
        }
    }

    /// Counts what a replacement makes of the shortest text that it replaces.
    fn grow(&mut self, fields: &Map<String, Value>, pattern: &Value, at: &str) -> std::result::Result<(), String> {
        let Some(content) = fields.get("content").and_then(Value::as_str) else { return Ok(()) };
        let factor = match pattern.get("String").or(Some(pattern)).and_then(Value::as_str) {
            Some("") => return Err(format!("`{at}.pattern` is empty: it is found everywhere")),
            Some(text) => content.len() as f64 / text.len() as f64,
            // A pattern may find nothing between any two bytes, and put the content there.
            None => content.len() as f64 + 1.0,
        };
        self.growth *= factor.max(1.0);
        if self.growth > MAX_GROWTH {
            let grown = format!("makes a text grow {:.0} times, with the steps before it", self.growth);
            return Err(format!("`{at}` {grown}; at most {MAX_GROWTH} is accepted"));
        }
        Ok(())
    }
}

fn check_pattern(pattern: &Value, at: &str) -> std::result::Result<(), String> {
    let literal = pattern.get("String").and_then(Value::as_str).map_or(0, str::len);
    let regex = pattern.get("Regex").and_then(Value::as_str).unwrap_or_default();
    let length = literal.max(regex.len());
    if length > MAX_PATTERN {
        return Err(too_much(at, format!("{length} bytes long"), MAX_PATTERN));
    }
    let groups = groups(regex);
    if groups > MAX_GROUPS {
        return Err(too_much(at, format!("nested {groups} groups deep"), MAX_GROUPS));
    }
    let repeats = repeats(regex);
    if repeats > MAX_REPEATS {
        return Err(too_much(at, format!("a pattern that repeats a part {repeats} times"), MAX_REPEATS));
    }
    Ok(())
}

/// How deep the groups of a pattern are nested; brackets and escapes are taken for groups where in doubt.
fn groups(regex: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for c in regex.chars() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// The product of the larger counts in braces. Those that stand beside each other are multiplied too.
fn repeats(regex: &str) -> u64 {
    let counts = regex.split('{').skip(1).filter_map(|rest| rest.split_once('}'));
    let largest = |(inner, _): (&str, &str)| inner.split(',').filter_map(|n| n.trim().parse::<u64>().ok()).max();
    counts.filter_map(largest).fold(1, |product: u64, count| product.saturating_mul(count.max(1)))
}

/// The table begins with the length of its first part, which the library believes. The second part is what characters
/// become, each text ended by a zero.
fn check_charsmap(charsmap: &str, at: &str) -> std::result::Result<(), String> {
    let bytes = base64(charsmap).ok_or_else(|| format!("`{at}` is not base64"))?;
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else {
        return Err(format!("`{at}` has {} bytes: its length alone takes 4", bytes.len()));
    };
    let length = u32::from_le_bytes(*length) as usize;
    if length == 0 || length > rest.len() {
        return Err(format!("`{at}` says that its table has {length} bytes, but {} follow", rest.len()));
    }
    let longest = rest[length..].split(|byte| *byte == 0).map(<[u8]>::len).max().unwrap_or(0);
    if longest > MAX_CHARACTER {
        return Err(too_much(at, format!("a table that makes {longest} bytes of a character"), MAX_CHARACTER));
    }
    Ok(())
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => Some(u32::from(c - b'A')),
        b'a'..=b'z' => Some(u32::from(c - b'a') + 26),
        b'0'..=b'9' => Some(u32::from(c - b'0') + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for c in text.trim_end_matches('=').bytes() {
        bits = (bits << 6 | digit(c)?) & 0xFF_FFFF;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 0xFF) as u8);
        }
    }
    Some(bytes)
}

/// Refuses more added tokens than there may be, from all files together.
pub(super) fn check_added(added: Option<&Value>) -> std::result::Result<(), String> {
    let added = added.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if added.len() > MAX_ADDED {
        return Err(too_much("added_tokens", format!("a list of {}", added.len()), MAX_ADDED));
    }
    for (index, token) in added.iter().enumerate() {
        let id = token.get("id").and_then(Value::as_u64).unwrap_or(0);
        if id > MAX_ID {
            return Err(too_much(&format!("added_tokens[{index}].id"), id, MAX_ID));
        }
        let length = token.get("content").and_then(Value::as_str).map_or(0, str::len);
        if length > MAX_TEXT {
            return Err(too_much(&format!("added_tokens[{index}].content"), format!("{length} bytes long"), MAX_TEXT));
        }
    }
    Ok(())
}

fn check_model(model: Option<&Value>) -> std::result::Result<(), String> {
    let Some(model) = model.and_then(Value::as_object) else { return Ok(()) };
    if let Some(drops) = model.get("dropout").and_then(Value::as_f64).filter(|drops| *drops != 0.0) {
        return Err(format!("`model.dropout` is {drops}: tokens would be drawn at random. Set it to null"));
    }
    let word = model.get("max_input_chars_per_word").and_then(Value::as_u64).unwrap_or(0);
    if word > MAX_WORD {
        return Err(too_much("model.max_input_chars_per_word", word, MAX_WORD));
    }
    match model.get("vocab") {
        Some(Value::Object(vocab)) => {
            let beyond = |(_, id): &(&String, &Value)| id.as_u64().is_some_and(|id| id > MAX_ID);
            if let Some((token, id)) = vocab.iter().find(beyond) {
                let token: String = token.chars().take(40).collect();
                return Err(too_much(&format!("model.vocab[{token:?}]"), id, MAX_ID));
            }
        }
        Some(Value::Array(pieces)) => {
            for (index, piece) in pieces.iter().enumerate() {
                let score = piece.get(1).and_then(Value::as_f64).unwrap_or(0.0);
                if score.abs() > MAX_SCORE {
                    return Err(too_much(&format!("model.vocab[{index}]"), format!("scored {score}"), MAX_SCORE));
                }
            }
        }
        _ => {}
    }
    Ok(())
}

fn check_around(part: &Value, at: &str, depth: usize) -> std::result::Result<(), String> {
    if depth > MAX_DEPTH {
        return Err(format!("`{at}` is nested {depth} deep; at most {MAX_DEPTH} is accepted"));
    }
    let lists = ["single", "pair", "processors"].into_iter().filter_map(|key| Some((key, part.get(key)?.as_array()?)));
    for (key, list) in lists {
        if list.len() > MAX_AROUND {
            return Err(too_much(&format!("{at}.{key}"), format!("a list of {}", list.len()), MAX_AROUND));
        }
        for (index, inner) in list.iter().enumerate() {
            check_around(inner, &format!("{at}.{key}[{index}]"), depth + 1)?;
        }
    }
    for (name, token) in part.get("special_tokens").and_then(Value::as_object).into_iter().flatten() {
        for key in ["ids", "tokens"] {
            let length = token.get(key).and_then(Value::as_array).map_or(0, Vec::len);
            if length > MAX_AROUND {
                let name: String = name.chars().take(40).collect();
                return Err(too_much(
                    &format!("{at}.special_tokens[{name:?}].{key}"),
                    format!("a list of {length}"),
                    MAX_AROUND,
                ));
            }
        }
    }
    Ok(())
}
