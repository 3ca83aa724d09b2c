//! `foreturn compare`: what a quantised export is from its reference, and that a model differs in nothing from itself.

mod common;

use std::fs;
use std::process::Command;

use common::models::{copy, exported, fixtures};
use common::{runtime_path, scratch};
use foreturn::export::{ExportOptions, Quantize, export};
use serde_json::Value;

const CONFIG: &str =
    "[models.any]\npath = \"nowhere\"\n[rollout]\nwindow = 0\nsamples = 1\n[[metrics]]\nkind = \"token_amount\"\n";
const REQUEST: &str =
    r#"{"conversation": [{"role": "user", "content": "Hi"}], "candidates": ["Yes.", "No, not at all."]}"#;
const TEXTS: &str = r#"["The sea is wide.", [{"role": "user", "content": "Is it so?"}]]"#;

#[test]
fn a_quantised_model_is_compared_with_its_reference() {
    let folder = scratch();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let reference = exported(folder.path(), "llama");
    let int8 = folder.path().join("int8");
    copy(&fixtures("tokenizers/bytes"), &folder.path().join("llama-checkpoint"));
    let options =
        ExportOptions { quantize: Quantize::Int8, ..ExportOptions::new(folder.path().join("llama-checkpoint"), &int8) };
    export(&options, &mut |_| ()).expect("an export");
    let [reference, int8] = [reference, int8].map(|path| path.display().to_string());

    let output = Command::new(env!("CARGO_BIN_EXE_foreturn"))
        .env("ORT_DYLIB_PATH", runtime_path())
        .args(["compare", "--json", "--new-tokens", "6", "--reference", &reference, "--model", &reference])
        .args(["--model", &int8, "--texts", &file("texts.json", TEXTS)])
        .args(["--config", &file("foreturn.toml", CONFIG), "--request", &file("request.json", REQUEST)])
        .output()
        .expect("the command runs");
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
    for model in 0..2 {
        // Without futures, the order is that of the responses' lengths.
        assert_eq!(number(&format!("/models/{model}/ranking/tau")), 1.0);
        assert_eq!(number(&format!("/models/{model}/ranking/same_best")), 1.0);
    }
    assert_eq!(number("/chance/mean_change"), 0.0);
}
