//! Evaluations beside collabllm 0.0.8: the columns are the means of what its own metrics computed on the same conversations.
//!
//! `fixtures/collabllm/*.json` holds every reply that scripted models gave to collabllm, and the values of its metrics for
//! each conversation (`reference/make_collabllm_fixtures.py`). Here each of these conversations is a task, and the same
//! replies go to an engine.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex};

use foreturn::chat::{ChatOutput, ChatReply, ChatRequest, ChatTask, Finish, Message, Ticket, Usage};
use foreturn::evaluate::{EvaluateOptions, Policy, evaluate};
use foreturn::tasks::{RunOptions, Tasks};
use foreturn::{ChatModel, Config, Engine, Result};
use serde::Deserialize;
use serde_json::json;

const TOLERANCE: f64 = 1e-9;

#[derive(Deserialize)]
struct Case {
    config: Vec<String>,
    /// Messages after the response.
    max_new_turns: usize,
    task_desc: String,
    conversation: Vec<Message>,
    prompt: String,
    reference: String,
    tests: Option<String>,
    entry_point: Option<String>,
    candidates: Vec<Candidate>,
}

#[derive(Deserialize)]
struct Candidate {
    response: String,
    samples: Vec<Session>,
}

#[derive(Clone, Deserialize)]
struct Session {
    #[serde(default)]
    response: String,
    user: Vec<String>,
    policy: Vec<String>,
    extractor: Option<String>,
    judge: BTreeMap<String, String>,
    messages: Vec<Message>,
    metrics: BTreeMap<String, f64>,
}

/// The replies of all sessions by who gives them: roles, and keys that a judge is asked for. One conversation is held at a
/// time, so they are wanted in order.
type Script = Arc<Mutex<BTreeMap<String, VecDeque<String>>>>;

struct Scripted {
    name: &'static str,
    script: Script,
    finished: Vec<(Ticket, Result<ChatReply>)>,
    next: u64,
}

impl Scripted {
    fn reply(&self, request: &ChatRequest) -> String {
        let ChatTask::Generate { schema, .. } = &request.task else { panic!("the preset asks for texts") };
        let keys = schema.iter().flat_map(|schema| schema.schema["properties"].as_object());
        let key = keys.flat_map(|properties| properties.keys().cloned()).nth(1);
        let asked = if self.name == "judge" { key.expect("a key") } else { self.name.to_owned() };
        let mut script = self.script.lock().expect("no panic");
        let said = script.get_mut(&asked).and_then(VecDeque::pop_front);
        said.unwrap_or_else(|| panic!("nothing more is scripted for {asked}"))
    }
}

impl ChatModel for Scripted {
    fn name(&self) -> &str {
        self.name
    }

    fn submit(&mut self, request: ChatRequest) -> Result<Ticket> {
        self.next += 1;
        let (text, finish) = (self.reply(&request), Finish::Stop);
        let output = ChatOutput::Text { text, tokens: None, finish, retokenized_differs: Vec::new() };
        let reply = ChatReply { output, usage: Usage::new(10, 2), note: None };
        self.finished.push((Ticket(self.next), Ok(reply)));
        Ok(Ticket(self.next))
    }

    fn poll(&mut self, finished: &mut Vec<(Ticket, Result<ChatReply>)>) -> bool {
        finished.append(&mut self.finished);
        false
    }

    fn cancel(&mut self, ticket: Ticket) {
        self.finished.retain(|(other, _)| *other != ticket);
    }
}

fn case(name: &str) -> Case {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/collabllm").join(format!("{name}.json"));
    serde_json::from_str(&std::fs::read_to_string(&path).expect("a fixture")).expect("a case")
}

