//! The graph's end: logits for the rows that somebody reads, and nothing that they don't need.

use std::collections::HashSet;

use super::graph::{Values, rank};
use super::names;
use crate::onnx::build::{int, int64_tensor, node};
use crate::onnx::{GraphProto, NodeProto};

/// Transformers.js' exports ask how many of the last rows they are to give: 0 means all.
const ROWS_TO_KEEP: [&str; 2] = ["num_logits_to_keep", "logits_to_keep"];

/// Lets a graph that can drop rows by itself keep them all; which ones are wanted, the step says.
pub(super) fn keep_all_rows(graph: &mut GraphProto) {
    for name in ROWS_TO_KEEP {
        let Some(index) = graph.input.iter().position(|input| input.name() == name) else { continue };
        let input = graph.input.remove(index);
        let dims: &[usize] = if rank(&input) == Some(1) { &[1] } else { &[] };
        graph.initializer.retain(|tensor| tensor.name() != name);
        graph.initializer.push(int64_tensor(name, dims, &[0]));
    }
}

/// Puts a Gather over the token axis before the LM head's product.
pub(super) fn gather_logit_rows(graph: &mut GraphProto, logits: &str) -> Result<(), String> {
    const PRODUCTS: [&str; 4] = ["MatMul", "FusedMatMul", "Gemm", "MatMulNBits"];
    const ELEMENTWISE: [&str; 8] = ["Add", "Cast", "Clip", "Div", "Identity", "Mul", "Sub", "Tanh"];
    const GATHERED: &str = "foreturn.gathered_rows";
    let refuse = || Err(format!("no matrix product leads to the output `{logits}`"));
    let values = Values::of(graph);
    let mut name = logits;
    // From the logits back over element-wise operators (a bias, a cast, a soft cap) to the product.
    let product = loop {
        let Some(node) = values.producer(name) else { return refuse() };
        if PRODUCTS.contains(&node.op_type()) {
            break node;
        }
        let varying = node.input.iter().find(|input| !input.is_empty() && values.constant(input).is_none());
        match varying {
            Some(input) if ELEMENTWISE.contains(&node.op_type()) => name = input,
            _ => return refuse(),
        }
    };
    let output = product.output.first().cloned();
    let Some(index) = graph.node.iter().position(|node| node.output.first() == output.as_ref()) else {
        return refuse();
    };
    let Some(first) = graph.node[index].input.first_mut() else { return refuse() };
    let source = std::mem::replace(first, GATHERED.to_owned());
    let inputs = [source.as_str(), names::LOGIT_ROWS];
    let gather = node("", "Gather", "foreturn.gather_logit_rows", &inputs, &[GATHERED], vec![int("axis", -2)]);
    graph.node.insert(index, gather);
    Ok(())
}

/// Drops nodes and initialisers that the logits don't depend on; returns all names still used.
pub(super) fn remove_unused(graph: &mut GraphProto, logits: &str) -> HashSet<String> {
    let mut used = HashSet::from([logits.to_owned()]);
    // Nodes come in topological order, so one pass from the back finds everything.
    let mut kept: Vec<NodeProto> = Vec::with_capacity(graph.node.len());
    for node in std::mem::take(&mut graph.node).into_iter().rev() {
        if node.output.iter().any(|output| used.contains(output)) {
            used_by(&node, &mut used);
            kept.push(node);
        }
    }
    kept.reverse();
    graph.node = kept;
    graph.initializer.retain(|tensor| used.contains(tensor.name()));
    used
}

/// Adds what a node reads, in graphs inside it too.
fn used_by(node: &NodeProto, used: &mut HashSet<String>) {
    used.extend(node.input.iter().filter(|input| !input.is_empty()).cloned());
    for graph in node.attribute.iter().filter_map(|attribute| attribute.g.as_ref()) {
        used.extend(graph.output.iter().map(|output| output.name().to_owned()));
        graph.node.iter().for_each(|node| used_by(node, used));
    }
}
