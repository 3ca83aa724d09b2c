//! Traces of rankings, on the real model.

use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::common::{MODEL, config_with, folder, model_path, turn};
use foreturn::trace::TraceWriter;
use foreturn::{Engine, RankOptions, RankRequest};
use serde_json::{Value, json};

const SETTINGS: &str = "
    [rollout]
    max_user_tokens = 12
    max_policy_tokens = 16
    [[metrics]]
    kind = 'helpfulness'
    min_mass = 0
    [[metrics]]
    kind = 'token_amount'
    weight = 0.5
";

fn request() -> RankRequest {
    let request = json!({
        "conversation": [{"role": "user", "content": "Write a poem."}],
        "candidates": ["What should it be about?", "Roses are red."],
        "goal": {"prompt": "A poem about my late dog."},
        "window": 1, "samples": 2, "seed": 7,
    });
    request.to_string().parse().expect("a request")
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("a trace");
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[test]
fn a_trace_has_every_rollout_as_it_ended() {
    let _turn = turn();
    let engine = Engine::new(config_with(&model_path(), SETTINGS)).expect("an engine");
    let folder_ = tempfile::tempdir().expect("a folder");
    let path = folder_.path().join("rollouts.jsonl");
    let trace = TraceWriter::append(&path).expect("a file");

    let told = Arc::new(Mutex::new(Vec::new()));
    let (seen, there) = (Arc::clone(&told), path.clone());
    let options = RankOptions {
        on_rollout: Some(Box::new(move |rollout| {
            let last = lines(&there).pop().expect("a line");
            seen.lock().expect("no panic").push((last, rollout.candidate, rollout.sample));
        })),
        ..RankOptions::default()
    };
    let ranking = trace.rank(&engine, request(), options).expect("a ranking");
    // A second one goes to the same file.
    let again = trace.rank(&engine, request(), RankOptions::default()).expect("a ranking");
    assert_eq!(again.candidates[0].reward, ranking.candidates[0].reward);

    let told = told.lock().expect("no panic");
    assert_eq!(told.len(), 4);
    for (line, candidate, sample) in &*told {
        assert_eq!(
            (&line["kind"], &line["candidate"], &line["sample"]),
            (&json!("rollout"), &json!(candidate), &json!(sample))
        );
    }
    let all = lines(&path);
    assert_eq!(all.len(), 2 * (1 + 4 + 1));
    let (first, second) = all.split_at(6);
    assert_ne!(first[0]["ranking"], second[0]["ranking"]);
    assert!(first.iter().all(|line| line["ranking"] == first[0]["ranking"]));
    check(first, &serde_json::to_value(&ranking).expect("JSON"));
}

/// One ranking's lines against the ranking itself.
fn check(lines: &[Value], ranking: &Value) {
    let [request, rollouts @ .., result] = lines else { panic!("{lines:?}") };
    assert_eq!((&request["kind"], &result["kind"]), (&json!("request"), &json!("ranking")));
    assert_eq!((&request["seed"], &request["window"], &request["samples"]), (&json!(7), &json!(1), &json!(2)));
    assert_eq!(request["metrics"][1], json!({"name": "token_amount", "kind": "token_amount", "weight": 0.5}));
    assert_eq!(&result["result"], ranking);
    let mut generated = 0;
    for rollout in rollouts {
        let of = |candidate: &&Value| candidate["candidate"] == rollout["candidate"];
        let candidate = ranking["ranking"].as_array().expect("a list").iter().find(of).expect("its candidate");
        let known = &candidate["rollouts"][rollout["sample"].as_u64().expect("a number") as usize];
        for field in ["reward", "ended", "seed"] {
            assert_eq!(rollout[field], known[field], "{field}");
        }
        assert_eq!(rollout["response"], candidate["response"]);
        let helpfulness = &rollout["metrics"]["helpfulness"];
        assert_eq!(helpfulness["value"], known["metrics"]["helpfulness"]);
        let answers = helpfulness["answers"].as_array().expect("answers");
        assert!(answers.iter().all(|answer| answer["probabilities"].as_array().is_some_and(|of| of.len() == 2)));
        assert!(rollout["metrics"]["token_amount"]["saturated"] == json!(false));
        check_messages(&rollout["messages"], &known["messages"]);
        generated += rollout["cost"]["policy"]["generated_tokens"].as_u64().expect("a number");
    }
    assert_eq!(json!(generated), ranking["cost"]["policy"]["generated_tokens"]);
}

/// The messages are the ranking's, and the policy's tokens spell its words.
fn check_messages(recorded: &Value, known: &Value) {
    let (recorded, known) = (recorded.as_array().expect("a list"), known.as_array().expect("a list"));
    assert_eq!(recorded.len(), known.len());
    for (message, known) in recorded.iter().zip(known) {
        assert_eq!((&message["role"], &message["content"]), (&known["role"], &known["content"]));
        if message["role"] == "assistant" {
            let ids: Vec<u32> = serde_json::from_value(message["tokens"].clone()).expect("tokens");
            let text = folder().tokenizer().decode(&ids, true).expect("a text");
            assert_eq!(message["content"], json!(text));
        }
    }
}

#[test]
fn a_trace_that_cannot_be_written_is_an_error_with_its_path() {
    let error = TraceWriter::append("/nowhere/rollouts.jsonl").expect_err("no such folder");
    assert!(error.to_string().contains("/nowhere/rollouts.jsonl"), "{error}");
    // A device that is full: the first line already fails.
    let full = TraceWriter::append("/dev/full").expect("it opens");
    let _turn = turn();
    let engine = Engine::new(config_with(&model_path(), &format!("{SETTINGS}\n# {MODEL}"))).expect("an engine");
    let error = full.rank(&engine, request(), RankOptions::default()).expect_err("nothing can be written");
    assert!(error.to_string().contains("/dev/full"), "{error}");
}
