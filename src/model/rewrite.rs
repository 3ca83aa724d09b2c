//! From the graph that onnxruntime-genai runs to the one that the scheduler runs.
//!
//! Each GroupQueryAttention becomes paged attention over packed tokens; what only fed its mask disappears; a Gather
//! before the LM head keeps the rows whose logits are wanted. Everything between stays as the exporter wrote it: tokens
//! are packed along the sequence axis of a batch of one, and all other operators work row by row.

use std::collections::{HashMap, HashSet};

use prost::Message as _;

use super::config::ModelConfig;
use super::graph::GraphFile;
use crate::decode::attention::{DOMAIN, OPERATOR};
use crate::onnx::{
    AttributeProto, GraphProto, NodeProto, OperatorSetIdProto, TensorProto, TypeProto, ValueInfoProto, attribute_proto,
    tensor_proto, tensor_shape_proto, type_proto,
};
use crate::{Error, Result};

/// Names of the rewritten graph's inputs, beside the token ids and one key and value cache a layer.
pub(crate) mod names {
    pub(crate) const CUMULATIVE: &str = "foreturn.cumulative_sequence_length";
    pub(crate) const PAST: &str = "foreturn.past_seqlens";
    pub(crate) const BLOCK_TABLE: &str = "foreturn.block_table";
    pub(crate) const SLOTS: &str = "foreturn.slot_mapping";
    pub(crate) const LOGIT_ROWS: &str = "foreturn.logit_rows";

    pub(crate) fn key_cache(layer: usize) -> String {
        format!("foreturn.key_cache.{layer}")
    }

    pub(crate) fn value_cache(layer: usize) -> String {
        format!("foreturn.value_cache.{layer}")
    }
}

/// Shape of the attention, equal in all layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AttentionShape {
    pub(crate) layers: usize,
    pub(crate) query_heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_size: usize,
    /// Rows of the rotary tables, where there are any: positions that the model knows.
    pub(crate) positions: Option<usize>,
}

/// The rewritten graph.
pub(crate) struct PagedGraph {
    pub(crate) bytes: Vec<u8>,
    pub(crate) shape: AttentionShape,
    /// Whether the graph takes position ids.
    pub(crate) takes_positions: bool,
}

/// Rewrites `file`'s graph for the paged engine.
///
/// # Errors
/// Names the node and the feature that the paged engine can't run.
pub(crate) fn rewrite(file: &GraphFile, config: &ModelConfig) -> Result<PagedGraph> {
    let mut model = file.model.clone();
    let mut graph = model.graph.take().unwrap_or_default();
    let refuse = |why: String| Error::unsupported(format!("{}: {why}", file.path.display()));

    check_token_input(&graph, config).map_err(&refuse)?;
    let shape = replace_attention(&mut graph).map_err(&refuse)?;
    gather_logit_rows(&mut graph, &config.decoder.outputs.logits).map_err(&refuse)?;
    let used = remove_unused(&mut graph, &config.decoder.outputs.logits);
    let takes_positions = used.contains(&config.decoder.inputs.position_ids);
    graph.input = inputs(&graph, config, shape, &used);
    graph.output.retain(|output| output.name() == config.decoder.outputs.logits);
    for output in &mut graph.output {
        // The exporter's shape says how many rows come out; now it depends on the step.
        output.r#type = Some(tensor_type(tensor_proto::DataType::Float, &[None, None, None]));
    }
    graph.value_info.clear();

    model.opset_import.push(OperatorSetIdProto { domain: Some(DOMAIN.into()), version: Some(1) });
    model.graph = Some(graph);
    Ok(PagedGraph { bytes: model.encode_to_vec(), shape, takes_positions })
}

fn check_token_input(graph: &GraphProto, config: &ModelConfig) -> Result<(), String> {
    let name = &config.decoder.inputs.input_ids;
    let Some(input) = graph.input.iter().find(|input| input.name() == name) else {
        return Err(format!("the graph has no input `{name}`; foreturn runs decoder models that take token ids"));
    };
    match element_type(input) {
        Some(tensor_proto::DataType::Int64) => Ok(()),
        other => Err(format!("input `{name}` has element type {other:?}; foreturn feeds int64")),
    }
}

fn element_type(value: &ValueInfoProto) -> Option<tensor_proto::DataType> {
    match value.r#type.as_ref()?.value.as_ref()? {
        type_proto::Value::TensorType(tensor) => tensor_proto::DataType::try_from(tensor.elem_type()).ok(),
        _ => None,
    }
}

/// Attributes of a node by name.
struct Attributes<'a>(&'a NodeProto);

impl Attributes<'_> {
    fn get(&self, name: &str) -> Option<&AttributeProto> {
        self.0.attribute.iter().find(|attribute| attribute.name() == name)
    }

    fn int(&self, name: &str) -> i64 {
        self.get(name).map_or(0, |attribute| attribute.i())
    }

    fn float(&self, name: &str) -> f32 {
        self.get(name).map_or(0.0, |attribute| attribute.f())
    }
}

