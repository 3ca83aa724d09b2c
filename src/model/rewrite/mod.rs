//! Conversion of the graph that onnxruntime-genai runs to the one that the scheduler runs.
//!
//! Each attention node becomes paged attention over packed tokens ([`attention`]). Tables that depend on a sequence's
//! length are joined ([`rope`]). Nodes that only fed the mask are removed. A Gather after the last attention keeps the
//! rows whose logits are needed ([`rows`]). Everything else stays as the exporter wrote it: tokens are packed along the
//! sequence axis of a batch of one, and all other operators work row by row, which [`rowwise`] checks. The rewrites for
//! the [`Target`] come last. On the CPU, graphs in half precision become float32, because ONNX Runtime has no such products
//! there, and products with weights become the engine's own, with the norms and sums next to them ([`cpu`]). On a
//! device, attention is ONNX Runtime's own ([`device`]), and float32 becomes half precision ([`precision`]).
//!
//! Windows, soft caps and tables may differ from layer to layer. Norms of query and key inside the node become separate
//! nodes. Features that the operator lacks (attention sinks, biases, smooth softmax, a quantised cache) are refused by
//! name.

mod attention;
pub(crate) mod cpu;
mod device;
pub(crate) mod graph;
pub(crate) mod precision;
mod range;
pub(crate) mod rope;
mod rows;
mod rowwise;

use std::collections::HashSet;

use prost::Message as _;

use self::cpu::norms;
use self::cpu::products::{self, Product};
use self::precision::{Converted, Precision};
use self::rope::LongRope;
use super::config::ModelConfig;
use super::graph::GraphFile;
use super::options::OpenOptions;
use super::target::{Cache, Target};
use super::weights::Unread;
use crate::kernels::attention::DOMAIN;
use crate::onnx::nodes::{Dim, value_info};
use crate::onnx::{GraphProto, OperatorSetIdProto, TensorProto, TypeProto, ValueInfoProto, tensor_proto};
use crate::{Error, Result};

/// Names of the rewritten graph's inputs, in addition to the token ids and one key and one value cache per layer.
pub(crate) mod names {
    pub(crate) const CUMULATIVE: &str = "foreturn.cumulative_sequence_length";
    pub(crate) const PAST: &str = "foreturn.past_seqlens";
    pub(crate) const BLOCK_TABLE: &str = "foreturn.block_table";
    pub(crate) const SLOTS: &str = "foreturn.slot_mapping";
    pub(crate) const ROPE_OFFSET: &str = "foreturn.rope_offset";
    pub(crate) const LOGIT_ROWS: &str = "foreturn.logit_rows";
    /// Rows of the rotary tables, one for each token.
    pub(crate) const ROTARY_POSITIONS: &str = "foreturn.rotary_positions";
    /// Bounds of a step, on the CPU: the most new tokens, the most tokens, the fewest tokens of the longest sequence.
    pub(crate) const METADATA: &str = "foreturn.attention_metadata";

    pub(crate) fn key_cache(layer: usize) -> String {
        format!("foreturn.key_cache.{layer}")
    }

    pub(crate) fn value_cache(layer: usize) -> String {
        format!("foreturn.value_cache.{layer}")
    }

    /// A device's cache as the output of its attention.
    pub(crate) fn updated(cache: &str) -> String {
        format!("{cache}.updated")
    }
}

/// Shape of the attention, equal in all layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AttentionShape {
    pub(crate) layers: usize,
    pub(crate) query_heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_size: usize,
    /// Rows of the shortest rotary tables, if there are any: the number of positions that the model knows.
    pub(crate) positions: Option<usize>,
}

