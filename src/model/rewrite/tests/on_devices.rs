//! The same rewrites for devices: ONNX Runtime's own attention over half precision.

use super::*;

fn on(provider: Provider, sketch: Sketch) -> (PagedGraph, GraphProto) {
    sketch.rewrite_for(Target::of(provider)).expect("fits")
}

fn ops(graph: &GraphProto) -> Vec<&str> {
    graph.node.iter().map(NodeProto::op_type).collect()
}

fn names(values: &[ValueInfoProto]) -> Vec<&str> {
    values.iter().map(ValueInfoProto::name).collect()
}

#[test]
fn tokens_become_a_vector_and_numbers_half_precision() {
    let (paged, graph) = on(Provider::WebGpu, Sketch::new(vec![float("scale", 0.2)]));
    assert!(paged.flat && paged.products.is_empty());
    assert_eq!((paged.cache, paged.target.block_size), (Cache::Device(Precision::Float16), 64));
    // Tables of 32 rows are read to the end of a block of 64.
    assert_eq!(ops(&graph), ["Gather", "MatMul", "Gather", "Gather", "PagedAttention", "Gather", "MatMul"]);
    let node = paged_node(&graph);
    assert_eq!((node.domain(), node.output.len()), (MICROSOFT, 3));
    assert_eq!(node.input[8..10], ["foreturn.cos.whole_blocks", "foreturn.sin.whole_blocks"]);
    assert_eq!((node.input[10].as_str(), node.input[16].as_str()), ("", names::METADATA), "it takes no slots");
    let longer = graph.initializer.iter().find(|t| t.name() == "foreturn.cos.whole_blocks.rows").expect("rows");
    let rows = graph::integers(longer).expect("integers");
    assert_eq!((rows.len(), rows[31], rows[32], rows[63]), (64, 31, 31, 31));
    assert_eq!(graph::Attributes(node).float("scale"), 0.2);
    assert!(graph::Attributes(node).get("softcap").is_none() && graph::Attributes(node).get("head_size").is_none());
    let kinds: Vec<_> = graph.initializer.iter().map(|tensor| tensor.data_type()).collect();
    assert!(kinds.iter().all(|&kind| kind == DataType::Float16 as i32 || kind == DataType::Int64 as i32), "{kinds:?}");
    let cache = "foreturn.key_cache.0";
    assert_eq!(names(&graph.output), ["logits", "foreturn.key_cache.0.updated", "foreturn.value_cache.0.updated"]);
    let input = graph.input.iter().find(|input| input.name() == cache).expect("a cache");
    assert_eq!(graph::element_type(input), Some(DataType::Float16));
    assert_eq!(graph.input.first().and_then(graph::rank), Some(1), "ids are a vector");
    assert_eq!(paged.bitwise_exceptions, ["the provider `webgpu`: a row may be rounded by those beside it"]);
    let bytes = ModelProto::decode(paged.bytes.as_slice()).expect("a model");
    assert!(bytes.opset_import.iter().all(|opset| opset.domain() != DOMAIN), "it needs no operator of ours");
}

#[test]
fn weights_in_bfloat16_that_the_graph_widens_decide_the_precision() {
    let sketch = || {
        let mut sketch = Sketch::new(vec![]);
        let weight = sketch.initializer.iter_mut().find(|tensor| tensor.name() == "head.weight").expect("a weight");
        let half = vec![0; 2 * weight.dims.iter().product::<i64>() as usize];
        weight.float_data.clear();
        weight.name = Some("half".into());
        (weight.data_type, weight.raw_data) = (Some(DataType::Bfloat16 as i32), Some(half.into()));
        let to = vec![int("to", DataType::Float as i64)];
        sketch.before.push(node("", "Cast", "widened", &["half"], &["head.weight"], to));
        sketch
    };
    for (provider, precision) in [(Provider::Cuda, Precision::Bfloat16), (Provider::WebGpu, Precision::Float16)] {
        assert_eq!(on(provider, sketch()).0.cache, Cache::Device(precision), "{provider:?}");
    }
}

#[test]
fn cuda_takes_slots_windows_and_soft_caps() {
    let (paged, graph) = on(Provider::Cuda, Sketch::new(vec![int("local_window_size", 5), float("softcap", 3.0)]));
    let node = paged_node(&graph);
    assert_eq!(paged.target.block_size, 256);
    assert_eq!((node.input[10].as_str(), node.input[16].as_str()), (names::SLOTS, names::METADATA));
    assert_eq!(node.input[8..10], ["cos", "sin"]);
    let attributes = graph::Attributes(node);
    assert_eq!((attributes.int("local_window_size"), attributes.float("softcap")), (5, 3.0));
}

