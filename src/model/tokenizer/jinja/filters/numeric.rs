//! Filters of numbers.

use minijinja::value::Value;
use minijinja::{Error, State};

use super::super::values::{self, Number, integer, number, type_name};
use super::super::{Function, arguments, error, numbers, strings};

pub(super) const FILTERS: &[(&str, Function)] = &[("abs", abs), ("int", int), ("float", float), ("round", round)];

fn abs(_: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [value] = arguments::bind("abs", ["*value"], 1, args)?;
    let value = value.unwrap_or_default();
    match number(&value) {
        Some(Number::Int(value)) => Ok(integer(value.abs())),
        Some(Number::Float(value)) => Ok(Value::from(value.abs())),
        None => Err(error(format!("bad operand type for abs(): '{}'", type_name(&value)))),
    }
}

fn int(_: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [value, default, base] = arguments::bind("int", ["*value", "default", "base"], 1, args)?;
    let value = value.unwrap_or_default();
    values::undefined(&value, "int")?;
    let base = base.map_or(Ok(10), |base| strings::integer("int", &base))?;
    let base = u32::try_from(base).ok().filter(|base| *base == 0 || (2..=36).contains(base));
    let found = match (number(&value), value.as_str()) {
        (Some(Number::Int(value)), _) => Some(value),
        (Some(Number::Float(value)), _) if value.is_infinite() => {
            return Err(error("cannot convert float infinity to integer"));
        }
        (Some(Number::Float(value)), _) => numbers::truncate(value)?,
        (None, Some(text)) => match base.map(|base| numbers::parse_int(text, base)).transpose()?.flatten() {
            Some(value) => Some(value),
            None => numbers::parse_float(text).map(numbers::truncate).transpose()?.flatten(),
        },
        _ => None,
    };
    Ok(found.map_or_else(|| default.unwrap_or(Value::from(0)), integer))
}

fn float(_: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [value, default] = arguments::bind("float", ["*value", "default"], 1, args)?;
    let value = value.unwrap_or_default();
    values::undefined(&value, "float")?;
    let found = match (number(&value), value.as_str()) {
        (Some(number), _) => Some(number.float()),
        (None, Some(text)) => numbers::parse_float(text),
        _ => None,
    };
    Ok(found.map_or_else(|| default.unwrap_or(Value::from(0.0)), Value::from))
}

fn round(_: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [value, precision, method] = arguments::bind("round", ["*value", "precision", "method"], 1, args)?;
    let value = value.unwrap_or_default();
    let precision = precision.map_or(Ok(0), |precision| strings::integer("round", &precision))?;
    let precision = i32::try_from(precision).ok().filter(|precision| precision.abs() <= 400);
    let precision = precision.ok_or_else(|| error("round: a precision of more than 400 is not supported"))?;
    let method = method.as_ref().map_or(Some("common"), Value::as_str).unwrap_or_default();
    let Some(number) = number(&value) else {
        return Err(error(format!("type {} doesn't define __round__ method", type_name(&value))));
    };
    let rounds: fn(f64) -> f64 = match (method, number) {
        ("common", Number::Int(whole)) => return round_int(whole, precision),
        ("common", Number::Float(value)) => return Ok(Value::from(numbers::round(value, precision))),
        ("floor", _) => f64::floor,
        ("ceil", _) => f64::ceil,
        _ => return Err(error("method must be common, ceil or floor")),
    };
    let power = 10_f64.powi(precision);
    Ok(Value::from(rounds(number.float() * power) / power))
}

/// `round(int, digits)`: halves become even.
fn round_int(value: i128, digits: i32) -> Result<Value, Error> {
    if digits >= 0 {
        return Ok(integer(value));
    }
    let Some(power) = 10_i128.checked_pow(digits.unsigned_abs()) else { return Ok(Value::from(0)) };
    let (quotient, rest) = numbers::floor_divide(value, power).unwrap_or((0, 0));
    let up = rest * 2 > power || (rest * 2 == power && quotient % 2 != 0);
    Ok(integer((quotient + i128::from(up)) * power))
}
