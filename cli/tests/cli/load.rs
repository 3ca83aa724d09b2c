//! `foreturn bench --load`: what becomes of each request is counted once, and a latency counts from the moment of arrival.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::models::exported;
use crate::common::openai_server::{Answer, Asked, Server};
use crate::common::{runtime_path, scratch};

const COUNTS: [&str; 8] = ["in_time", "late", "partial", "refused", "expired", "failed", "lost", "unsent"];

/// A folder with requests, and perhaps a configuration.
struct Bench(TempDir);

impl Bench {
    /// With these lines as requests.
    fn new(lines: &[Value]) -> Self {
        let bench = Bench(scratch());
        let text: String = lines.iter().map(|line| format!("{line}\n\n")).collect();
        std::fs::write(bench.path("requests.jsonl"), text).expect("requests");
        bench
    }

    /// With a tiny model in all roles as well.
    fn with_model(lines: &[Value], settings: &str) -> Self {
        let bench = Bench::new(lines);
        let model = exported(bench.0.path(), "llama");
        bench.configure("foreturn.toml", &model, settings);
        bench
    }

    fn configure(&self, name: &str, model: &Path, settings: &str) {
        let rollout = "[rollout]\nwindow = 1\nsamples = 1\nmax_user_tokens = 4\nmax_policy_tokens = 4\n[[metrics]]\nkind = \"token_amount\"\n";
        let text = format!(
            "{rollout}[models.m]\npath = {:?}\n[runtime]\nthreads = 1\n{settings}",
            model.display().to_string()
        );
        std::fs::write(self.path(name), text).expect("a configuration");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_foreturn"));
        command.args("bench --load --requests requests.jsonl".split(' ')).args(arguments.split(' '));
        command.env("ORT_DYLIB_PATH", runtime_path()).current_dir(self.0.path());
        command
    }

    fn run(&self, arguments: &str) -> (Option<i32>, String, String) {
        let out = self.command(arguments).output().expect("it runs");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (out.status.code(), text(out.stdout), text(out.stderr))
    }

    fn measured(&self, arguments: &str) -> Value {
        let (status, out, err) = self.run(&format!("{arguments} --json"));
        assert_eq!(status, Some(0), "{err}");
        counted(&out)
    }

    fn refused(&self, arguments: &str) -> String {
        let (status, out, err) = self.run(arguments);
        assert_eq!((status, out.as_str()), (Some(1), ""), "{err}");
        assert!(err.contains("foreturn: ") && !err.contains("panicked"), "{err}");
        err
    }
}

/// What was measured, where each request was counted once.
fn counted(out: &str) -> Value {
    let measured: Value = serde_json::from_str(out).unwrap_or_else(|e| panic!("{e} in {out}"));
    let rates = measured["rates"].as_array().expect("rates").iter();
    for result in rates.flat_map(|rate| rate["results"].as_array().expect("results")) {
        let sum: u64 = COUNTS.iter().map(|name| count(result, name)).sum();
        assert_eq!(sum, count(result, "arrived"), "{result}");
    }
    measured
}

fn score(text: &str) -> Value {
    json!({"kind": "score", "model": "m", "messages": [{"role": "user", "content": text}], "candidates": ["A", "B"], "task": "response"})
}

fn rank(text: &str) -> Value {
    json!({"conversation": [{"role": "user", "content": text}], "candidates": ["A", "B"], "seed": 1})
}

fn scores(values: &[f64]) -> Answer {
    let scores: Vec<Value> = values.iter().map(|value| json!({"values": [value]})).collect();
    Answer::json(200, &json!({"model": "m", "scores": scores}))
}

fn only(measured: &Value) -> &Value {
    &measured["rates"][0]["results"][0]
}

/// The number of requests with this fate.
fn count(result: &Value, name: &str) -> u64 {
    result[name].as_u64().unwrap_or_else(|| panic!("{name}: {result}"))
}

fn seconds(result: &Value, name: &str) -> f64 {
    result["latency_seconds"][name].as_f64().unwrap_or_else(|| panic!("{name}: {result}"))
}

#[test]
fn a_latency_counts_from_the_arrival_and_not_from_the_sending() {
    let bench = Bench::new(&[score("Hi")]);
    let slow = |_: &Asked| scores(&[1.0]).after(Duration::from_millis(100));
    let server = Server::start(slow);
    let address = format!("http://{}", server.address());
    // Ten a second can be answered and thirty arrive, so after a second twenty wait, the last of them two seconds.
    let measured = bench.measured(&format!("--server {address} --rate 30 --seconds 1 --clients 1"));
    let result = only(&measured);
    assert!((15..50).contains(&count(result, "arrived")), "{result}");
    assert_eq!(count(result, "in_time"), count(result, "arrived"));
    assert!(seconds(result, "p99") > 0.6 && seconds(result, "p50") > 0.25, "{result}");
    let open = seconds(result, "p50");
    // Whoever waits for answers sees a hundred milliseconds each.
    let measured = bench.measured(&format!("--server {address} --seconds 1 --clients 1"));
    let result = only(&measured);
    assert!(seconds(result, "p50") < open && count(result, "arrived") <= 10, "{result}");
    assert_eq!(measured["rates"][0]["rate"], Value::Null);
}

