//! GGUF files exported and run, against transformers: the tiny checkpoints as llama.cpp's converter would write them, and
//! files that llama.cpp quantised (`tests/reference/make_gguf_models.py`, `make_gguf_quantised.py`).

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

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths
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
fn files_of_every_architecture_compute_what_the_checkpoints_do() {
    let _turn = turn();
    let folders = entries(&fixtures("models"));
    let files: Vec<PathBuf> =
        folders.iter().map(|folder| folder.join("model.gguf")).filter(|file| file.exists()).collect();
    assert!(files.len() >= 13, "{files:?}");
    for file in files {
        check(&file, &file.with_file_name("reference.json"));
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
