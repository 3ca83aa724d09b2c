//! The probability that each answer opens a reply, from an endpoint's log-probabilities.
//!
//! The endpoint writes a few tokens greedily and gives the likeliest alternatives at each position. An alternative,
//! after the text written before it, counts for an answer if it can't open another one:
//!
//! - it begins with a spelling of the answer that ends there as a word ("Yes", " Yes,", but not "Yesterday"), or
//! - a spelling of the answer begins with it ("Y" for "Yes").
//!
//! An alternative that could still become several answers, or is white space, is followed if the endpoint wrote it: its
//! probability is multiplied with those at the next position. If the endpoint wrote something else, the continuation is
//! unknown, and the probability counts for no answer. The same is true of all tokens beyond the few that endpoints
//! show. So no answer gets a probability that was not reported, and the rest shows as missing mass.

use serde::Deserialize;
use serde_json::Value;

use super::fields::shown;
use crate::json;

/// A probability may exceed 1 by this much, because log-probabilities are rounded.
const ROUNDING: f64 = 1e-3;

/// A position of a reply: its token, and the likeliest tokens.
#[derive(Deserialize)]
pub(super) struct Position {
    #[serde(flatten)]
    written: Token,
    #[serde(default)]
    top_logprobs: Option<Vec<Token>>,
}

impl Position {
    /// Whether it lacks alternatives.
    pub(super) fn is_bare(&self) -> bool {
        self.top_logprobs.as_ref().is_none_or(Vec::is_empty)
    }
}

#[derive(Deserialize)]
struct Token {
    token: String,
    #[serde(default)]
    logprob: Value,
    /// The token itself, if it is not a whole character.
    #[serde(default)]
    bytes: Option<Vec<u8>>,
}

impl Token {
    fn bytes(&self) -> &[u8] {
        // Some servers write an empty list beside every token.
        self.bytes.as_deref().filter(|bytes| !bytes.is_empty()).unwrap_or(self.token.as_bytes())
    }

    fn probability(&self) -> Result<f64, String> {
        let wrong = |why: &str| format!("the log-probability of {:?} is {}{why}", self.token, shown(&self.logprob));
        match self.logprob.as_f64() {
            Some(logprob) if logprob <= ROUNDING => Ok(logprob.exp().min(1.0)),
            Some(_) => Err(wrong(", but none can be above 0")),
            None if json::shown(&self.logprob) == "-Infinity" => Ok(0.0),
            None => Err(wrong(", not a number")),
        }
    }
}

/// The meaning of a reply's beginning.
#[derive(Debug, PartialEq)]
enum Says {
    Answer(usize),
    /// It may become several answers, or hasn't begun.
    Open,
    Something,
}

/// The probability of each answer, by the tokens that were likely. `ended` says whether the reply ended by itself.
///
/// # Errors
/// Names the number that can't be a log-probability, or that lacks its alternatives.
pub(super) fn by_logprobs(answers: &[Vec<String>], positions: &[Position], ended: bool) -> Result<Vec<f64>, String> {
    let mut probabilities = vec![0.0; answers.len()];
    let (mut written, mut path) = (Vec::new(), 1.0);
    for position in positions {
        let tops = position.top_logprobs.as_deref().unwrap_or_default();
        if tops.is_empty() {
            return Err(format!(
                "the log-probabilities at {:?} have no alternatives (top_logprobs)",
                position.written.token
            ));
        }
        let given = tops.iter().any(|top| top.bytes() == position.written.bytes());
        let mut sum = 0.0;
        for token in tops.iter().chain(Some(&position.written).filter(|_| !given)) {
            let probability = token.probability()?;
            sum += probability;
            if let Says::Answer(answer) = says(answers, &[&written, token.bytes()].concat()) {
                probabilities[answer] += path * probability;
            }
        }
        if sum > 1.0 + ROUNDING {
            return Err(format!("the probabilities at {:?} sum to {sum:.3}", position.written.token));
        }
        written.extend_from_slice(position.written.bytes());
        path *= position.written.probability()?;
        if says(answers, &written) != Says::Open {
            return Ok(bounded(probabilities));
        }
    }
    // The reply has ended although it could have gone on. If it spells out an answer, that is the answer.
    if ended && let Some(answer) = spelled(answers, String::from_utf8_lossy(&written).trim()) {
        probabilities[answer] += path;
    }
    Ok(bounded(probabilities))
}

