//! Conversion of exporters' attention nodes to `foreturn.PagedAttention`.
//!
//! Two operators of ONNX Runtime are supported: `com.microsoft.GroupQueryAttention`, whose cache is a tensor per
//! sequence, and `com.microsoft.PagedAttention`, whose cache already has blocks. Features of either that the paged
//! engine lacks are refused by name.

use super::graph::{Attributes, Values, element_type, last_dimension};
use super::{AttentionShape, device, names, rope};
use crate::kernels::attention::layout::MAX_HEAD;
use crate::kernels::attention::{DOMAIN, MAX_HEADS, OPERATOR};
use crate::model::config::ModelConfig;
use crate::model::target::{DeviceAttention, Target};
use crate::onnx::nodes::{float, int, int64_tensor, node};
use crate::onnx::{GraphProto, NodeProto, TensorProto, ValueInfoProto, tensor_proto};

/// The inputs of an attention node that matter here. A missing one is empty.
pub(super) struct Inputs {
    pub(super) query: String,
    pub(super) key: String,
    pub(super) value: String,
    /// The past key. Its type is the cache's.
    pub(super) cache: String,
    pub(super) cos: String,
    pub(super) sin: String,
    query_norm: String,
    key_norm: String,
    /// Descriptions of inputs in use that can't be run.
    unknown: Option<String>,
}

impl Inputs {
    /// `None` if `node` is not an attention node.
    pub(super) fn of(node: &NodeProto) -> Option<Self> {
        // The places of the tables and the norms, and the inputs that only repeat what the packed batch says.
        let (tables, norms, implied): (usize, usize, &[usize]) = match (node.domain(), node.op_type()) {
            ("com.microsoft", "GroupQueryAttention") => (7, 14, &[5, 6, 9]),
            ("com.microsoft", "PagedAttention") => (8, 12, &[5, 6, 7, 10, 16]),
            _ => return None,
        };
        let input = |index: usize| node.input.get(index).cloned().unwrap_or_default();
        let known = [0, 1, 2, 3, 4, tables, tables + 1, norms, norms + 1];
        let unknown = |&(index, name): &(usize, &String)| {
            !name.is_empty() && !known.contains(&index) && !implied.contains(&index)
        };
        Some(Inputs {
            query: input(0),
            key: input(1),
            value: input(2),
            cache: input(3),
            cos: input(tables),
            sin: input(tables + 1),
            query_norm: input(norms),
            key_norm: input(norms + 1),
            unknown: node.input.iter().enumerate().find(unknown).map(|(index, name)| format!("{index} (`{name}`)")),
        })
    }
}

/// Replaces every attention node for `target`, whose own attention is used if it is a `device`. `flat` says that tokens
/// are a vector.
pub(super) fn replace(
    graph: &mut GraphProto,
    config: &ModelConfig,
    flat: bool,
    (target, device): (Target, Option<DeviceAttention>),
) -> Result<AttentionShape, String> {
    let mut shape: Option<AttentionShape> = None;
    let mut nodes = Vec::with_capacity(graph.node.len());
    let mut constants = Vec::new();
    let values = Values::of(graph);
    let mut layers = 0;
    for node in &graph.node {
        let Some(inputs) = Inputs::of(node) else {
            nodes.push(node.clone());
            continue;
        };
        let refuse = |why: String| format!("attention node `{}`: {why}", node.name());
        check_features(node, &inputs).map_err(refuse)?;
        if let Some(device) = device {
            device::check(node, device, config.context_length).map_err(refuse)?;
        }
        let here = layer_shape(node, &inputs, graph, config, &values, device.is_some()).map_err(refuse)?;
        device.map_or(Ok(()), |device| device::check_heads(here.head_size, device)).map_err(refuse)?;
        let before = shape.get_or_insert(here);
        before.positions = before.positions.into_iter().chain(here.positions).min();
        if (AttentionShape { positions: before.positions, ..here }) != *before {
            return Err(refuse(format!("{here:?}, but another layer has {before:?}; foreturn needs equal layers")));
        }
        let mut layer = Layer { node, inputs, shape: here, flat, nodes: &mut nodes, constants: &mut constants };
        layer.normalise();
        let joined = rope::is_joined(values.producer(&layer.inputs.cos));
        match device {
            None => layer.attend(layers, joined),
            Some(device) => {
                let block_size = target.for_heads(here.head_size).block_size;
                layer.attend_on(device, layers, joined, (&values, config.context_length, block_size));
            }
        }
        layers += 1;
    }
    let separate = separate_tables(graph, &values);
    graph.node = nodes;
    graph.initializer.extend(constants);
    match shape {
        Some(shape) => {
            let positions = shape.positions.into_iter().chain(separate).min();
            Ok(AttentionShape { layers, positions, ..shape })
        }
        None => {
            Err("the graph holds no GroupQueryAttention or PagedAttention node, so it can't run on the paged engine"
                .into())
        }
    }
}

/// Number of tokens that a token sees, including itself; -1 for all before it.
pub(super) fn window(node: &NodeProto) -> i64 {
    Attributes(node).get("local_window_size").map_or(-1, |window| window.i())
}

