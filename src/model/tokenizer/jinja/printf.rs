//! `template % values`.

use minijinja::value::Value;
use minijinja::{Error, State};

use super::str_format::printed;
use super::strings::justified;
use super::values::{self, Number, number, type_name};
use super::{error, limits, numbers, repr};

/// One conversion: `%[(key)][flags][width][.precision]kind`.
#[derive(Default)]
struct Conversion<'a> {
    key: Option<&'a str>,
    left: bool,
    zero: bool,
    plus: bool,
    space: bool,
    alternate: bool,
    width: i64,
    precision: Option<usize>,
    kind: char,
}

/// Values that are left.
struct Source<'a> {
    state: &'a State<'a, 'a>,
    whole: &'a Value,
    items: std::vec::IntoIter<Value>,
}

impl Source<'_> {
    fn next(&mut self) -> Result<Value, Error> {
        self.items.next().ok_or_else(|| error("not enough arguments for format string"))
    }
}

pub(super) fn format(state: &State<'_, '_>, template: &str, values: &Value) -> Result<String, Error> {
    let items = if values.is_tuple() { values.try_iter()?.collect() } else { vec![values.clone()] };
    let mut source = Source { state, whole: values, items: items.into_iter() };
    let mut out = String::new();
    let mut rest = template;
    while let Some(at) = rest.find('%') {
        let before = out.len();
        out.push_str(&rest[..at]);
        if let Some(after) = rest[at + 1..].strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let (conversion, after) = parse(&rest[at + 1..], &mut source)?;
        rest = after;
        let value = match conversion.key {
            None => source.next()?,
            Some(key) => {
                source.items = Vec::new().into_iter();
                if !values::is_dict(source.whole) {
                    return Err(error("format requires a mapping"));
                }
                values::lookup(source.whole, &Value::from(key))
                    .ok_or_else(|| error(format!("the format's key {key:?} is missing")))?
            }
        };
        out.push_str(&convert(source.state, &conversion, &value)?);
        limits::grown(state, before, out.len())?;
    }
    out.push_str(rest);
    let is_mapping = matches!(type_name(values), "dict" | "list" | "range");
    if source.items.next().is_some() && !is_mapping {
        return Err(error("not all arguments converted during string formatting"));
    }
    limits::text(state, Some(out.len()))?;
    Ok(out)
}

fn parse<'t>(text: &'t str, source: &mut Source<'_>) -> Result<(Conversion<'t>, &'t str), Error> {
    let mut conversion = Conversion::default();
    let mut rest = text;
    if let Some(inner) = rest.strip_prefix('(') {
        let (key, after) = inner.split_once(')').ok_or_else(|| error("incomplete format key"))?;
        conversion.key = Some(key);
        rest = after;
    }
    while let Some(flag) = rest.chars().next().filter(|c| matches!(c, '-' | '0' | '+' | ' ' | '#')) {
        match flag {
            '-' => conversion.left = true,
            '0' => conversion.zero = true,
            '+' => conversion.plus = true,
            ' ' => conversion.space = true,
            _ => conversion.alternate = true,
        }
        rest = &rest[1..];
    }
    if let Some(width) = size(&mut rest, source)? {
        conversion.left |= width < 0;
        conversion.width = width.abs();
    }
    if let Some(after) = rest.strip_prefix('.') {
        rest = after;
        conversion.precision = Some(usize::try_from(size(&mut rest, source)?.unwrap_or(0)).unwrap_or(0));
    }
    rest = rest.strip_prefix(['h', 'l', 'L']).unwrap_or(rest);
    conversion.kind = rest.chars().next().ok_or_else(|| error("incomplete format"))?;
    let length = conversion.kind.len_utf8();
    Ok((conversion, &rest[length..]))
}

