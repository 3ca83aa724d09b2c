//! Attention on a device: ONNX Runtime's own `com.microsoft.PagedAttention`.
//!
//! Its inputs are two-dimensional. Graphs that take tokens in any number of dimensions get a vector of ids, so that all
//! of their values are two-dimensional. In other graphs, attention stands between two Reshapes. The caches are inputs
//! and outputs of the graph, and the executor binds one buffer to both.
//!
//! Tables whose rows depend on a sequence's length (LongRoPE) are read outside the node, because its positions have no
//! offset.

use std::collections::HashSet;

use super::attention::{self, Inputs, Layer};
use super::graph::{self, Attributes, Values};
use super::precision::{self, Precision};
use super::{AttentionShape, names};
use crate::model::target::{Cache, DeviceAttention};
use crate::onnx::nodes::{Dim, MICROSOFT, float, int, int64_tensor, ints, node, value_info};
use crate::onnx::{GraphProto, NodeProto, ValueInfoProto};

/// Operators that take a token's row in tensors of any number of dimensions, as long as their axis is the last.
const ANY_RANK: [&str; 22] = [
    "Add",
    "Cast",
    "Div",
    "Exp",
    "FastGelu",
    "FusedMatMul",
    "Gather",
    "GatherBlockQuantized",
    "Gelu",
    "Identity",
    "MatMul",
    "MatMulNBits",
    "Mul",
    "Neg",
    "QuickGelu",
    "RMSNormalization",
    "Sigmoid",
    "SimplifiedLayerNormalization",
    "SkipSimplifiedLayerNormalization",
    "Sqrt",
    "Sub",
    "Tanh",
];

/// Whether every node that computes with the ids `tokens` takes them as a vector.
pub(super) fn takes_vectors(graph: &GraphProto, tokens: &str) -> bool {
    let mut of_tokens: HashSet<&str> = HashSet::from([tokens]);
    for node in &graph.node {
        if !node.input.iter().any(|input| of_tokens.contains(input.as_str())) {
            continue;
        }
        let attributes = Attributes(node);
        // A lookup's axis is one of its table, not of the tokens.
        let looks_up = matches!(node.op_type(), "Gather" | "GatherBlockQuantized");
        let last = attributes.get("axis").is_none_or(|axis| axis.i() == -1) || looks_up;
        let attends = attention::Inputs::of(node).is_some();
        if !(attends || (ANY_RANK.contains(&node.op_type()) && last)) {
            return false;
        }
        of_tokens.extend(node.output.iter().filter(|output| !output.is_empty()).map(String::as_str));
    }
    true
}

/// The precision of the graph's caches.
pub(super) fn native_precision(graph: &GraphProto) -> Precision {
    let caches: Vec<String> = graph.node.iter().filter_map(|node| Some(attention::Inputs::of(node)?.cache)).collect();
    let first = graph.input.iter().find(|input| caches.iter().any(|name| name == input.name()));
    first.and_then(graph::element_type).and_then(|kind| Precision::of(kind.into())).unwrap_or(Precision::Float32)
}

/// The precision of a graph whose caches have `native`: bfloat16 where it widens such weights, because some of them may be too
/// large for float16.
pub(super) fn stored_precision(graph: &GraphProto, native: Precision) -> Precision {
    let bfloat16 = Precision::Bfloat16.data_type() as i32;
    let widened = precision::widened_by_nodes(graph);
    let narrow = graph.initializer.iter().any(|t| t.data_type() == bfloat16 && widened.contains(t.name()));
    if native == Precision::Float32 && narrow { Precision::Bfloat16 } else { native }
}

/// Refuses what the device's attention lacks. `context` is the number of tokens that the model is run with at most.
pub(super) fn check(node: &NodeProto, device: DeviceAttention, context: usize) -> Result<(), String> {
    let lacks = |what: &str| {
        let name = device.provider.as_str();
        Err(format!("uses {what}, which ONNX Runtime's provider `{name}` cannot run; use \"cpu\" or \"cuda\""))
    };
    let window = window(node, context);
    if window >= 0 && !device.windows {
        return lacks(&format!("a window of {window} tokens (local_window_size)"));
    }
    let softcap = Attributes(node).float("softcap");
    if softcap != 0.0 && !device.softcaps {
        return lacks(&format!("a soft cap (softcap = {softcap})"));
    }
    Ok(())
}

