//! Filters that make a text of another.

use minijinja::value::{Kwargs, Value};
use minijinja::{Error, State};

use super::super::values::type_name;
use super::super::{Function, arguments, case, error, lexer, limits, printf, repr, strings, values};
use super::flag;

pub(super) const FILTERS: &[(&str, Function)] = &[
    ("capitalize", |state, args| simple(state, "capitalize", args, case::capitalize)),
    ("lower", |state, args| simple(state, "lower", args, str::to_lowercase)),
    ("upper", |state, args| simple(state, "upper", args, str::to_uppercase)),
    ("title", |state, args| simple(state, "title", args, title)),
    ("string", string),
    ("trim", trim),
    ("replace", replace),
    ("format", format),
    ("default", default),
    ("d", default),
    ("wordcount", wordcount),
    (super::super::names::WRITTEN, written),
];

/// What a `filter` block writes. Jinja joins it with the texts around, and refuses whatever is none.
fn written(_: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let value = args.first().cloned().unwrap_or_default();
    match value.as_str() {
        Some(_) => Ok(value),
        None => Err(error(format!("a filter block gives {}, where it has to give str", type_name(&value)))),
    }
}

fn simple(state: &State<'_, '_>, name: &str, args: &[Value], f: fn(&str) -> String) -> Result<Value, Error> {
    let [value] = arguments::bind(name, ["*value"], 1, args)?;
    let value = value.unwrap_or_default();
    let text = f(&repr::text(state, &value)?);
    Ok(if value.is_safe() { Value::from_safe_string(text) } else { Value::from(text) })
}

/// Jinja's own `title`, whose words end at white space, hyphens and opening brackets alone.
fn title(text: &str) -> String {
    let begins = |c: char| lexer::is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<');
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(begins).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let mut chars = word.chars();
        out.extend(chars.next().into_iter().flat_map(char::to_uppercase));
        out.push_str(&chars.as_str().to_lowercase());
        let end = after.find(|c| !begins(c)).unwrap_or(after.len());
        out.push_str(&after[..end]);
        rest = &after[end..];
    }
    out
}

fn string(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [value] = arguments::bind("string", ["*value"], 1, args)?;
    let value = value.unwrap_or_default();
    if value.as_str().is_some() { Ok(value) } else { repr::str_of(state, &value).map(Value::from) }
}

fn trim(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [value, chars] = arguments::bind("trim", ["*value", "chars"], 1, args)?;
    let text = repr::text(state, &value.unwrap_or_default())?;
    let chars = match chars.filter(|chars| !chars.is_none()) {
        None => None,
        Some(chars) => match chars.as_str() {
            Some(chars) => Some(chars.to_owned()),
            None => return Err(error(format!("trim: chars must be a str, not {}", type_name(&chars)))),
        },
    };
    Ok(Value::from(strings::stripped(&text, "strip", chars.as_deref())))
}

fn replace(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [value, old, new, count] = arguments::bind("replace", ["*value", "old", "new", "count"], 3, args)?;
    let text = |value: Option<Value>| repr::text(state, &value.unwrap_or_default());
    let count = count.filter(|count| !count.is_none());
    let count = count.map_or(Ok(-1), |count| strings::integer("replace", &count))?;
    strings::replace(state, &text(value)?, &text(old)?, &text(new)?, count).map(Value::from)
}

fn format(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let (positional, named) = arguments::split(args);
    let Some((template, positional)) = positional.split_first() else { return Err(error("format needs a value")) };
    if !positional.is_empty() && !named.is_empty() {
        return Err(error("can't handle positional and keyword arguments at the same time"));
    }
    let template = repr::text(state, template)?;
    let values = match named.is_empty() {
        true => values::tuple(positional.to_vec()),
        false => Value::from_pairs(named),
    };
    printf::format(state, &template, &values).map(Value::from)
}

fn default(_: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let parameters = ["*value", "default_value", "boolean"];
    let [value, default, boolean] = arguments::bind("default", parameters, 1, args)?;
    let value = value.unwrap_or_default();
    let missing = value.is_undefined() || (flag(boolean) && !repr::is_true(&value));
    Ok(if missing { default.unwrap_or_else(|| Value::from("")) } else { value })
}

fn wordcount(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [value] = arguments::bind("wordcount", ["*value"], 1, args)?;
    let text = repr::text(state, &value.unwrap_or_default())?;
    let words = text.split(|c: char| c != '_' && !c.is_alphanumeric()).filter(|word| !word.is_empty());
    Ok(Value::from(words.count()))
}

/// What `map` and `select` hand on: a function's own arguments behind the item.
pub(super) fn with_item(item: &Value, positional: &[Value], named: &[(String, Value)]) -> Vec<Value> {
    let mut args = vec![item.clone()];
    args.extend_from_slice(positional);
    if !named.is_empty() {
        args.push(Kwargs::from_iter(named.iter().cloned()).into());
    }
    args
}

/// A text argument.
pub(super) fn argument(state: &State<'_, '_>, name: &str, value: &Value) -> Result<String, Error> {
    match value.as_str() {
        Some(text) => {
            limits::bytes(state, text.len())?;
            Ok(text.to_owned())
        }
        None => Err(error(format!("{name}: expected str, not {}", type_name(value)))),
    }
}
