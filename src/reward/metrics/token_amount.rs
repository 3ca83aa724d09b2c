//! `token_amount`: the user's cost of reading and writing the conversation, −min(λ · TokenCount(t), 1) of Eq. 4.
//!
//! As in the paper, TokenCount is over all user and assistant messages of the conversation: history, response and
//! future. The user doesn't read system messages or the assistant's reasoning. Range [−1, 0]. Once λ · TokenCount
//! reaches 1, the penalty is saturated and no longer distinguishes conversations. Rankings say how often this happened.
//!
//! Settings:
//! - `lambda` per token, finite and ≥ 0 (default 5e-4, the paper's for MATH-Chat);
//! - `clamp`, a number above 0 (default 1) in place of Eq. 4's 1, or `false` for none: then nothing saturates;
//! - `sign = "penalty" | "amount"`: −min(…), or min(…) itself, for setups that put the sign into the weight;
//! - `unit = "tokens" | "words" | "cl100k"`: tokens of the policy, white-space separated words, or tokens of OpenAI's
//!   cl100k_base (feature `tiktoken`);
//! - `whose = "all" | "assistant" | "user"` and `scope = "conversation" | "future" | "continuation"`: which messages count;
//!   a continuation is the response and its future;
//! - `joined = true` counts them as one text with a space between messages, as CollabLLM's implementation does;
//! - `count_reasoning = true` counts reasoning too.

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::settings;
use crate::chat::{Message, Role};
use crate::reward::metric::{Answered, Metric, MetricInput, MetricValue};
use crate::{Error, Result};

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    lambda: f64,
    clamp: Clamp,
    sign: Sign,
    unit: Unit,
    whose: Whose,
    scope: Scope,
    joined: bool,
    count_reasoning: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            lambda: 5e-4,
            clamp: Clamp::At(1.0),
            sign: Sign::Penalty,
            unit: Unit::Tokens,
            whose: Whose::All,
            scope: Scope::Conversation,
            joined: false,
            count_reasoning: false,
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged, expecting = "clamp is neither a number nor false")]
enum Clamp {
    Is(bool),
    At(f64),
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Sign {
    Penalty,
    Amount,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Unit {
    Tokens,
    Words,
    Cl100k,
}

/// The side whose messages count.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Whose {
    All,
    Assistant,
    User,
}

/// The part of the conversation that counts.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Scope {
    /// History, response and future.
    Conversation,
    /// The messages that were sampled after the response.
    Future,
    /// Response and future: everything after the prompt.
    Continuation,
}

impl Settings {
    fn validate(&self) -> Result<()> {
        if !self.lambda.is_finite() || self.lambda < 0.0 {
            return Err(Error::invalid_config(format!(
                "lambda = {} is not a finite number of at least 0",
                self.lambda
            )));
        }
        match self.clamp {
            Clamp::At(limit) if !limit.is_finite() || limit <= 0.0 => {
                Err(Error::invalid_config(format!("clamp = {limit} is not a finite number above 0, nor false")))
            }
            Clamp::Is(true) => Err(Error::invalid_config("clamp = true has no bound: give a number, or false")),
            _ => Ok(()),
        }
    }
}

/// A function that counts the units of a text.
type Count = fn(&str) -> usize;

/// The counter of `unit`; `None` for tokens of the policy, which the input counts.
fn counter(unit: Unit) -> Result<Option<Count>> {
    match unit {
        Unit::Tokens => Ok(None),
        Unit::Words => Ok(Some(|text| text.split_whitespace().count())),
        // Control tokens in a text are text.
        #[cfg(feature = "tiktoken")]
        Unit::Cl100k => Ok(Some(|text| bpe_openai::cl100k_base().count(text))),
        #[cfg(not(feature = "tiktoken"))]
        Unit::Cl100k => Err(Error::unsupported(
            "unit = \"cl100k\": this build lacks the feature `tiktoken`, which contains the vocabulary: build with it, or \
             count \"tokens\" or \"words\"",
        )),
    }
}

struct TokenAmount {
    settings: Settings,
    /// The policy's tokens if absent.
    count: Option<Count>,
}

pub(super) fn build(table: toml::Table, _: &Path) -> Result<Arc<dyn Metric>> {
    let settings: Settings = settings(table)?;
    settings.validate()?;
    Ok(Arc::new(TokenAmount { count: counter(settings.unit)?, settings }))
}

