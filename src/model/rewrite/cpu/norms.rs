//! Fusion of norms and residual sums into the products next to them.
//!
//! Between two products of a layer there are a sum with the residual stream and a norm. Each is a pass over all rows
//! and a wait for the slower thread. A product can add the stream to its sums while they are in registers, and a
//! product of bytes or bfloat16 can normalise a row while it rounds it. The graph then consists of products and
//! attention. ONNX Runtime still computes norms before products of floats, because such products have no pass over
//! their inputs.

use std::collections::HashMap;

use super::products::{Product, uses};
use crate::kernels::attention::DOMAIN;
use crate::kernels::matmul::pack::{Epilogue, Kind, Shape};
use crate::kernels::matmul::{EPSILON, MATRIX, OPERATOR, input};
use crate::model::rewrite::graph::{Attributes, Values};
use crate::onnx::nodes::{float, int, node};
use crate::onnx::tensor_proto::DataType;
use crate::onnx::{GraphProto, NodeProto};

/// An RMS norm, and an RMS norm of the sum of two values.
const NORMS: [&str; 2] = ["SimplifiedLayerNormalization", "RMSNormalization"];
const SKIP_NORM: &str = "SkipSimplifiedLayerNormalization";

/// Moves the norms and sums of `graph` into those of `products` that can compute them.
pub(in crate::model::rewrite) fn take_over(graph: &mut GraphProto, products: &[Product]) {
    take_over_sums(graph, products);
    take_over_norms(graph, products);
}

/// The form of the matrix that a packed product multiplies by.
fn shape<'p>(node: &NodeProto, products: &'p [Product]) -> Option<&'p Shape> {
    let packed = node.domain() == DOMAIN && node.op_type() == OPERATOR;
    let index = usize::try_from(Attributes(node).int(MATRIX)).ok().filter(|_| packed)?;
    products.get(index).map(|product| &product.shape)
}

/// Moves sums of a product and the stream into the product. Their norms become plain norms.
fn take_over_sums(graph: &mut GraphProto, products: &[Product]) {
    let uses = uses(graph);
    let mut nodes: Vec<NodeProto> = Vec::with_capacity(graph.node.len());
    for skip in std::mem::take(&mut graph.node) {
        let Some((at, stream)) = summed(&skip, &nodes, &uses, products) else {
            nodes.push(skip);
            continue;
        };
        // Nothing else reads it, so it can move here, where the stream is available too.
        let mut product = nodes.remove(at);
        let (normed, weight) = (&skip.output[0], &skip.input[2]);
        let sum = skip.output.get(3).filter(|sum| !sum.is_empty()).cloned().unwrap_or_else(|| format!("{normed}/sum"));
        give(&mut product, input::RESIDUAL, &stream);
        let attributes = vec![int("axis", -1), float("epsilon", epsilon(&skip, 1e-12))];
        let norm = node("", NORMS[0], skip.name(), &[&sum, weight], &[normed], attributes);
        product.output[0] = sum;
        nodes.extend([product, norm]);
    }
    graph.node = nodes;
}

/// The node before `skip` that gives one of its summands to it alone, and the other summand.
fn summed(
    skip: &NodeProto,
    nodes: &[NodeProto],
    uses: &HashMap<String, usize>,
    products: &[Product],
) -> Option<(usize, String)> {
    let [a, b, _weight] = skip.input.as_slice() else { return None };
    let extra = skip.output.iter().skip(1).take(2).any(|output| !output.is_empty());
    if skip.op_type() != SKIP_NORM || extra {
        return None;
    }
    [(b, a), (a, b)].into_iter().find_map(|(made, stream)| {
        let at = nodes.iter().rposition(|node| node.output.first() == Some(made))?;
        let stores = shape(&nodes[at], products)?.epilogue == Epilogue::Store;
        let free = nodes[at].input.get(input::RESIDUAL).is_none_or(String::is_empty);
        (stores && free && uses.get(made) == Some(&1)).then(|| (at, stream.clone()))
    })
}

/// Moves norms into the product that rounds its inputs, if only one such product reads their rows.
fn take_over_norms(graph: &mut GraphProto, products: &[Product]) {
    let (uses, values) = (uses(graph), Values::of(graph));
    let norms: HashMap<&str, &NodeProto> =
        graph.node.iter().filter(|norm| NORMS.contains(&norm.op_type())).map(|n| (n.output[0].as_str(), n)).collect();
    let taken = |product: &NodeProto| {
        let norm = *norms.get(product.input.first()?.as_str())?;
        let (shape, [_, weight]) = (shape(product, products)?, norm.input.as_slice()) else { return None };
        let weight = values.constant(weight)?;
        let fits = weight.dims == [shape.inputs as i64] && weight.data_type() == DataType::Float as i32;
        let last = Attributes(norm).get("axis").is_none_or(|axis| axis.i() == -1);
        let alone = uses.get(&norm.output[0]) == Some(&1) && norm.output.iter().skip(1).all(String::is_empty);
        (fits && last && alone && shape.kind != Kind::Floats).then_some(norm)
    };
    let taken: HashMap<String, NodeProto> = graph
        .node
        .iter()
        .filter_map(|product| taken(product).map(|norm| (product.output[0].clone(), norm.clone())))
        .collect();
    let gone: Vec<String> = taken.values().map(|norm| norm.output[0].clone()).collect();
    graph.node.retain(|node| !node.output.first().is_some_and(|output| gone.contains(output)));
    for product in &mut graph.node {
        let Some(norm) = product.output.first().and_then(|output| taken.get(output)) else { continue };
        give(product, input::ROWS, &norm.input[0]);
        give(product, input::NORM, &norm.input[1]);
        product.attribute.push(float(EPSILON, epsilon(norm, 1e-5)));
    }
}

/// Makes `name` an input of a product.
fn give(product: &mut NodeProto, input: usize, name: &str) {
    product.input.resize(input::COUNT, String::new());
    name.clone_into(&mut product.input[input]);
}

/// The term that a norm adds to the mean of squares; `default` if the file doesn't have it.
fn epsilon(norm: &NodeProto, default: f32) -> f32 {
    Attributes(norm).get("epsilon").map_or(default, |epsilon| epsilon.f())
}

#[cfg(test)]
mod tests;
