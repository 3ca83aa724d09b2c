//! Steps on a device: the rewritten graph, its caches in the device's memory and bound in place.
//!
//! Small inputs are made on the host for each step, and only the wanted rows of logits come back. Blocks are copied by
//! a graph of their own, because the device's pointers can't be added to.

use std::time::Instant;

use ndarray::ArrayView2;
use prost::Message as _;

use super::ports::{self, Ports};
use super::{Executor, Step};
use crate::Result;
use crate::decode::rope::Variant;
use crate::kernels::attention::layout::Heads;
use crate::model::ModelFolder;
use crate::model::rewrite::rope::LongRope;
use crate::model::rewrite::{PagedGraph, names};
use crate::model::source::Source;
use crate::onnx::nodes::{Dim, node, value_info};
use crate::onnx::tensor_proto::DataType;
use crate::onnx::{GraphProto, ModelProto, OperatorSetIdProto};
use crate::runtime::device::DeviceTensors;
use crate::runtime::session::{Graph, Session};
use crate::runtime::{ProviderReport, RuntimeOptions};

/// A model on a device, with its key-value cache.
pub(crate) struct DeviceExecutor {
    /// One tensor for each layer's keys, and one for its values.
    // The memory is the session's, and the copier binds it as well. So it is freed first, and the session goes last.
    #[cfg_attr(not(test), expect(dead_code, reason = "the sessions use it"))]
    caches: DeviceTensors,
    copier: Copier,
    session: Session,
    ports: Ports,
    long_rope: Option<LongRope>,
    takes: Takes,
}

/// The inputs that only some devices take.
struct Takes {
    slots: bool,
    metadata: bool,
}

impl DeviceExecutor {
    /// Loads the model, of which `paged` is the graph, with a cache of `blocks` blocks. Its weights come from `given`, or
    /// from the folder's files.
    pub(crate) fn load(
        folder: &ModelFolder,
        paged: &PagedGraph,
        given: Option<&dyn Source>,
        blocks: usize,
        options: &RuntimeOptions,
    ) -> Result<Self> {
        let ports = Ports::new(folder, paged);
        let (bytes, memory) = ports::graph(folder, paged, given)?;
        let (loops, report) = (folder.file().loops, folder.provider());
        let data = &folder.file().data_folder;
        let graph = Graph { bytes: &bytes, folder: data, memory, loops, name: &ports.name, report };
        let mut session = Session::open_plain(&graph, options)?;
        if given.is_none() {
            folder.file().check_unchanged()?;
        }

        let shape = paged.shape;
        let heads = Heads { query: shape.query_heads, kv: shape.kv_heads, size: shape.head_size };
        let dims = [blocks, paged.target.block_size, heads.kv, paged.cache.row(heads)];
        let cache_names: Vec<String> =
            (0..shape.layers).flat_map(|layer| [names::key_cache(layer), names::value_cache(layer)]).collect();
        let mut copier = Copier::load(&cache_names, (paged.cache.data_type(), dims), folder, options)?;
        let mut caches = DeviceTensors::of(&session, options)?;
        for name in &cache_names {
            let cache = caches.add(paged.cache.element(), &dims)?;
            for session in [&mut session, &mut copier.session] {
                session.bind(name, &caches.value(cache)?)?;
                session.bind_output(&names::updated(name), caches.value(cache)?)?;
            }
        }
        let (slots, metadata) = paged.target.device().ok().flatten().map_or((false, false), |d| (d.slots, d.metadata));
        let (long_rope, takes) = (paged.long_rope, Takes { slots, metadata });
        let mut executor = DeviceExecutor { caches, copier, session, ports, long_rope, takes };
        executor.warm_up(blocks)?;
        Ok(executor)
    }

    /// Runs one token and one copy. So what the device can't run shows now, and its kernels are compiled.
    fn warm_up(&mut self, blocks: usize) -> Result<()> {
        if blocks > 1 {
            self.copy_block(0, 1);
        }
        let mut step = Step::default();
        step.push(Variant::Short, &[0], 0, std::iter::once(Some(0)), |slot| slot as i32, 1);
        step.finish();
        self.run(&step, &mut |_| ()).map_err(|e| {
            e.context(format!(
                "{}: the first step on the device failed; if its buffers are too large, lower runtime.kv_cache",
                self.ports.name
            ))
        })
    }

    pub(crate) fn provider(&self) -> &ProviderReport {
        self.session.provider()
    }

    /// Sets the inputs of a step.
    fn set(&mut self, step: &Step) -> Result<()> {
        let (tokens, session) = (step.tokens.len(), &mut self.session);
        self.ports.set(session, step)?;
        if let Some(rope) = self.long_rope {
            session.set(names::ROTARY_POSITIONS, &[1, tokens], rotary_rows(step, rope))?;
        }
        if self.takes.slots {
            session.set(names::SLOTS, &[tokens], step.slots.clone())?;
        }
        if self.takes.metadata {
            session.set(names::METADATA, &[3], bounds(step))?;
        }
        Ok(())
    }
}

