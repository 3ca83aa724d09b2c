//! The real model in bfloat16, in 8 and in 4 bits: how little it loses, and that what holds in float32 holds here.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::common::{self, config_with, folder, fresh, model_path, scratch};
use foreturn::Engine;
use foreturn::config::ModelConfig;
use foreturn::decode::GenerateOptions;
use foreturn::export::{ExportOptions, Quantize, TensorType, export};
use foreturn::model::ModelFolder;
use serde_json::Value;
use tempfile::TempDir;

/// SmolLM2, exported once: bfloat16, int8, int4.
struct Exports {
    _folder: TempDir,
    bfloat16: PathBuf,
    int8: PathBuf,
    int4: PathBuf,
}

fn gguf() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/downloads/SmolLM2-135M-Instruct.Q4_1.gguf")
}

fn exports() -> &'static Exports {
    static EXPORTS: OnceLock<Exports> = OnceLock::new();
    EXPORTS.get_or_init(|| {
        let root = scratch();
        let make = |quantize, dtype, name: &str| {
            let to = root.path().join(name);
            let options = ExportOptions { quantize, dtype, ..ExportOptions::new(gguf(), &to) };
            export(&options, &mut |_| {}).expect("an export");
            to
        };
        let bfloat16 = make(Quantize::None, TensorType::Bfloat16, "bfloat16");
        let int8 = make(Quantize::Int8, TensorType::Float32, "int8");
        let int4 = make(Quantize::Int4, TensorType::Float32, "int4");
        Exports { _folder: root, bfloat16, int8, int4 }
    })
}

fn recorded(file: &str, field: &str) -> Vec<Vec<u32>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/smollm2").join(file);
    let cases: Value = serde_json::from_slice(&std::fs::read(path).expect("a fixture")).expect("JSON");
    let tokens = |case: &Value| serde_json::from_value(case[field].clone()).expect("token ids");
    cases["cases"].as_array().expect("cases").iter().map(tokens).collect()
}

fn logprobs(engine: &Engine, texts: &[Vec<u32>]) -> Vec<f32> {
    let score = |tokens: &Vec<u32>| {
        engine.model(common::MODEL).expect("a model").logprobs(tokens.clone()).expect("scores").logprobs
    };
    texts.iter().flat_map(score).collect()
}

/// Mean of changes without sign, and with it.
fn change(wanted: &[f32], found: &[f32]) -> (f32, f32) {
    assert_eq!(wanted.len(), found.len());
    let n = wanted.len() as f32;
    let changes = || wanted.iter().zip(found).map(|(wanted, found)| wanted - found);
    (changes().map(f32::abs).sum::<f32>() / n, changes().sum::<f32>() / n)
}

#[test]
fn little_is_lost() {
    let texts = recorded("logprobs.json", "tokens");
    let exact = logprobs(&fresh(config_with(&model_path(), "")).engine, &texts);
    let Exports { bfloat16, int8, int4, .. } = exports();
    for (path, most, most_lost) in [(bfloat16, 0.05, 0.01), (int8, 0.1, 0.03), (int4, 0.1, 0.03)] {
        let found = logprobs(&fresh(config_with(path, "")).engine, &texts);
        let (size, loss) = change(&exact, &found);
        assert!(size < most && loss.abs() < most_lost, "{}: {size} nats a token, loss {loss}", path.display());
    }
}

#[test]
fn a_part_of_the_bytes_and_bitwise_all_the_same() {
    let bytes = |path: &Path| std::fs::metadata(path.join("model.safetensors")).expect("weights").len() as f64;
    let whole = bytes(&model_path());
    let Exports { bfloat16, int8, int4, .. } = exports();
    for (path, share) in [(bfloat16, 0.51), (int8, 0.29), (int4, 0.20)] {
        let share_found = bytes(path) / whole;
        assert!(share_found < share, "{}: {share_found}", path.display());
        let inspection = ModelFolder::open(path).expect("a model").inspect();
        assert!(inspection.bitwise, "{:?}", inspection.bitwise_exceptions);
    }
}

#[test]
fn larger_blocks_keep_their_bits_where_the_engine_multiplies_itself() {
    let root = scratch();
    let to = root.path().join("out");
    let options = ExportOptions { quantize: Quantize::Int8, block: 128, ..ExportOptions::new(gguf(), &to) };
    export(&options, &mut |_| {}).expect("an export");
    let inspection = ModelFolder::open(&to).expect("a model").inspect();
    #[cfg(target_arch = "x86_64")]
    let own = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    let own = false;
    assert_eq!(inspection.bitwise, own);
    let reported = inspection.bitwise_exceptions.iter().any(|exception| exception.contains("block 128"));
    assert_eq!(reported, !own, "{:?}", inspection.bitwise_exceptions);
}

