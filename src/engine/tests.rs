//! Graphs that never come to an end.

use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;
use crate::config::{MetricConfig, ModelConfig};
use crate::decode::reader::OnText;
use crate::model::testing::{decoder, folder, loop_body, loop_for_ever};
use crate::onnx::build::node;
use crate::{ErrorKind, testing};

fn engine_of<const N: usize>(step_limit_s: u64, models: [(&str, &TempDir); N]) -> Engine {
    engine_with(Config::default(), step_limit_s, models)
}

fn engine_with<const N: usize>(config: Config, step_limit_s: u64, models: [(&str, &TempDir); N]) -> Engine {
    let library = testing::runtime(1).library;
    let runtime = RuntimeConfig { step_limit_s, library, threads: Some(1), ..RuntimeConfig::default() };
    let mut config = Config { runtime, ..config };
    for (name, folder) in models {
        let model = ModelConfig { path: Some(folder.path().into()), ..ModelConfig::default() };
        config.models.insert(name.into(), model);
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
    config.models.insert("m".into(), ModelConfig { path: Some(path), ..ModelConfig::default() });
    let engine = engine_with::<0>(config, 600, []);
    let generate = |on_text: Option<OnText>| {
        let options = GenerateOptions { max_tokens: 24, ignore_eos: true, on_text, ..GenerateOptions::default() };
        engine.generate("m", Prompt::Tokens((5..40).collect()), options, Limits::default())
    };
    let wanted = generate(None).expect("a reply");
    for operator in [attention::OPERATOR, matmul::OPERATOR] {
        for place in [Place::Body, Place::Task] {
            // Texts are handed out on the thread that runs the model.
            let error = generate(Some(Box::new(move |_| panic_next(operator, place)))).expect_err("ended");
            assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
            for part in [operator, "a defect in foreturn's operator", "asked for by a test"] {
                assert!(error.to_string().contains(part), "{place:?}: {part} is not in {error}");
            }
            let again = generate(None).expect("the engine lives");
            assert_eq!((again.tokens, again.logprobs), (wanted.tokens.clone(), wanted.logprobs.clone()));
        }
    }
}

fn logprobs(engine: &Engine, model: &str, limits: Limits) -> Result<Vec<f32>> {
    engine.logprobs(model, Prompt::Tokens(vec![5, 6, 7]), limits).map(|(_, logprobs)| logprobs)
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
        assert!(error.to_string().contains("past the deadline"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
        assert_eq!(logprobs(&engine, "good", Limits::default()).expect("served"), wanted);
    }
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
    let error = ModelFolder::open(folder(&model).path()).err().expect("refused");
    assert!(error.to_string().contains("node `logits` (Loop) loops over nothing"), "{error}");
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
    let request = RankRequest::from_json(request, "the request").expect("a request");
    let start = Instant::now();
    let ranking = engine.rank(request, RankOptions { limits, ..RankOptions::default() }).expect("a ranking");
    assert!(!ranking.complete);
    let traces = ranking.ranking.iter().flat_map(|candidate| &candidate.rollouts);
    let ended: Vec<String> = traces.map(|trace| format!("{:?}", trace.ended)).collect();
    assert_eq!(ended, ["Deadline"; 6], "not failed: nothing is known against the model");
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}
