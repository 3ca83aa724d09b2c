//! The fields of a reply. Used fields are checked strictly, and unused ones are ignored.
//!
//! A reply is read as any JSON, and the needed fields are looked up in it. Servers differ in what they put into the
//! other fields (empty lists for null, counts as 10.0, numbers for names), and this must not matter.

use serde::Deserialize;
use serde_json::Value;

use super::choice::Position;
use crate::error::foreign;
use crate::json;

/// The largest valid count of tokens.
const MAX_TOKENS: u64 = 1 << 40;

/// The names of the counts in `usage`.
pub(super) struct CountNames {
    prompt: &'static str,
    generated: &'static str,
    details: &'static str,
}

/// The names of chat completions.
pub(super) const COMPLETION: CountNames =
    CountNames { prompt: "prompt_tokens", generated: "completion_tokens", details: "prompt_tokens_details" };
/// The names of OpenAI's decisions.
pub(super) const DECISION: CountNames =
    CountNames { prompt: "input_tokens", generated: "output_tokens", details: "input_tokens_details" };

/// The tokens that a reply cost.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) prompt: u64,
    pub(super) cached: u64,
    pub(super) generated: u64,
}

impl Counts {
    /// Reads `usage`. Of prompt, completion and total, one may be missing, because it follows from the others. A reply
    /// without its cost would count as free.
    pub(super) fn read(usage: Option<&Value>, names: &CountNames) -> Result<Self, String> {
        let usage = present(usage).ok_or("its reply has no usage, so its cost can't be counted")?;
        let Value::Object(_) = usage else {
            return Err(format!("usage is {}, not an object", shown(usage)));
        };
        let field = |name: &str| {
            count(usage.get(name)).map_err(|found| format!("usage.{name} is `{found}`, not a number of tokens"))
        };
        let total = || field("total_tokens");
        let (prompt, generated) = match (field(names.prompt)?, field(names.generated)?) {
            (Some(prompt), Some(generated)) => (prompt, generated),
            (Some(prompt), None) => (prompt, rest(total()?, prompt, names.generated)?),
            (None, Some(generated)) => (rest(total()?, generated, names.prompt)?, generated),
            (None, None) => return Err(format!("usage has no {}, so its cost can't be counted", names.prompt)),
        };
        let details = usage.get(names.details).and_then(|details| details.get("cached_tokens"));
        // A value that is not a number says nothing about the cache.
        let cached = count(details.filter(|cached| cached.is_number()))
            .map_err(|found| format!("usage.{}.cached_tokens is `{found}`, not a number of tokens", names.details))?
            .unwrap_or(0);
        if prompt.max(generated) > MAX_TOKENS || cached > prompt {
            return Err(format!(
                "usage is inconsistent: {prompt} tokens of the prompt, {cached} of them cached, {generated} generated"
            ));
        }
        Ok(Counts { prompt, cached, generated })
    }
}

fn rest(total: Option<u64>, known: u64, missing: &str) -> Result<u64, String> {
    let total = total
        .ok_or_else(|| format!("usage has neither {missing} nor total_tokens, so the reply's cost can't be counted"))?;
    total.checked_sub(known).ok_or_else(|| {
        format!("usage is inconsistent: it has {total} tokens in total, {known} of them without {missing}")
    })
}

/// A count of tokens, which some servers write as 10.0. The error is the field's value.
fn count(value: Option<&Value>) -> Result<Option<u64>, String> {
    let Some(value) = present(value) else { return Ok(None) };
    let whole = |number: f64| {
        (number >= 0.0 && number.trunc() == number && number < (1_u64 << 53) as f64).then_some(number as u64)
    };
    let number = value.as_u64().or_else(|| value.as_f64().filter(|_| value.is_f64()).and_then(whole));
    number.map(Some).ok_or_else(|| shown(value))
}

/// The field, unless it is null.
pub(super) fn present(value: Option<&Value>) -> Option<&Value> {
    value.filter(|value| !value.is_null())
}

/// The value of `error`, if it is an error, or the reply itself, if it is one. Some servers fail with status 200, and some
/// write an empty `error` into every reply.
pub(super) fn error(reply: &Value) -> Option<&Value> {
    let stated = present(reply.get("error")).filter(|error| match error {
        Value::Bool(failed) => *failed,
        Value::Number(code) => code.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Null => false,
    });
    let is_error = || {
        let says = |key| present(reply.get(key)).is_some();
        reply.get("object").is_some_and(|object| object == "error")
            || (!says("choices") && !says("answers") && (says("detail") || says("message")))
    };
    stated.or_else(|| is_error().then_some(reply))
}

