//! Rankings, rollouts and traces as JSON: what is written is read again, and says the same.
//!
//! The data are all rankings of `fixtures/ranking`, made by scripted models, and the traces of `fixtures/report`.

use std::fmt::Debug;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::rank::scripted::{drive_told, fixtures, prepare};
use foreturn::rank::{EndedRollout, RankJob, RankRequest, Ranking, RawAnswer};
use foreturn::trace::{LineError, Record, TraceReader, TraceWriter};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// What came of a ranking of `fixtures/ranking`.
struct Made {
    request: RankRequest,
    rollouts: Vec<EndedRollout>,
    ranking: Ranking,
}

/// All rankings of `fixtures/ranking` that end without an error, and their traces in one file.
fn made(trace: &TraceWriter) -> Vec<Made> {
    let mut all = Vec::new();
    for (_, text) in fixtures("ranking") {
        let (_, plan, ready) = prepare(&text);
        let Ok((request, script)) = ready else { continue };
        let writing = trace.begin(&request, &plan).expect("a line");
        let Ok(job) = RankJob::new(request.clone(), Arc::clone(&plan)) else { continue };
        let mut rollouts = Vec::new();
        let told = |rollout: EndedRollout| {
            writing.rollout(&rollout).expect("a line");
            rollouts.push(rollout);
        };
        let Ok(ranking) = drive_told(job, |ask| script.reply(ask), |_| 0, told) else { continue };
        writing.finish(&ranking).expect("a line");
        all.push(Made { request, rollouts, ranking });
    }
    assert!(all.len() >= 8, "only {} rankings", all.len());
    all
}

fn traced() -> (String, Vec<Made>) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("trace.jsonl");
    let made = made(&TraceWriter::append(&path).expect("a file"));
    (fs::read_to_string(&path).expect("a trace"), made)
}

fn read(text: &str) -> Vec<Result<Record, LineError>> {
    TraceReader::new(text.as_bytes(), "trace.jsonl").collect()
}

/// The value after a way to JSON and back, which has to give the same JSON.
fn there_and_back<T: Serialize + DeserializeOwned>(value: &T) -> T {
    let text = serde_json::to_string(value).expect("JSON");
    let again: T = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(serde_json::to_string(&again).expect("JSON"), text);
    again
}

fn assert_same<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    assert_eq!(&there_and_back(value), value);
}

#[test]
fn rankings_and_rollouts_survive_a_round_trip() {
    for made in traced().1 {
        assert_same(&made.ranking);
        made.rollouts.iter().for_each(assert_same);
    }
}

#[test]
fn a_trace_is_read_as_it_was_written() {
    let (text, made) = traced();
    let records: Vec<Record> = read(&text).into_iter().map(|record| record.expect("a record")).collect();
    for (line, record) in text.lines().zip(&records) {
        assert_eq!(serde_json::to_string(record).expect("JSON"), line);
        assert_eq!(json!(record.ranking()), serde_json::from_str::<Value>(line).expect("JSON")["ranking"]);
    }
    for Made { request, rollouts, ranking } in &made {
        let is_result = |record: &&Record| matches!(record, Record::Ranking { result, .. } if **result == *ranking);
        let name = records.iter().find(is_result).expect("its result").ranking();
        let mut ended = Vec::new();
        for record in records.iter().filter(|record| record.ranking() == name) {
            match record {
                Record::Request { request: traced, .. } => {
                    assert_eq!((&traced.conversation, &traced.goal), (&request.conversation, &request.goal));
                    assert_eq!(traced.candidates, request.candidates);
                    assert!(!traced.metrics.is_empty());
                }
                Record::Rollout { rollout, .. } => ended.push((**rollout).clone()),
                _ => {}
            }
        }
        assert_eq!(&ended, rollouts);
    }
}

/// The fixtures of the report are made up, and look like traces of other versions.
#[test]
fn traces_of_others_are_read_line_by_line() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/report");
    let poem: &[&str] =
        &["line 21 of it: expected value", "line 22 of it: expected value", "line 28 of it: it is cut off"];
    // Names and numbers that no version writes, except in the line of a kind that a later version may write.
    let hostile = &["of it: "; 31][..];
    for (name, expected) in [("poem_and_maths.jsonl", poem), ("hostile.jsonl", hostile)] {
        let text = fs::read_to_string(folder.join(name)).expect("a trace");
        let records = read(&text);
        assert_eq!(records.len(), text.lines().count());
        for record in records.iter().flatten() {
            let line = serde_json::to_string(record).expect("JSON");
            let again = read(&line).remove(0).expect("a record");
            assert_eq!(&again, record);
        }
        let errors: Vec<String> =
            records.iter().filter_map(|record| record.as_ref().err()).map(ToString::to_string).collect();
        assert_eq!(errors.len(), expected.len(), "{name}: {errors:#?}");
        for (error, part) in errors.iter().zip(expected) {
            assert!(error.contains(&part.replace("of it", "of trace.jsonl")), "{name}: {error}");
        }
    }
}