#[test]
fn each_fate_is_counted_apart() {
    let bench = Bench::new(&[score("Hi")]);
    let server = Server::start(|asked| match asked.number % 10 {
        0..4 => scores(&[1.0, 2.0]),
        4 => Answer::error(429, "the queue is full", Some(("retry-after", "1"))),
        5 => Answer::error(504, "the deadline passed", None),
        6 => Answer::error(500, "a model failed", None),
        7 => Answer::Bytes(b"HTTP/1.1 200 OK\r\ncontent-le".to_vec()),
        8 => scores(&[1.0, 3.0]),
        _ => scores(&[1.0, 2.0]).after(Duration::from_millis(400)),
    });
    let address = format!("http://{}", server.address());
    let measured = bench.measured(&format!("--server {address} --rate 100 --seconds 2 --clients 50 --deadline 300ms"));
    let result = only(&measured);
    // The first request of all was the trial.
    let asked = server.asked();
    assert_eq!(count(result, "arrived") - count(result, "unsent"), asked.len() as u64 - 1);
    let of = |kind: usize| asked.iter().skip(1).filter(|asked| asked.number % 10 == kind).count() as u64;
    let counts = ["refused", "expired", "failed", "lost", "different"].map(|name| count(result, name));
    assert_eq!(counts, [4, 5, 6, 7, 8].map(of), "{result}");
    // On a busy machine, others may be late as well.
    assert!(count(result, "late") >= of(9), "{result}");
    assert_eq!(result["twice"], Value::Null, "this server does not number its answers");
    let reasons = result["reasons"].as_object().expect("reasons");
    assert!(reasons.keys().any(|why| why.contains("500") && why.contains("a model failed")), "{reasons:?}");
    assert_eq!(reasons.values().map(|count| count.as_u64().expect("a count")).sum::<u64>(), of(6) + of(7));
    let timeouts = asked.iter().skip(1).map(|asked| asked.headers["x-timeout"].parse::<f64>().expect("seconds"));
    assert!(timeouts.into_iter().all(|timeout| 0.0 < timeout && timeout <= 0.3));
}

#[test]
fn what_finds_no_client_before_its_deadline_is_not_sent() {
    let bench = Bench::new(&[score("Hi")]);
    let server = Server::start(|_| scores(&[1.0]).after(Duration::from_millis(150)));
    let arguments = format!("--server http://{} --rate 40 --seconds 1 --clients 1 --deadline 100ms", server.address());
    let measured = bench.measured(&arguments);
    let (result, asked) = (only(&measured), server.asked().len() as u64);
    assert!(count(result, "unsent") > 5, "{result}");
    assert_eq!(count(result, "late"), asked - 1, "{result}");
    assert_eq!((count(result, "in_time"), result["goodput_per_second"].as_f64()), (0, Some(0.0)));
}

#[test]
fn a_server_that_is_killed_loses_requests_and_each_is_counted() {
    let bench = Bench::with_model(&[rank("A poem?"), score("Hi")], "");
    let server = Served::start(&bench);
    let mut load = bench.command(&format!("--server {} --rate 40 --seconds 2 --json", server.address));
    let mut load = load.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    // It says so when requests begin to arrive.
    let mut said = String::new();
    let mut told = BufReader::new(load.stderr.take().expect("standard error"));
    told.read_line(&mut said).expect("a line");
    std::thread::sleep(Duration::from_secs(1));
    drop(server);
    let out = load.wait_with_output().expect("it ends");
    assert!(out.status.success(), "{said}");
    let measured = counted(&String::from_utf8(out.stdout).expect("UTF-8"));
    let result = only(&measured);
    assert!(count(result, "lost") > 0 && count(result, "in_time") > 0, "{result}");
    assert_eq!(["failed", "different", "twice"].map(|name| count(result, name)), [0, 0, 0], "{result}");
    let reasons = result["reasons"].as_object().expect("reasons");
    let told: u64 = reasons.values().map(|count| count.as_u64().expect("a count")).sum();
    assert_eq!(told, count(result, "lost"), "{reasons:?}");
}

#[test]
fn answers_with_one_number_are_noticed() {
    let bench = Bench::new(&[score("Hi")]);
    let server = Server::start(|asked| match scores(&[1.0]) {
        Answer::Reply { status, body, .. } => {
            Answer::Reply { status, headers: vec![("x-request-id", (asked.number / 2).to_string())], body }
        }
        other => other,
    });
    let measured = bench.measured(&format!("--server http://{} --rate 50 --seconds 1", server.address()));
    let (result, asked) = (only(&measured), server.asked().len() as u64);
    assert_eq!(count(result, "twice"), asked / 2 - 1, "{result}");
}

