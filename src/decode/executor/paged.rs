//! Steps on a real model: one session over the rewritten graph, its caches bound in place.

use std::sync::Arc;
use std::time::Instant;

use ndarray::ArrayView2;

use super::ports::{self, Ports};
use super::{Executor, Step};
use crate::decode::rope::Variant;
use crate::kernels;
use crate::kernels::PackError;
use crate::kernels::attention::layout::Heads;
use crate::kernels::matmul::pack::Part;
use crate::kernels::matmul::{Matrices, Packed};
use crate::model::ModelFolder;
use crate::model::rewrite::rope::LongRope;
use crate::model::rewrite::{PagedGraph, names};
use crate::model::source::{Files, Source};
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
    ports: Ports,
    long_rope: Option<LongRope>,
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
        let shape = paged.shape;
        let heads = Heads { query: shape.query_heads, kv: shape.kv_heads, size: shape.head_size };
        let ports = Ports::new(folder, paged);
        let data = &folder.file().data_folder;
        let (bytes, memory) = ports::graph(folder, paged, given)?;
        let (loops, report) = (folder.file().loops, folder.provider());
        let graph = Graph { bytes: &bytes, folder: data, memory, loops, name: &ports.name, report };
        let products = &paged.products;
        let shapes: Vec<_> = products.iter().map(|product| product.shape).collect();
        let files = Files(data);
        let source = given.unwrap_or(&files);
        let read = |index: usize, then: &mut dyn FnMut(&[Part<'_>])| products[index].read(source, then);
        let threads = options.effective_threads();
        let pack = |spare| Packed::pack(&shapes, threads, spare, read);
        let packed = match given {
            // What is given is nobody else's, and more may come.
            Some(_) => Arc::new(pack(Some(folder.spare()))?),
            None => folder.packed(|| pack(None))?,
        };
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
        Ok(PagedExecutor { session, pool, block, cache, caches: 2 * shape.layers, ports, long_rope: paged.long_rope })
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
        let session = &mut self.session;
        self.ports.set(session, step)?;
        if let Some(LongRope { small_rows, .. }) = self.long_rope {
            let offsets = step.variants.iter().map(|&variant| match variant {
                Variant::Short => 0,
                Variant::Long => small_rows as i32,
            });
            session.set(names::ROPE_OFFSET, &[step.sequences()], offsets.collect())?;
        }
        session.set(names::SLOTS, &[step.tokens.len()], step.slots.clone())?;
        self.ports.run(session, step, read)
    }

    #[cfg(test)]
    fn poison(&mut self) {
        self.pool.fill(0xff);
    }
}
