//! What chat templates expect of Python: strings, containers and JSON as transformers' Jinja environment has them.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, Value, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, Output, State};
use minijinja_contrib::pycompat;

use super::guard;

/// Makes a template environment behave like Python's.
pub(super) fn install(env: &mut Environment<'_>) {
    env.set_unknown_method_callback(method);
    env.set_formatter(format);
    env.add_filter("tojson", tojson);
    env.add_filter("trim", |text: String, chars: Option<String>| {
        text.trim_matches(|c| is_stripped(c, chars.as_deref())).to_owned()
    });
    env.add_filter("string", |state: &State<'_, '_>, value: &Value| str_of(state, value));
}

/// What `str.strip` removes: the characters given, or Python's white space, which has four separators more than
/// Unicode's property.
fn is_stripped(c: char, chars: Option<&str>) -> bool {
    match chars {
        Some(chars) => chars.contains(c),
        None => c.is_whitespace() || ('\x1c'..='\x1f').contains(&c),
    }
}

/// Methods of Python's `str` that the compatibility library lacks or does slightly differently; the rest is its.
fn method(state: &mut State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let Some(text) = value.as_str() else { return pycompat::unknown_method_callback(state, value, name, args) };
    match name {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            let strips = |c: char| is_stripped(c, chars);
            Ok(Value::from(match name {
                "lstrip" => text.trim_start_matches(strips),
                "rstrip" => text.trim_end_matches(strips),
                _ => text.trim_matches(strips),
            }))
        }
        "isspace" => {
            let () = from_args(args)?;
            Ok(Value::from(!text.is_empty() && text.chars().all(|c| is_stripped(c, None))))
        }
        "splitlines" => {
            let (keep_ends,): (Option<bool>,) = from_args(args)?;
            Ok(split_lines(text, keep_ends.unwrap_or(false)).into_iter().map(Value::from).collect())
        }
        "removeprefix" | "removesuffix" => {
            let (affix,): (&str,) = from_args(args)?;
            let stripped = if name == "removeprefix" { text.strip_prefix(affix) } else { text.strip_suffix(affix) };
            Ok(Value::from(stripped.unwrap_or(text)))
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let first = name == "partition";
            let parts = if first { text.split_once(separator) } else { text.rsplit_once(separator) };
            let parts = match parts {
                Some((before, after)) => [before, separator, after],
                None if first => [text, "", ""],
                None => ["", "", text],
            };
            Ok(parts.into_iter().map(Value::from).collect())
        }
        "rsplit" => {
            let (separator, most): (&str, Option<i64>) = from_args(args)?;
            if separator.is_empty() {
                return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
            }
            let mut parts: Vec<&str> = match most.and_then(|most| usize::try_from(most).ok()) {
                Some(most) => text.rsplitn(most.saturating_add(1), separator).collect(),
                None => text.rsplit(separator).collect(),
            };
            parts.reverse();
            Ok(parts.into_iter().map(Value::from).collect())
        }
        // The padding of `{:>1000000000}` would be made before it's paid for.
        "format" if text.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.len() > 4) => {
            Err(Error::new(ErrorKind::InvalidOperation, "format: a width or precision has more than four digits"))
        }
        _ => pycompat::unknown_method_callback(state, value, name, args),
    }
}

/// `str.splitlines`, whose line ends are more than `\n`.
fn split_lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let is_end =
        |c: char| matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let content = rest.find(is_end).unwrap_or(rest.len());
        let after = &rest[content..];
        let end = if after.starts_with("\r\n") { 2 } else { after.chars().next().map_or(0, char::len_utf8) };
        lines.push(if keep_ends { &rest[..content + end] } else { &rest[..content] });
        rest = &after[end..];
    }
    lines
}

/// What `{{ value }}` prints.
fn format(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    if let Some(text) = value.as_str() { out.write_str(text) } else { out.write_str(&str_of(state, value)?) }
        .map_err(|e| Error::new(ErrorKind::WriteFailure, "the rendered text could not be written").with_source(e))
}

/// Python's `str(value)`.
fn str_of(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    match value.as_str() {
        Some(text) => out.push_str(text),
        None => write_repr(&mut out, state, value, 0)?,
    }
    Ok(out)
}