#[test]
fn batching_changes_nothing_to_the_last_bit() {
    let mut prompts = recorded("greedy.json", "prompt_tokens");
    prompts.truncate(6);
    prompts.iter_mut().for_each(|prompt| prompt.truncate(120));
    let submit = |engine: &Engine, index: usize| {
        let options = GenerateOptions { max_tokens: 16, seed: index as u64, ..GenerateOptions::default() };
        let prompt = prompts[index].clone();
        engine.model(common::MODEL).expect("a model").submit_generate(prompt, options).expect("accepted")
    };
    let bits = |reply: foreturn::engine::Generation| {
        let logprobs: Vec<u32> = reply.logprobs.iter().map(|logprob| logprob.to_bits()).collect();
        (reply.tokens, logprobs)
    };
    for path in [&exports().bfloat16, &exports().int8, &exports().int4] {
        // One at a time, whole prompts in one step.
        let alone: Vec<_> = {
            let fresh = fresh(config_with(path, "[runtime]\nthreads = 2\nstep_budget_ms = 10000"));
            (0..prompts.len()).map(|index| bits(submit(&fresh.engine, index).wait().expect("a reply"))).collect()
        };
        // All at once, in small steps, with one thread.
        let fresh = fresh(config_with(path, "[runtime]\nthreads = 1\nstep_budget_ms = 20"));
        let pending: Vec<_> = (0..prompts.len()).map(|index| submit(&fresh.engine, index)).collect();
        let together: Vec<_> = pending.into_iter().map(|pending| bits(pending.wait().expect("a reply"))).collect();
        assert_eq!(together, alone, "{}", path.display());
    }
}

/// Quantised inputs flip between two steps at the slightest difference, so ONNX Runtime's own attention doesn't agree
/// with itself when tokens come one by one. That noise is the measure.
#[test]
fn the_paged_path_computes_what_onnx_runtime_does() {
    const NEW: usize = 24;
    let prompts: Vec<_> = recorded("greedy.json", "prompt_tokens").into_iter().filter(|p| p.len() < 150).collect();
    for path in [&exports().int8, &exports().int4] {
        let engine = |batching: &str| {
            let mut config = config_with(path, "");
            let model = config.models.get_mut(common::MODEL).and_then(ModelConfig::as_local_mut).expect("the model");
            model.batching = serde_json::from_value(Value::from(batching)).expect("a batching");
            fresh(config)
        };
        let last = |engine: &Engine, texts: &[Vec<u32>]| -> Vec<f32> {
            let of = |text: &Vec<u32>| logprobs(engine, std::slice::from_ref(text)).split_off(text.len() - 1 - NEW);
            texts.iter().flat_map(of).collect()
        };
        let (mut texts, mut one_by_one) = (Vec::new(), Vec::new());
        let whole = {
            let padded = engine("padded");
            for prompt in &prompts {
                let options = GenerateOptions { max_tokens: NEW, ignore_eos: true, ..GenerateOptions::default() };
                let prompt = prompt.clone();
                let reply =
                    padded.engine.model(common::MODEL).expect("a model").generate(prompt, options).expect("a reply");
                texts.push([reply.prompt_tokens, reply.tokens].concat());
                one_by_one.extend(reply.logprobs);
            }
            last(&padded.engine, &texts)
        };
        let paged = last(&engine("auto").engine, &texts);
        let ((difference, _), (noise, _)) = (change(&whole, &paged), change(&whole, &one_by_one));
        assert!(noise > 0.0 && difference <= 2.0 * noise, "{}: {difference}, noise {noise}", path.display());
    }
}

#[test]
fn tokens_and_templates_are_those_of_the_float32_export() {
    let quantised = ModelFolder::open(&exports().int4).expect("a model");
    assert_eq!(quantised.stop_tokens(), folder().stop_tokens());
    let text = "Neither here nor there: 1234 ≈ 1.2k.";
    let tokens = |folder: &ModelFolder| folder.tokenizer().encode_text(text).expect("tokens");
    assert_eq!(tokens(&quantised), tokens(folder()));
}
