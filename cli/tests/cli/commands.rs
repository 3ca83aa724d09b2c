//! The command line: what each command prints, and what it says when it can't.
//!
//! Bad input is a table of data, `fixtures/cli/bad_input.json`: files, damage to a copy of the model folder, and what the
//! one message has to say.
#![allow(clippy::disallowed_methods, reason = "a test may panic where the system refuses a thread")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::common::models::exported;
use crate::common::{self, ModelCopy, link, model_path, runtime_path, scratch};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

const QUESTION: &str = r#"[{"role": "user", "content": "What is the capital of France?"}]"#;
/// What greedy decoding answers, by transformers on the same weights.
const ANSWER: [u32; 8] = [504, 3575, 282, 4649, 314, 7042, 30, 2];

const RANKING: &str = r#"
[rollout]
window = 1
samples = 2
max_user_tokens = 8
max_policy_tokens = 8
[[metrics]]
kind = "token_amount"
[[metrics]]
kind = "helpfulness"
min_mass = 0.0
"#;

const REQUEST: &str = r#"{
  "conversation": [{"role": "user", "content": "Write me a poem."}],
  "candidates": ["What should it be about?", "Roses are red."],
  "goal": {"task": "writing", "prompt": "A poem about my late dog."}, "seed": 7
}"#;

// ---- running it ----

struct Run {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        Run { status: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Run {
    /// Standard output of a command that must succeed.
    fn output(self) -> String {
        assert_eq!(self.status, Some(0), "{}", self.stderr);
        self.stdout
    }

    /// The one document that a command with `--json` prints.
    fn json(self) -> Value {
        let text = self.output();
        assert!(text.ends_with('\n'));
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e} in {text}"))
    }

