//! The part of a trace that the page shows.
//!
//! The page shows more lines than [`TraceReader`](crate::trace::TraceReader) reads: those of other versions, and those that
//! somebody edited. So every field may be absent or null, except `kind` and `ranking`, and a name that this version does not
//! know is shown as it is. Only a field of the wrong type makes a line unreadable. The types go into the page as they were
//! read, so they are written again.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::rank::SCHEMA;
use crate::trace::lines::{self, Kind};

/// A line of a ranking.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) ranking: String,
    pub(super) content: Content,
}

/// The content of a line.
#[derive(Debug)]
pub(super) enum Content {
    /// The request.
    Request(Box<Request>),
    /// One future.
    Rollout(Box<Rollout>),
    /// The result.
    Ranking(Box<Outcome>),
}

impl Line {
    /// Reads a line, or says why it cannot be read. `None` for a kind that a later version may know.
    pub(super) fn parse(line: &[u8]) -> Result<Option<Self>, String> {
        let read = || -> Result<_, lines::Unread> {
            let lines::Line::Known { kind, ranking, body } = lines::Line::parse(line)? else { return Ok(None) };
            let content = match kind {
                Kind::Request => Content::Request(body.read()?),
                Kind::Rollout => Content::Rollout(body.read()?),
                Kind::Ranking => Content::Ranking(Box::new(body.read::<RankingLine>()?.result)),
            };
            Ok(Some(Line { ranking, content }))
        };
        let line = read().map_err(|unread| unread.why)?;
        let schema = match line.as_ref().map(|line| &line.content) {
            Some(Content::Request(request)) => request.schema,
            Some(Content::Ranking(outcome)) => outcome.schema,
            Some(Content::Rollout(_)) | None => None,
        };
        match schema {
            Some(other) if other != u64::from(SCHEMA) => {
                Err(format!("it has schema {other}; this version reads {SCHEMA}"))
            }
            _ => Ok(line),
        }
    }
}

/// The request.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Request {
    #[serde(skip_serializing)]
    schema: Option<u64>,
    time: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) conversation: Vec<Message>,
    #[serde(rename(serialize = "sampled"), serialize_with = "as_number_sampled")]
    pub(super) candidates: Option<Candidates>,
    #[serde(default, deserialize_with = "or_default")]
    goal: Map<String, Value>,
    window: Option<u64>,
    samples: Option<u64>,
    #[serde(serialize_with = "as_text")]
    seed: Option<u64>,
    allocation: Option<Value>,
    #[serde(default, deserialize_with = "or_default")]
    metrics: Vec<AskedMetric>,
}

/// Responses that were given, or how many were to be sampled.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Candidates {
    Given(Vec<String>),
    Sampled(u64),
}

#[derive(Debug, Deserialize, Serialize)]
struct AskedMetric {
    name: Option<String>,
    kind: Option<String>,
    weight: Option<f64>,
}

/// A message, of the conversation or of a future.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Message {
    role: Option<String>,
    pub(super) content: Option<String>,
    finish: Option<String>,
    retokenized_differs: Option<bool>,
    /// The page only shows how many they are.
    #[serde(serialize_with = "as_count")]
    tokens: Option<Vec<u64>>,
}

/// A future.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Rollout {
    pub(super) candidate: Option<u64>,
    pub(super) sample: Option<u64>,
    /// The text of the candidate. The page has it once for all of its futures.
    #[serde(skip_serializing)]
    pub(super) response: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) messages: Vec<Message>,
    pub(super) ended: Option<String>,
    #[serde(serialize_with = "as_text")]
    pub(super) seed: Option<u64>,
    pub(super) reward: Option<f64>,
    pub(super) counted: Option<bool>,
    pub(super) reason: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) metrics: BTreeMap<String, Option<Metric>>,
    pub(super) role_confusion: Option<bool>,
    pub(super) cost: Option<Cost>,
}

/// The value of a metric for a future, alone or with its origin.
#[derive(Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub(super) enum Metric {
    Value(f64),
    Judged(Judged),
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Judged {
    value: Option<f64>,
    saturated: Option<bool>,
    mass: Option<f64>,
    extracted: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    answers: Vec<Value>,
    error: Option<String>,
}

