//! An exported model folder: what it holds, its graph rewritten for the paged engine, its tokenizer.

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) mod config;
pub(crate) mod graph;
pub mod inspect;
pub(crate) mod rewrite;
pub mod tokenizer;

pub use inspect::Inspection;

use self::config::GenaiConfig;
use self::graph::GraphFile;
use self::rewrite::{AttentionShape, PagedGraph};
use self::tokenizer::Tokenizer;
use crate::{Error, Result};

/// A model folder, read and checked, with its graph rewritten; nothing is loaded into ONNX Runtime yet.
pub struct ModelFolder {
    path: PathBuf,
    config: GenaiConfig,
    file: GraphFile,
    paged: PagedGraph,
    tokenizer: Arc<Tokenizer>,
}

impl ModelFolder {
    /// Reads the folder at `path`.
    ///
    /// # Errors
    /// [`InvalidModel`](crate::ErrorKind::InvalidModel) when files are missing, cut off or don't fit together;
    /// [`Unsupported`](crate::ErrorKind::Unsupported) when the graph uses what the paged engine can't run.
    pub fn open(path: &Path) -> Result<Self> {
        if !path.is_dir() {
            let what = if path.exists() { "is not a folder" } else { "does not exist" };
            return Err(Error::invalid_model(format!(
                "model folder {} {what}. Give a folder written by `foreturn export`",
                path.display()
            )));
        }
        let config = GenaiConfig::read(path)?;
        let graph = path.join(&config.model.decoder.filename);
        let file = GraphFile::read(&graph)?;
        let paged = rewrite::rewrite(&file, &config.model)?;
        let tokenizer = Tokenizer::load(path, config.model.vocab_size)?;
        Ok(ModelFolder { path: path.to_path_buf(), config, file, paged, tokenizer: Arc::new(tokenizer) })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its tokenizer and chat template.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// Most tokens of a sequence: the configured context, or the rotary tables' rows where they are fewer.
    pub fn context_length(&self) -> usize {
        let configured = self.config.model.context_length;
        self.paged.shape.positions.map_or(configured, |rows| rows.min(configured))
    }

    /// Tokens that end a turn.
    pub fn stop_tokens(&self) -> Vec<u32> {
        let mut ids = self.config.model.eos_token_id.to_vec();
        ids.extend(self.tokenizer.eos_token());
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Hash of the graph and of samples of its weights.
    pub fn fingerprint(&self) -> &str {
        &self.file.fingerprint
    }

    /// What the folder holds and how it will run.
    pub fn inspect(&self) -> Inspection {
        inspect::inspect(self)
    }

    pub(crate) fn config(&self) -> &GenaiConfig {
        &self.config
    }

    pub(crate) fn file(&self) -> &GraphFile {
        &self.file
    }

    pub(crate) fn paged(&self) -> &PagedGraph {
        &self.paged
    }

    pub(crate) fn shape(&self) -> AttentionShape {
        self.paged.shape
    }
}
