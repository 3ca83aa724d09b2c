//! The request: a conversation, candidate responses, a goal.

use std::str::FromStr;

use serde::de::{Deserializer, Error as _};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::chat::{Message, Role};
use crate::rollout::Goal;
use crate::{Error, Result, json};

/// Most turns that can be sampled ahead.
pub const MAX_WINDOW: usize = 32;
/// Most futures for a candidate.
pub const MAX_SAMPLES: usize = 1024;
/// Most candidates in a ranking.
pub const MAX_CANDIDATES: usize = 1024;

/// Most turns that a ranking may have to sample: candidates × samples × window, where a window of 0 counts as 1.
pub const MAX_TURNS: usize = 1 << 16;

/// The responses to rank.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(untagged))]
pub enum Candidates {
    /// The texts themselves.
    Given(Vec<String>),
    /// The number of responses, which are sampled from the policy first.
    Sample(usize),
}

impl Candidates {
    /// The number of responses.
    pub fn len(&self) -> usize {
        match self {
            Candidates::Given(given) => given.len(),
            Candidates::Sample(count) => *count,
        }
    }

    /// Tells whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Default for Candidates {
    fn default() -> Self {
        Candidates::Given(Vec::new())
    }
}

/// A ranking to be made.
///
/// ```
/// use foreturn::chat::{Message, Role};
/// use foreturn::rank::{Candidates, RankRequest};
///
/// let request = RankRequest {
///     conversation: vec![Message::new(Role::User, "Write me a poem.")],
///     candidates: Candidates::Given(vec!["Roses are red…".into(), "What about?".into()]),
///     samples: Some(4),
///     ..RankRequest::default()
/// };
/// request.validate()?;
/// # Ok::<(), foreturn::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct RankRequest {
    /// The conversation so far; its last message is the user's.
    pub conversation: Vec<Message>,
    /// The responses to rank.
    pub candidates: Candidates,
    /// The goal of the user. It is never shown to the policy.
    pub goal: Goal,
    /// Turns to sample ahead, w; 0 judges the response as it stands. At most [`MAX_WINDOW`]; the plan's if absent.
    #[serde(deserialize_with = "window", skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
    /// Futures for each candidate, S; 1 to [`MAX_SAMPLES`]; the plan's if absent. Without effect if the window is 0:
    /// there is then nothing to sample, and one evaluation is made. Candidates × samples × window are at most
    /// [`MAX_TURNS`].
    #[serde(deserialize_with = "samples", skip_serializing_if = "Option::is_none")]
    pub samples: Option<usize>,
    /// Decides all random draws; the plan's if absent.
    #[serde(deserialize_with = "seed", skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// Parses a request in JSON. An error is [`crate::ErrorKind::InvalidRequest`], which names the field: the text is not a
/// request, or makes no sense.
///
/// ```
/// use foreturn::RankRequest;
///
/// let text = r#"{"conversation": [{"role": "user", "content": "Hi"}], "candidates": ["Hello!", "What?"]}"#;
/// let request: RankRequest = text.parse()?;
/// assert_eq!(request.candidates.len(), 2);
/// # Ok::<(), foreturn::Error>(())
/// ```
impl FromStr for RankRequest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let request: RankRequest = json::parse_strictly(text).map_err(|e| {
            Error::invalid_request(format!(
                "not a ranking request: {e}. Expected {{\"conversation\": [{{\"role\": \"user\", \"content\": \"…\"}}], \
                 \"candidates\": [\"…\", \"…\"], \"goal\": {{…}}}}"
            ))
            .with_source(e)
        })?;
        request.validate()?;
        Ok(request)
    }
}

impl RankRequest {
    /// Refuses requests that do not make sense.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidRequest`], naming the field, its value and the remedy.
    pub fn validate(&self) -> Result<()> {
        self.validate_conversation()?;
        self.validate_candidates()?;
        validate_window(self.window)?;
        validate_samples(self.samples)
    }