impl TokenAmount {
    fn counts(&self, message: &Message) -> bool {
        match self.settings.whose {
            Whose::All => message.role != Role::System,
            Whose::Assistant => message.role == Role::Assistant,
            Whose::User => message.role == Role::User,
        }
    }

    fn count(&self, input: &MetricInput<'_>) -> usize {
        let passed = match self.settings.scope {
            Scope::Conversation => 0,
            Scope::Continuation => input.history.len(),
            Scope::Future => input.history.len() + 1,
        };
        let messages = input.messages().skip(passed).filter(|message| self.counts(message));
        let texts =
            messages.map(|message| if self.settings.count_reasoning { &message.content } else { message.visible() });
        let count = |text: &str| self.count.map_or_else(|| (input.count_tokens)(text), |count| count(text));
        match self.settings.joined {
            true => count(&texts.collect::<Vec<&str>>().join(" ")),
            false => texts.map(count).sum(),
        }
    }

    fn value(&self, input: &MetricInput<'_>) -> MetricValue {
        let cost = self.settings.lambda * self.count(input) as f64;
        let (cost, saturated) = match self.settings.clamp {
            Clamp::At(limit) => (cost.min(limit), Some(cost >= limit)),
            Clamp::Is(_) => (cost, None),
        };
        let value = match self.settings.sign {
            // `0.0 -` rather than a minus sign: no cost is 0, not −0.
            Sign::Penalty => 0.0 - cost,
            Sign::Amount => cost,
        };
        MetricValue { saturated, ..MetricValue::new(value) }
    }
}

impl Metric for TokenAmount {
    fn kind(&self) -> &str {
        "token_amount"
    }

    fn takes_extract(&self) -> bool {
        false
    }

    fn score(&self, batch: &[Answered<'_>]) -> Vec<Result<MetricValue>> {
        batch.iter().map(|scored| Ok(self.value(&scored.input))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_nonsense_are_refused() {
        for (toml, part) in [
            ("lambda = -1.0", "lambda = -1 is not"),
            ("clamp = 0", "clamp = 0 is not a finite number above 0"),
            ("clamp = true", "clamp = true has no bound"),
            ("clamp = 'no'", "clamp is neither a number nor false"),
            ("scope = 'past'", "unknown variant `past`"),
            ("unit = 'o200k'", "unknown variant `o200k`"),
        ] {
            let error = build(toml.parse().unwrap(), "".as_ref()).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(part), "{toml}: {error}");
        }
        let counted = build("unit = 'cl100k'".parse().unwrap(), "".as_ref()).map(|_| ());
        assert_eq!(counted.is_ok(), cfg!(feature = "tiktoken"), "{counted:?}");
    }

    #[cfg(feature = "tiktoken")]
    #[test]
    fn tokens_of_cl100k_are_counted_as_tiktoken_counts_them() {
        #[derive(Deserialize)]
        struct Case {
            text: String,
            tokens: usize,
        }
        let fixture = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/cl100k.json"));
        let cases: Vec<Case> = serde_json::from_str(fixture).unwrap();
        assert!(cases.len() >= 50);
        let count = counter(Unit::Cl100k).unwrap().unwrap();
        for Case { text, tokens } in cases {
            assert_eq!(count(&text), tokens, "{text:?}");
        }
    }

    /// tiktoken: 3 tokens of "1 2", 1 of "1" and of "2".
    #[cfg(feature = "tiktoken")]
    #[test]
    fn messages_can_be_counted_as_one_text() {
        let (history, goal) = ([Message::new(Role::User, "1")], crate::rollout::Goal::default());
        let response = Message::new(Role::Assistant, "2");
        let input = MetricInput { history: &history, ..MetricInput::new(&response, &goal, &|text| text.len()) };
        let value = |rest: &str| {
            let toml = format!("unit = 'cl100k'\nlambda = 1\nclamp = false\nsign = 'amount'\n{rest}");
            build(toml.parse().unwrap(), "".as_ref()).unwrap().score(&[Answered { input, answers: &[] }]).pop().unwrap()
        };
        assert_eq!(value("joined = true").unwrap().value, 3.0);
        assert_eq!(value("").unwrap().value, 2.0);
    }
}
