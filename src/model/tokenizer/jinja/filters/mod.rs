//! Jinja's filters.

mod html;
mod layout;
mod numeric;
mod select;
mod sequences;
mod texts;

use std::cmp::Ordering;

use minijinja::value::Value;
use minijinja::{Error, State};

pub(super) use html::escaped;

use super::strings::integer;
use super::{Function, access, error, limits, values};

pub(super) const ALL: [&[(&str, Function)]; 6] =
    [texts::FILTERS, layout::FILTERS, html::FILTERS, numeric::FILTERS, sequences::FILTERS, select::FILTERS];

/// What an `attribute` argument names of an item: `a.b.0`, or an index.
struct Attribute {
    parts: Vec<Value>,
    default: Option<Value>,
}

impl Attribute {
    fn new(attribute: Option<Value>, default: Option<Value>) -> Self {
        let attribute = attribute.filter(|attribute| !attribute.is_none());
        let parts = match attribute.as_ref().and_then(Value::as_str) {
            Some(path) => path.split('.').map(part).collect(),
            None => attribute.into_iter().collect(),
        };
        Attribute { parts, default: default.filter(|default| !default.is_none()) }
    }

    fn of(&self, state: &State<'_, '_>, item: &Value) -> Result<Value, Error> {
        let mut found = item.clone();
        for part in &self.parts {
            found = access::get_item(state, &found, part)?;
            if let (true, Some(default)) = (found.is_undefined(), &self.default) {
                found = default.clone();
            }
        }
        Ok(found)
    }
}

fn part(text: &str) -> Value {
    let is_index = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse::<i64>().ok().filter(|_| is_index).map_or_else(|| Value::from(text), Value::from)
}

/// A text in lower case, and whatever else as it is.
fn without_case(value: Value) -> Value {
    match value.as_str() {
        Some(text) => Value::from(text.to_lowercase()),
        None => value,
    }
}

/// Sorts as Python's `sorted` does, by the key of each.
pub(super) fn sort<T>(
    state: &State<'_, '_>,
    items: &mut Vec<T>,
    key: impl Fn(&T) -> Result<Value, Error>,
    reverse: bool,
) -> Result<(), Error> {
    let mut keyed = Vec::with_capacity(items.len());
    for item in items.drain(..) {
        keyed.push((key(&item)?, item));
    }
    // Python keeps the order of equal items when it sorts in reverse, too.
    let mut failure = None;
    keyed.sort_by(|(a, _), (b, _)| {
        let order = if failure.is_some() { Ok(None) } else { values::order(state, a, b, 0) };
        let order = order.unwrap_or_else(|e| {
            failure = Some(e);
            None
        });
        let order = order.unwrap_or(Ordering::Equal);
        if reverse { order.reverse() } else { order }
    });
    items.extend(keyed.into_iter().map(|(_, item)| item));
    failure.map_or(Ok(()), Err)
}

/// Whether an argument is given and true.
fn flag(value: Option<Value>) -> bool {
    value.is_some_and(|value| value.is_true())
}

/// The argument `reverse` of Python's `sorted`, which takes numbers alone.
fn backwards(value: Option<Value>) -> Result<bool, Error> {
    Ok(match value {
        Some(value) => integer("sort", &value)? != 0,
        None => false,
    })
}

/// The number of items of a value.
fn length(state: &State<'_, '_>, value: &Value) -> Result<usize, Error> {
    if let Some(text) = value.as_str() {
        limits::bytes(state, text.len())?;
        return Ok(text.chars().count());
    }
    match values::type_name(value) {
        "Undefined" => Ok(0),
        "list" | "tuple" | "dict" | "range" | "bytes" | "dict_items" | "dict_keys" | "dict_values" | "LoopContext" => {
            value.len().ok_or_else(|| error("the value has no length"))
        }
        kind => Err(error(format!("object of type '{kind}' has no len()"))),
    }
}
