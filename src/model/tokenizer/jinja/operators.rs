//! Python's operators.

use std::cmp::Ordering;

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, State};

use super::filters::escaped;
use super::values::{self, Generator, Number, View, integer, number, type_name};
use super::{Function, error, limits, names, numbers, printf, repr};

pub(super) const FILTERS: &[(&str, Function)] = &[
    (names::ADD, sum),
    (names::SUBTRACT, |state, args| fold(state, args, subtract)),
    (names::MULTIPLY, |state, args| fold(state, args, multiply)),
    (names::DIVIDE, |state, args| fold(state, args, divide)),
    (names::FLOOR, |state, args| fold(state, args, floor)),
    (names::REMAINDER, |state, args| fold(state, args, remainder)),
    (names::POWER, |state, args| fold(state, args, power)),
    (names::CONCATENATE, concatenate),
    (names::NEGATIVE, negative),
    (names::POSITIVE, positive),
    (names::COMPARE, compare),
];

type Binary = fn(&mut State<'_, '_>, &Value, &Value) -> Result<Value, Error>;

/// `a + b + c`, from the left.
fn fold(state: &mut State<'_, '_>, args: &[Value], operation: Binary) -> Result<Value, Error> {
    let Some((first, rest)) = args.split_first() else { return Ok(Value::UNDEFINED) };
    rest.iter().try_fold(first.clone(), |left, right| operation(state, &left, right))
}

/// `a + b + c`. Texts are joined once, and not anew for each.
fn sum(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    if !args.iter().all(is_plain_text) {
        return fold(state, args, add);
    }
    let texts = args.iter().filter_map(Value::as_str);
    limits::text(state, Some(texts.clone().map(str::len).sum()))?;
    Ok(Value::from(texts.collect::<String>()))
}

fn is_plain_text(value: &Value) -> bool {
    value.as_str().is_some() && !value.is_safe()
}

fn unsupported(operator: &str, a: &Value, b: &Value) -> Error {
    for value in [a, b] {
        if let Err(undefined) = values::undefined(value, &format!("`{operator}`")) {
            return undefined;
        }
    }
    let (a, b) = (type_name(a), type_name(b));
    error(format!("unsupported operand type(s) for {operator}: '{a}' and '{b}'"))
}

fn refuse_markup(operator: &str, value: &Value) -> Result<(), Error> {
    if value.is_safe() {
        return Err(error(format!("`{operator}` with text that is marked as safe or escaped is not supported")));
    }
    Ok(())
}

/// A result in integers, where there is one of at most 127 bits.
fn exact(value: Option<i128>) -> Result<Value, Error> {
    value.map(integer).ok_or_else(|| error("a number of more than 127 bits is not supported"))
}

/// `a + b` of texts. Text that is marked as safe escapes the text that it is joined with, on either side.
fn join(state: &State<'_, '_>, (a, left): (&Value, &str), (b, right): (&Value, &str)) -> Result<Value, Error> {
    let joined = match (a.is_safe(), b.is_safe()) {
        (true, false) => left.to_owned() + &escaped(right),
        (false, true) => escaped(left) + right,
        _ => [left, right].concat(),
    };
    limits::text(state, Some(joined.len()))?;
    Ok(if a.is_safe() || b.is_safe() { Value::from_safe_string(joined) } else { Value::from(joined) })
}

pub(super) fn add(state: &mut State<'_, '_>, a: &Value, b: &Value) -> Result<Value, Error> {
    if let (Some(left), Some(right)) = (a.as_str(), b.as_str()) {
        return join(state, (a, left), (b, right));
    }
    match (number(a), number(b)) {
        (Some(Number::Int(a)), Some(Number::Int(b))) => return exact(a.checked_add(b)),
        (Some(a), Some(b)) => return Ok(Value::from(a.float() + b.float())),
        _ => {}
    }
    let kind = type_name(a);
    if kind != type_name(b) || !matches!(kind, "list" | "tuple") {
        return Err(unsupported("+", a, b));
    }
    limits::items(state, a.len().zip(b.len()).map(|(a, b)| a + b))?;
    let items: Vec<Value> = a.try_iter()?.chain(b.try_iter()?).collect();
    Ok(if kind == "tuple" { values::tuple(items) } else { Value::from(items) })
}

