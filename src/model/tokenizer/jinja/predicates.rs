//! Jinja's tests, as in `x is iterable`.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, State};

use super::values::{self, Number, is_float, number, type_name};
use super::{arguments, error, macros, names, numbers, operators};

type Test = fn(&mut State<'_, '_>, &[Value]) -> Result<bool, Error>;

pub(super) const ALL: &[(&str, Test)] = &[
    ("boolean", |_, args| kind(args, |value| value.kind() == ValueKind::Bool)),
    // Python can call what is undefined, to say that it is.
    ("callable", |_, args| kind(args, |value| value.is_undefined() || values::is_callable(value))),
    ("defined", |_, args| kind(args, |value| !value.is_undefined())),
    ("divisibleby", divisible),
    ("escaped", |_, args| kind(args, Value::is_safe)),
    ("even", |state, args| remains(state, args, 0)),
    ("false", |_, args| kind(args, |value| value.kind() == ValueKind::Bool && !value.is_true())),
    ("filter", |state, args| known(state, args, true)),
    ("float", |_, args| kind(args, is_float)),
    ("integer", |_, args| kind(args, Value::is_integer)),
    ("iterable", |_, args| kind(args, is_iterable)),
    ("lower", |state, args| cased(state, args, "lower")),
    ("mapping", |_, args| kind(args, values::is_dict)),
    ("none", |_, args| kind(args, Value::is_none)),
    ("number", |_, args| kind(args, |value| number(value).is_some())),
    ("odd", |state, args| remains(state, args, 1)),
    ("sameas", same),
    ("sequence", |_, args| kind(args, is_sequence)),
    ("string", |_, args| kind(args, |value| value.as_str().is_some())),
    ("test", |state, args| known(state, args, false)),
    ("true", |_, args| kind(args, |value| value.kind() == ValueKind::Bool && value.is_true())),
    ("undefined", |_, args| kind(args, Value::is_undefined)),
    ("upper", |state, args| cased(state, args, "upper")),
    ("in", |state, args| compared(state, "in", args)),
    ("==", |state, args| compared(state, "==", args)),
    ("eq", |state, args| compared(state, "==", args)),
    ("equalto", |state, args| compared(state, "==", args)),
    ("!=", |state, args| compared(state, "!=", args)),
    ("ne", |state, args| compared(state, "!=", args)),
    (">", |state, args| compared(state, ">", args)),
    ("gt", |state, args| compared(state, ">", args)),
    ("greaterthan", |state, args| compared(state, ">", args)),
    (">=", |state, args| compared(state, ">=", args)),
    ("ge", |state, args| compared(state, ">=", args)),
    ("<", |state, args| compared(state, "<", args)),
    ("lt", |state, args| compared(state, "<", args)),
    ("lessthan", |state, args| compared(state, "<", args)),
    ("<=", |state, args| compared(state, "<=", args)),
    ("le", |state, args| compared(state, "<=", args)),
    (names::MISSING, |_, args| kind(args, macros::is_missing)),
];

/// A test without an argument.
fn kind(args: &[Value], test: impl Fn(&Value) -> bool) -> Result<bool, Error> {
    let [value] = arguments::bind("the test", ["*value"], 1, args)?;
    Ok(test(&value.unwrap_or_default()))
}

fn is_iterable(value: &Value) -> bool {
    match value.kind() {
        ValueKind::Undefined | ValueKind::String => true,
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => {
            !matches!(type_name(value), "Namespace" | "Macro" | "Cycler" | "Joiner")
        }
        _ => false,
    }
}

/// What has a length and items, as far as Jinja asks.
fn is_sequence(value: &Value) -> bool {
    match value.kind() {
        ValueKind::Undefined | ValueKind::String => true,
        _ => matches!(type_name(value), "list" | "tuple" | "dict" | "range" | "bytes"),
    }
}

/// Whether that is what remains of a value divided by two. Jinja asks so of a text, too, which then is a format.
fn remains(state: &mut State<'_, '_>, args: &[Value], rest: i64) -> Result<bool, Error> {
    let [value] = arguments::bind("the test", ["*value"], 1, args)?;
    let remainder = operators::remainder(state, &value.unwrap_or_default(), &Value::from(2))?;
    values::equal(state, &remainder, &Value::from(rest), 0)
}

fn divisible(_: &mut State<'_, '_>, args: &[Value]) -> Result<bool, Error> {
    let [value, by] = arguments::bind("divisibleby", ["*value", "num"], 2, args)?;
    match (number(&value.unwrap_or_default()), number(&by.unwrap_or_default())) {
        (Some(_), Some(by)) if by.float() == 0.0 => Err(error("integer modulo by zero")),
        (Some(Number::Int(value)), Some(Number::Int(by))) => {
            Ok(numbers::floor_divide(value, by).is_some_and(|(_, rest)| rest == 0))
        }
        (Some(value), Some(by)) => Ok(value.float() % by.float() == 0.0),
        _ => Err(error("divisibleby: both have to be numbers")),
    }
}

fn cased(state: &State<'_, '_>, args: &[Value], case: &str) -> Result<bool, Error> {
    let [value] = arguments::bind(case, ["*value"], 1, args)?;
    let text = super::repr::text(state, &value.unwrap_or_default())?;
    let lower = text.chars().any(char::is_lowercase);
    let upper = text.chars().any(char::is_uppercase);
    Ok(if case == "lower" { lower && !upper } else { upper && !lower })
}

fn compared(state: &mut State<'_, '_>, operator: &str, args: &[Value]) -> Result<bool, Error> {
    let [value, other] = arguments::bind("the test", ["*value", "*other"], 2, args)?;
    operators::holds(state, operator, &value.unwrap_or_default(), &other.unwrap_or_default())
}

/// Whether two are one object; of numbers and texts only constants are known to be.
fn same(_: &mut State<'_, '_>, args: &[Value]) -> Result<bool, Error> {
    let [value, other] = arguments::bind("sameas", ["*value", "other"], 2, args)?;
    let (value, other) = (value.unwrap_or_default(), other.unwrap_or_default());
    if type_name(&value) != type_name(&other) {
        return Ok(false);
    }
    match value.kind() {
        ValueKind::None => Ok(true),
        ValueKind::Bool => Ok(value.is_true() == other.is_true()),
        kind => match values::is_same(&value, &other) {
            Some(same) => Ok(same),
            None => Err(error(format!("sameas of a {kind} depends on how Python stores it; use =="))),
        },
    }
}

/// Whether there is a filter or test of that name.
fn known(state: &mut State<'_, '_>, args: &[Value], filters: bool) -> Result<bool, Error> {
    let [value] = arguments::bind("the test", ["*value"], 1, args)?;
    let value = value.unwrap_or_default();
    values::hashable(&value)?;
    let Some(name) = value.as_str().filter(|name| !name.starts_with(names::PREFIX)) else { return Ok(false) };
    let _ = state;
    Ok(if filters {
        super::filters::ALL.into_iter().chain([super::json::FILTERS]).flatten().any(|(own, _)| *own == name)
    } else {
        ALL.iter().any(|(own, _)| *own == name)
    })
}