    /// The one message of a command that must fail.
    fn failure(self, status: i32) -> String {
        assert_eq!(self.status, Some(status), "{}{}", self.stdout, self.stderr);
        assert_eq!(self.stdout, "", "{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        if status == 1 {
            assert!(self.stderr.starts_with("foreturn: "), "{}", self.stderr);
            assert_eq!(self.stderr.matches("foreturn: ").count(), 1, "{}", self.stderr);
        }
        self.stderr
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_foreturn"));
    command.args(arguments).env("ORT_DYLIB_PATH", runtime_path()).stdin(Stdio::null());
    command
}

fn foreturn(arguments: &[&str]) -> Run {
    command(arguments).output().expect("the command runs").into()
}

fn foreturn_reading(input: &str, arguments: &[&str]) -> Run {
    let mut command = command(arguments);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command runs");
    // A command that fails early does not read.
    drop(child.stdin.take().expect("standard input").write_all(input.as_bytes()));
    child.wait_with_output().expect("it ends").into()
}

fn model() -> String {
    model_path().display().to_string()
}

/// A folder with a configuration and a request; `settings` come before the model.
fn ranking_files(model: &Path, settings: &str) -> (TempDir, String, String) {
    let folder = scratch();
    let [config, request] = ["foreturn.toml", "request.json"].map(|name| folder.path().join(name));
    let toml = format!("{settings}\n[models.small]\npath = {:?}\n", model.display().to_string());
    std::fs::write(&config, toml).expect("a file");
    std::fs::write(&request, REQUEST).expect("a file");
    (folder, config.display().to_string(), request.display().to_string())
}

fn rank(model: &Path, settings: &str, more: &[&str]) -> Run {
    let (_folder, config, request) = ranking_files(model, settings);
    foreturn(&[&["rank", "--config", &config, "--request", &request], more].concat())
}

fn fields(value: &Value) -> Vec<&str> {
    value.as_object().unwrap_or_else(|| panic!("{value} is no object")).keys().map(String::as_str).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|number| number.as_f64().expect("a number")).collect()
}

fn tokens(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("token ids")
}

fn fixture(path: &str) -> Value {
    let path = common::root().join("tests/fixtures").join(path);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

// ---- each command ----

#[test]
fn doctor_says_what_runs_the_models() {
    let report = foreturn(&["doctor", "--json"]).json();
    assert_eq!(
        fields(&report),
        ["library", "source", "version", "providers", "threads", "telemetry", "devices", "sandbox"]
    );
    let devices = report["devices"].as_array().expect("a list");
    let names: Vec<_> = devices.iter().map(|device| device["provider"].as_str().expect("a name")).collect();
    assert_eq!(names, ["cpu", "cuda", "tensorrt", "webgpu"]);
    for device in devices {
        // A reason where there is none, and none where there is.
        assert_eq!(device["available"].as_bool(), Some(device["reason"].is_null()), "{device}");
    }
    assert_eq!(devices[0]["available"], true);
    if cfg!(target_os = "linux") {
        let limit = report["sandbox"]["memory_limit"].as_str().expect("a way");
        let reason = report["sandbox"]["reason"].as_str().is_some_and(|reason| !reason.is_empty());
        assert!((limit == "control_group") != (limit == "watch" && reason), "{report}");
    }
    assert!(report["library"].as_str().expect("a path").contains("libonnxruntime.so"));
    assert_eq!(report["source"], "environment");
    assert!(report["version"].as_str().expect("a version").starts_with("1."), "{report}");
    assert!(report["providers"].as_array().expect("a list").contains(&json!("CPUExecutionProvider")));
    assert!(report["threads"].as_u64() > Some(0));
    assert!(foreturn(&["doctor"]).output().contains("CPUExecutionProvider"));
}

#[test]
fn inspect_says_what_a_folder_holds() {
    let found = foreturn(&["inspect", &model(), "--json"]).json();
    for (field, value) in [
        ("layers", json!(30)),
        ("query_heads", json!(9)),
        ("kv_heads", json!(3)),
        ("head_size", json!(64)),
        ("vocab_size", json!(49_152)),
        ("context_length", json!(8192)),
        ("stop_tokens", json!([2])),
        // 30 layers, keys and values, 3 heads of 64 floats.
        ("kv_bytes_per_token", json!(30 * 2 * 3 * 64 * 4)),
        ("architecture", json!("llama")),
        ("bitwise", json!(true)),
        ("bitwise_exceptions", json!([])),
    ] {
        assert_eq!(found[field], value, "{field}");
    }
    assert!(found["layout"].as_str().expect("a text").contains("GroupQueryAttention"));
    assert!(found["weights"]["float"].as_u64().expect("bytes") > 500_000_000);
    assert!(foreturn(&["inspect", &model()]).output().contains("GroupQueryAttention"));
}

#[test]
fn render_prints_the_prompt_byte_for_byte() {
    let conversation = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
                        <|im_start|>user\nWhat is the capital of France?<|im_end|>\n";
    let render = ["render", "--model", &model(), "--messages", "-"];
    assert_eq!(foreturn_reading(QUESTION, &render).output(), format!("{conversation}<|im_start|>assistant\n"));
    let without = [&render[..], &["--no-generation-prompt"]].concat();
    assert_eq!(foreturn_reading(QUESTION, &without).output(), conversation);
}

#[test]
fn generate_gives_the_tokens_of_transformers() {
    let generate = ["generate", "--model", &model(), "--temperature", "0"];
    let messages = [&generate[..], &["--messages", "-"]].concat();
    let reply = foreturn_reading(QUESTION, &[&messages[..], &["--json"]].concat()).json();
    assert_eq!(fields(&reply), ["prompt_tokens", "tokens", "text", "finish", "logprobs", "seconds"]);
    assert_eq!(tokens(&reply["tokens"]), ANSWER);
    assert_eq!((&reply["text"], &reply["finish"]), (&json!("The capital of France is Paris."), &json!("stop")));
    assert_eq!(numbers(&reply["logprobs"]).len(), ANSWER.len());
    assert!(numbers(&reply["logprobs"]).iter().all(|&logprob| logprob <= 0.0));
    assert!(reply["seconds"].as_f64() > Some(0.0));
    assert_eq!(foreturn_reading(QUESTION, &messages).output(), "The capital of France is Paris.\n");

    // The same prompt as tokens, cut short, and past the end of the turn.
    let prompt = tokens(&reply["prompt_tokens"]).iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let from_tokens = [&generate[..], &["--tokens", &prompt, "--json", "--max-new-tokens"]].concat();
    let short = foreturn(&[&from_tokens[..], &["3"]].concat()).json();
    assert_eq!((tokens(&short["tokens"]), &short["finish"]), (ANSWER[..3].to_vec(), &json!("length")));
    let past = foreturn(&[&from_tokens[..], &["10", "--ignore-eos"]].concat()).json();
    assert_eq!((&tokens(&past["tokens"])[..8], &past["finish"]), (&ANSWER[..], &json!("length")));
}

#[test]
fn generate_follows_a_schema() {
    let schema = json!({"type": "object", "properties": {"capital": {"type": "string", "maxLength": 30}},
        "required": ["capital"], "additionalProperties": false});
    let folder = scratch();
    let path = folder.path().join("schema.json");
    std::fs::write(&path, schema.to_string()).expect("written");
    let path = path.to_str().expect("UTF-8");
    let generate =
        ["generate", "--model", &model(), "--messages", "-", "--temperature", "0", "--json", "--schema", path];
    let reply = foreturn_reading(QUESTION, &generate).json();
    assert_eq!(reply["finish"], "stop");
    let document: Value = serde_json::from_str(reply["text"].as_str().expect("a text")).expect("JSON");
    assert!(document["capital"].is_string(), "{document}");
}

#[test]
fn sampling_follows_its_seed() {
    let generate = |seed: &str| {
        let model = model();
        let sampling = ["--max-new-tokens", "12", "--temperature", "1.5", "--top-p", "0.95", "--top-k", "50"];
        let arguments = ["generate", "--model", &model, "--messages", "-", "--json", "--ignore-eos", "--seed", seed];
        foreturn_reading(QUESTION, &[&arguments[..], &sampling].concat()).json()
    };
    let (one, again, other) = (generate("1"), generate("1"), generate("2"));
    assert_eq!((&one["tokens"], &one["logprobs"]), (&again["tokens"], &again["logprobs"]));
    assert_ne!(one["tokens"], other["tokens"]);
}

#[test]
fn logprobs_are_those_of_transformers() {
    let case = &fixture("smollm2/logprobs.json")["cases"][0];
    let ids = tokens(&case["tokens"]);
    let list = ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let scored = foreturn(&["logprobs", "--model", &model(), "--tokens", &list, "--json"]).json();
    assert_eq!(fields(&scored), ["tokens", "logprobs"]);
    assert_eq!(tokens(&scored["tokens"]), ids);
    let (found, expected) = (numbers(&scored["logprobs"]), numbers(&case["logprobs"]));
    assert_eq!((found.len(), expected.len()), (ids.len() - 1, ids.len() - 1));
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-3, "{found} is not {expected}");
    }
}

