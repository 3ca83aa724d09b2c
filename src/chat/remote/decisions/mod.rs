//! Questions with fixed answers at an endpoint's `/v1/decisions`, which gives a probability for every answer.
//!
//! Servers differ in what they mean by this address:
//!
//! | | OpenAI, vLLM 0.33 | SGLang 0.5.23 |
//! |---|---|---|
//! | a question | `name`, `instructions`, `choices` of `value` | `id`, `question`, `options` of `name` |
//! | answers | a list, in the order of the questions | an object, by `id` |
//! | probabilities | a list of `value` and `probability` | an object, by `name` |
//! | mass of the answers | vLLM: `confidence` is that of the likeliest one, times its share | `label_mass` |
//! | usage | `input_tokens`, `output_tokens` | `prompt_tokens`, `total_tokens` |
//!
//! The probabilities are conditional: they are shares of the mass of the answers. OpenAI does not tell that mass, and does
//! not say what its `confidence` means. vLLM takes messages of users alone, OpenAI has a role for each message, and SGLang
//! has no messages. All of them take `input` as a text, so it is one.

#[cfg(feature = "remote")]
pub(super) mod reply;
#[cfg(feature = "remote")]
pub(super) mod request;
#[cfg(all(test, feature = "remote"))]
mod tests;

use serde::{Deserialize, Serialize};

/// The name of the only question of a request.
#[cfg(feature = "remote")]
const QUESTION: &str = "answer";

/// What an error says about a dialect that may be wrong.
#[cfg(feature = "remote")]
const CHECK: &str = "Check decisions under [models], which is \"openai\", \"vllm\" or \"sglang\"";

/// The dialect of `/v1/decisions` in which an endpoint is asked questions with fixed answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decisions {
    /// It is not asked there, but by chat completions.
    #[default]
    None,
    /// That of OpenAI. The mass of the answers counts as 1.
    Openai,
    /// That of vLLM: OpenAI's, with a `confidence` that tells the mass of the answers.
    Vllm,
    /// That of SGLang.
    Sglang,
}
