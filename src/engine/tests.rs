//! What must neither hold the engine up nor take it down: graphs that never come to an end, panics in operators, large
//! requests, models that can't be asked.

mod refresh;
mod shared;

use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;
use crate::config::{MetricConfig, ModelConfig};
use crate::decode::GenerateOptions;
use crate::decode::reader::OnText;
use crate::model::testing::{decoder, folder, loop_body, loop_for_ever};
use crate::onnx::nodes::node;
use crate::score::{ScoreInput, ScoreTask};
use crate::{ErrorKind, testing};

fn engine_of<const N: usize>(step_limit_s: u64, models: [(&str, &TempDir); N]) -> Engine {
    engine_with(Config::default(), step_limit_s, models)
}

fn engine_with<const N: usize>(config: Config, step_limit_s: u64, models: [(&str, &TempDir); N]) -> Engine {
    let library = testing::runtime(1).library;
    let runtime = RuntimeConfig { step_limit_s, library, threads: Some(1), ..config.runtime.clone() };
    let mut config = Config { runtime, ..config };
    for (name, folder) in models {
        config.models.insert(name.into(), ModelConfig::local(folder.path()));
    }
    Engine::new(config).expect("the engine starts")
}

/// An engine with an endless model and a good one.
fn engine(step_limit_s: u64) -> (Engine, [TempDir; 2]) {
    let mut endless = decoder();
    loop_for_ever(&mut endless);
    let folders = [folder(&endless), folder(&decoder())];
    (engine_of(step_limit_s, [("endless", &folders[0]), ("good", &folders[1])]), folders)
}

/// Panics that a host would have died of: in an operator's own call, and in a task on one of ONNX Runtime's threads.
#[test]
fn a_panic_in_an_operator_ends_the_run_and_not_the_process() {
    use crate::export::Quantize;
    use crate::kernels::operator::testing::{Place, panic_next};
    use crate::kernels::{attention, matmul};

    let (_files, path) = testing::exported("llama", Quantize::Int8);
    let mut config = Config::default();
    config.models.insert("m".into(), ModelConfig::local(path));
    let engine = engine_with::<0>(config, 600, []);
    let generate = |on_text: Option<OnText>| {
        let options = GenerateOptions { max_tokens: 24, ignore_eos: true, on_text, ..GenerateOptions::default() };
        engine.model("m").expect("a model").generate((5..40).collect::<Vec<u32>>(), options)
    };
    let wanted = generate(None).expect("a reply");
    for operator in [attention::OPERATOR, matmul::OPERATOR] {
        for place in [Place::Body, Place::Task] {
            // Texts are handed out on the thread that runs the model.
            let error = generate(Some(Box::new(move |_: &str| panic_next(operator, place)))).expect_err("ended");
            assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
            for part in [operator, "a defect in foreturn's operator", "asked for by a test"] {
                assert!(error.to_string().contains(part), "{place:?}: {part} is not in {error}");
            }
            let again = generate(None).expect("the engine lives");
            assert_eq!((again.tokens, again.logprobs), (wanted.tokens.clone(), wanted.logprobs.clone()));
        }
    }
}

/// Twenty thousand turns on a model of this process: the deadline holds, as the steps that there were show.
#[test]
fn a_large_ranking_ends_at_its_deadline() {
    let (_files, path) = testing::exported("llama", crate::export::Quantize::None);
    let metric = MetricConfig { kind: "token_amount".into(), ..MetricConfig::default() };
    let mut config = Config { metrics: Some(vec![metric]), ..Config::default() };
    config.models.insert("m".into(), ModelConfig::local(path));
    let engine = engine_with::<0>(config, 600, []);
    let candidates = vec!["a"; 100];
    let request = serde_json::json!({"conversation": [{"role": "user", "content": "2 + 2?"}], "candidates": candidates,
        "goal": {"prompt": "2 + 2"}, "samples": 100, "window": 2});
    let request: RankRequest = request.to_string().parse().expect("a request");
    // A second request is served meanwhile, and the first one ends before this does.
    let cancel = CancelToken::new();
    let limits = Limits { cancel: Some(cancel.clone()), ..Limits::default() };
    let pending = engine.within(limits).submit_rank(request.clone(), RankOptions::default()).expect("queued");
    for _ in 0..3 {
        logprobs(&engine, "m", Limits::default()).expect("served beside it");
    }
    assert!(pending.poll().is_none());
    cancel.cancel();
    let (ranking, steps) = (
        pending.wait().expect("what there is"),
        engine.model("m").expect("a model").status().expect("a model").stats.steps,
    );
    assert!(!ranking.complete);
    logprobs(&engine, "m", Limits::default()).expect("served");
    assert!(
        engine.model("m").expect("a model").status().expect("a model").stats.steps <= steps + 2,
        "nothing of it goes on"
    );
    let limits = Limits { timeout: Some(Duration::from_millis(200)), ..Limits::default() };
    let start = Instant::now();
    let ranking = engine.within(limits).rank(request, RankOptions::default()).expect("what there is");
    assert!(!ranking.complete);
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    let statistics = engine.statistics().expect("statistics");
    assert_eq!((statistics.cancelled, statistics.deadlines_missed), (1, 1), "each was cut short");
    assert!(statistics.errors.is_empty(), "both gave what there was");
}