fn subtract(_: &mut State<'_, '_>, a: &Value, b: &Value) -> Result<Value, Error> {
    match (number(a), number(b)) {
        (Some(Number::Int(a)), Some(Number::Int(b))) => exact(a.checked_sub(b)),
        (Some(a), Some(b)) => Ok(Value::from(a.float() - b.float())),
        _ => Err(unsupported("-", a, b)),
    }
}

fn multiply(state: &mut State<'_, '_>, a: &Value, b: &Value) -> Result<Value, Error> {
    match (number(a), number(b)) {
        (Some(Number::Int(a)), Some(Number::Int(b))) => exact(a.checked_mul(b)),
        (Some(a), Some(b)) => Ok(Value::from(a.float() * b.float())),
        (Some(Number::Int(count)), None) => repeat(state, b, count, (a, b)),
        (None, Some(Number::Int(count))) => repeat(state, a, count, (a, b)),
        _ => Err(unsupported("*", a, b)),
    }
}

fn repeat(state: &State<'_, '_>, value: &Value, count: i128, (a, b): (&Value, &Value)) -> Result<Value, Error> {
    let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
    if let Some(text) = value.as_str() {
        limits::text(state, text.len().checked_mul(count))?;
        let text = text.repeat(if text.is_empty() { 0 } else { count });
        return Ok(if value.is_safe() { Value::from_safe_string(text) } else { Value::from(text) });
    }
    let kind = type_name(value);
    if !matches!(kind, "list" | "tuple") {
        return Err(unsupported("*", a, b));
    }
    let items: Vec<Value> = value.try_iter()?.collect();
    limits::items(state, items.len().checked_mul(count))?;
    let length = items.len() * count;
    let items: Vec<Value> = items.into_iter().cycle().take(length).collect();
    Ok(if kind == "tuple" { values::tuple(items) } else { Value::from(items) })
}

fn divide(_: &mut State<'_, '_>, a: &Value, b: &Value) -> Result<Value, Error> {
    match (number(a), number(b)) {
        (Some(_), Some(b)) if b.float() == 0.0 => Err(error("division by zero")),
        (Some(Number::Int(a)), Some(Number::Int(b))) if a.abs().max(b.abs()) > 1 << 53 => {
            Err(error(format!("{a} / {b} of numbers with more than 53 bits is not supported")))
        }
        (Some(a), Some(b)) => Ok(Value::from(a.float() / b.float())),
        _ => Err(unsupported("/", a, b)),
    }
}

fn floor(_: &mut State<'_, '_>, a: &Value, b: &Value) -> Result<Value, Error> {
    match (number(a), number(b)) {
        (Some(_), Some(b)) if b.float() == 0.0 => Err(error("integer division or modulo by zero")),
        (Some(Number::Int(a)), Some(Number::Int(b))) => exact(numbers::floor_divide(a, b).map(|(floor, _)| floor)),
        (Some(a), Some(b)) => Ok(Value::from(numbers::float_floor_divide(a.float(), b.float()).0)),
        _ => Err(unsupported("//", a, b)),
    }
}

pub(super) fn remainder(state: &mut State<'_, '_>, a: &Value, b: &Value) -> Result<Value, Error> {
    if let Some(template) = a.as_str() {
        refuse_markup("%", a)?;
        return printf::format(state, template, b).map(Value::from);
    }
    match (number(a), number(b)) {
        (Some(_), Some(b)) if b.float() == 0.0 => Err(error("integer modulo by zero")),
        (Some(Number::Int(a)), Some(Number::Int(b))) => exact(numbers::floor_divide(a, b).map(|(_, rest)| rest)),
        (Some(a), Some(b)) => Ok(Value::from(numbers::float_floor_divide(a.float(), b.float()).1)),
        _ => Err(unsupported("%", a, b)),
    }
}

