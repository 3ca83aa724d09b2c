//! Python's values, as the engine holds them: which type one is, what it is equal to, less than, and made of.
//!
//! Strings, numbers, lists, tuples and dicts are the engine's own. What it has no type of is an object here: generators,
//! the views of a dict, ranges and bound methods.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::value::{Enumerator, Object, ObjectRepr, Tuple, Value, ValueKind};
use minijinja::{Error, State};

use super::{error, limits};

/// What `map`, `select` and their like give: items that can be taken once.
#[derive(Debug)]
pub(super) struct Generator(Mutex<VecDeque<Value>>);

impl Generator {
    pub(super) fn of(items: Vec<Value>) -> Value {
        Value::from_object(Generator(Mutex::new(items.into())))
    }

    pub(super) fn take(&self) -> Option<Value> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn take_all(&self) -> Vec<Value> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }

    fn copy(&self) -> Vec<Value> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

impl Object for Generator {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Iter(Box::new(self.take_all().into_iter()))
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        None
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }
}

/// `dict.items()`, `keys()` or `values()`.
#[derive(Debug)]
pub(super) struct View {
    pub(super) name: &'static str,
    pub(super) items: Vec<Value>,
}

impl Object for View {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Iter(Box::new(self.items.clone().into_iter()))
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.items.len())
    }
}

/// `range(start, stop, step)`.
#[derive(Debug)]
pub(super) struct Range {
    pub(super) start: i64,
    pub(super) step: i64,
    pub(super) length: usize,
    /// As it is printed.
    pub(super) stop: i64,
}

impl Range {
    pub(super) fn get(&self, index: usize) -> Option<i64> {
        (index < self.length).then(|| self.start + self.step * index as i64)
    }
}

impl Object for Range {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get(key.as_usize()?).map(Value::from)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.length)
    }
}

/// Python's `bytes`. The engine's own pass for texts.
#[derive(Debug)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl Object for Bytes {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_usize()?).copied().map(Value::from)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.0.len())
    }
}

/// A method that isn't called yet.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) object: Value,
    pub(super) name: String,
}

impl Object for Bound {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        super::access::call_python(state, &self.object, &self.name, args)
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<method {}>", self.name)
    }
}

/// The name of a value's type, as Python's errors have it.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::Undefined => "Undefined",
        ValueKind::None => "NoneType",
        ValueKind::Bool => "bool",
        ValueKind::Number if value.is_integer() => "int",
        ValueKind::Number => "float",
        ValueKind::String if value.is_safe() => "Markup",
        ValueKind::String => "str",
        _ if value.is_tuple() => "tuple",
        _ => object_type(value),
    }
}

fn object_type(value: &Value) -> &'static str {
    let Some(object) = value.as_object() else { return "object" };
    if let Some(view) = value.downcast_object_ref::<View>() {
        return view.name;
    }
    let name = object.type_name();
    let name = name.split('<').next().unwrap_or(name);
    match name.rsplit("::").next().unwrap_or(name) {
        "Namespace" => "Namespace",
        "Generator" => "generator",
        "Range" => "range",
        "Bytes" => "bytes",
        "GroupTuple" => "tuple",
        "Bound" | "BoxedFunction" => "function",
        "Macro" | "MacroObject" => "Macro",
        "Loop" => "LoopContext",
        "Cycler" => "Cycler",
        "Joiner" => "Joiner",
        _ => match object.repr() {
            ObjectRepr::Map => "dict",
            ObjectRepr::Seq | ObjectRepr::Iterable => "list",
            _ => "object",
        },
    }
}

pub(super) fn is_namespace(value: &Value) -> bool {
    value.as_object().is_some() && type_name(value) == "Namespace"
}

pub(super) fn is_dict(value: &Value) -> bool {
    value.kind() == ValueKind::Map && type_name(value) == "dict"
}

pub(super) fn is_callable(value: &Value) -> bool {
    matches!(type_name(value), "function" | "Macro" | "LoopContext" | "Joiner")
}