#[test]
fn rank_prints_a_ranking_or_a_table() {
    let ranking = rank(&model_path(), RANKING, &["--json"]).json();
    assert_eq!(fields(&ranking), ["schema", "ranking", "cost", "models", "allocation", "bitwise", "complete"]);
    assert_eq!(
        (&ranking["schema"], &ranking["bitwise"], &ranking["complete"]),
        (&json!(1), &json!(true), &json!(true))
    );
    let candidates = ranking["ranking"].as_array().expect("a list");
    assert_eq!(candidates.len(), 2);
    assert!(candidates[0]["reward"].as_f64() >= candidates[1]["reward"].as_f64(), "best first");
    for candidate in candidates {
        assert_candidate(candidate);
    }
    for role in ["policy", "user", "judge"] {
        assert_eq!(fields(&ranking["models"][role]), ["name", "weights"], "{role}");
        let cost = fields(&ranking["cost"][role]);
        assert_eq!(cost, ["prompt_tokens", "reused_tokens", "generated_tokens", "seconds"], "{role}");
    }
    assert!(ranking["cost"]["seconds"].as_f64() > Some(0.0));

    let table = rank(&model_path(), RANKING, &[]).output();
    for part in ["reward", "±", "token_amount", "helpfulness", "generated", "reused", "Roses are red.", "prompt tokens"]
    {
        assert!(table.contains(part), "{part} is not in\n{table}");
    }
    // It is not printed on a terminal.
    for line in table.lines().filter(|line| line.starts_with(['┌', '│', '╞', '└'])) {
        assert!(line.chars().count() <= 100, "{line}");
    }
}

#[test]
fn a_trace_of_a_ranking_becomes_a_page() {
    let folder = scratch();
    let [trace, page] = ["rollouts.jsonl", "report.html"].map(|name| folder.path().join(name).display().to_string());
    for _ in 0..2 {
        rank(&model_path(), RANKING, &["--json", "--trace", &trace]).json();
    }
    let lines = std::fs::read_to_string(&trace).expect("a trace");
    // The request, two candidates with two rollouts each, and the ranking; twice.
    assert_eq!(lines.lines().count(), 2 * (1 + 4 + 1));
    let report = foreturn(&["report", &trace, "-o", &page]);
    assert!(report.stderr.is_empty(), "{}", report.stderr);
    assert!(report.output().contains("2 rankings, 8 futures"));
    assert!(std::fs::read_to_string(&page).expect("a page").contains("Roses are red."));
}

fn assert_candidate(candidate: &Value) {
    let known = fields(candidate);
    for field in [
        "candidate",
        "response",
        "reward",
        "std_error",
        "interval",
        "metrics",
        "rollouts",
        "excluded",
        "difference",
        "probability_best",
    ] {
        assert!(known.contains(&field), "{field} is not in {known:?}");
    }
    assert_eq!(numbers(&candidate["interval"]).len(), 2);
    for metric in ["token_amount", "helpfulness"] {
        assert_eq!(fields(&candidate["metrics"][metric])[..3], ["mean", "std_error", "weight"]);
    }
    let rollouts = candidate["rollouts"].as_array().expect("a list");
    assert_eq!(rollouts.len(), 2);
    for rollout in rollouts {
        let known = fields(rollout);
        for field in ["messages", "metrics", "reward", "ended", "seed"] {
            assert!(known.contains(&field), "{field} is not in {known:?}");
        }
        assert_eq!(fields(&rollout["metrics"]), ["helpfulness", "token_amount"]);
        assert_eq!(fields(&rollout["messages"][0])[..2], ["role", "content"]);
    }
}

