//! The rewrite of small graphs: the results, and the features that it refuses by name.

use super::*;
use crate::onnx::nodes::{MICROSOFT, float, float_tensor, int, int64_tensor, node, subgraph};
use crate::onnx::tensor_proto::DataType;
use crate::onnx::{AttributeProto, ModelProto, NodeProto, TensorProto};
use crate::runtime::Provider;

mod on_devices;

/// One layer of 4 query and 2 key-value heads of 8 dimensions: tokens, attention, logits.
struct Sketch {
    attention: NodeProto,
    before: Vec<NodeProto>,
    after: Vec<NodeProto>,
    initializer: Vec<TensorProto>,
    inputs: Vec<ValueInfoProto>,
    head_size: Dim<'static>,
}

const TABLE_ROWS: usize = 32;

fn attention(inputs: &[&str], attributes: Vec<AttributeProto>) -> NodeProto {
    let own = vec![int("num_heads", 4), int("kv_num_heads", 2), int("do_rotary", 1)];
    let attributes = own.into_iter().chain(attributes).collect();
    node(
        MICROSOFT,
        "GroupQueryAttention",
        "attention",
        inputs,
        &["mixed", "present.0.key", "present.0.value"],
        attributes,
    )
}

const USUAL: [&str; 9] = ["packed", "", "", "past.key", "past.value", "lengths", "total", "cos", "sin"];

impl Sketch {
    fn new(attributes: Vec<AttributeProto>) -> Self {
        let table = |name: &str| float_tensor(name, &[TABLE_ROWS, 4], &[0.5; 4 * TABLE_ROWS]);
        let weight = |name: &str, dims: [usize; 2]| float_tensor(name, &dims, &vec![0.1; dims[0] * dims[1]]);
        Sketch {
            attention: attention(&USUAL, attributes),
            before: vec![
                node("", "Gather", "embed", &["embedding", "input_ids"], &["x"], vec![]),
                node("", "MatMul", "qkv", &["x", "qkv.weight"], &["packed"], vec![]),
            ],
            after: vec![node("", "MatMul", "head", &["mixed", "head.weight"], &["logits"], vec![])],
            initializer: vec![
                table("cos"),
                table("sin"),
                weight("embedding", [9, 16]),
                weight("qkv.weight", [16, 64]),
                weight("head.weight", [32, 9]),
            ],
            inputs: Vec::new(),
            head_size: Dim::Size(8),
        }
    }

    fn rewrite(self) -> Result<(PagedGraph, GraphProto)> {
        self.rewrite_for(Target::cpu())
    }

    fn rewrite_for(self, target: Target) -> Result<(PagedGraph, GraphProto)> {
        let batch = [Dim::Symbol("batch"), Dim::Symbol("sequence")];
        let cache = [Dim::Symbol("batch"), Dim::Size(2), Dim::Symbol("past"), self.head_size];
        let mut input = vec![
            value_info("input_ids", DataType::Int64, &batch),
            value_info("attention_mask", DataType::Int64, &batch),
            value_info("past.key", DataType::Float, &cache),
            value_info("past.value", DataType::Float, &cache),
            value_info("lengths", DataType::Int32, &batch[..1]),
            value_info("total", DataType::Int32, &[]),
            value_info("sink", DataType::Float, &[Dim::Size(4)]),
        ];
        input.extend(self.inputs);
        let logits = value_info("logits", DataType::Float, &[batch[0], batch[1], Dim::Size(9)]);
        let graph = GraphProto {
            node: self.before.into_iter().chain([self.attention]).chain(self.after).collect(),
            initializer: self.initializer,
            input,
            output: vec![logits],
            ..GraphProto::default()
        };
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.onnx");
        let model = ModelProto { ir_version: Some(10), graph: Some(graph), ..ModelProto::default() };
        std::fs::write(&path, model.encode_to_vec()).expect("written");
        let config =
            serde_json::json!({"type": "t", "vocab_size": 9, "context_length": 64, "decoder": {"head_size": 8}});
        let file = GraphFile::read(&path)?;
        let paged =
            rewrite(&file, &serde_json::from_value(config).expect("a configuration"), OpenOptions::default(), target)?;
        let graph = ModelProto::decode(paged.bytes.as_slice()).expect("an ONNX model").graph.expect("a graph");
        Ok((paged, graph))
    }