/// Corrects sums that rounding put above 1.
pub(super) fn bounded(probabilities: Vec<f64>) -> Vec<f64> {
    let sum: f64 = probabilities.iter().sum();
    if sum > 1.0 { probabilities.into_iter().map(|p| p / sum).collect() } else { probabilities }
}

fn says(answers: &[Vec<String>], text: &[u8]) -> Says {
    let text = text.trim_ascii_start();
    if text.is_empty() {
        return Says::Open;
    }
    let fits = |spelling: &String| opens_with(text, spelling) || spelling.as_bytes().starts_with(text);
    let mut fitting = (0..answers.len()).filter(|&answer| answers[answer].iter().any(fits));
    match (fitting.next(), fitting.next()) {
        (None, _) => Says::Something,
        (Some(answer), None) => Says::Answer(answer),
        (Some(_), Some(_)) => Says::Open,
    }
}

/// Whether a text begins with a spelling that ends there as a word.
fn opens_with(text: &[u8], spelling: &str) -> bool {
    let Some(rest) = text.strip_prefix(spelling.as_bytes()) else { return false };
    !String::from_utf8_lossy(rest).starts_with(|c: char| c.is_alphanumeric())
        || !spelling.ends_with(|c: char| c.is_alphanumeric())
}

/// The answer with exactly this spelling.
fn spelled(answers: &[Vec<String>], text: &str) -> Option<usize> {
    answers.iter().position(|spellings| spellings.iter().any(|spelling| spelling == text))
}