    /// As [`RankRequest::validate`], with the limit on the turns in all.
    pub(crate) fn validate_size(&self) -> Result<()> {
        self.validate()?;
        check_turns(self.candidates.len(), self.samples.unwrap_or(1), self.window.unwrap_or(0))
    }

    fn validate_conversation(&self) -> Result<()> {
        let Some(last) = self.conversation.last() else {
            return Err(Error::invalid_request(
                "conversation is empty: it needs at least the user's message to respond to",
            ));
        };
        if last.role != Role::User {
            return Err(Error::invalid_request(format!(
                "conversation ends with a message of the {}: it has to end with the user's, which the candidates respond to",
                last.role.as_str()
            )));
        }
        if last.content.trim().is_empty() {
            let at = self.conversation.len() - 1;
            return Err(Error::invalid_request(format!(
                "conversation[{at}].content is empty: there is nothing to respond to"
            )));
        }
        Ok(())
    }

    fn validate_candidates(&self) -> Result<()> {
        let count = self.candidates.len();
        if count == 0 {
            return Err(Error::invalid_request(
                "candidates is empty: give a list of responses, or the number of responses to sample from the policy",
            ));
        }
        if count > MAX_CANDIDATES {
            return Err(Error::invalid_request(format!(
                "candidates has {count} entries: at most {MAX_CANDIDATES} are ranked at once"
            )));
        }
        if let Candidates::Given(given) = &self.candidates
            && let Some(at) = given.iter().position(|candidate| candidate.trim().is_empty())
        {
            return Err(Error::invalid_request(format!("candidates[{at}] is empty: give a text, or leave it out")));
        }
        Ok(())
    }
}

/// Shared with the configuration, because its defaults must make sense as well.
pub(crate) fn validate_window(window: Option<usize>) -> Result<()> {
    match window {
        Some(turns) if turns > MAX_WINDOW => Err(Error::invalid_request(format!(
            "window is {turns}: at most {MAX_WINDOW} turns are sampled ahead (the paper uses 2)"
        ))),
        _ => Ok(()),
    }
}

/// Shared with the configuration, like [`validate_window`].
pub(crate) fn validate_samples(samples: Option<usize>) -> Result<()> {
    match samples {
        Some(0) => Err(Error::invalid_request(
            "samples is 0: at least 1 future is sampled (for no future at all, set window to 0)",
        )),
        Some(samples) if samples > MAX_SAMPLES => Err(Error::invalid_request(format!(
            "samples is {samples}: at most {MAX_SAMPLES} futures are sampled for a candidate"
        ))),
        _ => Ok(()),
    }
}

/// Refuses more than [`MAX_TURNS`].
pub(super) fn check_turns(candidates: usize, samples: usize, window: usize) -> Result<()> {
    // Each of the three has been checked against its own limit.
    let turns = candidates * samples * window.max(1);
    if turns <= MAX_TURNS {
        return Ok(());
    }
    Err(Error::invalid_request(format!(
        "candidates × samples × window is {candidates} × {samples} × {window} = {turns}: at most {MAX_TURNS} turns are \
         sampled for a ranking. Ask for less of one of them, or rank in several requests"
    )))
}

impl Serialize for Candidates {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Candidates::Given(given) => given.serialize(serializer),
            Candidates::Sample(count) => count.serialize(serializer),
        }
    }
}

/// By hand, because an untagged enum says only that no variant matched.
impl<'de> Deserialize<'de> for Candidates {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Array(items) => {
                let text = |(at, item)| match item {
                    Value::String(text) => Ok(text),
                    other => Err(D::Error::custom(format!("candidates[{at}] is {other}, not a text"))),
                };
                items.into_iter().enumerate().map(text).collect::<Result<_, _>>().map(Candidates::Given)
            }
            other => match whole_number(&other) {
                Some(count) => Ok(Candidates::Sample(count)),
                None => Err(D::Error::custom(format!(
                    "candidates is {other}: expected a list of texts, or the number of responses to sample"
                ))),
            },
        }
    }
}

fn whole_number<T: TryFrom<u64>>(value: &Value) -> Option<T> {
    value.as_u64().and_then(|number| T::try_from(number).ok())
}

