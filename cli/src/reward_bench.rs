//! `foreturn score --format reward-bench-2`: records of a prompt with chosen and rejected responses, as RewardBench 2
//! publishes them (arXiv 2506.01937).
//!
//! A record counts as right if its best chosen response has a higher score than every rejected one. Equal scores are
//! wrong. (The benchmark's own figure for its subset "Ties" weighs margins as well. It can be computed from the scores.)

use std::collections::BTreeMap;

use foreturn::chat::{Message, Role};
use foreturn::{Error, ErrorKind, Result, json};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::args::ScoreArgs;
use super::{output, score};

/// One record. Other fields are passed over.
#[derive(Debug, Deserialize)]
pub(super) struct Record {
    #[serde(default)]
    id: Value,
    #[serde(default)]
    subset: Option<String>,
    prompt: Prompt,
    chosen: Vec<String>,
    rejected: Vec<String>,
}

/// The user's message, or the conversation before the response.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Prompt {
    Text(String),
    Messages(Vec<Message>),
}

#[derive(Serialize)]
struct Scored<'a> {
    id: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    subset: Option<&'a str>,
    chosen: &'a [f64],
    rejected: &'a [f64],
    right: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    /// Share of records that are right.
    accuracy: f64,
    /// The same by subset.
    subsets: BTreeMap<&'a str, f64>,
    records: Vec<Scored<'a>>,
}

/// Reads a list of records, or one record per line.
pub(super) fn parse(text: &str, origin: &str) -> Result<Vec<Record>> {
    let wrong = |place: String, e: json::Wrong| {
        Error::new(ErrorKind::InvalidRequest, format!(
            "{origin}{place}: not a record of RewardBench 2: {e}. Expected {{\"prompt\": \"…\", \"chosen\": [\"…\"], \
             \"rejected\": [\"…\"]}}"
        ))
        .with_source(e)
    };
    let records: Vec<Record> = if text.trim_start().starts_with('[') {
        json::parse(text.as_bytes()).map_err(|e| wrong(String::new(), e))?
    } else {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let record = |(at, line): (usize, &str)| {
            json::parse(line.as_bytes()).map_err(|e| wrong(format!(", line {}", at + 1), e))
        };
        lines.map(record).collect::<Result<_>>()?
    };
    if records.is_empty() {
        return Err(Error::new(ErrorKind::InvalidRequest, format!("{origin}: there are no records")));
    }
    match records.iter().position(|record| record.chosen.is_empty() || record.rejected.is_empty()) {
        Some(at) => Err(Error::new(
            ErrorKind::InvalidRequest,
            format!("{origin}: record {at} has no chosen or no rejected response to compare"),
        )),
        None => Ok(records),
    }
}

/// Scores all responses together, and prints who won.
pub(super) fn run(args: &ScoreArgs, records: Vec<Record>) -> Result<()> {
    let rewards = score::rewards(args, records.iter().flat_map(chats).collect())?;
    let mut rest = rewards.as_slice();
    let mut scored = Vec::new();
    for record in &records {
        let (chosen, others) = rest.split_at(record.chosen.len());
        let (rejected, others) = others.split_at(record.rejected.len());
        rest = others;
        let right = best(chosen) > best(rejected);
        scored.push(Scored { id: &record.id, subset: record.subset.as_deref(), chosen, rejected, right });
    }
    let mut by_subset: BTreeMap<&str, Vec<bool>> = BTreeMap::new();
    for record in &scored {
        by_subset.entry(record.subset.unwrap_or_default()).or_default().push(record.right);
    }
    by_subset.remove("");
    let all: Vec<bool> = scored.iter().map(|record| record.right).collect();
    let subsets: BTreeMap<&str, f64> = by_subset.iter().map(|(subset, right)| (*subset, share(right))).collect();
    let report = Report { accuracy: share(&all), subsets, records: scored };
    if args.json {
        return output::json(&report);
    }
    for (subset, accuracy) in &report.subsets {
        output::line(format!("{subset:24} {accuracy:.4}"))?;
    }
    output::line(format!("{:24} {:.4} of {} records", "accuracy", report.accuracy, report.records.len()))
}

/// The conversations of a record, chosen responses first.
fn chats(record: &Record) -> impl Iterator<Item = Vec<Message>> + '_ {
    let before = match &record.prompt {
        Prompt::Text(text) => vec![Message::new(Role::User, text)],
        Prompt::Messages(messages) => messages.clone(),
    };
    let responses = record.chosen.iter().chain(&record.rejected);
    responses.map(move |response| {
        let mut chat = before.clone();
        chat.push(Message::new(Role::Assistant, response));
        chat
    })
}

fn best(rewards: &[f64]) -> f64 {
    rewards.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

fn share(right: &[bool]) -> f64 {
    right.iter().filter(|&&right| right).count() as f64 / right.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_nobody_reads_may_hold_what_python_writes() {
        let record = r#"{"id": 1, "prompt": "p", "chosen": ["a"], "rejected": ["b"], "score": NaN, "most": -Infinity}"#;
        for text in [format!("[{record}]"), format!("{record}\n{record}\n")] {
            assert!(!parse(&text, "r").unwrap().is_empty());
        }
        let wrong = record.replace("\"p\"", "NaN");
        assert!(parse(&wrong, "r").err().unwrap().to_string().contains("r, line 1: not a record of RewardBench 2"));
    }
}
