use std::time::Instant;

use super::*;
use crate::chat::Role;

/// Tells this program that the test started it again.
const INNER: &str = "FORETURN_TEST_HOST_OF_COMMANDS";

/// A metric that runs a shell script.
fn shell(script: &str, rest: &str) -> Arc<dyn Metric> {
    let mut table: toml::Table = rest.parse().expect("settings");
    table.insert("command".into(), vec!["sh", "-c", script].into());
    build(table, "".as_ref()).unwrap_or_else(|e| panic!("{script}: {e}"))
}

/// The metric's results for conversations with these responses.
fn score(metric: &dyn Metric, responses: &[&str]) -> Vec<Result<MetricValue>> {
    let (history, goal) = ([Message::new(Role::User, "hi")], Goal { reference: Some("r".into()), ..Goal::default() });
    let responses: Vec<Message> = responses.iter().map(|text| Message::new(Role::Assistant, *text)).collect();
    let scored = |response| Answered {
        input: MetricInput { history: &history, ..MetricInput::new(response, &goal, &|text| text.len()) },
        answers: &[],
    };
    metric.score(&responses.iter().map(scored).collect::<Vec<_>>())
}

fn failure(metric: &dyn Metric) -> (ErrorKind, String) {
    let error = score(metric, &["a"]).pop().expect("a result").expect_err("a failure");
    (error.kind(), error.to_string())
}

#[test]
fn a_program_is_told_the_conversation_and_scores_in_batches() {
    let folder = tempfile::tempdir().unwrap();
    let seen = folder.path().join("seen");
    let script = format!(
        "tee -a {} | grep -o response | sed s/response/0.25/ | paste -sd, | sed \"s/^/{{\\\"scores\\\":[/;s/$/]}}/\"",
        seen.display()
    );
    let results = score(&*shell(&script, "batch_size = 2"), &["one", "two <think>no</think>", "three"]);
    assert_eq!(results.len(), 3);
    for result in results {
        assert_eq!(result.unwrap(), MetricValue::new(0.25));
    }
    let seen = std::fs::read_to_string(seen).unwrap();
    let batches: Vec<Value> = seen.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(batches.len(), 2);
    let expected = serde_json::json!({
        "version": 1,
        "conversations": [{
            "conversation": [{"role": "user", "content": "hi"}], "response": "three", "future": [],
            "goal": {"reference": "r"}, "extracted": null, "subject": "three", "ended": "window"
        }]
    });
    assert_eq!(batches[1], expected);
}

#[test]
fn scores_may_have_reasons_and_each_fails_alone() {
    let scores = r#"[1, {"value": -2.5, "saturated": true}, {"error": "no poem"}, null, NaN]"#;
    let results = score(&*shell(&format!("echo '{{\"scores\": {scores}}}'"), ""), &["a"; 5]);
    assert_eq!(*results[0].as_ref().unwrap(), MetricValue::new(1.0));
    assert_eq!(*results[1].as_ref().unwrap(), MetricValue { saturated: Some(true), ..MetricValue::new(-2.5) });
    assert_eq!(results[2].as_ref().unwrap_err().to_string(), "the program says: no poem");
    assert!(results[3].as_ref().unwrap_err().to_string().contains("score is null"));
    assert!(results[4].as_ref().unwrap_err().to_string().contains("score is NaN"));
}

#[test]
fn what_goes_wrong_is_a_failure_with_the_reason() {
    let long = "x".repeat(3000);
    for (script, rest, parts) in [
        ("echo oops >&2; exit 3", "", &["`sh`: it failed (exit status: 3)", "standard error ends: oops"][..]),
        ("echo why >&2; echo hello", "", &["not the JSON", "why"]),
        ("echo", "", &["not the JSON"]),
        ("echo '{\"scores\":[]}'", "", &["it gave 0 scores for 1 conversations"]),
        ("echo '{\"scores\":[NaN]}'", "", &["score is NaN"]),
        ("echo '{\"scores\":[1e999]}'", "", &["not the JSON"]),
        ("kill -9 $$", "", &["it failed (signal: 9"]),
        ("yes", "max_output = 1000", &["more than max_output = 1000 bytes"]),
        (&format!("echo {long}end >&2; exit 1"), "", &["xend"]),
    ] {
        let (kind, message) = failure(&*shell(script, rest));
        assert_eq!(kind, ErrorKind::ModelOutput, "{message}");
        assert!(parts.iter().all(|part| message.contains(part)) && message.len() < 2300, "{script}: {message}");
    }
    let (kind, message) = failure(&*build("command = ['no-such-program-here']".parse().unwrap(), "".as_ref()).unwrap());
    assert!(kind == ErrorKind::Io && message.contains("`no-such-program-here` could not be started"), "{message}");
}

