//! Filters of lists and dicts.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr, Value};
use minijinja::{Error, State};

use super::super::operators::add;
use super::super::strings::integer;
use super::super::values::{self, Generator, type_name};
use super::super::{Function, access, arguments, containers, error, limits, repr};
use super::{Attribute, backwards, flag, length, sort, without_case};

pub(super) const FILTERS: &[(&str, Function)] = &[
    ("attr", attr),
    ("batch", batch),
    ("count", count),
    ("dictsort", dictsort),
    ("first", first),
    ("groupby", groupby),
    ("items", items),
    ("join", join),
    ("last", last),
    ("length", count),
    ("list", list),
    ("max", |state, args| extreme(state, "max", args, Ordering::Greater)),
    ("min", |state, args| extreme(state, "min", args, Ordering::Less)),
    ("random", random),
    ("reverse", reverse),
    ("slice", slice),
    ("sort", sorted),
    ("sum", sum),
    ("unique", unique),
    (super::super::names::ITERATE, iterate),
];

/// What a `for` loop goes over.
fn iterate(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    values::iterate(state, &args.first().cloned().unwrap_or_default()).map(Value::from)
}

fn attr(_: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [value, name] = arguments::bind("attr", ["*value", "name"], 2, args)?;
    let (value, name) = (value.unwrap_or_default(), name.unwrap_or_default());
    match name.as_str() {
        Some(name) => access::attribute_only(&value, name),
        None => Err(error(format!("attr: a name must be a str, not {}", type_name(&name)))),
    }
}

fn count(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [value] = arguments::bind("length", ["*value"], 1, args)?;
    length(state, &value.unwrap_or_default()).map(Value::from)
}

fn list(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [value] = arguments::bind("list", ["*value"], 1, args)?;
    values::iterate(state, &value.unwrap_or_default()).map(Value::from)
}

fn items(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [value] = arguments::bind("items", ["*value"], 1, args)?;
    let value = value.unwrap_or_default();
    match type_name(&value) {
        "Undefined" => Ok(Generator::of(Vec::new())),
        "dict" => {
            let pairs = containers::pairs(state, &value)?;
            Ok(Generator::of(pairs.into_iter().map(|(key, item)| values::tuple(vec![key, item])).collect()))
        }
        _ => Err(error("Can only get item pairs from a mapping.")),
    }
}

fn first(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [value] = arguments::bind("first", ["*value"], 1, args)?;
    let value = value.unwrap_or_default();
    if let Some(generator) = value.downcast_object_ref::<Generator>() {
        return Ok(generator.take().unwrap_or_default());
    }
    Ok(values::iterate(state, &value)?.into_iter().next().unwrap_or_default())
}

fn last(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [value] = arguments::bind("last", ["*value"], 1, args)?;
    let value = value.unwrap_or_default();
    if type_name(&value) == "generator" {
        return Err(error("'generator' object is not reversible"));
    }
    Ok(values::iterate(state, &value)?.pop().unwrap_or_default())
}

fn random(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [value] = arguments::bind("random", ["*value"], 1, args)?;
    let value = value.unwrap_or_default();
    let count = length(state, &value)?;
    match (count, type_name(&value)) {
        (0, _) => Ok(Value::UNDEFINED),
        (1, "str" | "list" | "tuple") => Ok(values::iterate(state, &value)?.remove(0)),
        _ => Err(error("the filter `random` has no place in a prompt: it would be another one each time")),
    }
}

fn reverse(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [value] = arguments::bind("reverse", ["*value"], 1, args)?;
    let value = value.unwrap_or_default();
    if let Some(text) = value.as_str() {
        limits::text(state, Some(text.len()))?;
        return Ok(Value::from(text.chars().rev().collect::<String>()));
    }
    let mut items = values::iterate(state, &value)?;
    items.reverse();
    // Python's `reversed` is an iterator, but for what can't be reversed, of which Jinja makes a list.
    Ok(if type_name(&value) == "generator" { Value::from(items) } else { Generator::of(items) })
}

