//! Snippets of Jinja against what transformers' template environment makes of them
//! (`tests/reference/make_jinja_fixtures.py`).
//!
//! Each gives the same text, or ends with an error where Jinja does, or is refused and stands in `refused.txt`, with
//! words that the error has to have. A text that differs in silence fails.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Map;

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

fn render(template: &str) -> Result<String, String> {
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
            (Some(expected), Ok(text)) if *expected == text => listed.map(|_| "is right, and listed as refused".to_owned()),
            (Some(expected), Ok(text)) => Some(format!("gives {text:?}, not {expected:?}")),
            (None, Ok(text)) if snippet.varies => Some(format!("gives {text:?}, where Jinja gives another each time")),
            (None, Ok(text)) => Some(format!("gives {text:?}, not the error {:?}", snippet.error)),
            (None, Err(_)) => listed.map(|_| "needs no line in the list: Jinja refuses it, too".to_owned()),
            (Some(expected), Err(e)) => match listed {
                Some(words) if e.contains(words) => None,
                _ => Some(format!("REFUSED {e}; Jinja gives {expected:?}")),
            },
        };
        wrong.extend(problem.map(|problem| format!("{}\n    {problem}", serde_json::to_string(&snippet.template).unwrap())));
    }
    wrong.extend(refused.keys().map(|template| format!("{template:?} is listed, but no snippet")));
    assert!(wrong.is_empty(), "{} of {} snippets:\n{}", wrong.len(), snippets.len(), wrong.join("\n"));
}
