//! Python's `str` and `repr`, which are what `{{ … }}` prints.

use std::fmt::Write as _;

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind, Output, State};

use super::values::{self, Bytes, Range, View, number, type_name};
use super::{error, limits, numbers};

/// What `{{ value }}` prints.
pub(super) fn print(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    let written = match value.as_str() {
        Some(text) => out.write_str(text),
        None => {
            let mut text = String::new();
            write_str(&mut text, state, value)?;
            out.write_str(&text)
        }
    };
    written.map_err(|e| Error::new(ErrorKind::WriteFailure, "the rendered text could not be written").with_source(e))
}

/// Writes `str(value)`.
pub(super) fn write_str(out: &mut String, state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => {
            out.push_str(text);
            Ok(())
        }
        None if value.is_undefined() => Ok(()),
        None => write_repr(out, state, value, 0),
    }
}

/// `str(value)`.
pub(super) fn str_of(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    write_str(&mut out, state, value)?;
    limits::text(state, Some(out.len()))?;
    Ok(out)
}

/// `repr(value)`.
pub(super) fn repr_of(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    write_repr(&mut out, state, value, 0)?;
    Ok(out)
}

/// Writes `repr(value)`.
pub(super) fn write_repr(out: &mut String, state: &State<'_, '_>, value: &Value, depth: usize) -> Result<(), Error> {
    limits::visit(state, depth)?;
    let before = out.len();
    let kind = type_name(value);
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => match number(value) {
            Some(value) => out.push_str(&numbers::number_repr(value)),
            None => return Err(error("a number of more than 127 bits is not supported")),
        },
        ValueKind::String if value.is_safe() => {
            out.push_str("Markup(");
            write_text(out, value.as_str().unwrap_or_default());
            out.push(')');
        }
        ValueKind::String => write_text(out, value.as_str().unwrap_or_default()),
        _ => match kind {
            "list" => write_items(out, state, ["[", "]"], value, depth)?,
            "tuple" if value.len() == Some(1) => write_items(out, state, ["(", ",)"], value, depth)?,
            "tuple" => write_items(out, state, ["(", ")"], value, depth)?,
            "dict" => write_dict(out, state, value, depth)?,
            "range" => write_range(out, value),
            "bytes" => write_bytes(out, value),
            "dict_items" | "dict_keys" | "dict_values" => write_view(out, state, value, depth)?,
            "LoopContext" | "Macro" => write_own(out, value, kind)?,
            "Namespace" => write_namespace(out, state, value, depth)?,
            _ => return Err(error(format!("printing a {kind} gives an address in Jinja, and nothing here"))),
        },
    }
    limits::grown(state, before, out.len())
}

fn write_items(
    out: &mut String,
    state: &State<'_, '_>,
    [open, close]: [&str; 2],
    value: &Value,
    depth: usize,
) -> Result<(), Error> {
    out.push_str(open);
    for (index, item) in value.try_iter()?.enumerate() {
        out.push_str(if index > 0 { ", " } else { "" });
        write_repr(out, state, &item, depth + 1)?;
    }
    out.push_str(close);
    Ok(())
}

fn write_dict(out: &mut String, state: &State<'_, '_>, value: &Value, depth: usize) -> Result<(), Error> {
    out.push('{');
    for (index, key) in value.try_iter()?.enumerate() {
        out.push_str(if index > 0 { ", " } else { "" });
        write_repr(out, state, &key, depth + 1)?;
        out.push_str(": ");
        write_repr(out, state, &value.get_item(&key)?, depth + 1)?;
    }
    out.push('}');
    Ok(())
}

fn write_view(out: &mut String, state: &State<'_, '_>, value: &Value, depth: usize) -> Result<(), Error> {
    if let Some(view) = value.downcast_object_ref::<View>() {
        out.push_str(view.name);
        out.push('(');
        write_items(out, state, ["[", "]"], &Value::from(view.items.clone()), depth)?;
        out.push(')');
    }
    Ok(())
}

fn write_range(out: &mut String, value: &Value) {
    if let Some(Range { start, stop, step, .. }) = value.downcast_object_ref::<Range>() {
        // Writing to a string cannot fail.
        let _ = match step {
            1 => write!(out, "range({start}, {stop})"),
            _ => write!(out, "range({start}, {stop}, {step})"),
        };
    }
}

fn write_own(out: &mut String, value: &Value, kind: &str) -> Result<(), Error> {
    let _ = match kind {
        "Macro" => write!(out, "<Macro '{}'>", value.get_attr("name")?),
        _ => write!(out, "<LoopContext {}/{}>", value.get_attr("index")?, value.get_attr("length")?),
    };
    Ok(())
}

/// The engine's namespaces forget the order of their names.
fn write_namespace(out: &mut String, state: &State<'_, '_>, value: &Value, depth: usize) -> Result<(), Error> {
    let names: Vec<Value> = value.try_iter()?.filter(|name| name.as_str() != Some(values::IDENTITY)).collect();
    if names.len() > 1 {
        return Err(error("printing a namespace with more than one name is not supported"));
    }
    let pairs: Result<Vec<_>, Error> =
        names.into_iter().map(|name| Ok((name.clone(), value.get_item(&name)?))).collect();
    out.push_str("<Namespace ");
    write_dict(out, state, &Value::from_pairs(pairs?), depth)?;
    out.push('>');
    Ok(())
}

/// `repr` of a text.
pub(super) fn write_text(out: &mut String, text: &str) {
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
            c => write_number(out, c),
        }
    }
    out.push(quote);
}

/// A character by its number, as `repr` and `ascii` write it.
pub(super) fn write_number(out: &mut String, c: char) {
    let code = u32::from(c);
    // Writing to a string cannot fail.
    let _ = match code {
        0..=0xFF => write!(out, "\\x{code:02x}"),
        0x100..=0xFFFF => write!(out, "\\u{code:04x}"),
        _ => write!(out, "\\U{code:08x}"),
    };
}

fn write_bytes(out: &mut String, value: &Value) {
    let bytes = value.downcast_object_ref::<Bytes>().map_or(&[][..], |bytes| &bytes.0);
    let quote = if bytes.contains(&b'\'') && !bytes.contains(&b'"') { '"' } else { '\'' };
    out.extend(['b', quote]);
    for byte in bytes {
        match byte {
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            b'\\' => out.push_str("\\\\"),
            byte if char::from(*byte) == quote => out.extend(['\\', quote]),
            0x20..=0x7e => out.push(char::from(*byte)),
            byte => {
                let _ = write!(out, "\\x{byte:02x}");
            }
        }
    }
    out.push(quote);
}

/// Python's `str.isprintable`, which is what Rust's debug output goes by, except that private-use characters count:
/// they stand for others while a prompt is built (see [`crate::model::tokenizer::prompt`]).
pub(super) fn is_printable(c: char) -> bool {
    let private = matches!(u32::from(c), 0xE000..=0xF8FF | 0xF_0000..);
    // After a letter, so that a combining character isn't escaped for want of one.
    private || matches!(c, '\'' | '"') || format!("a{c}").escape_debug().count() == 2
}

/// What a value is to a filter that takes texts: `soft_str`.
pub(super) fn text(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    match value.as_str() {
        Some(text) => {
            limits::bytes(state, text.len())?;
            Ok(text.to_owned())
        }
        None => str_of(state, value),
    }
}

/// Whether Python takes a value for true.
pub(super) fn is_true(value: &Value) -> bool {
    matches!(values::type_name(value), "Namespace") || value.is_true()
}
