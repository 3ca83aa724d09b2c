//! `str.format` and its little language of format specifications.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, State};

use super::strings::justified;
use super::values::{Number, is_dict, number, type_name};
use super::{access, error, limits, numbers, repr, values};

/// Where fields take their values from.
struct Source<'a> {
    positional: &'a [Value],
    named: &'a dyn Fn(&str) -> Option<Value>,
    next: usize,
    numbered: bool,
}

pub(super) fn format(
    state: &State<'_, '_>,
    template: &str,
    positional: &[Value],
    named: &[(String, Value)],
) -> Result<String, Error> {
    let named = |name: &str| named.iter().find(|(own, _)| own == name).map(|(_, value)| value.clone());
    expand(state, template, &mut Source { positional, named: &named, next: 0, numbered: false }, 0)
}

pub(super) fn format_map(state: &State<'_, '_>, template: &str, map: &Value) -> Result<String, Error> {
    if !is_dict(map) {
        return Err(error("format_map: not a dict"));
    }
    let named = |name: &str| values::lookup(map, &Value::from(name));
    expand(state, template, &mut Source { positional: &[], named: &named, next: 0, numbered: false }, 0)
}

fn expand(state: &State<'_, '_>, template: &str, source: &mut Source<'_>, depth: usize) -> Result<String, Error> {
    if depth > 1 {
        return Err(error("format: fields nest too deeply"));
    }
    let mut out = String::new();
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        let before = out.len();
        out.push_str(&rest[..at]);
        let brace = &rest[at..];
        if brace.starts_with("{{") || brace.starts_with("}}") {
            out.push_str(&brace[..1]);
            rest = &brace[2..];
        } else if brace.starts_with('}') {
            return Err(error("Single '}' encountered in format string"));
        } else {
            let length = field_length(brace).ok_or_else(|| error("Single '{' encountered in format string"))?;
            out.push_str(&field(state, &brace[1..length - 1], source, depth)?);
            rest = &brace[length..];
        }
        limits::grown(state, before, out.len())?;
    }
    out.push_str(rest);
    limits::text(state, Some(out.len()))?;
    Ok(out)
}

/// Bytes of a field with its braces, those within it counted.
fn field_length(text: &str) -> Option<usize> {
    let mut open = 0;
    for (at, c) in text.char_indices() {
        match c {
            '{' => open += 1,
            '}' if open == 1 => return Some(at + 1),
            '}' => open -= 1,
            _ => {}
        }
    }
    None
}

fn field(state: &State<'_, '_>, field: &str, source: &mut Source<'_>, depth: usize) -> Result<String, Error> {
    let end = field.find(['!', ':']).unwrap_or(field.len());
    let (name, rest) = field.split_at(end);
    let mut value = named(state, name, source)?;
    let spec = match rest.strip_prefix('!') {
        None => rest.strip_prefix(':').unwrap_or_default(),
        Some(rest) => {
            let (conversion, spec) = rest.split_at(rest.find(':').unwrap_or(rest.len()));
            value = Value::from(match conversion {
                "s" => repr::str_of(state, &value)?,
                "r" => repr::repr_of(state, &value)?,
                other => return Err(error(format!("format: the conversion {other:?} is not supported"))),
            });
            spec.strip_prefix(':').unwrap_or_default()
        }
    };
    let spec = if spec.is_empty() { String::new() } else { expand(state, spec, source, depth + 1)? };
    format_value(state, &value, &spec)
}

