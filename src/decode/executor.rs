//! Steps on a real model: one session over the rewritten graph, its caches bound in place.

use ndarray::{ArrayView2, s};

use super::attention::kernel::Heads;
use super::attention::{self, BLOCK_SIZE};
use super::step::{Executor, Step};
use crate::model::ModelFolder;
use crate::model::inspect::block_bytes;
use crate::model::rewrite::names;
use crate::runtime::memory::Buffer;
use crate::runtime::session::{Graph, Session};
use crate::runtime::{ProviderReport, RuntimeOptions};
use crate::{Error, ErrorKind, Result};

/// A loaded model with its key-value cache.
pub(crate) struct PagedExecutor {
    // The session reads the pool: it is declared, and so dropped, first.
    session: Session,
    pool: Buffer,
    /// Bytes of one block in one cache of one layer.
    block: usize,
    /// Bytes of one cache of one layer.
    cache: usize,
    caches: usize,
    vocabulary: usize,
    /// The model's folder, for messages.
    name: String,
    token_input: String,
    position_input: Option<String>,
    logits: String,
}

impl PagedExecutor {
    /// Loads the model with a cache of `blocks` blocks.
    pub(crate) fn load(folder: &ModelFolder, blocks: usize, options: &RuntimeOptions) -> Result<Self> {
        let config = &folder.config().model;
        let shape = folder.shape();
        let heads = Heads { query: shape.query_heads, kv: shape.kv_heads, size: shape.head_size };
        let name = folder.path().display().to_string();
        let graph = Graph { bytes: &folder.paged().bytes, folder: &folder.file().data_folder, name: &name };
        let mut session = Session::open(&graph, attention::domain, options)?;

        let block = heads.block_floats() * size_of::<f32>();
        let cache = block * blocks;
        let pool = Buffer::reserve(cache * 2 * shape.layers)?;
        let dims = [blocks, BLOCK_SIZE, heads.kv, heads.stored()].map(|n| n as i64);
        for layer in 0..shape.layers {
            session.bind(&names::key_cache(layer), &pool.tensor_f32(cache * 2 * layer, &dims)?)?;
            session.bind(&names::value_cache(layer), &pool.tensor_f32(cache * (2 * layer + 1), &dims)?)?;
        }
        let inputs = &config.decoder.inputs;
        Ok(PagedExecutor {
            session,
            pool,
            block,
            cache,
            caches: 2 * shape.layers,
            vocabulary: config.vocab_size,
            name,
            token_input: inputs.input_ids.clone(),
            position_input: folder.paged().takes_positions.then(|| inputs.position_ids.clone()),
            logits: config.decoder.outputs.logits.clone(),
        })
    }

    pub(crate) fn provider(&self) -> &ProviderReport {
        self.session.provider()
    }

    /// Overwrites the cache with NaN, so that a test can show that nothing stale is ever used.
    #[cfg(test)]
    pub(crate) fn poison(&mut self) {
        self.pool.fill(0xff);
    }
}

/// How many blocks of a model's cache fit into `bytes`.
///
/// # Errors
/// Not even one does.
pub(crate) fn blocks_within(folder: &ModelFolder, bytes: usize) -> Result<usize> {
    let block = block_bytes(folder);
    match bytes / block {
        0 => Err(Error::new(
            ErrorKind::MemoryBudget,
            format!(
                "runtime.kv_cache: {bytes} bytes don't hold one block of {block} bytes ({BLOCK_SIZE} tokens) of {}",
                folder.path().display()
            ),
        )),
        blocks => Ok(blocks),
    }
}

impl Executor for PagedExecutor {
    fn copy_block(&mut self, from: u32, to: u32) {
        for cache in 0..self.caches {
            let at = |block: u32| cache * self.cache + block as usize * self.block;
            self.pool.copy_within(at(from), at(to), self.block);
        }
    }

    fn run(&mut self, step: &Step, read: &mut dyn FnMut(ArrayView2<'_, f32>)) -> Result<()> {
        let (tokens, sequences, rows) = (step.tokens.len(), step.sequences(), step.logit_rows.len());
        let session = &mut self.session;
        session.set(&self.token_input, &[1, tokens], step.tokens.clone())?;
        if let Some(name) = &self.position_input {
            session.set(name, &[1, tokens], step.positions.clone())?;
        }
        session.set(names::CUMULATIVE, &[sequences + 1], step.cumulative.clone())?;
        session.set(names::PAST, &[sequences], step.past.clone())?;
        session.set(names::BLOCK_TABLE, &[sequences, step.block_table.len() / sequences], step.block_table.clone())?;
        session.set(names::SLOTS, &[tokens], step.slots.clone())?;
        // An empty Gather is not worth relying on: one row more is computed and not read.
        let wanted = if rows == 0 { vec![0] } else { step.logit_rows.clone() };
        let computed = wanted.len();
        session.set(names::LOGIT_ROWS, &[computed], wanted)?;
        let vocabulary = self.vocabulary;
        let checked = session.run(&self.logits, |logits| {
            let width = logits.shape().last().copied().unwrap_or(0);
            // More logits than expected would be read at the wrong places, so they are as wrong as fewer.
            match logits.into_shape_with_order((computed, vocabulary)) {
                Ok(logits) => {
                    read(logits.slice_move(s![..rows, ..]));
                    Ok(())
                }
                Err(_) => Err(width),
            }
        })?;
        checked.map_err(|width| {
            Error::invalid_model(format!(
                "{}/genai_config.json: model.vocab_size is {vocabulary}, but the model gave {width} logits a row. Correct \
                 it, or export the model again",
                self.name
            ))
        })
    }
}
