//! Filters that lay a text out.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, State};

use super::super::strings::{integer, justified};
use super::super::values::{self, number, type_name};
use super::super::{Function, arguments, containers, error, limits, numbers, repr, strings};
use super::texts::argument;
use super::{flag, sort};

pub(super) const FILTERS: &[(&str, Function)] = &[
    ("center", center),
    ("indent", indent),
    ("truncate", truncate),
    ("wordwrap", wordwrap),
    ("filesizeformat", filesizeformat),
    ("pprint", pprint),
];

fn center(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [value, width] = arguments::bind("center", ["*value", "width"], 1, args)?;
    let width = width.map_or(Ok(80), |width| integer("center", &width))?;
    let text = repr::text(state, &value.unwrap_or_default())?;
    justified(state, &text, "center", width, ' ').map(Value::from)
}

fn indent(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [value, width, first, blank] = arguments::bind("indent", ["*value", "width", "first", "blank"], 1, args)?;
    let text = argument(state, "indent", &value.unwrap_or_default())? + "\n";
    let indention = match width {
        Some(width) if width.as_str().is_some() => width.as_str().unwrap_or_default().to_owned(),
        width => {
            let width = width.map_or(Ok(4), |width| integer("indent", &width))?;
            limits::text(state, Some(usize::try_from(width).unwrap_or(0)))?;
            " ".repeat(usize::try_from(width).unwrap_or(0))
        }
    };
    let lines = strings::split_lines(&text, false);
    limits::text(state, lines.len().checked_mul(indention.len() + 1).and_then(|more| more.checked_add(text.len())))?;
    let (first, blank) = (flag(first), flag(blank));
    let mut out = String::with_capacity(text.len());
    for (index, line) in lines.iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        let indented = if index == 0 { first } else { blank || !line.is_empty() };
        out.push_str(if indented { &indention } else { "" });
        out.push_str(line);
    }
    Ok(Value::from(out))
}

fn truncate(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let parameters = ["*value", "length", "killwords", "end", "leeway"];
    let [value, length, kill, end, leeway] = arguments::bind("truncate", parameters, 1, args)?;
    let text = argument(state, "truncate", &value.unwrap_or_default())?;
    let length = length.map_or(Ok(255), |length| integer("truncate", &length))?;
    let end = end.map_or(Ok("...".to_owned()), |end| argument(state, "truncate", &end))?;
    let leeway = leeway.filter(|leeway| !leeway.is_none());
    let leeway = leeway.map_or(Ok(5), |leeway| integer("truncate", &leeway))?;
    let kept = length - end.chars().count() as i64;
    if kept < 0 || leeway < 0 {
        return Err(error(format!("truncate: a length of {length} and a leeway of {leeway} don't go with {end:?}")));
    }
    if text.chars().count() as i64 <= length.saturating_add(leeway) {
        return Ok(Value::from(text));
    }
    let kept: String = text.chars().take(kept as usize).collect();
    let kept = if flag(kill) { kept.as_str() } else { kept.rsplit_once(' ').map_or(kept.as_str(), |(head, _)| head) };
    Ok(Value::from(format!("{kept}{end}")))
}

fn wordwrap(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let parameters = ["*value", "width", "break_long_words", "wrapstring", "break_on_hyphens"];
    let [value, width, long, between, hyphens] = arguments::bind("wordwrap", parameters, 1, args)?;
    let text = argument(state, "wordwrap", &value.unwrap_or_default())?;
    let width = width.map_or(Ok(79), |width| integer("wordwrap", &width))?;
    let width = usize::try_from(width).ok().filter(|width| *width > 0);
    let width = width.ok_or_else(|| error("wordwrap: the width must be greater than 0"))?;
    let between = match between.filter(repr::is_true) {
        None => "\n".to_owned(),
        Some(between) => argument(state, "wordwrap", &between)?,
    };
    let (long, hyphens) = (long.is_none_or(|long| long.is_true()), hyphens.is_none_or(|hyphens| hyphens.is_true()));
    limits::items(state, Some(text.len().min(1 << 20)))?;
    let wrapped: Vec<String> =
        strings::split_lines(&text, false).iter().map(|line| wrap(line, width, long, hyphens).join(&between)).collect();
    limits::text(state, Some(wrapped.iter().map(|line| line.len() + between.len()).sum()))?;
    Ok(Value::from(wrapped.join(&between)))
}

fn is_wrap_space(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\x0b' | '\x0c' | '\r' | ' ')
}

