//! Models on a device, as `make test-gpu` runs them: what a provider computes is held to transformers' references, and
//! what it can't compute is refused by name.
//!
//! The tests of `decode::decoder` look closer: forks, copies, preemption, and a cache that begins with NaN.
#![allow(clippy::print_stderr, reason = "a test that is skipped says so, and the others say what came")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Once;

use common::models::{Reference, copy, exported, fixtures, numbers, outputs, reference};
use common::{MODEL, config_with, runtime_path, scratch};
use foreturn::config::{Config, LocalConfig, Provider};
use foreturn::decode::{GenerateOptions, SamplingOptions};
use foreturn::engine::{RankOptions, RefreshOptions};
use foreturn::export::{ExportOptions, NamedTensor, TensorType, export};
use foreturn::model::{ModelFolder, OpenOptions};
use foreturn::rank::RankRequest;
use foreturn::runtime::{OnUnavailable, RuntimeOptions, providers};
use foreturn::{Engine, ErrorKind};
use safetensors::SafeTensors;

/// Largest difference of a log-probability in float16 from transformers' in float32. Of the tiny models, two blow up
/// roundings: 0.30 came for phi3-partial, 0.20 for phi3-longrope, and at most 0.10 for all others.
const TOLERANCE: f64 = 0.35;
/// Largest mean of these differences. 0.023 came for phi3-partial, and at most 0.012 for all others.
const MEAN: f64 = 0.03;
/// The same mean for quantised models of random weights, which blow up what is rounded otherwise (`model/conformance.rs`).
const QUANTISED: f64 = 0.75;

/// Checkpoints that the WebGPU plug-in computes.
const COMPUTED: &[&str] = &[
    "llama",
    "llama-bfloat16-sharded",
    "llama-biases",
    "llama-float16",
    "llama-rope-linear",
    "llama-rope-llama3",
    "mistral-no-window",
    "phi3-longrope",
    "phi3-partial",
    "qwen2",
    "qwen2.5",
    "qwen3",
    "smollm2",
    "smollm3",
];
/// Checkpoints with windows or soft caps, which it computes wrongly.
const REFUSED: &[&str] = &["gemma2", "gemma3", "gemma3-rope-linear", "mistral", "phi3", "qwen2-window"];
/// Exports of others, and why they are refused.
const EXPORTS: &[(&str, Option<&str>)] = &[
    ("gemma2/exports/genai-float32", Some("a window of")),
    ("gemma3/exports/genai-float32", Some("a window of")),
    ("llama-deep/exports/genai-int4", None),
    ("llama-deep/exports/genai-int8", None),
    ("llama-float16/exports/genai-float16", None),
    ("llama-float16/exports/genai-paged", None),
    ("llama/exports/genai-float32", None),
    ("llama/exports/optimum-merged", Some("runs decoders on the paged path only")),
    ("llama/exports/transformersjs-grouped", None),
    ("mistral/exports/genai-float32", None),
    ("phi3-longrope/exports/genai-float32", None),
    ("phi3/exports/genai-float32", None),
    ("qwen2-deep/exports/genai-int4", None),
    ("qwen2/exports/genai-float32", None),
    ("qwen3/exports/genai-float32", None),
];
/// Decoders with a head, in float16, and encoders, in float32, with the largest difference of a score: 0.08 and 1e-5 came.
const SCORERS: &[(&str, f64)] = &[
    ("llama-reward", 0.1),
    ("qwen2-process-reward", 0.1),
    ("bert-labels", 1e-3),
    ("bert-embedding", 1e-3),
    ("modernbert-mean", 1e-3),
];

/// The provider that `make test-gpu` names; none in other runs of the tests. Without a device there is none either, which
/// CI may not do without.
fn provider() -> Option<Provider> {
    static SAID: Once = Once::new();
    let Ok(name) = std::env::var("FORETURN_TEST_PROVIDER") else {
        SAID.call_once(|| eprintln!("skipped: no device is named; run `make test-gpu`"));
        return None;
    };
    let provider: Provider = name.parse().expect("a provider");
    let options = RuntimeOptions { library: Some(runtime_path()), ..RuntimeOptions::default() };
    let states = providers::states(&options).expect("ONNX Runtime");
    let state = states.into_iter().find(|state| state.provider == provider).expect("each has a state");
    let Some(reason) = state.reason else { return Some(provider) };
    assert!(std::env::var_os("CI").is_none(), "`{name}` is not there: {reason}");
    SAID.call_once(|| eprintln!("skipped: `{name}` is not there: {reason}"));
    None
}