#[test]
fn numbers_that_are_not_finite_are_unknown_or_nan() {
    let made = traced().1;
    let mut ranking =
        made.iter().find(|made| made.ranking.candidates.len() > 1).expect("two candidates").ranking.clone();
    ranking.cost.seconds = f64::NAN;
    ranking.cost.roles.policy.seconds = f64::INFINITY;
    for candidate in &mut ranking.candidates {
        candidate.reward = Some(f64::NAN);
        candidate.interval = Some([f64::NEG_INFINITY, 1.0]);
        if let Some(difference) = &mut candidate.difference {
            difference.mean = f64::NAN;
            difference.interval = Some([0.5, f64::NAN]);
        }
        candidate.metrics.values_mut().for_each(|metric| metric.weight = f64::NAN);
    }
    let again = there_and_back(&ranking);
    assert!(again.cost.seconds.is_nan() && again.cost.roles.policy.seconds.is_nan());
    assert!(again.candidates.iter().all(|candidate| candidate.reward.is_none()));
    assert!(
        again
            .candidates
            .iter()
            .all(|candidate| candidate.interval.is_some_and(|[low, high]| low.is_nan() && high == 1.0))
    );

    let mut rollout = made.iter().find_map(|made| made.rollouts.first()).expect("a rollout").clone();
    for metric in rollout.metrics.values_mut() {
        metric.value = Some(f64::NAN);
        metric.answers =
            vec![RawAnswer::Score(vec![f64::NAN, -1.5]), RawAnswer::Probabilities(vec![f64::INFINITY, 0.0])];
    }
    there_and_back(&rollout);
}

/// Every place of a document, as its path.
fn places(value: &Value, at: &str, into: &mut Vec<String>) {
    into.push(at.to_owned());
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                places(value, &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), into);
            }
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| places(item, &format!("{at}/{index}"), into));
        }
        _ => {}
    }
}

/// Without fields that are null: these may be left out.
fn without_nulls(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            let kept = std::mem::take(fields).into_iter().filter(|(_, value)| !value.is_null());
            *fields = kept.map(|(key, value)| (key, without_nulls(value))).collect();
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = without_nulls(item.take())),
        _ => {}
    }
    value
}

/// Null in any place is read as unknown, or refused; it never becomes a value.
#[test]
fn null_never_becomes_a_value() {
    let (text, _) = traced();
    let (mut unknown, mut refused) = (0, 0);
    for line in text.lines().step_by(7) {
        let whole: Value = serde_json::from_str(line).expect("JSON");
        let mut all = Vec::new();
        places(&whole, "", &mut all);
        for place in all.iter().filter(|place| !place.is_empty()) {
            let mut damaged = whole.clone();
            *damaged.pointer_mut(place).expect("the place") = Value::Null;
            match read(&damaged.to_string()).remove(0) {
                Ok(record) => {
                    unknown += 1;
                    let again = serde_json::to_value(&record).expect("JSON");
                    assert_eq!(without_nulls(again), without_nulls(damaged), "{place}");
                }
                Err(error) => {
                    refused += 1;
                    assert!(!error.is_cut_off() && error.line() == Some(1), "{place}: {error}");
                }
            }
        }
    }
    assert!(unknown > 50 && refused > 50, "{unknown} unknown, {refused} refused");
}

/// Later versions add fields, roles and kinds of lines.
#[test]
fn what_a_later_version_adds_is_passed_over() {
    let (text, _) = traced();
    for line in text.lines() {
        let mut later: Value = serde_json::from_str(line).expect("JSON");
        let mut all = Vec::new();
        places(&later, "", &mut all);
        // The keys of metrics are names, and those of costs are roles.
        for place in all.iter().filter(|place| !place.ends_with("/metrics")) {
            if let Some(Value::Object(fields)) = later.pointer_mut(place) {
                fields.insert("added_later".into(), json!({"name": "x", "weights": null, "nested": [{}]}));
            }
        }
        let [record, again] = [line, &later.to_string()].map(|line| read(line).remove(0).expect("a record"));
        assert_eq!(again, record);
    }
    let other = r#"{"kind":"weather","ranking":"a","rain":[1]}"#;
    let record = read(other).remove(0).expect("a record");
    assert!(matches!(&record, Record::Other { kind, .. } if kind == "weather") && record.ranking() == Some("a"));
    assert_eq!(serde_json::to_string(&record).expect("JSON"), other);
}

