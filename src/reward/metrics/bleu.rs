//! `bleu`: sentence BLEU of what was written against `goal.reference` (R_ext of Eq. 3 for MediumDocEdit-Chat).
//!
//! What was written is the result of `extract`, otherwise the assistant's last message. Range [0, 1]: sacrebleu's score
//! / 100, 1 for the same tokens. Needs `goal.reference`.
//!
//! Settings, as in `sacrebleu.sentence_bleu`, with its defaults: `tokenizer = "13a" | "none" | "char"`;
//! `smoothing = "exp" | "floor" | "add_k" | "none"`; `smooth_value` of floor (0.1) or add_k (1); `max_order` of n-grams
//! (4), from 1 to 16; `effective_order` (true) leaves out the orders that the text is too short for; `lowercase` (false).
//!
//! `characters = true` computes what CollabLLM's implementation and verl's recipe do, NLTK's
//! `sentence_bleu([reference], text)` on strings: BLEU over characters, including white space, up to order 4 and
//! without smoothing. It excludes the other settings.

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use self::score::{Counts, Reference, Smoothing};
use self::tokens::Tokenizer;
use super::settings;
use crate::reward::metric::{Answered, Metric, MetricValue};
use crate::rollout::Goal;
use crate::{Error, Result};

mod score;
mod tokens;

/// Higher orders add no information, and cost time and memory.
const MAX_ORDER: usize = 16;

/// The settings. Absent ones have sacrebleu's default.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    characters: bool,
    tokenizer: Option<Tokenizer>,
    smoothing: Option<SmoothingName>,
    smooth_value: Option<f64>,
    max_order: Option<usize>,
    effective_order: Option<bool>,
    lowercase: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SmoothingName {
    Exp,
    Floor,
    AddK,
    None,
}

impl Settings {
    fn smoothing(&self) -> Result<Smoothing> {
        let name = self.smoothing.unwrap_or(SmoothingName::Exp);
        match (name, self.smooth_value) {
            (SmoothingName::Exp | SmoothingName::None, Some(value)) => Err(Error::invalid_config(format!(
                "smooth_value = {value} is for smoothing = \"floor\" or \"add_k\": leave it out"
            ))),
            (_, Some(value)) if !value.is_finite() || value <= 0.0 => {
                Err(Error::invalid_config(format!("smooth_value = {value} is not a finite number above 0")))
            }
            (SmoothingName::Exp, None) => Ok(Smoothing::Exp),
            (SmoothingName::None, None) => Ok(Smoothing::None),
            (SmoothingName::Floor, value) => Ok(Smoothing::Floor(value.unwrap_or(0.1))),
            (SmoothingName::AddK, value) => Ok(Smoothing::AddK(value.unwrap_or(1.0))),
        }
    }

    fn build(&self) -> Result<Bleu> {
        if self.characters {
            let set = [
                ("tokenizer", self.tokenizer.is_some()),
                ("smoothing", self.smoothing.is_some()),
                ("smooth_value", self.smooth_value.is_some()),
                ("max_order", self.max_order.is_some()),
                ("effective_order", self.effective_order.is_some()),
                ("lowercase", self.lowercase.is_some()),
            ];
            return match set.iter().find(|(_, is_set)| *is_set) {
                None => Ok(Bleu::Characters),
                Some((key, _)) => Err(Error::invalid_config(format!(
                    "{key} is not for characters = true, which is NLTK's BLEU over characters: leave one of them out"
                ))),
            };
        }
        let max_order = self.max_order.unwrap_or(4);
        if !(1..=MAX_ORDER).contains(&max_order) {
            return Err(Error::invalid_config(format!("max_order = {max_order} is not from 1 to {MAX_ORDER}")));
        }
        Ok(Bleu::Words {
            tokenizer: self.tokenizer.unwrap_or_default(),
            smoothing: self.smoothing()?,
            max_order,
            effective_order: self.effective_order.unwrap_or(true),
            lowercase: self.lowercase.unwrap_or(false),
        })
    }
}

/// The kind of BLEU.
#[derive(Debug, Clone, Copy)]
enum Bleu {
    /// NLTK's, on strings.
    Characters,
    /// Sacrebleu's.
    Words { tokenizer: Tokenizer, smoothing: Smoothing, max_order: usize, effective_order: bool, lowercase: bool },
}