fn config(model: &Path, provider: Provider) -> Config {
    let mut config = config_with(model, "");
    config.runtime.providers = vec![provider];
    config.runtime.kv_cache = Some("32MiB".parse().expect("a size"));
    config
}

/// Largest and mean difference of log-probabilities from the reference.
fn differences(engine: &Engine, reference: &Reference, name: &str) -> (f64, f64) {
    let mut all = Vec::new();
    for case in &reference.cases {
        let found = engine.model(MODEL).expect("a model").logprobs(case.tokens.clone());
        let found = found.unwrap_or_else(|e| panic!("{name}, {}: {e}", case.name)).logprobs;
        assert_eq!(found.len(), case.logprobs.len(), "{name}, {}", case.name);
        all.extend(found.iter().zip(&case.logprobs).map(|(found, expected)| (f64::from(*found) - expected).abs()));
    }
    (all.iter().copied().fold(0.0, f64::max), all.iter().sum::<f64>() / all.len() as f64)
}

fn check(name: &str, model: &Path, reference: &Reference, provider: Provider) {
    let engine = Engine::new(config(model, provider)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let report = engine.statistics().expect("statistics").models[MODEL].provider.clone();
    assert_eq!((report.used, report.unavailable), (provider, vec![]), "{name}");
    let (worst, mean) = differences(&engine, reference, name);
    eprintln!("{name}: largest {worst:.3}, mean {mean:.4}; nodes {:?}", report.nodes);
    let quantised = reference.tolerance.is_none();
    assert!(quantised || worst < TOLERANCE, "{name}: a log-probability is off by {worst}");
    assert!(mean < if quantised { QUANTISED } else { MEAN }, "{name}: a mean difference of {mean}");
    assert_eq!(report.nodes.len(), 1, "{name}: the device runs every node: {:?}", report.nodes);
}

#[test]
fn checkpoints_compute_what_they_do_in_transformers() {
    let Some(provider) = provider() else { return };
    for name in COMPUTED {
        let folder = scratch();
        let reference = reference(&fixtures(name).join("reference.json"));
        check(name, &exported(folder.path(), name), &reference, provider);
    }
}

#[test]
fn exports_of_others_compute_what_they_do_in_onnx_runtime() {
    let Some(provider) = provider() else { return };
    for &(name, why) in EXPORTS {
        let folder = scratch();
        copy(&fixtures(name), folder.path());
        let reference = reference(&fixtures(name).join("reference.json"));
        copy(&fixtures("tokenizers").join(&reference.tokenizer), folder.path());
        match why {
            None => check(name, folder.path(), &reference, provider),
            Some(why) => assert_refused(name, folder.path(), provider, why),
        }
    }
}

fn assert_refused(name: &str, model: &Path, provider: Provider, why: &str) {
    let error = Engine::new(config(model, provider)).err().unwrap_or_else(|| panic!("{name}: not refused"));
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{name}: {error}");
    let message = error.to_string();
    assert!(message.contains(why) && message.contains("`webgpu` can't run the model"), "{name}: {message}");
}

/// Such a model runs on the next provider of the list, if that is allowed, and the report says why.
#[test]
fn what_the_provider_gets_wrong_is_refused_or_runs_elsewhere() {
    let Some(provider) = provider() else { return };
    for name in REFUSED {
        let folder = scratch();
        let model = exported(folder.path(), name);
        assert_refused(name, &model, provider, "local_window_size");
        let mut config = config(&model, provider);
        config.runtime.providers.push(Provider::Cpu);
        config.runtime.on_unavailable = OnUnavailable::Fallback;
        let engine = Engine::new(config).unwrap_or_else(|e| panic!("{name}: {e}"));
        let report = engine.statistics().expect("statistics").models[MODEL].provider.clone();
        assert_eq!(report.used, Provider::Cpu, "{name}");
        let [(refused, why)] = &report.unavailable[..] else { panic!("{name}: {:?}", report.unavailable) };
        assert!(*refused == provider && why.contains("local_window_size"), "{name}: {why}");
        let reference = reference(&fixtures(name).join("reference.json"));
        let (worst, _) = differences(&engine, &reference, name);
        assert!(worst < reference.tolerance.expect("a tolerance"), "{name}: {worst}");
    }
}

#[test]
fn heads_and_encoders_score_as_in_transformers() {
    let Some(provider) = provider() else { return };
    for (name, tolerance) in SCORERS {
        let folder = scratch();
        let reference = reference(&fixtures(name).join("reference.json"));
        let engine = Engine::new(config(&exported(folder.path(), name), provider));
        let engine = engine.unwrap_or_else(|e| panic!("{name}: {e}"));
        let inputs = reference.cases.iter().map(common::models::Case::input).collect();
        let mut worst: f64 = 0.0;
        for (case, output) in reference.cases.iter().zip(&outputs(&engine, MODEL, inputs, reference.task())) {
            let (found, expected) = (numbers(output), case.numbers());
            assert_eq!(found.len(), expected.len(), "{name}, {}", case.name);
            worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(worst, f64::max);
        }
        let report = engine.statistics().expect("statistics").models[MODEL].provider.clone();
        eprintln!("{name}: largest {worst:.5}; nodes {:?}", report.nodes);
        assert!(worst < *tolerance, "{name}: a score is off by {worst}");
        assert_eq!(report.used, provider, "{name}");
    }
}

/// The tiny Llama with room for conversations.
fn roomy(folder: &Path) -> PathBuf {
    let (from, to) = (folder.join("checkpoint"), folder.join("model"));
    copy(&fixtures("llama/checkpoint"), &from);
    copy(&fixtures("tokenizers/bytes"), &from);
    let config = std::fs::read_to_string(from.join("config.json")).expect("a configuration");
    let longer = config.replace("\"max_position_embeddings\": 256", "\"max_position_embeddings\": 8192");
    assert_ne!(config, longer);
    std::fs::write(from.join("config.json"), longer).expect("written");
    export(&ExportOptions::new(&from, &to), &mut |_| ()).expect("exported");
    to
}

/// A whole ranking, with one model in every role. Its futures share their prefixes.
#[test]
fn a_ranking_runs_on_the_device() {
    let Some(provider) = provider() else { return };
    let folder = scratch();
    let mut config = config(&roomy(folder.path()), provider);
    let rest = "[rollout]\nwindow = 2\nsamples = 2\nmax_user_tokens = 12\nmax_policy_tokens = 12\n\
                [[metrics]]\nkind = \"token_amount\"\n";
    let ranked = config_with(folder.path(), rest);
    (config.rollout, config.metrics) = (ranked.rollout, ranked.metrics);
    let engine = Engine::new(config).expect("an engine");
    let request = serde_json::json!({
        "conversation": [{"role": "user", "content": "Write me a poem."}],
        "candidates": ["What about?", "Roses are red."],
        "goal": {"task": "writing", "prompt": "A poem about my late dog."}
    });
    let request: RankRequest = serde_json::from_value(request).expect("a request");
    let ranking = engine.rank(request, RankOptions::default()).expect("a ranking");
    assert!(ranking.complete && ranking.candidates.len() == 2, "{ranking:?}");
    assert!(!ranking.bitwise, "a device does not promise equal bits");
    let stats = engine.statistics().expect("statistics").models[MODEL].clone();
    assert_eq!(stats.provider.used, provider);
    assert!(stats.stats.reused_tokens > stats.stats.computed_tokens / 4, "prefixes are shared: {:?}", stats.stats);
}

/// Each model has providers of its own, in one engine.
#[test]
fn models_of_one_engine_run_on_different_devices() {
    let Some(provider) = provider() else { return };
    let folder = scratch();
    let model = exported(folder.path(), "llama");
    let mut config = config(&model, provider);
    let elsewhere = LocalConfig { providers: Some(vec![Provider::Cpu]), ..LocalConfig::new(&model) };
    config.models.insert("elsewhere".into(), elsewhere.into());
    let engine = Engine::new(config).expect("an engine");
    let used = |name: &str| engine.statistics().expect("statistics").models[name].provider.used;
    assert_eq!((used(MODEL), used("elsewhere")), (provider, Provider::Cpu));
    let tokens: Vec<u32> = (5..95).collect();
    let [device, cpu] = [MODEL, "elsewhere"]
        .map(|name| engine.model(name).expect("a model").logprobs(tokens.clone()).expect("log-probabilities").logprobs);
    let worst = device.iter().zip(&cpu).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(f64::from(worst) < TOLERANCE && device != cpu, "float16 beside float32: {worst}");
}

/// Some devices give out more memory than their kernels can read. That shows when the model is loaded.
#[test]
fn a_cache_that_is_too_large_is_refused_at_once() {
    let Some(provider) = provider() else { return };
    let folder = scratch();
    let mut config = config(&exported(folder.path(), "llama"), provider);
    config.runtime.kv_cache = Some("900GiB".parse().expect("a size"));
    let error = Engine::new(config).expect_err("no device has as much").to_string();
    assert!(error.contains("runtime.kv_cache"), "{error}");
}

#[test]
fn a_folder_says_how_it_runs_on_the_device() {
    let Some(provider) = provider() else { return };
    let folder = scratch();
    let model = exported(folder.path(), "llama");
    let runtime = RuntimeOptions {
        library: Some(runtime_path()),
        providers: vec![Provider::TensorRt, provider],
        on_unavailable: OnUnavailable::Fallback,
        ..RuntimeOptions::default()
    };
    let found = ModelFolder::open_on(&model, OpenOptions::default(), &runtime).expect("the model opens").inspect();
    assert_eq!((found.path, found.kv_type.as_deref(), found.bitwise), ("paged", Some("float16"), false));
    assert_eq!(found.provider.used, provider);
    assert_eq!(found.provider.unavailable[0].0, Provider::TensorRt);
    assert!(found.bitwise_exceptions[0].contains("`webgpu`"), "{:?}", found.bitwise_exceptions);
    // Two layers, keys and values, two heads of 16 numbers of two bytes.
    let cpu = ModelFolder::open(&model).expect("the model opens").inspect();
    assert_eq!(2 * found.kv_bytes_per_token, cpu.kv_bytes_per_token, "half of float32");
}

/// Weights of another folder, and weights in memory, take the place of the old ones on the same device.
#[test]
fn weights_are_exchanged_on_the_device() {
    let Some(provider) = provider() else { return };
    let folder = scratch();
    let [old, new] = ["old", "new"].map(|name| exported(&folder.path().join(name), "llama"));
    let engine = Engine::new(config(&old, provider)).expect("an engine");
    let model = engine.model(MODEL).expect("a model");
    let options =
        || GenerateOptions { max_tokens: 3, sampling: SamplingOptions::greedy(), ..GenerateOptions::default() };
    model.generate(vec![5, 6, 7], options()).expect("a reply");
    model.refresh(&new, RefreshOptions::default()).expect("exchanged");
    let reference = reference(&fixtures("llama").join("reference.json"));
    let (worst, _) = differences(&engine, &reference, "llama");
    assert!(worst < TOLERANCE, "{worst}");
    let status = engine.statistics().expect("statistics").models[MODEL].clone();
    assert_eq!((status.provider.used, status.refreshes), (provider, 1));

    // The same weights out of memory, and then a last norm of zeros, after which every token is as likely.
    let file = std::fs::read(fixtures("llama/checkpoint/model.safetensors")).expect("weights");
    let weights = SafeTensors::deserialize(&file).expect("safetensors");
    let zeros = vec![0; weights.tensor("model.norm.weight").expect("a norm").data().len()];
    let given = |last: Option<&'static [u8]>| -> Vec<f32> {
        let tensors = weights.iter().map(|(name, view)| (name, view.shape().to_vec(), view.data()));
        let tensors: Vec<_> = tensors.collect();
        let named = tensors.iter().map(|(name, shape, data)| {
            let data = last.filter(|_| *name == "model.norm.weight").unwrap_or(data);
            NamedTensor::new(name, TensorType::Float32, shape, data)
        });
        model.refresh_with(&named.collect::<Vec<_>>(), RefreshOptions::default()).expect("exchanged");
        model.logprobs((5..70).collect::<Vec<u32>>()).expect("log-probabilities").logprobs
    };
    let same = given(None);
    let (worst, _) = differences(&engine, &reference, "llama, from memory");
    assert!(worst < TOLERANCE && same.iter().any(|logprob| *logprob != same[0]), "{worst}");
    let flat = given(Some(zeros.leak()));
    assert!(flat.iter().all(|logprob| (logprob - flat[0]).abs() < 1e-3 && *logprob < -3.0), "{flat:?}");
}

/// The plug-in does not take several threads at once, and engines have threads of their own.
#[test]
fn two_engines_run_on_the_device_side_by_side() {
    let Some(provider) = provider() else { return };
    let folder = scratch();
    let model = exported(folder.path(), "llama");
    let tokens: Vec<u32> = (5..95).collect();
    let work = || {
        let engine = Engine::new(config(&model, provider)).expect("an engine");
        let ask =
            |_| engine.model(MODEL).expect("a model").logprobs(tokens.clone()).expect("log-probabilities").logprobs;
        (0..10).map(ask).collect::<Vec<_>>()
    };
    let alone = work();
    let both = std::thread::scope(|scope| {
        #[allow(clippy::disallowed_methods, reason = "a test may panic where the system refuses a thread")]
        let threads = [scope.spawn(work), scope.spawn(work)];
        threads.map(|thread| thread.join().expect("no panic"))
    });
    let all = both.iter().flatten().chain(&alone).flat_map(|found| found.iter().zip(&alone[0]));
    let worst = all.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(f64::from(worst) < MEAN, "side by side it computes something else, by {worst}");
}