fn power(_: &mut State<'_, '_>, a: &Value, b: &Value) -> Result<Value, Error> {
    match (number(a), number(b)) {
        (Some(Number::Int(a)), Some(Number::Int(b))) if b >= 0 => {
            exact(u32::try_from(b).ok().and_then(|b| a.checked_pow(b)).or(match a {
                0 | 1 => Some(a),
                -1 => Some(if b % 2 == 0 { 1 } else { -1 }),
                _ => None,
            }))
        }
        (Some(a), Some(b)) => {
            let (a, b) = (a.float(), b.float());
            let value = a.powf(b);
            match (a == 0.0 && b < 0.0, value.is_nan() && !a.is_nan() && !b.is_nan()) {
                (true, _) => Err(error("0.0 cannot be raised to a negative power")),
                (_, true) => Err(error("a complex number is not supported")),
                _ if value.is_infinite() && a.is_finite() && b.is_finite() => Err(error("result too large")),
                _ => Ok(Value::from(value)),
            }
        }
        _ => Err(unsupported("** or pow()", a, b)),
    }
}

fn concatenate(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let mut out = String::new();
    for value in args {
        let before = out.len();
        repr::write_str(&mut out, state, value)?;
        limits::grown(state, before, out.len())?;
    }
    Ok(Value::from(out))
}

fn negative(_: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let value = args.first().cloned().unwrap_or_default();
    match number(&value) {
        Some(Number::Int(value)) => exact(value.checked_neg()),
        Some(Number::Float(value)) => Ok(Value::from(-value)),
        None => Err(unsupported("unary -", &value, &Value::from(0))),
    }
}

fn positive(_: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let value = args.first().cloned().unwrap_or_default();
    match number(&value) {
        Some(Number::Int(value)) => Ok(integer(value)),
        Some(Number::Float(value)) => Ok(Value::from(value)),
        None => Err(unsupported("unary +", &value, &Value::from(0))),
    }
}

/// `a < b <= c`: values with operators between.
fn compare(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let mut left = args.first().cloned().unwrap_or_default();
    for pair in args[1..].chunks_exact(2) {
        let operator = pair[0].as_str().unwrap_or_default();
        if !holds(state, operator, &left, &pair[1])? {
            return Ok(Value::from(false));
        }
        left = pair[1].clone();
    }
    Ok(Value::from(true))
}

/// Whether a comparison holds.
pub(super) fn holds(state: &State<'_, '_>, operator: &str, a: &Value, b: &Value) -> Result<bool, Error> {
    let ordered = |accepts: fn(Ordering) -> bool| Ok(values::order(state, a, b, 0)?.is_some_and(accepts));
    match operator {
        "==" => values::equal(state, a, b, 0),
        "!=" => values::equal(state, a, b, 0).map(|equal| !equal),
        "<" => ordered(Ordering::is_lt),
        "<=" => ordered(Ordering::is_le),
        ">" => ordered(Ordering::is_gt),
        ">=" => ordered(Ordering::is_ge),
        "in" => contains(state, b, a),
        _ => contains(state, b, a).map(|contains| !contains),
    }
}

/// Python's `item in container`.
pub(super) fn contains(state: &State<'_, '_>, container: &Value, item: &Value) -> Result<bool, Error> {
    if let Some(text) = container.as_str() {
        let Some(part) = item.as_str() else {
            return Err(error(format!("'in <string>' requires string as left operand, not {}", type_name(item))));
        };
        limits::bytes(state, text.len())?;
        return Ok(text.contains(part));
    }
    if let Some(generator) = container.downcast_object_ref::<Generator>() {
        while let Some(found) = generator.take() {
            if values::equal(state, &found, item, 0)? {
                return Ok(true);
            }
        }
        return Ok(false);
    }
    let is_keys = container.downcast_object_ref::<View>().is_some_and(|view| view.name == "dict_keys");
    if values::is_dict(container) || is_keys {
        values::hashable(item)?;
    }
    if values::is_dict(container) {
        if let Some(text) = item.as_str() {
            limits::bytes(state, text.len())?;
        }
        return Ok(values::lookup(container, item).is_some());
    }
    if container.kind() == ValueKind::None || number(container).is_some() {
        return Err(error(format!("argument of type '{}' is not iterable", type_name(container))));
    }
    for found in values::iterate(state, container)? {
        if values::equal(state, &found, item, 0)? {
            return Ok(true);
        }
    }
    Ok(false)
}