/// The rewritten graph.
pub(crate) struct PagedGraph {
    pub(crate) bytes: Vec<u8>,
    pub(crate) shape: AttentionShape,
    /// Whether the graph takes position ids.
    pub(crate) takes_positions: bool,
    /// Whether its token ids are a vector and not a batch of one row.
    pub(crate) flat: bool,
    /// The dependence of rotary tables on a sequence's length, if there is one.
    pub(crate) long_rope: Option<LongRope>,
    /// The reasons that break the promise of equal bits in any batch.
    pub(crate) bitwise_exceptions: Vec<String>,
    /// Weights that have to be converted when the graph is loaded.
    pub(crate) converted: Converted,
    /// The device that it was made for.
    pub(crate) target: Target,
    /// The contents of its key-value cache.
    pub(crate) cache: Cache,
    /// The matrices of the graph's packed products.
    pub(crate) products: Vec<Product>,
    /// The other weights, which ONNX Runtime reads.
    pub(crate) unread: Unread,
}

/// Rewrites `file`'s graph for the paged engine on `target`.
///
/// # Errors
/// Names the node and the feature that the paged engine can't run.
pub(crate) fn rewrite(
    file: &GraphFile,
    config: &ModelConfig,
    options: OpenOptions,
    target: Target,
) -> Result<PagedGraph> {
    let mut model = file.model.clone();
    let mut graph = model.graph.take().unwrap_or_default();
    let logits = &config.decoder.outputs.logits;
    let refuse = |why: String| Error::unsupported(format!("{}: {why}", file.path.display()));

    let device = target.device().map_err(refuse)?;
    let flat = is_flat(&graph, config).map_err(refuse)?
        || (device.is_some() && device::takes_vectors(&graph, &config.decoder.inputs.input_ids));
    let native = device::native_precision(&graph);
    let mut converted = Converted::default();
    if device.is_none() {
        converted = precision::convert(&mut graph, Precision::Float32).map_err(refuse)?;
    }
    rows::keep_all_rows(&mut graph);
    let long_rope = rope::join_tables(&mut graph).map_err(refuse)?;
    let shape = attention::replace(&mut graph, config, flat, (target, device)).map_err(refuse)?;
    let target = target.for_heads(shape.head_size);
    if device.is_some_and(|device| !device.transposed_products) {
        device::plain_products(&mut graph);
    }
    rows::gather_logit_rows(&mut graph, logits).map_err(refuse)?;
    let products =
        if target.takes_products { products::replace(&mut graph, file.graph(), options.dtype) } else { Vec::new() };
    let weights = products.iter().map(|product| product.shape.kind).collect();
    let cache = match device {
        None => Cache::Host(target.cache(options.cache_type, &weights).map_err(refuse)?),
        Some(device) => {
            let stored = device::stored_precision(&graph, native);
            Cache::Device(device.precision(options.cache_type, stored).map_err(refuse)?)
        }
    };
    let used = rows::remove_unused(&mut graph, logits);
    converted.keep(&mut graph);
    rows::gather_early(&mut graph);
    norms::take_over(&mut graph, &products);
    let mut bitwise_exceptions = rowwise::check(&graph, flat, target.multiplies_bytes).map_err(refuse)?;
    if let Cache::Device(precision) = cache {
        let name = target.provider.as_str();
        bitwise_exceptions.push(format!("the provider `{name}`: a row may be rounded by those beside it"));
        if precision != native {
            range::check(&graph, logits, precision).map_err(refuse)?;
            converted = precision::convert(&mut graph, precision).map_err(refuse)?;
        }
    }
    let positions = used.contains(&config.decoder.inputs.position_ids);
    graph.input = inputs(&graph, config, shape, (flat, cache), &used).map_err(refuse)?;
    set_outputs(&mut graph, logits, shape, (flat, cache));
    graph.value_info.clear();
    let left: HashSet<&str> = graph.initializer.iter().map(TensorProto::name).collect();
    let unread = Unread::of(file.graph(), &|name| left.contains(name)).map_err(|e| e.context(file.path.display()))?;

    if device.is_none() {
        model.opset_import.push(OperatorSetIdProto { domain: Some(DOMAIN.into()), version: Some(1) });
    }
    model.graph = Some(graph);
    Ok(PagedGraph {
        bytes: model.encode_to_vec(),
        shape,
        takes_positions: positions,
        flat,
        long_rope,
        bitwise_exceptions,
        converted,
        target,
        cache,
        products,
        unread,
    })
}

