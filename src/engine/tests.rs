//! Graphs that never come to an end.

use std::time::{Duration, Instant};

use super::*;
use crate::config::ModelConfig;
use crate::model::testing::{decoder, folder, loop_for_ever};
use crate::{ErrorKind, testing};

/// An engine with an endless model and a good one.
fn engine(step_limit_s: u64) -> (Engine, [tempfile::TempDir; 2]) {
    let mut endless = decoder();
    loop_for_ever(&mut endless);
    let folders = [folder(&endless), folder(&decoder())];
    let library = testing::runtime(1).library;
    let runtime = RuntimeConfig { step_limit_s, library, threads: Some(1), ..RuntimeConfig::default() };
    let mut config = Config { runtime, ..Config::default() };
    for (name, folder) in ["endless", "good"].iter().zip(&folders) {
        let model = ModelConfig { path: Some(folder.path().into()), ..ModelConfig::default() };
        config.models.insert((*name).into(), model);
    }
    (Engine::new(config).expect("the engine starts"), folders)
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
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
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
