//! Norms and sums that are fused into products, and those that stay.

use super::super::products::tests::replaced;
use super::*;
use crate::model::options::Dtype;
use crate::onnx::nodes::{MICROSOFT, float_tensor};
use crate::onnx::{TensorProto, ValueInfoProto};

const WIDTH: usize = 32;

/// A product with a square weight of bytes.
fn bytes(input: &str, output: &str) -> NodeProto {
    let width = WIDTH as i64;
    let attributes =
        vec![int("bits", 8), int("K", width), int("N", width), int("block_size", 32), int("accuracy_level", 4)];
    node(MICROSOFT, "MatMulNBits", output, &[input, "quants", "scales"], &[output], attributes)
}

/// A product with a square weight of floats.
fn floats(input: &str, output: &str) -> NodeProto {
    node("", "MatMul", output, &[input, "floats"], &[output], vec![])
}

fn norm(input: &str, output: &str) -> NodeProto {
    let attributes = vec![int("axis", -1), float("epsilon", 1e-6)];
    node("", "SimplifiedLayerNormalization", output, &[input, "weight"], &[output], attributes)
}

fn skip_norm(stream: &str, branch: &str, outputs: &[&str]) -> NodeProto {
    node(MICROSOFT, SKIP_NORM, outputs[0], &[stream, branch, "weight"], outputs, vec![float("epsilon", 1e-5)])
}

/// The nodes as `operator(inputs) -> output`, after products were replaced and fused.
fn taken_over(node: Vec<NodeProto>, outputs: &[&str]) -> Vec<String> {
    let quants = TensorProto {
        name: Some("quants".into()),
        data_type: Some(DataType::Uint8.into()),
        dims: vec![WIDTH as i64, 1, 32],
        raw_data: Some(vec![0; WIDTH * 32].into()),
        ..TensorProto::default()
    };
    let initializer = vec![
        quants,
        float_tensor("scales", &[WIDTH, 1], &[1.0; WIDTH]),
        float_tensor("floats", &[WIDTH, WIDTH], &[1.0; WIDTH * WIDTH]),
        float_tensor("weight", &[WIDTH], &[1.0; WIDTH]),
    ];
    let output = |name: &&str| ValueInfoProto { name: Some((*name).into()), ..ValueInfoProto::default() };
    let output = outputs.iter().map(output).collect();
    let mut graph = GraphProto { node, initializer, output, ..GraphProto::default() };
    let products = replaced(&mut graph, Dtype::Auto);
    take_over(&mut graph, &products);
    let text = |node: &NodeProto| {
        let epsilon = Attributes(node).get("epsilon").map_or(String::new(), |e| format!(" {:e}", e.f()));
        format!("{}({}){epsilon} -> {}", node.op_type(), node.input.join(", "), node.output.join(", "))
    };
    graph.node.iter().map(text).collect()
}

#[test]
fn of_a_layer_products_alone_are_left() {
    let layer = vec![
        norm("x", "x.normed"),
        bytes("x.normed", "attention"),
        skip_norm("x", "attention", &["y.normed", "", "", "y"]),
        bytes("y.normed", "feed_forward"),
        // The other way round, and nothing else reads its sum.
        skip_norm("feed_forward", "y", &["z"]),
    ];
    assert_eq!(
        taken_over(layer, &["z"]),
        [
            "PackedMatMul(x, weight, x) 1e-6 -> y",
            "PackedMatMul(y, weight, y) 1e-5 -> z/sum",
            "SimplifiedLayerNormalization(z/sum, weight) 1e-5 -> z",
        ]
    );
}

/// The stream may come after the product. It is added where the sum was.
#[test]
fn a_product_waits_for_what_it_is_added_to() {
    let parallel = vec![floats("x", "branch"), floats("x", "stream"), skip_norm("stream", "branch", &["z"])];
    assert_eq!(
        taken_over(parallel, &["z"]),
        [
            "PackedMatMul(x) -> stream",
            "PackedMatMul(x, , stream) -> z/sum",
            "SimplifiedLayerNormalization(z/sum, weight) 1e-5 -> z",
        ]
    );
}

#[test]
fn what_others_read_stays_and_so_do_norms_of_floats() {
    assert_eq!(
        taken_over(vec![norm("x", "n"), bytes("n", "y")], &["y", "n"]),
        ["SimplifiedLayerNormalization(x, weight) 1e-6 -> n", "PackedMatMul(n) -> y"],
        "a norm that is an output"
    );
    assert_eq!(
        taken_over(vec![norm("x", "n"), floats("n", "y")], &["y"]),
        ["SimplifiedLayerNormalization(x, weight) 1e-6 -> n", "PackedMatMul(n) -> y"],
        "inputs that are not rounded"
    );
    assert_eq!(
        taken_over(vec![bytes("x", "branch"), skip_norm("x", "branch", &["z"])], &["z", "branch"]),
        ["PackedMatMul(x) -> branch", "SkipSimplifiedLayerNormalization(x, branch, weight) 1e-5 -> z"],
        "a product that is an output"
    );
    let mut biased = skip_norm("x", "branch", &["z"]);
    biased.input.push("weight".into());
    assert_eq!(
        taken_over(vec![bytes("x", "branch"), biased], &["z"]),
        ["PackedMatMul(x) -> branch", "SkipSimplifiedLayerNormalization(x, branch, weight, weight) 1e-5 -> z"],
        "a sum of three"
    );
}
