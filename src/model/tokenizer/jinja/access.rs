//! Attributes, subscripts, slices and method calls, as a sandboxed Jinja answers them.
//!
//! `a.b` is Python's attribute first and the item `"b"` second; `a["b"]` the other way round. So `schema.items` is a
//! method of the dict, whatever keys it has, and `schema["items"]` is one where the key is missing.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

use super::values::{self, Bound, Bytes, Number, Range, View, number, type_name};
use super::{Function, containers, error, limits, names, numbers, strings};

pub(super) const FILTERS: &[(&str, Function)] =
    &[(names::ATTRIBUTE, attribute), (names::ITEM, item), (names::SLICE, slice), (names::METHOD, method)];

const STR: &[&str] = &[
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];
const LIST: &[&str] =
    &["append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse", "sort"];
const TUPLE: &[&str] = &["count", "index"];
const DICT: &[&str] =
    &["clear", "copy", "fromkeys", "get", "items", "keys", "pop", "popitem", "setdefault", "update", "values"];
const INT: &[&str] = &[
    "as_integer_ratio",
    "bit_count",
    "bit_length",
    "conjugate",
    "denominator",
    "from_bytes",
    "imag",
    "numerator",
    "real",
    "to_bytes",
];
const FLOAT: &[&str] = &["as_integer_ratio", "conjugate", "fromhex", "hex", "imag", "is_integer", "real"];
const RANGE: &[&str] = &["count", "index", "start", "stop", "step"];
const BYTES: &[&str] = &["decode", "hex"];

/// What changes a value in place: a sandbox refuses it.
const CHANGES_LIST: &[&str] = &["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"];
const CHANGES_DICT: &[&str] = &["clear", "pop", "popitem", "setdefault", "update"];

/// Whether a value of some type has an attribute of that name.
pub(super) fn is_python_attribute(name: &str) -> bool {
    name.starts_with("__") || [STR, LIST, DICT, INT, FLOAT, RANGE, BYTES].iter().any(|names| names.contains(&name))
}

/// The attributes of a value of Python's own types.
fn attributes(value: &Value) -> &'static [&'static str] {
    match type_name(value) {
        "str" | "Markup" => STR,
        "list" => LIST,
        "tuple" => TUPLE,
        "dict" => DICT,
        "int" | "bool" => INT,
        "float" => FLOAT,
        "range" => RANGE,
        "bytes" => BYTES,
        _ => &[],
    }
}

fn is_unsafe(value: &Value, name: &str) -> bool {
    match type_name(value) {
        "list" => CHANGES_LIST.contains(&name),
        "dict" => CHANGES_DICT.contains(&name),
        _ => false,
    }
}

/// An attribute of Python's inner workings: a sandbox takes it for one that isn't there.
fn is_inner(name: &str) -> bool {
    name.starts_with("__") && name.ends_with("__") && name.len() > 4
}

/// The attribute that Python has; `None` where it has none.
fn python_attribute(value: &Value, name: &str) -> Result<Option<Value>, Error> {
    if !attributes(value).contains(&name) {
        return Ok(None);
    }
    if is_unsafe(value, name) {
        return Ok(Some(Value::UNDEFINED));
    }
    if let Some(range) = value.downcast_object_ref::<Range>() {
        match name {
            "start" => return Ok(Some(Value::from(range.start))),
            "stop" => return Ok(Some(Value::from(range.stop))),
            "step" => return Ok(Some(Value::from(range.step))),
            _ => {}
        }
    }
    match (name, number(value)) {
        ("real" | "numerator", Some(Number::Int(whole))) => Ok(Some(values::integer(whole))),
        ("real", Some(Number::Float(_))) => Ok(Some(value.clone())),
        ("imag", Some(Number::Int(_))) => Ok(Some(Value::from(0))),
        ("imag", Some(Number::Float(_))) => Ok(Some(Value::from(0.0))),
        ("denominator", Some(_)) => Ok(Some(Value::from(1))),
        _ => Ok(Some(Value::from_object(Bound { object: value.clone(), name: name.to_owned() }))),
    }
}

