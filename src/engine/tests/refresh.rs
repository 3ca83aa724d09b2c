//! Weights that are exchanged while an engine serves: every result has to be that of an engine that only ever had the
//! weights which the result names, to the last bit.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;

use super::*;
use crate::decode::SamplingOptions;
use crate::export::Quantize;
use crate::rank::Ranking;

/// Exports of one model with different weights; the version is the index.
struct Versions {
    folder: TempDir,
    paths: Vec<PathBuf>,
}

impl Versions {
    fn of(quantize: Quantize, count: usize) -> Self {
        // Prompts of simulated users are long in bytes.
        let (folder, first) = testing::exported_with("llama", quantize, |checkpoint| {
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

/// Changes the floats of an export.
fn change(path: &Path, with: impl Fn(f32) -> f32) {
    let data = path.join("model.safetensors");
    let mut bytes = std::fs::read(&data).expect("weights");
    let (length, rest) = bytes.split_first_chunk_mut::<8>().expect("a header");
    let (header, rest) = rest.split_at_mut(u64::from_le_bytes(*length) as usize);
    let header: serde_json::Value = serde_json::from_slice(header).expect("JSON");
    for tensor in header.as_object().expect("tensors").values().filter(|tensor| tensor["dtype"] == "F32") {
        let at = |end: usize| tensor["data_offsets"][end].as_u64().expect("an offset") as usize;
        for number in rest[at(0)..at(1)].as_chunks_mut::<4>().0 {
            *number = with(f32::from_le_bytes(*number)).to_le_bytes();
        }
    }
    std::fs::write(&data, bytes).expect("written");
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
    let versions = Versions::of(Quantize::None, 3);
    let expected = expected(&versions);
    for (one, other) in expected[0].iter().zip(&expected[1]) {
        assert_ne!(one, other, "the weights show");
    }
    let (engine, over) = (versions.engine(0), AtomicBool::new(false));
    let pin = policy(&engine).warm((5..60).collect::<Vec<u32>>()).expect("warm");
    std::thread::scope(|scope| {
        let askers: Vec<_> = (0..4)
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
        for round in 1..13 {
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
        let engine = |path: &Path| {
            let library = testing::runtime(1).library.expect("a library");
            let toml = format!(
                "[runtime]\nlibrary = {library:?}\nthreads = 1\n[models.policy]\npath = {path:?}\nbatching = \"{batching}\"\n"
            );
            Engine::new(Config::from_toml(&toml, "/").expect("settings")).expect("the engine starts")
        };
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

/// Begins a reply that takes at least 10 ms a token, and waits until its first one is there.
fn under_way(engine: &Engine, length: usize) -> Pending<super::super::Generation> {
    let (sender, first) = channel();
    let on_text: OnText = Box::new(move |_: &str| {
        // Whoever waits has heard the first, and listens no more.
        sender.send(()).ok();
        std::thread::sleep(Duration::from_millis(10));
    });
    let options = GenerateOptions { on_text: Some(on_text), ..options(length) };
    let pending = policy(engine).submit_generate((5..60).collect::<Vec<u32>>(), options).expect("queued");
    first.recv().expect("it streams");
    pending
}

#[test]
fn requests_under_way_end_first_start_over_or_are_ended_as_the_mode_says() {
    let versions = Versions::of(Quantize::None, 2);
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
    let versions = Versions::of(Quantize::None, 2);
    let request: RankRequest = serde_json::json!({"conversation": [{"role": "user", "content": "2 + 2?"}],
        "candidates": ["4", "5"], "goal": {"prompt": "2 + 2"}, "seed": 5, "samples": 24, "window": 2})
    .to_string()
    .parse()
    .expect("a request");
    let wanted = futures(&versions.engine(1).rank(request.clone(), RankOptions::default()).expect("a ranking"));
    let engine = versions.engine(0);
    let (sender, first) = channel();
    let on_rollout = move |rollout: EndedRollout| drop(sender.send(rollout));
    let options = RankOptions { on_rollout: Some(Box::new(on_rollout)), ..RankOptions::default() };
    let pending = engine.submit_rank(request, options).expect("queued");
    let mut told = vec![first.recv().expect("one has ended")];
    policy(&engine).refresh(&versions.paths[1], with(RefreshMode::Restart, 1)).expect("exchanged");
    let ranking = pending.wait().expect("a ranking");
    assert_eq!((futures(&ranking), weights(&ranking)), (wanted, Some("1".into())));
    assert!(ranking.complete);
    told.extend(first.iter());
    assert!(told.len() > 48, "those with the old weights were told, too");
}

#[test]
fn pins_are_warm_after_the_exchange() {
    let versions = Versions::of(Quantize::None, 2);
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
    let versions = Versions::of(Quantize::None, 2);
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
    let versions = Versions::of(Quantize::None, 2);
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