#[test]
fn a_line_that_a_crash_cut_off_is_named_and_the_others_are_read() {
    let (text, _) = traced();
    // A request, rollouts and a result, the texts of which end within characters as well.
    let text = text.replace("\"role\":\"user\"", "\"role\":\"user\",\"later\":\"\u{e9}\u{1f600}\\ud83d\\ude00 \\n\"");
    let lines: Vec<&str> = text.lines().collect();
    let of = |kind: &str| lines.iter().find(|line| line.contains(&format!("\"kind\":\"{kind}\""))).expect("a line");
    for line in ["request", "rollout", "ranking"].map(of) {
        for end in 1..line.len() {
            let crashed =
                [lines[0].as_bytes(), b"\n", &line.as_bytes()[..end], b"\n", lines[0].as_bytes(), b"\n"].concat();
            let records: Vec<_> = TraceReader::new(&*crashed, "trace.jsonl").collect();
            let [Ok(first), Err(error), Ok(last)] = &records[..] else { panic!("cut at {end}: {records:?}") };
            assert_eq!(first, last);
            assert!(error.is_cut_off() && error.line() == Some(2), "cut at {end}: {error}");
            assert!(error.to_string().starts_with("line 2 of trace.jsonl: it is cut off"), "{error}");
        }
    }
}

#[test]
fn other_faults_are_named_with_their_line_and_field() {
    let (text, _) = traced();
    let of = |kind: &str| text.lines().find(|line| line.contains(&format!("\"kind\":\"{kind}\""))).expect("a line");
    let (request, rollout, ranking) = (of("request"), of("rollout"), of("ranking"));
    let ended = rollout.find("\"ended\":\"").expect("an end") + 9;
    let with_end = format!("{}never{}", &rollout[..ended], &rollout[ended..]);
    for (line, part) in [
        ("half".to_owned(), "expected value at line 1 column 1"),
        ("[]".into(), "it is a list: a line of a trace is a JSON object"),
        ("{}".into(), "missing field `kind`"),
        (r#"{"kind":"rollout"}"#.into(), "missing field `ranking`"),
        (r#"{"kind":"rollout","ranking":"a"}"#.into(), "missing field `candidate`"),
        (rollout.replacen("\"sample\":", "\"sample\":-", 1).replace("-0,", "-1,"), "invalid value: integer `-1`"),
        (with_end, "unknown variant `never"),
        (rollout.replacen("\"response\":\"", "\"response\":7,\"was\":\"", 1), "expected a string at line 1 column"),
        (rollout.replacen("\"response\":\"", "\"response\":7,\"was\":\"", 1), ", near `response`"),
        (ranking.replacen("\"stopped\":\"", "\"stopped\":null,\"was\":\"", 1), ", near `stopped`"),
        (request.replacen("\"schema\":1", "\"schema\":2", 1), "it has schema 2; this version reads 1"),
        (ranking.replacen("\"schema\":1", "\"schema\":2", 1), "it has schema 2; this version reads 1"),
        (ranking.replacen("\"complete\":", "\"complet\":", 1), "missing field `complete`"),
        (rollout.replacen("\"seed\":", "\"seed\":NaN,\"was\":", 1), "NaN or Infinity, which Python writes"),
        (format!("{rollout} {rollout}"), "trailing characters"),
    ] {
        let records = read(&format!("\n{line}\n{request}"));
        let [Err(error), Ok(_)] = &records[..] else { panic!("{line}: {records:?}") };
        assert!(
            error.to_string().starts_with("line 2 of trace.jsonl: ") && error.to_string().contains(part),
            "{error}"
        );
        assert!(!error.is_cut_off() && error.line() == Some(2), "{error}");
    }
    let endless = std::io::BufReader::new(std::io::repeat(b'x'));
    let records: Vec<_> = TraceReader::new(endless, "trace.jsonl").collect();
    let [Err(error)] = &records[..] else { panic!("it goes on: {} records", records.len()) };
    assert!(error.to_string().contains("more than 268435456 bytes") && error.line().is_none(), "{error}");
}
