//! Products that become the engine's own, those that become one, and those that stay as they are.

use super::*;
use crate::kernels::matmul;
use crate::model::source::Files;
use crate::onnx::nodes::{MICROSOFT, float, float_tensor, int64_tensor, ints};
use crate::onnx::{AttributeProto, ValueInfoProto};

/// A weight `[inner, columns]`, or with these dimensions.
fn weight(name: &str, dims: [usize; 2]) -> TensorProto {
    float_tensor(name, &dims, &vec![0.1; dims[0] * dims[1]])
}

/// Replaces the products of a graph that was not widened.
pub(in crate::model::rewrite::cpu) fn replaced(graph: &mut GraphProto, dtype: Dtype) -> Vec<Product> {
    let original = graph.clone();
    replace(graph, &original, dtype)
}

fn matmul(weight: &str, input: &str, output: &str) -> NodeProto {
    node("", "MatMul", output, &[input, weight], &[output], vec![])
}

fn graph(node: Vec<NodeProto>, initializer: Vec<TensorProto>, output: &str) -> GraphProto {
    let output = ValueInfoProto { name: Some(output.into()), ..ValueInfoProto::default() };
    GraphProto { node, initializer, output: vec![output], ..GraphProto::default() }
}

/// Operators and outputs of all nodes.
fn nodes(graph: &GraphProto) -> Vec<(&str, &str)> {
    graph.node.iter().map(|node| (node.op_type(), node.output[0].as_str())).collect()
}

#[test]
fn query_key_and_value_are_one_product() {
    let nodes_before = vec![
        matmul("q.weight", "x", "q"),
        matmul("k.weight", "x", "k"),
        matmul("v.weight", "x", "v"),
        node(DOMAIN, attention::OPERATOR, "attention", &["q", "k", "v", "cache"], &["mixed"], vec![]),
    ];
    let weights = vec![weight("q.weight", [64, 32]), weight("k.weight", [64, 16]), weight("v.weight", [64, 16])];
    let mut graph = graph(nodes_before, weights, "mixed");
    let products = replaced(&mut graph, Dtype::Auto);
    assert_eq!(nodes(&graph), [(matmul::OPERATOR, "mixed/query_key_value"), (attention::OPERATOR, "mixed")]);
    assert_eq!(graph.node[1].input, ["mixed/query_key_value", "", "", "cache"]);
    assert_eq!(products.len(), 1);
    let shape = Shape { kind: Kind::Floats, epilogue: Epilogue::Store, inputs: 64, block_sums: false, columns: 64 };
    assert_eq!((products[0].shape, products[0].weights.len()), (shape, 3));
}

#[test]
fn gate_up_and_activation_are_one_product() {
    let gelu = vec![crate::onnx::nodes::text("approximate", "tanh")];
    for (activation, expected) in [
        (
            vec![
                node("", "Sigmoid", "sigmoid", &["gate"], &["sigmoid"], vec![]),
                node("", "Mul", "act", &["gate", "sigmoid"], &["act"], vec![]),
            ],
            Activation::Silu,
        ),
        (vec![node("", "Gelu", "act", &["gate"], &["act"], gelu)], Activation::GeluTanh),
    ] {
        let mut all = vec![matmul("gate.weight", "x", "gate"), matmul("up.weight", "x", "up")];
        all.extend(activation);
        all.push(node("", "Mul", "product", &["act", "up"], &["product"], vec![]));
        all.push(matmul("down.weight", "product", "y"));
        let weights =
            vec![weight("gate.weight", [8, 48]), weight("up.weight", [8, 48]), weight("down.weight", [48, 8])];
        let mut graph = graph(all, weights, "y");
        let products = replaced(&mut graph, Dtype::Auto);
        assert_eq!(nodes(&graph), [(matmul::OPERATOR, "product"), (matmul::OPERATOR, "y")]);
        assert_eq!(graph.node[0].input, ["x"]);
        assert_eq!(products[0].shape.epilogue, Epilogue::Gated(expected));
        assert_eq!((products[0].shape.outputs(), products[1].shape.outputs()), (48, 8));
    }
}

#[test]
fn what_others_read_as_well_is_merged_with_nothing() {
    let all = vec![
        matmul("gate.weight", "x", "gate"),
        matmul("up.weight", "x", "up"),
        node("", "Sigmoid", "sigmoid", &["gate"], &["sigmoid"], vec![]),
        node("", "Mul", "act", &["gate", "sigmoid"], &["act"], vec![]),
        node("", "Mul", "product", &["act", "up"], &["product"], vec![]),
        node("", "Add", "sum", &["product", "up"], &["y"], vec![]),
    ];
    let weights = vec![weight("gate.weight", [8, 16]), weight("up.weight", [8, 16])];
    let mut graph = graph(all, weights, "y");
    assert_eq!(replaced(&mut graph, Dtype::Auto).len(), 2);
    assert_eq!(nodes(&graph)[..3], [(matmul::OPERATOR, "gate"), (matmul::OPERATOR, "up"), ("Sigmoid", "sigmoid")]);
}

