//! Files of tasks: JSON Lines, one task per line.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::abg_coqa::Stories;
use crate::chat::{Message, Role};
use crate::rank::{Candidates, Goal, RankRequest};
use crate::{Error, Result, files, json};

/// A task: what a simulated user is after, and possibly how the conversation begins.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Task {
    /// Its name, unique in the file. Seeds depend on it.
    pub id: String,
    /// The conversation so far; its last message is the user's. Where it is empty, the simulated user writes the first
    /// message.
    pub conversation: Vec<Message>,
    /// The goal of the user, with the reference that metrics compare with.
    pub goal: Goal,
    /// Anything else. It is passed on as it is.
    pub metadata: Map<String, Value>,
    /// Its line in the file, from 1.
    #[serde(skip)]
    pub line: usize,
}

impl Task {
    /// The full request, as collabllm's `single_turn_prompt`: the goal's prompt, otherwise the user's first message in
    /// `said`.
    pub(crate) fn prompt<'a>(&'a self, said: &'a [Message]) -> &'a str {
        let first = || said.iter().find(|message| message.role == Role::User);
        self.goal.prompt.as_deref().or_else(|| first().map(|message| &*message.content)).unwrap_or_default()
    }

    /// A hash of everything that conversations about it depend on.
    pub(crate) fn fingerprint(&self) -> String {
        super::hash(serde_json::to_string(self).unwrap_or_default().as_bytes())
    }
}

/// A task, or a line that is none, with the reason why there is no conversation about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SetAside {
    /// Its line in the file of tasks, from 1.
    pub line: usize,
    /// Its id, if it has one.
    pub id: Option<String>,
    /// The reason.
    pub reason: String,
}

/// The tasks of a file.
///
/// ```
/// use foreturn::tasks::Tasks;
///
/// let tasks = Tasks::parse(br#"{"id": "cube", "prompt": "Colour a cube with six colours.", "reference": "30"}
/// {"id": "cube", "prompt": "Another."}"#, "tasks.jsonl");
/// assert_eq!(tasks.list.len(), 1);
/// assert!(tasks.set_aside[0].reason.contains("line 1"));
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Tasks {
    /// The tasks, in the order of the file.
    pub list: Vec<Task>,
    /// Lines that are not tasks.
    pub set_aside: Vec<SetAside>,
    /// The name of the file, for messages.
    pub origin: String,
}

/// A line as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    id: Option<Value>,
    #[serde(default)]
    conversation: Vec<Message>,
    #[serde(default)]
    goal: Goal,
    /// Stands for `goal.prompt`.
    prompt: Option<String>,
    /// Stands for `goal.reference`.
    reference: Option<String>,
    #[serde(default)]
    metadata: Option<Map<String, Value>>,
}

impl Tasks {
    /// The lines that are not tasks, and those of tasks that failed, in the order of the file.
    pub(crate) fn set_aside_with(&self, failed: Vec<SetAside>) -> Vec<SetAside> {
        let mut all: Vec<SetAside> = self.set_aside.iter().cloned().chain(failed).collect();
        all.sort_by_key(|aside| aside.line);
        all
    }

    /// Reads a file. Lines that are not tasks are set aside, by their number.
    ///
    /// # Errors
    /// The file cannot be read, or has no task.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let tasks = Self::parse(&files::read(path, files::Kind::INPUT)?, path.display().to_string());
        if tasks.list.is_empty() {
            let why = tasks.set_aside.first().map(|first| format!("; line {}: {}", first.line, first.reason));
            let why = why.unwrap_or_default();
            return Err(Error::invalid_request(format!(
                "{}: there is no task in it. A task is a line such as {EXAMPLE}{why}",
                tasks.origin
            )));
        }
        Ok(tasks)
    }

    /// Reads tasks from text: JSON Lines, or the JSON document of Abg-CoQA. `origin` names it in messages.
    pub fn parse(bytes: &[u8], origin: impl Into<String>) -> Self {
        let mut tasks = Tasks { origin: origin.into(), ..Tasks::default() };
        let mut lines: BTreeMap<String, usize> = BTreeMap::new();
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        if let Ok(stories) = json::parse::<Stories>(bytes) {
            stories.tasks().for_each(|read| tasks.add(read, &mut lines));
            return tasks;
        }
        for (at, bytes) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let line = at + 1;
            if !bytes.trim_ascii().is_empty() {
                let (id, read) = read(bytes.trim_ascii(), line);
                tasks.add(read.map_err(|reason| SetAside { line, id, reason }), &mut lines);
            }
        }
        tasks
    }

    /// Adds a task, unless its id is that of an earlier line.
    fn add(&mut self, read: Result<Task, SetAside>, lines: &mut BTreeMap<String, usize>) {
        let task = match read {
            Ok(task) => task,
            Err(aside) => return self.set_aside.push(aside),
        };
        match lines.get(&task.id) {
            Some(first) => self.set_aside.push(SetAside {
                line: task.line,
                reason: format!("its id is that of line {first}: give each task an id of its own"),
                id: Some(task.id),
            }),
            None => {
                lines.insert(task.id.clone(), task.line);
                self.list.push(task);
            }
        }
    }
}

