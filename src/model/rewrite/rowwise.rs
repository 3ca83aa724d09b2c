//! A check that a rewritten graph, apart from attention, works token by token.
//!
//! A packed step puts tokens of several sequences side by side. This is correct only if no operator reads other tokens
//! or their number. Any other graph is refused, and runs on the padded path.
//!
//! The promise of equal bits requires more: the rows beside a row must not even change its rounding. The operators that
//! keep it were found by probing ONNX Runtime 1.32 on x86 with AVX-512, for all counts of 1 to 576 rows (a step has at
//! most 512 of prompts and 64 of replies) with one and two threads. The tests repeat this on the machine at hand.

use std::collections::HashSet;

use super::graph::{Attributes, Values, constants, integers};
use crate::kernels::{attention, matmul};
use crate::onnx::tensor_proto::DataType;
use crate::onnx::{GraphProto, NodeProto};

/// Operators that work element by element or along the last axis, and give a row the same bits beside any other rows.
const SAME_BITS: &[&str] = &[
    "Abs",
    "Add",
    "BiasGelu",
    "Cast",
    "Clip",
    "Div",
    "Erf",
    "Exp",
    "FastGelu",
    "Gather",
    "GatherBlockQuantized",
    "Gelu",
    "Identity",
    "LayerNormalization",
    "Mul",
    "Neg",
    "QuickGelu",
    "Reciprocal",
    "Relu",
    "Reshape",
    "RMSNormalization",
    "RotaryEmbedding",
    "Sigmoid",
    "SimplifiedLayerNormalization",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
    "Slice",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Tanh",
    "Transpose",
    "Unsqueeze",
    attention::OPERATOR,
    matmul::OPERATOR,
];

/// Operators like those above that work on the axis that they name.
const ALONG_AN_AXIS: &[&str] = &["Concat", "ReduceMax", "ReduceMean", "ReduceSum", "Softmax", "Split"];

/// Products with a weight.
const PRODUCTS: &[&str] = &["FusedMatMul", "Gemm", "MatMul"];

/// Bits and block sizes of MatMulNBits, at accuracy level 4 and with packed zero points or none.
const SAME_BITS_QUANTISED: [(i64, i64); 4] = [(4, 16), (8, 16), (8, 32), (8, 64)];

/// The same, only where the processor multiplies bytes: with AVX2 alone, ONNX Runtime sums two rows otherwise than one.
const SAME_BITS_WITH_BYTES: [(i64, i64); 1] = [(4, 32)];

/// Operators that work row by row but are not shown to give the same bits, or are shown not to.
const OTHER_BITS: &[&str] = &[
    "DynamicQuantizeLinear",
    "DynamicQuantizeMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "Mod",
    "MoE",
    "Pow",
    "QMoE",
    "Softplus",
];

/// Operators that compute shapes from shapes.
const ON_SHAPES: &[&str] =
    &["Add", "Cast", "Concat", "Div", "Gather", "Identity", "Mul", "Shape", "Slice", "Squeeze", "Sub", "Unsqueeze"];

/// Operators that take a shape in addition to their data.
const BY_SHAPE: &[&str] = &["Expand", "Reshape", "Slice", "Split"];

/// Checks every node of a rewritten graph. `flat` says that tokens are a vector, `bytes` that the processor multiplies bytes.
/// Returns the reasons that break the promise of equal bits.
///
/// # Errors
/// Names a node that reads more than its own token.
pub(super) fn check(graph: &GraphProto, flat: bool, bytes: bool) -> Result<Vec<String>, String> {
    let values = Values::of(graph);
    let constants = constants(graph);
    let mut shapes: HashSet<&str> = HashSet::new();
    let mut exceptions = Vec::new();
    for node in &graph.node {
        let op = node.op_type();
        let outputs = node.output.iter().map(String::as_str);
        let inputs = || node.input.iter().map(String::as_str).filter(|input| !input.is_empty());
        let constant = |name: &str| constants.contains(name);
        if inputs().all(constant) {
            continue; // computed once, when the graph is loaded
        }
        if op == "Shape" || inputs().all(|input| constant(input) || shapes.contains(input)) {
            if !ON_SHAPES.contains(&op) {
                return Err(beyond(node, "makes values from the number of tokens"));
            }
            shapes.extend(outputs);
            continue;
        }
        if inputs().any(|input| shapes.contains(input)) && !BY_SHAPE.contains(&op) {
            return Err(beyond(node, "computes with the number of tokens"));
        }
        let exception = match op {
            "MatMulNBits" => quantised_exception(node, &values, bytes),
            _ if PRODUCTS.contains(&op) => {
                let weight = node.input.get(1).is_some_and(|weight| constant(weight));
                let transposed = Attributes(node).int("transA") != 0 || Attributes(node).int("transBatchA") != 0;
                if !weight || transposed {
                    return Err(beyond(node, "multiplies two matrices, and neither is a weight"));
                }
                None
            }
            _ if ALONG_AN_AXIS.contains(&op) => {
                if !along_the_last_axis(node, &values, flat) {
                    return Err(beyond(node, "works along an axis other than the last"));
                }
                None
            }
            _ if SAME_BITS.contains(&op) || BY_SHAPE.contains(&op) => None,
            _ if OTHER_BITS.contains(&op) => Some(format!("{op}: not shown to give the same bits in any batch")),
            _ => return Err(beyond(node, "is not known to work token by token")),
        };
        exceptions.extend(exception.filter(|exception| !exceptions.contains(exception)));
    }
    Ok(exceptions)
}

fn beyond(node: &NodeProto, why: &str) -> String {
    format!("node `{}` ({}) {why}, so tokens of several sequences can't be packed", node.name(), node.op_type())
}

/// Whether the last axis is the only one that a node names or has by default.
fn along_the_last_axis(node: &NodeProto, values: &Values<'_>, flat: bool) -> bool {
    let attributes = Attributes(node);
    let given = node.input.get(1).and_then(|axes| values.constant(axes)).and_then(integers);
    let axes = match (attributes.get("axis"), attributes.get("axes"), node.op_type()) {
        (Some(axis), ..) => vec![axis.i()],
        (_, Some(axes), _) => axes.ints.clone(),
        (.., "Softmax") => vec![-1],
        (.., "Split" | "Concat") => vec![0],
        _ => given.unwrap_or_default(),
    };
    // Tokens are the second axis or the first. All later axes belong to one token.
    let first_of_token = if flat { 1 } else { 2 };
    matches!(axes[..], [axis] if axis == -1 || axis >= first_of_token)
}

/// The reason why a product with a quantised weight may round a row differently beside others.
fn quantised_exception(node: &NodeProto, values: &Values<'_>, bytes: bool) -> Option<String> {
    let attributes = Attributes(node);
    let bits = attributes.get("bits").map_or(4, |bits| bits.i());
    let (block, level) = (attributes.int("block_size"), attributes.int("accuracy_level"));
    let zero_points = node.input.get(3).and_then(|name| values.constant(name));
    let packed = zero_points.is_none_or(|tensor| tensor.data_type() == DataType::Uint8 as i32);
    let kind = (bits, block);
    let probed = SAME_BITS_QUANTISED.contains(&kind) || (bytes && SAME_BITS_WITH_BYTES.contains(&kind));
    let same = level == 4 && packed && probed;
    (!same).then(|| {
        let zero_points = if packed { "" } else { ", zero points that are floats" };
        format!(
            "MatMulNBits with {bits} bits, block {block}, accuracy level {level}{zero_points}: rows depend on the batch"
        )
    })
}

#[cfg(test)]
mod tests;
