//! Every tiny model on every path that can take it, held to what transformers computes with the checkpoint, or ONNX
//! Runtime with a foreign export (an exporter may leave something out, a window for one: a file is held to itself).
//!
//! A model is added by its name in a list; a test sees to it that no fixture is forgotten.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::models::{
    Case, Reference, close, copy, exported, exported_in, fixtures, numbers, outputs, reference,
};
use crate::common::{MODEL, config_with, scratch};
use foreturn::config::ModelConfig;
use foreturn::decode::{GenerateOptions, SamplingOptions};
use foreturn::export::{ExportOptions, TensorType, export};
use foreturn::model::{Batching, CacheType, Dtype, ModelFolder};
use foreturn::score::ScoreOutput;
use foreturn::{Engine, ErrorKind};

/// Language models as checkpoints, and as GGUF files where there is one.
const CHECKPOINTS: &[&str] = &[
    "gemma2",
    "gemma3",
    "gemma3-rope-linear",
    "llama",
    "llama-bfloat16-sharded",
    "llama-biases",
    "llama-float16",
    "llama-rope-linear",
    "llama-rope-llama3",
    "mistral",
    "mistral-no-window",
    "phi3",
    "phi3-longrope",
    "phi3-partial",
    "qwen2",
    "qwen2-window",
    "qwen2.5",
    "qwen3",
    "smollm2",
    "smollm3",
];

/// Language models as other exporters wrote them.
const EXPORTS: &[&str] = &[
    "gemma2/exports/genai-float32",
    "gemma2/exports/optimum",
    "gemma3/exports/genai-float32",
    "llama/exports/genai-float32",
    "llama/exports/optimum-merged",
    "llama/exports/optimum-no-positions",
    "llama/exports/transformersjs-grouped",
    "llama-deep/exports/genai-int4",
    "llama-deep/exports/genai-int8",
    "llama-float16/exports/genai-float16",
    "llama-float16/exports/genai-paged",
    "mistral/exports/genai-float32",
    "mistral/exports/optimum",
    "phi3/exports/genai-float32",
    "phi3-longrope/exports/genai-float32",
    "qwen2/exports/genai-float32",
    "qwen2/exports/optimum",
    "qwen2-deep/exports/genai-int4",
    "qwen3/exports/genai-float32",
];

/// Checkpoints of decoders with a head.
const HEADS: &[&str] = &[
    "gemma2-reward",
    "gemma3-reward",
    "llama-labels",
    "llama-reward",
    "mistral-reward",
    "qwen2-process-reward",
    "qwen2-reward",
    "qwen2-token-labels",
    "qwen3-reward",
];

/// Checkpoints of encoders.
const ENCODERS: &[&str] = &[
    "bert-embedding",
    "bert-embedding-first",
    "bert-labels",
    "bert-token-labels",
    "deberta-v2-labels",
    "deberta-v2-own-keys",
    "deberta-v3-reward",
    "modernbert-first",
    "modernbert-mean",
];

/// Heads as other exporters wrote them.
const CLASSIFIER_EXPORTS: &[&str] = &[
    "bert-labels/exports/optimum",
    "bert-token-labels/exports/optimum",
    "deberta-v3-reward/exports/optimum",
    "llama-reward/exports/optimum",
];

/// What ONNX Runtime itself can't run as it stands, or not to the reference's precision, and why.
const NOT_PADDED: &[(&str, &str)] = &[
    ("llama-float16/exports/genai-paged", "there is no CPU kernel of PagedAttention"),
    ("llama-float16/exports/genai-float16", "as it stands it computes in half precision"),
    ("gemma2/exports/genai-float32", "its cache is a ring of the window's size in a buffer of the caller's"),
];

/// Exports whose weights in 8 bits the engine mixes and rounds anew, which ONNX Runtime doesn't.
const MIXED: &[&str] = &["llama-deep/exports/genai-int8"];

/// Mean difference of log-probabilities that products in bfloat16 may make to models of random weights, in nats: twice what
/// they make to the worst of them.
const BFLOAT16: f64 = 0.06;

/// Mean difference of log-probabilities that bfloat16 keys and values may make to quantised models of random weights, in
/// nats.
const COARSE_CACHE: f64 = 0.3;

