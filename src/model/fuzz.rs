//! Entry points for the fuzzers in `fuzz/`: the reader of graphs, without the file system around it.

use serde_json::json;

use super::config::FolderConfig;
use super::graph::{self, GraphFile};
use super::layout;
use super::target::Target;
use super::{Batching, OpenOptions};

/// The configuration in a model's folder: `genai_config.json`, or `config.json`.
pub fn configuration(folder: &std::path::Path) {
    if let Ok(config) = FolderConfig::read(folder) {
        let _ = (config.row_width(), config.layers(), config.query_heads(), config.kv_heads(), config.one_rope());
        let _ = (config.is_language_model(), config.sentence_pooling(), config.classification_head(true, Some(4)));
    }
}

/// A serialised graph: read, checked, and made ready for the path that would run it.
pub fn graph(data: &[u8]) {
    let Ok((model, loops)) = graph::parse(data) else { return };
    let config = FolderConfig::of(json!({"vocab_size": 320, "max_position_embeddings": 512})).expect("two sizes");
    let file = GraphFile::unfiled(model, loops);
    for batching in [Batching::Auto, Batching::Padded] {
        let options = OpenOptions { batching, ..OpenOptions::default() };
        // Success and error are both fine. A panic is not.
        drop(layout::detect(&file, &config, options, Target::cpu()));
    }
}
