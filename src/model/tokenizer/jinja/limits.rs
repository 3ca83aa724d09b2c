//! What a template may use: work, memory, and stack.
//!
//! Fuel bounds how long a template runs, but not how deeply it nests what it makes: a value that contains itself, or
//! one of many thousand levels, overflows the stack as soon as the engine prints, compares or drops it. So every list,
//! tuple and dict that is made of others is looked at, and so is everything that goes into a namespace.

use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error, State};

use super::{Function, error, names, values};

/// Most levels of lists and maps in a value. Arguments and tool schemas have some ten.
const MAX_DEPTH: usize = 48;

/// Most times that a namespace is put into a namespace. Each may make a chain one longer.
const MAX_NESTED_NAMESPACES: usize = 8;

/// Most characters of a text that a template makes in one step, and most items of a list.
const MAX_TEXT: usize = 16 << 20;
const MAX_ITEMS: usize = 1 << 20;

pub(super) const FILTERS: &[(&str, Function)] =
    &[(names::MADE, made), (names::STORED, stored), (names::WITHIN, within)];

pub(super) fn install(env: &mut Environment<'_>) {
    // A macro's call is four levels. Jinja has no such limit, but Python has one.
    env.set_recursion_limit(96);
}

/// Pays for handling that many bytes. The fuel is gone before memory is.
pub(super) fn bytes(state: &State<'_, '_>, count: usize) -> Result<(), Error> {
    state.consume_fuel(count as u64 / 16 + 1)
}

/// Pays for a text that is about to be made.
pub(super) fn text(state: &State<'_, '_>, count: Option<usize>) -> Result<(), Error> {
    match count {
        Some(count) if count <= MAX_TEXT => bytes(state, count),
        _ => Err(error(format!("a text of more than {MAX_TEXT} bytes would be made"))),
    }
}

/// Pays for what a text has grown by.
pub(super) fn grown(state: &State<'_, '_>, before: usize, after: usize) -> Result<(), Error> {
    text(state, Some(after).filter(|after| *after <= MAX_TEXT).map(|after| after.saturating_sub(before)))
}

/// Pays for handling that many values.
pub(super) fn items(state: &State<'_, '_>, count: Option<usize>) -> Result<(), Error> {
    match count {
        Some(count) if count <= MAX_ITEMS => state.consume_fuel(count as u64 + 1),
        _ => Err(error(format!("a list of more than {MAX_ITEMS} items would be made"))),
    }
}

/// Pays for visiting one value at this depth.
pub(super) fn visit(state: &State<'_, '_>, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(error(format!("a value is nested more than {MAX_DEPTH} levels deep")));
    }
    state.consume_fuel(1)
}

/// A list, tuple or dict that a template has made.
fn made(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let Some(value) = args.first() else { return Ok(Value::UNDEFINED) };
    check(state, value)?;
    if value.kind() == ValueKind::Map {
        for key in value.try_iter()? {
            values::hashable(&key)?;
        }
    }
    Ok(value.clone())
}

/// Refuses a value that is nested too deeply.
pub(super) fn check(state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    walk(state, value, 0).map(|_| ())
}

/// Refuses a value that is nested too deeply, what it reaches through namespaces counted.
pub(super) fn check_within_namespaces(state: &State<'_, '_>, value: &Value, depth: usize) -> Result<(), Error> {
    visit(state, depth)?;
    values::each_child(value, &mut |child| check_within_namespaces(state, child, depth + 1))
}

/// A value that gets a name.
fn stored(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let value = args.first().cloned().unwrap_or_default();
    check(state, &value)?;
    Ok(value)
}

/// A loop holds its items, one of which could be the last loop that was stored, and so on.
fn refuse_loop(value: &Value) -> Result<(), Error> {
    if values::type_name(value) == "LoopContext" { Err(error("`loop` cannot be stored")) } else { Ok(()) }
}

/// A value that goes into the namespaces that follow.
fn within(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let Some((value, namespaces)) = args.split_first() else { return Err(error("a namespace is missing")) };
    if !namespaces.iter().all(values::is_namespace) {
        return Err(error("cannot assign attribute on non-namespace object"));
    }
    if walk(state, value, 0)? {
        let nested = state.get_or_insert_extension_with(Nested::default);
        nested.0 += 1;
        if nested.0 > MAX_NESTED_NAMESPACES {
            let message = format!("namespaces are put into namespaces more than {MAX_NESTED_NAMESPACES} times");
            return Err(error(message));
        }
        namespaces.iter().try_for_each(|namespace| refuse_cycle(state, value, namespace, 0))?;
    }
    Ok(value.clone())
}

#[derive(Default)]
struct Nested(usize);

/// Whether a value holds a namespace.
fn walk(state: &State<'_, '_>, value: &Value, depth: usize) -> Result<bool, Error> {
    visit(state, depth)?;
    if values::is_namespace(value) {
        return Ok(true);
    }
    refuse_loop(value)?;
    let mut holds = false;
    values::each_child(value, &mut |child| {
        holds |= walk(state, child, depth + 1)?;
        Ok(())
    })?;
    Ok(holds)
}

/// Refuses a value from which the namespace can be reached.
fn refuse_cycle(state: &State<'_, '_>, value: &Value, namespace: &Value, depth: usize) -> Result<(), Error> {
    visit(state, depth)?;
    if values::is_same(value, namespace) == Some(true) {
        return Err(error("a namespace cannot be put into itself"));
    }
    values::each_child(value, &mut |child| refuse_cycle(state, child, namespace, depth + 1))
}
