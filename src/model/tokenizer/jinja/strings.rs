//! Methods of Python's `str`.

use minijinja::value::Value;
use minijinja::{Error, State};

use super::lexer::is_space;
use super::values::{self, Bytes, Number, number, type_name};
use super::{arguments, case, error, limits, str_format};

/// Calls a method of a text.
pub(super) fn call(state: &mut State<'_, '_>, text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    limits::bytes(state, text.len())?;
    match name {
        "split" | "rsplit" => split_call(state, text, name, args),
        "strip" | "lstrip" | "rstrip" => strip(text, name, args),
        "find" | "rfind" | "index" | "rindex" | "count" => search(state, text, name, args),
        "startswith" | "endswith" => affix(text, name, args),
        "center" | "ljust" | "rjust" => justify(state, text, name, args),
        "removeprefix" | "removesuffix" => {
            let [affix] = arguments::bind(name, ["*affix"], 1, args)?;
            let affix = text_of(name, &affix)?;
            let rest = if name == "removeprefix" { text.strip_prefix(&*affix) } else { text.strip_suffix(&*affix) };
            Ok(Value::from(rest.unwrap_or(text)))
        }
        "partition" | "rpartition" => partition(text, name, args),
        "splitlines" => {
            let [keep] = arguments::bind(name, ["keepends"], 0, args)?;
            let keep = keep.map_or(Ok(0), |keep| integer(name, &keep))? != 0;
            Ok(Value::from(split_lines(text, keep).into_iter().map(Value::from).collect::<Vec<_>>()))
        }
        "replace" => {
            let [old, new, count] = arguments::bind(name, ["*old", "*new", "*count"], 2, args)?;
            let count = count.map_or(Ok(-1), |count| integer(name, &count))?;
            replace(state, text, &text_of(name, &old)?, &text_of(name, &new)?, count).map(Value::from)
        }
        "join" => join_call(state, text, args),
        "zfill" => {
            let [width] = arguments::bind(name, ["*width"], 1, args)?;
            zfill(state, text, integer(name, &width.unwrap_or_default())?)
        }
        "expandtabs" => {
            let [size] = arguments::bind(name, ["tabsize"], 0, args)?;
            expand_tabs(state, text, size.map_or(Ok(8), |size| integer(name, &size))?)
        }
        "encode" => encode(text, args),
        "format" => {
            let (positional, named) = arguments::split(args);
            str_format::format(state, text, positional, &named).map(Value::from)
        }
        "format_map" => {
            let [map] = arguments::bind(name, ["*mapping"], 1, args)?;
            str_format::format_map(state, text, &map.unwrap_or_default()).map(Value::from)
        }
        "translate" => translate(state, text, args),
        "maketrans" => make_translation(state, args),
        _ => {
            arguments::none(name, args)?;
            case::simple(text, name)
        }
    }
}

fn text_of(name: &str, value: &Option<Value>) -> Result<String, Error> {
    match value.as_ref().and_then(Value::as_str) {
        Some(text) => Ok(text.to_owned()),
        None => {
            let kind = value.as_ref().map_or("nothing", type_name);
            Err(error(format!("{name}: expected str, not {kind}")))
        }
    }
}

pub(super) fn integer(name: &str, value: &Value) -> Result<i64, Error> {
    match number(value) {
        Some(Number::Int(value)) => {
            i64::try_from(value).map_err(|_| error(format!("{name}: {value} is out of bounds")))
        }
        _ => Err(error(format!("{name}: '{}' object cannot be interpreted as an integer", type_name(value)))),
    }
}

fn strip(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let [chars] = arguments::bind(name, ["*chars"], 0, args)?;
    let chars = match chars.filter(|chars| !chars.is_none()) {
        None => None,
        some => Some(text_of(name, &some)?),
    };
    Ok(Value::from(stripped(text, name, chars.as_deref())))
}

/// `strip`, `lstrip` or `rstrip`, of these characters or of white space.
pub(super) fn stripped<'a>(text: &'a str, name: &str, chars: Option<&str>) -> &'a str {
    let strips = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    match name {
        "lstrip" => text.trim_start_matches(strips),
        "rstrip" => text.trim_end_matches(strips),
        _ => text.trim_matches(strips),
    }
}