impl Bleu {
    /// The score of each text. The reference, which may be far longer than they are, is looked at once.
    fn of(self, texts: &[&str], reference: &str) -> Vec<f64> {
        match self {
            Bleu::Characters => {
                let split = |text: &str| text.chars().collect::<Vec<char>>();
                let reference = split(reference);
                let reference = Reference::new(&reference, 4);
                texts.iter().map(|text| score::nltk(&Counts::new(&split(text), &reference))).collect()
            }
            Bleu::Words { tokenizer, smoothing, max_order, effective_order, lowercase } => {
                let split = |text: &str| match lowercase {
                    true => tokenizer.split(&text.to_lowercase()),
                    false => tokenizer.split(text),
                };
                let reference = split(reference);
                let reference = Reference::new(&reference, max_order);
                let value =
                    |text: &&str| score::sacrebleu(&Counts::new(&split(text), &reference), smoothing, effective_order);
                texts.iter().map(value).collect()
            }
        }
    }
}

pub(super) fn build(table: toml::Table, _: &Path) -> Result<Arc<dyn Metric>> {
    let settings: Settings = settings(table)?;
    Ok(Arc::new(settings.build()?))
}

impl Metric for Bleu {
    fn kind(&self) -> &str {
        "bleu"
    }

    fn check(&self, goal: &Goal) -> Result<()> {
        super::reference(goal, "bleu").map(|_| ())
    }

    fn score(&self, batch: &[Answered<'_>]) -> Vec<Result<MetricValue>> {
        let against_one = |batch: &[Answered<'_>]| -> Vec<Result<MetricValue>> {
            let texts: Vec<&str> = batch.iter().map(|scored| scored.input.subject()).collect();
            match super::reference(batch[0].input.goal, "bleu") {
                Ok(reference) => self.of(&texts, reference).into_iter().map(|score| Ok(score.into())).collect(),
                Err(error) => texts.iter().map(|_| Err(error.duplicate())).collect(),
            }
        };
        batch.chunk_by(|a, b| a.input.goal.reference == b.input.goal.reference).flat_map(against_one).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[derive(Deserialize)]
    struct Fixture {
        settings: Vec<toml::Table>,
        pairs: Vec<Pair>,
    }

    #[derive(Deserialize)]
    struct Pair {
        hypothesis: String,
        reference: String,
        scores: Vec<f64>,
        nltk: f64,
    }

    fn bleu(table: toml::Table) -> Result<Bleu> {
        settings::<Settings>(table)?.build()
    }

    #[test]
    fn scores_are_those_of_sacrebleu_and_nltk() {
        let fixture = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/bleu.json"));
        let Fixture { settings, pairs } = serde_json::from_str(fixture).unwrap();
        assert_eq!((settings.len(), pairs.len()), (13, 200));
        let metrics: Vec<Bleu> = settings.iter().map(|table| bleu(table.clone()).unwrap()).collect();
        let characters = bleu(toml::toml! { characters = true }).unwrap();
        for Pair { hypothesis, reference, scores, nltk } in pairs {
            for ((metric, expected), settings) in metrics.iter().zip(scores).zip(&settings) {
                let found = metric.of(&[&hypothesis], &reference)[0];
                assert!(
                    (found - expected).abs() <= 1e-9,
                    "{settings}{hypothesis:?} {reference:?}: {found}, {expected}"
                );
                assert!((0.0..=1.0).contains(&found));
            }
            let found = characters.of(&[&hypothesis], &reference)[0];
            assert!((found - nltk).abs() <= 1e-9, "{hypothesis:?} {reference:?}: {found}, {nltk}");
        }
    }

    #[test]
    fn many_texts_cost_little_more_than_one_where_the_reference_is_long() {
        let reference = "once upon a time ".repeat(20_000);
        let texts = ["once upon a time", "a time upon once", "", "never", "time time time"];
        for table in [toml::Table::new(), toml::toml! { characters = true }] {
            let metric = bleu(table).unwrap();
            let start = Instant::now();
            let alone: Vec<f64> = texts.iter().map(|text| metric.of(&[text], &reference)[0]).collect();
            let five = start.elapsed();
            let start = Instant::now();
            let many = metric.of(&texts.repeat(100), &reference);
            assert!(many.chunks(5).all(|scores| scores == alone));
            // Each of them for itself would take a hundred times as long.
            assert!(start.elapsed() < 10 * five, "{:?}, and {five:?} for five alone", start.elapsed());
        }
    }

    #[test]
    fn settings_of_nonsense_are_refused() {
        for (toml, part) in [
            ("tokenizer = 'zh'", "unknown variant `zh`"),
            ("smoothing = 'add-k'", "unknown variant `add-k`"),
            ("smooth_value = 0.5", "smooth_value = 0.5 is for smoothing"),
            ("smoothing = 'floor'\nsmooth_value = 0.0", "not a finite number above 0"),
            ("max_order = 0", "max_order = 0 is not from 1 to 16"),
            ("characters = true\nlowercase = false", "lowercase is not for characters = true"),
        ] {
            let error = bleu(toml.parse().unwrap()).unwrap_err().to_string();
            assert!(error.contains(part), "{toml}: {error}");
        }
    }
}
