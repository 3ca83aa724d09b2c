//! Decode steps and prefill on the real model, through the engine.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use foreturn::Engine;
use foreturn::decode::GenerateOptions;
use foreturn::runtime::Places;

mod support;

const MODEL: &str = "model";
/// Tokens of the shared prefix, and of the prefilled prompt.
const PROMPT: u32 = 512;
/// Steps in one measured reply.
const STEPS: usize = 32;

fn engine() -> Engine {
    Engine::with_model(support::model(), support::runtime(), Places::default()).expect("the model loads")
}

/// Ordinary tokens without meaning. Prompts of different salts (below 10,000) differ from their first token on.
fn prompt(salt: u32) -> Vec<u32> {
    (0..PROMPT).map(|i| 1000 + (i * 7919 + salt) % 10_000).collect()
}

/// Waits for `batch` replies of exactly `new` tokens.
fn reply(engine: &Engine, tokens: &[u32], new: usize, batch: usize) {
    let submit = |seed| {
        let options = GenerateOptions { max_tokens: new, seed, ignore_eos: true, ..GenerateOptions::default() };
        engine.model(MODEL).expect("a model").submit_generate(tokens.to_vec(), options)
    };
    let pending: Vec<_> = (0..batch as u64).map(|seed| submit(seed).expect("accepted")).collect();
    for reply in pending {
        let reply = reply.wait().expect("a reply");
        assert_eq!(reply.tokens.len(), new);
        black_box(reply);
    }
}

/// One measurement is `STEPS` steps, each with one token of every sequence; the prompt is in the cache.
fn decode(c: &mut Criterion) {
    let engine = engine();
    let tokens = prompt(0);
    let _pin = engine.model(MODEL).expect("a model").warm(tokens.clone()).expect("it fits the cache");
    let mut group = c.benchmark_group("decode over 512 shared tokens");
    group.sample_size(10);
    for batch in [1, 4, 12] {
        group.throughput(Throughput::Elements((batch * STEPS) as u64));
        group.bench_function(BenchmarkId::new("batch", batch), |b| b.iter(|| reply(&engine, &tokens, STEPS, batch)));
    }
}

/// One measurement is a prompt that nobody has seen, and its first token.
fn prefill(c: &mut Criterion) {
    let engine = engine();
    let mut salt = 0;
    let mut group = c.benchmark_group("prefill");
    group.sample_size(10).throughput(Throughput::Elements(u64::from(PROMPT)));
    group.bench_function("512 cold tokens", |b| {
        b.iter(|| {
            salt = (salt + 1) % 10_000;
            reply(&engine, &prompt(salt), 1, 1);
        });
    });
}

criterion_group!(benches, decode, prefill);
criterion_main!(benches);