const EXAMPLE: &str = r#"{"id": "1", "prompt": "…", "reference": "…"}"#;

/// Reads a line: its id as far as it is known, and the task or the reason why it is none.
fn read(bytes: &[u8], line: usize) -> (Option<String>, Result<Task, String>) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return (None, Err("it is not UTF-8".into()));
    };
    let parsed: Line = match json::parse_strictly(text) {
        Ok(parsed) => parsed,
        Err(error) => {
            let id = json::parse::<Value>(bytes).ok().and_then(|value| name(value.get("id")?));
            return (id, Err(format!("it is not a task: {error}. Expected {EXAMPLE}")));
        }
    };
    let id = parsed.id.as_ref().and_then(name);
    let task = task(parsed, id.clone(), line);
    (id, task.map_err(|error| error.to_string()))
}

/// An id is a text or a whole number.
fn name(id: &Value) -> Option<String> {
    match id {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) if !number.is_f64() => Some(number.to_string()),
        _ => None,
    }
}

fn task(line: Line, id: Option<String>, number: usize) -> Result<Task> {
    let Some(id) = id else {
        return Err(Error::invalid_request(
            "it has no id: give each task a text or a whole number as `id`, because seeds depend on it",
        ));
    };
    let mut goal = line.goal;
    fill(&mut goal.prompt, line.prompt, "prompt")?;
    fill(&mut goal.reference, line.reference, "reference")?;
    if line.conversation.is_empty() {
        let opens = [&goal.prompt, &goal.task].into_iter().flatten().any(|text| !text.trim().is_empty());
        if !opens {
            return Err(Error::invalid_request(
                "it has neither a prompt nor a conversation: give a `prompt`, from which the simulated user opens the \
                 conversation, or a `conversation` that ends with a message of the user",
            ));
        }
    } else {
        let (conversation, candidates) = (line.conversation.clone(), Candidates::Sample(1));
        RankRequest { conversation, candidates, ..RankRequest::default() }.validate()?;
    }
    Ok(Task { id, conversation: line.conversation, goal, metadata: line.metadata.unwrap_or_default(), line: number })
}