#[test]
fn rank_stops_at_its_deadline() {
    // Long enough for rollouts to begin on a busy machine; none ends in it.
    let ranking = rank(&model_path(), RANKING, &["--json", "--deadline", "30ms"]).json();
    assert_eq!((&ranking["complete"], &ranking["bitwise"]), (&json!(false), &json!(false)));
    assert_eq!(ranking["ranking"][0]["reward"], Value::Null);
    assert_eq!(ranking["ranking"][0]["rollouts"][0]["ended"], "deadline");
}

#[test]
fn bench_measures() {
    let bench = ["bench", "--model", &model(), "--prompt-tokens", "40", "--new-tokens", "3", "--batch", "2", "--json"];
    let measured = foreturn(&bench).json();
    let wanted = ["prefill_tokens_per_second", "decode_tokens_per_second", "load_seconds", "peak_rss_bytes"];
    for field in wanted {
        assert!(measured[field].as_f64() > Some(0.0), "{field}: {measured}");
    }
}

#[test]
fn bench_lets_onnx_runtime_write_a_profile() {
    let folder = scratch();
    let model = exported(folder.path(), "llama").display().to_string();
    let path = folder.path().join("times").display().to_string();
    foreturn(&["bench", "--model", &model, "--prompt-tokens", "20", "--new-tokens", "2", "--profile", &path]).output();
    let entries = std::fs::read_dir(folder.path()).expect("a folder").map(|entry| entry.expect("an entry").path());
    let written: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
    let [file] = written.as_slice() else { panic!("{written:?}") };
    assert!(file.display().to_string().starts_with(&path), "{}", file.display());
    let text = std::fs::read_to_string(file).expect("text");
    let events: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let nodes = events.iter().filter(|event| event["args"]["op_name"] == "PagedAttention").count();
    assert!(nodes > 0, "no node of attention in {} events", events.len());
}

#[test]
fn bench_measures_a_job_of_any_length() {
    let model = model();
    let job = |more: &[&str]| {
        let job =
            ["bench", "--model", &model, "--job", "--candidates", "2", "--samples", "1", "--window", "0", "--json"];
        foreturn(&[&job, more].concat()).json()
    };
    // The judge's frame has 420 tokens, a candidate 80, and the candidates share the history and what is before it.
    let judged = |history: u64| json!([2 * (420 + history + 80), 86 + history + 2 * (80 + 334), 2]);
    let counts = |job: Value| json!([job["prompt_tokens"], job["computed_tokens"], job["generated_tokens"]]);
    assert_eq!(counts(job(&["--history-tokens", "20"])), judged(20));
    assert_eq!(counts(job(&[])), judged(380), "the judge alone");
}

#[test]
fn bench_measures_scores_that_are_the_same_from_a_cold_and_from_a_warm_cache() {
    let folder = scratch();
    for name in ["llama-reward", "llama"] {
        let model = exported(folder.path(), name).display().to_string();
        let bench = ["bench", "--score", "--model", &model, "--candidates", "3", "--candidate-tokens", "21"];
        let more = ["--history-tokens", "100", "--clients", "2", "--repeat", "4"];
        let measured = foreturn(&[&bench[..], &more, &["--json"]].concat()).json();
        for times in [&measured["cold"], &measured["warm"]] {
            let [p50, p95, p99] = ["p50", "p95", "p99"].map(|field| times[field].as_f64().expect("seconds"));
            assert!(0.0 < p50 && p50 <= p95 && p95 <= p99, "{name}: {measured}");
        }
        assert_eq!(measured["bit_equal"], true, "{name}");
        assert_eq!(numbers(&measured["first_scores"]).len(), 3, "{name}");
        let counts = ["candidates", "candidate_tokens", "history_tokens", "clients", "repetitions"];
        assert_eq!(counts.map(|field| measured[field].as_u64()), [3, 21, 100, 2, 4].map(Some), "{name}");

        let text = foreturn(&[&bench[..], &more].concat()).output();
        let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap_or_default().to_owned();
        assert!(line("warm").contains("p95 ") && line("bit_equal").ends_with("true"), "{name}: {text}");
    }
}