fn batch(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [value, size, fill] = arguments::bind("batch", ["*value", "linecount", "fill_with"], 2, args)?;
    let size = usize::try_from(integer("batch", &size.unwrap_or_default())?).unwrap_or(usize::MAX);
    let (mut batches, mut batch) = (Vec::new(), Vec::new());
    for item in values::iterate(state, &value.unwrap_or_default())? {
        if batch.len() == size {
            batches.push(Value::from(std::mem::take(&mut batch)));
        }
        batch.push(item);
    }
    if !batch.is_empty() {
        if let Some(fill) = fill.filter(|fill| !fill.is_none()) {
            let missing = size.saturating_sub(batch.len());
            limits::items(state, Some(missing))?;
            batch.extend(std::iter::repeat_n(fill, missing));
        }
        batches.push(Value::from(batch));
    }
    Ok(Generator::of(batches))
}

fn slice(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [value, slices, fill] = arguments::bind("slice", ["*value", "slices", "fill_with"], 2, args)?;
    let items = values::iterate(state, &value.unwrap_or_default())?;
    let slices = integer("slice", &slices.unwrap_or_default())?;
    if slices == 0 {
        return Err(error("integer division or modulo by zero"));
    }
    let slices = usize::try_from(slices).unwrap_or(0);
    limits::items(state, Some(slices))?;
    let fill = fill.filter(|fill| !fill.is_none());
    let mut rest = items.as_slice();
    let mut out = Vec::new();
    for index in 0..slices {
        let extra = index < items.len() % slices;
        let (part, after) = rest.split_at(items.len() / slices + usize::from(extra));
        rest = after;
        let mut part = part.to_vec();
        part.extend(fill.clone().filter(|_| !extra));
        out.push(Value::from(part));
    }
    Ok(Generator::of(out))
}

fn join(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [value, separator, attribute] = arguments::bind("join", ["*value", "d", "attribute"], 1, args)?;
    let separator = separator.map_or(Ok(String::new()), |separator| repr::text(state, &separator))?;
    let attribute = Attribute::new(attribute, None);
    let mut out = String::new();
    for (index, item) in values::iterate(state, &value.unwrap_or_default())?.into_iter().enumerate() {
        let before = out.len();
        if index > 0 {
            out.push_str(&separator);
        }
        repr::write_str(&mut out, state, &attribute.of(state, &item)?)?;
        limits::grown(state, before, out.len())?;
    }
    Ok(Value::from(out))
}

fn dictsort(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let parameters = ["*value", "case_sensitive", "by", "reverse"];
    let [value, sensitive, by, reverse] = arguments::bind("dictsort", parameters, 1, args)?;
    let value = value.unwrap_or_default();
    if !values::is_dict(&value) {
        return Err(error(format!("'{}' object has no attribute 'items'", type_name(&value))));
    }
    let by_key = match by.as_ref().map_or(Some("key"), Value::as_str) {
        Some("key") => true,
        Some("value") => false,
        _ => return Err(error("You can only sort by either \"key\" or \"value\"")),
    };
    let mut pairs = containers::pairs(state, &value)?;
    let sensitive = flag(sensitive);
    let key = |(key, item): &(Value, Value)| {
        let found = if by_key { key.clone() } else { item.clone() };
        Ok(if sensitive { found } else { without_case(found) })
    };
    sort(state, &mut pairs, key, backwards(reverse)?)?;
    Ok(Value::from(pairs.into_iter().map(|(key, item)| values::tuple(vec![key, item])).collect::<Vec<_>>()))
}

fn sorted(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let parameters = ["*value", "reverse", "case_sensitive", "attribute"];
    let [value, reverse, sensitive, attribute] = arguments::bind("sort", parameters, 1, args)?;
    let sensitive = flag(sensitive);
    // Several attributes have commas between.
    let paths: Vec<Attribute> = match attribute.as_ref().and_then(Value::as_str) {
        Some(paths) => paths.split(',').map(|path| Attribute::new(Some(Value::from(path)), None)).collect(),
        None => vec![Attribute::new(attribute.clone(), None)],
    };
    let mut items = values::iterate(state, &value.unwrap_or_default())?;
    let state: &State<'_, '_> = state;
    let key = |item: &Value| {
        let keys: Result<Vec<Value>, Error> = paths
            .iter()
            .map(|path| path.of(state, item).map(|found| if sensitive { found } else { without_case(found) }))
            .collect();
        keys.map(Value::from)
    };
    sort(state, &mut items, key, backwards(reverse)?)?;
    Ok(Value::from(items))
}

