//! Snippets of Jinja against what transformers' template environment makes of them
//! (`tests/reference/make_jinja_fixtures.py`).
//!
//! Each gives the same text, or ends with an error where Jinja does, or is refused and stands in `refused.txt`, with
//! words that the error has to have. A text that differs in silence fails.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::model::tokenizer::template::{ChatTemplate, View};

#[derive(Deserialize)]
struct Snippet {
    template: String,
    text: Option<String>,
    error: Option<String>,
    /// The text is another one each time.
    #[serde(default)]
    varies: bool,
}

/// What a template gives for "Hi".
pub(super) fn render(template: &str) -> Result<String, String> {
    let template = ChatTemplate::compile(template, "it".to_owned()).map_err(|e| e.to_string())?;
    let view = View {
        messages: &[("user", "Hi")],
        add_generation_prompt: false,
        named: &Map::new(),
        arguments: &Map::new(),
        date: "2024-07-26".parse().unwrap(),
    };
    template.render(view).map_err(|e| e.to_string())
}

#[test]
fn snippets_render_as_in_jinja_or_are_refused_by_name() {
    let snippets: Vec<Snippet> =
        serde_json::from_str(include_str!("../../../../tests/fixtures/jinja/snippets.json")).unwrap();
    let refused = include_str!("../../../../tests/fixtures/jinja/refused.txt");
    let mut refused: BTreeMap<String, &str> = refused
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (template, words) = line.rsplit_once('\t').expect("a template, a tab, and words of the error");
            (serde_json::from_str(template).expect("a template as JSON"), words)
        })
        .collect();
    let mut wrong = Vec::new();
    for snippet in &snippets {
        let listed = refused.remove(&snippet.template);
        let problem = match (&snippet.text, render(&snippet.template)) {
            (Some(expected), Ok(text)) if *expected == text => {
                listed.map(|_| "is right, and listed as refused".to_owned())
            }
            (Some(expected), Ok(text)) => Some(format!("gives {text:?}, not {expected:?}")),
            (None, Ok(text)) if snippet.varies => Some(format!("gives {text:?}, where Jinja gives another each time")),
            (None, Ok(text)) => Some(format!("gives {text:?}, not the error {:?}", snippet.error)),
            (None, Err(_)) => listed.map(|_| "needs no line in the list: Jinja refuses it, too".to_owned()),
            (Some(expected), Err(e)) => match listed {
                Some(words) if e.contains(words) => None,
                _ => Some(format!("REFUSED {e}; Jinja gives {expected:?}")),
            },
        };
        wrong.extend(
            problem.map(|problem| format!("{}\n    {problem}", serde_json::to_string(&snippet.template).unwrap())),
        );
    }
    wrong.extend(refused.keys().map(|template| format!("{template:?} is listed, but no snippet")));
    assert!(wrong.is_empty(), "{} of {} snippets:\n{}", wrong.len(), snippets.len(), wrong.join("\n"));
}

/// `tests/reference/make_published_template_fixtures.py`
#[derive(Deserialize)]
struct Published {
    date: String,
    named: Map<String, Value>,
    cases: Vec<Case>,
    /// For each template and case the text's SHA-256, or the error.
    templates: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize)]
struct Case {
    messages: Vec<Said>,
    arguments: Map<String, Value>,
    add_generation_prompt: bool,
}

#[derive(Deserialize)]
struct Said {
    role: String,
    content: String,
}

fn hash(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn templates_that_trl_carries_render_as_in_transformers() {
    assert_rendered_as_in_transformers("trl", include_str!("../../../../tests/fixtures/templates/trl.json"));
}

#[test]
fn templates_that_llama_cpp_carries_render_as_in_transformers() {
    assert_rendered_as_in_transformers(
        "llama_cpp",
        include_str!("../../../../tests/fixtures/templates/llama_cpp.json"),
    );
}

fn assert_rendered_as_in_transformers(source: &str, fixture: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/downloads/templates").join(source);
    let published: Published = serde_json::from_str(fixture).unwrap();
    // `make test` fetches them; without the network there is nothing to compare with.
    if !folder.exists() {
        return;
    }
    let mut wrong = Vec::new();
    for (name, expected) in &published.templates {
        let source = std::fs::read_to_string(folder.join(name)).expect(name);
        let template = ChatTemplate::compile(&source, name.clone()).unwrap_or_else(|e| panic!("{e}"));
        for (index, (case, expected)) in published.cases.iter().zip(expected).enumerate() {
            let messages: Vec<(&str, &str)> = case.messages.iter().map(|said| (&*said.role, &*said.content)).collect();
            let rendered = template.render(View {
                messages: &messages,
                add_generation_prompt: case.add_generation_prompt,
                named: &published.named,
                arguments: &case.arguments,
                date: published.date.parse().unwrap(),
            });
            match (expected.strip_prefix("error: "), rendered) {
                (Some(_), Err(_)) => {}
                (None, Ok(text)) if hash(&text) == *expected => {}
                (Some(expected), Ok(text)) => wrong.push(format!("{name}, case {index}: {text:?}, not {expected}")),
                (None, rendered) => wrong.push(format!("{name}, case {index}: {rendered:?}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{} renderings:\n{}", wrong.len(), wrong.join("\n"));
}
