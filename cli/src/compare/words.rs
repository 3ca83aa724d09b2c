//! Log-probabilities and greedy choices, token by token.

use std::path::PathBuf;

use foreturn::chat::Message;
use foreturn::decode::{GenerateOptions, SamplingOptions};
use foreturn::engine::{LogProbs, Model, Prompt};
use foreturn::{Engine, Error, ErrorKind, Result, json};
use serde::{Deserialize, Serialize};

use super::super::models::MODEL;
use super::super::output;

/// The texts that the reference and its rivals are compared on.
pub(super) struct Texts {
    plain: Vec<String>,
    /// Conversations; those that end with the user are answered by the reference.
    chats: Vec<Vec<Message>>,
}

/// Reads `--texts` files: JSON lists of texts and conversations, or plain text.
pub(super) fn read(paths: &[PathBuf]) -> Result<Texts> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Text {
        Plain(String),
        Chat(Vec<Message>),
    }
    let mut texts = Texts { plain: Vec::new(), chats: Vec::new() };
    for path in paths {
        let (content, origin) = output::read(path)?;
        if path.extension().is_none_or(|extension| extension != "json") {
            texts.plain.push(content);
            continue;
        }
        let list: Vec<Text> = json::parse_strictly(&content).map_err(|e| {
            invalid(format!(
                "{origin}: {e}; expected a list of texts and of conversations [{{\"role\", \"content\"}}, …]"
            ))
        })?;
        for text in list {
            match text {
                Text::Plain(text) => texts.plain.push(text),
                Text::Chat(chat) => texts.chats.push(chat),
            }
        }
    }
    Ok(texts)
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidRequest, message)
}

/// Tokens that the reference has scored.
struct Scored {
    tokens: Vec<u32>,
    /// Of the last tokens.
    logprobs: Vec<f32>,
}

/// The reference's scores of the texts, and its replies.
pub(super) struct Reference {
    /// The texts in pieces.
    texts: Vec<Scored>,
    /// Prompts with replies that it sampled.
    own: Vec<Scored>,
    /// Prompts with its greedy replies, and the lengths of the prompts.
    greedy: Vec<(Vec<u32>, usize)>,
}

/// Tokens of a piece of text.
const PIECE: usize = 512;

impl Reference {
    /// Asks the reference; its replies have up to `new_tokens` tokens.
    pub(super) fn of(engine: &Engine, texts: &Texts, new_tokens: usize) -> Result<Self> {
        let model = engine.model(MODEL)?;
        let folder = model.folder()?;
        let piece = PIECE.min(folder.context_length() - 1);
        let mut reference = Reference { texts: Vec::new(), own: Vec::new(), greedy: Vec::new() };
        for text in &texts.plain {
            let tokens = folder.tokenizer().encode_text(text)?;
            for piece in tokens.chunks(piece).filter(|piece| piece.len() > 1) {
                let LogProbs { tokens, logprobs, .. } = model.logprobs(piece.to_vec())?;
                reference.texts.push(Scored { tokens, logprobs });
            }
        }
        for (chat, seed) in texts.chats.iter().zip(0..) {
            let is_question = chat.last().is_some_and(|message| message.role == foreturn::chat::Role::User);
            if !is_question {
                let LogProbs { tokens, logprobs, .. } = model.logprobs(Prompt::as_is(chat.clone()))?;
                reference.texts.push(Scored { tokens, logprobs });
                continue;
            }
            let reply = |sampling| {
                let options = GenerateOptions { max_tokens: new_tokens, sampling, seed, ..GenerateOptions::default() };
                model.generate(chat.clone(), options)
            };
            let own = reply(SamplingOptions::default())?;
            let scored = model.logprobs([own.prompt_tokens, own.tokens.clone()].concat())?;
            let LogProbs { tokens, mut logprobs, .. } = scored;
            logprobs.drain(..logprobs.len() - own.tokens.len());
            reference.own.push(Scored { tokens, logprobs });
            let greedy = reply(SamplingOptions::greedy())?;
            let length = greedy.prompt_tokens.len();
            reference.greedy.push(([greedy.prompt_tokens, greedy.tokens].concat(), length));
        }
        if reference.texts.is_empty() && reference.own.is_empty() {
            return Err(invalid("the texts are empty: there is nothing to compare on".into()));
        }
        Ok(reference)
    }