#[test]
fn bench_refuses_scores_that_it_can_not_measure() {
    let folder = scratch();
    let model = exported(folder.path(), "llama-reward").display().to_string();
    let encoder = exported(folder.path(), "bert-labels").display().to_string();
    let refused = |model: &str, more: &[&str]| {
        let small = ["bench", "--score", "--model", model, "--history-tokens", "100"];
        foreturn(&[&small, more].concat()).failure(1)
    };
    for flag in ["--candidates", "--candidate-tokens", "--clients", "--repeat"] {
        let message = refused(&model, &[flag, "0"]);
        assert!(message.contains(&format!("{flag} is 0; give at least 1")), "{message}");
    }
    let message = foreturn(&["bench", "--score", "--model", &model, "--history-tokens", "0"]).failure(1);
    assert!(message.contains("--history-tokens is 0"), "{message}");
    let message = refused(&model, &["--candidate-tokens", "200"]);
    assert!(message.contains("more than the 256 tokens"), "{message}");
    let message = refused(&model, &["--repeat", "1000"]);
    assert!(message.contains("--repeat 1000 need 1001 histories"), "{message}");
    let message = refused(&encoder, &[]);
    assert!(message.contains("no key-value cache"), "{message}");
}

// ---- how it is used ----

#[test]
fn usage_errors_exit_with_2() {
    let model = model();
    for arguments in [
        &[][..],
        &["rnak"],
        &["inspect"],
        &["generate", "--model", &model],
        &["generate", "--model", &model, "--tokens", "1,2", "--messages", "-"],
        &["generate", "--model", &model, "--tokens", "1,x"],
        &["generate", "--model", &model, "--tokens", "1", "--temperature", "warm"],
        &["logprobs", "--model", &model, "--tokens", "1,2"],
        &["rank", "--config", "c.toml"],
        &["rank", "--config", "c.toml", "--request", "r.json", "--deadline", "2"],
        &["export", "--from", "x", "--to", "y", "--quantize", "int2"],
        &["bench", "--model", &model, "--score", "--job"],
        &["bench", "--model", &model, "--score", "--samples", "2"],
        &["bench", "--model", &model, "--candidates", "2"],
        &["bench", "--model", &model, "--job", "--clients", "2"],
        &["bench", "--model", &model, "--repeat", "2"],
        &["bench", "--model", &model, "--rate", "2"],
        &["bench", "--load"],
        &["bench", "--load", "--requests", "r.jsonl"],
        &["bench", "--load", "--config", "c.toml"],
        &["bench", "--load", "--config", "c.toml", "--server", "http://a", "--requests", "r.jsonl"],
        &["bench", "--load", "--config", "c.toml", "--requests", "r.jsonl", "--key", "k"],
        &["bench", "--load", "--config", "c.toml", "--requests", "r.jsonl", "--model", &model],
        &["bench", "--load", "--config", "c.toml", "--requests", "r.jsonl", "--candidates", "2"],
        &["doctor", "--jsno"],
    ] {
        let message = foreturn(arguments).failure(2);
        assert!(message.contains("Usage") || message.contains("--help"), "{arguments:?}: {message}");
    }
}