/// The only choice of the reply.
pub(super) fn choice(reply: &Value) -> Result<&Value, String> {
    let choices = match present(reply.get("choices")) {
        None => &[],
        Some(Value::Array(choices)) => &choices[..],
        Some(other) => {
            return Err(format!("its reply is not a chat completion: choices is {}, not a list", shown(other)));
        }
    };
    match choices {
        [choice] => Ok(choice),
        _ => Err(format!("its reply has {} choices, but one was asked for", choices.len())),
    }
}

/// The tokens' log-probabilities, empty if there are none.
pub(super) fn positions(choice: &Value) -> Result<Vec<Position>, String> {
    let Some(content) = present(choice.get("logprobs").and_then(|logprobs| logprobs.get("content"))) else {
        return Ok(Vec::new());
    };
    Vec::deserialize(content).map_err(|e| format!("its reply is not a chat completion: logprobs.content: {e}"))
}

/// The endpoint's name for the version of its model. A few servers use numbers.
pub(super) fn fingerprint(reply: &Value) -> Option<String> {
    match reply.get("system_fingerprint")? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The value as the reply has it, for a message.
pub(super) fn shown(value: &Value) -> String {
    foreign::quoted(&json::shown(value), 80)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn counts_are_whole_numbers_and_one_may_follow_from_the_others() {
        let read = |usage: Value| {
            Counts::read(Some(&usage), &COMPLETION).map(|counts| (counts.prompt, counts.cached, counts.generated))
        };
        for (usage, expected) in [
            (json!({"prompt_tokens": 10, "completion_tokens": 3}), (10, 0, 3)),
            (json!({"prompt_tokens": 10.0, "completion_tokens": 3.0, "total_tokens": "13"}), (10, 0, 3)),
            (json!({"prompt_tokens": 10, "total_tokens": 13}), (10, 0, 3)),
            (json!({"prompt_tokens": 10, "completion_tokens": null, "total_tokens": 10.0}), (10, 0, 0)),
            (json!({"completion_tokens": 3, "total_tokens": 13}), (10, 0, 3)),
            (json!({"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 99}), (10, 0, 3)),
            (
                json!({"prompt_tokens": 9, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": 4.0}}),
                (9, 4, 0),
            ),
            (
                json!({"prompt_tokens": 9, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": null}}),
                (9, 0, 0),
            ),
            (json!({"prompt_tokens": 9, "completion_tokens": 0, "prompt_tokens_details": []}), (9, 0, 0)),
        ] {
            assert_eq!(read(usage.clone()), Ok(expected), "{usage}");
        }
        for (usage, part) in [
            (json!({"prompt_tokens": 10}), "neither completion_tokens nor total_tokens"),
            (json!({"completion_tokens": 10}), "neither prompt_tokens nor total_tokens"),
            (json!({"total_tokens": 10}), "no prompt_tokens"),
            (json!({}), "no prompt_tokens"),
            (json!([]), "usage is [], not an object"),
            (
                json!({"prompt_tokens": 10, "total_tokens": 9}),
                "9 tokens in total, 10 of them without completion_tokens",
            ),
            (json!({"prompt_tokens": 10, "completion_tokens": 1.5}), "usage.completion_tokens is `1.5`"),
            (json!({"prompt_tokens": 10, "completion_tokens": "3"}), "usage.completion_tokens is `\"3\"`"),
            (json!({"prompt_tokens": -1, "completion_tokens": 3}), "usage.prompt_tokens is `-1`"),
            (json!({"prompt_tokens": 1e300, "completion_tokens": 3}), "usage.prompt_tokens is `1e+300`"),
            (json!({"prompt_tokens": u64::MAX, "completion_tokens": 3}), "usage is inconsistent"),
            (
                json!({"prompt_tokens": 9, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": 0.5}}),
                "cached_tokens is `0.5`",
            ),
        ] {
            let error = read(usage.clone()).unwrap_err();
            assert!(error.contains(part), "{usage}: {error}");
        }
        assert!(Counts::read(Some(&Value::Null), &COMPLETION).unwrap_err().contains("no usage"));
        assert!(Counts::read(None, &COMPLETION).unwrap_err().contains("no usage"));
    }

    #[test]
    fn a_decisions_counts_have_names_of_their_own() {
        let usage = json!({"input_tokens": 9, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 4}});
        assert_eq!(Counts::read(Some(&usage), &DECISION), Ok(Counts { prompt: 9, cached: 4, generated: 2 }));
        for (usage, part) in [
            (json!({"prompt_tokens": 9, "completion_tokens": 0}), "usage has no input_tokens"),
            (json!({"input_tokens": 9, "output_tokens": -1}), "usage.output_tokens is `-1`"),
            (
                json!({"input_tokens": 9, "output_tokens": 1, "input_tokens_details": {"cached_tokens": -1}}),
                "usage.input_tokens_details.cached_tokens is `-1`",
            ),
        ] {
            let error = Counts::read(Some(&usage), &DECISION).unwrap_err();
            assert!(error.contains(part), "{usage}: {error}");
        }
    }
}
