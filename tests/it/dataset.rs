//! Data sets beside collabllm 0.0.8's `MultiturnDataset`, which read `fixtures/dataset/built.jsonl`
//! (`reference/make_dataset_fixtures.py`).

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use foreturn::chat::{ChatOutput, ChatReply, ChatRequest, Finish, Ticket, Usage};
use foreturn::dataset::{BuildOptions, ExportOptions, Format, build, export};
use foreturn::engine::CancelToken;
use foreturn::tasks::{Progress, RunOptions, Stopped, Tasks};
use foreturn::{ChatModel, Config, Engine, Error, ErrorKind, Result};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Recorded {
    flat: Vec<Value>,
    sft: Vec<Value>,
    dpo: Vec<Pairs>,
}

#[derive(Deserialize)]
struct Pairs {
    minimum_gap: f64,
    pairs: Vec<Value>,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/dataset").join(name)
}

fn recorded() -> Recorded {
    serde_json::from_str(&std::fs::read_to_string(fixture("collabllm.json")).expect("a fixture")).expect("what it read")
}

fn exported(format: Format, options: &ExportOptions) -> Vec<Value> {
    let folder = tempfile::tempdir().expect("a folder");
    let to = folder.path().join("rows.jsonl");
    export(&fixture("built.jsonl"), format, options, &to).expect("an export");
    let text = std::fs::read_to_string(&to).expect("rows");
    text.lines().map(|line| serde_json::from_str(line).expect("a row")).collect()
}

/// Without the system message, which collabllm leaves out.
fn heard(messages: &Value) -> Vec<Value> {
    let messages = messages.as_array().expect("messages").iter();
    messages.filter(|message| message["role"] != "system").cloned().collect()
}

#[test]
fn the_flat_form_is_what_collabllm_reads_from_the_nested_one() {
    assert_eq!(exported(Format::CollabllmFlat, &ExportOptions::default()), recorded().flat);
}

#[test]
fn the_nested_form_has_the_same_rows() {
    let conversations = exported(Format::CollabllmNested, &ExportOptions::default());
    let mut rows = recorded().flat.into_iter();
    for (number, conversation) in conversations.iter().enumerate() {
        for turn in conversation["turns"].as_array().expect("turns") {
            for response in turn["responses"].as_array().expect("responses") {
                let row = rows.next().expect("a row");
                assert_eq!((&row["prompt"], &row["conv_id"]), (&turn["prompt"], &json!(number)));
                assert_eq!((&row["completion"], &row["score"]), (&response["completion"], &response["score"]));
                assert_eq!(row["single_turn_metadata"], conversation["single_turn_metadata"]);
            }
        }
    }
    assert!(rows.next().is_none());
}

#[test]
fn conversations_to_imitate_are_collabllms() {
    let rows = exported(Format::Sft, &ExportOptions::default());
    let ours: Vec<Value> = rows.iter().map(|row| json!({"messages": heard(&row["messages"])})).collect();
    assert_eq!(ours, recorded().sft);
}

#[test]
fn pairs_are_collabllms_at_any_gap() {
    let mut pairs = 0;
    for Pairs { minimum_gap, pairs: expected } in recorded().dpo {
        let options = ExportOptions { minimum_gap, ..ExportOptions::default() };
        let rows = exported(Format::Dpo, &options).into_iter();
        let ours: Vec<Value> = rows
            .map(|row| {
                json!({
                    "prompt": heard(&row["prompt"]), "chosen": row["chosen"][0]["content"],
                    "rejected": row["rejected"][0]["content"], "score_chosen": row["score_chosen"],
                    "score_rejected": row["score_rejected"],
                })
            })
            .collect();
        // A pair of equal texts teaches nothing; collabllm keeps it.
        let expected: Vec<Value> = expected.into_iter().filter(|pair| pair["chosen"] != pair["rejected"]).collect();
        assert_eq!(ours, expected, "at {minimum_gap}");
        pairs += ours.len();
        let margins = exported(Format::Reward, &options);
        let gap = |row: &Value| row["score_chosen"].as_f64().unwrap() - row["score_rejected"].as_f64().unwrap();
        assert!(margins.iter().zip(&ours).all(|(row, pair)| row["margin"].as_f64() == Some(gap(pair))));
    }
    assert!(pairs > 5);
}

#[test]
fn sure_pairs_are_those_with_a_probability() {
    let probability =
        |least| exported(Format::Dpo, &ExportOptions { minimum_probability: Some(least), ..ExportOptions::default() });
    let all = exported(Format::Dpo, &ExportOptions::default());
    let sure = probability(0.9);
    assert!(!sure.is_empty() && sure.len() < all.len());
    assert!(sure.iter().all(|row| row["probability"].as_f64() >= Some(0.9)));
    assert!(all.iter().any(|row| row["probability"].is_null()), "an unknown probability is not a sure one");
}

