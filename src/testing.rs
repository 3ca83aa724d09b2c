//! What unit tests share: the real model and the runtime that `make test` fetched.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

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
    let open = || Arc::new(ModelFolder::open(&target("models/smollm2-135m-instruct")).expect("the model opens"));
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