/// The rows of the joined rotary tables, for each token.
fn rotary_rows(step: &Step, rope: LongRope) -> Vec<i64> {
    let mut rows = step.positions.clone();
    for (bounds, &variant) in step.cumulative.windows(2).zip(&step.variants) {
        if variant == Variant::Long {
            rows[bounds[0] as usize..bounds[1] as usize].iter_mut().for_each(|row| *row += rope.small_rows as i64);
        }
    }
    rows
}

/// The most new tokens of a sequence, the most tokens of one, and a lower bound of the latter.
fn bounds(step: &Step) -> Vec<i32> {
    let new = step.cumulative.windows(2).map(|bounds| bounds[1] - bounds[0]);
    let longest = new.clone().zip(&step.past).map(|(new, past)| new + past).max().unwrap_or(0);
    vec![new.max().unwrap_or(0), longest, longest]
}

impl Executor for DeviceExecutor {
    fn copy_block(&mut self, from: u32, to: u32) {
        self.copier.add(from, to);
    }

    fn end_by(&mut self, end: Option<Instant>) {
        self.session.end_by(end);
    }

    fn run(&mut self, step: &Step, read: &mut dyn FnMut(ArrayView2<'_, f32>)) -> Result<()> {
        self.copier.run()?;
        self.set(step)?;
        self.ports.run(&mut self.session, step, read)
    }

    #[cfg(test)]
    fn poison(&mut self) {
        self.caches.fill(&self.session, 0xff).expect("the cache is overwritten");
    }
}

/// Copies blocks in every cache.
struct Copier {
    session: Session,
    /// Copies that are due before the next step. Those of a group don't depend on each other, and a group waits for
    /// those before it.
    due: Vec<Vec<(i64, i64)>>,
}

const FROM: &str = "from";
const TO: &str = "to";

impl Copier {
    fn load(
        caches: &[String],
        (element, dims): (DataType, [usize; 4]),
        folder: &ModelFolder,
        options: &RuntimeOptions,
    ) -> Result<Self> {
        let bytes = copies(caches, element, dims).encode_to_vec();
        let (name, report) = (format!("{}, copies of blocks", folder.path().display()), folder.provider());
        let data = &folder.file().data_folder;
        let graph = Graph { bytes: &bytes, folder: data, memory: None, loops: false, name: &name, report };
        let session = Session::open_plain(&graph, options)?;
        Ok(Copier { session, due: Vec::new() })
    }

    fn add(&mut self, from: u32, to: u32) {
        add(&mut self.due, (i64::from(from), i64::from(to)));
    }

    /// Makes the copies that are due.
    fn run(&mut self) -> Result<()> {
        let session = &mut self.session;
        each(&mut self.due, |group| {
            session.set(FROM, &[group.len()], group.iter().map(|copy| copy.0).collect::<Vec<_>>())?;
            session.set(TO, &[group.len(), 1], group.iter().map(|copy| copy.1).collect::<Vec<_>>())?;
            session.run_in_place()
        })
    }
}

/// Makes the copies of each group. After a failure, its group and those behind it stay due: the cache counts their rows as
/// filled already, so they have to be there before the next step.
fn each(groups: &mut Vec<Vec<(i64, i64)>>, mut make: impl FnMut(&[(i64, i64)]) -> Result<()>) -> Result<()> {
    let mut made = 0;
    let result = groups.iter().try_for_each(|group| make(group).inspect(|()| made += 1));
    groups.drain(..made);
    result
}

/// Adds a copy to the last group, or to one of its own if it depends on that group.
fn add(groups: &mut Vec<Vec<(i64, i64)>>, copy: (i64, i64)) {
    match groups.last_mut().filter(|group| !group.iter().any(|&other| touches(other, copy))) {
        Some(group) => group.push(copy),
        None => groups.push(vec![copy]),
    }
}

/// Whether the second of two copies has to wait for the first.
fn touches(first: (i64, i64), second: (i64, i64)) -> bool {
    first.1 == second.0 || first.1 == second.1 || first.0 == second.1
}

/// A graph that copies blocks, named by two inputs, in each of `caches`.
fn copies(caches: &[String], element: DataType, dims: [usize; 4]) -> ModelProto {
    let shape = dims.map(Dim::Size);
    let mut graph = GraphProto {
        name: Some("copies".into()),
        input: vec![
            value_info(FROM, DataType::Int64, &[Dim::Symbol("copies")]),
            value_info(TO, DataType::Int64, &[Dim::Symbol("copies"), Dim::Size(1)]),
        ],
        ..GraphProto::default()
    };
    for cache in caches {
        let (copied, updated) = (format!("{cache}.copied"), names::updated(cache));
        graph.node.push(node("", "Gather", &copied, &[cache, FROM], &[&copied], vec![]));
        graph.node.push(node("", "ScatterND", &updated, &[cache, TO, &copied], &[&updated], vec![]));
        graph.input.push(value_info(cache, element, &shape));
        graph.output.push(value_info(&updated, element, &shape));
    }
    let opset = OperatorSetIdProto { domain: Some(String::new()), version: Some(18) };
    ModelProto { ir_version: Some(9), graph: Some(graph), opset_import: vec![opset], ..ModelProto::default() }
}

#[cfg(test)]
mod tests;