pub(super) fn is_float(value: &Value) -> bool {
    value.kind() == ValueKind::Number && !value.is_integer()
}

/// A number, or a bool, which is one in Python.
#[derive(Debug, Clone, Copy)]
pub(super) enum Number {
    Int(i128),
    Float(f64),
}

pub(super) fn number(value: &Value) -> Option<Number> {
    match value.kind() {
        ValueKind::Bool => Some(Number::Int(i128::from(value.is_true()))),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok().map(Number::Int),
        ValueKind::Number => f64::try_from(value.clone()).ok().map(Number::Float),
        _ => None,
    }
}

impl Number {
    pub(super) fn float(self) -> f64 {
        match self {
            Number::Int(value) => value as f64,
            Number::Float(value) => value,
        }
    }
}

pub(super) fn integer(value: i128) -> Value {
    i64::try_from(value).map_or_else(|_| Value::from(value), Value::from)
}

pub(super) fn undefined(value: &Value, what: &str) -> Result<(), Error> {
    if value.is_undefined() { Err(error(format!("{what} of a value that is undefined"))) } else { Ok(()) }
}

/// Whether two are one object, as far as the engine tells.
pub(super) fn is_same(a: &Value, b: &Value) -> Option<bool> {
    fn pointers<T: 'static>(a: &Value, b: &Value) -> Option<bool> {
        Some(Arc::ptr_eq(&a.downcast_object::<T>()?, &b.downcast_object::<T>()?))
    }
    if is_namespace(a) && is_namespace(b) {
        return Some(lookup(a, &Value::from(IDENTITY)) == lookup(b, &Value::from(IDENTITY)));
    }
    pointers::<Vec<Value>>(a, b).or_else(|| pointers::<Tuple>(a, b)).or_else(|| pointers::<Generator>(a, b))
}

/// The name under which a namespace has a number of its own. No template can spell it.
pub(super) const IDENTITY: &str = "\0identity";

/// Calls with each value that this one holds.
pub(super) fn each_child(value: &Value, f: &mut dyn FnMut(&Value) -> Result<(), Error>) -> Result<(), Error> {
    if value.as_object().is_none() || matches!(type_name(value), "range" | "bytes") {
        return Ok(());
    }
    if let Some(generator) = value.downcast_object_ref::<Generator>() {
        return generator.copy().iter().try_for_each(f);
    }
    if let Some(bound) = value.downcast_object_ref::<Bound>() {
        return f(&bound.object);
    }
    match value.kind() {
        ValueKind::Map if !is_callable(value) => {
            for key in value.try_iter()? {
                f(&value.get_item(&key)?)?;
                f(&key)?;
            }
            Ok(())
        }
        ValueKind::Seq | ValueKind::Iterable => value.try_iter()?.try_for_each(|item| f(&item)),
        _ => Ok(()),
    }
}

/// What a `for` loop, `list()` and their like go over. Undefined is empty, as in Jinja.
pub(super) fn iterate(state: &State<'_, '_>, value: &Value) -> Result<Vec<Value>, Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(Vec::new()),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            limits::items(state, Some(text.len()))?;
            Ok(text.chars().map(Value::from).collect())
        }
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map
            if !matches!(type_name(value), "Namespace" | "Macro" | "LoopContext" | "Cycler") =>
        {
            limits::items(state, Some(value.len().unwrap_or(0)))?;
            Ok(value.try_iter()?.collect())
        }
        _ => Err(error(format!("'{}' object is not iterable", type_name(value)))),
    }
}

/// Fails for what Python can't use as a key.
pub(super) fn hashable(value: &Value) -> Result<(), Error> {
    match type_name(value) {
        kind @ ("list" | "dict") => Err(error(format!("unhashable type: '{kind}'"))),
        "tuple" => value.try_iter()?.try_for_each(|item| hashable(&item)),
        _ => Ok(()),
    }
}