#[test]
fn a_slow_program_is_killed_with_all_it_started() {
    for script in
        ["sleep 60 & echo $! > PID; sleep 60", "sleep 60 & echo $! > PID", "echo $$ > PID; exec >&-; sleep 60"]
    {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let started = Instant::now();
        let (kind, message) = failure(&*shell(&script.replace("PID", &path.display().to_string()), "timeout_s = 2"));
        assert_eq!(kind, ErrorKind::ModelOutput);
        assert!(message.contains("longer than timeout_s = 2"), "{script}: {message}");
        let process = std::fs::read_to_string(path).unwrap();
        while is_alive(process.trim()) {
            assert!(started.elapsed() < Duration::from_secs(30), "{script}: process {process} lives on");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Whether a process exists and has not ended. One that is not waited for stays as a zombie.
fn is_alive(process: &str) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{process}/stat"));
    state.is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z'))
}

#[test]
fn settings_of_nonsense_are_refused() {
    for (toml, part) in [
        ("", "command is missing"),
        ("command = ['']", "command is missing"),
        ("command = 'score.py'", "expected a sequence"),
        ("command = ['./no-such-file']", "no-such-file is not a file"),
        ("command = ['sh']\ntimeout_s = 0.0", "timeout_s = 0 is not"),
        ("command = ['sh']\ntimeout_s = inf", "timeout_s = inf is not"),
        ("command = ['sh']\nmax_output = 0", "max_output = 0 and batch_size = 64: both have to be at least 1"),
        ("command = ['sh']\nenv = 'some'", "unknown variant `some`"),
    ] {
        let error = build(toml.parse().unwrap(), "".as_ref()).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(part), "{toml}: {error}");
    }
}

#[test]
fn programs_are_found_beside_the_configuration_and_run_in_the_environment_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let script = "#!/bin/sh\n/bin/cat >/dev/null\necho \"{\\\"scores\\\": [${#HOME}]}\"\n";
    let path = folder.path().join("score.sh");
    std::fs::write(&path, script).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&path, mode).unwrap();
    let value = |rest: &str| {
        let metric = build(format!("command = ['./score.sh']\n{rest}").parse().unwrap(), folder.path()).unwrap();
        score(&*metric, &["a"]).pop().unwrap().unwrap().value
    };
    assert_eq!(value("env = 'empty'"), 0.0);
    assert_eq!(value(""), std::env::var("HOME").map_or(0, |home| home.len()) as f64);
}

/// Hosts may ignore SIGCHLD, so that children leave no status, and keep SIGPIPE's default, so that writing to a program
/// that doesn't read ends them.
#[test]
fn a_host_with_signals_of_its_own_is_no_obstacle() {
    if std::env::var_os(INNER).is_some() {
        return in_such_a_host();
    }
    let name = "reward::metrics::command::tests::a_host_with_signals_of_its_own_is_no_obstacle";
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(INNER, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

#[allow(unsafe_code, reason = "system calls")]
fn in_such_a_host() {
    // SAFETY: this process runs only this test, and neither disposition is a function.
    unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
    let long = "x".repeat(1 << 20);
    let deaf = shell("exec <&-; sleep 0.1; echo '{\"scores\":[0.5]}'", "");
    assert_eq!(*score(&*deaf, &[&long])[0].as_ref().unwrap(), MetricValue::new(0.5));
    let (_, message) = failure(&*shell("exit 1", ""));
    assert!(message.contains("not the JSON"), "no status, no output, no value: {message}");
    let (_, message) = failure(&*shell("sleep 60 & exit 0", "timeout_s = 0.3"));
    assert!(message.contains("longer than timeout_s"), "{message}");
}
