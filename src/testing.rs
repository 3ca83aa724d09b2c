//! Shared parts of unit tests: the real model and the runtime that `make test` fetched.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::export::{ExportOptions, Quantize, TensorType, export};
use crate::model::ModelFolder;
use crate::runtime::RuntimeOptions;

fn target(path: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target").join(path);
    assert!(
        path.exists(),
        "{} is missing; run `make test`, which fetches and exports what the tests need",
        path.display()
    );
    path
}

/// SmolLM2-135M-Instruct in float32.
pub(crate) fn smollm2() -> Arc<ModelFolder> {
    static MODEL: OnceLock<Arc<ModelFolder>> = OnceLock::new();
    let open = || Arc::new(ModelFolder::open(target("models/smollm2-135m-instruct")).expect("the model opens"));
    Arc::clone(MODEL.get_or_init(open))
}

/// The fetched ONNX Runtime with this many threads.
pub(crate) fn runtime(threads: usize) -> RuntimeOptions {
    RuntimeOptions { library: Some(target("onnxruntime/lib")), threads, ..RuntimeOptions::default() }
}

/// A committed fixture.
pub(crate) fn fixture(path: &str) -> serde_json::Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A checkpoint of tests/fixtures/models, exported to a folder that is removed when the first value is dropped.
pub(crate) fn exported(name: &str, quantize: Quantize) -> (tempfile::TempDir, PathBuf) {
    exported_with(name, quantize, |_| {})
}

/// As [`exported`], of a checkpoint that was changed.
pub(crate) fn exported_with(
    name: &str,
    quantize: Quantize,
    change: impl FnOnce(&Path),
) -> (tempfile::TempDir, PathBuf) {
    exported_as(name, (quantize, TensorType::Float32), change)
}

/// As [`exported_with`], with matrices of this type where they are not quantised.
pub(crate) fn exported_as(
    name: &str,
    (quantize, dtype): (Quantize, TensorType),
    change: impl FnOnce(&Path),
) -> (tempfile::TempDir, PathBuf) {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoint = folder.path().join("checkpoint");
    std::fs::create_dir(&checkpoint).expect("made");
    for from in [models.join(name).join("checkpoint"), models.join("tokenizers/bytes")] {
        for file in std::fs::read_dir(&from).expect("a folder").map(|file| file.expect("a file")) {
            std::fs::copy(file.path(), checkpoint.join(file.file_name())).expect("copied");
        }
    }
    change(&checkpoint);
    let to = folder.path().join("model");
    let options = ExportOptions { quantize, dtype, ..ExportOptions::new(&checkpoint, &to) };
    export(&options, &mut |_| {}).expect("exported");
    (folder, to)
}
