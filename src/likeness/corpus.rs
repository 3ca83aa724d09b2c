//! Conversations out of files of several kinds.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde_json::Value;

use crate::chat::{Message, Role};
use crate::{Error, Result, files, json};

/// Conversations with at least one message of the user.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Corpus {
    pub(super) conversations: Vec<Conversation>,
    /// Lines that hold no conversation with a message of the user.
    pub(super) passed_over: usize,
}

/// A conversation, with what it has in common with others.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Conversation {
    pub(super) said: Vec<Message>,
    /// The task that it is about, or the ranking that it belongs to. Conversations about one task are not independent.
    pub(super) task: Option<String>,
    /// Who played the user, in the rows of a sweep.
    simulator: Option<String>,
}

impl Corpus {
    /// Conversations that are known already, each about a task of its own. Those without a message of the user are left out.
    pub fn new(conversations: impl IntoIterator<Item = Vec<Message>>) -> Self {
        Self::of(conversations.into_iter().map(|said| Conversation { said, ..Conversation::default() }))
    }

    fn of(conversations: impl IntoIterator<Item = Conversation>) -> Self {
        let (with, without): (Vec<_>, Vec<_>) = conversations.into_iter().partition(|one| speaks(&one.said));
        Corpus { conversations: with, passed_over: without.len() }
    }

    /// The same conversations by who played the user. Only the rows of a sweep with several simulators say that; what does
    /// not is under the empty name.
    pub fn by_simulator(self) -> BTreeMap<String, Corpus> {
        let mut parts: BTreeMap<String, Corpus> = BTreeMap::new();
        for conversation in self.conversations {
            let name = conversation.simulator.clone().unwrap_or_default();
            parts.entry(name).or_default().conversations.push(conversation);
        }
        parts
    }

    /// Reads JSON Lines. A line is a conversation if it has a list of `{"role", "content"}` as `messages` or
    /// `conversation`, or is such a list: evaluations' `conversations.jsonl`, traces of rankings (each rollout is one, without
    /// what was said before the response) and most public data sets. A line of a built data set is its last turn's prompt, and
    /// one of a sweep's `responses.jsonl` has many. Conversations with the same `id` are about the same task, and so are the
    /// rollouts of a ranking.
    ///
    /// # Errors
    /// The file cannot be read, a line is not JSON, or no line has a message of the user.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (file, _) = files::open(path).map_err(|e| Error::io("read", path, e))?;
        let mut conversations = Vec::new();
        let mut passed_over = 0;
        for (at, line) in BufReader::new(file).split(b'\n').enumerate() {
            let line = line.map_err(|e| Error::io("read", path, e))?;
            if line.trim_ascii().is_empty() {
                continue;
            }
            let value: Value = json::parse(&line).map_err(|e| {
                Error::invalid_request(format!("{}, line {}: it is not JSON: {e}", path.display(), at + 1))
            })?;
            match of_line(&value) {
                Some(found) => conversations.extend(found),
                None => passed_over += 1,
            }
        }
        let corpus = Corpus::of(conversations);
        if corpus.conversations.is_empty() {
            return Err(Error::invalid_request(format!(
                "{}: no line has a message of the user. A conversation is a line such as {{\"messages\": [{{\"role\": \
                 \"user\", \"content\": \"…\"}}]}}",
                path.display()
            )));
        }
        Ok(Corpus { passed_over: corpus.passed_over + passed_over, ..corpus })
    }

    /// The number of conversations.
    pub fn len(&self) -> usize {
        self.conversations.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.conversations.is_empty()
    }
}

fn speaks(said: &[Message]) -> bool {
    said.iter().any(|message| message.role == Role::User && !message.content.trim().is_empty())
}

/// The conversations of a line.
fn of_line(line: &Value) -> Option<Vec<Conversation>> {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let task = line.get("id").or_else(|| line.get("ranking")).and_then(text);
    let simulator = line.get("simulator").and_then(text);
    let said = match swept(line) {
        Some(all) => all,
        None => vec![conversation(line)?],
    };
    let with = |said| Conversation { said, task: task.clone(), simulator: simulator.clone() };
    Some(said.into_iter().map(with).collect())
}

