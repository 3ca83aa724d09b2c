//! Makes a template's source safe to run, and like Jinja's.
//!
//! Fuel bounds how long a template runs, but not how deeply it nests what it stores: a value that contains itself, or
//! one of many thousand levels, overflows the stack as soon as the engine prints, compares or drops it. So each
//! `{% set %}` is made to check what it stores.

use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error as JinjaError, ErrorKind as JinjaErrorKind, State};

use crate::{Error, Result};

/// Most levels of lists and maps in a stored value. Arguments and tool schemas have some ten.
const MAX_DEPTH: usize = 48;

/// Names of the checks, which a template's own words can't collide with by chance.
const STORED: &str = "foreturn_stored";
const STORED_WITHIN: &str = "foreturn_stored_within";

/// Gives an environment the checks that [`prepare`] writes into templates, and takes away what can't be bounded.
pub(super) fn install(env: &mut Environment<'_>) {
    env.set_recursion_limit(64);
    env.remove_global("debug");
    env.remove_filter("pprint");
    env.add_filter(STORED, |state: &State<'_, '_>, value: Value| store(state, value, false));
    env.add_filter(STORED_WITHIN, |state: &State<'_, '_>, value: Value| store(state, value, true));
}

/// Checks a value that is to be stored. Lazy sequences (`list + list`) become lists, so that none builds on another.
fn store(state: &State<'_, '_>, value: Value, within: bool) -> Result<Value, JinjaError> {
    check(state, &value, within, 0)?;
    match value.kind() {
        ValueKind::Iterable => Ok(Value::from(value.try_iter()?.collect::<Vec<Value>>())),
        _ => Ok(value),
    }
}

/// Refuses a value that is nested too deeply or, for storing it within a namespace, holds a namespace: it might be the
/// one that it's stored in.
fn check(state: &State<'_, '_>, value: &Value, within: bool, depth: usize) -> Result<(), JinjaError> {
    charge(state, depth)?;
    let Some(object) = value.as_object() else { return Ok(()) };
    if within && object.type_name().ends_with("Namespace") {
        return Err(JinjaError::new(JinjaErrorKind::InvalidOperation, "a namespace cannot be stored in a namespace"));
    }
    let kind = value.kind();
    if matches!(kind, ValueKind::Seq | ValueKind::Map | ValueKind::Iterable) {
        for item in value.try_iter()? {
            if kind == ValueKind::Map {
                check(state, &value.get_item(&item)?, within, depth + 1)?;
            }
            check(state, &item, within, depth + 1)?;
        }
    }
    Ok(())
}

/// Pays for visiting one value at this depth.
pub(super) fn charge(state: &State<'_, '_>, depth: usize) -> Result<(), JinjaError> {
    if depth > MAX_DEPTH {
        let message = format!("a value is nested more than {MAX_DEPTH} levels deep");
        return Err(JinjaError::new(JinjaErrorKind::InvalidOperation, message));
    }
    state.consume_fuel(1)
}