fn engine(case: &Case, script: &Script) -> Result<Engine> {
    let roles = "[roles]\npolicy = \"policy\"\nuser = \"user\"\njudge = \"judge\"\n";
    let mut builder = Engine::builder(Config::from_toml(&format!("{}\n{roles}", case.config.join("\n")), "/")?);
    for name in ["policy", "user", "judge"] {
        let script = Arc::clone(script);
        let make = move || Ok(Box::new(Scripted { name, script, finished: Vec::new(), next: 0 }) as Box<dyn ChatModel>);
        builder = builder.chat_model(name, Box::new(make));
    }
    builder.build()
}

fn columns_are_collabllms(name: &str) {
    let case = case(name);
    let sessions: Vec<Session> = case
        .candidates
        .iter()
        .flat_map(|of| of.samples.iter().map(|sample| Session { response: of.response.clone(), ..sample.clone() }))
        .collect();
    let mut script: BTreeMap<String, VecDeque<String>> = BTreeMap::new();
    for session in &sessions {
        let mut say = |who: &str, text: &String| script.entry(who.into()).or_default().push_back(text.clone());
        say("policy", &session.response);
        session.policy.iter().for_each(|text| say("policy", text));
        session.user.iter().for_each(|text| say("user", text));
        session.extractor.iter().for_each(|text| say("final_completion", text));
        session.judge.iter().for_each(|(key, text)| say(key, text));
    }
    let script: Script = Arc::new(Mutex::new(script));
    let task = |at: usize| {
        let goal = json!({"task": case.task_desc, "prompt": case.prompt, "reference": case.reference, "tests": case.tests,
                          "entry_point": case.entry_point});
        json!({"id": at, "conversation": case.conversation, "goal": goal}).to_string()
    };
    let lines: Vec<String> = (0..sessions.len()).map(task).collect();
    let tasks = Tasks::parse(lines.join("\n").as_bytes(), name);
    assert_eq!(tasks.set_aside, []);
    let folder = tempfile::tempdir().expect("a folder");
    let run = RunOptions { concurrency: 1, ..RunOptions::default() };
    let options = EvaluateOptions { turns: 1 + case.max_new_turns / 2, run, ..EvaluateOptions::default() };
    let policies = [Policy::new("policy")];
    let (evaluation, summary) =
        evaluate(&policies, tasks, folder.path(), &options, |_| engine(&case, &script), &|_| ())
            .expect("an evaluation");
    let failed = std::fs::read_to_string(folder.path().join("failed.jsonl")).expect("a file");
    assert_eq!((summary.finished, summary.set_aside), (sessions.len(), 0), "{failed}");
    assert!(script.lock().expect("no panic").values().all(VecDeque::is_empty), "every reply was fetched");

    let held = std::fs::read_to_string(folder.path().join("conversations.jsonl")).expect("a file");
    let held = held.lines().map(|line| serde_json::from_str(line).expect("a conversation"));
    let held: Vec<foreturn::evaluate::EvaluatedConversation> = held.collect();
    for (conversation, session) in held.iter().zip(&sessions) {
        let future = &conversation.messages[case.conversation.len() + 1..];
        assert_eq!(future, &session.messages[..], "the conversation is collabllm's");
    }
    let metrics = &sessions[0].metrics;
    for name in metrics.keys() {
        let values: Vec<f64> = sessions.iter().map(|session| session.metrics[name]).collect();
        // numpy.mean and numpy.std(ddof=1) / sqrt(n).
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let error = (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0) / n).sqrt();
        // What collabllm calls `document->bleu` is `bleu` of what was extracted.
        let own = name.rsplit_once("->").map_or(name.as_str(), |(_, metric)| metric);
        let column = &evaluation.policies[0].columns[own];
        assert!((column.mean - mean).abs() < TOLERANCE, "{name}: {} instead of {mean}", column.mean);
        assert!((column.std_error.expect("an error") - error).abs() < TOLERANCE, "{name}");
    }
}

#[test]
fn columns_of_questions_are_collabllms() {
    columns_are_collabllms("math");
}

#[test]
fn columns_of_documents_are_collabllms() {
    columns_are_collabllms("document");
}

#[test]
fn columns_of_code_are_collabllms() {
    columns_are_collabllms("code");
}
