//! What the benches share: the model and the runtime that `make bench` fetched.

use std::path::PathBuf;

use foreturn::config::{ByteSize, RuntimeConfig};

/// SmolLM2-135M-Instruct in float32.
pub(crate) fn model() -> PathBuf {
    target("models/smollm2-135m-instruct")
}

/// ONNX Runtime by ORT_DYLIB_PATH, else the fetched one; a cache that is soon full, so that evictions are part of what
/// is measured and memory stays bounded.
#[allow(dead_code, reason = "not every bench runs the model")]
pub(crate) fn runtime() -> RuntimeConfig {
    let library = std::env::var_os("ORT_DYLIB_PATH").is_none().then(|| target("onnxruntime/lib"));
    RuntimeConfig { library, kv_cache: Some(ByteSize(128 << 20)), ..RuntimeConfig::default() }
}

fn target(path: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target").join(path);
    assert!(path.exists(), "{} is missing: run `make bench`, which fetches and exports it", path.display());
    path
}
