//! An evaluation as one HTML page: columns, differences with their intervals, cost, and the conversations. The page loads
//! nothing and runs no script.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::Path;

use super::hold::EvaluatedConversation;
use super::summary::{Compared, Evaluation, PolicyCost};
use super::sweep;
use crate::chat::{Message, Role};
use crate::likeness::Likeness;
use crate::tasks::Places;
use crate::{Error, Result, files, json};

/// The most conversations that a page shows. Browsers take seconds to open a page with more.
pub(super) const MOST: usize = 1000;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#222;\
    background:#fff}table{border-collapse:collapse;margin:1em 0}th,td{padding:.25em .8em;text-align:right;\
    border-bottom:1px solid #ddd}th:first-child,td:first-child{text-align:left}summary{cursor:pointer}\
    .user,.assistant,.system{white-space:pre-wrap;margin:.4em 0;padding:.4em .8em;border-radius:.4em;background:#f2f2f2}\
    .assistant{background:#e8f0fb;margin-left:2em}.note{color:#666}\
    @media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}th,td{border-color:#444}\
    .user,.system{background:#262626}.assistant{background:#1d2a3d}.note{color:#999}}";

/// The page of the evaluation or the sweep in `folder`, which [`evaluate`](super::evaluate) or [`sweep`](super::sweep())
/// wrote.
///
/// # Errors
/// A file of the evaluation is missing or is none.
pub fn page(folder: impl AsRef<Path>) -> Result<String> {
    let folder = folder.as_ref();
    let places = Places::of(folder);
    if places.file("sweep.json").is_file() {
        return sweep::html(folder);
    }
    let evaluation: Evaluation = document(&places.file("evaluation.json"))?;
    let costs: Vec<PolicyCost> = document(&places.file("cost.json"))?;
    let mut html = begin("Evaluation");
    columns(&mut html, &evaluation);
    differences(&mut html, &evaluation.differences);
    cost(&mut html, &costs);
    likeness(&mut html, evaluation.likeness.as_ref());
    conversations(&mut html, &places.file("conversations.jsonl"))?;
    let _ = write!(html, "<p class=\"note\">{}</p></html>", text(&evaluation.program));
    Ok(html)
}

/// The beginning of a page.
pub(super) fn begin(title: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width,initial-scale=1\"><meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; style-src 'unsafe-inline'\"><title>{title}</title><style>{STYLE}</style>\
         <h1>{title}</h1>"
    )
}

fn document<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let read = files::read(path, files::Kind::INPUT)?;
    json::parse(&read).map_err(|e| Error::invalid_request(format!("{}: {e}", path.display())))
}

/// A text as HTML shows it. Models write it, so nothing in it is markup.
pub(super) fn text(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // HTML has no other control characters.
            c if c.is_control() && !matches!(c, '\n' | '\t') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

pub(super) fn row(html: &mut String, cell: &str, cells: impl IntoIterator<Item = String>) {
    html.push_str("<tr>");
    cells.into_iter().for_each(|content| {
        let _ = write!(html, "<{cell}>{content}</{cell}>");
    });
    html.push_str("</tr>");
}

pub(super) fn number(number: f64) -> String {
    if number.abs() >= 1e6 { format!("{number:.3e}") } else { format!("{number:.3}") }
}

fn columns(html: &mut String, evaluation: &Evaluation) {
    let mut names: Vec<&str> =
        evaluation.policies.iter().flat_map(|policy| policy.columns.keys().map(String::as_str)).collect();
    names.sort_unstable();
    names.dedup();
    html.push_str("<table>");
    row(html, "th", ["policy", "conversations"].into_iter().chain(names.iter().copied()).map(text));
    for policy in &evaluation.policies {
        let cell = |name: &&str| match policy.columns.get(*name) {
            Some(column) => match column.std_error {
                Some(error) => format!("{} ± {}", number(column.mean), number(error)),
                None => number(column.mean),
            },
            None => "–".into(),
        };
        let first = [text(&policy.name), policy.conversations.to_string()];
        row(html, "td", first.into_iter().chain(names.iter().map(cell)));
    }
    html.push_str("</table><p class=\"note\">Means over tasks ± standard errors.");
    if evaluation.set_aside > 0 {
        let _ = write!(html, " {} set aside: see failed.jsonl.", evaluation.set_aside);
    }
    html.push_str("</p>");
}

fn differences(html: &mut String, differences: &[Compared]) {
    if differences.is_empty() {
        return;
    }
    html.push_str("<h2>Differences by task</h2><table>");
    row(html, "th", ["policy", "minus", "column", "difference", "95% interval", "", "tasks"].map(String::from));
    for compared in differences {
        let difference = &compared.difference;
        let interval = difference.interval;
        let shown = interval.map_or_else(|| "–".into(), |[low, high]| format!("[{}, {}]", number(low), number(high)));
        let names = [&compared.policy, &compared.minus, &compared.column].map(|name| text(name));
        let bar = interval.map_or_else(String::new, |interval| bar(difference.mean, interval));
        let numbers = [number(difference.mean), shown, bar, compared.tasks.to_string()];
        row(html, "td", names.into_iter().chain(numbers));
    }
    html.push_str("</table>");
}

/// An interval beside zero, which is the line in the middle.
pub(super) fn bar(mean: f64, [low, high]: [f64; 2]) -> String {
    const HALF: f64 = 90.0;
    let widest = low.abs().max(high.abs()).max(f64::MIN_POSITIVE);
    let x = |value: f64| HALF * (1.0 + value / widest) + 5.0;
    let [low, mean, high] = [low, mean, high].map(x);
    let width = 2.0 * HALF + 10.0;
    let middle = width / 2.0;
    format!(
        "<svg width=\"{width}\" height=\"16\" role=\"img\" aria-label=\"interval\"><path d=\"M{middle} 0V16\" \
         stroke=\"#999\"/><path d=\"M{low:.1} 8H{high:.1}\" stroke=\"#3a6fb7\" stroke-width=\"3\"/><circle cx=\"{mean:.1}\" \
         cy=\"8\" r=\"4\" fill=\"#3a6fb7\"/></svg>"
    )
}

fn cost(html: &mut String, costs: &[PolicyCost]) {
    html.push_str("<h2>Cost of a conversation</h2><table>");
    let heads = ["policy", "role", "thousands of tokens in", "out", "from the cache (all roles)", "seconds"];
    row(html, "th", heads.map(String::from));
    for policy in costs {
        for (at, (role, tokens)) in policy.roles.iter().enumerate() {
            let all = if at == 0 { [number(policy.reused_k), number(policy.seconds)] } else { Default::default() };
            let first = [text(&policy.policy), role.as_str().to_owned(), number(tokens.in_k), number(tokens.out_k)];
            row(html, "td", first.into_iter().chain(all));
        }
    }
    html.push_str("</table>");
}

fn likeness(html: &mut String, likeness: Option<&Likeness>) {
    let Some(likeness) = likeness else { return };
    html.push_str("<h2>Simulated users beside real ones</h2><table>");
    row(html, "th", ["feature", "simulated", "real", "difference in deviations"].map(String::from));
    for feature in &likeness.features {
        let numbers = [feature.simulated, feature.real, feature.standardised].map(number);
        row(html, "td", [text(&feature.name)].into_iter().chain(numbers));
    }
    let auc = likeness.separability.map_or_else(String::new, |found| {
        let [low, high] = found.interval.map(number);
        format!(" A classifier's AUC is {} [{low}, {high}].", number(found.auc))
    });
    let _ = write!(
        html,
        "</table><p class=\"note\">Distance {} deviations, {} simulated and {} real conversations.{auc}</p>",
        number(likeness.distance),
        likeness.simulated,
        likeness.real
    );
}

fn conversations(html: &mut String, path: &Path) -> Result<()> {
    let (file, _) = files::open(path).map_err(|e| Error::io("read", path, e))?;
    html.push_str("<h2>Conversations</h2>");
    let mut more = 0;
    for (at, line) in BufReader::new(file).split(b'\n').enumerate() {
        let line = line.map_err(|e| Error::io("read", path, e))?;
        if at >= MOST {
            more += 1;
            continue;
        }
        let held: EvaluatedConversation = json::parse(&line)
            .map_err(|e| Error::invalid_request(format!("{}, line {}: {e}", path.display(), at + 1)))?;
        let metrics: Vec<String> =
            held.metrics.iter().map(|(name, value)| format!("{} {}", text(name), number(*value))).collect();
        let _ = write!(
            html,
            "<details><summary>{} · {} · reward {} · {}</summary><p class=\"note\">{}; ended by {}</p>",
            text(&held.policy),
            text(&held.id),
            number(held.reward),
            if held.turns == 1 { "1 turn".to_owned() } else { format!("{} turns", held.turns) },
            metrics.join(", "),
            held.ended.as_str()
        );
        messages(html, &held.messages);
        html.push_str("</details>");
    }
    if more > 0 {
        let _ = write!(html, "<p class=\"note\">{more} more are in conversations.jsonl.</p>");
    }
    Ok(())
}

/// What was said.
pub(super) fn messages(html: &mut String, said: &[Message]) {
    for message in said {
        let role = match message.role {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        };
        let _ = write!(html, "<div class=\"{role}\">{}</div>", text(&message.content));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_model_writes_is_markup() {
        assert_eq!(text("<script>\"&'\u{0}\n"), "&lt;script&gt;&quot;&amp;&#39;\u{fffd}\n");
    }

    #[test]
    fn intervals_stand_where_they_belong() {
        // Zero is at 95, and the widest bound 90 away from it.
        let drawn = bar(0.5, [0.0, 1.0]);
        assert!(drawn.contains("M95.0 8H185.0") && drawn.contains("cx=\"140.0\""), "{drawn}");
        assert!(bar(-1.0, [-2.0, 0.0]).contains("M5.0 8H95.0"));
        assert!(!bar(0.0, [0.0, 0.0]).contains("NaN"));
    }
}