#[test]
fn texts_are_not_tokenised_for_a_call_that_is_over() {
    let folder = folder(&decoder());
    let engine = engine_of(1, [("good", &folder)]);
    let score = |limits: Limits| {
        let texts = vec![ScoreInput::Text("a text".into()); 3];
        let model = engine.within(limits).model("good").expect("a model");
        model.submit_score(texts, ScoreTask::Response).expect("queued").wait().expect_err("over")
    };
    let cancel = CancelToken::new();
    cancel.cancel();
    let error = score(Limits { cancel: Some(cancel), ..Limits::default() });
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    let error = score(Limits { timeout: Some(Duration::ZERO), ..Limits::default() });
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error}");
    let statistics = engine.statistics().expect("statistics");
    assert_eq!((statistics.cancelled, statistics.deadlines_missed), (1, 1));
    assert_eq!(statistics.errors, [(ErrorKind::Cancelled, 1), (ErrorKind::DeadlineExceeded, 1)].into());
}

/// Nobody can be given a conversation without a template; that shows before anything is sampled.
#[test]
fn a_model_that_plays_a_role_without_a_chat_template_is_refused_when_the_engine_is_built() {
    let (_files, path) = testing::exported("llama", crate::export::Quantize::None);
    std::fs::remove_file(path.join("chat_template.jinja")).ok();
    let file = path.join("tokenizer_config.json");
    let text = std::fs::read_to_string(&file).expect("a configuration");
    let mut settings: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    settings.as_object_mut().expect("an object").remove("chat_template");
    std::fs::write(&file, settings.to_string()).expect("written");
    let build = |toml: &str| {
        let library = testing::runtime(1).library.expect("a library");
        let toml = format!("{toml}[runtime]\nlibrary = {library:?}\n[models.base]\npath = {path:?}\n");
        Engine::new(Config::from_toml(&toml, "/").expect("settings"))
    };
    let metrics = "[[metrics]]\nkind = \"token_amount\"\n";
    let error = build(metrics).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::InvalidModel, "{error}");
    for part in
        ["roles.policy: model `base`", &path.display().to_string(), "has no chat template", "chat_template.jinja"]
    {
        assert!(error.to_string().contains(part), "{part} is not in {error}");
    }
    let judged = "[rollout]\nwindow = 0\n[[metrics]]\nkind = \"helpfulness\"\n";
    let error = build(judged).expect_err("refused");
    assert!(error.to_string().starts_with("roles.judge: model `base`"), "{error}");
    // Who plays no role may be without.
    let engine = build("[rollout]\nwindow = 0\n[[metrics]]\nkind = \"token_amount\"\n").expect("an engine");
    let request = r#"{"conversation": [{"role": "user", "content": "2 + 2?"}], "candidates": ["4"], "window": 1}"#;
    let request: RankRequest = request.parse().expect("a request");
    let error = engine.rank(request, RankOptions::default()).expect_err("now it plays one");
    assert!(error.to_string().starts_with("roles.policy: model `base`"), "{error}");
    assert!(build("").is_ok(), "its tokens can be had");
}

fn logprobs(engine: &Engine, model: &str, limits: Limits) -> Result<Vec<f32>> {
    engine.within(limits).model(model).expect("a model").logprobs(vec![5, 6, 7]).map(|scored| scored.logprobs)
}

