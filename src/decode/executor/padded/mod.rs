//! Steps on a graph that is run as it is: keys and values go in and come out as dense tensors.
//!
//! ```text
//! blocks ──gather──▶ past [B, heads, P, size] ──graph──▶ present [B, heads, P + S, size] ──scatter──▶ blocks
//! ```
//!
//! Scheduler, cache and prefix tree are those of the paged path; only the way of one step differs. Every run copies the
//! whole past of its sequences, and the graph copies it again, so this path is slow. `runs` decides which sequences go
//! into a run together, `pool` moves the rows.

mod pool;
mod runs;

use std::time::Instant;

use ndarray::{Array2, ArrayView2, ArrayView3, s};

use self::pool::Pool;
use self::runs::{Rules, Run};
use super::{Executor, Step, wrong_width};
use crate::model::ModelFolder;
use crate::model::layout::{CacheTensor, PaddedGraph};
use crate::onnx::tensor_proto::DataType;
use crate::runtime::memory::{Buffer, Element};
use crate::runtime::session::{Graph, Outputs, Session};
use crate::runtime::{ProviderReport, RuntimeOptions};
use crate::{Error, Result};

/// Bytes of logits that one run may give: graphs compute those of every token.
const LOGIT_BYTES: usize = 64 << 20;
/// Bytes of past that one run may take.
const PAST_BYTES: usize = 256 << 20;

/// A loaded model with its key-value cache.
pub(crate) struct PaddedExecutor {
    // The session reads the scratch memory: it is declared, and so dropped, first.
    session: Session,
    /// The past of one run, all caches one after another.
    scratch: Buffer,
    pool: Pool,
    rules: Rules,
    inputs: Inputs,
    caches: Vec<CacheTensor>,
    outputs: Vec<String>,
    /// Logits a row.
    width: usize,
    /// The model's folder and the file that says `width`, for messages.
    name: String,
    width_from: &'static str,
}

/// Names of the graph's inputs.
struct Inputs {
    tokens: String,
    mask: Option<String>,
    positions: Option<String>,
    use_cache: Option<String>,
    keep: Option<crate::model::layout::Keep>,
}

/// The kind of number that a cache holds.
fn element(cache: &CacheTensor) -> Element {
    match cache.element {
        DataType::Float16 => Element::Float16,
        DataType::Bfloat16 => Element::Bfloat16,
        _ => Element::Float32,
    }
}

impl PaddedExecutor {
    /// Loads the model, of which `padded` describes the graph, with a cache of `blocks` blocks.
    pub(crate) fn load(
        folder: &ModelFolder,
        padded: &PaddedGraph,
        blocks: usize,
        options: &RuntimeOptions,
    ) -> Result<Self> {
        let name = folder.path().display().to_string();
        let (bytes, memory) = folder.plain_graph()?;
        let (data, loops) = (&folder.file().data_folder, folder.file().loops);
        let graph = Graph { bytes: &bytes, folder: data, memory, loops, name: &name, report: folder.provider() };
        let session = Session::open_plain(&graph, options)?;
        folder.file().check_unchanged()?;
        let names = &folder.config().model.decoder;
        let width = folder.row_width();
        let rules = Rules {
            // Left padding takes a mask to hide it and positions to undo its shift.
            left_padding: padded.attention_mask.is_some() && padded.position_ids.is_some() && !padded.grouped,
            grouped: padded.grouped,
            most_past: (PAST_BYTES * padded.block_size / padded.block_bytes()).max(1),
            most_tokens: match padded.logits_to_keep {
                Some(_) => usize::MAX,
                None => (LOGIT_BYTES / size_of::<f32>() / width).max(padded.block_size),
            },
        };
        let logits = names.outputs.logits.clone();
        Ok(PaddedExecutor {
            session,
            scratch: Buffer::reserve(1)?,
            pool: Pool::new(&padded.caches, blocks, padded.block_size)?,
            rules,
            inputs: Inputs {
                tokens: names.inputs.input_ids.clone(),
                mask: padded.attention_mask.clone(),
                positions: padded.position_ids.clone(),
                use_cache: padded.use_cache_branch.clone(),
                keep: padded.logits_to_keep.clone(),
            },
            caches: padded.caches.clone(),
            outputs: std::iter::once(logits).chain(padded.caches.iter().map(|cache| cache.present.clone())).collect(),
            width,
            name,
            width_from: folder.config().width_source(),
        })
    }

    pub(crate) fn provider(&self) -> &ProviderReport {
        self.session.provider()
    }

