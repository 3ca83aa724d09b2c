//! Writes the page: markup, style and script of this folder, and the data as JSON between them.
//!
//! A trace holds text of models and strangers. No part of it becomes markup: in the file it is JSON without any character
//! that HTML reads, and the script only makes text nodes of it. A content security policy names our style and our script by
//! hash and forbids everything else, including connections.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{Error, Result};

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = concat!(include_str!("page.js"), include_str!("futures.js"));

/// The whole page. `index` is read when the page opens, each of `rankings` when it is looked at.
pub(super) fn render<T: Serialize>(index: &impl Serialize, rankings: &[T]) -> Result<String> {
    let mut data = block("index", index)?;
    for (number, ranking) in rankings.iter().enumerate() {
        data += &block(&format!("ranking-{number}"), ranking)?;
    }
    let policy = format!(
        "default-src 'none'; style-src '{}'; script-src '{}'; base-uri 'none'; form-action 'none'",
        hash(STYLE),
        hash(SCRIPT)
    );
    Ok(fill(PAGE, &[("policy", &policy), ("style", STYLE), ("data", &data), ("script", SCRIPT)]))
}

/// Puts parts into a template in one pass, so that nothing in a part is taken for a place.
fn fill(template: &str, parts: &[(&str, &str)]) -> String {
    let mut page = String::with_capacity(template.len() + parts.iter().map(|(_, part)| part.len()).sum::<usize>());
    let mut rest = template;
    while let Some((before, place)) = rest.split_once("{{") {
        let (name, after) = place.split_once("}}").unwrap_or((place, ""));
        page += before;
        page += parts.iter().find(|(known, _)| *known == name).map_or("", |(_, part)| part);
        rest = after;
    }
    page + rest
}

/// A block of data, which a browser keeps as it is and does not run.
fn block(id: &str, value: &impl Serialize) -> Result<String> {
    let json = serde_json::to_string(value)
        .map_err(|error| Error::internal(format!("the data of the page can't be written as JSON: {error}")))?;
    Ok(format!("<script type=\"application/json\" id=\"{id}\">{}</script>\n", inert(&json)))
}

/// The same JSON without characters that have a meaning in HTML or end a line in a script. In JSON they occur only within
/// strings, where an escape says the same.
fn inert(json: &str) -> String {
    let mut safe = String::with_capacity(json.len() + json.len() / 16);
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => safe += &format!("\\u{:04x}", u32::from(c)),
            _ => safe.push(c),
        }
    }
    safe
}

/// A hash as content security policies have it.
fn hash(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn no_text_can_leave_its_block() {
        let hostile = json!("</script><script>alert(1)</script><!-- & \u{2028}\u{2029} {{script}} ]]> \0");
        let block = block("x", &hostile).unwrap();
        let inner = block.strip_prefix("<script type=\"application/json\" id=\"x\">").unwrap();
        let inner = inner.strip_suffix("</script>\n").unwrap();
        assert!(!inner.contains(['<', '>', '&', '\u{2028}', '\u{2029}', '\0']), "{inner}");
        assert_eq!(serde_json::from_str::<Value>(inner).unwrap(), hostile);
    }

    #[test]
    fn parts_are_not_templates() {
        assert_eq!(fill("a{{x}}b{{y}}c{{z}}", &[("x", "{{y}}"), ("y", "Y")]), "a{{y}}bYc");
    }

    #[test]
    fn hashes_are_those_of_the_policy() {
        // From the example of the Content Security Policy specification, level 3: "alert('Hello, world.');".
        assert_eq!(hash("alert('Hello, world.');"), "sha256-qznLcsROx4GACP2dm0UCKCzCG+HiZ1guq6ZZDob/Tng=");
    }

    #[test]
    fn our_own_parts_end_where_they_should() {
        for (part, tag) in [(STYLE, "</style"), (SCRIPT, "</script")] {
            assert!(!part.to_lowercase().contains(tag) && !part.contains("<!--"));
        }
        let page = render(&json!({}), &[json!({}), json!({})]).unwrap();
        assert_eq!(page.matches("<script").count(), 4);
        assert!(!page.contains("{{"));
    }
}