#[test]
fn help_and_version_are_no_errors() {
    assert!(foreturn(&["--help"]).output().contains("rank"));
    assert!(foreturn(&["--version"]).output().contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let model = model();
    for arguments in [
        &["inspect", &model][..],
        &["doctor", "--json"],
        &["generate", "--model", &model, "--tokens", "1,2,3", "--max-new-tokens", "12", "--ignore-eos"],
        &["generate", "--model", &model, "--tokens", "1,2,3", "--max-new-tokens", "2", "--json"],
    ] {
        let mut child = command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
        drop(child.stdout.take());
        let run = Run::from(child.wait_with_output().expect("it ends"));
        assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

// ---- finding ONNX Runtime ----

/// The command in `bin/` of an otherwise empty folder, without anything in its environment.
fn moved(folder: &Path) -> Command {
    let program = folder.join("bin/foreturn");
    if !program.exists() {
        std::fs::create_dir(folder.join("bin")).expect("a folder");
        link(Path::new(env!("CARGO_BIN_EXE_foreturn")), &program);
    }
    let mut command = Command::new(program);
    command.env_clear().stdin(Stdio::null());
    command
}

#[test]
fn the_runtime_beside_the_program_is_found() {
    let folder = scratch();
    std::fs::create_dir(folder.path().join("onnxruntime")).expect("a folder");
    std::os::unix::fs::symlink(runtime_path(), folder.path().join("onnxruntime/lib")).expect("a link");
    let report = Run::from(moved(folder.path()).args(["doctor", "--json"]).output().expect("it runs")).json();
    assert_eq!(report["source"], "beside_program");
}

#[test]
fn a_missing_runtime_is_reported_with_every_place_that_was_tried() {
    let folder = scratch();
    let run = moved(folder.path()).arg("doctor").env("PATH", folder.path()).output().expect("it runs");
    let message = Run::from(run).failure(1);
    let root = folder.path().canonicalize().expect("a path").display().to_string();
    for part in [
        "ONNX Runtime was not found",
        "ORT_DYLIB_PATH: not set",
        &format!("{root}/onnxruntime/lib"),
        &format!("{root}/bin"),
        "the Python package onnxruntime: cannot run python3",
        "libonnxruntime.so: failed to load",
        "python3 -m pip install onnxruntime",
    ] {
        assert!(message.contains(part), "{part} is not in\n{message}");
    }

    let named = moved(folder.path()).arg("doctor").env("ORT_DYLIB_PATH", "/nowhere/lib.so").output().expect("it runs");
    assert!(Run::from(named).failure(1).contains("ORT_DYLIB_PATH: /nowhere/lib.so: No such file"));
    // Beside this program there is one, but the variable goes before it.
    for path in ["/nowhere/lib.so", "/etc/passwd"] {
        let program = env!("CARGO_BIN_EXE_foreturn");
        let output = Command::new(program).arg("doctor").env("ORT_DYLIB_PATH", path).output().expect("it runs");
        let message = Run::from(output).failure(1);
        assert!(message.contains(path) && message.contains("because ORT_DYLIB_PATH is set"), "{message}");
    }
}

#[test]
fn nothing_in_the_working_directory_is_opened() {
    let (folder, work) = (scratch(), scratch());
    // Everything by which a library is found elsewhere, as traps.
    for trap in ["onnxruntime/lib/libonnxruntime.so", "onnxruntime/capi/libonnxruntime.so.1.0.0"] {
        let path = work.path().join(trap);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, "a trap").expect("a file");
    }
    std::fs::write(work.path().join("onnxruntime/__init__.py"), "open('imported', 'w')\n").expect("a file");
    // Whoever opens a pipe that nobody writes to waits for ever.
    let pipe = Command::new("mkfifo").arg(work.path().join("libonnxruntime.so")).status().expect("mkfifo runs");
    assert!(pipe.success());

    let path = std::env::var_os("PATH").expect("a PATH");
    let mut doctor = moved(folder.path());
    doctor.arg("doctor").env("PATH", path).current_dir(work.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let run = within(Duration::from_secs(30), doctor).expect("it waits for a pipe in the working directory");
    // Whether another library is installed on this machine is all the same.
    let said = run.stdout + &run.stderr;
    assert!(!said.contains(&work.path().display().to_string()), "{said}");
    assert!(!work.path().join("imported").exists());
}

/// Runs a command; `None` where it takes longer.
fn within(limit: Duration, mut command: Command) -> Option<Run> {
    let mut child = command.spawn().expect("it runs");
    let start = Instant::now();
    while child.try_wait().expect("a child").is_none() {
        if start.elapsed() > limit {
            child.kill().expect("it can be ended");
            child.wait().expect("it ends");
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(child.wait_with_output().expect("it ended").into())
}

// ---- bad input ----

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    about: String,
    /// `{model}` is the model folder (a copy where it is damaged), `{dir}` the folder of the case's files.
    arguments: Vec<String>,
    /// Damage to a copy of the model folder.
    #[serde(default)]
    model: Option<Damage>,
    /// Files by name: text, or lists of lines.
    #[serde(default)]
    files: BTreeMap<String, Value>,
    /// Parts of the one message: what is wrong, where, and what to do.
    says: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Damage {
    remove: Vec<String>,
    /// Bytes to keep, by file.
    cut: BTreeMap<String, usize>,
    /// New contents, by file.
    write: BTreeMap<String, String>,
    /// New values, by JSON file and pointer; null removes the field.
    set: BTreeMap<String, BTreeMap<String, Value>>,
}

fn damaged(damage: &Damage) -> ModelCopy {
    let copy = ModelCopy::new();
    for file in &damage.remove {
        copy.remove(file);
    }
    for (file, &keep) in &damage.cut {
        let mut bytes = copy.read(file);
        assert!(keep < bytes.len(), "{file} has only {} bytes", bytes.len());
        bytes.truncate(keep);
        copy.write(file, bytes);
    }
    for (file, contents) in &damage.write {
        copy.write(file, contents);
    }
    for (file, values) in &damage.set {
        copy.edit(file, |json| values.iter().for_each(|(pointer, value)| set(json, pointer, value)));
    }
    copy
}

fn set(json: &mut Value, pointer: &str, value: &Value) {
    let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
    let parent = json.pointer_mut(parent).and_then(Value::as_object_mut).unwrap_or_else(|| panic!("{pointer}"));
    match value {
        Value::Null => drop(parent.remove(field)),
        value => drop(parent.insert(field.to_owned(), value.clone())),
    }
}

fn contents(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(lines) if lines.iter().all(Value::is_string) => {
            lines.iter().map(|line| format!("{}\n", line.as_str().unwrap_or_default())).collect()
        }
        json => json.to_string(),
    }
}

/// Runs a case; what is wrong with its outcome, if anything.
fn complaint(case: &Case) -> Option<String> {
    let copy = case.model.as_ref().map(damaged);
    let model = copy.as_ref().map_or_else(model_path, |copy| copy.path().to_path_buf()).display().to_string();
    let folder = scratch();
    let fill = |text: &str| text.replace("{dir}", &folder.path().display().to_string()).replace("{model}", &model);
    for (name, value) in &case.files {
        std::fs::write(folder.path().join(name), fill(&contents(value))).expect("a file");
    }
    let arguments: Vec<String> = case.arguments.iter().map(|argument| fill(argument)).collect();
    let Run { status, stdout, stderr } = foreturn(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let missing: Vec<String> = case.says.iter().map(|part| fill(part)).filter(|part| !stderr.contains(part)).collect();
    let one_message = stderr.starts_with("foreturn: ") && stderr.matches("foreturn: ").count() == 1;
    let good = status == Some(1) && stdout.is_empty() && one_message && !stderr.contains("panicked");
    (!good || !missing.is_empty())
        .then(|| format!("{}: exit {status:?}, missing {missing:?}\nstdout: {stdout}\nstderr: {stderr}", case.about))
}

#[test]
fn bad_input_gets_one_message_that_says_what_to_do() {
    let cases: Vec<Case> = serde_json::from_value(fixture("cli/bad_input.json")).expect("cases");
    let (next, complaints) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    complaints.lock().expect("no panic").extend(complaint(case));
                }
            });
        }
    });
    let complaints = complaints.into_inner().expect("no panic");
    assert!(complaints.is_empty(), "{} of {} cases:\n{}", complaints.len(), cases.len(), complaints.join("\n\n"));
}