/// `value.name`.
fn attribute(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [value, name] = args else { return Err(error("an attribute's name is missing")) };
    get_attribute(state, value, name.as_str().unwrap_or_default())
}

fn get_attribute(_: &State<'_, '_>, value: &Value, name: &str) -> Result<Value, Error> {
    if is_inner(name) {
        return Ok(Value::UNDEFINED);
    }
    values::undefined(value, &format!("attribute `{name}`"))?;
    if let Some(found) = python_attribute(value, name)? {
        return Ok(found);
    }
    Ok(own_item(value, &Value::from(name)).unwrap_or_default())
}

/// Python's `getattr` alone, as the filter `attr` has it.
pub(super) fn attribute_only(value: &Value, name: &str) -> Result<Value, Error> {
    if is_inner(name) {
        return Ok(Value::UNDEFINED);
    }
    values::undefined(value, &format!("attribute `{name}`"))?;
    match python_attribute(value, name)? {
        Some(found) => Ok(found),
        None if values::is_dict(value) || attributes(value) != [""; 0] => Ok(Value::UNDEFINED),
        None => Ok(own_item(value, &Value::from(name)).unwrap_or_default()),
    }
}

/// What a dict has under a key, or an object of the engine's under a name.
fn own_item(value: &Value, key: &Value) -> Option<Value> {
    match type_name(value) {
        "dict" => values::lookup(value, key),
        "Namespace" | "Macro" | "LoopContext" | "Cycler" | "object" => value.as_object()?.get_value(key),
        _ => None,
    }
}

/// `value[key]`.
fn item(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [value, key] = args else { return Err(error("a subscript is missing")) };
    get_item(state, value, key)
}

pub(super) fn get_item(state: &State<'_, '_>, value: &Value, key: &Value) -> Result<Value, Error> {
    values::undefined(value, "an item")?;
    let found = match type_name(value) {
        "str" | "Markup" | "list" | "tuple" | "range" | "bytes" => match number(key) {
            Some(Number::Int(index)) => at(state, value, index)?,
            _ => None,
        },
        _ => {
            if let Some(text) = key.as_str() {
                limits::bytes(state, text.len())?;
            }
            own_item(value, key)
        }
    };
    match (found, key.as_str()) {
        (Some(found), _) => Ok(found),
        (None, Some(name)) => Ok(python_attribute(value, name)?.unwrap_or_default()),
        (None, None) => Ok(Value::UNDEFINED),
    }
}

/// The item at an index, which counts from the end where it is negative.
fn at(state: &State<'_, '_>, value: &Value, index: i128) -> Result<Option<Value>, Error> {
    let length = match value.as_str() {
        Some(text) => {
            limits::bytes(state, text.len())?;
            text.chars().count()
        }
        None => value.len().unwrap_or(0),
    };
    let index = if index < 0 { index + length as i128 } else { index };
    let Some(index) = usize::try_from(index).ok().filter(|index| *index < length) else { return Ok(None) };
    Ok(match value.as_str() {
        Some(text) => text.chars().nth(index).map(Value::from),
        None => value.as_object().and_then(|object| object.get_value(&Value::from(index))),
    })
}