/// Mean difference of log-probabilities that keys and values in bytes, or mixed weights, may make to quantised models of
/// random weights, in nats. Such models blow up what is rounded otherwise: 0.32 and 0.52 here, 0.24 for bfloat16. (On the
/// real model they make what ONNX Runtime's own rounding makes, `tests/it/export/quantize.rs`; that the products are right to the
/// last digit is shown beside the kernels.)
const OTHER_ROUNDING: f64 = 0.75;

// ---- one model on one path ----

/// A model folder to be run.
struct Subject {
    /// For messages.
    name: String,
    folder: PathBuf,
    batching: Batching,
    cache_type: CacheType,
    dtype: Dtype,
    /// Whether the engine's products are rounded otherwise than the reference's.
    mixes: bool,
}

impl Subject {
    fn engine(&self) -> Engine {
        let mut config = config_with(&self.folder, "");
        let model = config.models.get_mut(MODEL).and_then(ModelConfig::as_local_mut).expect("the model");
        (model.batching, model.cache_type, model.dtype) = (self.batching, self.cache_type, self.dtype);
        Engine::new(config).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    /// Holds its log-probabilities in bfloat16 to `reference`, but not its replies, in which a near tie may fall to the other
    /// side.
    fn check_near(&self, reference: &Reference) {
        let engine = self.engine();
        let differences = reference.cases.iter().filter_map(|case| self.logprobs(&engine, case));
        let differences: Vec<f64> = differences.flatten().collect();
        let mean = differences.iter().sum::<f64>() / differences.len() as f64;
        assert!(mean > 1e-4 && mean <= BFLOAT16, "{}: a mean difference of {mean}", self.name);
    }

    /// Holds the model to `reference`.
    fn check(&self, reference: &Reference) {
        let engine = self.engine();
        let (mut sum, mut count) = (0.0, 0);
        for case in &reference.cases {
            let Some(differences) = self.logprobs(&engine, case) else { continue };
            let worst = differences.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
            let (at, worst) = worst.expect("a token");
            if let Some(tolerance) = reference.tolerance {
                assert!(
                    worst < tolerance,
                    "{}, {}: the log-probability of token {} is off by {worst:e}",
                    self.name,
                    case.name,
                    at + 1
                );
            }
            sum += differences.iter().sum::<f64>();
            count += differences.len();
            self.greedy(&engine, case);
        }
        assert!(count > 0, "{}: no case was run", self.name);
        if reference.tolerance.is_none() {
            let mean = sum / count as f64;
            let bound = match self.cache_type {
                CacheType::Float32 if !self.mixes => 2.0 * reference.noise,
                CacheType::Bfloat16 if !self.mixes => COARSE_CACHE,
                _ => OTHER_ROUNDING,
            };
            let noise = reference.noise;
            assert!(mean <= bound, "{}: a mean difference of {mean}, more than {bound} (noise {noise})", self.name);
        }
    }

    /// Differences of log-probabilities; none where the padded path has no room for the case.
    fn logprobs(&self, engine: &Engine, case: &Case) -> Option<Vec<f64>> {
        let result = engine.model(MODEL).expect("a model").logprobs(case.tokens.clone());
        let found = match result {
            // Graphs that choose their rotary tables by length are only run up to the change.
            Err(e) if e.kind() == ErrorKind::ContextLength && self.batching == Batching::Padded => return None,
            result => result.unwrap_or_else(|e| panic!("{}, {}: {e}", self.name, case.name)).logprobs,
        };
        assert_eq!(found.len(), case.logprobs.len(), "{}, {}", self.name, case.name);
        Some(found.iter().zip(&case.logprobs).map(|(found, expected)| (f64::from(*found) - expected).abs()).collect())
    }

    /// Holds the scores to `reference`.
    fn check_scores(&self, reference: &Reference) {
        let inputs = reference.cases.iter().map(Case::input).collect();
        let given = outputs(&self.engine(), MODEL, inputs, reference.task());
        for (case, output) in reference.cases.iter().zip(&given) {
            let at = format!("{}, {}", self.name, case.name);
            close(&numbers(output), &case.numbers(), reference.tolerance.expect("a tolerance"), &at);
            if let ScoreOutput::Labels(score) = output {
                assert_eq!((&score.labels, score.tokens), (&reference.labels, case.tokens.len()), "{at}");
            }
        }
    }

    fn greedy(&self, engine: &Engine, case: &Case) {
        let Some(expected) = &case.greedy else { return };
        let options = GenerateOptions {
            max_tokens: expected.len(),
            sampling: SamplingOptions::greedy(),
            ignore_eos: true,
            ..GenerateOptions::default()
        };
        let reply = engine.model(MODEL).expect("a model").generate(case.tokens.clone(), options);
        let reply = reply.unwrap_or_else(|e| panic!("{}, {}: {e}", self.name, case.name));
        // Where a context ends, fewer come.
        let expected =
            if reply.finish == foreturn::chat::Finish::Context { &expected[..reply.tokens.len()] } else { expected };
        assert_eq!(reply.tokens, expected, "{}, {}: greedy tokens", self.name, case.name);
    }
}

fn subject(name: impl Into<String>, folder: &Path, batching: Batching) -> Subject {
    let name = name.into();
    let mixes = batching == Batching::Auto && MIXED.contains(&name.as_str());
    let name = format!("{name} ({batching:?})");
    Subject { name, folder: folder.to_owned(), batching, cache_type: CacheType::Float32, dtype: Dtype::Auto, mixes }
}

#[test]
fn checkpoints_compute_what_they_do_in_transformers() {
    for name in CHECKPOINTS {
        let folder = scratch();
        let reference = reference(&fixtures(name).join("reference.json"));
        let model = exported(folder.path(), name);
        subject(*name, &model, Batching::Auto).check(&reference);
        subject(*name, &model, Batching::Padded).check(&reference);
    }
}

/// An export in the checkpoint's own half precision has its weights to the last bit. In float32 it computes what the
/// checkpoint does, and in bfloat16 what is near.
#[test]
fn exports_in_half_precision_compute_what_their_checkpoints_do_in_transformers() {
    for (name, kind) in [("llama-bfloat16-sharded", TensorType::Bfloat16), ("llama-float16", TensorType::Float16)] {
        let folder = scratch();
        let model = exported_in(folder.path(), name, kind);
        let reference = reference(&fixtures(name).join("reference.json"));
        let name = format!("{name} in {kind:?}");
        let exact = Subject { dtype: Dtype::Float32, ..subject(&name, &model, Batching::Auto) };
        exact.check(&reference);
        subject(&name, &model, Batching::Padded).check(&reference);
        for cache_type in [CacheType::Float32, CacheType::Auto] {
            let subject = Subject { dtype: Dtype::Bfloat16, cache_type, ..subject(&name, &model, Batching::Auto) };
            subject.check_near(&reference);
        }
    }
}

/// Whatever they are made of, such exports take the same path, whether nodes have graphs inside them (`phi3-longrope`) or a
/// weight has two products (`deberta-v3-reward`).
#[test]
fn exports_in_half_precision_run_as_others_do() {
    for name in ["gemma2", "phi3-longrope", "smollm3"] {
        let folder = scratch();
        let reference = reference(&fixtures(name).join("reference.json"));
        let model = exported_in(folder.path(), name, TensorType::Bfloat16);
        let inspection = ModelFolder::open(&model).expect("a model").inspect();
        assert!(inspection.bitwise && inspection.widened_bytes == 0, "{name}: {inspection:?}");
        subject(name, &model, Batching::Auto).check_near(&reference);
        subject(name, &model, Batching::Padded).check_near(&reference);
    }
    for name in ["bert-labels", "deberta-v2-labels", "deberta-v3-reward", "modernbert-mean", "llama-reward"] {
        let folder = scratch();
        let reference = Reference { tolerance: Some(0.15), ..reference(&fixtures(name).join("reference.json")) };
        let model = exported_in(folder.path(), name, TensorType::Bfloat16);
        subject(name, &model, Batching::Auto).check_scores(&reference);
    }
}

/// Products of any export can be computed in bfloat16.
#[test]
fn products_in_bfloat16_are_near() {
    for name in ["gemma2", "gemma3", "phi3-longrope", "qwen3", "smollm3"] {
        let folder = scratch();
        let reference = reference(&fixtures(name).join("reference.json"));
        let model = exported(folder.path(), name);
        let subject = Subject { dtype: Dtype::Bfloat16, ..subject(name, &model, Batching::Auto) };
        subject.check_near(&reference);
    }
}

#[test]
fn gguf_files_compute_what_their_checkpoints_do_in_transformers() {
    let mut files = 0;
    for name in CHECKPOINTS {
        let file = fixtures(name).join("model.gguf");
        if !file.exists() {
            continue;
        }
        files += 1;
        let folder = scratch();
        let model = folder.path().join("model");
        export(&ExportOptions::new(&file, &model), &mut |_| ()).unwrap_or_else(|e| panic!("{e}"));
        let reference = reference(&fixtures(name).join("reference.json"));
        subject(format!("{name}/model.gguf"), &model, Batching::Auto).check(&reference);
    }
    assert!(files >= 13, "{files}");
}

#[test]
fn files_quantised_by_llama_cpp_compute_what_their_widened_weights_do() {
    for kind in ["Q3_K_M", "Q4_K_M", "Q5_K_M", "Q5_1"] {
        let file = fixtures(format!("../gguf/llama-{kind}.gguf"));
        let folder = scratch();
        let model = folder.path().join("model");
        export(&ExportOptions::new(&file, &model), &mut |_| ()).unwrap_or_else(|e| panic!("{e}"));
        let reference = Reference { tolerance: Some(1e-4), ..reference(&file.with_extension("json")) };
        subject(format!("llama-{kind}.gguf"), &model, Batching::Auto).check(&reference);
    }
}

#[test]
fn foreign_exports_compute_what_they_do_in_onnx_runtime() {
    for name in EXPORTS {
        let folder = scratch();
        copy(&fixtures(name), folder.path());
        let reference = reference(&fixtures(name).join("reference.json"));
        copy(&fixtures("tokenizers").join(&reference.tokenizer), folder.path());
        subject(*name, folder.path(), Batching::Auto).check(&reference);
        if reference.tolerance.is_none() {
            let kept_in = |cache_type| Subject { cache_type, ..subject(*name, folder.path(), Batching::Auto) };
            kept_in(CacheType::Auto).check(&reference);
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx512bf16") {
                kept_in(CacheType::Bfloat16).check(&reference);
            }
        }
        if NOT_PADDED.iter().all(|(other, _)| other != name) {
            subject(*name, folder.path(), Batching::Padded).check(&reference);
        }
    }
}

