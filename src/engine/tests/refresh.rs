//! Weights that are exchanged while an engine serves: every result has to be that of an engine that only ever had the
//! weights which the result names, to the last bit.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;

use prost::Message as _;

use super::*;
use crate::decode::SamplingOptions;
use crate::export::{NamedTensor, Quantize, TensorType};
use crate::onnx::ModelProto;
use crate::rank::Ranking;

/// Exports of one model with different weights; the version is the index.
struct Versions {
    folder: TempDir,
    paths: Vec<PathBuf>,
}

impl Versions {
    fn of(count: usize) -> Self {
        // Prompts of simulated users are long in bytes.
        let (folder, first) = testing::exported_with("llama", Quantize::None, |checkpoint| {
            let file = checkpoint.join("config.json");
            let text = std::fs::read_to_string(&file).expect("a configuration");
            let mut config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            config["max_position_embeddings"] = 8192.into();
            std::fs::write(&file, config.to_string()).expect("written");
        });
        let later = (1..count).map(|version| {
            let path = folder.path().join(format!("model-{version}"));
            copied(&first, &path);
            change(&path, |x| x * (1.0 - 0.1 * version as f32));
            path
        });
        let paths = std::iter::once(first.clone()).chain(later.collect::<Vec<_>>()).collect();
        Versions { folder, paths }
    }

    /// An engine with this version as policy, and with a user who has weights of its own.
    fn engine(&self, version: usize) -> Engine {
        let user = self.folder.path().join("model");
        let toml = format!(
            "[runtime]\nlibrary = {:?}\nthreads = 1\n[models.policy]\npath = {:?}\nversion = \"{version}\"\n\
             [models.user]\npath = {user:?}\n[roles]\npolicy = \"policy\"\nuser = \"user\"\n\
             [rollout]\nwindow = 1\nsamples = 2\nmax_policy_tokens = 6\nmax_user_tokens = 6\n\
             [[metrics]]\nkind = \"token_amount\"\n",
            testing::runtime(1).library.expect("a library"),
            self.paths[version],
        );
        Engine::new(Config::from_toml(&toml, "/").expect("settings")).expect("the engine starts")
    }
}

fn copied(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("made");
    for file in std::fs::read_dir(from).expect("a folder").map(|file| file.expect("a file")) {
        std::fs::copy(file.path(), to.join(file.file_name())).expect("copied");
    }
}

/// A `.safetensors` file in memory: each tensor's name, type, shape and place.
struct Tensors {
    bytes: Vec<u8>,
    header: Vec<(String, TensorType, Vec<usize>, std::ops::Range<usize>)>,
}

impl Tensors {
    fn read(file: &Path) -> Self {
        let bytes = std::fs::read(file).expect("weights");
        let (length, rest) = bytes.split_first_chunk::<8>().expect("a header");
        let end = u64::from_le_bytes(*length) as usize;
        let header: serde_json::Value = serde_json::from_slice(&rest[..end]).expect("JSON");
        let numbers = |value: &serde_json::Value| -> Vec<usize> {
            value.as_array().expect("numbers").iter().map(|n| n.as_u64().expect("a number") as usize).collect()
        };
        let tensors = header.as_object().expect("tensors").iter();
        let header = tensors.filter_map(|(name, tensor)| {
            let kind = match tensor["dtype"].as_str()? {
                "F32" => TensorType::Float32,
                "BF16" => TensorType::Bfloat16,
                "F16" => TensorType::Float16,
                _ => return None,
            };
            let offsets = numbers(&tensor["data_offsets"]);
            Some((name.clone(), kind, numbers(&tensor["shape"]), 8 + end + offsets[0]..8 + end + offsets[1]))
        });
        Tensors { header: header.collect(), bytes }
    }

    fn named(&self) -> Vec<NamedTensor<'static>> {
        let of = |(name, kind, shape, place): &'_ (String, TensorType, Vec<usize>, std::ops::Range<usize>)| {
            NamedTensor::new(lend(&**name), *kind, lend(&**shape), lend(&self.bytes[place.clone()]))
        };
        self.header.iter().map(of).collect()
    }
}

/// Test data lives as long as the test.
fn lend<T: ToOwned + ?Sized>(value: &T) -> &'static T
where
    T::Owned: std::borrow::Borrow<T>,
{
    std::borrow::Borrow::borrow(Box::leak(Box::new(value.to_owned())))
}

