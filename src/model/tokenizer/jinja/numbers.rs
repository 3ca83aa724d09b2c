//! Numbers as Python writes, reads and rounds them.

use minijinja::Error;
use minijinja::value::Value;

use super::values::{self, Number, number, type_name};
use super::{arguments, error};

/// `repr(float)`: the shortest digits that give the number back, with an exponent below 1e-4 and from 1e16 on.
pub(super) fn float_repr(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value != 0.0 && !(-4..16).contains(&exponent) {
        return format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
    }
    let plain = format!("{value}");
    if plain.contains('.') { plain } else { plain + ".0" }
}

/// `str(number)`.
pub(super) fn number_repr(value: Number) -> String {
    match value {
        Number::Int(value) => value.to_string(),
        Number::Float(value) => float_repr(value),
    }
}

/// Floor division and its remainder.
pub(super) fn floor_divide(a: i128, b: i128) -> Option<(i128, i128)> {
    let (quotient, rest) = (a.checked_div(b)?, a.checked_rem(b)?);
    if rest != 0 && (rest < 0) != (b < 0) { Some((quotient - 1, rest + b)) } else { Some((quotient, rest)) }
}

/// CPython's `float_divmod`.
pub(super) fn float_floor_divide(a: f64, b: f64) -> (f64, f64) {
    let mut rest = a % b;
    let mut quotient = (a - rest) / b;
    if rest == 0.0 {
        rest = 0.0_f64.copysign(b);
    } else if (rest < 0.0) != (b < 0.0) {
        rest += b;
        quotient -= 1.0;
    }
    if quotient == 0.0 {
        return (0.0_f64.copysign(a / b), rest);
    }
    let floored = quotient.floor();
    (if quotient - floored > 0.5 { floored + 1.0 } else { floored }, rest)
}

/// `float(text)`.
pub(super) fn parse_float(text: &str) -> Option<f64> {
    let digits = strip_underscores(text.trim_matches(super::lexer::is_space))?;
    let bare = digits.trim_start_matches(['+', '-']).to_ascii_lowercase();
    let is_number = bare.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    if is_number || matches!(bare.as_str(), "inf" | "infinity" | "nan") { digits.parse().ok() } else { None }
}

/// `int(text, base)`; an error where the number has more than 127 bits.
pub(super) fn parse_int(text: &str, base: u32) -> Result<Option<i128>, Error> {
    let Some(digits) = strip_underscores(text.trim_matches(super::lexer::is_space)) else { return Ok(None) };
    let (negative, digits) = match digits.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, digits.strip_prefix('+').unwrap_or(&digits)),
    };
    let prefix = match digits.get(..2).map(str::to_ascii_lowercase).as_deref() {
        Some("0x") => 16,
        Some("0o") => 8,
        Some("0b") => 2,
        _ => 0,
    };
    let (digits, base) = match (prefix, base) {
        (0, 0) if digits.len() > 1 && digits.starts_with('0') && digits.bytes().any(|b| b != b'0') => return Ok(None),
        (0, 0) => (digits, 10),
        (prefix, base) if prefix != 0 && (base == 0 || base == prefix) => (&digits[2..], prefix),
        (_, base) => (digits, base),
    };
    let digits = digits.strip_prefix('_').filter(|_| prefix != 0).unwrap_or(digits);
    if digits.is_empty() || digits.starts_with(['+', '-']) {
        return Ok(None);
    }
    // Python reads other scripts' digits, too.
    if digits.chars().any(|c| !c.is_ascii() && c.is_numeric()) {
        return Err(error(format!("digits other than 0 to 9 are not supported: {digits:?}")));
    }
    if !digits.chars().all(|c| c.is_digit(base)) {
        return Ok(None);
    }
    match i128::from_str_radix(digits, base) {
        Ok(value) => Ok(Some(if negative { -value } else { value })),
        Err(_) => Err(error("a number of more than 127 bits is not supported")),
    }
}

/// Text without the underscores that may stand between digits; `None` where they stand elsewhere.
fn strip_underscores(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let misplaced = bytes.iter().enumerate().any(|(at, byte)| {
        let beside = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_alphanumeric);
        *byte == b'_' && !(beside(at.checked_sub(1)) && beside(Some(at + 1)))
    });
    if misplaced { None } else { Some(text.replace('_', "")) }
}

/// `int(float)`.
pub(super) fn truncate(value: f64) -> Result<Option<i128>, Error> {
    match value {
        value if !value.is_finite() => Ok(None),
        value if value.abs() < 1e38 => Ok(Some(value.trunc() as i128)),
        _ => Err(error("a number of more than 127 bits is not supported")),
    }
}

/// `round(value, digits)`, which rounds halves to even, by the decimal digits of the number itself.
pub(super) fn round(value: f64, digits: i32) -> f64 {
    if !value.is_finite() || digits > 323 {
        return value;
    }
    if digits >= 0 {
        // Rust writes exact digits and rounds halves to even.
        return format!("{value:.*}", digits as usize).parse().unwrap_or(value);
    }
    let power = 10_f64.powi(-digits);
    let scaled = value / power;
    let rounded = scaled.round_ties_even() * power;
    if rounded.is_finite() { rounded } else { value }
}

/// Methods of int, bool and float.
pub(super) fn call(value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    arguments::none(name, args)?;
    match (name, number(value)) {
        ("is_integer", Some(Number::Float(value))) => Ok(Value::from(value.fract() == 0.0)),
        ("bit_length", Some(Number::Int(value))) => Ok(Value::from(128 - value.unsigned_abs().leading_zeros())),
        ("bit_count", Some(Number::Int(value))) => Ok(Value::from(value.unsigned_abs().count_ones())),
        ("conjugate", Some(Number::Int(value))) => Ok(values::integer(value)),
        ("conjugate", Some(Number::Float(value))) => Ok(Value::from(value)),
        _ => Err(error(format!("the method `{name}` of {} is not supported", type_name(value)))),
    }
}