fn split_call(state: &State<'_, '_>, text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let [separator, most] = arguments::bind(name, ["sep", "maxsplit"], 0, args)?;
    let most = most.map_or(Ok(-1), |most| integer(name, &most))?;
    let most = usize::try_from(most).unwrap_or(usize::MAX - 1);
    let mut parts: Vec<&str> = match separator.filter(|separator| !separator.is_none()) {
        None => split_space(text, most, name == "rsplit"),
        separator => {
            let separator = text_of(name, &separator)?;
            if separator.is_empty() {
                return Err(error("empty separator"));
            }
            match name {
                "split" => text.splitn(most + 1, separator.as_str()).collect(),
                _ => text.rsplitn(most + 1, separator.as_str()).collect(),
            }
        }
    };
    limits::items(state, Some(parts.len()))?;
    if name == "rsplit" {
        parts.reverse();
    }
    Ok(Value::from(parts.into_iter().map(Value::from).collect::<Vec<_>>()))
}

/// Words, at most that many and the rest; from the end, and so in reverse, where `backwards`.
fn split_space(text: &str, most: usize, backwards: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_matches(is_space);
    let outside = if backwards { text.trim_end_matches(is_space) } else { text.trim_start_matches(is_space) };
    if most < usize::MAX - 1 {
        rest = outside;
    }
    while !rest.is_empty() {
        let cut = if parts.len() == most {
            None
        } else if backwards {
            rest.rfind(is_space)
        } else {
            rest.find(is_space)
        };
        let Some(at) = cut else {
            parts.push(rest);
            break;
        };
        let space = rest[at..].chars().next().map_or(0, char::len_utf8);
        let (before, after) = (&rest[..at], &rest[at + space..]);
        let (part, remaining) = if backwards { (after, before) } else { (before, after) };
        parts.push(part);
        rest = if backwards { remaining.trim_end_matches(is_space) } else { remaining.trim_start_matches(is_space) };
    }
    parts
}

/// The places between which a search goes on, in bytes; `None` where they are out of bounds.
fn window(text: &str, start: Option<i64>, end: Option<i64>) -> Option<(usize, usize)> {
    if start.is_none() && end.is_none() {
        return Some((0, text.len()));
    }
    let length = text.chars().count() as i64;
    let adjust = |bound: i64| if bound < 0 { (bound.saturating_add(length)).max(0) } else { bound };
    let (start, end) = (adjust(start.unwrap_or(0)), adjust(end.unwrap_or(length)).min(length));
    if start > end {
        return None;
    }
    let offset = |index: i64| text.char_indices().map(|(at, _)| at).nth(index as usize).unwrap_or(text.len());
    Some((offset(start), offset(end)))
}

fn bound(name: &str, value: Option<Value>) -> Result<Option<i64>, Error> {
    value.filter(|value| !value.is_none()).map(|value| integer(name, &value)).transpose()
}

fn search(state: &State<'_, '_>, text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let [part, start, end] = arguments::bind(name, ["*sub", "*start", "*end"], 1, args)?;
    let part = text_of(name, &part)?;
    limits::bytes(state, part.len())?;
    let found = window(text, bound(name, start)?, bound(name, end)?).map(|(from, to)| (from, &text[from..to]));
    if name == "count" {
        let count = found.map_or(0, |(_, within)| {
            if part.is_empty() { within.chars().count() + 1 } else { within.matches(part.as_str()).count() }
        });
        return Ok(Value::from(count));
    }
    let first = matches!(name, "find" | "index");
    let at = found.and_then(|(from, within)| {
        let at = if first { within.find(&part) } else { within.rfind(&part) };
        at.map(|at| text[..from + at].chars().count())
    });
    match at {
        Some(at) => Ok(Value::from(at)),
        None if matches!(name, "find" | "rfind") => Ok(Value::from(-1)),
        None => Err(error("substring not found")),
    }
}

fn affix(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let [affixes, start, end] = arguments::bind(name, ["*affix", "*start", "*end"], 1, args)?;
    let affixes = affixes.unwrap_or_default();
    let affixes: Vec<Value> = if affixes.is_tuple() { affixes.try_iter()?.collect() } else { vec![affixes] };
    let within = window(text, bound(name, start)?, bound(name, end)?).map(|(from, to)| &text[from..to]);
    let mut found = false;
    for affix in affixes {
        let affix = text_of(name, &Some(affix))?;
        found |= within.is_some_and(|within| {
            if name == "startswith" { within.starts_with(&affix) } else { within.ends_with(&affix) }
        });
    }
    Ok(Value::from(found))
}