/// The source as it is compiled: line ends as Jinja reads them, `{% generation %}` tags without effect, and checks in
/// every `{% set … = … %}`.
pub(super) fn prepare(source: &str, origin: &str) -> Result<String> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len() + source.len() / 4);
    let mut rest = source.as_str();
    while let Some(start) = rest.find('{') {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let (length, inner) = match tag.as_bytes().get(1) {
            Some(b'#') => (tag.find("#}").map_or(tag.len(), |end| end + 2), None),
            Some(b'{') => (tag_length(tag, "}}"), None),
            Some(b'%') => {
                let length = tag_length(tag, "%}");
                (length, tag[..length].strip_prefix("{%").and_then(|tag| tag.strip_suffix("%}")))
            }
            _ => (1, None),
        };
        rest = &tag[length..];
        let Some(inner) = inner else {
            out.push_str(&tag[..length]);
            continue;
        };
        let rewritten = rewrite(inner).ok_or_else(|| {
            Error::invalid_model(format!("{origin} cannot be read: unbalanced brackets in `{{%{inner}%}}`"))
        })?;
        out.extend(["{%", &rewritten, "%}"]);
        if statement(inner) == "raw" {
            let end = raw_length(rest);
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// Length of a tag up to and with its end, by the rules of the engine's lexer: an end counts outside of strings and
/// brackets only.
fn tag_length(tag: &str, end: &str) -> usize {
    let mut scan = Brackets::default();
    for (at, c) in tag.char_indices().skip(2) {
        if scan.balance == 0 && scan.quote.is_none() && tag[at..].starts_with(end) {
            return at + end.len();
        }
        scan.step(c);
    }
    tag.len()
}

#[derive(Default)]
struct Brackets {
    balance: isize,
    quote: Option<char>,
    escaped: bool,
}

impl Brackets {
    fn step(&mut self, c: char) {
        match (self.quote, c) {
            (Some(_), _) if self.escaped => self.escaped = false,
            (Some(_), '\\') => self.escaped = true,
            (Some(quote), c) if c == quote => self.quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => self.quote = Some(c),
            (None, '(' | '[' | '{') => self.balance += 1,
            (None, ')' | ']' | '}') => self.balance -= 1,
            (None, _) => {}
        }
    }
}

/// The text between the marks of white-space control.
fn body(inner: &str) -> &str {
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner);
    inner.strip_suffix(['-', '+']).unwrap_or(inner)
}

/// Which statement a tag is.
fn statement(inner: &str) -> &str {
    let body = body(inner).trim_start();
    &body[..body.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(body.len())]
}

/// The inside of a tag as it shall be; `None` where its brackets don't match.
fn rewrite(inner: &str) -> Option<String> {
    match statement(inner) {
        // A block without effect, so that the white space around the tags is treated the same.
        "generation" => Some(inner.replacen("generation", "with", 1)),
        "endgeneration" => Some(inner.replacen("endgeneration", "endwith", 1)),
        "set" => {
            let (target, value) = match inner.split_once('=') {
                // `{% set x | filter(a=1) %}…{% endset %}` stores text.
                Some((target, value)) if !target.contains('|') => (target, value),
                _ => return Some(inner.to_owned()),
            };
            let expression = value.strip_suffix(['-', '+']).unwrap_or(value);
            let mut scan = Brackets::default();
            let closes_early = expression.chars().any(|c| {
                scan.step(c);
                scan.balance < 0
            });
            if closes_early || scan.balance != 0 {
                return None;
            }
            let check = if target.contains('.') { STORED_WITHIN } else { STORED };
            Some(format!("{target}=({expression})|{check}{}", &value[expression.len()..]))
        }
        _ => Some(inner.to_owned()),
    }
}

/// Length of what a `{% raw %}` block holds, up to its end tag.
fn raw_length(rest: &str) -> usize {
    let mut at = 0;
    while let Some(start) = rest[at..].find("{%") {
        let inner = &rest[at + start + 2..];
        let inner = &inner[..inner.find("%}").unwrap_or(inner.len())];
        if body(inner).trim() == "endraw" {
            return at + start;
        }
        at += start + 2;
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::prepare;

    #[test]
    fn only_assignments_and_generation_tags_change() {
        for (source, expected) in [
            ("a\r\nb\rc", "a\nb\nc"),
            ("{%- generation -%}x{%endgeneration%}", "{%- with -%}x{%endwith%}"),
            ("{% set x = 1 -%}", "{% set x =( 1 )|foreturn_stored-%}"),
            ("{%-set ns.x = {'a': '%}'}%}", "{%-set ns.x =( {'a': '%}'})|foreturn_stored_within%}"),
            ("{% set x %}{{ '{% set y = 1 %}' }}{% endset %}", "{% set x %}{{ '{% set y = 1 %}' }}{% endset %}"),
            ("{% set x | f(a=1) %}{# {% set y = 1 %} #}", "{% set x | f(a=1) %}{# {% set y = 1 %} #}"),
            ("{% raw %}{% set x = 1 %}{%- endraw %}{", "{% raw %}{% set x = 1 %}{%- endraw %}{"),
            ("{{ {'a': {}} ~ \"{#\" }}{%set x=1%}", "{{ {'a': {}} ~ \"{#\" }}{%set x=(1)|foreturn_stored%}"),
            ("{% for x in y %}{{ x", "{% for x in y %}{{ x"),
        ] {
            assert_eq!(prepare(source, "it").unwrap(), expected);
        }
        assert!(prepare("{% set x = y) if z else (y %}", "it").is_err());
    }
}