/// Changes the floats of a folder.
fn change(path: &Path, with: impl Fn(f32) -> f32) {
    for file in std::fs::read_dir(path).expect("a folder").map(|file| file.expect("a file").path()) {
        if file.extension().is_none_or(|kind| kind != "safetensors") || file.ends_with("rotary.safetensors") {
            continue;
        }
        let mut tensors = Tensors::read(&file);
        for (_, kind, _, place) in &tensors.header {
            let bytes = &mut tensors.bytes[place.clone()];
            match kind {
                TensorType::Float32 => {
                    for number in bytes.as_chunks_mut::<4>().0 {
                        *number = with(f32::from_le_bytes(*number)).to_le_bytes();
                    }
                }
                TensorType::Bfloat16 => {
                    for number in bytes.as_chunks_mut::<2>().0 {
                        *number = half::bf16::from_f32(with(half::bf16::from_le_bytes(*number).to_f32())).to_le_bytes();
                    }
                }
                TensorType::Float16 => {
                    for number in bytes.as_chunks_mut::<2>().0 {
                        *number = half::f16::from_f32(with(half::f16::from_le_bytes(*number).to_f32())).to_le_bytes();
                    }
                }
            }
        }
        std::fs::write(&file, &tensors.bytes).expect("written");
    }
}

fn named(version: usize) -> RefreshOptions {
    RefreshOptions { version: Some(version.to_string()), ..RefreshOptions::default() }
}

fn with(mode: RefreshMode, version: usize) -> RefreshOptions {
    RefreshOptions { mode, ..named(version) }
}

fn policy(engine: &Engine) -> Model {
    engine.model("policy").expect("a model")
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}

fn options(max_tokens: usize) -> GenerateOptions {
    let sampling = SamplingOptions::default();
    GenerateOptions { max_tokens, sampling, seed: 3, ignore_eos: true, ..GenerateOptions::default() }
}

/// What a caller can see of the weights.
#[derive(Debug, Clone, PartialEq)]
enum Seen {
    Reply(Vec<u32>, Vec<u32>),
    LogProbs(Vec<u32>),
    Scores(Vec<Vec<u32>>),
    Futures(Vec<String>),
}

fn ask(engine: &Engine, which: usize) -> Result<(Seen, Option<String>)> {
    let model = policy(engine);
    let prompt: Vec<u32> = (5..60).collect();
    Ok(match which % 4 {
        0 => {
            let reply = model.generate(prompt, options(12))?;
            (Seen::Reply(reply.tokens, bits(&reply.logprobs)), None)
        }
        1 => (Seen::LogProbs(bits(&model.logprobs(prompt)?.logprobs)), None),
        2 => {
            let response = |at: u32| ScoreInput::Response { prompt: prompt.clone(), response: vec![at, at + 1, 7] };
            let scores = model.submit_score((60..64).map(response).collect(), ScoreTask::Response)?.wait()?;
            (Seen::Scores(scores.into_iter().map(|score| response_bits(&score.output)).collect()), None)
        }
        _ => {
            let request = r#"{"conversation": [{"role": "user", "content": "2 + 2?"}], "candidates": ["4", "5"],
                "goal": {"prompt": "2 + 2"}, "seed": 5}"#;
            let ranking = engine.rank(request.parse()?, RankOptions::default())?;
            (Seen::Futures(futures(&ranking)), weights(&ranking))
        }
    })
}

fn response_bits(score: &crate::score::ScoreOutput) -> Vec<u32> {
    match score {
        crate::score::ScoreOutput::Response(response) => {
            vec![(response.logprob.to_bits() >> 32) as u32, response.logprob.to_bits() as u32]
        }
        other => panic!("not asked for: {other:?}"),
    }
}

fn futures(ranking: &Ranking) -> Vec<String> {
    let traces = ranking.candidates.iter().flat_map(|candidate| &candidate.rollouts);
    traces.map(|trace| format!("{trace:?}")).collect()
}

fn weights(ranking: &Ranking) -> Option<String> {
    ranking.models.get(&ModelRole::Policy).and_then(|info| info.weights.clone())
}

/// What each request gives with each version.
fn expected(versions: &Versions) -> Vec<Vec<Seen>> {
    let of = |version| {
        let engine = versions.engine(version);
        (0..4).map(|which| ask(&engine, which).expect("answered").0).collect()
    };
    (0..versions.paths.len()).map(of).collect()
}