fn partition(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let [separator] = arguments::bind(name, ["*sep"], 1, args)?;
    let separator = text_of(name, &separator)?;
    if separator.is_empty() {
        return Err(error("empty separator"));
    }
    let first = name == "partition";
    let parts = if first { text.split_once(&separator) } else { text.rsplit_once(&separator) };
    let parts = match parts {
        Some((before, after)) => [before, &separator, after],
        None if first => [text, "", ""],
        None => ["", "", text],
    };
    Ok(values::tuple(parts.map(Value::from).to_vec()))
}

/// `str.splitlines`, whose line ends are more than `\n`.
pub(super) fn split_lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let is_end =
        |c: char| matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let content = rest.find(is_end).unwrap_or(rest.len());
        let after = &rest[content..];
        let end = if after.starts_with("\r\n") { 2 } else { after.chars().next().map_or(0, char::len_utf8) };
        lines.push(if keep_ends { &rest[..content + end] } else { &rest[..content] });
        rest = &after[end..];
    }
    lines
}

/// `str.replace`, which pays for what it makes before it's made.
pub(super) fn replace(state: &State<'_, '_>, text: &str, old: &str, new: &str, count: i64) -> Result<String, Error> {
    let found = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() };
    let count = usize::try_from(count).unwrap_or(usize::MAX).min(found);
    limits::text(state, count.checked_mul(new.len()).and_then(|more| more.checked_add(text.len())))?;
    Ok(text.replacen(old, new, count))
}

fn join_call(state: &State<'_, '_>, separator: &str, args: &[Value]) -> Result<Value, Error> {
    let [items] = arguments::bind("join", ["*iterable"], 1, args)?;
    let items = items.unwrap_or_default();
    let mut out = String::new();
    for (index, item) in values::iterate(state, &items)?.into_iter().enumerate() {
        let before = out.len();
        if index > 0 {
            out.push_str(separator);
        }
        match item.as_str() {
            Some(text) => out.push_str(text),
            None => {
                let kind = type_name(&item);
                return Err(error(format!("sequence item {index}: expected str instance, {kind} found")));
            }
        }
        limits::grown(state, before, out.len())?;
    }
    Ok(Value::from(out))
}

/// Text in the middle, or at a side, of so many characters.
pub(super) fn justified(
    state: &State<'_, '_>,
    text: &str,
    name: &str,
    width: i64,
    fill: char,
) -> Result<String, Error> {
    let length = text.chars().count();
    let missing = usize::try_from(width).unwrap_or(0).saturating_sub(length);
    limits::text(state, missing.checked_mul(fill.len_utf8()).and_then(|more| more.checked_add(text.len())))?;
    let left = match name {
        "ljust" => 0,
        "rjust" => missing,
        // CPython's rounding: to the left where width and padding are both odd.
        _ => missing / 2 + (missing & usize::try_from(width).unwrap_or(0) & 1),
    };
    let fill = |count| std::iter::repeat_n(fill, count);
    Ok(fill(left).chain(text.chars()).chain(fill(missing - left)).collect())
}

fn justify(state: &State<'_, '_>, text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let [width, fill] = arguments::bind(name, ["*width", "*fillchar"], 1, args)?;
    let fill = fill.map_or(Ok(" ".to_owned()), |fill| text_of(name, &Some(fill)))?;
    let mut chars = fill.chars();
    let (Some(fill), None) = (chars.next(), chars.next()) else {
        return Err(error("the fill character must be exactly one character long"));
    };
    justified(state, text, name, integer(name, &width.unwrap_or_default())?, fill).map(Value::from)
}

fn zfill(state: &State<'_, '_>, text: &str, width: i64) -> Result<Value, Error> {
    let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
    let digits = justified(state, digits, "rjust", width.saturating_sub(sign.len() as i64), '0')?;
    Ok(Value::from(format!("{sign}{digits}")))
}

