//! The tiny models of `tests/fixtures/models` and what others compute with them.
//!
//! `NAME/checkpoint` holds a checkpoint, `NAME/model.gguf` the same as llama.cpp's converter would write it,
//! `NAME/exports/EXPORTER` what other exporters made of it, `NAME/reference.json` what transformers computes, and
//! `reference.json` beside a foreign export what ONNX Runtime computes with that very file.

use std::fs;
use std::path::{Path, PathBuf};

use foreturn::Engine;
use foreturn::chat::Message;
use foreturn::export::{ExportOptions, TensorType, export};
use foreturn::model::tokenizer::EncodedText;
use foreturn::score::{Score, ScoreInput, ScoreOutput, ScoreTask, Scores};
use serde::Deserialize;
use serde_json::Value;

/// What a model is held to.
#[derive(Deserialize)]
pub(crate) struct Reference {
    #[serde(default)]
    pub(crate) kind: String,
    /// The folder of `tokenizers` whose files belong to the model.
    #[serde(default)]
    pub(crate) tokenizer: String,
    #[serde(default)]
    pub(crate) labels: Vec<String>,
    /// Largest difference of a log-probability or a score; absent where weights are quantised.
    pub(crate) tolerance: Option<f64>,
    /// Mean difference of log-probabilities that ONNX Runtime shows against itself, whole or token by token.
    #[serde(default)]
    pub(crate) noise: f64,
    pub(crate) cases: Vec<Case>,
}

#[derive(Deserialize)]
pub(crate) struct Case {
    #[serde(default)]
    pub(crate) name: String,
    pub(crate) tokens: Vec<u32>,
    /// Of `tokens[1..]`.
    #[serde(default)]
    pub(crate) logprobs: Vec<f64>,
    /// The likeliest continuation; absent where it hangs on a rounding.
    pub(crate) greedy: Option<Vec<u32>>,
    #[serde(default)]
    pub(crate) messages: Vec<Message>,
    pub(crate) text: Option<String>,
    pub(crate) pair: Option<String>,
    #[serde(default)]
    pub(crate) token_type_ids: Vec<u32>,
    /// One a label, or a list of them for each token.
    #[serde(default)]
    pub(crate) scores: Value,
    #[serde(default)]
    pub(crate) embedding: Vec<f64>,
    /// The positive label's probability at each marker.
    #[serde(default)]
    pub(crate) steps: Vec<f64>,
}

/// `tests/fixtures/models`, or something in it.
pub(crate) fn fixtures(path: impl AsRef<Path>) -> PathBuf {
    super::root().join("tests/fixtures/models").join(path)
}

/// Reads a reference.
pub(crate) fn reference(path: &Path) -> Reference {
    let text = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The checkpoint `name` with its tokenizer, exported to `folder/name`.
pub(crate) fn exported(folder: &Path, name: &str) -> PathBuf {
    exported_in(folder, name, TensorType::Float32)
}

/// The same, with matrices of this type.
pub(crate) fn exported_in(folder: &Path, name: &str, dtype: TensorType) -> PathBuf {
    let (from, to) = (folder.join(format!("{name}-checkpoint")), folder.join(name));
    copy(&fixtures(name).join("checkpoint"), &from);
    let tokenizer = reference(&fixtures(name).join("reference.json")).tokenizer;
    copy(&fixtures("tokenizers").join(tokenizer), &from);
    let options = ExportOptions { dtype, ..ExportOptions::new(&from, &to) };
    export(&options, &mut |_| ()).unwrap_or_else(|e| panic!("{name}: {e}"));
    to
}

/// Two tiny models in `folder`: `llama`, and `user`, whose chat template opens the user's turn, as UserLM's does.
pub(crate) fn with_user(folder: &Path) {
    let plain = exported(folder, "llama");
    let user = folder.join("user");
    copy(&plain, &user);
    let template = fixtures("../user_lm/chat_template.jinja");
    fs::copy(template, user.join("chat_template.jinja")).expect("the template");
}

/// Copies the files of a folder, and of those in it.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap_or_else(|e| panic!("{}: {e}", to.display()));
    for entry in fs::read_dir(from).unwrap_or_else(|e| panic!("{}: {e}", from.display())) {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        match path.is_dir() {
            true => copy(&path, &target),
            false => drop(fs::copy(&path, &target).unwrap_or_else(|e| panic!("{}: {e}", path.display()))),
        }
    }
}

/// Scores or embeds with a model.
pub(crate) fn outputs(engine: &Engine, model: &str, inputs: Vec<ScoreInput>, task: ScoreTask) -> Vec<ScoreOutput> {
    let pending =
        engine.model(model).expect("a model").submit_score(inputs, task).unwrap_or_else(|e| panic!("{model}: {e}"));
    let scored = pending.wait().unwrap_or_else(|e| panic!("{model}: {e}"));
    scored.into_iter().map(|scored| scored.output).collect()
}

impl Case {
    /// The very tokens that the reference was computed from.
    pub(crate) fn input(&self) -> ScoreInput {
        ScoreInput::Tokens(EncodedText { tokens: self.tokens.clone(), types: self.token_type_ids.clone() })
    }

    /// The reference's scores one after another, or its embedding.
    pub(crate) fn numbers(&self) -> Vec<f64> {
        if self.embedding.is_empty() { flat(&self.scores) } else { self.embedding.clone() }
    }
}

impl Reference {
    /// What is read off such a model.
    pub(crate) fn task(&self) -> ScoreTask {
        if self.kind == "embedding" { ScoreTask::Embedding } else { ScoreTask::Labels }
    }
}

/// The numbers of an output one after another.
pub(crate) fn numbers(output: &ScoreOutput) -> Vec<f64> {
    let floats: Vec<f32> = match output {
        ScoreOutput::Labels(Score { scores: Scores::Text(row), .. }) | ScoreOutput::Embedding(row) => row.clone(),
        ScoreOutput::Labels(Score { scores: Scores::Tokens(rows), .. }) => rows.concat(),
        other => panic!("{other:?}"),
    };
    floats.into_iter().map(f64::from).collect()
}

pub(crate) fn flat(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(flat).collect(),
        number => vec![number.as_f64().expect("a number")],
    }
}

pub(crate) fn close(one: &[f64], other: &[f64], tolerance: f64, what: &str) {
    assert_eq!(one.len(), other.len(), "{what}");
    for (at, (a, b)) in one.iter().zip(other).enumerate() {
        assert!((a - b).abs() <= tolerance, "{what}: number {at} is {a}, not {b}");
    }
}
