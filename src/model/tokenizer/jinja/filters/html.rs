//! Filters for HTML and addresses.

use std::fmt::Write as _;

use minijinja::value::Value;
use minijinja::{Error, State};

use super::super::values::{self, type_name};
use super::super::{Function, arguments, containers, error, lexer, limits, repr};
use super::flag;

pub(super) const FILTERS: &[(&str, Function)] = &[
    ("escape", escape),
    ("e", escape),
    ("forceescape", forceescape),
    ("safe", safe),
    ("striptags", striptags),
    ("urlencode", urlencode),
    ("urlize", |_, _| Err(error("the filter `urlize` is not supported"))),
    ("xmlattr", xmlattr),
];

pub(in super::super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    out
}

fn escape(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [value] = arguments::bind("escape", ["*value"], 1, args)?;
    let value = value.unwrap_or_default();
    if value.is_safe() { Ok(value) } else { Ok(Value::from_safe_string(escaped(&repr::text(state, &value)?))) }
}

fn forceescape(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [value] = arguments::bind("forceescape", ["*value"], 1, args)?;
    Ok(Value::from_safe_string(escaped(&repr::text(state, &value.unwrap_or_default())?)))
}

fn safe(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [value] = arguments::bind("safe", ["*value"], 1, args)?;
    Ok(Value::from_safe_string(repr::text(state, &value.unwrap_or_default())?))
}

fn striptags(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [value] = arguments::bind("striptags", ["*value"], 1, args)?;
    let text = repr::text(state, &value.unwrap_or_default())?;
    let text = without(&without(&text, "<!--", "-->"), "<", ">");
    let words: Vec<&str> = text.split(lexer::is_space).filter(|word| !word.is_empty()).collect();
    unescape(&words.join(" ")).map(Value::from)
}

/// The text without what stands between two marks.
fn without(text: &str, start: &str, end: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(start) {
        let Some(length) = rest[at..].find(end) else { break };
        out.push_str(&rest[..at]);
        rest = &rest[at + length + end.len()..];
    }
    out + rest
}

fn unescape(text: &str) -> Result<String, Error> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '#').unwrap_or(rest.len());
        if end == 0 || (end < 2 && rest.starts_with('#')) {
            out.push('&');
            continue;
        }
        let name = &rest[..end];
        let number = name.strip_prefix('#').and_then(|digits| match digits.strip_prefix(['x', 'X']) {
            Some(hexadecimal) => u32::from_str_radix(hexadecimal, 16).ok(),
            None => digits.parse().ok(),
        });
        let c = match name {
            "amp" => Some('&'),
            "lt" => Some('<'),
            "gt" => Some('>'),
            "quot" => Some('"'),
            "apos" => Some('\''),
            "nbsp" => Some('\u{a0}'),
            // Numbers that HTML reads otherwise than Unicode are refused.
            _ => number.filter(|number| (0x20..0x7f).contains(number) || *number > 0x9f).and_then(char::from_u32),
        };
        let (Some(c), Some(';')) = (c, rest[end..].chars().next()) else {
            return Err(error(format!("striptags: the character reference `&{name}` is not supported")));
        };
        out.push(c);
        rest = &rest[end + 1..];
    }
    Ok(out + rest)
}

fn quote(text: &str, in_query: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => out.push(char::from(byte)),
            b'/' if !in_query => out.push('/'),
            b' ' if in_query => out.push('+'),
            byte => {
                // Writing to a string cannot fail.
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

fn urlencode(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [value] = arguments::bind("urlencode", ["*value"], 1, args)?;
    let value = value.unwrap_or_default();
    let pairs: Vec<(Value, Value)> = match type_name(&value) {
        "dict" => containers::pairs(state, &value)?,
        "list" | "tuple" | "generator" | "dict_items" => {
            let mut pairs = Vec::new();
            for item in values::iterate(state, &value)? {
                let pair = values::iterate(state, &item)?;
                let [key, value] = &pair[..] else { return Err(error("urlencode: expected pairs")) };
                pairs.push((key.clone(), value.clone()));
            }
            pairs
        }
        "Undefined" | "dict_keys" | "dict_values" | "range" => {
            return Err(error("urlencode: expected pairs or a text"));
        }
        _ => return Ok(Value::from(quote(&repr::text(state, &value)?, false))),
    };
    let mut parts = Vec::with_capacity(pairs.len());
    for (key, value) in pairs {
        let [key, value] = [repr::text(state, &key)?, repr::text(state, &value)?];
        parts.push(format!("{}={}", quote(&key, true), quote(&value, true)));
    }
    let text = parts.join("&");
    limits::text(state, Some(text.len()))?;
    Ok(Value::from(text))
}

fn xmlattr(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [value, autospace] = arguments::bind("xmlattr", ["*value", "autospace"], 1, args)?;
    let value = value.unwrap_or_default();
    if !values::is_dict(&value) {
        return Err(error(format!("xmlattr: '{}' object has no attribute 'items'", type_name(&value))));
    }
    let mut parts = Vec::new();
    for (key, item) in containers::pairs(state, &value)? {
        if item.is_none() || item.is_undefined() {
            continue;
        }
        let name = super::texts::argument(state, "xmlattr", &key)?;
        if name.contains(|c| lexer::is_space(c) || matches!(c, '/' | '>' | '=')) {
            return Err(error(format!("Invalid character in attribute name: {name:?}")));
        }
        let text = repr::text(state, &item)?;
        let text = if item.is_safe() { text } else { escaped(&text) };
        parts.push(format!("{}=\"{text}\"", escaped(&name)));
    }
    let space = autospace.is_none_or(|autospace| flag(Some(autospace))) && !parts.is_empty();
    Ok(Value::from(format!("{}{}", if space { " " } else { "" }, parts.join(" "))))
}