#[test]
fn an_engine_and_a_server_under_load_answer_each_request_once() {
    let lines = [rank("A poem?"), score("Hi"), rank("A song?"), score("Ho")];
    let bench = Bench::with_model(&lines, "");
    let measured = bench.measured("--config foreturn.toml --rate 10,30 --seconds 1 --plot load.svg --deadline 30s");
    let drawn = std::fs::read_to_string(bench.path("load.svg")).expect("a plot");
    assert!(drawn.starts_with("<svg") && drawn.contains("p99") && drawn.contains("all that arrive"), "{drawn}");
    for result in measured["rates"].as_array().expect("rates").iter().map(|rate| &rate["results"][0]) {
        assert!(count(result, "in_time") > 0 && count(result, "different") == 0, "{result}");
        assert_eq!(count(result, "in_time"), count(result, "arrived"), "{result}");
    }

    let server = Served::start(&bench);
    let measured = bench.measured(&format!("--server {} --rate 30 --seconds 1 --plot load.svg", server.address));
    let result = only(&measured);
    assert_eq!(count(result, "in_time"), count(result, "arrived"), "{result}");
    assert_eq!((count(result, "different"), count(result, "twice")), (0, 0), "{result}");
    assert!(std::fs::read_to_string(bench.path("load.svg")).expect("a plot").contains("seconds"));
}

#[test]
fn an_overloaded_engine_refuses_and_two_take_turns() {
    let bench = Bench::with_model(&[rank("A poem?")], "max_queued = 1\n");
    let model = bench.path("llama");
    bench.configure("roomy.toml", &model, "");
    let arguments = "--config foreturn.toml --against roomy.toml --seconds 1 --clients 40 --repeat 2";
    let measured = bench.measured(arguments);
    assert_eq!(measured["targets"], json!(["foreturn.toml", "roomy.toml"]));
    let [full, roomy] = [0, 1].map(|at| &measured["rates"][0]["results"][at]);
    assert!(count(full, "refused") > 0 && count(full, "in_time") > 0 && count(full, "failed") == 0, "{full}");
    assert_eq!(count(roomy, "refused"), 0, "{roomy}");
    for figure in ["p50", "p95", "p99", "goodput"] {
        let ratio = &measured["rates"][0]["ratio"][figure];
        let [least, median, most] = ["least", "median", "most"].map(|name| ratio[name].as_f64().expect("a ratio"));
        assert!(0.0 < least && least <= median && median <= most, "{ratio}");
    }
    let (_, text, _) = bench.run("--config foreturn.toml --against roomy.toml --seconds 0.2 --rate 20");
    for part in ["goodput/s", "refused", "20 (against)", "roomy.toml over foreturn.toml at 20 requests/s: p50 "] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn mistakes_are_named_before_the_load_begins() {
    let bench = Bench::new(&[score("Hi"), json!({"kind": "sort"})]);
    let refused = Server::start(|_| Answer::error(400, "there is no model m", None));
    let server = format!("--server http://{}", refused.address());
    assert!(bench.refused(&server).contains("requests.jsonl, line 3: kind is \"sort\""));
    let bench = Bench::new(&[score("Hi")]);
    let message = bench.refused(&server);
    assert!(
        message.contains("requests.jsonl, line 1: fails at http://") && message.contains("there is no model m"),
        "{message}"
    );
    let nobody = bench.refused("--server http://127.0.0.1:1");
    assert!(nobody.contains("has no answer at http://127.0.0.1:1"), "{nobody}");
    for (arguments, part) in [
        ("--server unix:/run/x", "write http://host:port"),
        ("--rate 5,0", "--rate 0: requests in a second are a number above 0"),
        ("--seconds 0", "--seconds 0: give a number above 0"),
        ("--deadline 0s", "--deadline is 0"),
        ("--clients 0", "--clients is 0"),
        ("--key requests.missing", "requests.missing"),
    ] {
        let target = if arguments.contains("--server") { String::new() } else { format!(" {server}") };
        let message = bench.refused(&format!("{arguments}{target}"));
        assert!(message.contains(part), "{arguments}: {message}");
    }
    assert!(Bench::new(&[]).refused(&server).contains("has no requests"));
}

/// `foreturn serve` on a free port; it ends with its value.
struct Served {
    child: Mutex<Child>,
    address: String,
}

impl Served {
    fn start(bench: &Bench) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_foreturn"));
        command.args(["serve", "--config", "foreturn.toml", "--listen", "127.0.0.1:0", "--quiet"]);
        command.env("ORT_DYLIB_PATH", runtime_path()).current_dir(bench.0.path()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let mut said = String::new();
        BufReader::new(child.stderr.take().expect("standard error")).read_line(&mut said).expect("a line");
        let address =
            said.split_whitespace().find(|word| word.starts_with("http://")).unwrap_or_else(|| panic!("{said}"));
        Served { child: Mutex::new(child), address: address.to_owned() }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let mut child = self.child.lock().expect("no panic");
        drop(child.kill());
        drop(child.wait());
    }
}
