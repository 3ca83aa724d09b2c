//! The wait for scores: from the moment that a conversation's candidates are handed over until each has its score.
//!
//! *Cold*, nothing of the conversation is in the cache. *Warm*, its history was computed and pinned before, as a host does
//! while the candidates are still being written. Both score the same candidates after the same histories, each on an
//! engine of its own, so the warm one holds nothing of the candidates either. Every request has another history.
//!
//! A model with a head gives the candidates' scores; a language model, as a judge, their log-probabilities after the
//! history.

use std::sync::{PoisonError, RwLock};
use std::time::Instant;

use foreturn::engine::Model;
use foreturn::model::{ModelFolder, ModelKind};
use foreturn::runtime::thread_refused;
use foreturn::score::{ScoreInput, ScoreTask};
use foreturn::{Engine, Error, ErrorKind, Result};
use serde_json::{Value, json};

use super::super::args::BenchArgs;
use super::super::models::MODEL;
use super::{Percentiles, Words, engine, refuse_zeros};

/// Tokens before the candidates, unless told otherwise.
const HISTORY: usize = 1000;

pub(super) fn run(args: &BenchArgs) -> Result<Value> {
    refuse_zeros(&[
        ("--candidates", args.candidates),
        ("--candidate-tokens", args.candidate_tokens),
        ("--history-tokens", args.history_tokens.unwrap_or(HISTORY)),
        ("--clients", clients(args)),
        ("--repeat", repeat(args)),
    ])?;
    let cold = measure(args, Cache::Cold)?;
    let warm = measure(args, Cache::Warm)?;
    let bits = |request: &Request| request.scores.iter().map(|score| score.to_bits()).collect::<Vec<_>>();
    Ok(json!({
        "cold": waits(&cold),
        "warm": waits(&warm),
        "bit_equal": cold.iter().map(bits).eq(warm.iter().map(bits)),
        "candidates": args.candidates,
        "candidate_tokens": args.candidate_tokens,
        "history_tokens": args.history_tokens.unwrap_or(HISTORY),
        "clients": clients(args),
        "repetitions": repeat(args),
        "first_scores": cold.first().map(|request| &request.scores),
    }))
}

/// The content of the cache when candidates arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cache {
    Cold,
    /// The history.
    Warm,
}

/// A request that was answered.
struct Request {
    /// One a candidate, or several where the model has several labels.
    scores: Vec<f64>,
    seconds: f64,
}

/// Every client's request of every round. They come in the same order whatever is in the cache.
fn measure(args: &BenchArgs, cache: Cache) -> Result<Vec<Request>> {
    let engine = engine(args)?;
    let load = Load::new(args, &engine)?;
    // Once outside the measurement: threads start, buffers grow, the engine learns how much fits into a step.
    load.round(0, cache)?;
    let rounds = (1..=repeat(args)).map(|round| load.round(round, cache)).collect::<Result<Vec<_>>>()?;
    Ok(rounds.into_iter().flatten().collect())
}

/// The question to an engine.
struct Load {
    model: Model,
    words: Words,
    task: ScoreTask,
    history: usize,
    candidate: usize,
    candidates: usize,
    clients: usize,
}

impl Load {
    fn new(args: &BenchArgs, engine: &Engine) -> Result<Self> {
        let model = engine.model(MODEL)?;
        let folder = model.folder()?;
        let load = Load {
            model,
            words: Words::of(engine),
            task: if folder.head().is_some() { ScoreTask::Labels } else { ScoreTask::Response },
            history: args.history_tokens.unwrap_or(HISTORY),
            candidate: args.candidate_tokens,
            candidates: args.candidates,
            clients: clients(args),
        };
        load.check(&folder, repeat(args))?;
        Ok(load)
    }

