//! Steps on a real model: one session over the rewritten graph, its caches bound in place.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use ndarray::{ArrayView2, s};

use super::{Executor, Step, wrong_width};
use crate::decode::rope::Variant;
use crate::kernels;
use crate::kernels::PackError;
use crate::kernels::attention::layout::Heads;
use crate::kernels::matmul::pack::Part;
use crate::kernels::matmul::{Matrices, Packed};
use crate::model::ModelFolder;
use crate::model::rewrite::rope::LongRope;
use crate::model::rewrite::{PagedGraph, names};
use crate::model::source::{Files, Source, in_memory};
use crate::model::target::Cache;
use crate::runtime::memory::Buffer;
use crate::runtime::session::{Graph, Session};
use crate::runtime::{ProviderReport, RuntimeOptions, ort_error};
use crate::{Error, ErrorKind, Result, thread};

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
    /// Logits a row.
    width: usize,
    /// The model's folder and the file that says `width`, for messages.
    name: String,
    width_from: &'static str,
    token_input: String,
    position_input: Option<String>,
    /// True if token ids are a vector, and not a batch of one row.
    flat: bool,
    long_rope: Option<LongRope>,
    logits: String,
}

impl PagedExecutor {
    /// Loads the model, of which `paged` is the graph, with a cache of `blocks` blocks. Its weights come from `given`, or
    /// from the folder's files.
    pub(crate) fn load(
        folder: &ModelFolder,
        paged: &PagedGraph,
        given: Option<&dyn Source>,
        blocks: usize,
        options: &RuntimeOptions,
    ) -> Result<Self> {
        let Cache::Host(stored) = paged.cache else {
            return Err(Error::internal("a graph for a device was loaded on the CPU"));
        };
        let config = &folder.config().model;
        let shape = paged.shape;
        let heads = Heads { query: shape.query_heads, kv: shape.kv_heads, size: shape.head_size };
        let name = folder.path().display().to_string();
        let data = &folder.file().data_folder;
        let (bytes, memory) = match given {
            Some(source) => {
                let (bytes, memory) = in_memory(paged, folder.file().graph(), source)?;
                (Cow::Owned(bytes), Some(memory))
            }
            None => {
                folder.file().check_unchanged()?;
                paged.unread.check(data)?;
                let converted = &paged.converted;
                let memory = if converted.is_empty() { None } else { Some(folder.converted(converted)?) };
                (Cow::Borrowed(&*paged.bytes), memory)
            }
        };
        let graph = Graph {
            bytes: &bytes,
            folder: data,
            memory,
            loops: folder.file().loops,
            name: &name,
            report: folder.provider(),
        };
        let products = &paged.products;
        let shapes: Vec<_> = products.iter().map(|product| product.shape).collect();
        let files = Files(data);
        let source = given.unwrap_or(&files);
        let read = |index: usize, then: &mut dyn FnMut(&[Part<'_>])| products[index].read(source, then);
        let threads = options.effective_threads();
        let pack = || Packed::pack(&shapes, threads, read);
        // What was given is nobody else's.
        let packed = if given.is_some() { Arc::new(pack()?) } else { folder.packed(pack)? };
        let matrices = Matrices::new(packed, threads);
        let mut session = Session::open(
            &graph,
            || kernels::operators(stored, matrices).map_err(|e| ort_error("cannot register foreturn's operators", e)),
            options,
        )?;
        if given.is_none() {
            folder.file().check_unchanged()?;
        }

        let block = stored.block_bytes(heads);
        let cache = block * blocks;
        let pool = Buffer::reserve(cache * 2 * shape.layers)?;
        let dims = [blocks, paged.target.block_size, heads.kv, stored.row(heads)].map(|n| n as i64);
        let element = stored.element();
        for layer in 0..shape.layers {
            session.bind(&names::key_cache(layer), &pool.tensor(element, cache * 2 * layer, &dims)?)?;
            session.bind(&names::value_cache(layer), &pool.tensor(element, cache * (2 * layer + 1), &dims)?)?;
        }
        let inputs = &config.decoder.inputs;
        Ok(PagedExecutor {
            session,
            pool,
            block,
            cache,
            caches: 2 * shape.layers,
            width: folder.row_width(),
            name,
            width_from: folder.config().width_source(),
            token_input: inputs.input_ids.clone(),
            position_input: paged.takes_positions.then(|| inputs.position_ids.clone()),
            flat: paged.flat,
            long_rope: paged.long_rope,
            logits: config.decoder.outputs.logits.clone(),
        })
    }

    pub(crate) fn provider(&self) -> &ProviderReport {
        self.session.provider()
    }
}

impl From<PackError> for Error {
    fn from(error: PackError) -> Self {
        match error {
            PackError::Memory { .. } => Error::new(ErrorKind::MemoryBudget, error.to_string()).with_source(error),
            PackError::Thread(refused) => thread::refused("to pack weights", refused),
        }
    }
}

/// Number of blocks of a model's cache that fit into `bytes`.
///
/// # Errors
/// Not even one does.
pub(crate) fn blocks_within(folder: &ModelFolder, bytes: usize) -> Result<usize> {
    let (block, tokens) = (folder.block_bytes(), folder.block_size());
    match bytes / block {
        0 => Err(Error::new(
            ErrorKind::MemoryBudget,
            format!(
                "runtime.kv_cache: {bytes} bytes don't hold one block of {block} bytes ({tokens} tokens) of {}",
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

    fn end_by(&mut self, end: Option<Instant>) {
        self.session.end_by(end);
    }

    fn run(&mut self, step: &Step, read: &mut dyn FnMut(ArrayView2<'_, f32>)) -> Result<()> {
        let (tokens, sequences, rows) = (step.tokens.len(), step.sequences(), step.logit_rows.len());
        let session = &mut self.session;
        let row = &[1, tokens][usize::from(self.flat)..];
        session.set(&self.token_input, row, step.tokens.clone())?;
        if let Some(name) = &self.position_input {
            session.set(name, row, step.positions.clone())?;
        }
        if let Some(LongRope { small_rows, .. }) = self.long_rope {
            let offsets = step.variants.iter().map(|&variant| match variant {
                Variant::Short => 0,
                Variant::Long => small_rows as i32,
            });
            session.set(names::ROPE_OFFSET, &[sequences], offsets.collect())?;
        }
        session.set(names::CUMULATIVE, &[sequences + 1], step.cumulative.clone())?;
        session.set(names::PAST, &[sequences], step.past.clone())?;
        session.set(names::BLOCK_TABLE, &[sequences, step.block_table.len() / sequences], step.block_table.clone())?;
        session.set(names::SLOTS, &[tokens], step.slots.clone())?;
        // An empty Gather is not worth relying on: one row more is computed and not read.
        let wanted = if rows == 0 { vec![0] } else { step.logit_rows.clone() };
        let computed = wanted.len();
        session.set(names::LOGIT_ROWS, &[computed], wanted)?;
        let expected = self.width;
        let checked = session.run(&self.logits, |logits| {
            let width = logits.shape().last().copied().unwrap_or(0);
            // More logits than expected would be read at the wrong places, so they are as wrong as fewer.
            match logits.into_shape_with_order((computed, expected)) {
                Ok(logits) => {
                    read(logits.slice_move(s![..rows, ..]));
                    Ok(())
                }
                Err(_) => Err(width),
            }
        })?;
        checked.map_err(|width| wrong_width(&self.name, self.width_from, expected, width))
    }

    #[cfg(test)]
    fn poison(&mut self) {
        self.pool.fill(0xff);
    }
}