/// Puts a field of the line into the goal.
fn fill(field: &mut Option<String>, given: Option<String>, name: &str) -> Result<()> {
    match (&field, given) {
        (Some(_), Some(_)) => {
            Err(Error::invalid_request(format!("`{name}` and `goal.{name}` mean the same: leave one of them out")))
        }
        (None, Some(given)) => {
            *field = Some(given);
            Ok(())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_read_with_or_without_a_conversation() {
        let text = "\u{feff}{\"id\": \"a\", \"prompt\": \"p\", \"reference\": \"r\", \"metadata\": {\"level\": 2}}\r\n\n\
                    {\"id\": 7, \"conversation\": [{\"role\": \"user\", \"content\": \"hi\"}], \"goal\": {\"reference\": \"x\"}}";
        let tasks = Tasks::parse(text.as_bytes(), "t");
        assert_eq!(tasks.set_aside, []);
        let [first, second] = &tasks.list[..] else { panic!("{tasks:?}") };
        assert_eq!((first.id.as_str(), first.line, first.prompt(&first.conversation)), ("a", 1, "p"));
        assert_eq!((first.goal.reference.as_deref(), &first.metadata["level"]), (Some("r"), &Value::from(2)));
        assert_eq!((second.id.as_str(), second.line, second.prompt(&second.conversation)), ("7", 3, "hi"));
        assert_ne!(first.fingerprint(), second.fingerprint());
        let moved = Task { line: 9, ..first.clone() };
        assert_eq!(moved.fingerprint(), first.fingerprint(), "a task may move in its file");
    }

    #[test]
    fn stories_of_abg_coqa_are_read_as_collabllm_reads_them() {
        let fixture = |name: &str| {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/dataset");
            std::fs::read(folder.join(name)).unwrap()
        };
        let tasks = Tasks::parse(&fixture("abg_coqa.json"), "t");
        // What collabllm's own class made of the same file (tests/reference/make_dataset_fixtures.py).
        let read: Vec<Value> = serde_json::from_slice(&fixture("abg_coqa_read.json")).unwrap();
        assert_eq!((tasks.list.len(), tasks.set_aside.len()), (read.len(), 0));
        for (task, read) in tasks.list.iter().zip(&read) {
            let label = if task.goal.ambiguous == Some(true) { "ambiguous" } else { "non_ambiguous" };
            assert_eq!(
                (&task.conversation[0].content, label),
                (&read["prompt"].as_str().unwrap().to_owned(), read["completion"].as_str().unwrap())
            );
            assert!(task.id.starts_with(read["id"].as_str().unwrap()));
        }
        let odd = br#"{"data": [{"id": "x", "story": "s", "target_turn": {"question": "q"}, "ambiguity": "maybe"}, {"id": "y"}]}"#;
        let tasks = Tasks::parse(odd, "t");
        assert!(tasks.list.is_empty() && tasks.set_aside[0].reason.contains("\"maybe\""));
        assert_eq!((tasks.set_aside[1].line, tasks.set_aside[1].id.as_deref()), (2, Some("y")));
    }

    #[test]
    fn a_line_that_is_no_task_is_named_and_the_rest_goes_on() {
        let user = r#"[{"role": "user", "content": "hi"}]"#;
        let lines: Vec<(Vec<u8>, &str)> = vec![
            (br#"{"id": "broken", "prompt": "#.to_vec(), "it is not a task: "),
            (b"{\"id\": \"b\", \"prompt\": \"\xff\"}".to_vec(), "it is not UTF-8"),
            (br#"{"prompt": "p"}"#.to_vec(), "it has no id"),
            (br#"{"id": 1.5, "prompt": "p"}"#.to_vec(), "it has no id"),
            (br#"{"id": "n", "prompt": NaN}"#.to_vec(), "NaN or Infinity"),
            (br#"{"id": "typo", "promt": "p"}"#.to_vec(), "unknown field `promt`"),
            (br#"{"id": "nothing", "goal": {"reference": "r"}}"#.to_vec(), "neither a prompt nor a conversation"),
            (br#"{"id": "twice", "prompt": "p", "goal": {"prompt": "q"}}"#.to_vec(), "mean the same"),
            (
                br#"{"id": "e", "conversation": [{"role": "assistant", "content": "x"}]}"#.to_vec(),
                "ends with a message of the assistant",
            ),
            (format!(r#"{{"id": "good", "conversation": {user}}}"#).into_bytes(), "its id is that of line 1:"),
        ];
        let mut text = format!("{{\"id\": \"good\", \"conversation\": {user}}}\n").into_bytes();
        for (line, _) in &lines {
            text.extend_from_slice(line);
            text.push(b'\n');
        }
        text.extend_from_slice(b"{\"id\": \"last\", \"prompt\": \"p\"}");
        let tasks = Tasks::parse(&text, "t");
        assert_eq!(tasks.list.iter().map(|task| &*task.id).collect::<Vec<_>>(), ["good", "last"]);
        assert_eq!(tasks.set_aside.len(), lines.len());
        for (at, (aside, (_, reason))) in tasks.set_aside.iter().zip(&lines).enumerate() {
            assert_eq!(aside.line, at + 2);
            assert!(aside.reason.contains(reason), "{aside:?} lacks {reason}");
        }
        assert_eq!(tasks.set_aside[5].id.as_deref(), Some("typo"));
    }
}
