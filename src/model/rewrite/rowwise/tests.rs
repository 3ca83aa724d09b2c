//! Products and operators of ONNX Runtime, one row against many; and graphs that must not be packed.

use crate::runtime::{Provider, ProviderReport};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::*;
use crate::kernels::dot;
use crate::onnx::nodes::{Dim, MICROSOFT, float_tensor, int, int64_tensor, node, text, value_info};
use crate::onnx::{ModelProto, OperatorSetIdProto, TensorProto};
use crate::runtime::session::{Graph, Session};
use crate::testing::runtime;

/// Most rows of a step: 512 of prompts and 64 of replies.
const MOST: usize = 576;

fn floats(rng: &mut ChaCha8Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.next_u32() as f32 / u32::MAX as f32 * 6.0 - 3.0).collect()
}

/// A graph of `nodes` from `x` to `y`, both `[1, rows, width]`.
fn graph(nodes: Vec<NodeProto>, initializer: Vec<TensorProto>, width: usize) -> GraphProto {
    let dims = [Dim::Size(1), Dim::Symbol("rows"), Dim::Size(width)];
    GraphProto {
        name: Some("probe".into()),
        node: nodes,
        initializer,
        input: vec![value_info("x", DataType::Float, &dims)],
        output: vec![value_info("y", DataType::Float, &[Dim::Size(1), Dim::Symbol("rows"), Dim::Symbol("out")])],
        ..GraphProto::default()
    }
}

/// Asserts that each of `counts` rows in a run are the bits of the same rows one at a time.
fn assert_same_bits(what: &str, graph: GraphProto, width: usize, threads: usize, counts: &[usize]) {
    let opset = |domain: &str, version| OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) };
    let model = ModelProto {
        ir_version: Some(10),
        opset_import: vec![opset("", 21), opset(MICROSOFT, 1)],
        graph: Some(graph),
        ..ModelProto::default()
    };
    let bytes = prost::Message::encode_to_vec(&model);
    let graph = Graph {
        bytes: &bytes,
        folder: std::path::Path::new("."),
        memory: None,
        loops: false,
        name: what,
        report: &ProviderReport::only(Provider::Cpu),
    };
    let mut session = Session::open_plain(&graph, &runtime(threads)).expect("the probe loads");
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let x = floats(&mut rng, MOST * width);
    let mut run = |first: usize, rows: usize| -> Vec<u32> {
        session.set("x", &[1, rows, width], x[first * width..(first + rows) * width].to_vec()).expect("set");
        session.run("y", |y| y.iter().map(|y| y.to_bits()).collect()).expect("run")
    };
    let alone: Vec<Vec<u32>> = (0..MOST).map(|row| run(row, 1)).collect();
    for &rows in counts {
        let first = rng.next_u32() as usize % (MOST + 1 - rows);
        let same = run(first, rows) == alone[first..first + rows].concat();
        assert!(same, "{what}, {threads} threads: {rows} rows from {first} differ from each alone");
    }
}

/// MatMulNBits with random weights; `zero_points` as packed bytes.
fn quantised(bits: i64, block: usize, zero_points: bool, k: usize, n: usize) -> GraphProto {
    let mut rng = ChaCha8Rng::seed_from_u64(bits as u64);
    let (blocks, packed) = (k.div_ceil(block), block * bits as usize / 8);
    let mut bytes = |name: &str, dims: &[usize]| TensorProto {
        name: Some(name.into()),
        data_type: Some(DataType::Uint8.into()),
        dims: dims.iter().map(|&dim| dim as i64).collect(),
        raw_data: Some((0..dims.iter().product()).map(|_| rng.next_u32() as u8).collect::<Vec<_>>().into()),
        ..TensorProto::default()
    };
    let mut initializer =
        vec![bytes("b", &[n, blocks, packed]), bytes("z", &[n, (blocks * bits as usize).div_ceil(8)])];
    let scales: Vec<f32> = floats(&mut rng, n * blocks).iter().map(|x| 0.01 + x.abs() / 100.0).collect();
    initializer.push(float_tensor("s", &[n, blocks], &scales));
    let attributes = vec![
        int("K", k as i64),
        int("N", n as i64),
        int("bits", bits),
        int("block_size", block as i64),
        int("accuracy_level", 4),
    ];
    let inputs = ["x", "b", "s", "z"];
    let inputs = &inputs[..if zero_points { 4 } else { 3 }];
    if !zero_points {
        initializer.remove(1);
    }
    graph(vec![node(MICROSOFT, "MatMulNBits", "product", inputs, &["y"], attributes)], initializer, k)
}

fn product(transposed: bool, k: usize, n: usize) -> GraphProto {
    let weights = floats(&mut ChaCha8Rng::seed_from_u64(3), k * n);
    let (node, dims) = match transposed {
        false => (node("", "MatMul", "product", &["x", "w"], &["y"], vec![]), [k, n]),
        true => (node(MICROSOFT, "FusedMatMul", "product", &["x", "w"], &["y"], vec![int("transB", 1)]), [n, k]),
    };
    graph(vec![node], vec![float_tensor("w", &dims, &weights)], k)
}

/// All counts for a small product; for one of SmolLM2's, those around the widths of tiles, and some more.
fn counts(k: usize) -> Vec<usize> {
    let all = 1..=MOST;
    if k < 200 {
        all.collect()
    } else {
        all.filter(|n| n % 37 == 0 || [1, 2, 3, 4, 5, 17, 64, 65, 576].contains(n)).collect()
    }
}

const SIZES: [(usize, usize); 3] = [(96, 70), (100, 48), (576, 192)];

