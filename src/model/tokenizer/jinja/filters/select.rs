//! Filters that take other filters and tests: `map`, `select` and their like.

use minijinja::value::Value;
use minijinja::{Error, State};

use super::super::values::{self, Generator};
use super::super::{Function, arguments, error, repr};
use super::Attribute;
use super::texts::with_item;

pub(super) const FILTERS: &[(&str, Function)] = &[
    ("map", map),
    ("select", |state, args| select(state, "select", args, true, false)),
    ("reject", |state, args| select(state, "reject", args, false, false)),
    ("selectattr", |state, args| select(state, "selectattr", args, true, true)),
    ("rejectattr", |state, args| select(state, "rejectattr", args, false, true)),
];

fn map(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let (positional, mut named) = arguments::split(args);
    let Some((value, positional)) = positional.split_first() else { return Err(error("map needs a value")) };
    let items = if repr::is_true(value) { values::iterate(state, value)? } else { Vec::new() };
    let Some((filter, positional)) = positional.split_first() else {
        let mut take = |wanted: &str| named.iter().position(|(name, _)| name == wanted).map(|at| named.remove(at).1);
        let (attribute, default) = (take("attribute"), take("default"));
        if attribute.is_none() {
            return Err(error("map requires a filter argument"));
        }
        if let Some((name, _)) = named.first() {
            return Err(error(format!("map has no argument `{name}`")));
        }
        let attribute = Attribute::new(attribute, default);
        let mapped: Result<Vec<Value>, Error> = items.iter().map(|item| attribute.of(state, item)).collect();
        return Ok(Generator::of(mapped?));
    };
    let filter = name_of("map", filter)?;
    let mut mapped = Vec::with_capacity(items.len());
    for item in &items {
        mapped.push(state.apply_filter(&filter, &with_item(item, positional, &named))?);
    }
    Ok(Generator::of(mapped))
}

fn name_of(function: &str, value: &Value) -> Result<String, Error> {
    match value.as_str() {
        Some(name) if !name.starts_with(super::super::names::PREFIX) => Ok(name.to_owned()),
        _ => Err(error(format!("{function}: no filter or test has this name"))),
    }
}

fn select(
    state: &mut State<'_, '_>,
    function: &str,
    args: &[Value],
    keeps: bool,
    by_attribute: bool,
) -> Result<Value, Error> {
    let (positional, named) = arguments::split(args);
    let Some((value, mut positional)) = positional.split_first() else {
        return Err(error(format!("{function} needs a value")));
    };
    let mut attribute = Attribute::new(None, None);
    if by_attribute {
        let Some((first, rest)) = positional.split_first() else {
            return Err(error("Missing parameter for attribute name"));
        };
        (attribute, positional) = (Attribute::new(Some(first.clone()), None), rest);
    }
    let items = if repr::is_true(value) { values::iterate(state, value)? } else { Vec::new() };
    let test = positional.split_first().map(|(test, rest)| (name_of(function, test), rest));
    let mut out = Vec::new();
    for item in items {
        let found = attribute.of(state, &item)?;
        let holds = match &test {
            None => repr::is_true(&found),
            Some((Ok(name), rest)) => state.perform_test(name, &with_item(&found, rest, &named))?,
            Some((Err(e), _)) => return Err(error(e.to_string())),
        };
        if holds == keeps {
            out.push(item);
        }
    }
    Ok(Generator::of(out))
}