/// Words, white space and dashes, as Python's `textwrap` cuts a line.
fn chunks(line: &[char], hyphens: bool) -> Vec<Vec<char>> {
    let at = |index: usize| line.get(index).copied();
    let word = |c: Option<char>| c.is_some_and(|c| c == '_' || c.is_alphanumeric());
    let letter = |c: Option<char>| c.is_some_and(|c| c == '_' || c.is_alphabetic());
    let punctuated = |c: Option<char>| word(c) || c.is_some_and(|c| "!\"'&.,?".contains(c));
    let before = |index: usize, back: usize| index.checked_sub(back).and_then(at);
    // Dashes between words are a chunk of their own.
    let dashes = |start: usize| {
        let end = (start..line.len()).find(|index| line[*index] != '-').unwrap_or(line.len());
        (end - start >= 2 && punctuated(before(start, 1)) && word(at(end))).then_some(end)
    };
    let breaks = |index: usize| {
        let two = letter(before(index, 1)) && letter(before(index, 2));
        let three = letter(before(index, 1)) && before(index, 2) == Some('-') && letter(before(index, 3));
        let follows =
            letter(at(index + 1)) && (letter(at(index + 2)) || (at(index + 2) == Some('-') && letter(at(index + 3))));
        at(index) == Some('-') && (two || three) && follows
    };
    let mut out = Vec::new();
    let mut start = 0;
    while start < line.len() {
        let space = is_wrap_space(line[start]);
        let end = match dashes(start) {
            Some(end) if hyphens => end,
            _ => {
                let mut end = start + 1;
                while end < line.len() && is_wrap_space(line[end]) == space {
                    if hyphens && !space {
                        if breaks(end) {
                            end += 1;
                            break;
                        }
                        if dashes(end).is_some() {
                            break;
                        }
                    }
                    end += 1;
                }
                end
            }
        };
        out.push(line[start..end].to_vec());
        start = end;
    }
    out
}

/// `textwrap.wrap` of one line.
fn wrap(line: &str, width: usize, long: bool, hyphens: bool) -> Vec<String> {
    let line: Vec<char> = line.chars().collect();
    let mut rest: Vec<Vec<char>> = chunks(&line, hyphens);
    rest.reverse();
    let blank = |chunk: &Vec<char>| chunk.iter().all(|c| c.is_whitespace());
    let mut lines: Vec<String> = Vec::new();
    while !rest.is_empty() {
        if !lines.is_empty() && rest.last().is_some_and(blank) {
            rest.pop();
        }
        let (mut current, mut length): (Vec<Vec<char>>, usize) = (Vec::new(), 0);
        while let Some(chunk) = rest.pop_if(|chunk| length + chunk.len() <= width) {
            length += chunk.len();
            current.push(chunk);
        }
        if let Some(chunk) = rest.pop_if(|chunk| chunk.len() > width) {
            if long {
                let left = width - length;
                let hyphen = chunk[..left].iter().rposition(|c| *c == '-').filter(|_| hyphens);
                let hyphen = hyphen.filter(|at| *at > 0 && chunk[..*at].iter().any(|c| *c != '-'));
                let (head, tail) = chunk.split_at(hyphen.map_or(left, |at| at + 1));
                current.push(head.to_vec());
                rest.push(tail.to_vec());
            } else if current.is_empty() {
                current.push(chunk);
            } else {
                rest.push(chunk);
            }
        }
        current.pop_if(|chunk| blank(chunk));
        if !current.is_empty() {
            lines.push(current.concat().into_iter().collect());
        }
    }
    lines
}

fn filesizeformat(_: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [value, binary] = arguments::bind("filesizeformat", ["*value", "binary"], 1, args)?;
    let value = value.unwrap_or_default();
    let size = match (number(&value), value.as_str()) {
        (Some(number), _) => Some(number.float()),
        (None, Some(text)) => numbers::parse_float(text),
        _ => None,
    };
    let size =
        size.ok_or_else(|| error(format!("filesizeformat: could not convert {} to float", type_name(&value))))?;
    let (base, unit): (f64, &str) = if flag(binary) { (1024.0, "iB") } else { (1000.0, "B") };
    if size == 1.0 {
        return Ok(Value::from("1 Byte"));
    }
    if size < base {
        return Ok(Value::from(format!("{} Bytes", size.trunc() as i64)));
    }
    let mut power = base * base;
    let prefixes = if base == 1024.0 { "KMGTPEZY" } else { "kMGTPEZY" };
    for (index, prefix) in prefixes.chars().enumerate() {
        if size < power || index == 7 {
            return Ok(Value::from(format!("{:.1} {prefix}{unit}", base * size / power)));
        }
        power *= base;
    }
    Ok(Value::UNDEFINED)
}

/// `pprint.pformat`, of what fits a line.
fn pprint(state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [value] = arguments::bind("pprint", ["*value"], 1, args)?;
    let value = in_order(state, &value.unwrap_or_default(), 0)?;
    let text = repr::repr_of(state, &value)?;
    if text.chars().count() > 80 {
        return Err(error("pprint of a value that needs more than one line is not supported"));
    }
    Ok(Value::from(text))
}

/// A value whose dicts have their keys in order.
fn in_order(state: &State<'_, '_>, value: &Value, depth: usize) -> Result<Value, Error> {
    limits::visit(state, depth)?;
    match (value.kind(), type_name(value)) {
        (ValueKind::Map, "dict") => {
            let mut pairs = containers::pairs(state, value)?;
            sort(state, &mut pairs, |(key, _)| Ok(key.clone()), false)?;
            let pairs: Result<Vec<_>, Error> =
                pairs.into_iter().map(|(key, item)| Ok((key, in_order(state, &item, depth + 1)?))).collect();
            Ok(Value::from_pairs(pairs?))
        }
        (_, kind @ ("list" | "tuple")) => {
            let items = values::iterate(state, value)?;
            let items: Result<Vec<Value>, Error> = items.iter().map(|item| in_order(state, item, depth + 1)).collect();
            Ok(if kind == "tuple" { values::tuple(items?) } else { Value::from(items?) })
        }
        _ => Ok(value.clone()),
    }
}
