//! Jinja's global functions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use minijinja::value::{Enumerator, Object, ObjectRepr, Value, ValueOrKwargs};
use minijinja::{Error, ErrorKind, State};

use super::strings::integer;
use super::values::{self, Range, type_name};
use super::{Function, arguments, containers, error, limits};

/// As many as Jinja's sandbox allows.
const MAX_RANGE: usize = 100_000;

pub(super) const ALL: &[(&str, Function)] = &[
    ("cycler", cycler),
    ("dict", dict),
    ("joiner", joiner),
    ("lipsum", |_, _| Err(error("`lipsum` has no place in a prompt: it would be another text each time"))),
    ("namespace", namespace),
    ("range", range),
];

/// `dict(mapping or pairs, **more)` as pairs.
fn pairs_of(state: &State<'_, '_>, function: &str, args: &[Value]) -> Result<Vec<(Value, Value)>, Error> {
    let (positional, named) = arguments::split(args);
    let mut pairs = match positional {
        [] => Vec::new(),
        [value] if values::is_dict(value) => containers::pairs(state, value)?,
        [value] if value.is_undefined() => Vec::new(),
        [value] => {
            let mut pairs = Vec::new();
            for item in values::iterate(state, value)? {
                let [key, value] = &values::iterate(state, &item)?[..] else {
                    return Err(error(format!("{function}: every item has to have length 2")));
                };
                values::hashable(key)?;
                pairs.push((key.clone(), value.clone()));
            }
            pairs
        }
        more => return Err(error(format!("{function} expected at most 1 argument, got {}", more.len()))),
    };
    pairs.extend(named.into_iter().map(|(name, value)| (Value::from(name), value)));
    Ok(pairs)
}

fn dict(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let value = Value::from_pairs(pairs_of(state, "dict", args)?);
    limits::check(state, &value)?;
    Ok(value)
}

fn namespace(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let pairs = pairs_of(state, "namespace", args)?;
    if let Some((key, _)) = pairs.iter().find(|(key, _)| key.as_str().is_none()) {
        return Err(error(format!("namespace: a name has to be a str, not {}", type_name(key))));
    }
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let identity = (Value::from(values::IDENTITY), Value::from(NEXT.fetch_add(1, Ordering::Relaxed)));
    let value = Value::from_pairs(pairs.into_iter().chain([identity]));
    limits::check(state, &value)?;
    limits::check_within_namespaces(state, &value, 1)?;
    minijinja::functions::namespace(Some(ValueOrKwargs::from(value)))
}

fn range(_: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [first, second, step] = arguments::bind("range", ["*start", "*stop", "*step"], 1, args)?;
    let bound = |value: Option<Value>| value.map(|value| integer("range", &value)).transpose();
    let (first, second, step) = (bound(first)?.unwrap_or(0), bound(second)?, bound(step)?.unwrap_or(1));
    let (start, stop) = second.map_or((0, first), |stop| (first, stop));
    let span = if step > 0 { i128::from(stop) - i128::from(start) } else { i128::from(start) - i128::from(stop) };
    let length = match i128::from(step.unsigned_abs()) {
        0 => return Err(error("range() arg 3 must not be zero")),
        step => (span.max(0) + step - 1) / step,
    };
    match usize::try_from(length) {
        Ok(length) if length <= MAX_RANGE => Ok(Value::from_object(Range { start, step, length, stop })),
        _ => Err(error(format!("range too big: more than {MAX_RANGE} items"))),
    }
}

/// Goes round its items.
#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    at: AtomicUsize,
}

impl Cycler {
    fn current(&self) -> Value {
        self.items.get(self.at.load(Ordering::Relaxed)).cloned().unwrap_or_default()
    }
}

fn cycler(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let (items, named) = arguments::split(args);
    if items.is_empty() || !named.is_empty() {
        return Err(error("cycler needs at least one item, and none by name"));
    }
    limits::check(state, &values::tuple(items.to_vec()))?;
    Ok(Value::from_object(Cycler { items: items.to_vec(), at: AtomicUsize::new(0) }))
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Str(&["items"])
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str()? {
            "current" => Some(self.current()),
            "items" => Some(values::tuple(self.items.clone())),
            "pos" => Some(Value::from(self.at.load(Ordering::Relaxed))),
            _ => None,
        }
    }

    fn call_method(self: &Arc<Self>, _: &mut State<'_, '_>, name: &str, args: &[Value]) -> Result<Value, Error> {
        arguments::none(name, args)?;
        match name {
            "next" => {
                let current = self.current();
                let next = (self.at.load(Ordering::Relaxed) + 1) % self.items.len();
                self.at.store(next, Ordering::Relaxed);
                Ok(current)
            }
            "reset" => {
                self.at.store(0, Ordering::Relaxed);
                Ok(Value::from(()))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}

/// Gives its separator at each call but the first.
#[derive(Debug)]
struct Joiner {
    separator: Value,
    used: AtomicBool,
}

fn joiner(_: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [separator] = arguments::bind("joiner", ["sep"], 0, args)?;
    let separator = separator.unwrap_or_else(|| Value::from(", "));
    if separator.as_str().is_none() {
        return Err(error("joiner: the separator has to be a str"));
    }
    Ok(Value::from_object(Joiner { separator, used: AtomicBool::new(false) }))
}

impl Object for Joiner {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        arguments::none("joiner", args)?;
        let used = self.used.swap(true, Ordering::Relaxed);
        Ok(if used { self.separator.clone() } else { Value::from("") })
    }
}