// ---- folders made of links ----

/// Hugging Face's cache: the names are links into a folder of blobs that are named by their hashes.
#[test]
fn a_folder_of_links_into_blobs_is_read() {
    let cache = scratch();
    let [blobs, snapshot] = ["blobs", "snapshots/0123abc"].map(|name| cache.path().join(name));
    for folder in [&blobs, &snapshot] {
        std::fs::create_dir_all(folder).expect("a folder");
    }
    for (number, entry) in std::fs::read_dir(model_path()).expect("the model's files").enumerate() {
        let file = entry.expect("an entry").path();
        let blob = format!("{number:040x}");
        link(&file, &blobs.join(&blob));
        let name = snapshot.join(file.file_name().expect("a name"));
        std::os::unix::fs::symlink(Path::new("../../blobs").join(blob), name).expect("a link");
    }
    let snapshot = snapshot.display().to_string();
    let generate = ["generate", "--model", &snapshot, "--messages", "-", "--temperature", "0", "--json"];
    assert_eq!(tokens(&foreturn_reading(QUESTION, &generate).json()["tokens"]), ANSWER);
    let fingerprint = |path: &str| foreturn(&["inspect", path, "--json"]).json()["fingerprint"].clone();
    assert_eq!(fingerprint(&snapshot), fingerprint(&model()), "the same weights");
}

#[test]
fn weights_outside_the_folder_are_refused() {
    let elsewhere = scratch();
    let copy = ModelCopy::new();
    let outside = elsewhere.path().join("secret");
    link(&copy.path().join("model.safetensors"), &outside);
    copy.remove("model.safetensors");
    std::os::unix::fs::symlink(&outside, copy.path().join("model.safetensors")).expect("a link");
    let message = foreturn(&["inspect", &copy.path().display().to_string()]).failure(1);
    for part in ["model.onnx: initializer", "`model.safetensors` leads to", "outside the model's folder"] {
        assert!(message.contains(part), "{part} is not in {message}");
    }

    // The same by the name in the graph; it has to be as long, because the file is patched in place.
    let copy = ModelCopy::new();
    let (name, elsewhere) = (b"model.safetensors", b"../el.safetensors");
    let mut graph = copy.read("model.onnx");
    let at = graph.windows(name.len()).position(|window| window == name).expect("a location");
    graph[at..at + name.len()].copy_from_slice(elsewhere);
    copy.write("model.onnx", graph);
    let message = foreturn(&["inspect", &copy.path().display().to_string()]).failure(1);
    assert!(message.contains("external data at `../el.safetensors` leaves the model's folder"), "{message}");
}

// ---- models that give nonsense ----

