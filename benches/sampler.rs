//! From 49,152 logits to a token.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use foreturn::decode::SamplingOptions;
use foreturn::decode::sampler::Sampler;

mod support;

fn sampler(c: &mut Criterion) {
    let logits = support::logits();
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
