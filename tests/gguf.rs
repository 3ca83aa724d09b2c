//! GGUF files that llama.cpp quantised, exported and run, against what transformers computes with the weights that
//! gguf-py widens theirs to (`tests/reference/make_gguf_quantised.py`). `conformance.rs` has those of every architecture.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use foreturn::Engine;
use foreturn::decode::{GenerateOptions, SamplingOptions};
use foreturn::engine::{Limits, Prompt};
use foreturn::export::{ExportOptions, export};
use serde::Deserialize;

use crate::common::{MODEL, config_with, scratch, turn};

const TOLERANCE: f32 = 1e-4;

/// What transformers computes with a model.
#[derive(Deserialize)]
struct Reference {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    tokens: Vec<u32>,
    /// Of `tokens[1..]`.
    logprobs: Vec<f32>,
    /// The likeliest continuation.
    greedy: Vec<u32>,
}

/// The folder `tests/fixtures/NAME`.
fn fixtures(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn check(file: &Path, reference: &Path) {
    let name = file.display();
    let reference = fs::read(reference).unwrap_or_else(|e| panic!("{}: {e}", reference.display()));
    let reference: Reference = serde_json::from_slice(&reference).unwrap_or_else(|e| panic!("{name}: {e}"));
    let folder = scratch();
    let model = folder.path().join("model");
    export(&ExportOptions::new(file, &model), &mut |_| {}).unwrap_or_else(|e| panic!("{e}"));
    let engine = Engine::new(config_with(&model, "")).unwrap_or_else(|e| panic!("{name}: {e}"));
    for case in &reference.cases {
        let prompt = || Prompt::Tokens(case.tokens.clone());
        let (_, logprobs) =
            engine.logprobs(MODEL, prompt(), Limits::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(logprobs.len(), case.logprobs.len(), "{name}");
        for (at, (found, expected)) in logprobs.iter().zip(&case.logprobs).enumerate() {
            assert!((found - expected).abs() < TOLERANCE, "{name}: token {at}: {found} for {expected}");
        }
        let options = GenerateOptions {
            max_tokens: case.greedy.len(),
            sampling: SamplingOptions { temperature: 0.0, ..SamplingOptions::default() },
            ignore_eos: true,
            ..GenerateOptions::default()
        };
        let reply =
            engine.generate(MODEL, prompt(), options, Limits::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(reply.tokens, case.greedy, "{name}");
    }
}

#[test]
fn files_quantised_by_llama_cpp_compute_what_their_widened_weights_do() {
    let _turn = turn();
    for kind in ["Q3_K_M", "Q4_K_M", "Q5_K_M", "Q5_1"] {
        let file = fixtures("gguf").join(format!("llama-{kind}.gguf"));
        check(&file, &file.with_extension("json"));
    }
}