/// Keeps the logits of the outputs, and adds the caches of a device.
fn set_outputs(graph: &mut GraphProto, logits: &str, shape: AttentionShape, (flat, cache): (bool, Cache)) {
    graph.output.retain(|output| output.name() == logits);
    for output in &mut graph.output {
        let kind = match cache {
            Cache::Host(_) => tensor_proto::DataType::Float,
            Cache::Device(_) => graph::element_type(output).unwrap_or(tensor_proto::DataType::Float),
        };
        // The exporter's shape fixes the number of output rows, but now it depends on the step.
        output.r#type = untyped_shape(kind, flat);
    }
    if let Cache::Device(_) = cache {
        graph.output.extend(device::outputs(shape, cache));
    }
}

/// Whether the graph takes its tokens as a vector.
fn is_flat(graph: &GraphProto, config: &ModelConfig) -> Result<bool, String> {
    let name = &config.decoder.inputs.input_ids;
    let Some(input) = graph.input.iter().find(|input| input.name() == name) else {
        return Err(format!("the graph has no input `{name}`; foreturn runs decoder models that take token ids"));
    };
    match graph::element_type(input) {
        Some(tensor_proto::DataType::Int64) => {}
        other => return Err(format!("input `{name}` has element type {other:?}; foreturn feeds int64")),
    }
    match graph::rank(input) {
        None | Some(2) => Ok(false),
        Some(1) => Ok(true),
        Some(rank) => Err(format!("input `{name}` has {rank} dimensions; foreturn feeds one or two")),
    }
}

/// The type of logits. Only the number of dimensions is known.
fn untyped_shape(kind: tensor_proto::DataType, flat: bool) -> Option<TypeProto> {
    let dims = ["batch", "rows", "vocabulary"].map(Dim::Symbol);
    value_info("", kind, &dims[usize::from(flat)..]).r#type
}

fn inputs(
    graph: &GraphProto,
    config: &ModelConfig,
    shape: AttentionShape,
    (flat, stored): (bool, Cache),
    used: &HashSet<String>,
) -> Result<Vec<ValueInfoProto>, String> {
    use tensor_proto::DataType::{Int32, Int64};
    let own = config.decoder.inputs.position_ids.as_str();
    let row = [Dim::Size(1), Dim::Symbol("tokens")];
    let per_sequence = [Dim::Symbol("sequences")];
    let mut inputs = vec![
        value_info(&config.decoder.inputs.input_ids, Int64, &row[usize::from(flat)..]),
        value_info(own, Int64, &row[usize::from(flat)..]),
        value_info(names::CUMULATIVE, Int32, &[Dim::Symbol("bounds")]),
        value_info(names::PAST, Int32, &per_sequence),
        value_info(names::BLOCK_TABLE, Int32, &[Dim::Symbol("sequences"), Dim::Symbol("width")]),
        value_info(names::SLOTS, Int32, &[Dim::Symbol("tokens")]),
        value_info(names::ROPE_OFFSET, Int32, &per_sequence),
        value_info(names::LOGIT_ROWS, Int64, &[Dim::Symbol("rows")]),
        value_info(names::ROTARY_POSITIONS, Int64, &row),
        value_info(names::METADATA, Int32, &[Dim::Size(3)]),
    ];
    let cache = ["blocks", "block_size", "kv_heads", "head_size"].map(Dim::Symbol);
    let element = stored.data_type();
    for layer in 0..shape.layers {
        inputs.push(value_info(&names::key_cache(layer), element, &cache));
        inputs.push(value_info(&names::value_cache(layer), element, &cache));
    }
    inputs.retain(|input| used.contains(input.name()));
    let known = |name: &str| inputs.iter().any(|input| input.name() == name);
    match graph.input.iter().map(ValueInfoProto::name).find(|name| used.contains(*name) && !known(name)) {
        None => Ok(inputs),
        Some(name) => Err(format!(
            "the logits depend on the input `{name}` beside attention, which packed steps of several sequences don't have"
        )),
    }
}

#[cfg(test)]
mod tests;