#[test]
fn heads_score_as_in_transformers() {
    for name in HEADS.iter().chain(ENCODERS) {
        let folder = scratch();
        let reference = reference(&fixtures(name).join("reference.json"));
        let model = exported(folder.path(), name);
        subject(*name, &model, Batching::Auto).check_scores(&reference);
        if HEADS.contains(name) {
            subject(*name, &model, Batching::Padded).check_scores(&reference);
        }
    }
}

#[test]
fn foreign_exports_of_heads_score_as_in_transformers() {
    for name in CLASSIFIER_EXPORTS {
        let folder = scratch();
        copy(&fixtures(name), folder.path());
        let model = Path::new(name).ancestors().nth(2).expect("a model");
        let reference = reference(&fixtures(model).join("reference.json"));
        copy(&fixtures("tokenizers").join(&reference.tokenizer), folder.path());
        subject(*name, folder.path(), Batching::Auto).check_scores(&reference);
    }
}

#[test]
fn no_fixture_is_forgotten() {
    let mut found = BTreeSet::new();
    for model in entries(&fixtures("")) {
        found.extend(model.join("reference.json").exists().then(|| relative(&model)));
        let exports = model.join("exports");
        found.extend(exports.exists().then(|| entries(&exports)).iter().flatten().map(|export| relative(export)));
    }
    let lists = [CHECKPOINTS, EXPORTS, HEADS, ENCODERS, CLASSIFIER_EXPORTS];
    let listed: BTreeSet<String> = lists.concat().into_iter().map(str::to_owned).collect();
    assert_eq!(found, listed, "what lies in tests/fixtures/models, and what is listed");
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    entries.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_dir()).collect()
}

fn relative(path: &Path) -> String {
    path.strip_prefix(fixtures("")).expect("a fixture").display().to_string()
}