fn expand_tabs(state: &State<'_, '_>, text: &str, size: i64) -> Result<Value, Error> {
    let size = usize::try_from(size).unwrap_or(0);
    limits::text(state, text.matches('\t').count().checked_mul(size).and_then(|more| more.checked_add(text.len())))?;
    let (mut out, mut column) = (String::new(), 0);
    for c in text.chars() {
        match c {
            '\t' => {
                let width = if size > 0 { size - column % size } else { 0 };
                out.extend(std::iter::repeat_n(' ', width));
                column += width;
            }
            '\n' | '\r' => {
                out.push(c);
                column = 0;
            }
            c => {
                out.push(c);
                column += 1;
            }
        }
    }
    Ok(Value::from(out))
}

/// `str.translate` by a dict from a character's number to a number, a text or none.
fn translate(state: &State<'_, '_>, text: &str, args: &[Value]) -> Result<Value, Error> {
    let [table] = arguments::bind("translate", ["*table"], 1, args)?;
    let table = table.unwrap_or_default();
    if !values::is_dict(&table) {
        return Err(error(format!("translate by a {} is not supported", type_name(&table))));
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let before = out.len();
        match values::lookup(&table, &Value::from(u32::from(c))) {
            None => out.push(c),
            Some(new) if new.is_none() => {}
            Some(new) => match (new.as_str(), number(&new)) {
                (Some(new), _) => out.push_str(new),
                (None, Some(Number::Int(code))) => {
                    let c = u32::try_from(code).ok().and_then(char::from_u32);
                    out.push(c.ok_or_else(|| error(format!("translate: {code} is not a character's number")))?);
                }
                _ => return Err(error("character mapping must return integer, None or str")),
            },
        }
        limits::grown(state, before, out.len())?;
    }
    Ok(Value::from(out))
}

/// `str.maketrans`.
fn make_translation(state: &State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [from, to, gone] = arguments::bind("maketrans", ["*x", "*y", "*z"], 1, args)?;
    let code = |c: char| Value::from(u32::from(c));
    let mut pairs = Vec::new();
    if let Some(to) = to {
        let (from, to) = (text_of("maketrans", &from)?, text_of("maketrans", &Some(to))?);
        if from.chars().count() != to.chars().count() {
            return Err(error("the first two maketrans arguments must have equal length"));
        }
        pairs.extend(from.chars().map(code).zip(to.chars().map(code)));
        if gone.is_some() {
            pairs.extend(text_of("maketrans", &gone)?.chars().map(|c| (code(c), Value::from(()))));
        }
        return Ok(Value::from_pairs(pairs));
    }
    let table = from.unwrap_or_default();
    if !values::is_dict(&table) {
        return Err(error("if you give only one argument to maketrans it must be a dict"));
    }
    for (key, new) in super::containers::pairs(state, &table)? {
        let key = match key.as_str() {
            Some(text) if text.chars().count() == 1 => text.chars().next().map_or(key.clone(), code),
            Some(_) => return Err(error("string keys in translate table must be of length 1")),
            None => key,
        };
        pairs.push((key, new));
    }
    Ok(Value::from_pairs(pairs))
}

fn encode(text: &str, args: &[Value]) -> Result<Value, Error> {
    let [encoding, errors] = arguments::bind("encode", ["encoding", "errors"], 0, args)?;
    let encoding = encoding.map_or(Ok("utf-8".to_owned()), |encoding| text_of("encode", &Some(encoding)))?;
    let is_utf8 = matches!(encoding.to_lowercase().replace('_', "-").as_str(), "utf-8" | "utf8");
    if !is_utf8 || errors.is_some() {
        return Err(error(format!("encode: only utf-8 is supported, not {encoding}")));
    }
    Ok(Value::from_object(Bytes(text.as_bytes().to_vec())))
}

/// Methods of bytes.
pub(super) fn call_bytes(value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let bytes = value.downcast_object_ref::<Bytes>().map_or(&[][..], |bytes| &bytes.0);
    arguments::none(name, args)?;
    match (name, std::str::from_utf8(bytes)) {
        ("decode", Ok(text)) => Ok(Value::from(text)),
        ("hex", _) => Ok(Value::from(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())),
        _ => Err(error(format!("the method `{name}` of bytes is not supported"))),
    }
}