    /// Refuses options that cannot be measured.
    fn check(&self, folder: &ModelFolder, repeat: usize) -> Result<()> {
        let refuse = |why: String| Err(Error::new(ErrorKind::InvalidRequest, why));
        let Load { history, candidate, candidates, clients, .. } = *self;
        if folder.kind() == ModelKind::Classifier {
            return refuse(format!(
                "--score: {} has no key-value cache to warm; give --model a decoder",
                folder.path().display()
            ));
        }
        let context = folder.context_length();
        if history.saturating_add(candidate) > context {
            return refuse(format!(
                "--history-tokens {history} and --candidate-tokens {candidate} are more than the {context} tokens of {}'s \
                 context; lower one of them",
                folder.path().display()
            ));
        }
        let (histories, most) = (clients.saturating_mul(repeat.saturating_add(1)), self.words.count as usize);
        if histories > most {
            return refuse(format!(
                "--clients {clients} and --repeat {repeat} need {histories} histories without a common prefix, but there are \
                 only {most}; lower one of them"
            ));
        }
        if candidates > most {
            return refuse(format!("--candidates {candidates}: at most {most} have no common prefix; give fewer"));
        }
        Ok(())
    }

    /// One request of each client, all at the same moment.
    fn round(&self, round: usize, cache: Cache) -> Result<Vec<Request>> {
        let histories = (0..self.clients).map(|client| self.words.prompt(self.history, round * self.clients + client));
        let histories: Vec<Vec<u32>> = histories.collect();
        let warm = |history: &Vec<u32>| self.model.warm(history.clone());
        // Pinned until the round is over.
        let _pins = match cache {
            Cache::Cold => Vec::new(),
            Cache::Warm => histories.iter().map(warm).collect::<Result<Vec<_>>>()?,
        };
        // Opened when all clients have started, or one cannot start.
        let gate = &RwLock::new(());
        std::thread::scope(|scope| {
            let closed = gate.write().unwrap_or_else(PoisonError::into_inner);
            let mut clients = Vec::with_capacity(self.clients);
            for history in &histories {
                let ask = move || self.request(history, gate);
                let client = std::thread::Builder::new().name("foreturn-client".into()).spawn_scoped(scope, ask);
                clients.push(client.map_err(|e| thread_refused("for each client (--clients)", e)));
            }
            drop(closed);
            let answer = |client: std::thread::ScopedJoinHandle<'_, Result<Request>>| {
                client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            clients.into_iter().map(|client| client.and_then(answer)).collect()
        })
    }

    /// Hands the candidates over and waits for their scores.
    fn request(&self, history: &[u32], gate: &RwLock<()>) -> Result<Request> {
        let candidate =
            |salt| ScoreInput::Response { prompt: history.to_vec(), response: self.words.prompt(self.candidate, salt) };
        let inputs: Vec<ScoreInput> = (0..self.candidates).map(candidate).collect();
        drop(gate.read().unwrap_or_else(PoisonError::into_inner));
        let start = Instant::now();
        let outputs = self.model.submit_score(inputs, self.task.clone())?.wait()?;
        let seconds = start.elapsed().as_secs_f64();
        Ok(Request { scores: outputs.iter().flat_map(|scored| scored.output.numbers()).collect(), seconds })
    }
}

fn clients(args: &BenchArgs) -> usize {
    args.clients.unwrap_or(1)
}

fn repeat(args: &BenchArgs) -> usize {
    args.repeat.unwrap_or(30)
}

fn waits(requests: &[Request]) -> Percentiles {
    Percentiles::of(requests.iter().map(|request| request.seconds).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histories_share_no_prefix_even_in_small_vocabularies() {
        for vocabulary in [320, 1500, 49_152, 128_256] {
            let words = Words::among(vocabulary);
            let mut first: Vec<u32> = (7..7 + words.count as usize).map(|salt| words.prompt(1, salt)[0]).collect();
            first.sort_unstable();
            first.dedup();
            assert_eq!(first.len(), words.count as usize, "{vocabulary}");
            assert!(first.last() < Some(&vocabulary), "{vocabulary}");
        }
    }
}