#[test]
fn an_endless_loop_is_ended_at_the_deadline_and_others_are_served() {
    let (engine, _folders) = engine(600);
    let wanted = logprobs(&engine, "good", Limits::default()).expect("served");
    for _ in 0..2 {
        let start = Instant::now();
        let limits = Limits { timeout: Some(Duration::from_millis(300)), ..Limits::default() };
        let error = logprobs(&engine, "endless", limits).expect_err("ended");
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error}");
        assert!(error.to_string().contains("the deadline passed while the model was at work"), "{error}");
        // The step ends a second later.
        assert!(start.elapsed() < Duration::from_millis(1200), "{:?}", start.elapsed());
        assert_eq!(logprobs(&engine, "good", Limits::default()).expect("served"), wanted);
    }
}

#[test]
fn scores_are_answered_at_the_deadline_in_the_middle_of_a_step() {
    let (engine, _folders) = engine(600);
    let limits = Limits { timeout: Some(Duration::from_millis(300)), ..Limits::default() };
    let model = engine.within(limits).model("endless").expect("a model");
    let texts = || vec![ScoreInput::Response { prompt: vec![5], response: vec![6, 7] }; 2];
    let all = model.submit_score(texts(), ScoreTask::Response).expect("queued");
    let each = model.submit_score_each(texts(), ScoreTask::Response).expect("queued");
    let start = Instant::now();
    let error = all.wait().expect_err("late");
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error}");
    for (at, score) in each.wait().expect("an answer").into_iter().enumerate() {
        let error = score.expect_err("late");
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error}");
        assert!(error.to_string().contains(&format!("text {at}")), "{error}");
    }
    assert!(start.elapsed() < Duration::from_millis(1200), "{:?}", start.elapsed());
    assert!(logprobs(&engine, "good", Limits::default()).is_ok());
}

#[test]
fn an_endless_loop_without_a_deadline_is_ended_at_the_limit() {
    let (engine, folders) = engine(1);
    let error = logprobs(&engine, "endless", Limits::default()).expect_err("ended");
    assert_eq!(error.kind(), ErrorKind::Runtime, "{error}");
    for part in [&*folders[0].path().display().to_string(), "step_limit_s"] {
        assert!(error.to_string().contains(part), "{part} is not in {error}");
    }
    assert!(logprobs(&engine, "good", Limits::default()).is_ok());
}

/// Nothing in these loops would survive optimisation, and ONNX Runtime only stops at a node.
#[test]
fn loops_over_next_to_nothing_are_ended_too() {
    let plain = |op: &str, from: &str, to: &str| node("", op, to, &[from], &[to], Vec::new());
    let identities = vec![plain("Identity", "goes_on", "goes_on_still"), plain("Identity", "carried", "carried_on")];
    let constants = vec![
        plain("Not", "for_ever", "never"),
        plain("Not", "never", "goes_on_still"),
        plain("Identity", "carried", "carried_on"),
    ];
    for body in [identities, constants] {
        let mut model = decoder();
        loop_for_ever(&mut model);
        loop_body(&mut model).node = body;
        let folder = folder(&model);
        let error = logprobs(&engine_of(1, [("endless", &folder)]), "endless", Limits::default()).expect_err("ended");
        assert!(error.to_string().contains("step_limit_s"), "{error}");
    }
    let mut model = decoder();
    loop_for_ever(&mut model);
    let body = loop_body(&mut model);
    body.node.clear();
    body.output = body.input[1..].to_vec();
    let error = ModelFolder::open(folder(&model).path()).expect_err("refused");
    assert!(error.to_string().contains("node `logits` (Loop) has no nodes"), "{error}");
}

#[test]
fn a_ranking_on_an_endless_model_ends_at_its_deadline() {
    let mut endless = decoder();
    loop_for_ever(&mut endless);
    let folder = folder(&endless);
    let metric = MetricConfig { kind: "token_amount".into(), ..MetricConfig::default() };
    let config = Config { metrics: Some(vec![metric]), ..Config::default() };
    let engine = engine_with(config, 600, [("endless", &folder)]);
    let request = r#"{"conversation": [{"role": "user", "content": "2 + 2?"}], "candidates": ["4", "5"],
        "goal": {"task": "sums", "prompt": "2 + 2", "reference": "4"}}"#;
    let limits = Limits { timeout: Some(Duration::from_millis(300)), ..Limits::default() };
    let request: RankRequest = request.parse().expect("a request");
    let start = Instant::now();
    let ranking = engine.within(limits).rank(request, RankOptions::default()).expect("a ranking");
    assert!(!ranking.complete);
    let traces = ranking.candidates.iter().flat_map(|candidate| &candidate.rollouts);
    let ended: Vec<String> = traces.map(|trace| format!("{:?}", trace.ended)).collect();
    assert_eq!(ended, ["Deadline"; 6], "not failed: nothing is known against the model");
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}
