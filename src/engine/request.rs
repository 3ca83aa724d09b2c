//! Requests as lines of JSON: a file of a host's own traffic.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::message::Message;
use crate::rank::RankRequest;
use crate::score::{Label, ScoreInput, ScoreTask, StepOptions};
use crate::{Error, Result, json};

/// A request of a host: a ranking or scores.
///
/// In JSON, it is the body of the server's `/v1/rank` or `/v1/score` with a field `kind` that says which: `"rank"` or
/// `"score"`. Without the field, it is a ranking.
///
/// ```
/// use foreturn::engine::Request;
///
/// let line = r#"{"kind": "score", "model": "judge", "messages": [{"role": "user", "content": "Hi"}], "candidates": ["Hello!"]}"#;
/// assert!(matches!(line.parse()?, Request::Score(score) if score.candidates == ["Hello!"]));
/// # Ok::<(), foreturn::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Candidates to rank.
    Rank(RankRequest),
    /// Texts to score.
    Score(ScoreRequest),
}

/// Parses JSON. An error is [`crate::ErrorKind::InvalidRequest`], which names the field.
impl FromStr for Request {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refused = |e: json::Wrong| Error::invalid_request(format!("not a request: {e}")).with_source(e);
        let mut fields: serde_json::Map<String, Value> = json::parse_strictly(text).map_err(refused)?;
        let kind = fields.shift_remove("kind").unwrap_or_else(|| "rank".into());
        let body = Value::Object(fields).to_string();
        match kind.as_str() {
            Some("rank") => body.parse().map(Request::Rank),
            Some("score") => body.parse().map(Request::Score),
            _ => Err(Error::invalid_request(format!("kind is {kind}: it is \"rank\" or \"score\""))),
        }
    }
}

/// Texts to score with one model, as the server's `/v1/score` takes them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ScoreRequest {
    /// The model's name.
    pub model: String,
    /// A conversation, or several.
    pub messages: Chats,
    /// Replies to the one conversation. Each is scored as if it were its last message.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<String>,
    /// The kind of score.
    #[serde(default)]
    pub task: ScoreKind,
    /// For [`ScoreKind::Steps`]: the text between steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub separator: Option<String>,
    /// For [`ScoreKind::Steps`]: the control token after each step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marker: Option<String>,
    /// For [`ScoreKind::Steps`]: the label whose probability is the reward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub positive: Option<Label>,
}

/// One conversation or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "a conversation, which is a list of {role, content}, or a list of conversations")]
pub enum Chats {
    /// A list of messages.
    One(Vec<Message>),
    /// A list of lists of messages.
    Several(Vec<Vec<Message>>),
}

/// The kind of score, without its settings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ScoreKind {
    /// The logits of the model's head.
    #[default]
    Labels,
    /// A reward for each step.
    Steps,
    /// The log-probability of the last message.
    Response,
}

impl ScoreRequest {
    /// The texts, as [`super::Model::submit_score`] takes them.
    ///
    /// # Errors
    /// There are candidates beside several conversations.
    pub fn inputs(&self) -> Result<Vec<ScoreInput>> {
        match (self.messages.clone(), self.candidates.as_slice()) {
            (Chats::One(messages), []) => Ok(vec![ScoreInput::Chat(messages)]),
            (Chats::One(history), candidates) => Ok(ScoreInput::replies(history, candidates.iter().cloned())),
            (Chats::Several(chats), []) => Ok(chats.into_iter().map(ScoreInput::Chat).collect()),
            _ => Err(Error::invalid_request(
                "candidates are replies to one conversation, but messages holds several of them",
            )),
        }
    }

    /// The kind of score, with its settings.
    ///
    /// # Errors
    /// There are settings of [`ScoreKind::Steps`] beside another kind.
    pub fn task(&self) -> Result<ScoreTask> {
        match self.task {
            ScoreKind::Steps => {
                let default = StepOptions::default();
                Ok(ScoreTask::Steps(StepOptions {
                    separator: self.separator.clone().unwrap_or(default.separator),
                    marker: self.marker.clone().unwrap_or(default.marker),
                    positive: self.positive.clone(),
                }))
            }
            _ if self.separator.is_some() || self.marker.is_some() || self.positive.is_some() => {
                Err(Error::invalid_request("separator, marker and positive belong to the task \"steps\""))
            }
            ScoreKind::Labels => Ok(ScoreTask::Labels),
            ScoreKind::Response => Ok(ScoreTask::Response),
        }
    }
}

/// Parses JSON. An error is [`crate::ErrorKind::InvalidRequest`], which names the field.
impl FromStr for ScoreRequest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let request: ScoreRequest = json::parse_strictly(text).map_err(|e| {
            Error::invalid_request(format!(
                "not a request for scores: {e}. Expected {{\"model\": \"…\", \"messages\": [{{\"role\": \"user\", \"content\": \
                 \"…\"}}], \"candidates\": [\"…\"]}}"
            ))
            .with_source(e)
        })?;
        request.inputs()?;
        request.task()?;
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Request> {
        text.parse()
    }

    #[test]
    fn a_field_says_which_request_it_is() {
        let rank = r#"{"conversation": [{"role": "user", "content": "Hi"}], "candidates": ["A", "B"], "seed": 3}"#;
        let plain = parsed(rank).expect("a ranking");
        let named = parsed(&rank.replacen('{', r#"{"kind": "rank", "#, 1)).expect("a ranking");
        assert_eq!(plain, named);
        assert!(matches!(plain, Request::Rank(request) if request.seed == Some(3)));
        let score = r#"{"kind": "score", "model": "m", "messages": [[{"role": "user", "content": "Hi"}]], "task": "steps",
            "positive": 1, "separator": "\n"}"#;
        let Ok(Request::Score(score)) = parsed(score) else { panic!("no scores") };
        assert_eq!(score.inputs().expect("texts").len(), 1);
        let ScoreTask::Steps(steps) = score.task().expect("a task") else { panic!("no steps") };
        assert_eq!((steps.separator.as_str(), steps.positive), ("\n", Some(Label::Index(1))));
        let again = serde_json::to_string(&score).expect("JSON");
        assert_eq!(again.parse::<ScoreRequest>().expect("the same"), score);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            (r#"{"kind": "sort"}"#, r#"kind is "sort": it is "rank" or "score""#),
            (r#"{"kind": 3}"#, "kind is 3"),
            ("[]", "not a request"),
            (r#"{"candidates": ["A"]}"#, "conversation"),
            (r#"{"kind": "score", "messages": []}"#, "missing field `model`"),
            (r#"{"kind": "score", "model": "m", "messages": [], "colour": 1}"#, "unknown field `colour`"),
            (r#"{"kind": "score", "model": "m", "messages": [[]], "candidates": ["A"]}"#, "several"),
            (r#"{"kind": "score", "model": "m", "messages": [], "marker": "+"}"#, "belong to the task"),
        ] {
            let message = parsed(text).expect_err(text).to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
