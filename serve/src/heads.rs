//! What the models' heads can do, and their numbers in the forms that other servers give them.

use foreturn::engine::{Model, Scored};
use foreturn::model::tokenizer::EncodedText;
use foreturn::model::{Head, HeadKind};
use foreturn::score::{ScoreInput, ScoreOutput, ScoreTask, Scores};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::app::App;
use crate::asked::Caller;
use crate::failure::{Answer, Failure};

/// A text, or the tokens of one.
#[derive(Deserialize, JsonSchema, Clone)]
#[serde(untagged, expecting = "a text, or a list of tokens")]
pub(crate) enum Text {
    Text(String),
    Tokens(Vec<u32>),
}

/// A text, or several; each is a string, or its tokens.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a text, a list of tokens, or a list of either")]
pub(crate) enum Texts {
    One(Text),
    Several(Vec<Text>),
}

impl Texts {
    pub(crate) fn list(self) -> Vec<Text> {
        match self {
            // Nobody can tell whether no texts are meant, or no tokens.
            Texts::One(Text::Tokens(none)) if none.is_empty() => Vec::new(),
            Texts::One(text) => vec![text],
            Texts::Several(texts) => texts,
        }
    }

    /// As [`Texts::list`], to be scored. `field` is what the request calls them.
    pub(crate) fn inputs(self, field: &str) -> Answer<Vec<ScoreInput>> {
        let texts = self.list();
        if texts.is_empty() {
            return Err(Failure::refused(format!("{field} is empty: give at least one text")));
        }
        Ok(texts.into_iter().map(ScoreInput::from).collect())
    }
}

impl From<Text> for ScoreInput {
    /// Tokens are used as they are. Texts get those around them that the model's tokenizer adds.
    fn from(text: Text) -> Self {
        match text {
            Text::Text(text) => ScoreInput::Text(text),
            Text::Tokens(tokens) => ScoreInput::Tokens(EncodedText { tokens, types: Vec::new() }),
        }
    }
}

/// What a route asks of a model's head.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Vectors.
    Embedding,
    /// A score for each label of a text.
    Classes,
    /// The one score of two texts.
    Rank,
    /// Either of the first two.
    Similarity,
    /// Any head.
    Head,
}

impl Need {
    fn is_met(self, head: &Head) -> bool {
        match self {
            Need::Embedding => head.kind == HeadKind::Embedding,
            Need::Classes => head.kind == HeadKind::SequenceClassification,
            Need::Rank => head.kind == HeadKind::SequenceClassification && head.labels.len() == 1,
            Need::Similarity => Need::Embedding.is_met(head) || Need::Rank.is_met(head),
            Need::Head => true,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Need::Embedding => "gives embeddings",
            Need::Classes => "scores whole texts",
            Need::Rank => "has a single score for a text",
            Need::Similarity => "gives embeddings, or has a single score for a text",
            Need::Head => "has a head of scores or embeddings",
        }
    }
}

/// A model, and its head.
pub(crate) struct Headed {
    pub(crate) model: Model,
    pub(crate) head: Head,
}

impl App {
    /// The model of this name, or the only one that can do what is asked.
    pub(crate) fn headed(&self, named: Option<&str>, need: Need) -> Answer<Headed> {
        if let Some(name) = named {
            let model = self.model(name)?;
            let head = model.folder()?.head().cloned().filter(|head| need.is_met(head));
            let refused = || Failure::unable(format!("model `{name}` is not one that {}", need.name()));
            return Ok(Headed { head: head.ok_or_else(refused)?, model });
        }
        let able = |name: &String| {
            let model = self.engine.model(name).ok()?;
            let head = model.folder().ok()?.head().cloned().filter(|head| need.is_met(head))?;
            Some(Headed { model, head })
        };
        let mut able: Vec<_> = self.engine.models().iter().filter_map(able).collect();
        if able.len() > 1 {
            let names: Vec<_> = able.iter().map(|able| able.model.name()).collect();
            return Err(Failure::refused(format!(
                "the request names no model, and more than one {}: {}",
                need.name(),
                names.join(", ")
            )));
        }
        able.pop().ok_or_else(|| Failure::unable(format!("no model of this server {}", need.name())))
    }
}

