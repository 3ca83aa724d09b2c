//! `command`: a program of the user gives the value, in its own unit and range.
//!
//! The program reads one JSON document from its standard input, a batch of conversations, and writes one to its standard
//! output, a score for each:
//!
//! ```json
//! {"version": 1, "conversations": [{"conversation": [{"role": "user", "content": "…"}], "response": "…", "future": […],
//!   "goal": {"reference": "…"}, "extracted": null, "subject": "…", "ended": "window"}]}
//! {"scores": [0.5, {"value": 0.5, "saturated": false}, {"error": "why there is none"}]}
//! ```
//!
//! `conversation` is the text before the response, and `future` the messages sampled after it. `subject` is the
//! extracted artefact, otherwise the assistant's last message without its reasoning. An exit code other than 0, too
//! much time or output, anything other than JSON, or a wrong number of scores fails all conversations of the batch,
//! quotes the end of standard error, and is never a zero. A score that is not a number fails its own conversation.
//!
//! Settings: `command = ["PROGRAM", "ARGUMENT", …]`, no shell; a path with a slash is relative to the configuration, a bare
//! name is looked for in PATH; `timeout_s` (60) for a batch, after which the program's process group is killed;
//! `max_output` bytes (1 MiB); `env = "inherit" | "empty"`; `batch_size` (64), most conversations at once.
//!
//! The program runs with the rights of this process, because the configuration is trusted. If the host ignores SIGCHLD,
//! the system forgets exit codes, and the output alone decides.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::process::Program;
use super::settings;
use crate::chat::Message;
use crate::reward::metric::{Answered, Metric, MetricInput, MetricValue};
use crate::rollout::Goal;
use crate::{Error, ErrorKind, Result, json};

mod process;

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    command: Vec<String>,
    timeout_s: f64,
    max_output: usize,
    env: Environment,
    batch_size: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            command: Vec::new(),
            timeout_s: 60.0,
            max_output: 1 << 20,
            env: Environment::Inherit,
            batch_size: 64,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Environment {
    Inherit,
    Empty,
}

struct Command {
    program: Program,
    batch_size: usize,
}

pub(super) fn build(table: toml::Table, base: &Path) -> Result<Arc<dyn Metric>> {
    let Settings { command, timeout_s, max_output, env, batch_size } = settings(table)?;
    let Some((name, arguments)) = command.split_first().filter(|(name, _)| !name.is_empty()) else {
        return Err(Error::invalid_config(
            "command is missing: give the program and its arguments, as in command = [\"./score.py\"]",
        ));
    };
    if max_output == 0 || batch_size == 0 {
        return Err(Error::invalid_config(format!(
            "max_output = {max_output} and batch_size = {batch_size}: both have to be at least 1"
        )));
    }
    let timeout = Duration::try_from_secs_f64(timeout_s)
        .ok()
        .filter(|timeout| !timeout.is_zero())
        .ok_or_else(|| Error::invalid_config(format!("timeout_s = {timeout_s} is not a number of seconds above 0")))?;
    let path = located(name, base)?;
    let empty_environment = env == Environment::Empty;
    let program = Program { path, arguments: arguments.to_vec(), empty_environment, timeout, max_output };
    Ok(Arc::new(Command { program, batch_size }))
}

/// The path of the program, if the configuration has one.
fn located(name: &str, base: &Path) -> Result<PathBuf> {
    if !name.contains('/') {
        return Ok(name.into());
    }
    let path = base.join(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(Error::invalid_config(format!("command: {} is not a file", path.display())))
}

#[derive(Serialize)]
struct Batch<'a> {
    version: u32,
    conversations: Vec<Conversation<'a>>,
}

#[derive(Serialize)]
struct Conversation<'a> {
    conversation: &'a [Message],
    response: &'a str,
    future: &'a [&'a Message],
    goal: &'a Goal,
    extracted: Option<&'a str>,
    subject: &'a str,
    ended: &'static str,
}

impl<'a> From<&MetricInput<'a>> for Conversation<'a> {
    fn from(input: &MetricInput<'a>) -> Self {
        Conversation {
            conversation: input.history,
            response: &input.response.content,
            future: input.future,
            goal: input.goal,
            extracted: input.extracted,
            subject: input.subject(),
            ended: input.ended.as_str(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reply {
    scores: Vec<Value>,
}

/// A score that is not just a number.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Detailed {
    value: Option<f64>,
    saturated: Option<bool>,
    error: Option<String>,
}

impl Command {
    fn run(&self, batch: &[Answered<'_>]) -> Result<Vec<Value>> {
        let conversations = batch.iter().map(|scored| Conversation::from(&scored.input)).collect();
        let mut given = serde_json::to_vec(&Batch { version: 1, conversations })
            .map_err(|e| Error::internal(format!("a conversation can't be written as JSON: {e}")))?;
        given.push(b'\n');
        let output = self.program.run(given)?;
        let Reply { scores } = json::parse(&output.stdout)
            .map_err(|e| output.unusable(&format!("its output is not the JSON that was asked for: {e}")))?;
        if scores.len() != batch.len() {
            let (given, asked) = (scores.len(), batch.len());
            return Err(output.unusable(&format!("it gave {given} scores for {asked} conversations")));
        }
        Ok(scores)
    }
}

fn value(score: Value) -> Result<MetricValue> {
    let unusable = |what: String| Error::new(ErrorKind::ModelOutput, what);
    if let Some(number) = score.as_f64() {
        return Ok(number.into());
    }
    let shown: String = json::shown(&score).chars().take(200).collect();
    match serde_json::from_value(score) {
        Ok(Detailed { value: Some(value), saturated, error: None }) => {
            Ok(MetricValue { saturated, ..MetricValue::new(value) })
        }
        Ok(Detailed { value: None, saturated: None, error: Some(error) }) => {
            Err(unusable(format!("the program says: {error}")))
        }
        _ => Err(unusable(format!(
            "the program's score is {shown}: a number, {{\"value\": …}} or {{\"error\": \"…\"}} was asked for"
        ))),
    }
}

impl Metric for Command {
    fn kind(&self) -> &str {
        "command"
    }

    fn score(&self, batch: &[Answered<'_>]) -> Vec<Result<MetricValue>> {
        let scored = |batch: &[Answered<'_>]| -> Vec<Result<MetricValue>> {
            match self.run(batch) {
                Ok(scores) => scores.into_iter().map(value).collect(),
                Err(error) => batch.iter().map(|_| Err(error.duplicate())).collect(),
            }
        };
        batch.chunks(self.batch_size).flat_map(scored).collect()
    }
}

#[cfg(test)]
mod tests;