/// `value[start:stop:step]`.
fn slice(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let Some((value, bounds)) = args.split_first() else { return Err(error("a slice is missing")) };
    values::undefined(value, "a slice")?;
    let kind = type_name(value);
    if !matches!(kind, "str" | "Markup" | "list" | "tuple" | "range") {
        return Err(error(match kind {
            "bytes" => "slices of bytes are not supported".to_owned(),
            "dict" => "unhashable type: 'slice'".to_owned(),
            _ => format!("'{kind}' object is not subscriptable"),
        }));
    }
    let mut numbers = [None; 3];
    for (slot, bound) in numbers.iter_mut().zip(bounds) {
        *slot = match number(bound) {
            Some(Number::Int(value)) => Some(value),
            _ if bound.is_none() => None,
            _ => return Err(error("slice indices must be integers or None")),
        };
    }
    if numbers[2] == Some(0) {
        return Err(error("slice step cannot be zero"));
    }
    let items = values::iterate(state, value)?;
    let (start, stop, step) = slice_bounds(numbers, items.len());
    let indices = steps(start, stop, step);
    if let Some(range) = value.downcast_object_ref::<Range>() {
        let place = |index: i128| range.start.saturating_add(range.step.saturating_mul(index as i64));
        let step = range.step.saturating_mul(step as i64);
        let (start, stop) = (place(start), place(stop));
        return Ok(Value::from_object(Range { start, step, length: indices.len(), stop }));
    }
    let items = indices.into_iter().map(|index| items[index].clone());
    match kind {
        "tuple" => Ok(values::tuple(items.collect())),
        "list" => Ok(Value::from(items.collect::<Vec<_>>())),
        _ => Ok(Value::from(items.filter_map(|item| item.as_str().map(str::to_owned)).collect::<String>())),
    }
}

/// First index, end and step of a slice, as CPython's `PySlice_AdjustIndices` works them out.
fn slice_bounds([start, stop, step]: [Option<i128>; 3], length: usize) -> (i128, i128, i128) {
    let (length, step) = (length as i128, step.unwrap_or(1));
    let adjust = |bound: Option<i128>, missing: i128| match bound {
        None => missing,
        Some(bound) => {
            let bound = if bound < 0 { bound.saturating_add(length) } else { bound };
            if step > 0 { bound.clamp(0, length) } else { bound.clamp(-1, length - 1) }
        }
    };
    let (first, end) = if step > 0 { (0, length) } else { (length - 1, -1) };
    (adjust(start, first), adjust(stop, end), step)
}

fn steps(mut at: i128, end: i128, step: i128) -> Vec<usize> {
    let mut indices = Vec::new();
    while (step > 0 && at < end) || (step < 0 && at > end) {
        indices.extend(usize::try_from(at));
        at = at.saturating_add(step);
    }
    indices
}

/// `value.name(arguments)`.
fn method(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [value, name, args @ ..] = args else { return Err(error("a method's name is missing")) };
    let name = name.as_str().unwrap_or_default();
    values::undefined(value, &format!("method `{name}`"))?;
    if is_unsafe(value, name) {
        let message = format!("access to attribute '{name}' of '{}' object is unsafe", type_name(value));
        return Err(error(message));
    }
    if attributes(value).contains(&name) {
        return call_python(state, value, name, args);
    }
    if !is_python_type(value) {
        match value.call_method(state, name, args) {
            Err(e) if e.kind() == ErrorKind::UnknownMethod => {}
            done => return done,
        }
    }
    match own_item(value, &Value::from(name)) {
        Some(found) if !is_inner(name) => found.call(state, args),
        _ => Err(error(format!("'{} object' has no attribute '{name}'", type_name(value)))),
    }
}

fn is_python_type(value: &Value) -> bool {
    value.as_object().is_none()
        || value.downcast_object_ref::<View>().is_some()
        || matches!(type_name(value), "list" | "tuple" | "dict" | "range" | "generator" | "bytes")
}

/// A method of one of Python's own types.
pub(super) fn call_python(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::String if value.is_safe() => {
            Err(error(format!("`{name}` of text that is marked as safe or escaped is not supported")))
        }
        ValueKind::String => strings::call(state, value.as_str().unwrap_or_default(), name, args),
        ValueKind::Bool | ValueKind::Number => numbers::call(value, name, args),
        _ if value.downcast_object_ref::<Bytes>().is_some() => strings::call_bytes(value, name, args),
        _ => containers::call(state, value, name, args),
    }
}

/// Methods that the engine asks for on its own.
pub(super) fn unknown_method(_: &mut State<'_, '_>, value: &Value, name: &str, _: &[Value]) -> Result<Value, Error> {
    let message = format!("'{} object' has no attribute '{name}'", type_name(value));
    Err(Error::new(ErrorKind::UnknownMethod, message))
}