#[test]
fn under_load_no_result_mixes_weights_and_none_fails() {
    let versions = Versions::of(3);
    let expected = expected(&versions);
    for (one, other) in expected[0].iter().zip(&expected[1]) {
        assert_ne!(one, other, "the weights show");
    }
    let (engine, over) = (versions.engine(0), AtomicBool::new(false));
    let pin = policy(&engine).warm((5..60).collect::<Vec<u32>>()).expect("warm");
    std::thread::scope(|scope| {
        let askers: Vec<_> = (0..8)
            .map(|asker| {
                let (engine, over, expected) = (&engine, &over, &expected);
                scope.spawn(move || {
                    let mut seen = [0; 3];
                    for which in asker.. {
                        let (result, weights) = ask(engine, which).expect("no request fails");
                        let of = |expected: &Vec<Seen>| expected[which % 4] == result;
                        let version = expected.iter().position(of).expect("the result of one version");
                        assert!(weights.is_none_or(|weights| weights == version.to_string()));
                        seen[version] += 1;
                        if over.load(Ordering::Relaxed) {
                            return seen;
                        }
                    }
                    seen
                })
            })
            .collect();
        for round in 1..52 {
            let version = round % 3;
            let named = policy(&engine).refresh(&versions.paths[version], named(version)).expect("exchanged");
            assert_eq!(named, version.to_string());
            let status = policy(&engine).status().expect("a status");
            assert_eq!((&*status.weights, status.refreshes), (&*named, round as u64));
        }
        over.store(true, Ordering::Relaxed);
        let seen: Vec<[usize; 3]> = askers.into_iter().map(|asker| asker.join().expect("no mixture")).collect();
        for version in 0..3 {
            assert!(seen.iter().any(|seen| seen[version] > 0), "{seen:?}");
        }
    });
    for (which, expected) in expected[0].iter().enumerate() {
        assert_eq!(ask(&engine, which).expect("answered").0, *expected);
    }
    drop(pin);
}

#[test]
fn quantised_and_padded_models_are_exchanged_too() {
    for (quantize, batching) in [(Quantize::Int8, "auto"), (Quantize::None, "padded")] {
        let (_first, first) = testing::exported("llama", quantize);
        let (_second, second) = testing::exported("llama", quantize);
        change(&second, |x| 0.8 * x);
        let engine = |path: &Path| alone_with(path, &format!("batching = \"{batching}\"\n"));
        let logprobs = |engine: &Engine| bits(&logprobs(engine, "policy", Limits::default()).expect("answered"));
        let (one, two) = (engine(&first), engine(&second));
        let (old, new) = (logprobs(&one), logprobs(&two));
        assert_ne!(old, new);
        let version = policy(&one).refresh(&second, RefreshOptions::default()).expect("exchanged");
        let fingerprint = policy(&two).folder().expect("a folder").fingerprint().to_owned();
        assert_eq!(version, format!("{fingerprint}-1"));
        assert_eq!(logprobs(&one), new, "{batching}");
    }
}

/// Begins a reply that takes at least 30 ms a token, and waits until its first one is there.
fn under_way(engine: &Engine, length: usize) -> Pending<super::super::Generation> {
    let (sender, first) = channel();
    let on_text: OnText = Box::new(move |_: &str| {
        // Whoever waits has heard the first, and listens no more.
        sender.send(()).ok();
        std::thread::sleep(Duration::from_millis(30));
    });
    let options = GenerateOptions { on_text: Some(on_text), ..options(length) };
    let pending = policy(engine).submit_generate((5..60).collect::<Vec<u32>>(), options).expect("queued");
    first.recv().expect("it streams");
    pending
}