/// A MatMulNBits of 64 inputs and 16 columns, with its tensors.
fn quantised(input: &str, inner: i64, with: Vec<AttributeProto>, zero_points: bool) -> (NodeProto, Vec<TensorProto>) {
    let own = vec![int("K", inner), int("N", 16), int("block_size", 32), int("accuracy_level", 4)];
    // In tests, the last value of a name counts. In a graph, each occurs once.
    let bits = with.iter().find(|a| a.name() == "bits").map_or(4, |a| a.i()) as usize;
    let kept = own.into_iter().filter(|a| with.iter().all(|b| b.name() != a.name()));
    let attributes: Vec<_> = kept.chain(with.clone()).collect();
    let blocks = (inner as usize).div_ceil(32);
    let bytes = |name: &str, dims: &[usize]| TensorProto {
        name: Some(name.into()),
        data_type: Some(DataType::Uint8.into()),
        dims: dims.iter().map(|&dim| dim as i64).collect(),
        raw_data: Some(vec![0; dims.iter().product()].into()),
        ..TensorProto::default()
    };
    let mut tensors =
        vec![bytes("quants", &[16, blocks, 4 * bits]), float_tensor("scales", &[16, blocks], &vec![1.0; 16 * blocks])];
    let mut inputs = vec![input, "quants", "scales"];
    if zero_points {
        tensors.push(bytes("zeros", &[16, (blocks * bits).div_ceil(8)]));
        inputs.push("zeros");
    }
    (node(MICROSOFT, "MatMulNBits", "y", &inputs, &["y"], attributes), tensors)
}

#[test]
fn sums_of_blocks_are_the_products_own_work() {
    let (product, mut tensors) = quantised("summed", 66, vec![int("bits", 4)], true);
    tensors.push(int64_tensor("shape", &[4], &[0, 0, 2, 32]));
    tensors.push(int64_tensor("axes", &[1], &[-1]));
    let all = vec![
        node("", "Reshape", "blocks", &["x", "shape"], &["blocks"], vec![]),
        node("", "ReduceSum", "sums", &["blocks", "axes"], &["sums"], vec![int("keepdims", 0)]),
        node("", "Concat", "summed", &["x", "sums"], &["summed"], vec![int("axis", -1)]),
        product,
    ];
    let mut graph = graph(all, tensors, "y");
    let products = replaced(&mut graph, Dtype::Auto);
    let shape = products[0].shape;
    assert_eq!((shape.kind, shape.inputs, shape.block_sums, shape.inner()), (Kind::Nibbles, 64, true, 66));
    assert_eq!(graph.node.last().expect("a node").input, ["x"]);
}

/// ONNX Runtime keeps products with other arithmetic than ours, and those that the packed form can't hold.
#[test]
fn what_is_not_understood_stays() {
    let fused = |attributes| {
        let product = node(MICROSOFT, "FusedMatMul", "y", &["x", "w"], &["y"], attributes);
        (product, vec![weight("w", [8, 4])])
    };
    let biased = node("", "Gemm", "y", &["x", "w", "bias"], &["y"], vec![int("transB", 1)]);
    let half = TensorProto { data_type: Some(DataType::Float16.into()), ..weight("w", [8, 4]) };
    for (what, (product, tensors)) in [
        ("a factor", fused(vec![float("alpha", 2.0)])),
        ("a turned input", fused(vec![int("transA", 1)])),
        ("a bias", (biased, vec![weight("w", [8, 4]), float_tensor("bias", &[8], &[0.0; 8])])),
        ("float16", (matmul("w", "x", "y"), vec![half])),
        ("no weight", (matmul("w", "x", "y"), vec![])),
        ("inputs that are not to be rounded", quantised("x", 64, vec![int("accuracy_level", 0)], false)),
        ("zero points of 8 bits", quantised("x", 64, vec![int("bits", 8)], true)),
        ("blocks that are too small", quantised("x", 64, vec![int("block_size", 16)], false)),
        ("blocks of nothing", quantised("x", 64, vec![int("block_size", 0)], false)),
        ("sizes that wrap around", quantised("x", 64, vec![int("N", (1 << 62) + 16)], false)),
        ("an inner size that wraps around", quantised("x", 64, vec![int("K", (1 << 62) + 64)], false)),
        ("sizes below zero", quantised("x", 64, vec![int("N", -16)], false)),
        ("fewer scales than blocks", quantised("x", 64, vec![int("N", 17)], false)),
    ] {
        let before = graph(vec![product], tensors, "y");
        let mut after = before.clone();
        assert!(replaced(&mut after, Dtype::Auto).is_empty() && after == before, "{what}");
    }
    let (understood, tensors) = quantised("x", 64, vec![], false);
    assert_eq!(replaced(&mut graph(vec![understood], tensors, "y"), Dtype::Auto).len(), 1);
    let (understood, tensors) = fused(vec![int("transB", 1), ints("unknown", &[])]);
    assert_eq!(replaced(&mut graph(vec![understood], tensors, "y"), Dtype::Auto).len(), 1);
}