/// Says something that depends on what it is asked, and nothing else.
struct Hashed {
    name: &'static str,
    finished: Vec<(Ticket, Result<ChatReply>)>,
    next: u64,
    /// The reply with this number, counted from 1, is lost on its way.
    lost: u64,
}

impl ChatModel for Hashed {
    fn name(&self) -> &str {
        self.name
    }

    fn submit(&mut self, request: ChatRequest) -> Result<Ticket> {
        self.next += 1;
        let mut hasher = DefaultHasher::new();
        request.messages.iter().for_each(|message| message.content.hash(&mut hasher));
        (request.seed, self.name).hash(&mut hasher);
        let text = format!("{}{}", "word ".repeat(hasher.finish() as usize % 9), hasher.finish());
        let output = ChatOutput::Text { text, tokens: None, finish: Finish::Stop, retokenized_differs: Vec::new() };
        let reply = match self.next == self.lost {
            true => Err(Error::new(ErrorKind::Io, "the endpoint is away")),
            false => Ok(ChatReply { output, usage: Usage::new(10, 2), note: None }),
        };
        self.finished.push((Ticket(self.next), reply));
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

fn engine() -> Engine {
    engine_that_loses(0)
}

/// An engine whose user loses a reply.
fn engine_that_loses(reply: u64) -> Engine {
    let config = "[rollout]\nwindow = 1\nsamples = 2\n[roles]\npolicy = \"policy\"\nuser = \"user\"\n\
                  [[metrics]]\nkind = \"token_amount\"\nunit = \"words\"\n";
    let mut builder = Engine::builder(Config::from_toml(config, "/").expect("a configuration"));
    for name in ["policy", "user"] {
        let lost = if name == "user" { reply } else { 0 };
        let make = move || Ok(Box::new(Hashed { name, finished: Vec::new(), next: 0, lost }) as Box<dyn ChatModel>);
        builder = builder.chat_model(name, Box::new(make));
    }
    builder.build().expect("an engine")
}

#[test]
fn a_build_that_was_cancelled_goes_on() {
    let tasks = || {
        let lines: Vec<String> = (0..12).map(|id| json!({"id": id, "prompt": "p"}).to_string()).collect();
        Tasks::parse(lines.join("\n").as_bytes(), "tasks")
    };
    let folder = tempfile::tempdir().expect("a folder");
    let rows = |name: &str| std::fs::read_to_string(folder.path().join(name).join("dataset.jsonl")).expect("rows");
    let engine = engine();
    let run = |cancel: CancelToken| RunOptions { concurrency: 2, cancel, ..RunOptions::default() };
    let options = |cancel| BuildOptions { turns: 2, run: run(cancel), ..BuildOptions::default() };
    let cancel = CancelToken::new();
    let seen = Mutex::new(Vec::new());
    let told = |progress: &Progress| {
        seen.lock().expect("no panic").push((progress.finished, progress.total, progress.left.is_some()));
        if progress.finished == 3 {
            cancel.cancel();
        }
    };
    let summary =
        build(&engine, tasks(), &folder.path().join("cut"), &options(cancel.clone()), &told).expect("a summary");
    assert_eq!(summary.stopped, Stopped::Cancelled);
    assert!((3..=4).contains(&summary.finished) && summary.finished + summary.left == 12, "{summary:?}");
    assert_eq!(seen.lock().expect("no panic")[..2], [(1, 12, true), (2, 12, true)]);
    assert_eq!(rows("cut").lines().count(), summary.finished);

    for name in ["cut", "whole"] {
        let summary = build(&engine, tasks(), &folder.path().join(name), &options(CancelToken::new()), &|_| ());
        assert_eq!(summary.expect("a summary").stopped, Stopped::Complete);
    }
    assert_eq!(rows("cut"), rows("whole"));
}

#[test]
fn a_conversation_that_an_outage_cost_a_future_is_held_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let rows = |name: &str| std::fs::read_to_string(folder.path().join(name).join("dataset.jsonl")).expect("rows");
    let run = RunOptions { concurrency: 1, ..RunOptions::default() };
    let options = BuildOptions { turns: 2, run, ..BuildOptions::default() };
    let build = |engine: &Engine, name: &str| {
        let tasks = (0..3).map(|id| format!("{{\"id\": {id}, \"prompt\": \"p\"}}\n")).collect::<String>();
        let to = folder.path().join(name);
        build(engine, Tasks::parse(tasks.as_bytes(), "tasks"), &to, &options, &|_| ()).expect("a summary")
    };
    assert_eq!(build(&engine(), "whole").finished, 3);
    // Replies of the first conversation's user: to the policy's candidates, and after each turn.
    for lost in [2, 5, 9, 12] {
        let name = format!("lost {lost}");
        let summary = build(&engine_that_loses(lost), &name);
        assert_eq!((summary.finished, summary.set_aside), (2, 1), "reply {lost}");
        assert!(rows(&name).lines().all(|row| rows("whole").contains(row)), "reply {lost}");
        assert_eq!(build(&engine(), &name).finished, 3);
        assert_eq!(rows(&name), rows("whole"));
    }
}