#[test]
fn requests_under_way_end_first_start_over_or_are_ended_as_the_mode_says() {
    let versions = Versions::of(2);
    let reply = |version: usize| {
        let reply = policy(&versions.engine(version)).generate((5..60).collect::<Vec<u32>>(), options(100));
        reply.expect("a reply").tokens
    };
    let (old, new) = (reply(0), reply(1));

    let engine = versions.engine(0);
    let pending = under_way(&engine, 100);
    let refresh = policy(&engine).submit_refresh(&versions.paths[1], named(1)).expect("begun");
    assert_eq!(pending.wait().expect("it ends with the old weights").tokens, old);
    refresh.wait().expect("exchanged");

    // A reply that streams can't start over; one that doesn't, does.
    let pending = under_way(&engine, 200);
    let silent = policy(&engine).submit_generate((5..60).collect::<Vec<u32>>(), options(100)).expect("queued");
    policy(&engine).refresh(&versions.paths[0], with(RefreshMode::Restart, 0)).expect("exchanged");
    let error = pending.wait().expect_err("a part of it was passed on");
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(error.to_string().contains("the weights of model `policy` were exchanged"), "{error}");
    assert_eq!(silent.wait().expect("it starts over").tokens, old);

    let pending = under_way(&engine, 200);
    policy(&engine).refresh(&versions.paths[1], with(RefreshMode::Abort, 1)).expect("exchanged");
    assert_eq!(pending.wait().expect_err("ended").kind(), ErrorKind::Cancelled);
    let again = policy(&engine).generate((5..60).collect::<Vec<u32>>(), options(100)).expect("a reply");
    assert_eq!(again.tokens, new);
}

#[test]
fn a_ranking_that_starts_over_is_that_of_the_new_weights() {
    let versions = Versions::of(2);
    let request: RankRequest = serde_json::json!({"conversation": [{"role": "user", "content": "2 + 2?"}],
        "candidates": ["4", "5"], "goal": {"prompt": "2 + 2"}, "seed": 5, "samples": 24, "window": 2})
    .to_string()
    .parse()
    .expect("a request");
    let wanted = futures(&versions.engine(1).rank(request.clone(), RankOptions::default()).expect("a ranking"));
    let engine = versions.engine(0);
    let (sender, first) = channel();
    let (exchanged, is_exchanged) = channel::<()>();
    let on_rollout = move |rollout: EndedRollout| {
        drop(sender.send(rollout));
        // The ranking is slow until the weights are there, however long they take to load.
        is_exchanged.recv_timeout(Duration::from_millis(200)).ok();
    };
    let options = RankOptions { on_rollout: Some(Box::new(on_rollout)), ..RankOptions::default() };
    let pending = engine.submit_rank(request, options).expect("queued");
    let mut told = vec![first.recv().expect("one has ended")];
    policy(&engine).refresh(&versions.paths[1], with(RefreshMode::Restart, 1)).expect("exchanged");
    drop(exchanged);
    let ranking = pending.wait().expect("a ranking");
    assert_eq!((futures(&ranking), weights(&ranking)), (wanted, Some("1".into())));
    assert!(ranking.complete);
    told.extend(first.iter());
    assert!(told.len() > 48, "those with the old weights were told, too");
}

#[test]
fn pins_are_warm_after_the_exchange() {
    let versions = Versions::of(2);
    let engine = versions.engine(0);
    let prompt: Vec<u32> = (5..60).collect();
    let pin = policy(&engine).warm(prompt.clone()).expect("warm");
    policy(&engine).refresh(&versions.paths[1], named(1)).expect("exchanged");
    // It is computed again without being asked for.
    let warm = || policy(&engine).status().expect("a status").stats;
    let deadline = Instant::now() + Duration::from_secs(60);
    while warm().used_blocks < prompt.len() / 16 {
        assert!(Instant::now() < deadline, "{:?}", warm());
        std::thread::yield_now();
    }
    let usage = policy(&engine).logprobs(prompt.clone()).expect("scored").usage;
    assert_eq!(usage.reused_tokens, 0, "every row's logits are wanted");
    let reply = policy(&engine).generate(prompt, options(1)).expect("a reply");
    assert!(reply.usage.reused_tokens >= 48, "{:?}", reply.usage);
    drop(pin);
    assert_eq!(engine.statistics().expect("statistics").active_texts, 0);
}

