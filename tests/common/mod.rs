//! Shared by the tests of the library and of the command: the runtime and the model that `make test` fetched, engines on
//! them, and copies of the model folder with something changed.
#![allow(dead_code, reason = "each test program uses its part")]

pub(crate) mod models;
pub(crate) mod openai_server;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use foreturn::chat::{Message, Role};
use foreturn::model::ModelFolder;
use foreturn::{Config, Engine};
use serde_json::Value;
use tempfile::TempDir;

/// The name that test configurations give the model.
pub(crate) const MODEL: &str = "smollm2";

/// The repository's root; the command's tests share this file, and their package is one folder further down.
pub(crate) fn root() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().find(|folder| folder.join("Cargo.lock").exists()).expect("the repository's root")
}

/// Something below `target/` that `make test` puts there.
fn fetched(path: &str) -> PathBuf {
    let path = root().join("target").join(path);
    assert!(
        path.exists(),
        "{} is missing; run `make test`, which fetches and exports what the tests need",
        path.display()
    );
    path
}

/// Something below `target/downloads/` that `make test` fetches where it can; `None`, with a word about it, where it was
/// left out. CI may not do without.
#[allow(clippy::print_stderr, reason = "a test that is skipped says so")]
pub(crate) fn optional(path: &str, remedy: &str) -> Option<PathBuf> {
    let path = root().join("target/downloads").join(path);
    if path.exists() {
        return Some(path);
    }
    let hint = format!("{} is missing: {remedy}", path.display());
    assert!(std::env::var_os("CI").is_none(), "{hint}");
    eprintln!("skipped: {hint}");
    None
}

/// SmolLM2-135M-Instruct in float32.
pub(crate) fn model_path() -> PathBuf {
    fetched("models/smollm2-135m-instruct")
}

/// The folder of ONNX Runtime's library.
pub(crate) fn runtime_path() -> PathBuf {
    fetched("onnxruntime/lib")
}

/// The model's folder, read once.
pub(crate) fn folder() -> &'static ModelFolder {
    static FOLDER: OnceLock<ModelFolder> = OnceLock::new();
    FOLDER.get_or_init(|| ModelFolder::open(model_path()).expect("the model opens"))
}

/// A configuration with the model in every role; `rest` comes before the sections that are the same in all tests.
pub(crate) fn config(rest: &str) -> Config {
    config_with(&model_path(), rest)
}

/// As [`config`], with another folder.
pub(crate) fn config_with(model: &Path, rest: &str) -> Config {
    let toml = format!("{rest}\n[models.{MODEL}]\npath = {:?}\n", model.display().to_string());
    let mut config = Config::from_toml(&toml, Path::new("/")).unwrap_or_else(|e| panic!("{e}\n{toml}"));
    config.runtime.library = Some(runtime_path());
    config
}

/// An engine of its own for one test. Such tests run one after the other: each engine holds a copy of the weights, and
/// what they measure should not depend on their neighbours.
pub(crate) struct Fresh {
    pub(crate) engine: Engine,
    pub(crate) _turn: MutexGuard<'static, ()>,
}

pub(crate) fn fresh(config: Config) -> Fresh {
    let turn = turn();
    Fresh { engine: Engine::new(config).expect("an engine"), _turn: turn }
}

/// Waits until no other test holds an engine of its own.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn user(text: &str) -> Message {
    Message::new(Role::User, text)
}

/// Tokens that have to be computed when these prompts are read one after the other and every shared prefix is computed
/// once: the edges of their trie, and the last token of a prompt that an earlier one already holds, because its logits
/// are wanted.
pub(crate) fn tokens_to_compute(prompts: &[Vec<u32>]) -> u64 {
    let mut trie: BTreeSet<&[u32]> = BTreeSet::new();
    let mut computed = 0;
    for prompt in prompts {
        let new = (1..=prompt.len()).filter(|&end| trie.insert(&prompt[..end])).count();
        computed += new.max(1) as u64;
    }
    computed
}

/// An empty folder below `target/`, on the file system of the model, so that its files can be hard-linked.
pub(crate) fn scratch() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary folder")
}

/// A copy of the model folder in which files may be changed. The originals are hard-linked: a changed file is written
/// anew, never in place.
pub(crate) struct ModelCopy {
    folder: TempDir,
}

impl ModelCopy {
    pub(crate) fn new() -> Self {
        let folder = scratch();
        for entry in fs::read_dir(model_path()).expect("the model's files") {
            let from = entry.expect("an entry").path();
            link(&from, &folder.path().join(from.file_name().expect("a name")));
        }
        ModelCopy { folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn read(&self, file: &str) -> Vec<u8> {
        fs::read(self.path().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
    }

    pub(crate) fn remove(&self, file: &str) {
        fs::remove_file(self.path().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
    }

    pub(crate) fn write(&self, file: &str, contents: impl AsRef<[u8]>) {
        let path = self.path().join(file);
        if path.exists() {
            self.remove(file);
        }
        fs::write(&path, contents).unwrap_or_else(|e| panic!("{file}: {e}"));
    }

    /// Changes a JSON file.
    pub(crate) fn edit(&self, file: &str, change: impl FnOnce(&mut Value)) {
        let mut value = serde_json::from_slice(&self.read(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        change(&mut value);
        self.write(file, value.to_string());
    }
}

/// A second name for a file, or a copy where the file system has no hard links.
pub(crate) fn link(from: &Path, to: &Path) {
    let from = from.canonicalize().unwrap_or_else(|e| panic!("{}: {e}", from.display()));
    assert!(!to.exists(), "{} is there already", to.display());
    if fs::hard_link(&from, to).is_err() {
        fs::copy(&from, to).unwrap_or_else(|e| panic!("cannot copy {}: {e}", from.display()));
    }
}
