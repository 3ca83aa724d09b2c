//! Abg-CoQA: stories with a question that is ambiguous, or not (Guo et al., AKBC 2021). A good response to an ambiguous question
//! asks back, and a good response to a clear one answers.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::file::{SetAside, Task};
use crate::chat::{Message, Role};
use crate::rank::Goal;

/// The file as it is published.
#[derive(Deserialize)]
pub(super) struct Stories {
    data: Vec<Value>,
}

#[derive(Deserialize)]
struct Story {
    id: Option<String>,
    source: Option<String>,
    story: String,
    target_turn: Question,
    ambiguity: String,
}

#[derive(Deserialize)]
struct Question {
    question: String,
    turn_id: Option<u64>,
}

impl Stories {
    /// A task or a reason for each story. The number of a story stands for its line.
    pub(super) fn tasks(self) -> impl Iterator<Item = Result<Task, SetAside>> {
        self.data.into_iter().enumerate().map(|(at, value)| {
            let line = at + 1;
            let id = value.get("id").and_then(Value::as_str).map(str::to_owned);
            let story = serde_json::from_value(value).map_err(|e| format!("it is not a story of Abg-CoQA: {e}"));
            story.and_then(|story| task(story, line)).map_err(|reason| SetAside { line, id, reason })
        })
    }
}

/// The words are collabllm's (`examples/single_turn_ds/abg_coqa.py`).
fn task(story: Story, line: usize) -> Result<Task, String> {
    let ambiguous = match story.ambiguity.as_str() {
        "ambiguous" => true,
        "non_ambiguous" => false,
        other => return Err(format!("its ambiguity is {other:?}: expected \"ambiguous\" or \"non_ambiguous\"")),
    };
    let prompt = format!(
        "Can you help me answer a question about the following story?\n\n{}\n\nMy question is: {}",
        story.story, story.target_turn.question
    );
    // Several questions may be about one story.
    let name = story.id.unwrap_or_else(|| line.to_string());
    let id = story.target_turn.turn_id.map_or_else(|| name.clone(), |turn| format!("{name}#{turn}"));
    let goal = Goal {
        task: Some("a question about a story".into()),
        prompt: Some(prompt.clone()),
        ambiguous: Some(ambiguous),
        ..Goal::default()
    };
    let metadata = story.source.map(|source| ("source".to_owned(), Value::from(source)));
    let metadata: Map<String, Value> = metadata.into_iter().collect();
    Ok(Task { id, conversation: vec![Message::new(Role::User, prompt)], goal, metadata, line })
}