/// 1 for the answer whose spelling opens the text (the longest, if there are several); 0 for all if there is none.
pub(super) fn by_text(answers: &[Vec<String>], text: &str) -> Vec<f64> {
    let text = text.trim().as_bytes();
    let length =
        |spellings: &Vec<String>| spellings.iter().filter(|spelling| opens_with(text, spelling)).map(String::len).max();
    let best = (0..answers.len()).filter_map(|answer| Some((length(&answers[answer])?, answer)));
    let best = best.reduce(|best, other| if other.0 > best.0 { other } else { best });
    (0..answers.len()).map(|answer| if best.is_some_and(|(_, best)| best == answer) { 1.0 } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn answers(spellings: &[&[&str]]) -> Vec<Vec<String>> {
        spellings.iter().map(|list| list.iter().map(|&text| text.to_owned()).collect()).collect()
    }

    /// Positions, given as alternatives and their probabilities. The first was written.
    fn positions(list: &[&[(&str, f64)]]) -> Vec<Position> {
        let token = |(text, p): &(&str, f64)| json!({"token": text, "logprob": p.ln(), "bytes": null});
        let position = |tops: &&[(&str, f64)]| {
            let tops: Vec<Value> = tops.iter().map(token).collect();
            let mut position = tops[0].clone();
            position["top_logprobs"] = tops.into();
            serde_json::from_value(position).unwrap()
        };
        list.iter().map(position).collect()
    }

    fn close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() < 1e-12, "{found:?} for {expected:?}");
        }
    }

    #[test]
    fn mass_falls_to_the_answer_that_a_token_can_only_open() {
        let yes_no = answers(&[&["Yes", "yes"], &["No", "no"]]);
        let tops: &[(&str, f64)] = &[
            ("Yes", 0.4),
            (" yes", 0.1),
            ("Yes,", 0.05),
            ("Y", 0.03),
            ("No", 0.2),
            ("\n\nno", 0.02),
            ("Yesterday", 0.05),
            ("Nothing", 0.04),
            ("Perhaps", 0.01),
            ("", 0.01),
        ];
        close(&by_logprobs(&yes_no, &positions(&[tops]), true).unwrap(), &[0.58, 0.22]);
    }

    #[test]
    fn what_is_open_is_followed_where_it_was_written_and_lost_elsewhere() {
        let scale = answers(&[&["Not at all"], &["Not much"], &["Very"]]);
        let ask = |list: &[&[(&str, f64)]]| by_logprobs(&scale, &positions(list), true).unwrap();
        // "Not" may become two answers, so its 0.6 is split according to the next position.
        let first: &[(&str, f64)] = &[("Not", 0.6), ("Very", 0.3)];
        close(&ask(&[first, &[(" at", 0.7), (" much", 0.2), (" ever", 0.1)]]), &[0.42, 0.12, 0.3]);
        // White space first.
        close(&ask(&[&[("\n", 0.9), ("Very", 0.1)], &[("Very", 0.5), ("Not much", 0.25)]]), &[0.0, 0.225, 0.55]);
        // "Not" was not written, so its continuation is unknown.
        close(&ask(&[&[("Very", 0.5), ("Not", 0.4)]]), &[0.0, 0.0, 0.5]);
        // It was cut off before it was clear which.
        close(&ask(&[first]), &[0.0, 0.0, 0.3]);
        close(&ask(&[&[("Well", 0.9)], &[("Very", 0.9)]]), &[0.0, 0.0, 0.0]);
    }

    #[test]
    fn an_answer_that_opens_another_counts_where_the_reply_ends_with_it() {
        let digits = answers(&[&["1"], &["10"]]);
        let ask = |list: &[&[(&str, f64)]], ended| by_logprobs(&digits, &positions(list), ended).unwrap();
        let first: &[(&str, f64)] = &[("1", 0.8), ("10", 0.1)];
        close(&ask(&[first, &[("0", 0.75), (".", 0.25)]], true), &[0.2, 0.7]);
        close(&ask(&[first], true), &[0.8, 0.1]);
        close(&ask(&[first], false), &[0.0, 0.1]);
    }

    #[test]
    fn tokens_that_are_half_a_character_go_by_their_bytes() {
        let both = answers(&[&["是"], &["否"]]);
        let token = |bytes: &[u8], p: f64| json!({"token": "\\x", "logprob": p.ln(), "bytes": bytes});
        let mut first = token(&[0xe6, 0x98], 0.5);
        first["top_logprobs"] = json!([token(&[0xe6, 0x98], 0.5), token(&[0xe5], 0.25)]);
        let position: Position = serde_json::from_value(first).unwrap();
        close(&by_logprobs(&both, &[position], true).unwrap(), &[0.5, 0.25]);
    }

    #[test]
    fn numbers_that_are_no_probabilities_are_errors() {
        let yes_no = answers(&[&["Yes"], &["No"]]);
        let of = |value: Value| by_logprobs(&yes_no, &[serde_json::from_value(value).unwrap()], true);
        let with = |logprob: Value| {
            let token = json!({"token": "Yes", "logprob": logprob});
            let mut position = token.clone();
            position["top_logprobs"] = json!([token]);
            of(position)
        };
        assert!(with(json!(0.7)).unwrap_err().contains("is 0.7, but none can be above 0"));
        assert!(with(json!(null)).unwrap_err().contains("is null"));
        close(&with(json!(1e-6)).unwrap(), &[1.0, 0.0]);
        close(&with(json!(-9999.0)).unwrap(), &[0.0, 0.0]);
        let twice = json!({"token": "Yes", "logprob": -0.1, "top_logprobs": [{"token": "Yes", "logprob": -0.1}, {"token": "No", "logprob": -0.1}]});
        assert!(of(twice).unwrap_err().contains("sum to 1.810"));
    }

    #[test]
    fn the_written_answer_counts_where_there_are_no_logprobs() {
        let scale = answers(&[&["1"], &["10"], &["Yes", "yes"]]);
        for (text, expected) in [
            ("1", [1.0, 0.0, 0.0]),
            (" 10.", [0.0, 1.0, 0.0]),
            ("\nyes, it does", [0.0, 0.0, 1.0]),
            ("Yesterday", [0.0; 3]),
            ("100", [0.0; 3]),
            ("", [0.0; 3]),
            ("I say Yes", [0.0; 3]),
        ] {
            assert_eq!(by_text(&scale, text), expected, "{text:?}");
        }
    }
}