/// Inputs of GroupQueryAttention beyond these can't be run yet.
const KNOWN_INPUTS: usize = 9;

fn replace_attention(graph: &mut GraphProto) -> Result<AttentionShape, String> {
    let mut shape: Option<AttentionShape> = None;
    let mut layers = 0;
    let tables: HashMap<&str, &TensorProto> = graph.initializer.iter().map(|t| (t.name(), t)).collect();
    let pasts: HashMap<&str, &ValueInfoProto> = graph.input.iter().map(|v| (v.name(), v)).collect();
    let mut nodes = Vec::with_capacity(graph.node.len());
    for node in &graph.node {
        if node.op_type() != "GroupQueryAttention" {
            nodes.push(node.clone());
            continue;
        }
        check_features(node)?;
        let here = layer_shape(node, &pasts, &tables)?;
        if *shape.get_or_insert(here) != here {
            return Err(format!(
                "node `{}` has {here:?}, another layer {shape:?}; foreturn needs equal layers",
                node.name()
            ));
        }
        nodes.push(paged(node, layers, here));
        layers += 1;
    }
    graph.node = nodes;
    match shape {
        Some(shape) => Ok(AttentionShape { layers, ..shape }),
        None => Err("the graph holds no GroupQueryAttention node. This version runs the onnxruntime-genai layout; export the checkpoint with `foreturn export`".into()),
    }
}

/// Refuses what paged attention would silently do differently.
fn check_features(node: &NodeProto) -> Result<(), String> {
    let attributes = Attributes(node);
    let refuse =
        |what: &str| Err(format!("attention node `{}` uses {what}, which this version cannot run", node.name()));
    if attributes.int("local_window_size") > 0 {
        return refuse("a sliding window (local_window_size)");
    }
    if attributes.float("softcap") != 0.0 {
        return refuse("soft-capping (softcap)");
    }
    if attributes.int("smooth_softmax") == 1 {
        return refuse("smooth_softmax");
    }
    if attributes.int("kv_cache_bit_width") != 0 {
        return refuse("a quantised cache (kv_cache_bit_width)");
    }
    let extra = node.input.iter().enumerate().skip(KNOWN_INPUTS).find(|(_, name)| !name.is_empty());
    match extra {
        // Position ids only repeat what the packed batch says.
        Some((9, _)) | None => Ok(()),
        Some((index, name)) => refuse(&format!("input {index} (`{name}`: attention bias, sink, scale or norm)")),
    }
}

fn layer_shape(
    node: &NodeProto,
    pasts: &HashMap<&str, &ValueInfoProto>,
    tables: &HashMap<&str, &TensorProto>,
) -> Result<AttentionShape, String> {
    let attributes = Attributes(node);
    let refuse = |why: String| Err(format!("attention node `{}`: {why}", node.name()));
    let past = node.input.get(3).and_then(|name| pasts.get(name.as_str()));
    let Some(past) = past else { return refuse("its past key is not an input of the graph".into()) };
    match element_type(past) {
        Some(tensor_proto::DataType::Float) => {}
        other => {
            return refuse(format!(
                "its cache `{}` has element type {other:?}; this version runs float32 caches",
                past.name()
            ));
        }
    }
    let head_size = match past.r#type.as_ref().and_then(|t| t.value.as_ref()) {
        Some(type_proto::Value::TensorType(tensor)) => tensor.shape.as_ref().and_then(|s| s.dim.last()),
        _ => None,
    };
    let head_size = match head_size.and_then(|dim| dim.value.as_ref()) {
        Some(tensor_shape_proto::dimension::Value::DimValue(n)) if *n > 0 => *n as usize,
        _ => return refuse(format!("the head size of its cache `{}` is not a fixed number", past.name())),
    };
    let (query_heads, kv_heads) = (attributes.int("num_heads"), attributes.int("kv_num_heads"));
    if query_heads <= 0 || kv_heads <= 0 || query_heads % kv_heads != 0 {
        return refuse(format!("{query_heads} query heads over {kv_heads} key-value heads"));
    }
    let positions = match attributes.int("do_rotary") {
        0 => None,
        _ => match node.input.get(7).and_then(|name| tables.get(name.as_str())).and_then(|table| table.dims.first()) {
            Some(&rows) if rows > 0 => Some(rows as usize),
            _ => return refuse("its rotary tables are not initializers".into()),
        },
    };
    Ok(AttentionShape {
        layers: 0,
        query_heads: query_heads as usize,
        kv_heads: kv_heads as usize,
        head_size,
        positions,
    })
}

