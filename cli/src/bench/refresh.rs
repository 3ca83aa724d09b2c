//! New weights for a model that serves: how long their exchange takes and how long requests wait for it, beside loading an
//! engine anew.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use foreturn::config::RuntimeConfig;
use foreturn::engine::{Model, RefreshOptions};
use foreturn::runtime::thread_refused;
use foreturn::{Engine, Result};
use serde_json::{Value, json};

use super::super::args::BenchArgs;
use super::super::models::{MODEL, places};
use super::{Percentiles, Words, engine, refuse_zeros};

/// Exchanges, unless told otherwise.
const REPEAT: usize = 5;
/// Tokens of the requests that wait.
const TOKENS: usize = 8;

/// Exchanges the weights of `--model` for those of `fresh`, and back, in turn with loading `fresh`.
pub(super) fn run(args: &BenchArgs, fresh: &Path) -> Result<Value> {
    let repeat = args.repeat.unwrap_or(REPEAT);
    refuse_zeros(&[("--repeat", repeat)])?;
    let own = args.model.clone().unwrap_or_default();
    let engine = engine(args)?;
    let model = engine.model(MODEL)?;
    let words = Words::of(&engine).prompt(TOKENS, 1);
    let alone = longest_wait(&model, &words, || {
        std::thread::sleep(Duration::from_secs(1));
        Ok(0.0)
    })?;
    let (mut loads, mut exchanges, mut waits) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..repeat {
        let start = Instant::now();
        drop(Engine::with_model(fresh, RuntimeConfig::default(), places())?);
        loads.push(start.elapsed().as_secs_f64());
        for folder in [fresh, own.as_path()] {
            let exchange = || {
                let start = Instant::now();
                model.refresh(folder, RefreshOptions::default())?;
                Ok(start.elapsed().as_secs_f64())
            };
            let (seconds, wait) = longest_wait(&model, &words, exchange)?;
            exchanges.push(seconds);
            waits.push(wait);
        }
    }
    Ok(json!({
        "load_seconds": Percentiles::of(loads),
        "refresh_seconds": Percentiles::of(exchanges),
        "longest_wait_seconds": waits.iter().copied().fold(0.0_f64, f64::max),
        "longest_wait_alone_seconds": alone.1,
        "request_tokens": TOKENS,
        "repetitions": repeat,
        "refreshes": model.status()?.refreshes,
    }))
}

/// The result of `work`, and the longest that one of many requests took meanwhile, in seconds.
fn longest_wait(model: &Model, words: &[u32], work: impl FnOnce() -> Result<f64>) -> Result<(f64, f64)> {
    let over = AtomicBool::new(false);
    let ask = || -> Result<f64> {
        let mut longest = 0.0_f64;
        while !over.load(Ordering::Relaxed) {
            let start = Instant::now();
            model.logprobs(words.to_vec())?;
            longest = longest.max(start.elapsed().as_secs_f64());
        }
        Ok(longest)
    };
    std::thread::scope(|scope| {
        let asker = std::thread::Builder::new().name("foreturn-client".into()).spawn_scoped(scope, ask);
        let asker = asker.map_err(|e| thread_refused("for the requests that wait", e))?;
        let done = work();
        over.store(true, Ordering::Relaxed);
        let longest = asker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok((done?, longest))
    })
}
