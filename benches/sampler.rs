//! From 49,152 logits to a token.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use foreturn::decode::SamplingOptions;
use foreturn::decode::sampler::Sampler;

const VOCABULARY: u32 = 49_152;

/// Roughly normal, with a standard deviation of 3; the same on every run.
fn logits() -> Vec<f32> {
    let mut state = 1_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    // The sum of twelve uniform numbers has a variance of 1.
    (0..VOCABULARY).map(|_| 3.0 * (0..12).map(|_| uniform()).sum::<f32>()).collect()
}

fn sampler(c: &mut Criterion) {
    let logits = logits();
    let history: Vec<u32> = (0..512).collect();
    let default = SamplingOptions::default();
    let mut group = c.benchmark_group("sampler over 49152 logits");
    for (name, options) in [
        ("greedy", SamplingOptions::greedy()),
        ("temperature", SamplingOptions { temperature: 0.8, ..default.clone() }),
        ("top-k and top-p", SamplingOptions { temperature: 0.8, top_k: 50, top_p: 0.95, ..default.clone() }),
        ("top-p", SamplingOptions { temperature: 0.8, top_p: 0.95, ..default.clone() }),
        ("repetition penalty", SamplingOptions { repetition_penalty: 1.1, ..default }),
    ] {
        let mut sampler = Sampler::new(options, 7).expect("options in range");
        let mut draw = 0;
        group.bench_function(name, |b| {
            b.iter(|| {
                draw += 1;
                sampler.sample(draw, &history, black_box(&logits)).expect("finite logits")
            });
        });
    }
}

criterion_group!(benches, sampler);
criterion_main!(benches);