#[test]
fn what_can_not_be_exchanged_is_refused_and_nothing_changes() {
    let versions = Versions::of(2);
    let engine = versions.engine(0);
    let before = ask(&engine, 0).expect("answered").0;
    let refused = |path: &Path, kind: ErrorKind, parts: &[&str]| {
        let error = policy(&engine).refresh(path, named(1)).expect_err("refused");
        assert_eq!(error.kind(), kind, "{error}");
        for part in parts.iter().chain(&["refresh of model `policy`"]) {
            assert!(error.to_string().contains(part), "{part} is not in {error}");
        }
        assert_eq!(ask(&engine, 0).expect("it goes on").0, before);
    };
    let at = |name: &str| versions.folder.path().join(name);
    refused(&at("nowhere"), ErrorKind::InvalidModel, &["nowhere"]);

    copied(&versions.paths[1], &at("template"));
    std::fs::write(at("template").join("chat_template.jinja"), "{{ messages[0].content }}").expect("written");
    refused(&at("template"), ErrorKind::InvalidRequest, &["its chat template", "Export the same model"]);

    copied(&versions.paths[1], &at("tokenizer"));
    let file = at("tokenizer").join("tokenizer.json");
    let mut tokenizer: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&file).expect("read")).expect("JSON");
    tokenizer["normalizer"] = serde_json::json!({"type": "Lowercase"});
    std::fs::write(&file, tokenizer.to_string()).expect("written");
    refused(&at("tokenizer"), ErrorKind::InvalidRequest, &["its tokenizer: another"]);

    copied(&versions.paths[1], &at("nan"));
    change(&at("nan"), |_| f32::NAN);
    refused(&at("nan"), ErrorKind::InvalidModel, &["NaN"]);

    let (_other, phi) = testing::exported("qwen2", Quantize::None);
    let error = policy(&engine).refresh(phi, named(1)).expect_err("another model");
    assert!(error.to_string().contains("is not the model that is loaded"), "{error}");

    // The user keeps the old weights busy; the refresh has a deadline, and the reply goes on.
    let pending = under_way(&engine, 100);
    let limits = Limits { timeout: Some(Duration::from_millis(1)), ..Limits::default() };
    let error = policy(&engine).within(limits).refresh(&versions.paths[1], named(1)).expect_err("no time");
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error}");
    pending.wait().expect("a reply");

    let first = policy(&engine).submit_refresh(&versions.paths[1], named(1)).expect("begun");
    match policy(&engine).submit_refresh(&versions.paths[1], named(1)) {
        Err(error) => assert!(error.to_string().contains("another refresh is under way"), "{error}"),
        Ok(second) => drop(second.wait().expect("the first was over")),
    }
    first.wait().expect("exchanged");
    engine.close();
    let closed = policy(&engine).refresh(&versions.paths[0], named(0)).expect_err("closed");
    assert_eq!(closed.kind(), ErrorKind::Closed, "{closed}");
}

#[test]
fn a_model_of_several_roles_is_refused_unless_it_may_change_in_all() {
    let versions = Versions::of(2);
    let toml = format!(
        "[runtime]\nlibrary = {:?}\n[models.one]\npath = {:?}\n[[metrics]]\nkind = \"token_amount\"\n\
         [roles]\npolicy = \"one\"\nuser = \"one\"\n",
        testing::runtime(1).library.expect("a library"),
        versions.paths[0],
    );
    let engine = Engine::new(Config::from_toml(&toml, "/").expect("settings")).expect("the engine starts");
    let one = engine.model("one").expect("a model");
    let error = one.refresh(&versions.paths[1], named(1)).expect_err("it plays two roles");
    for part in ["plays policy and user", "[models]", "`shared`"] {
        assert!(error.to_string().contains(part), "{part} is not in {error}");
    }
    one.refresh(&versions.paths[1], RefreshOptions { shared: true, ..named(1) }).expect("exchanged");
    assert_eq!(one.status().expect("a status").weights, "1");
}

/// A model alone in an engine.
fn alone(path: &Path) -> Engine {
    alone_with(path, "")
}

/// As [`alone`], with further settings of the model.
fn alone_with(path: &Path, settings: &str) -> Engine {
    let library = testing::runtime(1).library.expect("a library");
    let toml = format!("[runtime]\nlibrary = {library:?}\nthreads = 1\n[models.policy]\npath = {path:?}\n{settings}");
    Engine::new(Config::from_toml(&toml, "/").expect("settings")).expect("the engine starts")
}

fn bits_of(engine: &Engine) -> Vec<u32> {
    let scored = policy(engine).logprobs((5..40).collect::<Vec<u32>>()).expect("scored");
    bits(&scored.logprobs)
}

