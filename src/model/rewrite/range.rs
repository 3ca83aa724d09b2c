//! Values that float16 can't hold, although all weights fit it.
//!
//! float16 ends at 65504. Exporters compute in float32 what may leave that range: a norm's squares and their sums. ONNX
//! Runtime's own operators for norms do so as well, whatever the type of their inputs. A norm that is written out, and a
//! cast to float32 in front of other operators, would become float16 with the rest of the graph and be infinite, or 0,
//! without an error. So both are refused. bfloat16 has the range of float32.

use std::collections::HashSet;

use super::graph::Attributes;
use super::precision::Precision;
use crate::onnx::tensor_proto::DataType;
use crate::onnx::{GraphProto, NodeProto, ValueInfoProto};

/// Operators whose results may be far larger than their inputs. Each norm that is written out has one of them, or a product of a
/// value with itself. Sums and means alone are no larger than what products with weights give.
const LARGE: [&str; 4] = ["Pow", "ReduceL2", "ReduceProd", "ReduceSumSquare"];
/// Operators that hand values on, or compute in float32 themselves.
const KEPT: [&str; 13] = [
    "Cast",
    "Gather",
    "Identity",
    "LayerNormalization",
    "RMSNormalization",
    "Reshape",
    "SimplifiedLayerNormalization",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
    "Slice",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
];

/// Refuses a graph that computes with values of tokens what needs the range of float32, if it is to become `to`.
pub(super) fn check(graph: &GraphProto, logits: &str, to: Precision) -> Result<(), String> {
    if to != Precision::Float16 {
        return Ok(());
    }
    let mut of_tokens: HashSet<&str> = graph.input.iter().map(ValueInfoProto::name).collect();
    // Rows of tables: each of their numbers is a weight, which fits or is refused.
    let mut rows: HashSet<&str> = HashSet::new();
    // Those that a cast made float32, and that nothing else was computed from yet.
    let mut cast: HashSet<&str> = HashSet::new();
    for node in &graph.node {
        let inputs = || node.input.iter().map(String::as_str).filter(|input| !input.is_empty());
        if !inputs().any(|input| of_tokens.contains(input)) {
            continue;
        }
        let outputs = || node.output.iter().map(String::as_str).filter(|output| !output.is_empty());
        of_tokens.extend(outputs());
        if node.op_type() == "Gather" && !inputs().next().is_some_and(|table| of_tokens.contains(table)) {
            rows.extend(outputs());
        }
        let refuse = |what: &str| {
            Err(format!(
                "node `{}` ({}) {what}, which needs float32: run the model on the CPU, or export it in bfloat16 or with fused \
                 norms",
                node.name(),
                node.op_type()
            ))
        };
        if LARGE.contains(&node.op_type()) || squares(node) {
            return refuse("computes a norm, or a power, of values of tokens");
        }
        let from_cast = inputs().any(|input| cast.contains(input));
        if from_cast && !KEPT.contains(&node.op_type()) {
            return refuse("takes a cast to float32");
        }
        let norms = node.op_type().ends_with("Normalization");
        let widens = widens(node) && !inputs().any(|input| rows.contains(input));
        if widens || (from_cast && !norms && node.op_type() != "Cast") {
            cast.extend(outputs().filter(|output| *output != logits));
        }
    }
    Ok(())
}

/// Whether this is a product of a value with itself.
fn squares(node: &NodeProto) -> bool {
    matches!(node.op_type(), "Mul" | "MatMul") && node.input.len() == 2 && node.input[0] == node.input[1]
}

/// Whether this is a cast to float32.
fn widens(node: &NodeProto) -> bool {
    node.op_type() == "Cast" && Attributes(node).int("to") == DataType::Float as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::nodes::{Dim, int, node, value_info};

    fn check_all(nodes: &[(&str, &[&str], &str)], to: Precision) -> Result<(), String> {
        let make = |&(op, inputs, output): &(&str, &[&str], &str)| {
            let to = int("to", if output.ends_with("f32") || output == "logits" { 1 } else { 10 });
            node("", op, output, inputs, &[output], if op == "Cast" { vec![to] } else { vec![] })
        };
        let graph = GraphProto {
            input: vec![value_info("x", DataType::Float, &[Dim::Symbol("tokens")])],
            node: nodes.iter().map(make).collect(),
            ..GraphProto::default()
        };
        check(&graph, "logits", to)
    }

    #[test]
    fn norms_that_are_written_out_are_refused() {
        let cases: [&[(&str, &[&str], &str)]; 5] = [
            &[("Pow", &["x", "two"], "squares")],
            &[("Mul", &["x", "w"], "y"), ("Mul", &["y", "y"], "squares")],
            &[("ReduceL2", &["x"], "length")],
            &[("ReduceSumSquare", &["x"], "sum")],
            &[("Cast", &["x"], "x.f32"), ("Pow", &["x.f32", "two"], "squares")],
        ];
        for nodes in cases {
            let (_, _, name) = nodes[nodes.len() - 1];
            let refused = check_all(nodes, Precision::Float16).expect_err(name);
            assert!(refused.contains(&format!("node `{name}`")) && refused.contains("a norm"), "{refused}");
            check_all(nodes, Precision::Bfloat16).expect("it has the range of float32");
        }
        check_all(&[("Pow", &["base", "exponents"], "table")], Precision::Float16).expect("constants alone");
        check_all(&[("Mul", &["x", "w"], "y")], Precision::Float16).expect("two factors");
        check_all(&[("ReduceSum", &["x"], "sums")], Precision::Float16)
            .expect("sums of blocks, which quantised products take");
    }

    #[test]
    fn casts_to_float32_may_feed_the_logits_and_norms_only() {
        let fits = |nodes: &[(&str, &[&str], &str)]| check_all(nodes, Precision::Float16);
        fits(&[("Gather", &["table", "x"], "rows"), ("Cast", &["rows"], "r.f32"), ("Mul", &["r.f32", "scale"], "y")])
            .expect("rows of a table in half precision");
        fits(&[("Cast", &["x"], "logits"), ("Gather", &["logits", "rows"], "some")]).expect("the logits");
        fits(&[("Cast", &["x"], "y.f32"), ("Reshape", &["y.f32", "shape"], "logits")]).expect("the logits, reshaped");
        fits(&[
            ("Cast", &["x"], "y.f32"),
            ("SimplifiedLayerNormalization", &["y.f32", "w"], "n"),
            ("Mul", &["n", "w"], "z"),
        ])
        .expect("a norm computes in float32 itself");
        fits(&[("Cast", &["x"], "y.f32"), ("Cast", &["y.f32"], "y.f16"), ("Mul", &["y.f16", "w"], "z")])
            .expect("back at once");
        let between = fits(&[("Cast", &["x"], "y.f32"), ("Reshape", &["y.f32", "s"], "r"), ("Softmax", &["r"], "p")]);
        assert!(between.expect_err("a softmax").contains("node `p` (Softmax) takes a cast to float32"));
    }
}
