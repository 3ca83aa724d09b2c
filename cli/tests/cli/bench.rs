//! Scripted models behind an endpoint, and the command in a folder of its own: for tests of whole conversations.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::openai_server::{Answer, Asked, Server};
use crate::common::{runtime_path, scratch};

/// A number that depends on what is asked.
fn number(asked: &Asked) -> u64 {
    let mut hasher = DefaultHasher::new();
    (asked.text(), asked.body["seed"].as_u64(), asked.body["model"].as_str()).hash(&mut hasher);
    hasher.finish()
}

fn answer(asked: &Asked) -> Answer {
    let number = number(asked);
    let messages = asked.body["messages"].as_array().expect("messages").len();
    let grows = asked.body["model"] == "policy" && asked.text().contains("GROWS") && messages >= 3;
    if asked.text().contains("FAR TOO LONG") || grows {
        let error = json!({"error": {"message": "the prompt is too long", "code": "context_length_exceeded"}});
        return Answer::json(400, &error);
    }
    if asked.text().contains("NOBODY ANSWERS") {
        return Answer::error(400, "no such deployment", None);
    }
    let reply = match asked.body["model"].as_str() {
        Some("judge") if asked.text().contains("In which conversation") => {
            let first = 0.1 + 0.8 * (number % 1000) as f64 / 1000.0;
            Answer::chooses(&[("First", first), ("Second", 0.95 - first)])
        }
        Some("judge") => {
            let yes = 0.1 + 0.8 * (number % 1000) as f64 / 1000.0;
            Answer::chooses(&[("Yes", yes), ("No", 1.0 - yes)])
        }
        Some("user") if number.is_multiple_of(5) && !asked.text().contains("Nothing has been said yet") => {
            Answer::says("That is all. [[TERMINATE CHAT]]")
        }
        Some("user") => Answer::says(&format!("And what about part {}?", number % 977)),
        _ => Answer::says(&format!("{}Part {number} first.", "Well, ".repeat(number as usize % 12))),
    };
    reply.after(Duration::from_millis(1 + number % 3))
}

/// A folder with a configuration of models at the server, and tasks.
pub(crate) struct Bench {
    pub(crate) folder: TempDir,
    pub(crate) server: Server,
    /// True once the endpoint answers what it was out of order for.
    pub(crate) well: Arc<AtomicBool>,
}

impl Bench {
    pub(crate) fn new(tasks: &[String]) -> Self {
        let well = Arc::new(AtomicBool::new(false));
        let is_well = Arc::clone(&well);
        let server = Server::start(move |asked| match asked.text().contains("OUT OF ORDER") {
            true if !is_well.load(Ordering::Acquire) => Answer::error(401, "out of order", None),
            _ => answer(asked),
        });
        let bench = Bench { folder: scratch(), server, well };
        let model = |name: &str| {
            let url = bench.server.base_url();
            format!("[models.{name}]\nbase_url = \"{url}\"\nmodel = \"{name}\"\n")
        };
        let config = format!(
            "seed = 7\n[rollout]\nwindow = 1\nsamples = 2\n[roles]\npolicy = \"policy\"\nuser = \"user\"\njudge = \"judge\"\n\
             [[metrics]]\nkind = \"token_amount\"\nunit = \"words\"\n[[metrics]]\nkind = \"helpfulness\"\njudging = \"soft\"\n\
             [[metrics]]\nkind = \"bleu\"\n{}",
            ["policy", "other", "user", "judge"].map(model).concat()
        );
        std::fs::write(bench.path("foreturn.toml"), config).expect("a configuration");
        std::fs::write(bench.path("tasks.jsonl"), tasks.join("\n")).expect("tasks");
        bench
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    pub(crate) fn rows(&self, name: &str) -> Vec<Value> {
        self.text(name).lines().map(|line| serde_json::from_str(line).expect("a row")).collect()
    }

    /// The command in the folder.
    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_foreturn"));
        command.args(arguments.split_whitespace()).current_dir(self.folder.path()).stdin(Stdio::null());
        command.env("ORT_DYLIB_PATH", runtime_path()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, arguments: &str) -> Output {
        self.command(arguments).output().expect("it runs")
    }

    /// Standard output of a command that must succeed.
    pub(crate) fn output(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// The message of a command that must fail.
    pub(crate) fn failure(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        let message = String::from_utf8(output.stderr).expect("UTF-8");
        assert!(
            !output.status.success() && message.contains("foreturn: ") && !message.contains("panicked"),
            "{message}"
        );
        message
    }

    /// Starts the command up to ten times and kills it as soon as its journal has 1 to 3 lines more; then lets it end.
    /// Returns how many of the kills came in the middle of the work.
    pub(crate) fn killed(&self, arguments: &str, journal: &str, whole: usize) -> usize {
        let lines = || std::fs::read_to_string(self.path(journal)).map_or(0, |text| text.lines().count());
        let mut moments = 0x9e37_79b9_u64;
        let (mut midway, mut killed) = (0, Vec::new());
        for _ in 0..10 {
            let before = lines();
            if before + 4 > whole {
                break;
            }
            let mut child = self.command(arguments).spawn().expect("it runs");
            moments = moments.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let more = 1 + (moments >> 33) as usize % 3;
            let start = Instant::now();
            while lines() < before.max(1) + more {
                assert!(start.elapsed() < Duration::from_secs(60), "the journal does not grow");
                std::thread::sleep(Duration::from_millis(1));
            }
            child.kill().expect("a signal");
            midway += usize::from((2..whole).contains(&lines()));
            // The next one starts at once, as under a supervisor, while this one may still hold its files.
            killed.push(child);
        }
        self.output(arguments);
        assert!(killed.iter_mut().all(|child| child.wait().is_ok()));
        midway
    }
}

pub(crate) fn tasks() -> Vec<String> {
    (0..20)
        .map(|n| {
            json!({"id": format!("t{n}"), "prompt": format!("Explain thing {n}."), "reference": "Part 1 first."})
                .to_string()
        })
        .collect()
}

/// Every key of a journal has one line.
pub(crate) fn assert_each_once(journal: &str, count: usize) {
    let lines: Vec<Value> = journal.lines().skip(1).map(|line| serde_json::from_str(line).expect("a line")).collect();
    let keys: BTreeSet<&str> = lines.iter().map(|line| line["key"].as_str().expect("a key")).collect();
    assert_eq!((lines.len(), keys.len()), (count, count), "every conversation is held once");
}
