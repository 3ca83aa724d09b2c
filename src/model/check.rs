//! Refuses inconsistent graphs before anything relies on them.
//!
//! Model files are not trusted. ONNX Runtime checks them too, but only after this library has already used them.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::tensor;
use crate::onnx::nodes::MICROSOFT;
use crate::onnx::{GraphProto, ModelProto, NodeProto};

/// Domains whose operators are part of ONNX Runtime.
const DOMAINS: [&str; 4] = ["", "ai.onnx", "ai.onnx.ml", MICROSOFT];

/// Checks `model` and sorts the nodes of its graphs so that each comes after those that it depends on. Returns whether
/// the model has loops.
///
/// # Errors
/// Names the name, node or tensor that is wrong, and says why.
pub(super) fn check(model: &mut ModelProto) -> Result<bool, String> {
    if let Some(function) = model.functions.first() {
        return Err(format!(
            "the model defines its own function `{}`; inline it (onnx.inliner) and save the model again",
            function.name()
        ));
    }
    let graph = model.graph.as_mut().ok_or("it holds no graph")?;
    check_graph(graph, &Scope { outer: None, names: HashSet::new() })?;
    Ok(has_loops(graph))
}

fn has_loops(graph: &GraphProto) -> bool {
    let inner = |node: &NodeProto| node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)).any(has_loops);
    graph.node.iter().any(|node| is_loop(node) || inner(node))
}

fn is_loop(node: &NodeProto) -> bool {
    node.op_type() == "Loop"
}

/// Names that a graph and the graphs around it define.
struct Scope<'a> {
    outer: Option<&'a Scope<'a>>,
    names: HashSet<String>,
}

impl Scope<'_> {
    fn knows(&self, name: &str) -> bool {
        self.names.contains(name) || self.outer.is_some_and(|outer| outer.knows(name))
    }
}

/// The file's reader bounds how deep graphs are nested, so this may recurse.
fn check_graph(graph: &mut GraphProto, outer: &Scope<'_>) -> Result<(), String> {
    if let Some(tensor) = graph.sparse_initializer.first() {
        let name = tensor.values.as_ref().map_or("", |values| values.name());
        return Err(format!("initializer `{name}` is sparse, which foreturn does not read"));
    }
    graph.initializer.iter().try_for_each(tensor::check)?;
    let scope = Scope { outer: Some(outer), names: definitions(graph)? };
    for node in &mut graph.node {
        check_node(node, &scope)?;
    }
    if let Some(output) = graph.output.iter().find(|output| !scope.knows(output.name())) {
        return Err(format!("nothing computes output `{}` of the graph", output.name()));
    }
    sort(&mut graph.node)
}

/// Everything that the graph itself defines, each name once.
fn definitions(graph: &GraphProto) -> Result<HashSet<String>, String> {
    let mut names = HashSet::new();
    let mut once = |kind: &str, name: &str| match names.insert(name.to_owned()) {
        true => Ok(()),
        false => Err(format!("{kind} `{name}` has the same name as another value of the graph")),
    };
    graph.initializer.iter().try_for_each(|tensor| once("initializer", tensor.name()))?;
    // An input may have its initializer as a default.
    let defaults: HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name()).collect();
    let mut inputs = HashSet::new();
    for name in graph.input.iter().map(|input| input.name()) {
        if !inputs.insert(name) {
            return Err(format!("input `{name}` occurs twice"));
        }
        if !defaults.contains(name) {
            once("input", name)?;
        }
    }
    let outputs = graph.node.iter().flat_map(|node| &node.output).filter(|name| !name.is_empty());
    outputs.into_iter().try_for_each(|name| once("a node's output", name))?;
    Ok(names)
}

fn check_node(node: &mut NodeProto, scope: &Scope<'_>) -> Result<(), String> {
    let called = format!("node `{}` ({})", node.name(), node.op_type());
    if !DOMAINS.contains(&node.domain()) {
        return Err(format!("{called} is an operator of the domain `{}`, which foreturn does not have", node.domain()));
    }
    if let Some(name) = node.input.iter().find(|name| !name.is_empty() && !scope.knows(name)) {
        return Err(format!("{called} takes `{name}`, which nothing defines: no input, initializer or node"));
    }
    let loops = is_loop(node);
    for attribute in &mut node.attribute {
        for tensor in attribute.t.iter().chain(&attribute.tensors) {
            if tensor::is_external(tensor) {
                return Err(format!("{called} has a tensor with external data, which only initializers may have"));
            }
            tensor::check(tensor).map_err(|why| format!("{called}: {why}"))?;
        }
        for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            check_graph(graph, scope).map_err(|why| format!("{called}: {why}"))?;
            // ONNX Runtime checks before each node whether it has to stop, but constants become initializers.
            if loops && graph.node.iter().all(|node| node.op_type() == "Constant") {
                return Err(format!("the body of {called} has no nodes, so the loop could not be stopped"));
            }
        }
    }
    Ok(())
}

/// Sorts nodes by their dependencies. The given order is kept if it is valid.
fn sort(nodes: &mut Vec<NodeProto>) -> Result<(), String> {
    let makers: HashMap<&str, usize> =
        nodes.iter().enumerate().flat_map(|(i, node)| node.output.iter().map(move |name| (name.as_str(), i))).collect();
    let mut users = vec![Vec::new(); nodes.len()];
    let mut missing = vec![0_usize; nodes.len()];
    for (index, node) in nodes.iter().enumerate() {
        let mut taken = HashSet::new();
        names_taken(node, &mut taken);
        for maker in taken.into_iter().filter_map(|name| makers.get(name)) {
            users[*maker].push(index);
            missing[index] += 1;
        }
    }
    let mut ready: BTreeSet<usize> = (0..nodes.len()).filter(|&i| missing[i] == 0).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(index) = ready.pop_first() {
        order.push(index);
        for &user in &users[index] {
            missing[user] -= 1;
            if missing[user] == 0 {
                ready.insert(user);
            }
        }
    }
    if let Some(stuck) = (0..nodes.len()).find(|&i| missing[i] > 0) {
        let node = &nodes[stuck];
        return Err(format!(
            "node `{}` ({}) depends on its own output: the graph has a cycle",
            node.name(),
            node.op_type()
        ));
    }
    if !order.is_sorted() {
        let mut given: Vec<_> = std::mem::take(nodes).into_iter().map(Some).collect();
        nodes.extend(order.into_iter().filter_map(|index| given[index].take()));
    }
    Ok(())
}

/// All names that a node takes, including those that the graphs inside it take from outside.
fn names_taken<'a>(node: &'a NodeProto, names: &mut HashSet<&'a str>) {
    names.extend(node.input.iter().filter(|name| !name.is_empty()).map(String::as_str));
    for graph in node.attribute.iter().flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs)) {
        let mut inside: HashSet<&str> = graph.output.iter().map(|output| output.name()).collect();
        graph.node.iter().for_each(|node| names_taken(node, &mut inside));
        // The branches of a merged graph give their results the names of outer values, so a graph's own names are not
        // taken from outside.
        let made = graph.node.iter().flat_map(|node| &node.output).map(String::as_str);
        let given = graph.input.iter().map(|input| input.name());
        for own in made.chain(given).chain(graph.initializer.iter().map(|tensor| tensor.name())) {
            inside.remove(own);
        }
        names.extend(inside);
    }
}