    /// Binds the past of the run's sequences; shorter ones stand at the end of their rows, after zeros.
    fn bind_past(&mut self, run: &Run, step: &Step) -> Result<()> {
        let (batch, past) = (run.members.len(), run.past());
        let bytes: Vec<usize> =
            self.caches.iter().map(|c| batch * c.heads * past * c.size * c.element_bytes()).collect();
        let total = bytes.iter().sum::<usize>();
        if total > self.scratch.len() {
            // Inputs still bound to the old memory are bound anew below, before anything runs.
            self.scratch = Buffer::reserve(total.next_power_of_two())?;
        }
        let mut offset = 0;
        for (index, cache) in self.caches.iter().enumerate() {
            let dense = &mut self.scratch.bytes_mut()[offset..offset + bytes[index]];
            for (member, rows) in run.members.iter().zip(dense.chunks_exact_mut((bytes[index] / batch).max(1))) {
                self.pool.gather(index, step.table(member.sequence), member.past, past, rows);
            }
            let shape = [batch, cache.heads, past, cache.size].map(|n| n as i64);
            self.session.bind(&cache.past, &self.scratch.tensor(element(cache), offset, &shape)?)?;
            offset += bytes[index];
        }
        Ok(())
    }

    /// Sets everything but the past; `kept` rows of logits are asked for.
    fn set_inputs(&mut self, run: &Run, step: &Step, kept: usize) -> Result<()> {
        let (batch, new, past) = (run.members.len(), run.new, run.past());
        let tokens = run.members.iter().flat_map(|m| step.tokens[m.first..m.first + new].iter().copied()).collect();
        let session = &mut self.session;
        session.set(&self.inputs.tokens, &[batch, new], tokens)?;
        if let Some(name) = &self.inputs.mask {
            let row = |own: usize| (0..past + new).map(move |at| i64::from(at >= past - own));
            session.set(
                name,
                &[batch, past + new],
                run.members.iter().flat_map(|m| row(m.past)).collect::<Vec<_>>(),
            )?;
        }
        if let Some(name) = &self.inputs.positions {
            let row = |own: usize| (own..own + new).map(|at| at as i64);
            session.set(name, &[batch, new], run.members.iter().flat_map(|m| row(m.past)).collect::<Vec<_>>())?;
        }
        if let Some(name) = &self.inputs.use_cache {
            session.set(name, &[1], vec![past > 0])?;
        }
        if let Some(keep) = &self.inputs.keep {
            let shape: &[usize] = if keep.vector { &[1] } else { &[] };
            session.set(&keep.name, shape, vec![kept as i64])?;
        }
        Ok(())
    }

    /// Runs the graph once; new rows go to the pool, wanted rows of logits to `logits`.
    fn run_once(&mut self, run: &Run, step: &Step, logits: &mut Array2<f32>) -> Result<()> {
        let wanted = run.wanted(step);
        let kept = match (&self.inputs.keep, wanted.iter().map(|row| row.token).min()) {
            (None, _) => run.new,
            // Zero would mean all of them.
            (Some(_), None) => 1,
            (Some(_), Some(first)) => run.new - first,
        };
        self.bind_past(run, step)?;
        self.set_inputs(run, step, kept)?;
        let PaddedExecutor { session, pool, caches, outputs, width, name, width_from, .. } = self;
        let names: Vec<&str> = outputs.iter().map(String::as_str).collect();
        session.run_all(&names, |given| {
            let rows = given.floats(names[0])?;
            let got = rows.shape().last().copied().unwrap_or(0);
            let rows: ArrayView3<'_, f32> = rows
                .view()
                .into_shape_with_order((run.members.len(), kept, *width))
                .map_err(|_| wrong_width(name, width_from, *width, got))?;
            for row in &wanted {
                let from = rows.slice(s![row.member, row.token + kept - run.new, ..]);
                logits.row_mut(row.to).assign(&from);
            }
            store(given, pool, caches, run, step)
        })
    }
}

/// Puts the new rows of all caches into their blocks.
fn store(given: &Outputs<'_>, pool: &mut Pool, caches: &[CacheTensor], run: &Run, step: &Step) -> Result<()> {
    let (batch, total) = (run.members.len(), run.past() + run.new);
    for (index, cache) in caches.iter().enumerate() {
        let present = given.tensor(&cache.present)?;
        let shape = [batch, cache.heads, total, cache.size];
        if present.element != Some(element(cache)) || present.shape != shape {
            return Err(Error::invalid_model(format!(
                "output `{}` has shape {:?}, not {shape:?} of the cache's element type; the graph keeps its cache in a way that foreturn doesn't know",
                cache.present, present.shape
            )));
        }
        for (member, rows) in run.members.iter().zip(present.bytes.chunks_exact(present.bytes.len() / batch)) {
            pool.scatter(index, &step.slots[member.first..member.first + run.new], total, rows);
        }
    }
    Ok(())
}

impl Executor for PaddedExecutor {
    fn copy_block(&mut self, from: u32, to: u32) {
        self.pool.copy_block(from, to);
    }

    fn end_by(&mut self, end: Option<Instant>) {
        self.session.end_by(end);
    }

    fn run(&mut self, step: &Step, read: &mut dyn FnMut(ArrayView2<'_, f32>)) -> Result<()> {
        let mut logits = Array2::zeros((step.logit_rows.len(), self.width));
        for run in runs::split(step, &self.rules) {
            self.run_once(&run, step, &mut logits)?;
        }
        read(logits.view());
        Ok(())
    }

    #[cfg(test)]
    fn poison(&mut self) {
        self.pool.fill(0xff);
    }
}

#[cfg(test)]
mod tests;
