//! The end of the graph: logits for the rows that are read, and nothing that they don't need.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::graph::{Values, constants, rank};
use super::names;
use crate::kernels::matmul;
use crate::onnx::nodes::{int, int64_tensor, node};
use crate::onnx::{GraphProto, NodeProto};

/// The input of Transformers.js' exports for the number of last rows to return. 0 means all.
const ROWS_TO_KEEP: [&str; 2] = ["num_logits_to_keep", "logits_to_keep"];

/// Makes a graph that can drop rows keep them all, because the step says which ones are needed.
pub(super) fn keep_all_rows(graph: &mut GraphProto) {
    for name in ROWS_TO_KEEP {
        let Some(index) = graph.input.iter().position(|input| input.name() == name) else { continue };
        let input = graph.input.remove(index);
        let dims: &[usize] = if rank(&input) == Some(1) { &[1] } else { &[] };
        graph.initializer.retain(|tensor| tensor.name() != name);
        graph.initializer.push(int64_tensor(name, dims, &[0]));
    }
}

/// Products with a weight.
const PRODUCTS: [&str; 4] = ["MatMul", "FusedMatMul", "Gemm", "MatMulNBits"];

/// Operators of the last layer after its attention: a row of output for a row of each input, without a change of shape.
const ROW_BY_ROW: [&str; 15] = [
    "Add",
    "FastGelu",
    "FusedMatMul",
    "Gelu",
    "MatMul",
    "MatMulNBits",
    "Mul",
    "QuickGelu",
    "RMSNormalization",
    "Sigmoid",
    "SimplifiedLayerNormalization",
    "SkipSimplifiedLayerNormalization",
    "Sub",
    "Tanh",
    matmul::OPERATOR,
];

/// Name of the Gather that [`gather_logit_rows`] makes.
const GATHER: &str = "foreturn.gather_logit_rows";

/// Puts a Gather over the token axis before the LM head's product.
pub(super) fn gather_logit_rows(graph: &mut GraphProto, logits: &str) -> Result<(), String> {
    const ELEMENTWISE: [&str; 8] = ["Add", "Cast", "Clip", "Div", "Identity", "Mul", "Sub", "Tanh"];
    const GATHERED: &str = "foreturn.gathered_rows";
    let refuse = || Err(format!("no matrix product leads to the output `{logits}`"));
    let values = Values::of(graph);
    let mut name = logits;
    // Goes back from the logits over element-wise operators (a bias, a cast, a soft cap) to the product.
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
    let gather = node("", "Gather", GATHER, &inputs, &[GATHERED], vec![int("axis", -2)]);
    graph.node.insert(index, gather);
    Ok(())
}

/// Moves the Gather of logit rows up to the attention of the last layer, so that later nodes compute only the rows that
/// are read. Nodes that something else reads, or that are not known to work row by row, stay before it.
pub(super) fn gather_early(graph: &mut GraphProto) {
    let Some(at) = graph.node.iter().position(|node| node.name() == GATHER) else { return };
    let constants = constants(graph);
    let late = late_nodes(graph, at, &constants);
    if late.is_empty() {
        return;
    }
    let made: HashSet<&String> = late.iter().flat_map(|&index| &graph.node[index].output).collect();
    let read = late.iter().flat_map(|&index| &graph.node[index].input);
    let varies = |input: &&String| !input.is_empty() && !constants.contains(input.as_str()) && !made.contains(input);
    let from_above: BTreeSet<String> = read.filter(varies).cloned().collect();
    let gathered = |input: &str| format!("{input}/logit_rows");
    let gathers = from_above.iter().enumerate().map(|(index, input)| {
        let (name, inputs) = (format!("{GATHER}.{index}"), [input.as_str(), names::LOGIT_ROWS]);
        node("", "Gather", &name, &inputs, &[&gathered(input)], vec![int("axis", -2)])
    });
    let gathers: Vec<NodeProto> = gathers.collect();
    let gather = std::mem::take(&mut graph.node[at]);
    for &index in &late {
        for input in graph.node[index].input.iter_mut().filter(|input| from_above.contains(*input)) {
            *input = gathered(input);
        }
    }
    for input in graph.node.iter_mut().flat_map(|node| &mut node.input).filter(|input| **input == gather.output[0]) {
        input.clone_from(&gather.input[0]);
    }
    // No earlier node reads the results of these nodes, so they can come last, when all their inputs are available.
    let (mut above, mut moved, mut below) = (Vec::new(), Vec::new(), Vec::new());
    for (index, node) in std::mem::take(&mut graph.node).into_iter().enumerate() {
        match index {
            _ if late.contains(&index) => moved.push(node),
            _ if index < at => above.push(node),
            _ if index > at => below.push(node),
            _ => {}
        }
    }
    graph.node = above.into_iter().chain(gathers).chain(moved).chain(below).collect();
}

/// The nodes before `gather` that work row by row, and whose outputs are read only by it and by each other.
fn late_nodes(graph: &GraphProto, gather: usize, constants: &HashSet<&str>) -> BTreeSet<usize> {
    let mut readers: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, node) in graph.node.iter().enumerate() {
        node.input.iter().for_each(|input| readers.entry(input).or_default().push(index));
    }
    let outputs: HashSet<&str> = graph.output.iter().map(|output| output.name()).collect();
    let constant = |input: &String| input.is_empty() || constants.contains(input.as_str());
    let mut late = BTreeSet::from([gather]);
    for (index, node) in graph.node[..gather].iter().enumerate().rev() {
        let row_by_row = ROW_BY_ROW.contains(&node.op_type())
            && (!PRODUCTS.contains(&node.op_type()) || node.input.get(1).is_some_and(constant))
            && !node.input.iter().all(constant);
        let named = || node.output.iter().map(String::as_str).filter(|output| !output.is_empty());
        let mut read_by = named().filter_map(|output| readers.get(output)).flatten().peekable();
        let theirs_alone = read_by.peek().is_some() && read_by.all(|reader| late.contains(reader));
        if row_by_row && theirs_alone && !named().any(|output| outputs.contains(output)) {
            late.insert(index);
        }
    }
    late.remove(&gather);
    late
}

/// Removes nodes and initialisers that the logits don't depend on. Returns all names still in use.
pub(super) fn remove_unused(graph: &mut GraphProto, logits: &str) -> HashSet<String> {
    let mut used = HashSet::from([logits.to_owned()]);
    // Nodes are in topological order, so one pass from the end finds everything.
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

/// Adds the names that a node reads, also in graphs inside it.
fn used_by(node: &NodeProto, used: &mut HashSet<String>) {
    used.extend(node.input.iter().filter(|input| !input.is_empty()).cloned());
    for graph in node.attribute.iter().filter_map(|attribute| attribute.g.as_ref()) {
        used.extend(graph.output.iter().map(|output| output.name().to_owned()));
        graph.node.iter().for_each(|node| used_by(node, used));
    }
}