/// Reads a whole number or null. The message names the field; that of serde_json would not.
fn number<'de, T: TryFrom<u64>, D: Deserializer<'de>>(field: &str, deserializer: D) -> Result<Option<T>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(None),
        value => match whole_number(&value) {
            Some(number) => Ok(Some(number)),
            None => Err(D::Error::custom(format!("{field} is {value}: expected a whole number of at least 0"))),
        },
    }
}

fn window<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    number("window", deserializer)
}

fn samples<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    number("samples", deserializer)
}

fn seed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    number("seed", deserializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONVERSATION: &str = r#""conversation": [{"role": "user", "content": "hi"}]"#;

    #[test]
    fn candidates_are_texts_or_a_number() {
        let parse =
            |candidates: &str| format!("{{{CONVERSATION}, \"candidates\": {candidates}}}").parse::<RankRequest>();
        assert_eq!(parse("[\"a\", \"b\"]").unwrap().candidates, Candidates::Given(vec!["a".into(), "b".into()]));
        assert_eq!(parse("3").unwrap().candidates, Candidates::Sample(3));
        for (candidates, part) in [
            ("[]", "candidates is empty"),
            ("0", "candidates is empty"),
            ("-1", "candidates is -1"),
            ("\"a\"", "candidates is \"a\""),
            ("[\"a\", 3]", "candidates[1] is 3"),
            ("[\"a\", \" \"]", "candidates[1] is empty"),
            ("5000", "at most 1024"),
        ] {
            let message = parse(candidates).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn a_byte_order_mark_is_read_and_pythons_constants_are_named() {
        let text = |seed: &str| format!("\u{feff}{{{CONVERSATION}, \"candidates\": [\"a\"], \"seed\": {seed}}}");
        assert_eq!(text("7").parse::<RankRequest>().unwrap().seed, Some(7));
        let message = text("NaN").parse::<RankRequest>().unwrap_err().to_string();
        assert!(
            message.starts_with("not a ranking request: ") && message.contains("NaN or Infinity, which Python writes"),
            "{message}"
        );
        let messages = crate::chat::parse_messages("\u{feff}[{\"role\":\"user\",\"content\":\"Hi\"}]");
        assert_eq!(messages.unwrap().len(), 1);
    }

    #[test]
    fn nonsense_is_refused_by_field() {
        let parse = |rest: &str| format!("{{\"candidates\": [\"a\"]{rest}}}").parse::<RankRequest>();
        for (rest, part) in [
            (String::new(), "conversation is empty"),
            (
                r#", "conversation": [{"role": "assistant", "content": "x"}]"#.into(),
                "ends with a message of the assistant",
            ),
            (r#", "conversation": [{"role": "user", "content": " "}]"#.into(), "conversation[0].content is empty"),
            (format!(", {CONVERSATION}, \"window\": 33"), "window is 33"),
            (format!(", {CONVERSATION}, \"window\": -1"), "window is -1"),
            (format!(", {CONVERSATION}, \"samples\": 0"), "samples is 0"),
            (format!(", {CONVERSATION}, \"samples\": 1.5"), "samples is 1.5"),
            (format!(", {CONVERSATION}, \"samples\": 1025"), "samples is 1025"),
            (format!(", {CONVERSATION}, \"sample\": 1"), "unknown field `sample`"),
            (format!(", {CONVERSATION}, \"goal\": {{\"refrence\": \"x\"}}"), "unknown field `refrence`"),
        ] {
            let message = parse(&rest).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn requests_survive_a_round_trip() {
        let json = format!(
            "{{{CONVERSATION}, \"candidates\": 2, \"goal\": {{\"prompt\": \"p\"}}, \"window\": 0, \"samples\": null, \"seed\": 18446744073709551615}}"
        );
        let request: RankRequest = json.parse().unwrap();
        assert_eq!((request.window, request.samples, request.seed), (Some(0), None, Some(u64::MAX)));
        let again: RankRequest = serde_json::to_string(&request).unwrap().parse().unwrap();
        assert_eq!(again, request);
    }
}