/// Python's `a == b`.
pub(super) fn equal(state: &State<'_, '_>, a: &Value, b: &Value, depth: usize) -> Result<bool, Error> {
    limits::visit(state, depth)?;
    if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) {
        limits::bytes(state, a.len().min(b.len()))?;
        return Ok(a == b);
    }
    if let (Some(a), Some(b)) = (number(a), number(b)) {
        return Ok(order_numbers(a, b) == Some(Ordering::Equal));
    }
    let kind = type_name(a);
    if is_same(a, b) == Some(true) {
        return Ok(true);
    }
    if kind != type_name(b) {
        return Ok(false);
    }
    match kind {
        "Undefined" | "NoneType" => Ok(true),
        "list" | "tuple" | "range" | "bytes" => {
            if a.len() != b.len() {
                return Ok(false);
            }
            for (a, b) in a.try_iter()?.zip(b.try_iter()?) {
                if !equal(state, &a, &b, depth + 1)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        "dict" => {
            if a.len() != b.len() {
                return Ok(false);
            }
            for key in a.try_iter()? {
                let (Some(left), Some(right)) = (lookup(a, &key), lookup(b, &key)) else { return Ok(false) };
                if !equal(state, &left, &right, depth + 1)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        "dict_keys" | "dict_items" => Err(error(format!("{kind} objects cannot be compared here; make lists of them"))),
        _ => Ok(false),
    }
}

/// What a dict has under a key.
pub(super) fn lookup(dict: &Value, key: &Value) -> Option<Value> {
    let found = |key: &Value| dict.as_object()?.get_value(key);
    // A bool, a float and an integer are one key where they are equal.
    match number(key) {
        Some(Number::Float(value)) if value.fract() == 0.0 && value.abs() < 1e15 => {
            found(key).or_else(|| found(&Value::from(value as i64))).or_else(|| found(&Value::from(value == 1.0)))
        }
        Some(Number::Int(value)) => found(key)
            .or_else(|| found(&integer(value)))
            .or_else(|| found(&Value::from(value as f64)))
            .or_else(|| if matches!(value, 0 | 1) { found(&Value::from(value == 1)) } else { None }),
        _ => found(key),
    }
}

fn order_numbers(a: Number, b: Number) -> Option<Ordering> {
    match (a, b) {
        (Number::Int(a), Number::Int(b)) => Some(a.cmp(&b)),
        (Number::Int(a), Number::Float(b)) => order_numbers(Number::Float(b), Number::Int(a)).map(Ordering::reverse),
        (Number::Float(a), Number::Int(b)) => match a.partial_cmp(&(b as f64))? {
            // The integer may have been rounded.
            Ordering::Equal if a.abs() < 1e38 => Some((a as i128).cmp(&b)),
            order => Some(order),
        },
        (Number::Float(a), Number::Float(b)) => a.partial_cmp(&b),
    }
}

/// Python's `<`, `==` or `>` of two values that have an order; `None` for a number that isn't one.
pub(super) fn order(state: &State<'_, '_>, a: &Value, b: &Value, depth: usize) -> Result<Option<Ordering>, Error> {
    limits::visit(state, depth)?;
    undefined(a, "comparison")?;
    undefined(b, "comparison")?;
    if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) {
        limits::bytes(state, a.len().min(b.len()))?;
        return Ok(Some(a.cmp(b)));
    }
    if let (Some(a), Some(b)) = (number(a), number(b)) {
        return Ok(order_numbers(a, b));
    }
    let (left, right) = (type_name(a), type_name(b));
    if left != right || !matches!(left, "list" | "tuple") {
        return Err(error(format!("'<' not supported between instances of '{left}' and '{right}'")));
    }
    for (a, b) in a.try_iter()?.zip(b.try_iter()?) {
        if !equal(state, &a, &b, depth + 1)? {
            return order(state, &a, &b, depth + 1);
        }
    }
    Ok(Some(a.len().cmp(&b.len())))
}

pub(super) fn tuple(items: Vec<Value>) -> Value {
    Value::from(Tuple::from(items))
}
