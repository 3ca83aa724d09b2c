//! Data sets beside collabllm 0.0.8's `MultiturnDataset`, which read `fixtures/dataset/built.jsonl`
//! (`reference/make_dataset_fixtures.py`).

use std::path::{Path, PathBuf};

use foreturn::dataset::{ExportOptions, Format, export};
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
