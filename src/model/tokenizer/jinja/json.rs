//! `tojson` as transformers has it: `json.dumps`, which escapes no HTML.

use std::fmt::Write as _;

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, State};

use super::values::{self, Number, number, type_name};
use super::{Function, arguments, error, limits, numbers};

pub(super) const FILTERS: &[(&str, Function)] = &[("tojson", tojson)];

fn tojson(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let parameters = ["*value", "ensure_ascii", "indent", "separators", "sort_keys"];
    let [value, ascii, indent, separators, sorted] = arguments::bind("tojson", parameters, 1, args)?;
    let indent = match indent.filter(|indent| !indent.is_none()) {
        None => None,
        Some(indent) => Some(indent_of(&indent)?),
    };
    let separators = match separators.filter(|separators| !separators.is_none()) {
        None => [if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()],
        Some(pair) => {
            let pair = values::iterate(state, &pair)?;
            let pair: Vec<&str> = pair.iter().filter_map(Value::as_str).collect();
            let [item, key] = pair[..] else { return Err(error("tojson: separators are not a pair of strings")) };
            [item.to_owned(), key.to_owned()]
        }
    };
    let ascii = ascii.is_some_and(|ascii| ascii.is_true());
    let sorted = sorted.is_some_and(|sorted| sorted.is_true());
    let mut writer = JsonWriter { out: String::new(), state, indent, separators, ascii, sorted };
    writer.value(&value.unwrap_or_default(), 0)?;
    let out = writer.out;
    limits::text(state, Some(out.len()))?;
    Ok(Value::from(out))
}

fn indent_of(indent: &Value) -> Result<String, Error> {
    match (indent.as_str(), number(indent)) {
        (Some(text), _) if text.len() <= 64 => Ok(text.to_owned()),
        (None, Some(Number::Int(width))) if width <= 64 => Ok(" ".repeat(usize::try_from(width).unwrap_or(0))),
        _ => Err(error("tojson: indent is neither a short string nor at most 64")),
    }
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
        limits::visit(self.state, depth)?;
        let before = self.out.len();
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => {
                let text = number_text(value)?;
                self.out.push_str(&text);
            }
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            _ => match type_name(value) {
                "list" | "tuple" => self.list(value, depth)?,
                "dict" => self.dict(value, depth)?,
                kind => return Err(error(format!("Object of type {kind} is not JSON serializable"))),
            },
        }
        limits::grown(self.state, before, self.out.len())
    }

    fn list(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.out.push('[');
        let mut empty = true;
        for item in value.try_iter()? {
            self.item(empty, depth + 1);
            self.value(&item, depth + 1)?;
            empty = false;
        }
        self.close(empty, depth, ']');
        Ok(())
    }

    fn dict(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.out.push('{');
        let mut keys: Vec<Value> = value.try_iter()?.collect();
        if self.sorted {
            super::filters::sort(self.state, &mut keys, |key| Ok(key.clone()), false)?;
        }
        for (index, key) in keys.iter().enumerate() {
            self.item(index == 0, depth + 1);
            let text = key_text(key)?;
            self.string(&text);
            self.out.push_str(&self.separators[1]);
            self.value(&value.get_item(key)?, depth + 1)?;
        }
        self.close(keys.is_empty(), depth, '}');
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
        // Python's and serde_json's escapes are the same ones, except that Python escapes DEL in ASCII alone.
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

fn number_text(value: &Value) -> Result<String, Error> {
    match number(value) {
        Some(Number::Float(value)) if value.is_nan() => Ok("NaN".to_owned()),
        Some(Number::Float(value)) if value.is_infinite() => {
            Ok(if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned())
        }
        Some(number) => Ok(numbers::number_repr(number)),
        None => Err(error("a number of more than 127 bits is not supported")),
    }
}

/// A key as JSON has it: texts, and what `json.dumps` makes texts of.
fn key_text(key: &Value) -> Result<String, Error> {
    match (key.as_str(), key.kind()) {
        (Some(text), _) => Ok(text.to_owned()),
        (None, ValueKind::None) => Ok("null".to_owned()),
        (None, ValueKind::Bool) => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
        (None, ValueKind::Number) => number_text(key),
        _ => Err(error(format!("keys must be str, int, float, bool or None, not {}", type_name(key)))),
    }
}