/// Refuses heads that the device's attention does not take.
pub(super) fn check_heads(size: usize, device: DeviceAttention) -> Result<(), String> {
    match size.is_multiple_of(8) {
        true => Ok(()),
        false => Err(format!(
            "its heads have {size} numbers, and ONNX Runtime's provider `{}` takes multiples of 8; use \"cpu\"",
            device.provider.as_str()
        )),
    }
}

/// The window, or -1 if no sequence is longer than it.
fn window(node: &NodeProto, context: usize) -> i64 {
    match attention::window(node) {
        window if usize::try_from(window).is_ok_and(|window| window < context) => window,
        _ => -1,
    }
}

/// Replaces products by a transposed weight by a transposed weight, which is made when the graph is loaded, and a plain
/// product. The provider would leave them to the CPU.
pub(super) fn plain_products(graph: &mut GraphProto) {
    let mut nodes = Vec::with_capacity(graph.node.len());
    for mut product in std::mem::take(&mut graph.node) {
        let attributes = Attributes(&product);
        let on = |name: &str| attributes.int(name) != 0;
        let alpha = attributes.get("alpha").map_or(1.0, |alpha| alpha.f());
        let plain = on("transB") && !on("transA") && !on("transBatchA") && !on("transBatchB") && alpha == 1.0;
        if product.op_type() == "FusedMatMul" && plain {
            let weight = &product.input[1];
            let turned = format!("foreturn.{weight}.transposed");
            if !nodes.iter().any(|node: &NodeProto| node.output.first() == Some(&turned)) {
                let perm = vec![ints("perm", &[1, 0])];
                nodes.push(node("", "Transpose", &turned, &[weight], &[&turned], perm));
            }
            product.input[1] = turned;
            product.op_type = Some("MatMul".into());
            product.domain = None;
            product.attribute.clear();
        }
        nodes.push(product);
    }
    graph.node = nodes;
}

/// The caches as outputs of the graph, after `logits`.
pub(super) fn outputs(shape: AttentionShape, cache: Cache) -> impl Iterator<Item = ValueInfoProto> {
    let dims = ["blocks", "block_size", "kv_heads", "head_size"].map(Dim::Symbol);
    let both = move |layer| [names::key_cache(layer), names::value_cache(layer)].map(|name| names::updated(&name));
    (0..shape.layers).flat_map(both).map(move |name| value_info(&name, cache.data_type(), &dims))
}

