//! Conversion of rows of output to scores.

use super::input::positive;
use super::{ResponseLogProb, Score, ScoreOutput, ScoreTask, Scores, StepScores};
use crate::model::{Head, HeadKind, ModelFolder};
use crate::{Error, ErrorKind, Result};

/// The output of a model for one request.
pub(crate) struct Given {
    /// The wanted rows, one after another; log-probabilities for [`ScoreTask::Response`].
    pub(crate) numbers: Vec<f32>,
    /// Tokens that the model read.
    pub(crate) tokens: usize,
    /// Those of the response, for [`ScoreTask::Response`].
    pub(crate) response: Vec<u32>,
}

/// Reads the result for `task` from the model's output.
pub(crate) fn read(folder: &ModelFolder, task: &ScoreTask, given: Given) -> Result<ScoreOutput> {
    let Given { numbers, tokens, response } = given;
    if let Some(number) = numbers.iter().find(|number| !number.is_finite()) {
        return Err(Error::new(
            ErrorKind::ModelOutput,
            format!("{} gave a score of {number}, not a finite number", folder.path().display()),
        ));
    }
    if *task == ScoreTask::Response {
        let logprob = numbers.iter().map(|&number| f64::from(number)).sum();
        return Ok(ScoreOutput::Response(ResponseLogProb {
            logprob,
            response_tokens: numbers.len(),
            tokens,
            token_ids: response,
            token_logprobs: numbers,
        }));
    }
    let head = folder.head().ok_or_else(|| Error::internal("a model without a head gave scores"))?;
    let labels = head.labels.clone();
    let rows = || numbers.chunks(head.size).map(<[f32]>::to_vec).collect::<Vec<_>>();
    Ok(match task {
        ScoreTask::Embedding => ScoreOutput::Embedding(numbers),
        ScoreTask::Steps(options) => {
            let (positive, scores) = (positive(head, options)?, rows());
            let steps = scores.iter().map(|row| softmax(row)[positive]).collect();
            ScoreOutput::Steps(StepScores { labels, steps, scores, tokens })
        }
        _ => {
            let per_token = head.kind == HeadKind::TokenClassification;
            let scores = if per_token { Scores::Tokens(rows()) } else { Scores::Text(numbers) };
            ScoreOutput::Labels(Score { labels, scores, tokens })
        }
    })
}

/// Probabilities of the labels.
pub(crate) fn softmax(logits: &[f32]) -> Vec<f64> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = logits.iter().map(|&logit| (f64::from(logit) - f64::from(most)).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

/// The row that stands for a whole text in a decoder: the last one that transformers doesn't count as padding, or the
/// first if all are padding.
pub(crate) fn pooled_row(head: Option<&Head>, tokens: &[u32]) -> usize {
    let padding = head.and_then(|head| head.pad_token_id);
    tokens.iter().rposition(|&token| Some(token) != padding).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_sum_to_one_even_of_large_logits() {
        let probabilities = softmax(&[1000.0, 1000.0 - 3.0_f32.ln()]);
        assert!((probabilities[0] - 0.75).abs() < 1e-4 && (probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }
}