/// The conversations of a row of a sweep: from each response, several.
fn swept(line: &Value) -> Option<Vec<Vec<Message>>> {
    let before = messages(line.get("conversation")?)?;
    let mut all = Vec::new();
    for response in line.get("responses")?.as_array()? {
        for future in response.get("futures")?.as_array()? {
            let mut said = before.clone();
            said.push(Message::new(Role::Assistant, response.get("response")?.as_str()?));
            said.extend(messages(future.get("messages")?)?);
            all.push(said);
        }
    }
    Some(all)
}

fn messages(list: &Value) -> Option<Vec<Message>> {
    list.as_array()?.iter().map(message).collect()
}

/// The conversation of a line.
fn conversation(line: &Value) -> Option<Vec<Message>> {
    // The first line of a ranking has what was said before the response, and nothing that was simulated.
    if line.get("kind").is_some_and(|kind| kind != "rollout") {
        return None;
    }
    let prompt = || line.get("turns")?.as_array()?.last()?.get("prompt");
    let list = [line.get("messages"), line.get("conversation"), prompt(), Some(line)];
    let mut said = messages(list.into_iter().flatten().find(|list| list.is_array())?)?;
    if let Some(response) = line.get("response").and_then(Value::as_str) {
        said.insert(0, Message::new(Role::Assistant, response));
    }
    Some(said)
}

/// A message, whatever else it has.
fn message(value: &Value) -> Option<Message> {
    let role = match value.get("role")?.as_str()? {
        "user" | "human" => Role::User,
        "assistant" => Role::Assistant,
        "system" => Role::System,
        _ => return None,
    };
    Some(Message::new(role, value.get("content")?.as_str()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversations_come_from_files_of_several_kinds() {
        let user = r#"{"role": "user", "content": "hi"}"#;
        let assistant = r#"{"role": "assistant", "content": "ho", "tokens": [1]}"#;
        let lines = [
            format!("{{\"messages\": [{user}, {assistant}], \"metrics\": {{}}}}"),
            format!("[{user}]"),
            format!("{{\"kind\": \"request\", \"conversation\": [{user}]}}"),
            format!("{{\"kind\": \"rollout\", \"response\": \"r\", \"messages\": [{user}]}}"),
            format!("{{\"turns\": [{{\"prompt\": []}}, {{\"prompt\": [{user}, {assistant}, {user}]}}]}}"),
            "{\"kind\": \"ranking\"}".into(),
            format!("[{assistant}]"),
            "{\"messages\": [{\"role\": \"tool\", \"content\": \"\"}]}".into(),
        ];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines.jsonl");
        std::fs::write(&path, lines.join("\n")).unwrap();
        let corpus = Corpus::read(&path).unwrap();
        assert_eq!(corpus.conversations.iter().map(|one| one.said.len()).collect::<Vec<_>>(), [2, 1, 2, 3]);
        assert_eq!((corpus.len(), corpus.passed_over), (4, 4));
        assert_eq!(corpus.conversations[2].said[0].content, "r");
        let future = format!("{{\"sample\": 0, \"messages\": [{user}, {assistant}]}}");
        let row = |simulator: &str| {
            format!(
                "{{\"id\": 7, {simulator}\"conversation\": [{user}], \"responses\": [{{\"response\": \"r\", \"futures\": \
                 [{future}, {future}]}}]}}"
            )
        };
        std::fs::write(&path, [row(""), row("\"simulator\": \"style\", ")].join("\n")).unwrap();
        let parts = Corpus::read(&path).unwrap().by_simulator();
        assert_eq!(parts.keys().collect::<Vec<_>>(), ["", "style"]);
        let conversations = &parts["style"].conversations;
        assert!(conversations.len() == 2 && conversations.iter().all(|one| one.said.len() == 4));
        assert_eq!(conversations[0].task.as_deref(), Some("7"));
        for (text, part) in [("{\"a\": 1}", "no line has a message"), ("{", "line 1: it is not JSON")] {
            std::fs::write(&path, text).unwrap();
            assert!(Corpus::read(&path).unwrap_err().to_string().contains(part));
        }
    }
}