#[test]
fn a_row_of_a_product_has_the_same_bits_beside_any_number_of_others() {
    for (threads, (k, n)) in [1, 2].into_iter().flat_map(|threads| SIZES.map(|size| (threads, size))) {
        for transposed in [false, true] {
            assert_same_bits("float32", product(transposed, k, n), k, threads, &counts(k));
        }
        let with_bytes = SAME_BITS_WITH_BYTES.into_iter().filter(|_| dot::multiplies_bytes());
        let kinds = SAME_BITS_QUANTISED.into_iter().chain(with_bytes);
        for (bits, block, zero_points) in kinds.flat_map(|(b, s)| [(b, s, false), (b, s, true)]) {
            let what = format!("{bits} bits, block {block}, zero points {zero_points}");
            assert_same_bits(&what, quantised(bits, block as usize, zero_points, k, n), k, threads, &counts(k));
        }
    }
}

#[test]
fn an_element_has_the_same_bits_beside_any_number_of_others() {
    let tanh = || vec![text("approximate", "tanh")];
    for (threads, width) in [1, 2].into_iter().flat_map(|threads| [(threads, 96), (threads, 7)]) {
        let weight = floats(&mut ChaCha8Rng::seed_from_u64(4), width);
        let probe = |domain: &str, op: &str, inputs: &[&str], attributes| {
            let initializer = if inputs.contains(&"w") { vec![float_tensor("w", &[width], &weight)] } else { vec![] };
            let graph = graph(vec![node(domain, op, op, inputs, &["y"], attributes)], initializer, width);
            assert_same_bits(op, graph, width, threads, &(1..=MOST).collect::<Vec<_>>());
        };
        for op in ["Sigmoid", "Tanh", "Gelu", "Erf", "Exp", "Softmax"] {
            probe("", op, &["x"], vec![]);
        }
        probe("", "Gelu", &["x"], tanh());
        probe(MICROSOFT, "QuickGelu", &["x"], vec![]);
        for op in ["Add", "Mul", "Div", "SimplifiedLayerNormalization"] {
            probe("", op, &["x", "w"], vec![]);
        }
        probe(MICROSOFT, "SkipSimplifiedLayerNormalization", &["x", "x", "w"], vec![]);
    }
}

#[test]
fn operators_that_look_beyond_their_token_are_refused_by_name() {
    let refused = |nodes: Vec<NodeProto>| {
        let constants = vec![int64_tensor("one", &[1], &[1]), int64_tensor("zero", &[], &[0])];
        check(&graph(nodes, constants, 8), false, true).expect_err("refused")
    };
    let one = |op: &str, inputs: &[&str], attributes| node("", op, "it", inputs, &["y"], attributes);
    assert!(refused(vec![one("CumSum", &["x", "one"], vec![])]).contains("`it` (CumSum) is not known"));
    assert!(refused(vec![one("ReduceMean", &["x", "one"], vec![])]).contains("an axis other"));
    assert!(refused(vec![one("Softmax", &["x"], vec![int("axis", 1)])]).contains("an axis other"));
    assert!(refused(vec![one("MatMul", &["x", "x"], vec![])]).contains("neither is a weight"));
    let shape = || node("", "Shape", "shape", &["x"], &["s"], vec![]);
    let cast = || node("", "Cast", "cast", &["s"], &["f"], vec![int("to", 1)]);
    assert!(refused(vec![shape(), cast(), one("Mul", &["x", "f"], vec![])]).contains("number of tokens"));
    assert!(refused(vec![shape(), one("Range", &["zero", "s", "one"], vec![])]).contains("number of tokens"));
}

#[test]
fn shapes_may_be_computed_and_weights_prepared() {
    let nodes = vec![
        node("", "Shape", "shape", &["x"], &["s"], vec![]),
        node("", "Reshape", "reshape", &["x", "s"], &["r"], vec![]),
        node("", "Transpose", "transpose", &["w"], &["t"], vec![]),
        node("", "MatMul", "product", &["r", "t"], &["p"], vec![]),
        node("", "Pow", "power", &["p", "w"], &["y"], vec![]),
    ];
    let exceptions =
        check(&graph(nodes, vec![float_tensor("w", &[1, 1], &[2.0])], 1), false, true).expect("row by row");
    assert_eq!(exceptions, ["Pow: not shown to give the same bits in any batch"]);
}

#[test]
fn quantised_products_that_round_by_batch_are_named() {
    let exceptions = |bits, block: usize, level| {
        let mut graph = quantised(bits, block, false, 256, 8);
        graph.node[0].attribute.retain(|a| a.name() != "accuracy_level");
        graph.node[0].attribute.push(int("accuracy_level", level));
        check(&graph, false, true).expect("row by row")
    };
    assert!(exceptions(4, 32, 4).is_empty());
    assert!(exceptions(8, 64, 4).is_empty());
    assert_eq!(exceptions(4, 64, 4), ["MatMulNBits with 4 bits, block 64, accuracy level 4: rows depend on the batch"]);
    assert_eq!(exceptions(4, 32, 0).len(), 1);
    let plain = check(&quantised(4, 32, false, 256, 8), false, false).expect("row by row");
    assert_eq!(plain, ["MatMulNBits with 4 bits, block 32, accuracy level 4: rows depend on the batch"]);
    let mut graph = quantised(4, 32, true, 256, 8);
    graph.initializer[1] = float_tensor("z", &[8, 8], &[0.0; 64]);
    let exceptions = check(&graph, false, true).expect("row by row");
    assert!(exceptions[0].contains("zero points that are floats"), "{exceptions:?}");
}