impl Layer<'_> {
    /// Adds the device's node. `joined` says that its tables' rows depend on the sequence's length.
    pub(super) fn attend_on(
        &mut self,
        device: DeviceAttention,
        layer: usize,
        joined: bool,
        (values, context, block_size): (&Values<'_>, usize, usize),
    ) {
        let rotates = self.place_rotary(device, joined, values, block_size);
        let [query, key, value] = self.rows();
        let (key_cache, value_cache) = (names::key_cache(layer), names::value_cache(layer));
        let table = |name: &String| if rotates { name.clone() } else { String::new() };
        let (cos, sin) = (table(&self.inputs.cos), table(&self.inputs.sin));
        let slots = if device.slots { names::SLOTS } else { "" };
        let metadata = if device.metadata { names::METADATA } else { "" };
        let batch = [names::CUMULATIVE, names::PAST, names::BLOCK_TABLE];
        // Between the slots and the metadata: a sink, norms, and scales of a quantised cache.
        let inputs = [
            &[query.as_str(), &key, &value, &key_cache, &value_cache],
            &batch[..],
            &[&cos, &sin, slots, "", "", "", "", "", metadata],
        ];
        let attributes = Attributes(self.node);
        let mut own = vec![
            int("num_heads", self.shape.query_heads as i64),
            int("kv_num_heads", self.shape.kv_heads as i64),
            int("local_window_size", window(self.node, context)),
            int("do_rotary", i64::from(rotates)),
            int("rotary_interleaved", attributes.int("rotary_interleaved")),
        ];
        own.extend(["scale", "softcap"].iter().filter_map(|name| {
            let value = attributes.float(name);
            (value != 0.0).then(|| float(name, value))
        }));
        let output = self.node.output.first().map_or("", String::as_str).to_owned();
        let mixed = if self.flat { output.clone() } else { self.own("rows") };
        let outputs = [mixed.as_str(), &names::updated(&key_cache), &names::updated(&value_cache)];
        self.nodes.push(node(MICROSOFT, "PagedAttention", self.node.name(), &inputs.concat(), &outputs, own));
        if !self.flat {
            let width = (self.shape.query_heads * self.shape.head_size) as i64;
            let (name, shape) = (self.own("to_batch"), self.own("batch"));
            self.constants.push(int64_tensor(&shape, &[3], &[1, -1, width]));
            self.nodes.push(node("", "Reshape", &name, &[&mixed, &shape], &[&output], vec![]));
        }
    }

    /// Says whether the device's node rotates queries and keys. If it should and can't, they are rotated before it.
    fn place_rotary(&mut self, device: DeviceAttention, joined: bool, values: &Values<'_>, block_size: usize) -> bool {
        let rotates = Attributes(self.node).int("do_rotary") != 0;
        if joined {
            self.split();
            self.inputs.query = self.rotate("query", self.inputs.query.clone(), self.shape.query_heads, values);
            self.inputs.key = self.rotate("key", self.inputs.key.clone(), self.shape.kv_heads, values);
        } else if rotates && device.whole_tables {
            self.cover_blocks(values, block_size);
        }
        rotates && !joined
    }

    /// Queries, keys and values with a row for each token, or all of them in the first.
    fn rows(&mut self) -> [String; 3] {
        let AttentionShape { query_heads, kv_heads, head_size, .. } = self.shape;
        let Inputs { query, key, value, .. } = &self.inputs;
        let packed = if key.is_empty() { 2 * kv_heads } else { 0 };
        let parts = [
            ("query_rows", query.clone(), query_heads + packed),
            ("key_rows", key.clone(), kv_heads),
            ("value_rows", value.clone(), kv_heads),
        ];
        parts.map(|(what, name, heads)| match self.flat || name.is_empty() {
            true => name,
            false => self.reshape(what, &name, &[-1, (heads * head_size) as i64]),
        })
    }

    /// Rotates the heads of `input` by tables whose rows are given for each token.
    fn rotate(&mut self, what: &str, input: String, heads: usize, values: &Values<'_>) -> String {
        let width = (heads * self.shape.head_size) as i64;
        // The operator takes batches only.
        let batch = if self.flat { self.reshape(&format!("{what}_batch"), &input, &[1, -1, width]) } else { input };
        let rotated = self.own(&format!("{what}_rotated"));
        let inputs = [batch.as_str(), names::ROTARY_POSITIONS, &self.inputs.cos, &self.inputs.sin];
        let interleaved = Attributes(self.node).int("rotary_interleaved");
        let attributes = vec![int("num_heads", heads as i64), int("interleaved", interleaved)];
        let rotary = self.rotary_dimensions(values).map(|size| int("rotary_embedding_dim", size));
        let attributes = attributes.into_iter().chain(rotary).collect();
        self.nodes.push(node(MICROSOFT, "RotaryEmbedding", &rotated, &inputs, &[&rotated], attributes));
        match self.flat {
            true => self.reshape(&format!("{what}_flat"), &rotated, &[-1, width]),
            false => rotated,
        }
    }

    /// The dimensions of a head that are rotated, if not all of them are.
    fn rotary_dimensions(&self, values: &Values<'_>) -> Option<i64> {
        let columns = attention::table(&self.inputs.cos, values)?.dims.get(1)?;
        (2 * columns < self.shape.head_size as i64).then_some(2 * columns)
    }

    fn reshape(&mut self, what: &str, input: &str, shape: &[i64]) -> String {
        let (name, sizes) = (self.own(what), self.own(&format!("{what}.shape")));
        self.constants.push(int64_tensor(&sizes, &[shape.len()], shape));
        self.nodes.push(node("", "Reshape", &name, &[input, &sizes], &[&name], vec![]));
        name
    }

    /// Makes the rotary tables reach to the end of a block. The rows beyond are read and not used.
    fn cover_blocks(&mut self, values: &Values<'_>, block_size: usize) {
        for (what, name) in [("cos", self.inputs.cos.clone()), ("sin", self.inputs.sin.clone())] {
            let rows = attention::table_rows(&name, values).unwrap_or(0);
            let covered = rows.next_multiple_of(block_size);
            if rows == 0 || covered == rows {
                continue;
            }
            // Layers share tables, and so share the longer ones.
            let longer = format!("foreturn.{name}.whole_blocks");
            if !self.nodes.iter().any(|node| node.output.first() == Some(&longer)) {
                let wanted: Vec<i64> = (0..covered).map(|row| row.min(rows - 1) as i64).collect();
                let indices = format!("{longer}.rows");
                self.constants.push(int64_tensor(&indices, &[covered], &wanted));
                self.nodes.push(node("", "Gather", &longer, &[&name, &indices], &[&longer], vec![int("axis", 0)]));
            }
            match what {
                "cos" => self.inputs.cos = longer,
                _ => self.inputs.sin = longer,
            }
        }
    }
}