/// Usage by role; of a whole ranking also the wall time.
#[derive(Debug, Default, Clone, Copy, PartialEq, Deserialize, Serialize)]
pub(super) struct Cost {
    pub(super) policy: Option<Usage>,
    pub(super) user: Option<Usage>,
    pub(super) judge: Option<Usage>,
    pub(super) extractor: Option<Usage>,
    pub(super) reward_model: Option<Usage>,
    pub(super) seconds: Option<f64>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Usage {
    pub(super) prompt_tokens: Option<u64>,
    pub(super) reused_tokens: Option<u64>,
    pub(super) generated_tokens: Option<u64>,
    pub(super) seconds: Option<f64>,
}

/// The result, as a line.
#[derive(Debug, Deserialize)]
struct RankingLine {
    #[serde(default, deserialize_with = "or_default")]
    result: Outcome,
}

/// The result: a [`crate::Ranking`].
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Outcome {
    #[serde(skip_serializing)]
    schema: Option<u64>,
    #[serde(skip_serializing, deserialize_with = "or_default")]
    pub(super) ranking: Vec<Candidate>,
    pub(super) cost: Option<Cost>,
    #[serde(deserialize_with = "or_default")]
    models: BTreeMap<String, Option<Model>>,
    #[serde(deserialize_with = "or_default")]
    reward_models: Vec<Model>,
    bitwise: Option<bool>,
    complete: Option<bool>,
    #[serde(deserialize_with = "or_default")]
    notes: Vec<String>,
    allocation: Option<Allocation>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Model {
    name: Option<String>,
    weights: Option<String>,
    date: Option<String>,
}

/// The allocation of rollouts.
#[derive(Debug, Deserialize, Serialize)]
struct Allocation {
    strategy: Option<String>,
    rollouts: Option<u64>,
    rounds: Option<u64>,
    stopped: Option<Value>,
}

/// A candidate and its reward.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Candidate {
    pub(super) candidate: Option<u64>,
    pub(super) response: Option<String>,
    pub(super) reward: Option<f64>,
    pub(super) std_error: Option<f64>,
    pub(super) interval: Option<[Option<f64>; 2]>,
    #[serde(deserialize_with = "or_default")]
    pub(super) metrics: BTreeMap<String, Option<MetricSummary>>,
    #[serde(skip_serializing, deserialize_with = "or_default")]
    pub(super) rollouts: Vec<Rollout>,
    pub(super) excluded: Option<u64>,
    pub(super) note: Option<String>,
    pub(super) retokenized_differs: Option<bool>,
    pub(super) cost: Option<Cost>,
    pub(super) difference: Option<Difference>,
    pub(super) probability_best: Option<f64>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct MetricSummary {
    mean: Option<f64>,
    std_error: Option<f64>,
    weight: Option<f64>,
    saturated: Option<f64>,
    mass: Option<f64>,
}

/// The reward of a candidate minus that of the best.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Difference {
    mean: Option<f64>,
    std_error: Option<f64>,
    interval: Option<[Option<f64>; 2]>,
}

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Writes a number as a text, because numbers of a browser are exact only to 2^53.
fn as_text<S: Serializer>(number: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    number.map(|number| number.to_string()).serialize(serializer)
}

/// Writes the number of responses to sample. The page has the texts of given responses with the candidates.
fn as_number_sampled<S: Serializer>(candidates: &Option<Candidates>, serializer: S) -> Result<S::Ok, S::Error> {
    match candidates {
        Some(Candidates::Sampled(number)) => Some(*number),
        Some(Candidates::Given(_)) | None => None,
    }
    .serialize(serializer)
}

fn as_count<S: Serializer>(list: &Option<Vec<u64>>, serializer: S) -> Result<S::Ok, S::Error> {
    list.as_ref().map(Vec::len).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_or_null_is_read_as_unknown() {
        let bare = [r#"{"kind":"request","ranking":"a"}"#, r#"{"kind":"rollout","ranking":"a"}"#];
        let nulls = [
            r#"{"kind":"request","ranking":"a","schema":null,"conversation":null,"candidates":null,"goal":null,"seed":null,
                "metrics":null,"later":{"x":1}}"#,
            r#"{"kind":"rollout","ranking":"a","candidate":null,"messages":null,"metrics":{"m":null},"cost":null,"seed":null}"#,
            r#"{"kind":"ranking","ranking":"a","result":null}"#,
            r#"{"kind":"ranking","ranking":"a","result":{"ranking":[{"interval":[null,null],"metrics":null,"difference":null}],
                "cost":{"policy":null,"seconds":1},"models":{"judge":null},"allocation":{"stopped":null}}}"#,
        ];
        for text in bare.iter().chain(&nulls) {
            Line::parse(text.as_bytes()).unwrap_or_else(|why| panic!("{why}: {text}"));
        }
        assert!(matches!(Line::parse(br#"{"kind":"weather","ranking":"a"}"#), Ok(None)));
    }

    #[test]
    fn what_has_the_wrong_type_is_refused() {
        for text in [
            r#"{"ranking":"a"}"#,
            r#"{"kind":"rollout"}"#,
            r#"{"kind":"rollout","ranking":7}"#,
            r#"{"kind":"rollout","ranking":"a","reward":"high"}"#,
            r#"{"kind":"rollout","ranking":"a","sample":-1}"#,
            r#"{"kind":"rollout","ranking":"a","messages":[{"role":"user","content":["parts"]}]}"#,
            r#"{"kind":"rollout","ranking":"a","metrics":{"m":"good"}}"#,
            r#"{"kind":"rollout","ranking":"a","reward":1e999}"#,
            r#"{"kind":"request","ranking":"a","candidates":true}"#,
            r#"{"kind":"request","ranking":"a","candi"#,
            "[]",
            "\"\\ud800\"",
        ] {
            assert!(Line::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(Line::parse(b"{\"kind\":\"rollout\",\"ranking\":\"\xff\"}").is_err());
        assert!(Line::parse("[".repeat(100_000).as_bytes()).is_err());
    }

    #[test]
    fn another_schema_is_refused_by_its_number() {
        for text in [
            r#"{"kind":"request","ranking":"a","schema":2}"#,
            r#"{"kind":"ranking","ranking":"a","result":{"schema":2}}"#,
        ] {
            assert_eq!(Line::parse(text.as_bytes()).unwrap_err(), "it has schema 2; this version reads 1");
        }
    }

    #[test]
    fn seeds_keep_all_digits_and_tokens_become_their_number() {
        let text = r#"{"kind":"rollout","ranking":"a","seed":18446744073709551615,"messages":[{"tokens":[5,6,7]}]}"#;
        let Ok(Some(Line { content: Content::Rollout(rollout), .. })) = Line::parse(text.as_bytes()) else {
            panic!("{text}")
        };
        let written = serde_json::to_value(&rollout).unwrap();
        assert_eq!(written["seed"], "18446744073709551615");
        assert_eq!(written["messages"][0]["tokens"], 3);
    }
}
