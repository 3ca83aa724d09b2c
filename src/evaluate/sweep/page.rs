//! A sweep as CSV, and as a page.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::Path;

use super::row::Swept;
use super::summary::{Agreement, KindResult, Sweep, parse};
use crate::evaluate::page::{self, MOST, bar, number, row, text};
use crate::evaluate::summary::Column;
use crate::evaluate::table;
use crate::tasks::Places;
use crate::{Error, Result, files, json};

/// The columns of a kind by name.
fn columns(kind: &KindResult) -> [(&'static str, Option<Column>); 7] {
    [
        ("reward", kind.reward),
        ("chosen", kind.chosen),
        ("repeat", kind.repeat),
        ("tokens_k", kind.tokens_k),
        ("noise", kind.noise),
        ("noise_at_1k", kind.noise_at_1k),
        ("between", kind.between),
    ]
}

/// A line for each column of each kind, for each difference, and for each agreement. `other` is the kind that is subtracted, or
/// with which it agrees.
pub(super) fn csv(sweep: &Sweep) -> Vec<String> {
    let mut lines = vec!["kind,other,column,mean,std_error,low,high,tasks".to_owned()];
    let mut add = |names: [&str; 3], column: Option<Column>| {
        if let Some(Column { mean, std_error, interval, tasks }) = column {
            lines.push(table::line(names, (mean, std_error, interval, tasks)));
        }
    };
    for kind in &sweep.kinds {
        columns(kind).into_iter().for_each(|(name, column)| add([&kind.name, "", name], column));
        let tasks = kind.between.map_or(0, |column| column.tasks);
        let plain = kind.reliability_at_1k.map(|mean| Column { mean, std_error: None, interval: None, tasks });
        add([&kind.name, "", "reliability_at_1k"], plain);
    }
    add(["", "", "unchosen"], sweep.unchosen);
    for compared in &sweep.differences {
        let (of, tasks) = (compared.difference, compared.tasks);
        let column = Column { mean: of.mean, std_error: of.std_error, interval: of.interval, tasks };
        add([&compared.kind, &compared.minus, "chosen"], Some(column));
    }
    for Agreement { kind, with, same, apart } in &sweep.agreement {
        add([kind, with, "agreement"], *same);
        add([kind, with, "agreement_apart"], *apart);
    }
    lines
}

fn shown(column: Option<Column>) -> String {
    match column {
        Some(Column { mean, std_error: Some(error), .. }) => format!("{} ± {}", number(mean), number(error)),
        Some(Column { mean, .. }) => number(mean),
        None => "–".into(),
    }
}

fn interval(interval: Option<[f64; 2]>) -> String {
    interval.map_or_else(|| "–".into(), |[low, high]| format!("[{}, {}]", number(low), number(high)))
}

/// The page of the sweep in `folder`.
pub(in crate::evaluate) fn html(folder: &Path) -> Result<String> {
    let path = Places::of(folder).file("sweep.json");
    let sweep = parse(&files::read(&path, files::Kind::INPUT)?).map_err(|e| e.context(path.display()))?;
    let mut html = page::begin("Kinds of reward");
    let _ = write!(html, "<p>Responses of {}.</p>", text(&sweep.policy));
    kinds(&mut html, &sweep);
    differences(&mut html, &sweep);
    agreement(&mut html, &sweep);
    responses(&mut html, &Places::of(folder).file("responses.jsonl"))?;
    let _ = write!(html, "<p class=\"note\">{}</p></html>", text(&sweep.program));
    Ok(html)
}

fn kinds(html: &mut String, sweep: &Sweep) {
    html.push_str("<table>");
    let heads = [
        "kind",
        "reward",
        "R* of what it chooses",
        "95% interval",
        "agreement with itself",
        "thousands of tokens",
        "noise of a sample",
        "noise at 1,000 tokens",
        "reliability at 1,000 tokens",
    ];
    row(html, "th", heads.map(String::from));
    for kind in &sweep.kinds {
        let chosen = kind.chosen.and_then(|column| column.interval);
        let reliability = kind.reliability_at_1k.map_or_else(|| "–".into(), number);
        let name = text(&kind.name);
        let numbers = [kind.repeat, kind.tokens_k, kind.noise, kind.noise_at_1k].map(shown);
        let first = [name, shown(kind.reward), shown(kind.chosen), interval(chosen)];
        row(html, "td", first.into_iter().chain(numbers).chain([reliability]));
    }
    let _ = write!(
        html,
        "</table><p class=\"note\">Means over tasks ± standard errors. A response that nobody chose: R* {}.",
        shown(sweep.unchosen)
    );
    if sweep.set_aside > 0 {
        let _ = write!(html, " {} set aside: see failed.jsonl.", sweep.set_aside);
    }
    html.push_str("</p>");
}

fn differences(html: &mut String, sweep: &Sweep) {
    if sweep.differences.is_empty() {
        return;
    }
    html.push_str("<h2>Differences in R* of what kinds choose, by task</h2><table>");
    row(html, "th", ["kind", "minus", "difference", "95% interval", "", "tasks"].map(String::from));
    for compared in &sweep.differences {
        let of = compared.difference;
        let bar = of.interval.map_or_else(String::new, |interval| bar(of.mean, interval));
        let cells = [
            text(&compared.kind),
            text(&compared.minus),
            number(of.mean),
            interval(of.interval),
            bar,
            compared.tasks.to_string(),
        ];
        row(html, "td", cells);
    }
    html.push_str("</table>");
}

fn agreement(html: &mut String, sweep: &Sweep) {
    if sweep.agreement.is_empty() {
        return;
    }
    html.push_str("<h2>Agreement of rankings (Kendall's τ)</h2><table>");
    row(
        html,
        "th",
        ["kind", "with", "same conversations", "95% interval", "other conversations", "95% interval"].map(String::from),
    );
    for Agreement { kind, with, same, apart } in &sweep.agreement {
        let cells = [*same, *apart].map(|column| [shown(column), interval(column.and_then(|column| column.interval))]);
        row(html, "td", [text(kind), text(with)].into_iter().chain(cells.into_iter().flatten()));
    }
    html.push_str("</table>");
}

fn responses(html: &mut String, path: &Path) -> Result<()> {
    let (file, _) = files::open(path).map_err(|e| Error::io("read", path, e))?;
    html.push_str("<h2>Responses</h2>");
    let mut left = MOST;
    for (at, line) in BufReader::new(file).split(b'\n').enumerate() {
        let line = line.map_err(|e| Error::io("read", path, e))?;
        let swept: Swept = json::parse(&line)
            .map_err(|e| Error::invalid_request(format!("{}, line {}: {e}", path.display(), at + 1)))?;
        let conversations: usize = swept.responses.iter().map(|response| response.futures.len()).sum();
        if conversations > left {
            html.push_str("<p class=\"note\">More are in responses.jsonl.</p>");
            break;
        }
        left -= conversations;
        let simulator = swept.simulator.as_deref().map_or_else(String::new, |simulator| format!(" · {simulator}"));
        let _ = write!(html, "<details><summary>{}{}</summary>", text(&swept.id), text(&simulator));
        page::messages(html, &swept.conversation);
        for response in &swept.responses {
            let _ = write!(html, "<details><summary>{}</summary>", text(&response.response));
            for future in &response.futures {
                let last = future.values.last().into_iter().flatten();
                let metrics: Vec<String> =
                    last.map(|(name, value)| format!("{} {}", text(name), number(*value))).collect();
                let _ =
                    write!(html, "<p class=\"note\">{}; ended by {}</p>", metrics.join(", "), future.ended.as_str());
                page::messages(html, &future.messages);
            }
            html.push_str("</details>");
        }
        html.push_str("</details>");
    }
    Ok(())
}