/// Python's `repr(value)`, for what can occur in messages and arguments.
fn write_repr(out: &mut String, state: &State<'_, '_>, value: &Value, depth: usize) -> Result<(), Error> {
    guard::charge(state, depth)?;
    match value.kind() {
        ValueKind::String => write_string_repr(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            for (index, item) in value.try_iter()?.enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                write_repr(out, state, &item, depth + 1)?;
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (index, key) in value.try_iter()?.enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                write_repr(out, state, &key, depth + 1)?;
                out.push_str(": ");
                write_repr(out, state, &value.get_item(&key)?, depth + 1)?;
            }
            out.push('}');
        }
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

fn write_string_repr(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            c => {
                let code = u32::from(c);
                // Writing to a string cannot fail.
                let _ = match code {
                    0..=0xFF => write!(out, "\\x{code:02x}"),
                    0x100..=0xFFFF => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push(quote);
}

/// Python's `str.isprintable`, which is what Rust's debug output goes by, except that private-use characters count:
/// they stand for others while a prompt is built (see [`super::prompt`]).
fn is_printable(c: char) -> bool {
    let private = matches!(u32::from(c), 0xE000..=0xF8FF | 0xF_0000..);
    // After a letter, so that a combining character isn't escaped for want of one.
    private || matches!(c, '\'' | '"') || format!("a{c}").escape_debug().count() == 2
}

/// `json.dumps` with the options that transformers passes on. Jinja's own filter would escape HTML.
fn tojson(state: &State<'_, '_>, value: &Value, kwargs: Kwargs) -> Result<Value, Error> {
    let invalid = |message: &'static str| Error::new(ErrorKind::InvalidOperation, message);
    let indent = match kwargs.get::<Option<Value>>("indent")?.filter(|indent| !indent.is_none()) {
        None => None,
        Some(indent) => match (indent.as_str(), indent.as_usize()) {
            (Some(text), _) if text.len() <= 64 => Some(text.to_owned()),
            (None, Some(width)) if width <= 64 => Some(" ".repeat(width)),
            _ => return Err(invalid("tojson: indent is neither a short string nor in 0..=64")),
        },
    };
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let separators = match separators.as_deref() {
        None => [if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()],
        Some([item, key]) => [item.clone(), key.clone()],
        Some(_) => return Err(invalid("tojson: separators are not a pair")),
    };
    let ascii = kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sorted = kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    kwargs.assert_all_used()?;
    let mut writer = JsonWriter { out: String::new(), state, indent, separators, ascii, sorted };
    writer.value(value, 0)?;
    Ok(Value::from(writer.out))
}

struct JsonWriter<'a, 'vm, 'env> {
    out: String,
    state: &'a State<'vm, 'env>,
    indent: Option<String>,
    /// Between items, and between key and value.
    separators: [String; 2],
    ascii: bool,
    sorted: bool,
}

impl JsonWriter<'_, '_, '_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        guard::charge(self.state, depth)?;
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&value.to_string()),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                self.out.push('[');
                let mut empty = true;
                for item in value.try_iter()? {
                    self.item(empty, depth + 1);
                    self.value(&item, depth + 1)?;
                    empty = false;
                }
                self.close(empty, depth, ']');
            }
            ValueKind::Map => {
                self.out.push('{');
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sorted {
                    keys.sort();
                }
                for (index, key) in keys.iter().enumerate() {
                    self.item(index == 0, depth + 1);
                    match key.as_str() {
                        Some(key) => self.string(key),
                        None => self.string(&key.to_string()),
                    }
                    self.out.push_str(&self.separators[1]);
                    self.value(&value.get_item(key)?, depth + 1)?;
                }
                self.close(keys.is_empty(), depth, '}');
            }
            kind => {
                let message = format!("a value of kind {kind} cannot be written as JSON");
                return Err(Error::new(ErrorKind::BadSerialization, message));
            }
        }
        Ok(())
    }

    fn item(&mut self, first: bool, depth: usize) {
        if !first {
            self.out.push_str(&self.separators[0]);
        }
        self.line(depth);
    }

    fn close(&mut self, empty: bool, depth: usize, bracket: char) {
        if !empty {
            self.line(depth);
        }
        self.out.push(bracket);
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            self.out.push_str(&indent.repeat(depth));
        }
    }

    fn string(&mut self, text: &str) {
        // Python's and serde_json's escapes are the same ones.
        let plain = serde_json::Value::from(text).to_string();
        if !self.ascii {
            self.out.push_str(&plain);
            return;
        }
        for c in plain.chars() {
            if c.is_ascii() {
                self.out.push(c);
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a string cannot fail.
                    let _ = write!(self.out, "\\u{unit:04x}");
                }
            }
        }
    }
}