#[test]
fn tensors_of_a_live_model_have_the_bits_of_their_export() {
    let models =
        ["llama", "llama-biases", "llama-bfloat16-sharded", "qwen2", "qwen3", "phi3", "gemma2", "gemma3", "smollm3"];
    let forms = [Quantize::None, Quantize::Int8, Quantize::Int4].map(|quantize| (quantize, TensorType::Float32));
    let all = models.into_iter().flat_map(|model| forms.map(|form| (model, form)));
    let halves = [TensorType::Bfloat16, TensorType::Float16].map(|dtype| (Quantize::None, dtype));
    let some = ["llama-biases", "gemma2"].into_iter().flat_map(|model| halves.map(|form| (model, form)));
    for (model, form) in all.chain(some) {
        let (old_files, old) = testing::exported_as(model, form, |_| {});
        let changed = |checkpoint: &Path| change(checkpoint, |x| 0.75 * x);
        let (new_files, new) = testing::exported_as(model, form, changed);
        let (engine, wanted) = (alone(&old), bits_of(&alone(&new)));
        let before = bits_of(&engine);
        assert_ne!(before, wanted, "{model}");
        for (files, wanted) in [(&new_files, &wanted), (&old_files, &before)] {
            let shards = std::fs::read_dir(files.path().join("checkpoint")).expect("a folder");
            let shards = shards.map(|file| file.expect("a file").path());
            let shards: Vec<Tensors> = shards
                .filter(|file| file.extension().is_some_and(|kind| kind == "safetensors"))
                .map(|file| Tensors::read(&file))
                .collect();
            let tensors: Vec<NamedTensor<'_>> = shards.iter().flat_map(Tensors::named).collect();
            policy(&engine).refresh_with(&tensors, RefreshOptions::default()).expect(model);
            assert_eq!(bits_of(&engine), *wanted, "{model} in {form:?}");
        }
    }
}

#[test]
fn tensors_that_do_not_fit_are_refused_by_name_and_nothing_changes() {
    let (files, path) = testing::exported("llama", Quantize::Int8);
    let engine = alone(&path);
    let before = bits_of(&engine);
    let file = Tensors::read(&files.path().join("checkpoint/model.safetensors"));
    let whole = file.named();
    let refused = |tensors: &[NamedTensor<'_>], parts: &[&str]| {
        let error = policy(&engine).refresh_with(tensors, RefreshOptions::default()).expect_err(parts[0]);
        for part in parts.iter().chain(&["refresh of model `policy`"]) {
            assert!(error.to_string().contains(part), "{part} is not in {error}");
        }
        assert_eq!(bits_of(&engine), before);
    };
    let at = whole.iter().position(|tensor| tensor.name.ends_with("0.mlp.up_proj.weight")).expect("a layer");
    let with = |change: &dyn Fn(&mut NamedTensor<'_>)| {
        let mut tensors = whole.clone();
        change(&mut tensors[at]);
        tensors
    };
    let name = whole[at].name;
    refused(&[&whole[..at], &whole[at + 1..]].concat(), &["no tensor is called", name]);
    refused(&with(&|tensor| tensor.name = "model.layers.0.mlp.renamed.weight"), &["no tensor is called", name]);
    let mut more = whole.clone();
    more.push(NamedTensor { name: "model.layers.9.mlp.up_proj.weight", ..whole[at] });
    refused(&more, &["model.layers.9.mlp.up_proj.weight", "has no place"]);
    more.pop();
    more.push(NamedTensor { name: lend(&*format!("module.{name}")), ..whole[at] });
    refused(&more, &["is there twice"]);
    let turned: Vec<usize> = whole[at].shape.iter().rev().copied().collect();
    refused(&with(&|tensor| tensor.shape = lend(&*turned)), &[name, "has shape"]);
    refused(&with(&|tensor| tensor.data = &tensor.data[4..]), &[name, "bytes"]);
    let nan: Vec<u8> = f32::NAN.to_le_bytes().repeat(whole[at].data.len() / 4);
    refused(&with(&|tensor| tensor.data = lend(&*nan)), &[name, "holds NaN at [0, 0]"]);
    let adapter =
        NamedTensor { name: "base_model.model.model.layers.0.mlp.up_proj.lora_A.default.weight", ..whole[at] };
    refused(&[&whole[..], &[adapter]].concat(), &["adapter of PEFT", "merge"]);
    let head = NamedTensor { name: "lm_head.weight", ..whole[at] };
    if !whole.iter().any(|tensor| tensor.name == "lm_head.weight") {
        refused(&[&whole[..], &[head]].concat(), &["lm_head.weight", "one tensor for embedding and head"]);
    }
    // As wrappers leave them; and a head that shares the embedding's memory.
    let wrapped = |tensor: &NamedTensor<'static>| NamedTensor {
        name: lend(&*format!("module._orig_mod.{}", tensor.name)),
        ..*tensor
    };
    let wrapped: Vec<NamedTensor<'_>> = whole.iter().map(wrapped).collect();
    policy(&engine).refresh_with(&wrapped, RefreshOptions::default()).expect("the same weights");
    assert_eq!(bits_of(&engine), before);
}

