//! A whole small ranking on the real model: two candidates, two samples, one turn, short messages.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use foreturn::{Config, Engine, RankOptions, RankRequest};

mod support;

const CONFIG: &str = r#"
seed = 7

[rollout]
window = 1
samples = 2
max_user_tokens = 16
max_policy_tokens = 24

[[metrics]]
kind = "token_amount"

[[metrics]]
kind = "interactivity"
judging = "soft"
"#;

const REQUEST: &str = r#"{
    "conversation": [{"role": "user", "content": "Write a poem."}],
    "candidates": ["What should it be about?", "Roses are red, violets are blue."],
    "goal": {"task": "write a poem", "prompt": "A poem about my late dog, who loved the sea."}
}"#;

fn engine() -> Engine {
    // The seed comes first: a key after a section would belong to it.
    let written = format!("{CONFIG}\n[models.model]\npath = {:?}\n", support::model());
    let mut config: Config = written.parse().expect("a configuration");
    config.runtime = support::runtime();
    Engine::new(config).expect("the model loads")
}

/// Every measurement has an engine of its own, so the cache is always cold and the work always the same.
fn ranking(c: &mut Criterion) {
    let request: RankRequest = REQUEST.parse().expect("a request");
    let rank = |engine: Engine| {
        let ranking = engine.rank(request.clone(), RankOptions::default()).expect("a ranking");
        assert!(ranking.complete);
        // Given back, so that unloading the model is not measured.
        (engine, ranking)
    };
    let mut group = c.benchmark_group("ranking");
    group.sample_size(10);
    group.bench_function("2 candidates, 2 samples, 1 turn", |b| {
        b.iter_batched(engine, rank, BatchSize::PerIteration);
    });
}

criterion_group!(benches, ranking);
criterion_main!(benches);
