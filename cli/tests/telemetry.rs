//! ONNX Runtime's reports to its maker: no process that uses foreturn sends any, unless it says so.
//!
//! A program of its own, because a process is watched for twice the time in which another one reported: the machine has
//! to be as busy in one as in the other. It is also the program that is watched, which must load nothing else.

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../tests/common/watched.rs"]
mod watched;

use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::Duration;

use common::runtime_path;
use foreturn::runtime::{RuntimeOptions, Telemetry, load};
use serde_json::Value;

fn runtime() -> String {
    runtime_path().display().to_string()
}

/// `foreturn doctor` that stays: what it has to say goes to a pipe that is full.
fn staying() -> Command {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let blocking = |blocking: bool| {
        // SAFETY: the descriptor is open, and the call takes no pointers.
        let set =
            unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETFL, if blocking { 0 } else { libc::O_NONBLOCK }) };
        assert_eq!(set, 0);
    };
    blocking(false);
    while std::io::Write::write(&mut &writer, &[0; 4096]).is_ok() {}
    blocking(true);
    // Nobody reads it, and whoever writes to it must find it open.
    std::mem::forget(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_foreturn"));
    command.arg("doctor").stdout(writer);
    command
}

#[test]
fn the_command_keeps_to_itself() {
    watched::keeps_to_itself(staying, &runtime());
}

#[test]
fn a_program_in_rust_keeps_to_itself() {
    let program = || {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", "stays", STAYS]).stdout(std::process::Stdio::null());
        command
    };
    watched::keeps_to_itself(program, &runtime());
}

/// An argument of the program that stays, which has an environment of its own. The test's runner takes it for a filter.
const STAYS: &str = "as-the-program-that-stays";

/// The program of [`a_program_in_rust_keeps_to_itself`]. Elsewhere there is nothing to stay for.
#[test]
fn stays() {
    if !std::env::args().any(|argument| argument == STAYS) {
        return;
    }
    load(&RuntimeOptions::default()).expect("a runtime");
    std::thread::sleep(Duration::from_secs(300));
}

#[test]
fn doctor_says_whether_there_are_reports() {
    for (value, expected) in
        [(None, "off"), (Some(""), "off"), (Some("1"), "off"), (Some("TRUE"), "off"), (Some("0"), "wanted")]
    {
        for ci in [None, Some("true")] {
            let home = tempfile::tempdir().expect("a folder");
            let doctor = |json: &[&str]| {
                let mut command = Command::new(env!("CARGO_BIN_EXE_foreturn"));
                command.arg("doctor").args(json).env_clear().env("HOME", home.path()).env("ORT_DYLIB_PATH", runtime());
                command.envs(value.map(|value| ("ORT_DISABLE_TELEMETRY", value))).envs(ci.map(|ci| ("CI", ci)));
                let output = command.output().expect("it runs");
                assert_eq!(String::from_utf8_lossy(&output.stderr), "");
                String::from_utf8(output.stdout).expect("text")
            };
            let report: Value = serde_json::from_str(&doctor(&["--json"])).expect("JSON");
            assert_eq!(report["telemetry"], expected, "{value:?}, CI={ci:?}");
            let line = if expected == "off" { "telemetry     off: " } else { "telemetry     on: " };
            assert!(doctor(&[]).contains(line), "{value:?}");
        }
    }
}

#[test]
fn what_nobody_asked_for_comes_with_what_to_do() {
    let warning = Telemetry::On.warning().expect("a warning");
    assert!(warning.contains("ORT_DISABLE_TELEMETRY=1 before the process starts"), "{warning}");
    for fine in [Telemetry::None, Telemetry::Off, Telemetry::Wanted] {
        assert_eq!(fine.warning(), None);
    }
}