    fn refusal(self) -> String {
        self.refusal_on(Provider::Cpu)
    }

    fn refusal_on(self, provider: Provider) -> String {
        let Err(error) = self.rewrite_for(Target::of(provider)) else { panic!("not refused") };
        assert_eq!(error.kind(), crate::ErrorKind::Unsupported, "{error}");
        error.to_string()
    }
}

fn paged_node(graph: &GraphProto) -> &NodeProto {
    graph.node.iter().find(|node| node.op_type() == "PagedAttention").expect("a paged node")
}

#[test]
fn attributes_of_a_layer_are_kept() {
    let (paged, graph) = Sketch::new(vec![int("local_window_size", 5), float("softcap", 3.0), float("scale", 0.2)])
        .rewrite()
        .expect("fits");
    let attributes = graph::Attributes(paged_node(&graph));
    assert_eq!((attributes.int("local_window_size"), attributes.float("softcap")), (5, 3.0));
    assert_eq!((attributes.float("scale"), attributes.int("head_size")), (0.2, 8));
    assert_eq!((paged.shape.positions, paged.shape.layers), (Some(TABLE_ROWS), 1));
    assert!(paged.bitwise_exceptions.is_empty() && paged.long_rope.is_none() && !paged.flat);
    let inputs: Vec<&str> = graph.input.iter().map(ValueInfoProto::name).collect();
    assert!(!inputs.contains(&"attention_mask") && !inputs.contains(&names::ROPE_OFFSET), "{inputs:?}");
}

#[test]
fn a_head_size_that_the_graph_leaves_open_comes_from_the_configuration() {
    let sketch = Sketch { head_size: Dim::Symbol("kv_cache_dim"), ..Sketch::new(vec![]) };
    assert_eq!(sketch.rewrite().expect("fits").0.shape.head_size, 8);
}

#[test]
fn what_attention_would_do_otherwise_is_refused_by_name() {
    let with = |attribute| Sketch::new(vec![attribute]).refusal();
    assert!(with(int("smooth_softmax", 1)).contains("`attention`: uses smooth_softmax"));
    assert!(with(int("causal", 0)).contains("later tokens"));
    assert!(with(int("local_window_size", 0)).contains("local_window_size = 0"));
    assert!(with(int("kv_cache_bit_width", 8)).contains("kv_cache_bit_width"));
    assert!(with(float("softcap", -1.0)).contains("`attention`: uses softcap = -1"));
    assert!(with(float("scale", f32::NAN)).contains("scale = NaN"));
    let mut many = Sketch::new(vec![]);
    many.attention.attribute[0].i = Some(1 << 17);
    assert!(many.refusal().contains("`attention`: it has 131072 query heads, more than 65536"));
    let sink = USUAL.into_iter().chain(["", "", "sink"]).collect::<Vec<_>>();
    let refusal = Sketch { attention: attention(&sink, vec![]), ..Sketch::new(vec![]) }.refusal();
    assert!(refusal.contains("input 11 (`sink`)"), "{refusal}");
}

#[test]
fn norms_inside_attention_become_nodes() {
    let inputs = USUAL.into_iter().chain(["", "", "", "", "", "q_norm", "k_norm"]).collect::<Vec<_>>();
    let mut sketch =
        Sketch { attention: attention(&inputs, vec![float("qk_norm_epsilon", 1e-3)]), ..Sketch::new(vec![]) };
    sketch.initializer.extend(["q_norm", "k_norm"].map(|name| float_tensor(name, &[8], &[1.0; 8])));
    let (_, graph) = sketch.rewrite().expect("fits");
    let ops: Vec<&str> = graph.node.iter().map(NodeProto::op_type).collect();
    let norm = ["Reshape", "SimplifiedLayerNormalization", "Reshape"];
    assert_eq!(ops[2], "Split");
    assert_eq!((&ops[3..6], &ops[6..9], ops[9]), (&norm[..], &norm[..], "PagedAttention"));
    assert_eq!(graph::Attributes(&graph.node[4]).float("epsilon"), 1e-3);
}

