//! Methods of Python's list, tuple, dict and range. Those that change a value in place are refused, as in Jinja's
//! sandbox.

use minijinja::value::Value;
use minijinja::{Error, State};

use super::strings::integer;
use super::values::{self, View, type_name};
use super::{arguments, error};

pub(super) fn call(state: &mut State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    match (type_name(value), name) {
        ("list", "copy") => {
            arguments::none(name, args)?;
            Ok(Value::from(values::iterate(state, value)?))
        }
        ("list" | "tuple" | "range", "count") => {
            let [item] = arguments::bind(name, ["*value"], 1, args)?;
            let item = item.unwrap_or_default();
            let mut count = 0;
            for found in values::iterate(state, value)? {
                count += usize::from(values::equal(state, &found, &item, 0)?);
            }
            Ok(Value::from(count))
        }
        ("list" | "tuple" | "range", "index") => index(state, value, args),
        ("dict", _) => dict(state, value, name, args),
        (kind, _) => Err(error(format!("the method `{name}` of {kind} is not supported"))),
    }
}

fn index(state: &State<'_, '_>, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let [item, start, stop] = arguments::bind("index", ["*value", "*start", "*stop"], 1, args)?;
    let item = item.unwrap_or_default();
    let items = values::iterate(state, value)?;
    let place = |bound: Option<Value>, missing: usize| -> Result<usize, Error> {
        let Some(bound) = bound else { return Ok(missing) };
        let bound = integer("index", &bound)?;
        let bound = if bound < 0 { bound.saturating_add(items.len() as i64) } else { bound };
        Ok(usize::try_from(bound).unwrap_or(0).min(items.len()))
    };
    let (start, stop) = (place(start, 0)?, place(stop, items.len())?);
    for (at, found) in items.iter().enumerate().take(stop).skip(start) {
        if values::equal(state, found, &item, 0)? {
            return Ok(Value::from(at));
        }
    }
    Err(error("the value is not in the list"))
}

fn dict(state: &State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    match name {
        "items" | "keys" | "values" => {
            arguments::none(name, args)?;
            view(state, value, name)
        }
        "get" => {
            let [key, default] = arguments::bind(name, ["*key", "*default"], 1, args)?;
            let key = key.unwrap_or_default();
            values::hashable(&key)?;
            Ok(values::lookup(value, &key).unwrap_or_else(|| default.unwrap_or(Value::from(()))))
        }
        "copy" => {
            arguments::none(name, args)?;
            Ok(Value::from_pairs(pairs(state, value)?))
        }
        "fromkeys" => {
            let [keys, item] = arguments::bind(name, ["*iterable", "*value"], 1, args)?;
            let item = item.unwrap_or(Value::from(()));
            let keys = values::iterate(state, &keys.unwrap_or_default())?;
            keys.iter().try_for_each(values::hashable)?;
            Ok(Value::from_pairs(keys.into_iter().map(|key| (key, item.clone()))))
        }
        _ => Err(error(format!("the method `{name}` of dict is not supported"))),
    }
}

/// Keys and values of a dict.
pub(super) fn pairs(state: &State<'_, '_>, value: &Value) -> Result<Vec<(Value, Value)>, Error> {
    let keys = values::iterate(state, value)?;
    keys.into_iter().map(|key| Ok((key.clone(), value.get_item(&key)?))).collect()
}

fn view(state: &State<'_, '_>, value: &Value, name: &str) -> Result<Value, Error> {
    let pairs = pairs(state, value)?.into_iter();
    let (name, items) = match name {
        "items" => ("dict_items", pairs.map(|(key, item)| values::tuple(vec![key, item])).collect()),
        "keys" => ("dict_keys", pairs.map(|(key, _)| key).collect()),
        _ => ("dict_values", pairs.map(|(_, item)| item).collect()),
    };
    Ok(Value::from_object(View { name, items }))
}
