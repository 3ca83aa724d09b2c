//! An exported model folder: its contents, its graph rewritten for the paged engine, and its tokenizer.
//!
//! [`ModelFolder::open`] finds the graph (`find`), reads it, checks that it is consistent and that every external
//! tensor fits its file (`check`, `tensor`, `external`), decides which path runs it (`layout`), rewrites it in memory
//! if that is the paged path (`rewrite`), and builds the [`tokenizer`]. Nothing is loaded into ONNX Runtime yet, so
//! mistakes are found early and cheaply.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

mod check;
pub(crate) mod config;
mod external;
mod find;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub(crate) mod graph;
pub mod head;
pub mod inspect;
pub(crate) mod layout;
mod options;
pub(crate) mod rewrite;
mod same;
pub(crate) mod shared;
pub(crate) mod source;
pub(crate) mod target;
pub(crate) mod tensor;
#[cfg(test)]
pub(crate) mod testing;
pub mod tokenizer;
pub(crate) mod weights;

pub use head::{Head, HeadKind, Pooling};
pub use inspect::Inspection;
pub use options::{Batching, CacheType, Dtype, ModelKind, OpenOptions};

use self::config::FolderConfig;
use self::find::Place;
use self::graph::GraphFile;
use self::layout::{Layout, PreparedGraph};
use self::rewrite::precision::{self, Converted};
use self::shared::Slot;
use self::target::Target;
use self::tokenizer::Tokenizer;
use self::weights::Unread;
use crate::kernels::attention::layout::Heads;
use crate::kernels::matmul::{Packed, Spare};
use crate::runtime::session::{InMemory, Values};
use crate::runtime::{Provider, ProviderReport, RuntimeOptions, providers};
use crate::{Error, ErrorKind, Result};

/// A model folder that was read and checked. Its graph is ready for the path that runs it, but nothing is loaded into
/// ONNX Runtime yet.
pub struct ModelFolder {
    path: PathBuf,
    config: FolderConfig,
    file: GraphFile,
    layout: Layout,
    tokenizer: Arc<Tokenizer>,
    provider: ProviderReport,
    /// The weights of its files, which all who load them share.
    packed: Slot<Packed>,
    /// Memory of weights that were given for its graph.
    spare: Arc<Spare>,
    converted: Slot<Values>,
}

impl std::fmt::Debug for ModelFolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelFolder").field("path", &self.path).field("config", &self.config).finish_non_exhaustive()
    }
}

