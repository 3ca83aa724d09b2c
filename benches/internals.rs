//! What lies below the public interface: the prefix tree, the scheduler, the attention kernel. Nothing here needs a model.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use foreturn::internals::{Attention, MatMul, Schedule, Tree};

mod support;

/// Attaching to what is there, and making room: the tree holds two of the three prompts.
fn tree(c: &mut Criterion) {
    let prompts = support::long_prompts();
    let mut group = c.benchmark_group("prefix tree, 1024 tokens");
    group.throughput(Throughput::Elements(1024));
    let mut warm = Tree::new(64);
    warm.pass(&prompts[0]);
    group.bench_function("cached", |b| b.iter(|| warm.pass(black_box(&prompts[0]))));
    let mut full = Tree::new(128);
    let mut turn = 0;
    group.bench_function("evicting", |b| {
        b.iter(|| {
            turn = (turn + 1) % 3;
            full.pass(black_box(&prompts[turn]))
        });
    });
}

/// All that the scheduler does for twelve rollouts of 64 tokens over a model that computes nothing.
fn scheduler(c: &mut Criterion) {
    let prompts = support::rollout_prompts();
    let mut group = c.benchmark_group("scheduler, 12 rollouts of 64 tokens");
    for (name, blocks) in [("ample memory", 1000), ("preempting", 60)] {
        let schedule = Schedule { blocks, step_tokens: 256, new_tokens: 64 };
        group.bench_function(name, |b| b.iter(|| schedule.run(black_box(&prompts))));
    }
}

/// One layer of SmolLM2-135M on one thread.
fn attention(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention, 9 heads over 3, size 64");
    for (name, bytes) in [("", false), ("int8, ", true)] {
        for context in [128, 512, 2048] {
            let mut decode = Attention::new(bytes, context, 1);
            group.throughput(Throughput::Elements(1));
            let id = BenchmarkId::new(format!("{name}one token after"), context);
            group.bench_function(id, |b| b.iter(|| decode.run()));
        }
        let mut prefill = Attention::new(bytes, 0, 512);
        group.throughput(Throughput::Elements(512));
        group.bench_function(format!("{name}512 tokens after none"), |b| b.iter(|| prefill.run()));
    }
}

/// The gate and up projections of a layer of SmolLM2-135M on one thread; throughput in multiplications.
fn matmul(c: &mut Criterion) {
    let mut group = c.benchmark_group("products, 576 to 3072");
    for (name, bytes) in [("float32", false), ("int8", true)] {
        for rows in [1, 4, 12, 64, 512] {
            let mut product = MatMul::new(bytes, rows, 576, 3072);
            group.throughput(Throughput::Elements((rows * 576 * 3072) as u64));
            group.bench_function(BenchmarkId::new(name, rows), |b| b.iter(|| product.run()));
        }
    }
}

criterion_group!(benches, tree, scheduler, attention, matmul);
criterion_main!(benches);
