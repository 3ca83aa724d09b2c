//! Threads: how many may be asked for, and what happens where the system gives none.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::models::exported;
use crate::common::{self, runtime_path};
use foreturn::runtime::{RuntimeOptions, load};
use foreturn::{Config, Engine, ErrorKind};

fn most() -> usize {
    4 * std::thread::available_parallelism().map_or(1, usize::from)
}

#[test]
fn more_threads_than_the_machine_can_run_are_refused_with_the_bound() {
    for threads in [most() + 1, 3000, u32::MAX as usize, usize::MAX >> 1] {
        let error =
            Config::from_toml(&format!("[runtime]\nthreads = {threads}"), Path::new("/")).expect_err("too many");
        for part in [format!("threads = {threads}"), format!("at most {} ", most())] {
            assert!(error.to_string().contains(&part), "{error}");
        }
        let mut config = Config::default();
        config.runtime.threads = Some(threads);
        let engine = Engine::new(config).map(drop).expect_err("too many");
        let options = RuntimeOptions { threads, library: Some(runtime_path()), ..RuntimeOptions::default() };
        for error in [error, engine, load(&options).expect_err("too many")] {
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        }
    }
    Config::from_toml(&format!("[runtime]\nthreads = {}", most()), Path::new("/")).expect("as many as there may be");
}

#[test]
fn the_command_refuses_them_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("c.toml");
    std::fs::write(&config, "[runtime]\nthreads = 4294967295\n[models.m]\npath = \"m\"\n").expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_foreturn"));
    let output = command.args(["rank", "--request", "-", "--config"]).arg(&config).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("threads = 4294967295: at most"), "{said}");
}

/// What makes threads scarce for a process.
fn scarce(folder: &Path) -> PathBuf {
    let library = folder.join("few_threads.so");
    let source = common::root().join("tests/common/few_threads.c");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl").status();
    assert!(built.expect("a C compiler").success());
    library
}

/// Runs a command with ever more threads until it succeeds: before that, it fails with an error of its own. Returns how many
/// it needs.
fn sweep(library: &Path, folder: &Path, arguments: &[&str]) -> usize {
    for threads in 0..64 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_foreturn"));
        command.args(arguments).current_dir(folder).env("LD_PRELOAD", library).env("THREADS", threads.to_string());
        command.env("ORT_DYLIB_PATH", runtime_path()).env("RUST_BACKTRACE", "0");
        let output = ended(&mut command, threads);
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            return threads;
        }
        assert_eq!(output.status.code(), Some(1), "{arguments:?} with {threads} threads: {}\n{said}", output.status);
        assert!(
            !said.contains("panicked") && !said.contains("ended while"),
            "{arguments:?} with {threads} threads: {said}"
        );
        for part in ["thread", "The system refuses more threads"] {
            assert!(said.contains(part), "{part}: {arguments:?} with {threads} threads: {said}");
        }
        // ONNX Runtime quotes `errno`, which `pthread_create` does not set.
        let reasons = ["Resource temporarily unavailable", "pthread_create failed"];
        assert!(reasons.iter().any(|reason| said.contains(reason)), "{arguments:?} with {threads} threads: {said}");
    }
    panic!("{arguments:?} fails with 63 threads");
}

fn ended(command: &mut Command, threads: usize) -> Output {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let start = Instant::now();
    while child.try_wait().expect("a child").is_none() {
        if start.elapsed() > Duration::from_secs(60) {
            child.kill().expect("it can be ended");
            panic!("{command:?} hangs with {threads} threads");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().expect("its output")
}

#[test]
fn too_few_threads_are_an_error_at_every_number() {
    let folder = tempfile::tempdir().expect("a folder");
    let library = scarce(folder.path());
    let model = exported(folder.path(), "llama");
    let model = model.to_str().expect("a path");
    let config = format!(
        "[models.m]\npath = {model:?}\n[roles]\npolicy = \"m\"\n[rollout]\nwindow = 0\nsamples = 1\n[[metrics]]\nkind = \"token_amount\"\n"
    );
    let request = r#"{"conversation": [{"role": "user", "content": "a"}], "candidates": ["b", "c"]}"#;
    std::fs::write(folder.path().join("c.toml"), config).expect("written");
    std::fs::write(folder.path().join("r.json"), request).expect("written");
    let needed = [
        sweep(&library, folder.path(), &["logprobs", "--model", model, "--tokens", "1,2,3", "--json"]),
        sweep(&library, folder.path(), &["rank", "--config", "c.toml", "--request", "r.json"]),
    ];
    assert!(needed.iter().all(|&threads| threads > 2), "the limit does not reach them: {needed:?}");
}

#[test]
fn an_export_without_threads_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let library = scarce(folder.path());
    exported(folder.path(), "llama");
    let from = "llama-checkpoint";
    let needed = sweep(&library, folder.path(), &["export", "--from", from, "--to", "to", "--quantize", "int4"]);
    assert!(needed > 0, "the limit does not reach it");
}
