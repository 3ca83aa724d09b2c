//! `foreturn compare`: what a quantised export is from its reference, and that a model differs in nothing from itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::models::{copy, fixtures};
use crate::common::{runtime_path, scratch};
use foreturn::export::{ExportOptions, Quantize, export};
use serde_json::{Value, json};

const CONFIG: &str = r#"
[models.any]
path = "nowhere"
[rollout]
window = 1
samples = 2
max_user_tokens = 6
max_policy_tokens = 6
[[metrics]]
kind = "token_amount"
[[metrics]]
kind = "helpfulness"
min_mass = 0.0
"#;
const REQUESTS: &str = r#"{"conversation": [{"role": "user", "content": "Hi"}], "candidates": ["Yes.", "No, not at all."]}
{"conversation": [{"role": "user", "content": "What?"}], "candidates": ["That.", "This or that?", "Whatever it was."]}
"#;
const TEXTS: &str = r#"["The sea is wide.", [{"role": "user", "content": "Is it so?"}]]"#;

/// The tiny Llama, with room for the prompts of users and judges, and with a token for their answers beside `Yes`.
fn model(folder: &Path, quantize: Quantize) -> String {
    let (from, to) = (folder.join("checkpoint"), folder.join(format!("{quantize:?}")));
    copy(&fixtures("llama/checkpoint"), &from);
    copy(&fixtures("tokenizers/bytes"), &from);
    edit(&from.join("config.json"), |config| config["max_position_embeddings"] = 8192.into());
    edit(&from.join("tokenizer.json"), |tokenizer| {
        let vocabulary = tokenizer["model"]["vocab"].as_object_mut().expect("a vocabulary");
        let id = vocabulary.remove("Wr").expect("a token");
        vocabulary.insert("No".into(), id);
        let merges = tokenizer["model"]["merges"].as_array_mut().expect("merges");
        *merges.iter_mut().find(|merge| **merge == json!(["W", "r"])).expect("its merge") = json!(["N", "o"]);
    });
    export(&ExportOptions { quantize, ..ExportOptions::new(from, &to) }, &mut |_| ()).expect("an export");
    to.display().to_string()
}

fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(path).expect("readable")).expect("JSON");
    change(&mut value);
    fs::write(path, value.to_string()).expect("writable");
}

fn compare(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_foreturn"));
    command.env("ORT_DYLIB_PATH", runtime_path()).arg("compare").args(arguments).output().expect("the command runs")
}

#[test]
fn a_quantised_model_is_compared_with_its_reference() {
    let folder = scratch();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let (reference, int8) = (model(folder.path(), Quantize::None), model(folder.path(), Quantize::Int8));
    let texts = file("texts.json", TEXTS);
    let (config, requests) = (file("foreturn.toml", CONFIG), file("requests.jsonl", REQUESTS));
    let models = ["--reference", &reference, "--model", &reference, "--model", &int8, "--texts", &texts];
    let rankings = ["--new-tokens", "6", "--config", &config, "--request", &requests];
    let output = compare(&[&models[..], &rankings, &["--free-rankings", "--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let comparison: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let number = |pointer: &str| {
        comparison.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("{pointer}: {comparison}"))
    };

    for what in ["texts", "own"] {
        assert!(number(&format!("/models/0/{what}/tokens")) > 0.0);
        assert_eq!(number(&format!("/models/0/{what}/mean_change")), 0.0, "a model and itself");
        let change = number(&format!("/models/1/{what}/mean_change"));
        assert!(change > 0.0 && change < 1.0, "8 bits change little, but something: {change}");
    }
    assert_eq!(number("/models/0/greedy/agreement"), 1.0);
    assert!(number("/models/1/bytes") < number("/reference/bytes"));

    for futures in ["fixed", "free"] {
        let itself = |what: &str| number(&format!("/models/0/{futures}/{what}"));
        assert_eq!(["requests", "tau", "same_best", "mean_change"].map(itself), [2.0, 1.0, 2.0, 0.0], "{futures}");
    }
    let [fixed, free, chance] = ["/models/1/fixed", "/models/1/free", "/chance"];
    let change = |of: &str| number(&format!("{of}/mean_change"));
    assert!(change(fixed) > 0.0, "8 bits judge otherwise");
    assert!(change(fixed) < change(free) && change(fixed) < change(chance), "other futures change more: {comparison}");

    let output = compare(&[&models[..4], &models[6..], &rankings].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let table = String::from_utf8(output.stdout).expect("text");
    assert!(table.contains("the reference's futures: Kendall's tau") && table.contains("2 of 2"), "{table}");
    assert!(table.contains("The reference against itself with another seed: tau "), "{table}");
    assert!(!table.contains("own futures"), "not asked for: {table}");
}

#[test]
fn requests_that_make_no_sense_are_named_before_a_model_is_loaded() {
    let folder = scratch();
    let path = |name: &str| -> PathBuf { folder.path().join(name) };
    fs::write(path("foreturn.toml"), CONFIG).expect("a file");
    fs::write(path("texts.json"), TEXTS).expect("a file");
    let broken = REQUESTS.replace("\"What?\"", "\"\"");
    let list = format!("[{}]", broken.trim_end().replace('\n', ",\n"));
    for (name, text, said) in [
        ("r.jsonl", broken.as_str(), "r.jsonl, line 2: conversation[0].content is empty"),
        ("r.json", &list, "r.json[1]: conversation[0].content is empty"),
        ("none.jsonl", "\n", "none.jsonl: there are no requests"),
    ] {
        fs::write(path(name), text).expect("a file");
        let paths = ["none", "none", "texts.json", "foreturn.toml", name].map(|name| path(name).display().to_string());
        let options = ["--reference", "--model", "--texts", "--config", "--request"];
        let arguments: Vec<&str> = options.iter().zip(&paths).flat_map(|(option, path)| [*option, path]).collect();
        let output = compare(&arguments);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && message.contains(said), "{message}");
    }
}
