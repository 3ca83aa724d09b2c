//! What the benches share: inputs, and the model and the runtime that `make bench` fetched.

#![allow(dead_code, reason = "no bench uses all of it")]

use std::path::PathBuf;

use foreturn::config::{ByteSize, RuntimeConfig};

/// Logits of one row.
pub(crate) const VOCABULARY: usize = 49_152;

/// SmolLM2-135M-Instruct in float32.
pub(crate) fn model() -> PathBuf {
    target("models/smollm2-135m-instruct")
}

/// ONNX Runtime by ORT_DYLIB_PATH, else the fetched one; a cache that is soon full, so that evictions are part of what
/// is measured and memory stays bounded.
pub(crate) fn runtime() -> RuntimeConfig {
    let library = std::env::var_os("ORT_DYLIB_PATH").is_none().then(|| target("onnxruntime/lib"));
    RuntimeConfig { library, kv_cache: Some(ByteSize(128 << 20)), ..RuntimeConfig::default() }
}

fn target(path: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target").join(path);
    assert!(path.exists(), "{} is missing: run `make bench`, which fetches and exports it", path.display());
    path
}

/// Roughly normal, with a standard deviation of 3; the same on every run.
pub(crate) fn logits() -> Vec<f32> {
    let mut state = 1_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    // The sum of twelve uniform numbers has a variance of 1.
    (0..VOCABULARY).map(|_| 3.0 * (0..12).map(|_| uniform()).sum::<f32>()).collect()
}

/// 4 candidates × 3 samples: 512 tokens that all share, then 64 that a candidate's samples share.
pub(crate) fn rollout_prompts() -> Vec<Vec<u32>> {
    let prompt = |candidate: u32| (0..512).chain((0..64).map(move |i| 1000 + candidate * 100 + i)).collect();
    (0..12).map(|i| prompt(i / 3)).collect()
}

/// Three prompts of 1024 tokens that share none.
pub(crate) fn long_prompts() -> Vec<Vec<u32>> {
    (0..3u32).map(|salt| (0..1024).map(|i| salt * 10_000 + i).collect()).collect()
}