fn paged(node: &NodeProto, layer: usize, shape: AttentionShape) -> NodeProto {
    let attributes = Attributes(node);
    let input = |index: usize| node.input.get(index).cloned().unwrap_or_default();
    NodeProto {
        name: Some(node.name().to_owned()),
        op_type: Some(OPERATOR.into()),
        domain: Some(DOMAIN.into()),
        input: vec![
            input(0),
            input(1),
            input(2),
            names::key_cache(layer),
            names::value_cache(layer),
            names::CUMULATIVE.into(),
            names::PAST.into(),
            names::BLOCK_TABLE.into(),
            input(7),
            input(8),
            names::SLOTS.into(),
        ],
        output: node.output.iter().take(1).cloned().collect(),
        attribute: vec![
            int("num_heads", shape.query_heads as i64),
            int("kv_num_heads", shape.kv_heads as i64),
            int("head_size", shape.head_size as i64),
            float("scale", attributes.float("scale")),
            int("do_rotary", attributes.int("do_rotary")),
            int("rotary_interleaved", attributes.int("rotary_interleaved")),
        ],
        ..NodeProto::default()
    }
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(attribute_proto::AttributeType::Int.into()),
        i: Some(value),
        ..AttributeProto::default()
    }
}

fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(attribute_proto::AttributeType::Float.into()),
        f: Some(value),
        ..AttributeProto::default()
    }
}

/// Puts a Gather over the token axis before the LM head's product.
fn gather_logit_rows(graph: &mut GraphProto, logits: &str) -> Result<(), String> {
    const PRODUCTS: [&str; 4] = ["MatMul", "FusedMatMul", "Gemm", "MatMulNBits"];
    let mut name = logits.to_owned();
    // From the logits back over element-wise operators (a cast, a scale, a soft cap) to the product.
    for _ in 0..16 {
        let Some(index) = graph.node.iter().position(|node| node.output.contains(&name)) else { break };
        let node = &mut graph.node[index];
        let Some(first) = node.input.first_mut() else { break };
        if PRODUCTS.contains(&node.op_type.as_deref().unwrap_or_default()) {
            let gathered = "foreturn.gathered_rows".to_owned();
            let source = std::mem::replace(first, gathered.clone());
            let gather = NodeProto {
                name: Some("foreturn.gather_logit_rows".into()),
                op_type: Some("Gather".into()),
                input: vec![source, names::LOGIT_ROWS.into()],
                output: vec![gathered],
                attribute: vec![int("axis", -2)],
                ..NodeProto::default()
            };
            graph.node.insert(index, gather);
            return Ok(());
        }
        name = first.clone();
    }
    Err(format!("no matrix product leads to the output `{logits}`"))
}

/// Drops nodes and initializers that the logits don't depend on; returns all names still used.
fn remove_unused(graph: &mut GraphProto, logits: &str) -> HashSet<String> {
    let mut used = HashSet::from([logits.to_owned()]);
    // Nodes come in topological order, so one pass from the back finds everything.
    let mut kept: Vec<NodeProto> = Vec::with_capacity(graph.node.len());
    for node in std::mem::take(&mut graph.node).into_iter().rev() {
        if node.output.iter().any(|output| used.contains(output)) {
            used.extend(node.input.iter().filter(|input| !input.is_empty()).cloned());
            kept.push(node);
        }
    }
    kept.reverse();
    graph.node = kept;
    graph.initializer.retain(|tensor| used.contains(tensor.name()));
    used
}

fn inputs(
    graph: &GraphProto,
    config: &ModelConfig,
    shape: AttentionShape,
    used: &HashSet<String>,
) -> Vec<ValueInfoProto> {
    use tensor_proto::DataType::{Float, Int32, Int64};
    let own = |name: &str, kind, dims: &[Option<i64>]| ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(tensor_type(kind, dims)),
        ..ValueInfoProto::default()
    };
    let mut inputs = vec![own(&config.decoder.inputs.input_ids, Int64, &[Some(1), None])];
    if used.contains(&config.decoder.inputs.position_ids) {
        inputs.push(own(&config.decoder.inputs.position_ids, Int64, &[Some(1), None]));
    }
    inputs.push(own(names::CUMULATIVE, Int32, &[None]));
    inputs.push(own(names::PAST, Int32, &[None]));
    inputs.push(own(names::BLOCK_TABLE, Int32, &[None, None]));
    inputs.push(own(names::SLOTS, Int32, &[None]));
    inputs.push(own(names::LOGIT_ROWS, Int64, &[None]));
    for layer in 0..shape.layers {
        inputs.push(own(&names::key_cache(layer), Float, &[None, None, None, None]));
        inputs.push(own(&names::value_cache(layer), Float, &[None, None, None, None]));
    }
    // Anything else that the logits depend on was an input before; ONNX Runtime will name it as missing.
    let known: HashSet<_> = inputs.iter().map(|input| input.name().to_owned()).collect();
    inputs.extend(graph.input.iter().filter(|i| used.contains(i.name()) && !known.contains(i.name())).cloned());
    inputs
}

fn tensor_type(kind: tensor_proto::DataType, dims: &[Option<i64>]) -> TypeProto {
    let dim = dims
        .iter()
        .map(|size| crate::onnx::tensor_shape_proto::Dimension {
            value: size.map(tensor_shape_proto::dimension::Value::DimValue),
            ..Default::default()
        })
        .collect();
    TypeProto {
        value: Some(type_proto::Value::TensorType(type_proto::Tensor {
            elem_type: Some(kind.into()),
            shape: Some(crate::onnx::TensorShapeProto { dim }),
        })),
        ..TypeProto::default()
    }
}