/// Refuses features that paged attention would silently compute differently.
fn check_features(node: &NodeProto, inputs: &Inputs) -> Result<(), String> {
    let attributes = Attributes(node);
    let uses = |what: &str| Err(format!("uses {what}, which this version cannot run"));
    let on = |name: &str| attributes.int(name) == 1;
    let off = |name: &str| attributes.get(name).is_some_and(|attribute| attribute.i() == 0);
    if on("smooth_softmax") {
        return uses("smooth_softmax");
    }
    if off("causal") || off("is_causal") {
        return uses("attention to later tokens (causal = 0)");
    }
    if attributes.int("rotary_offset") != 0 {
        return uses("rotary_offset");
    }
    if attributes.int("kv_cache_bit_width") != 0 {
        return uses("a quantised cache (kv_cache_bit_width)");
    }
    for (name, plain) in [
        ("k_quant_type", "NONE"),
        ("v_quant_type", "NONE"),
        ("k_cache_dtype", ""),
        ("v_cache_dtype", ""),
        ("kv_cache_layout", "SEPARATE"),
    ] {
        let value = attributes.text(name);
        if !value.is_empty() && value != plain {
            return uses(&format!("{name} = {value}"));
        }
    }
    if node.output.iter().skip(3).any(|output| !output.is_empty()) {
        return uses("an output of its scores (output_qk)");
    }
    let window = window(node);
    if window == 0 || window < -1 {
        return uses(&format!("local_window_size = {window}"));
    }
    let (scale, softcap) = (attributes.float("scale"), attributes.float("softcap"));
    if !scale.is_finite() {
        return uses(&format!("scale = {scale}"));
    }
    if !softcap.is_finite() || softcap < 0.0 {
        return uses(&format!("softcap = {softcap}"));
    }
    match &inputs.unknown {
        None => Ok(()),
        Some(input) => uses(&format!("input {input}: an attention bias, sink, scale or length")),
    }
}