impl ModelFolder {
    /// Reads the folder at `path`, or the folder of the graph at `path`.
    ///
    /// # Errors
    /// [`InvalidModel`](crate::ErrorKind::InvalidModel) if files are missing, cut off or don't fit together;
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if no path of the engine can run the graph.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, OpenOptions::default())
    }

    /// Like [`ModelFolder::open`], with options for running it.
    ///
    /// # Errors
    /// As [`ModelFolder::open`].
    pub fn open_with(path: impl AsRef<Path>, options: OpenOptions) -> Result<Self> {
        Self::open_for(path.as_ref(), options, Target::cpu())
    }

    /// Like [`ModelFolder::open_with`], for the first provider of `runtime` that can run it. It is shared with those in this
    /// process who opened the same.
    ///
    /// # Errors
    /// As [`ModelFolder::open`], or no provider can be had; see [`OnUnavailable`](crate::runtime::OnUnavailable).
    pub fn open_on(path: impl AsRef<Path>, options: OpenOptions, runtime: &RuntimeOptions) -> Result<Arc<Self>> {
        let path = path.as_ref();
        providers::choose(runtime, |report| {
            match Self::open_shared(path, options, report) {
                // Another provider may do what this one lacks.
                Err(e) if e.kind() == ErrorKind::Unsupported && report.used != Provider::Cpu => Ok(Err(e)),
                opened => opened.map(Ok),
            }
        })
    }

    /// Opens another folder for the provider that runs this one.
    pub(crate) fn open_alike(&self, path: &Path, options: OpenOptions) -> Result<Arc<Self>> {
        Self::open_shared(path, options, &self.provider)
    }

    /// Like [`ModelFolder::open_with`], for running on `target`.
    pub(crate) fn open_for(path: &Path, options: OpenOptions, target: Target) -> Result<Self> {
        let Place { folder, graph, config } = find::find(path)?;
        // Neither needs the other.
        let (graph, tokenizer) = thread::scope(|scope| {
            let load = || Tokenizer::load(&folder, config.model.vocab_size);
            let tokenizer = crate::thread::spawn_scoped(scope, "foreturn-load", "to load the tokenizer", load);
            let graph = GraphFile::read(&graph)
                .and_then(|file| layout::detect(&file, &config, options, target).map(|layout| (file, layout)));
            (graph, tokenizer.and_then(crate::thread::join))
        });
        let ((file, layout), tokenizer) = (graph?, tokenizer?);
        let provider = ProviderReport::only(target.provider);
        Ok(ModelFolder {
            path: folder,
            config,
            file,
            layout,
            tokenizer: Arc::new(tokenizer),
            provider,
            packed: Slot::default(),
            spare: Arc::default(),
            converted: Slot::default(),
        })
    }

    /// The engine's path that runs it.
    pub fn kind(&self) -> ModelKind {
        match self.layout.runner {
            PreparedGraph::Paged(_) => ModelKind::PagedDecoder,
            PreparedGraph::Padded(_) => ModelKind::PaddedDecoder,
            PreparedGraph::Classifier(_) => ModelKind::Classifier,
        }
    }

    /// The meaning of a row of its output; `None` for language models, whose rows are logits over the vocabulary.
    pub fn head(&self) -> Option<&Head> {
        self.layout.head.as_ref()
    }

    /// Numbers in a row of its output.
    pub(crate) fn row_width(&self) -> usize {
        self.head().map_or(self.config.model.vocab_size, |head| head.size)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The provider that it is made for.
    pub(crate) fn provider(&self) -> &ProviderReport {
        &self.provider
    }

    /// Its tokenizer and chat template.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// Maximum number of tokens in a sequence: the configured context, the number of rows in the rotary tables if that
    /// is smaller, or the maximum of the head's checkpoint.
    pub fn context_length(&self) -> usize {
        let positions = match &self.layout.runner {
            PreparedGraph::Paged(paged) => paged.shape.positions,
            // Beyond that length, chunks would use different rotary tables, or all the wrong ones.
            PreparedGraph::Padded(padded) => match padded.grouped {
                true => rewrite::rope::original_length(self.file.graph()),
                false => self.config.one_rope(),
            },
            PreparedGraph::Classifier(_) => None,
        };
        let configured = match (&self.layout.runner, &self.config.head) {
            // Exports of encoders have it themselves. Encoders with only relative positions have no bound.
            (PreparedGraph::Classifier(_), Some(_)) => i32::MAX as usize,
            _ => self.config.model.context_length,
        };
        let bounds = [positions, self.head().and_then(|head| head.max_length)];
        bounds.into_iter().flatten().fold(configured, usize::min)
    }

    /// Refuses a text by its size in bytes, if it would not fit the context even if each of its tokens were the longest
    /// of the vocabulary. Without this check, the cost of tokenising would be unbounded. `what` names the text.
    ///
    /// # Errors
    /// [`ContextLength`](ErrorKind::ContextLength), with the numbers.
    pub(crate) fn check_bytes(&self, what: impl std::fmt::Display, bytes: usize) -> Result<()> {
        /// Some normalizers drop characters, and an unknown word can be one token.
        const LEAST: usize = 64;
        let context = self.context_length();
        if bytes <= context.saturating_mul(LEAST) {
            return Ok(());
        }
        let longest = self.tokenizer.longest_token().max(LEAST);
        if bytes <= context.saturating_mul(longest) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::ContextLength,
            format!(
                "{what}: {bytes} bytes can't fit the context of {context} tokens of {}, each of which stands for at most \
                 {longest} bytes. Shorten the text or use a model with a longer context",
                self.path.display()
            ),
        ))
    }

    /// Longest sequence that uses the first kind of rotary tables, if there are two kinds.
    pub(crate) fn longest_short(&self) -> Option<usize> {
        match &self.layout.runner {
            PreparedGraph::Paged(paged) => paged.long_rope.map(|rope| rope.original),
            PreparedGraph::Padded(_) | PreparedGraph::Classifier(_) => None,
        }
    }

    /// Bytes of key-value cache per block of tokens, over all layers; 0 for classifiers.
    pub(crate) fn block_bytes(&self) -> usize {
        match &self.layout.runner {
            PreparedGraph::Paged(paged) => {
                let shape = paged.shape;
                let heads = Heads { query: shape.query_heads, kv: shape.kv_heads, size: shape.head_size };
                shape.layers * 2 * paged.cache.block_bytes(heads, paged.target.block_size)
            }
            PreparedGraph::Padded(padded) => padded.block_bytes(),
            PreparedGraph::Classifier(_) => 0,
        }
    }

    /// Tokens per cache block; 1 if there is no cache.
    pub(crate) fn block_size(&self) -> usize {
        match &self.layout.runner {
            PreparedGraph::Paged(paged) => paged.target.block_size,
            PreparedGraph::Padded(padded) => padded.block_size,
            PreparedGraph::Classifier(_) => 1,
        }
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

    /// A description of the folder's contents and of how it will run.
    pub fn inspect(&self) -> Inspection {
        inspect::inspect(self)
    }

    pub(crate) fn config(&self) -> &FolderConfig {
        &self.config
    }

    pub(crate) fn file(&self) -> &GraphFile {
        &self.file
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn runner(&self) -> &PreparedGraph {
        &self.layout.runner
    }

    /// The graph for ONNX Runtime if it was not rewritten, and the weights that it needs in memory.
    pub(crate) fn plain_graph(&self) -> Result<(Cow<'_, [u8]>, Option<InMemory>)> {
        self.file.check_unchanged()?;
        let weights = Unread::of(self.file.graph(), &|_| true).map_err(|e| e.context(self.file.path.display()))?;
        weights.check(&self.file.data_folder)?;
        let Some(widened) = &self.layout.widened else { return Ok((self.file.encode().into(), None)) };
        let weights = match widened.weights.is_empty() {
            true => None,
            false => Some(self.converted(&widened.weights)?),
        };
        Ok((widened.bytes.as_slice().into(), weights))
    }

    /// The products' weights of its files, packed by `pack` unless somebody has them.
    pub(crate) fn packed(&self, pack: impl FnOnce() -> Result<Packed>) -> Result<Arc<Packed>> {
        self.packed.get(pack)
    }

    /// The memory of packed weights that were given for its graph and are gone.
    pub(crate) fn spare(&self) -> Arc<Spare> {
        Arc::clone(&self.spare)
    }

    /// The other weights of its files in the precision of the graph, unless somebody has them.
    pub(crate) fn converted(&self, converted: &Converted) -> Result<InMemory> {
        let values = self.converted.get(|| converted.read(&self.file.data_folder).map(Values))?;
        Ok((precision::LOCATION, values))
    }

    /// The error for a folder of the wrong kind.
    pub(crate) fn not_a(&self, wanted: &str) -> Error {
        Error::invalid_request(format!(
            "{} holds a {} graph, not {wanted}. Give another model, or ask for another task",
            self.path.display(),
            self.layout.name
        ))
    }
}

#[cfg(test)]
mod tests;
