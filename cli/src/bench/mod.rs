//! Speed of a model folder: prefill and decoding, a whole ranking job, or the wait for scores. And of a server or an engine
//! under load.

mod job;
mod load;
mod score;

use std::time::Instant;

use foreturn::config::RuntimeConfig;
use foreturn::decode::{GenerateOptions, SamplingOptions};
use foreturn::{Engine, Error, ErrorKind, Result};
use serde::Serialize;
use serde_json::{Value, json};

use super::args::BenchArgs;
use super::models::{MODEL, places};
use super::output;

pub(super) fn bench(args: &BenchArgs) -> Result<()> {
    if args.under.load {
        return load::load(args);
    }
    let result = match args {
        BenchArgs { job: true, .. } => job::run(args)?,
        BenchArgs { score: true, .. } => score::run(args)?,
        _ => prefill_and_decode(args)?,
    };
    if args.json {
        return output::json(&result);
    }
    for (field, value) in result.as_object().into_iter().flatten() {
        output::line(format!("{field:28}{}", shown(value)))?;
    }
    Ok(())
}

/// The engine to measure.
fn engine(args: &BenchArgs) -> Result<Engine> {
    let runtime = RuntimeConfig { profile: args.profile.clone(), ..RuntimeConfig::default() };
    // The command line asks for it.
    let model = args.model.clone().unwrap_or_default();
    Engine::with_model(model, runtime, places())
}

/// A result for people.
fn shown(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| format!("{name} {}", shown(value))).collect::<Vec<_>>().join("   ")
        }
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join("   "),
        Value::Number(number) if number.is_f64() => format!("{:.4}", number.as_f64().unwrap_or_default()),
        other => other.to_string(),
    }
}

/// Times that these shares of the requests did not exceed (nearest rank). They are null where there was no request.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Percentiles {
    p50: Option<f64>,
    p95: Option<f64>,
    p99: Option<f64>,
}

impl Percentiles {
    fn of(mut seconds: Vec<f64>) -> Self {
        seconds.sort_by(f64::total_cmp);
        let at = |percent: usize| seconds.get((seconds.len() * percent).div_ceil(100).saturating_sub(1)).copied();
        Percentiles { p50: at(50), p95: at(95), p99: at(99) }
    }
}

/// Refuses options of which nothing is left to measure.
fn refuse_zeros(options: &[(&str, usize)]) -> Result<()> {
    match options.iter().find(|(_, value)| *value == 0) {
        Some((flag, _)) => Err(Error::new(ErrorKind::InvalidRequest, format!("{flag} is 0; give at least 1"))),
        None => Ok(()),
    }
}

fn prefill_and_decode(args: &BenchArgs) -> Result<Value> {
    refuse_zeros(&[
        ("--prompt-tokens", args.prompt_tokens),
        ("--new-tokens", args.new_tokens),
        ("--batch", args.batch),
    ])?;
    let start = Instant::now();
    let engine = engine(args)?;
    let load = start.elapsed().as_secs_f64();
    let speed = speed(&engine, args.prompt_tokens, args.new_tokens, args.batch)?;
    Ok(json!({
        "prefill_tokens_per_second": speed.prefill,
        "decode_tokens_per_second": speed.decode,
        "load_seconds": load,
        "peak_rss_bytes": peak_rss_bytes(),
    }))
}

/// Tokens per second.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Speed {
    #[serde(rename = "prefill_tokens_per_second")]
    pub(super) prefill: f64,
    #[serde(rename = "decode_tokens_per_second")]
    pub(super) decode: f64,
}

/// Measures a prompt of `prompt_tokens`, then `batch` replies of `new_tokens` to it.
pub(super) fn speed(engine: &Engine, prompt_tokens: usize, new_tokens: usize, batch: usize) -> Result<Speed> {
    let words = Words::of(engine);
    // Once outside the measurement: threads start, buffers grow.
    run(engine, &words.prompt(prompt_tokens.min(32), 1), 2, 1)?;

    let prompt = words.prompt(prompt_tokens, 2);
    let prefill = run(engine, &prompt, 1, 1)?;
    // The prompt is cached now, so each step computes one token of each sequence.
    let decode = run(engine, &prompt, new_tokens, batch)?;
    Ok(Speed { prefill: prompt_tokens as f64 / prefill, decode: (batch * new_tokens) as f64 / decode })
}

/// Seconds for `batch` replies of exactly `new` tokens to one prompt.
fn run(engine: &Engine, prompt: &[u32], new: usize, batch: usize) -> Result<f64> {
    let model = engine.model(MODEL)?;
    let start = Instant::now();
    let submit = |seed| model.submit_generate(prompt.to_vec(), exactly(new, seed));
    let pending = (0..batch as u64).map(submit).collect::<Result<Vec<_>>>()?;
    for reply in pending {
        reply.wait()?;
    }
    Ok(start.elapsed().as_secs_f64())
}

/// Exactly `new` tokens, whatever they are.
fn exactly(new: usize, seed: u64) -> GenerateOptions {
    GenerateOptions {
        max_tokens: new,
        sampling: SamplingOptions::default(),
        seed,
        ignore_eos: true,
        ..GenerateOptions::default()
    }
}

/// Ordinary tokens of a model: none of the special ones, which stand at the ends of vocabularies.
#[derive(Debug, Clone, Copy)]
struct Words {
    first: u32,
    count: u32,
}

impl Words {
    fn of(engine: &Engine) -> Self {
        Words::among(
            engine
                .model(MODEL)
                .and_then(|model| model.folder())
                .map_or(u32::MAX, |folder| folder.inspect().vocab_size as u32),
        )
    }

    fn among(vocabulary: u32) -> Self {
        let first = 1000.min(vocabulary / 2);
        Words { first, count: (vocabulary - first).clamp(1, 10_000) }
    }

    /// A text without meaning. `count` salts in a row share no prefix, because what multiplies them is a prime above it.
    fn prompt(self, tokens: usize, salt: usize) -> Vec<u32> {
        let word = |at: usize| (at as u64 * 7919 + salt as u64 * 104_729) % u64::from(self.count);
        (0..tokens).map(|at| self.first + word(at) as u32).collect()
    }
}

fn peak_rss_bytes() -> Option<u64> {
    #[allow(clippy::disallowed_methods, reason = "a file of the kernel's own")]
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let of = |count: u32| Percentiles::of((1..=count).rev().map(f64::from).collect());
        let [p50, p95, p99] = [100.0, 190.0, 198.0].map(Some);
        assert_eq!(of(200), Percentiles { p50, p95, p99 });
        assert_eq!(of(30), Percentiles { p50: Some(15.0), p95: Some(29.0), p99: Some(30.0) });
        assert_eq!(of(1), Percentiles { p50: Some(1.0), p95: Some(1.0), p99: Some(1.0) });
        assert_eq!(of(0), Percentiles { p50: None, p95: None, p99: None });
    }
}