/// A width or precision, which `*` takes from the values.
fn size(rest: &mut &str, source: &mut Source<'_>) -> Result<Option<i64>, Error> {
    if let Some(after) = rest.strip_prefix('*') {
        *rest = after;
        return match number(&source.next()?) {
            Some(Number::Int(size)) if size.abs() < 10_000 => Ok(Some(size as i64)),
            _ => Err(error("`*` wants an int of at most four digits")),
        };
    }
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (digits, after) = rest.split_at(end);
    *rest = after;
    match digits.len() {
        0 => Ok(None),
        1..5 => Ok(digits.parse().ok()),
        _ => Err(error("a width or precision has more than four digits")),
    }
}

fn convert(state: &State<'_, '_>, conversion: &Conversion<'_>, value: &Value) -> Result<String, Error> {
    let kind = conversion.kind;
    let (sign, text) = match kind {
        's' | 'r' | 'a' => {
            let text = match kind {
                's' => repr::str_of(state, value)?,
                'r' => repr::repr_of(state, value)?,
                _ => ascii(&repr::repr_of(state, value)?),
            };
            (String::new(), text.chars().take(conversion.precision.unwrap_or(usize::MAX)).collect())
        }
        'c' => (String::new(), character(value)?.to_string()),
        'd' | 'i' | 'u' | 'x' | 'X' | 'o' => integer(conversion, value)?,
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            let number =
                number(value).ok_or_else(|| error(format!("must be real number, not {}", type_name(value))))?;
            let text = printed(number.float(), kind, conversion.precision, conversion.alternate);
            let text = text.ok_or_else(|| error("this format of a float is not supported"))?;
            match text.strip_prefix('-') {
                Some(digits) => ("-".to_owned(), digits.to_owned()),
                None => (positive_sign(conversion).to_owned(), text),
            }
        }
        other => return Err(error(format!("unsupported format character '{other}'"))),
    };
    let numeric = !matches!(kind, 's' | 'r' | 'a' | 'c');
    if conversion.left {
        return justified(state, &(sign + &text), "ljust", conversion.width, ' ');
    }
    if conversion.zero && numeric {
        let digits = justified(state, &text, "rjust", conversion.width - sign.len() as i64, '0')?;
        return Ok(sign + &digits);
    }
    justified(state, &(sign + &text), "rjust", conversion.width, ' ')
}

fn positive_sign(conversion: &Conversion<'_>) -> &'static str {
    match (conversion.plus, conversion.space) {
        (true, _) => "+",
        (false, true) => " ",
        _ => "",
    }
}

fn integer(conversion: &Conversion<'_>, value: &Value) -> Result<(String, String), Error> {
    let kind = conversion.kind;
    let whole = match number(value) {
        Some(Number::Int(value)) => value,
        Some(Number::Float(value)) if matches!(kind, 'd' | 'i' | 'u') => {
            numbers::truncate(value)?.ok_or_else(|| error("cannot convert float infinity or NaN to integer"))?
        }
        _ => return Err(error(format!("%{kind} format: a real number is required, not {}", type_name(value)))),
    };
    let magnitude = whole.unsigned_abs();
    let (prefix, digits) = match kind {
        'x' => ("0x", format!("{magnitude:x}")),
        'X' => ("0X", format!("{magnitude:X}")),
        'o' => ("0o", format!("{magnitude:o}")),
        _ => ("", magnitude.to_string()),
    };
    let missing = conversion.precision.unwrap_or(0).saturating_sub(digits.len());
    let digits = "0".repeat(missing) + &digits;
    let sign = if whole < 0 { "-" } else { positive_sign(conversion) };
    Ok((format!("{sign}{}", if conversion.alternate { prefix } else { "" }), digits))
}

fn character(value: &Value) -> Result<char, Error> {
    let found = match (value.as_str(), number(value)) {
        (Some(text), _) => text.chars().next().filter(|c| text.len() == c.len_utf8()),
        (None, Some(Number::Int(code))) => u32::try_from(code).ok().and_then(char::from_u32),
        _ => None,
    };
    found.ok_or_else(|| error("%c requires int or char"))
}

fn ascii(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if c.is_ascii() { out.push(c) } else { repr::write_number(&mut out, c) }
    }
    out
}