#[test]
fn what_a_provider_gets_wrong_is_refused_by_name() {
    let on_web = |attribute| Sketch::new(vec![attribute]).refusal_on(Provider::WebGpu);
    let window = on_web(int("local_window_size", 5));
    assert!(
        window.contains("a window of 5 tokens (local_window_size), which ONNX Runtime's provider `webgpu`"),
        "{window}"
    );
    assert!(on_web(float("softcap", 3.0)).contains("a soft cap (softcap = 3)"));
    // No sequence is longer than the context of 64.
    let (_, graph) = on(Provider::WebGpu, Sketch::new(vec![int("local_window_size", 64)]));
    assert_eq!(graph::Attributes(paged_node(&graph)).int("local_window_size"), -1);
    assert!(Sketch::new(vec![]).refusal_on(Provider::TensorRt).contains("TensorRT has no paged attention"));
    assert!(on_web(int("smooth_softmax", 1)).contains("smooth_softmax"), "as on the CPU");
    let odd = Sketch { head_size: Dim::Size(12), ..Sketch::new(vec![]) }.refusal_on(Provider::Cuda);
    assert!(
        odd.contains("its heads have 12 numbers, and ONNX Runtime's provider `cuda` takes multiples of 8"),
        "{odd}"
    );
}

#[test]
fn graphs_with_batches_inside_have_attention_between_reshapes() {
    let mut sketch = Sketch::new(vec![]);
    sketch.before[1].output[0] = "projected".into();
    sketch.before.push(node("", "Reshape", "shape", &["projected", "three"], &["packed"], vec![]));
    sketch.initializer.push(int64_tensor("three", &[3], &[0, -1, 64]));
    let (paged, graph) = on(Provider::Cuda, sketch);
    assert!(!paged.flat);
    assert_eq!(ops(&graph)[2..6], ["Reshape", "Reshape", "PagedAttention", "Reshape"]);
    let rows = graph.initializer.iter().find(|t| t.name().ends_with("query_rows.shape")).expect("a shape");
    assert_eq!(graph::integers(rows), Some(vec![-1, 64]), "all heads of queries, keys and values");
    assert_eq!(graph.input.first().and_then(graph::rank), Some(2));
}

#[test]
fn tables_by_length_are_read_outside_of_attention() {
    let length = vec![
        node("", "Shape", "shape", &["attention_mask"], &["shape"], vec![]),
        node("", "Gather", "gather", &["shape", "one"], &["length"], vec![]),
    ];
    let condition = node("", "Greater", "compare", &["length", "limit"], &["long"], vec![]);
    let (paged, graph) = on(Provider::WebGpu, two_tables(length, condition));
    assert!(paged.long_rope.is_some() && paged.flat);
    let rotary: Vec<_> = graph.node.iter().filter(|node| node.op_type() == "RotaryEmbedding").collect();
    assert_eq!(rotary.len(), 2, "queries and keys");
    assert!(rotary.iter().all(|node| node.input[1..] == [names::ROTARY_POSITIONS, "cos", "sin"]));
    assert_eq!(rotary.iter().map(|node| graph::Attributes(node).int("num_heads")).collect::<Vec<_>>(), [4, 2]);
    let attends = paged_node(&graph);
    assert_eq!(graph::Attributes(attends).int("do_rotary"), 0);
    assert!(attends.input[8..10].iter().all(String::is_empty));
    assert!(graph.input.iter().any(|input| input.name() == names::ROTARY_POSITIONS));
}

#[test]
fn transposed_weights_are_turned_where_the_provider_leaves_them_to_the_cpu() {
    let sketch = || {
        let mut sketch = Sketch::new(vec![]);
        let product = &mut sketch.after[0];
        (product.op_type, product.domain) = (Some("FusedMatMul".into()), Some(MICROSOFT.into()));
        product.attribute = vec![int("transB", 1), float("alpha", 1.0)];
        sketch.initializer.retain(|tensor| tensor.name() != "head.weight");
        sketch.initializer.push(float_tensor("head.weight", &[9, 32], &[0.1; 9 * 32]));
        sketch
    };
    let (_, graph) = on(Provider::WebGpu, sketch());
    let head = graph.node.last().expect("a node");
    assert_eq!(
        (head.op_type(), head.domain(), head.input[1].as_str()),
        ("MatMul", "", "foreturn.head.weight.transposed")
    );
    let (_, graph) = on(Provider::Cuda, sketch());
    assert_eq!(graph.node.last().expect("a node").op_type(), "FusedMatMul");
}