fn extreme(state: &mut State<'_, '_>, name: &str, args: &[Value], wanted: Ordering) -> Result<Value, Error> {
    let [value, sensitive, attribute] = arguments::bind(name, ["*value", "case_sensitive", "attribute"], 1, args)?;
    let (sensitive, attribute) = (flag(sensitive), Attribute::new(attribute, None));
    let mut best: Option<(Value, Value)> = None;
    for item in values::iterate(state, &value.unwrap_or_default())? {
        let key = attribute.of(state, &item)?;
        let key = if sensitive { key } else { without_case(key) };
        let wins = match &best {
            None => true,
            Some((best, _)) => values::order(state, &key, best, 0)? == Some(wanted),
        };
        if wins {
            best = Some((key, item));
        }
    }
    Ok(best.map(|(_, item)| item).unwrap_or_default())
}

fn sum(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [value, attribute, start] = arguments::bind("sum", ["*value", "attribute", "start"], 1, args)?;
    let attribute = Attribute::new(attribute, None);
    let mut total = start.unwrap_or(Value::from(0));
    if total.as_str().is_some() {
        return Err(error("sum() can't sum strings [use ''.join(seq) instead]"));
    }
    for item in values::iterate(state, &value.unwrap_or_default())? {
        total = add(state, &total, &attribute.of(state, &item)?)?;
    }
    Ok(total)
}

fn unique(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [value, sensitive, attribute] = arguments::bind("unique", ["*value", "case_sensitive", "attribute"], 1, args)?;
    let (sensitive, attribute) = (flag(sensitive), Attribute::new(attribute, None));
    let (mut seen, mut out) = (HashSet::new(), Vec::new());
    for item in values::iterate(state, &value.unwrap_or_default())? {
        let key = attribute.of(state, &item)?;
        let key = if sensitive { key } else { without_case(key) };
        values::hashable(&key)?;
        // A bool and a float are equal to an integer.
        let key = match values::number(&key) {
            Some(values::Number::Int(whole)) => values::integer(whole),
            Some(values::Number::Float(value)) if value.fract() == 0.0 && value.abs() < 1e15 => {
                Value::from(value as i64)
            }
            _ => key,
        };
        if seen.insert(key) {
            out.push(item);
        }
    }
    Ok(Generator::of(out))
}

/// A group: a pair whose halves have names.
#[derive(Debug)]
struct GroupTuple([Value; 2]);

impl Object for GroupTuple {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let index = match key.as_str() {
            Some("grouper") => 0,
            Some("list") => 1,
            Some(_) => return None,
            None => key.as_usize()?,
        };
        self.0.get(index).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(2)
    }
}

fn groupby(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let parameters = ["*value", "attribute", "default", "case_sensitive"];
    let [value, attribute, default, sensitive] = arguments::bind("groupby", parameters, 2, args)?;
    let (attribute, sensitive) = (Attribute::new(attribute, default), flag(sensitive));
    let mut items = values::iterate(state, &value.unwrap_or_default())?;
    let state: &State<'_, '_> = state;
    let key = |item: &Value| attribute.of(state, item).map(|found| if sensitive { found } else { without_case(found) });
    sort(state, &mut items, key, false)?;
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for item in items {
        let found = key(&item)?;
        match groups.last_mut() {
            Some((own, group)) if values::equal(state, own, &found, 0)? => group.push(item),
            _ => groups.push((found, vec![item])),
        }
    }
    let mut out = Vec::with_capacity(groups.len());
    for (_, group) in groups {
        let name = attribute.of(state, &group[0])?;
        out.push(Value::from_object(GroupTuple([name, Value::from(group)])));
    }
    Ok(Value::from(out))
}