/// The tables of rotary positions as far as float32 goes: then what is rotated overflows, and every logit is NaN.
#[test]
fn logits_that_are_not_numbers_give_no_score() {
    let copy = ModelCopy::new();
    let file = "rotary.safetensors";
    let mut bytes = copy.read(file);
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    for number in bytes[header..].chunks_exact_mut(4) {
        number.copy_from_slice(&f32::MAX.to_le_bytes());
    }
    copy.write(file, bytes);
    let path = copy.path().display().to_string();
    for run in [
        foreturn(&["generate", "--model", &path, "--tokens", "1,2,3", "--max-new-tokens", "2", "--json"]),
        foreturn(&["logprobs", "--model", &path, "--tokens", "1,2,3", "--json"]),
        rank(copy.path(), RANKING, &["--json"]),
        rank(
            copy.path(),
            &format!("on_metric_failure = \"error\"\n{}", RANKING.replace("window = 1", "window = 0")),
            &[],
        ),
    ] {
        let message = run.failure(1);
        assert!(message.contains("NaN") && message.contains("logit"), "{message}");
    }
}

/// A vocabulary one token short of the graph's: rows of logits would be read at the wrong places.
#[test]
fn logits_wider_than_the_vocabulary_are_refused() {
    let copy = ModelCopy::new();
    let width = 49_151;
    copy.edit("genai_config.json", |config| config["model"]["vocab_size"] = json!(width));
    copy.edit("tokenizer.json", |tokenizer| {
        let vocabulary = tokenizer["model"]["vocab"].as_object_mut().expect("a vocabulary");
        vocabulary.retain(|_, id| *id != json!(width));
        let vocabulary = vocabulary.clone();
        // Its last token goes, with the merge that makes it.
        let whole = |merge: &Value| match merge {
            Value::String(pair) => pair.replace(' ', ""),
            pair => pair.as_array().expect("a pair").iter().filter_map(Value::as_str).collect(),
        };
        let merges = tokenizer["model"]["merges"].as_array_mut().expect("merges");
        merges.retain(|merge| vocabulary.contains_key(&whole(merge)));
    });
    let path = copy.path().display().to_string();
    let message = foreturn(&["generate", "--model", &path, "--tokens", "1,2,3"]).failure(1);
    let wanted = "genai_config.json: model.vocab_size is 49151, but the graph gives 49152 logits per row";
    assert!(message.contains(wanted), "{message}");
}

// ---- execution providers ----

fn with_providers(on_unavailable: &str) -> String {
    let runtime = format!("[runtime]\nproviders = [\"cuda\", \"cpu\"]\non_unavailable = \"{on_unavailable}\"\n");
    format!("{}\n{runtime}", RANKING.replace("window = 1", "window = 0"))
}

#[test]
fn a_provider_that_is_not_there_is_an_error_unless_falling_back_is_allowed() {
    let message = rank(&model_path(), &with_providers("error"), &["--json"]).failure(1);
    for part in ["runtime.providers: `cuda` is not available", "on_unavailable = \"fallback\""] {
        assert!(message.contains(part), "{part} is not in {message}");
    }
    let run = rank(&model_path(), &with_providers("fallback"), &["--json"]);
    assert!(run.stderr.contains("warning: model `small` runs on cpu instead of cuda: "), "{}", run.stderr);
    assert_eq!(run.json()["complete"], true);
}

/// The pinned ONNX Runtime has no provider of NVIDIA's; the remedy names the package that has.
#[test]
fn inspect_says_which_provider_would_run_a_model_and_why_not() {
    let path = model();
    let of = |providers: &[&str]| foreturn(&[&["inspect", &path, "--json"][..], providers].concat());
    assert_eq!(of(&[]).json()["provider"], json!({"used": "cpu", "unavailable": []}));
    let fallback = of(&["--provider", "cuda", "--provider", "tensorrt", "--provider", "cpu"]).json();
    assert_eq!(fallback["provider"]["used"], "cpu");
    let unavailable = fallback["provider"]["unavailable"].as_array().expect("a list");
    assert_eq!(unavailable.iter().map(|pair| &pair[0]).collect::<Vec<_>>(), ["cuda", "tensorrt"]);
    for pair in unavailable {
        assert!(pair[1].as_str().is_some_and(|why| why.contains("onnxruntime-gpu")), "{pair}");
    }
    let message = of(&["--provider", "cuda"]).failure(1);
    for part in ["`cuda` is not available", "is not enabled in this build", "Python package onnxruntime-gpu"] {
        assert!(message.contains(part), "{part} is not in {message}");
    }
    assert!(of(&["--provider", "gpu"]).failure(2).contains("use \"cpu\", \"cuda\", \"tensorrt\" or \"webgpu\""));
}