#[test]
fn rows_to_keep_are_all_of_them() {
    let mut sketch = Sketch::new(vec![]);
    sketch.inputs.push(value_info("num_logits_to_keep", DataType::Int64, &[]));
    sketch.after = vec![
        node("", "Add", "shift", &["mixed", "num_logits_to_keep"], &["kept"], vec![]),
        node("", "MatMul", "head", &["kept", "head.weight"], &["logits"], vec![]),
    ];
    let (_, graph) = sketch.rewrite().expect("fits");
    assert!(graph.input.iter().all(|input| input.name() != "num_logits_to_keep"));
    let kept = graph.initializer.iter().find(|tensor| tensor.name() == "num_logits_to_keep").expect("a constant");
    assert_eq!(graph::integer(kept), Some(0));
}

#[test]
fn logits_that_depend_on_more_than_tokens_are_refused() {
    let mut sketch = Sketch::new(vec![]);
    sketch.after.insert(0, node("", "Add", "bias", &["mixed", "style"], &["styled"], vec![]));
    sketch.after[1].input[0] = "styled".into();
    sketch.inputs.push(value_info("style", DataType::Float, &[Dim::Size(32)]));
    assert!(sketch.refusal().contains("input `style`"));
}

/// A sketch whose tables an `If` chooses, after `length`, by `condition`.
fn two_tables(length: Vec<NodeProto>, condition: NodeProto) -> Sketch {
    let constant = |name: &str, rows: usize| {
        let value = AttributeProto { name: Some("value".into()), ..subgraph("value", GraphProto::default()) };
        let tensor = float_tensor("", &[rows, 4], &vec![rows as f32; 4 * rows]);
        let value = AttributeProto { r#type: Some(4), g: None, t: Some(tensor), ..value };
        node("", "Constant", name, &[], &[name], vec![value])
    };
    let outputs = |names: [&str; 2]| names.map(|name| value_info(name, DataType::Float, &[])).to_vec();
    let large = GraphProto {
        node: vec![constant("large_cos", 48), constant("large_sin", 48)],
        output: outputs(["large_cos", "large_sin"]),
        ..GraphProto::default()
    };
    // One branch as onnxruntime-genai writes it, one with tables of the outer graph.
    let small = GraphProto {
        node: vec![
            node("", "Identity", "a", &["small"], &["small_cos"], vec![]),
            node("", "Identity", "b", &["small"], &["small_sin"], vec![]),
        ],
        output: outputs(["small_cos", "small_sin"]),
        ..GraphProto::default()
    };
    let branches = vec![subgraph("then_branch", large), subgraph("else_branch", small)];
    let mut sketch = Sketch::new(vec![]);
    sketch.initializer.retain(|tensor| !["cos", "sin"].contains(&tensor.name()));
    sketch.initializer.extend([
        float_tensor("small", &[20, 4], &[1.0; 80]),
        int64_tensor("limit", &[], &[20]),
        int64_tensor("one", &[], &[1]),
    ]);
    sketch.before.extend(length);
    sketch.before.push(condition);
    sketch.before.push(node("", "If", "choose", &["long"], &["cos", "sin"], branches));
    sketch
}

#[test]
fn two_kinds_of_rotary_tables_become_one_with_an_offset() {
    let length = vec![
        node("", "Shape", "shape", &["attention_mask"], &["shape"], vec![]),
        node("", "Gather", "gather", &["shape", "one"], &["length"], vec![]),
    ];
    let condition = |op| node("", op, "compare", &["length", "limit"], &["long"], vec![]);
    let (paged, graph) = two_tables(length.clone(), condition("Greater")).rewrite().expect("fits");
    let rope = LongRope { original: 20, small_rows: 20, large_rows: 48 };
    assert_eq!((paged.long_rope, paged.shape.positions), (Some(rope), Some(48)));
    assert_eq!(paged_node(&graph).input[11], names::ROPE_OFFSET);
    assert_eq!(graph.node.iter().filter(|node| node.op_type() == "Concat").count(), 2);
    assert!(paged.bitwise_exceptions.is_empty(), "{:?}", paged.bitwise_exceptions);
    let (paged, _) = two_tables(length.clone(), condition("GreaterOrEqual")).rewrite().expect("fits");
    assert_eq!(paged.long_rope.map(|rope| rope.original), Some(19));
    assert!(two_tables(length, condition("Less")).refusal().contains("`choose`"));
}

#[test]
fn tables_chosen_by_something_else_are_refused() {
    let length = vec![node("", "Shape", "shape", &["input_ids"], &["length"], vec![])];
    let condition = node("", "Greater", "compare", &["length", "limit"], &["long"], vec![]);
    assert!(two_tables(length, condition).refusal().contains("other than the sequences' length"));
}

/// Nodes after the last attention that work row by row are computed only for the wanted rows. Attention needs all rows.
#[test]
fn the_end_of_the_last_layer_is_computed_for_wanted_rows() {
    let mut sketch = Sketch::new(vec![]);
    let weight = |name: &str, dims: [usize; 2]| float_tensor(name, &dims, &vec![0.1; dims[0] * dims[1]]);
    sketch.initializer.extend([weight("out.weight", [32, 16]), float_tensor("norm", &[16], &[1.0; 16])]);
    sketch.initializer.retain(|tensor| tensor.name() != "head.weight");
    sketch.initializer.push(weight("head.weight", [16, 9]));
    let skip = node(
        MICROSOFT,
        "SkipSimplifiedLayerNormalization",
        "skip",
        &["x", "branch", "norm"],
        // Two of its outputs are unused. Their empty names belong to no value.
        &["normed", "", "", "stream"],
        vec![float("epsilon", 1e-5)],
    );
    sketch.after = vec![
        node("", "MatMul", "out", &["mixed", "out.weight"], &["branch"], vec![]),
        skip,
        node("", "Add", "residual", &["normed", "stream"], &["last"], vec![]),
        node("", "MatMul", "head", &["last", "head.weight"], &["logits"], vec![]),
    ];
    let (_, graph) = sketch.rewrite().expect("fits");
    let gathers: Vec<_> =
        graph.node.iter().filter(|node| node.input.get(1).is_some_and(|i| i == names::LOGIT_ROWS)).collect();
    let mut sources: Vec<&str> = gathers.iter().map(|gather| gather.input[0].as_str()).collect();
    sources.sort_unstable();
    assert_eq!(sources, ["mixed", "x"], "attention's output and the residual stream, each once");
    // The sum's own node, or the product that it was fused into.
    let sum = graph.node.iter().find(|node| node.output.iter().any(|o| o == "stream")).expect("it is still there");
    assert!(sum.input.iter().any(|input| input == "x/logit_rows"), "{:?}", sum.input);
    let place = |name: &str| graph.node.iter().position(|node| node.output.iter().any(|o| o == name)).expect(name);
    assert!(place("mixed") < place("mixed/logit_rows") && place("mixed/logit_rows") < place("stream"));
    assert!(place("last") < place("logits"));
}

/// All rows of a value are needed if something else reads it too.
#[test]
fn what_is_read_elsewhere_is_computed_for_all_rows() {
    let mut sketch = Sketch::new(vec![]);
    sketch.initializer.push(float_tensor("half", &[1], &[0.5]));
    sketch.after = vec![
        node("", "Mul", "halve", &["mixed", "half"], &["halved"], vec![]),
        // Not known to work row by row.
        node("", "Erf", "other", &["halved"], &["erf"], vec![]),
        node("", "Add", "sum", &["halved", "erf"], &["last"], vec![]),
        node("", "MatMul", "head", &["last", "head.weight"], &["logits"], vec![]),
    ];
    let (_, graph) = sketch.rewrite().expect("fits");
    let sum = graph.node.iter().find(|node| node.name() == "sum").expect("it is still there");
    assert_eq!(sum.input, ["halved/logit_rows", "erf/logit_rows"]);
    let halve = graph.node.iter().find(|node| node.name() == "halve").expect("it is still there");
    assert_eq!(halve.input[0], "mixed");
}