fn layer_shape(
    node: &NodeProto,
    inputs: &Inputs,
    graph: &GraphProto,
    config: &ModelConfig,
    values: &Values<'_>,
    on_device: bool,
) -> Result<AttentionShape, String> {
    let attributes = Attributes(node);
    let cache: Option<&ValueInfoProto> = graph.input.iter().find(|input| input.name() == inputs.cache);
    let Some(cache) = cache else { return Err("its past key is not an input of the graph".into()) };
    match element_type(cache) {
        Some(tensor_proto::DataType::Float) => {}
        Some(tensor_proto::DataType::Float16 | tensor_proto::DataType::Bfloat16) if on_device => {}
        other => {
            let name = cache.name();
            return Err(format!("its cache `{name}` has element type {other:?}; this version runs float32 caches"));
        }
    }
    let Some(head_size) = last_dimension(cache).or(config.decoder.head_size) else {
        return Err(format!(
            "the head size of its cache `{}` is not a fixed number, and genai_config.json has no \
             model.decoder.head_size",
            cache.name()
        ));
    };
    if head_size > MAX_HEAD {
        return Err(format!("its heads have {head_size} numbers, more than {MAX_HEAD}"));
    }
    let (query_heads, kv_heads) = (attributes.int("num_heads"), attributes.int("kv_num_heads"));
    if query_heads <= 0 || kv_heads <= 0 || query_heads % kv_heads != 0 {
        return Err(format!("{query_heads} query heads over {kv_heads} key-value heads"));
    }
    if query_heads > MAX_HEADS as i64 {
        return Err(format!("it has {query_heads} query heads, more than {MAX_HEADS}"));
    }
    let positions = match attributes.int("do_rotary") {
        0 => None,
        _ => match table_rows(&inputs.cos, values) {
            Some(rows) => Some(rows),
            None => return Err("its rotary tables are not constants".into()),
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

/// Number of positions in a rotary table. For joined tables, it is the number of rows of the second one.
pub(super) fn table_rows(name: &str, values: &Values<'_>) -> Option<usize> {
    let rows = table(name, values)?.dims.first()?;
    usize::try_from(*rows).ok().filter(|&rows| rows > 0)
}

/// A rotary table, or the second of joined ones.
pub(super) fn table<'a>(name: &'a str, values: &Values<'a>) -> Option<&'a TensorProto> {
    let producer = values.producer(name);
    let name = match producer.filter(|_| rope::is_joined(producer)) {
        Some(joined) => joined.input.last()?,
        None => name,
    };
    values.constant(name)
}

/// Number of rows in the tables of rotary embeddings that are separate nodes.
fn separate_tables(graph: &GraphProto, values: &Values<'_>) -> Option<usize> {
    let rotary = graph.node.iter().filter(|node| node.op_type() == "RotaryEmbedding");
    // com.microsoft's operator has the position ids before the tables, ONNX's has them after.
    let tables = rotary.filter_map(|node| node.input.get(if node.domain() == "com.microsoft" { 2 } else { 1 }));
    tables.filter_map(|name| table_rows(name, values)).min()
}

/// One attention node on its way into the paged graph.
pub(super) struct Layer<'a> {
    pub(super) node: &'a NodeProto,
    pub(super) inputs: Inputs,
    pub(super) shape: AttentionShape,
    pub(super) flat: bool,
    pub(super) nodes: &'a mut Vec<NodeProto>,
    pub(super) constants: &'a mut Vec<TensorProto>,
}

impl Layer<'_> {
    /// An additional value of this node, beside its outputs.
    pub(super) fn own(&self, what: &str) -> String {
        format!("foreturn.{}.{what}", self.node.output.first().map_or("", String::as_str))
    }

    /// Normalises the heads of query and key before they are rotated, with separate nodes, if the original node does.
    fn normalise(&mut self) {
        if self.inputs.query_norm.is_empty() && self.inputs.key_norm.is_empty() {
            return;
        }
        let AttentionShape { query_heads, kv_heads, .. } = self.shape;
        self.split();
        let (query, key) = (self.inputs.query.clone(), self.inputs.key.clone());
        let (query_norm, key_norm) = (self.inputs.query_norm.clone(), self.inputs.key_norm.clone());
        self.inputs.query = self.norm("q_norm", query, &query_norm, query_heads);
        self.inputs.key = self.norm("k_norm", key, &key_norm, kv_heads);
    }

    /// Splits queries, keys and values that are packed into one tensor.
    pub(super) fn split(&mut self) {
        if !self.inputs.key.is_empty() {
            return;
        }
        let AttentionShape { query_heads, kv_heads, head_size, .. } = self.shape;
        let parts = ["query", "key", "value"].map(|part| self.own(part));
        let sizes = self.own("sizes");
        let width = |heads: usize| (heads * head_size) as i64;
        let widths = [width(query_heads), width(kv_heads), width(kv_heads)];
        self.constants.push(int64_tensor(&sizes, &[3], &widths));
        let outputs = [parts[0].as_str(), &parts[1], &parts[2]];
        let inputs = [self.inputs.query.as_str(), &sizes];
        let name = self.own("split");
        self.nodes.push(node("", "Split", &name, &inputs, &outputs, vec![int("axis", -1)]));
        let [query, key, value] = parts;
        (self.inputs.query, self.inputs.key, self.inputs.value) = (query, key, value);
    }

    /// RMS norm of each head of `input` by `weight`, or `input` if there is no weight.
    fn norm(&mut self, what: &str, input: String, weight: &str, heads: usize) -> String {
        if weight.is_empty() {
            return input;
        }
        let attributes = Attributes(self.node);
        let epsilon = [format!("{what}_epsilon"), "qk_norm_epsilon".into()];
        let epsilon = epsilon.iter().find_map(|name| attributes.get(name)).map_or(1e-6, |attribute| attribute.f());
        let size = self.shape.head_size as i64;
        let [by_head, back, split, normed, joined] =
            ["by_head", "back", "split", "normed", "joined"].map(|step| self.own(&format!("{what}.{step}")));
        self.constants.push(int64_tensor(&by_head, &[2], &[-1, size]));
        let whole = [1, -1, heads as i64 * size];
        let whole = &whole[usize::from(self.flat)..];
        self.constants.push(int64_tensor(&back, &[whole.len()], whole));
        let norm = vec![float("epsilon", epsilon), int("axis", -1), int("stash_type", 1)];
        self.nodes.extend([
            node("", "Reshape", &split, &[&input, &by_head], &[&split], vec![]),
            node("", "SimplifiedLayerNormalization", &normed, &[&split, weight], &[&normed], norm),
            node("", "Reshape", &joined, &[&normed, &back], &[&joined], vec![]),
        ]);
        joined
    }

    /// Adds the paged node. `joined` says that its tables' rows depend on the sequence's length.
    fn attend(&mut self, layer: usize, joined: bool) {
        let attributes = Attributes(self.node);
        let inputs = &self.inputs;
        let (key_cache, value_cache) = (names::key_cache(layer), names::value_cache(layer));
        let inputs = [
            inputs.query.as_str(),
            &inputs.key,
            &inputs.value,
            &key_cache,
            &value_cache,
            names::CUMULATIVE,
            names::PAST,
            names::BLOCK_TABLE,
            &inputs.cos,
            &inputs.sin,
            names::SLOTS,
            if joined { names::ROPE_OFFSET } else { "" },
        ];
        let own = vec![
            int("num_heads", self.shape.query_heads as i64),
            int("kv_num_heads", self.shape.kv_heads as i64),
            int("head_size", self.shape.head_size as i64),
            float("scale", attributes.float("scale")),
            float("softcap", attributes.float("softcap")),
            int("local_window_size", window(self.node)),
            int("do_rotary", attributes.int("do_rotary")),
            int("rotary_interleaved", attributes.int("rotary_interleaved")),
        ];
        let output = self.node.output.first().map_or("", String::as_str);
        self.nodes.push(node(DOMAIN, OPERATOR, self.node.name(), &inputs, &[output], own));
    }
}