/// The value of `name.attribute[item]`.
fn named(state: &State<'_, '_>, path: &str, source: &mut Source<'_>) -> Result<Value, Error> {
    let end = path.find(['.', '[']).unwrap_or(path.len());
    let (name, mut rest) = path.split_at(end);
    let index = match name {
        "" => {
            source.next += 1;
            Some(source.next - 1)
        }
        name => name.parse::<usize>().ok(),
    };
    if let Some(index) = index {
        source.numbered |= !name.is_empty();
        if source.numbered && source.next > 0 {
            return Err(error("cannot mix automatic field numbering and manual field specification"));
        }
        if source.positional.get(index).is_none() {
            return Err(error(format!("Replacement index {index} out of range for positional args tuple")));
        }
    }
    let mut value = match index {
        Some(index) => source.positional[index].clone(),
        None => (source.named)(name).ok_or_else(|| error(format!("format has no argument `{name}`")))?,
    };
    while !rest.is_empty() {
        let Some((key, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) else {
            return Err(error(format!("format: attributes of fields are not supported: {path:?}")));
        };
        let key = key.parse::<i64>().map_or_else(|_| Value::from(key), Value::from);
        value = access::get_item(state, &value, &key)?;
        if value.is_undefined() {
            return Err(error(format!("format: {path:?} names nothing")));
        }
        rest = after;
    }
    Ok(value)
}

/// `[[fill]align][sign][#][0][width][grouping][.precision][type]`
struct Spec {
    fill: char,
    align: Option<char>,
    sign: char,
    alternate: bool,
    width: usize,
    grouping: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

fn parse_spec(text: &str) -> Option<Spec> {
    let mut chars = text.chars().peekable();
    let is_align = |c: &char| matches!(c, '<' | '>' | '^' | '=');
    let (mut fill, mut align) = (' ', None);
    let second = text.chars().nth(1);
    if second.as_ref().is_some_and(is_align) {
        fill = chars.next()?;
        align = chars.next();
    } else if text.starts_with(|c| is_align(&c)) {
        align = chars.next();
    }
    let sign = chars.next_if(|c| matches!(c, '+' | '-' | ' ')).unwrap_or('-');
    let alternate = chars.next_if_eq(&'#').is_some();
    if chars.next_if_eq(&'0').is_some() && align.is_none() {
        (fill, align) = ('0', Some('='));
    }
    let number = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| {
        let digits: String = std::iter::from_fn(|| chars.next_if(char::is_ascii_digit)).collect();
        if digits.is_empty() { Some(None) } else { digits.parse().ok().filter(|n| *n <= 9999).map(Some) }
    };
    let width = number(&mut chars)?.unwrap_or(0);
    let grouping = chars.next_if(|c| matches!(c, ',' | '_'));
    let precision = match chars.next_if_eq(&'.') {
        None => None,
        Some(_) => Some(number(&mut chars)??),
    };
    let kind = chars.next();
    if chars.next().is_some() {
        return None;
    }
    Some(Spec { fill, align, sign, alternate, width, grouping, precision, kind })
}

/// `format(value, spec)`.
fn format_value(state: &State<'_, '_>, value: &Value, spec: &str) -> Result<String, Error> {
    if spec.is_empty() {
        return repr::str_of(state, value);
    }
    let Some(spec) = parse_spec(spec) else {
        return Err(error(format!("format: the specification {spec:?} is not supported")));
    };
    let unknown = || {
        let kind = spec.kind.map(String::from).unwrap_or_default();
        error(format!("Unknown format code '{kind}' for object of type '{}'", type_name(value)))
    };
    if let Some(text) = value.as_str() {
        if !matches!(spec.kind, None | Some('s'))
            || spec.align == Some('=')
            || spec.sign != '-'
            || spec.grouping.is_some()
        {
            return Err(unknown());
        }
        let text: String = text.chars().take(spec.precision.unwrap_or(usize::MAX)).collect();
        return pad(state, "", &text, &spec, '<');
    }
    // A bool is a number where a kind or a width asks for one.
    match (number(value), value.kind()) {
        (Some(Number::Int(number)), _) if matches!(spec.kind, None | Some('d' | 'b' | 'o' | 'x' | 'X' | 'c' | 'n')) => {
            integer(state, number, &spec).ok_or_else(unknown)?
        }
        (Some(number), ValueKind::Number | ValueKind::Bool) => {
            let text = float(number, &spec).ok_or_else(unknown)?;
            let (sign, digits) = sign_of(&text, spec.sign);
            pad(state, &sign, &group(digits, spec.grouping, 3), &spec, '>')
        }
        _ => Err(error(format!("unsupported format string passed to {}.__format__", type_name(value)))),
    }
}

fn integer(state: &State<'_, '_>, value: i128, spec: &Spec) -> Option<Result<String, Error>> {
    if spec.precision.is_some() || (spec.fill == '0' && spec.grouping.is_some()) {
        return None;
    }
    let magnitude = value.unsigned_abs();
    let (prefix, digits, by) = match spec.kind {
        Some('x') => ("0x", format!("{magnitude:x}"), 4),
        Some('X') => ("0X", format!("{magnitude:X}"), 4),
        Some('o') => ("0o", format!("{magnitude:o}"), 4),
        Some('b') => ("0b", format!("{magnitude:b}"), 4),
        Some('c') => {
            let c = u32::try_from(value).ok().and_then(char::from_u32)?;
            return Some(pad(state, "", &c.to_string(), spec, '<'));
        }
        _ => ("", magnitude.to_string(), 3),
    };
    if by == 4 && spec.grouping == Some(',') {
        return None;
    }
    let (sign, _) = sign_of(if value < 0 { "-" } else { "" }, spec.sign);
    let sign = if spec.alternate { sign + prefix } else { sign };
    Some(pad(state, &sign, &group(&digits, spec.grouping, by), spec, '>'))
}

fn sign_of(text: &str, sign: char) -> (String, &str) {
    match (text.strip_prefix('-'), sign) {
        (Some(digits), _) => ("-".to_owned(), digits),
        (None, '-') => (String::new(), text),
        (None, sign) => (sign.to_string(), text),
    }
}

fn float(value: Number, spec: &Spec) -> Option<String> {
    let number = value.float();
    if spec.alternate || (spec.fill == '0' && spec.grouping.is_some()) {
        return None;
    }
    match spec.kind {
        None if spec.precision.is_none() => Some(numbers::float_repr(number)),
        None => None,
        Some('f' | 'F' | 'e' | 'E' | 'g' | 'G') => printed(number, spec.kind?, spec.precision, false),
        Some('%') => printed(number * 100.0, 'f', spec.precision, false).map(|text| text + "%"),
        _ => None,
    }
}

/// A float as C's `printf` writes it.
pub(super) fn printed(value: f64, kind: char, precision: Option<usize>, alternate: bool) -> Option<String> {
    let precision = precision.unwrap_or(6);
    if precision > 400 || alternate {
        return None;
    }
    let text = match kind.to_ascii_lowercase() {
        _ if !value.is_finite() => numbers::float_repr(value),
        'f' => format!("{value:.precision$}"),
        'e' => exponent(value, precision),
        'g' => {
            let precision = precision.max(1);
            let scientific = exponent(value, precision - 1);
            let at = scientific.find('e')?;
            let power: i64 = scientific[at + 1..].parse().ok()?;
            if power < -4 || power >= precision as i64 {
                format!("{}{}", trim_zeros(&scientific[..at]), &scientific[at..])
            } else {
                trim_zeros(&format!("{value:.*}", usize::try_from(precision as i64 - 1 - power).ok()?)).to_owned()
            }
        }
        _ => return None,
    };
    Some(if kind.is_ascii_uppercase() { text.to_uppercase() } else { text })
}

fn exponent(value: f64, precision: usize) -> String {
    let text = format!("{value:.precision$e}");
    let (mantissa, power) = text.split_once('e').unwrap_or((&text, "0"));
    let power: i32 = power.parse().unwrap_or(0);
    format!("{mantissa}e{}{:02}", if power < 0 { '-' } else { '+' }, power.abs())
}

fn trim_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

/// Digits with a separator after each group, before the decimal point.
fn group(digits: &str, separator: Option<char>, by: usize) -> String {
    let Some(separator) = separator else { return digits.to_owned() };
    let end = digits.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(digits.len());
    let mut out = String::new();
    for (at, c) in digits[..end].chars().enumerate() {
        if at > 0 && (end - at) % by == 0 {
            out.push(separator);
        }
        out.push(c);
    }
    out + &digits[end..]
}

fn pad(state: &State<'_, '_>, sign: &str, text: &str, spec: &Spec, default: char) -> Result<String, Error> {
    let width = spec.width as i64;
    match spec.align.unwrap_or(default) {
        '=' => {
            let digits = justified(state, text, "rjust", width - sign.len() as i64, spec.fill)?;
            Ok(format!("{sign}{digits}"))
        }
        '>' => justified(state, &format!("{sign}{text}"), "rjust", width, spec.fill),
        '<' => justified(state, &format!("{sign}{text}"), "ljust", width, spec.fill),
        _ => {
            let text = format!("{sign}{text}");
            // `format` puts the odd one to the right, other than `str.center`.
            let left = spec.width.saturating_sub(text.chars().count()) / 2;
            let text = std::iter::repeat_n(spec.fill, left).collect::<String>() + &text;
            justified(state, &text, "ljust", width, spec.fill)
        }
    }
}