impl Headed {
    /// Scores texts, or embeds them, as the head does.
    pub(crate) async fn score(&self, caller: &Caller, inputs: Vec<ScoreInput>) -> Answer<Vec<Scored>> {
        let task = if self.head.kind == HeadKind::Embedding { ScoreTask::Embedding } else { ScoreTask::Labels };
        caller.wait(self.model.within(caller.limits()).submit_score(inputs, task)).await
    }

    /// A text's row of scores or its vector.
    pub(crate) fn row(scored: &Scored) -> Answer<Vec<f64>> {
        match &scored.output {
            ScoreOutput::Labels(score) if matches!(score.scores, Scores::Tokens(_)) => Err(defect("rows of tokens")),
            output @ (ScoreOutput::Labels(_) | ScoreOutput::Embedding(_)) => Ok(output.numbers()),
            _ => Err(defect("another result")),
        }
    }

    /// A text's rows, one for each of its tokens.
    pub(crate) fn rows(scored: &Scored) -> Answer<Vec<Vec<f64>>> {
        match &scored.output {
            ScoreOutput::Labels(score) => match &score.scores {
                Scores::Tokens(rows) => {
                    Ok(rows.iter().map(|row| row.iter().copied().map(f64::from).collect()).collect())
                }
                Scores::Text(_) => Err(defect("a single row")),
            },
            _ => Err(defect("another result")),
        }
    }
}

fn defect(what: &str) -> Failure {
    foreturn::Error::new(foreturn::ErrorKind::Internal, format!("the model's head gave {what}")).into()
}

/// Logits as probabilities: by the softmax over several labels, by the logistic function for one.
pub(crate) fn probabilities(logits: &[f64]) -> Vec<f64> {
    if let [logit] = logits {
        return vec![1.0 / (1.0 + (-logit).exp())];
    }
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logits.iter().map(|logit| (logit - largest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

/// A vector of length 1 in the same direction. That of zeros stays.
pub(crate) fn unit(vector: &[f64]) -> Vec<f64> {
    let length = dot(vector, vector).sqrt();
    if length > 0.0 { vector.iter().map(|number| number / length).collect() } else { vector.to_vec() }
}

pub(crate) fn dot(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_softmax_or_logistic() {
        assert_eq!(probabilities(&[0.0]), [0.5]);
        assert_eq!(probabilities(&[1000.0, 1000.0]), [0.5, 0.5]);
        assert!((probabilities(&[-800.0])[0]).abs() < 1e-300);
        let three = probabilities(&[1.0, 2.0, 3.0]);
        assert!((three.iter().sum::<f64>() - 1.0).abs() < 1e-15);
        assert!((three[2] / three[1] - 1.0_f64.exp()).abs() < 1e-12);
    }

    #[test]
    fn texts_are_strings_or_tokens() {
        let count = |text: &str| serde_json::from_str::<Texts>(text).map(|texts| texts.list().len()).ok();
        assert_eq!(count(r#""a""#), Some(1));
        assert_eq!(count("[1, 2, 3]"), Some(1));
        assert_eq!(count(r#"["a", "b"]"#), Some(2));
        assert_eq!(count("[[1], [2, 3], [4]]"), Some(3));
        assert_eq!(count("[]"), Some(0));
        assert_eq!(count("[-1]"), None);
        assert_eq!(count(r#"{"a": 1}"#), None);
    }

    #[test]
    fn vectors_get_length_1() {
        assert_eq!(unit(&[3.0, 4.0]), [0.6, 0.8]);
        assert_eq!(unit(&[0.0, 0.0]), [0.0, 0.0]);
    }
}