#[test]
fn weights_are_read_where_they_lie() {
    let folder = tempfile::tempdir().expect("a folder");
    let values: Vec<u8> = (0..32_u8).collect();
    std::fs::write(folder.path().join("data"), [&[9; 4][..], &values].concat()).expect("written");
    let outside = crate::onnx::nodes::external_tensor("w", DataType::Float, &[4, 2], "data", 4, 32);
    let mut graph = graph(vec![matmul("w", "x", "y")], vec![outside], "y");
    let products = replaced(&mut graph, Dtype::Auto);
    let mut seen = Vec::new();
    let mut look = |parts: &[Part<'_>]| {
        if let [Part::Floats(Floats { number: Number::Float32, values, columns: 2, by_column: false })] = parts {
            seen = values.to_vec();
        }
    };
    products[0].read(&Files(folder.path()), &mut look).expect("read");
    assert_eq!(seen, values);
    std::fs::remove_file(folder.path().join("data")).expect("removed");
    let error = products[0].read(&Files(folder.path()), &mut |_| ()).expect_err("it is gone");
    assert!(error.to_string().contains("data"), "{error}");
}

#[test]
fn halves_that_a_cast_widens_are_taken_as_they_are() {
    let cast = |from: &str, to: &str| node("", "Cast", to, &[from], &[to], vec![int("to", DataType::Float as i64)]);
    let half = |name: &str, kind| crate::onnx::nodes::external_tensor(name, kind, &[64, 32], "data", 0, 2 * 64 * 32);
    for (stored, dtype, kind) in [
        (DataType::Bfloat16, Dtype::Auto, Kind::Bfloat16),
        (DataType::Bfloat16, Dtype::Float32, Kind::Floats),
        (DataType::Float16, Dtype::Auto, Kind::Floats),
        (DataType::Float16, Dtype::Bfloat16, Kind::Bfloat16),
        (DataType::Float, Dtype::Auto, Kind::Floats),
        (DataType::Float, Dtype::Bfloat16, Kind::Bfloat16),
    ] {
        let before = match stored {
            DataType::Float => vec![matmul("w", "x", "y")],
            _ => vec![cast("w", "wide"), matmul("wide", "x", "y")],
        };
        let tensor = if stored == DataType::Float { weight("w", [64, 32]) } else { half("w", stored) };
        let mut graph = graph(before, vec![tensor], "y");
        let products = replaced(&mut graph, dtype);
        let found: Vec<_> = products.iter().map(|product| (product.shape.kind, product.shape.columns)).collect();
        assert_eq!(found, [(kind, 32)], "{stored:?}, {dtype:?}");
    }
    // Those of a graph that was widened as a whole.
    let (mut before, mut widened) = (half("w", DataType::Bfloat16), half("w", DataType::Float));
    widened.external_data[0].value = Some(precision::LOCATION.into());
    for is_the_same in [true, false] {
        if !is_the_same {
            // Another matrix that has the name by now.
            before.dims = vec![32, 64];
        }
        let original = graph(vec![], vec![before.clone()], "y");
        let mut graph = graph(vec![matmul("w", "x", "y")], vec![widened.clone()], "y");
        let products = replace(&mut graph, &original, Dtype::Auto);
        let found: Vec<_> = products.iter().map(|found| (found.shape.kind, &found.weights[0].tensors[0])).collect();
        assert_eq!(found, if is_the_same { vec![(Kind::Bfloat16, &before)] } else { vec![] });
    }
    // The other way round, a Cast is arithmetic.
    let narrows = node("", "Cast", "n", &["w"], &["n"], vec![int("to", DataType::Bfloat16 as i64)]);
    let mut graph = graph(vec![narrows, matmul("n", "x", "y")], vec![weight("w", [64, 32])], "y");
    assert!(replaced(&mut graph, Dtype::Auto).is_empty());
}