/// Graphs that would compute something else from tensors of the same names and shapes.
#[test]
fn tensors_are_not_given_to_graphs_that_have_them_otherwise() {
    let refused = |model: &str, change: &dyn Fn(&mut ModelProto), part: &str| {
        let (files, path) = testing::exported(model, Quantize::None);
        let file = path.join("model.onnx");
        let mut graph = ModelProto::decode(&*std::fs::read(&file).expect("a graph")).expect("a graph");
        change(&mut graph);
        std::fs::write(&file, graph.encode_to_vec()).expect("written");
        let engine = alone(&path);
        let before = bits_of(&engine);
        let file = Tensors::read(&files.path().join("checkpoint/model.safetensors"));
        let error = policy(&engine).refresh_with(&file.named(), RefreshOptions::default()).expect_err(part);
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains(part), "{error}");
        assert_eq!(bits_of(&engine), before);
    };
    refused("llama", &|model| model.producer_name = Some("another".into()), "not an export of this library");
    for gemma in ["gemma2", "gemma3"] {
        // As an export of GGUF is, whose norms include the one.
        let without_one = |model: &mut ModelProto| {
            let graph = model.graph.as_mut().expect("a graph");
            let (adds, mut rest): (Vec<_>, Vec<_>) =
                graph.node.drain(..).partition(|node| node.name().ends_with("/weight/Add"));
            assert!(!adds.is_empty());
            for input in rest.iter_mut().flat_map(|node| &mut node.input) {
                if let Some(add) = adds.iter().find(|add| add.output[0] == *input) {
                    *input = add.input[0].clone();
                }
            }
            graph.node = rest;
        };
        refused(gemma, &without_one, "was exported from GGUF");
    }
}

#[test]
fn a_refresh_that_failed_does_not_count() {
    let versions = Versions::of(2);
    let engine = alone(&versions.paths[0]);
    // Weights are named before they are looked at.
    let broken = versions.folder.path().join("broken");
    copied(&versions.paths[1], &broken);
    change(&broken, |_| f32::NAN);
    policy(&engine).refresh(&broken, RefreshOptions::default()).expect_err("not finite");
    let version = policy(&engine).refresh(&versions.paths[1], RefreshOptions::default()).expect("exchanged");
    assert!(version.ends_with("-1"), "{version}");
    assert_eq!(policy(&engine).status().expect("a status").refreshes, 1);
}

/// The export that an engine was made of is replaced by the next one, as trainers do.
#[test]
fn tensors_are_given_to_the_export_that_was_refreshed_from_last() {
    let (_first, first) = testing::exported("llama", Quantize::None);
    let (files, second) = testing::exported("llama", Quantize::None);
    let engine = alone(&first);
    let before = bits_of(&engine);
    policy(&engine).refresh(&second, RefreshOptions::default()).expect("exchanged");
    std::fs::remove_dir_all(&first).expect("removed");
    let file = Tensors::read(&files.path().join("checkpoint/model.safetensors"));
    policy(&engine).refresh_with(&file.named(), RefreshOptions::default()).expect("exchanged");
    assert_eq!(bits_of(&engine), before);
    std::fs::remove_dir_all(&second).expect("removed");
    // What is still read of the export is read of the files that were opened.
    policy(&engine).refresh_with(&file.named(), RefreshOptions::default()).expect("exchanged");
    assert_eq!(bits_of(&engine), before);
    let (_third, third) = testing::exported("llama", Quantize::None);
    let engine = alone(&third);
    let rotary = third.join("rotary.safetensors");
    let bytes = std::fs::read(&rotary).expect("the tables");
    std::fs::write(&rotary, &bytes[..bytes.len() - 8]).expect("written to");
    let error = policy(&engine).refresh_with(&file.named(), RefreshOptions::default()).expect_err("it has changed");
    assert!(error.to_string().contains("rotary.safetensors"), "{error}");
    assert_eq!(bits_of(&engine), before);
}