    /// Measures how another model differs.
    pub(super) fn compare(&self, engine: &Engine) -> Result<Words> {
        let model = engine.model(MODEL)?;
        Ok(Words {
            texts: change(&model, &self.texts)?,
            own: change(&model, &self.own)?,
            greedy: self.agreement(&model)?,
        })
    }

    /// The model is asked for every token of the reference's replies, given those before it.
    fn agreement(&self, model: &Model) -> Result<Greedy> {
        let (mut asked, mut equal) = (0, 0);
        for (tokens, prompt) in &self.greedy {
            let one =
                || GenerateOptions { max_tokens: 1, sampling: SamplingOptions::greedy(), ..GenerateOptions::default() };
            // All at once: what they share is computed once.
            let ask = |end: usize| model.submit_generate(tokens[..end].to_vec(), one());
            let pending = (*prompt..tokens.len()).map(ask).collect::<Result<Vec<_>>>()?;
            for (pending, wanted) in pending.into_iter().zip(&tokens[*prompt..]) {
                asked += 1;
                equal += usize::from(pending.wait()?.tokens.first() == Some(wanted));
            }
        }
        Ok(Greedy { tokens: asked, agreement: equal as f64 / asked.max(1) as f64 })
    }
}

/// The differences of a model from the reference in its words.
#[derive(Serialize)]
pub(super) struct Words {
    /// On the given texts.
    pub(super) texts: Change,
    /// On replies that the reference sampled; the loss estimates the relative entropy.
    pub(super) own: Change,
    /// On replies that it chose greedily.
    pub(super) greedy: Greedy,
}

/// Changes of log-probability, in nats.
#[derive(Serialize)]
pub(super) struct Change {
    pub(super) tokens: usize,
    /// Mean loss a token; negative if the model likes the text better.
    pub(super) loss: f64,
    /// Mean of the absolute changes.
    pub(super) mean_change: f64,
    /// The 99th percentile of the absolute changes.
    pub(super) p99_change: f64,
}

/// Greedy choices.
#[derive(Serialize)]
pub(super) struct Greedy {
    pub(super) tokens: usize,
    /// Share of the tokens that the model chooses too, given the reference's tokens before.
    pub(super) agreement: f64,
}

fn change(model: &Model, scored: &[Scored]) -> Result<Change> {
    let mut changes = Vec::new();
    for text in scored {
        let logprobs = model.logprobs(text.tokens.clone())?.logprobs;
        let last = &logprobs[logprobs.len() - text.logprobs.len()..];
        changes.extend(text.logprobs.iter().zip(last).map(|(wanted, found)| f64::from(wanted - found)));
    }
    Ok(Change::of(changes))
}

impl Change {
    /// From the losses of single tokens.
    fn of(losses: Vec<f64>) -> Self {
        let n = losses.len().max(1) as f64;
        let loss = losses.iter().sum::<f64>() / n;
        let mut sizes: Vec<f64> = losses.iter().map(|loss| loss.abs()).collect();
        sizes.sort_by(f64::total_cmp);
        let p99 = (sizes.len() * 99).div_ceil(100).saturating_sub(1);
        Change {
            tokens: sizes.len(),
            loss,
            mean_change: sizes.iter().sum::<f64>() / n,
            p99_change: sizes.get(p99).copied().unwrap_or(0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_means_and_a_percentile() {
        let mut losses = vec![0.5; 98];
        losses.extend([-2.0, 8.0]);
        let change = Change::of(losses);
        assert_eq!((change.tokens, change.p99_change), (100, 2.0));
        assert!((change.loss - 0.55).abs() < 1e-12 && (change.mean_change - 0.59).abs() < 1e-12);
        assert_eq!(Change::of(Vec::new()).loss, 0.0);
    }
}
