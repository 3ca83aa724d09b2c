//! Rotary tables that depend on a sequence's length.
//!
//! Models with LongRoPE (Phi-3) have two pairs of tables. In exported graphs, an `If` on the total length chooses one
//! pair for the whole batch, but in a packed step each sequence needs its own. So both become one table, with the small
//! one's rows first, and each sequence has the row at which its positions begin.
//!
//! A sequence starts over with the large tables at the token that makes it longer than the checkpoint's original
//! context. The result equals that of computing the whole sequence again, as transformers does without a cache. (With
//! one, 4.57's `generate` masks the crossing step wrongly.)

use super::graph::{Attributes, Values, integer};
use crate::model::tensor::is_external;
use crate::onnx::nodes::{int, node};
use crate::onnx::{GraphProto, NodeProto, TensorProto};

/// The dependence of rotary tables on a sequence's length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LongRope {
    /// Longest sequence, in tokens, that uses the small tables.
    pub(crate) original: usize,
    /// Rows of the small tables. The large ones begin there.
    pub(crate) small_rows: usize,
    /// Rows of the large tables: the number of positions that the model knows.
    pub(crate) large_rows: usize,
}

/// Whether `name` is a pair of tables that [`join_tables`] joined.
pub(super) fn is_joined(producer: Option<&NodeProto>) -> bool {
    producer.is_some_and(|node| node.op_type() == "Concat" && node.name().starts_with(JOINED))
}

const JOINED: &str = "foreturn.joined_tables.";

/// The longest sequence for which `graph` uses its small tables, if it has two kinds.
pub(crate) fn original_length(graph: &GraphProto) -> Option<usize> {
    let tables = table_names(graph);
    let values = Values::of(graph);
    let choice = graph.node.iter().find(|node| node.op_type() == "If" && feeds(node, &tables))?;
    threshold(choice, &values).ok()
}

/// Replaces each `If` that chooses rotary tables by both tables, one after the other.
pub(super) fn join_tables(graph: &mut GraphProto) -> Result<Option<LongRope>, String> {
    let tables = table_names(graph);
    let mut found: Option<LongRope> = None;
    let (mut nodes, mut moved) = (Vec::with_capacity(graph.node.len()), Vec::new());
    let values = Values::of(graph);
    for node in &graph.node {
        if node.op_type() != "If" || !feeds(node, &tables) {
            nodes.push(node.clone());
            continue;
        }
        let original = threshold(node, &values)?;
        for (index, output) in node.output.iter().enumerate().filter(|(_, output)| !output.is_empty()) {
            let small = branch_table(node, "else_branch", index, &values)?;
            let large = branch_table(node, "then_branch", index, &values)?;
            let here = LongRope { original, small_rows: rows(&small), large_rows: rows(&large) };
            if small.dims.len() != 2 || large.dims.len() != 2 || small.dims[1] != large.dims[1] {
                let (small, large) = (&small.dims, &large.dims);
                return Err(format!("node `{}` chooses between tables of shapes {small:?} and {large:?}", node.name()));
            }
            if here.small_rows < original || *found.get_or_insert(here) != here {
                return Err(format!(
                    "node `{}` chooses rotary tables by {here:?}, another one by {found:?}; foreturn needs one rule, \
                     and small tables that reach to its length",
                    node.name()
                ));
            }
            let parts = [small.name(), large.name()];
            let name = format!("{JOINED}{output}");
            nodes.push(self::node("", "Concat", &name, &parts, &[output], vec![int("axis", 0)]));
            moved.extend([small, large]);
        }
    }
    moved.retain(|tensor| values.constant(tensor.name()).is_none());
    graph.node = nodes;
    graph.initializer.extend(moved);
    Ok(found)
}

fn rows(table: &TensorProto) -> usize {
    table.dims.first().map_or(0, |&rows| usize::try_from(rows).unwrap_or(0))
}

/// Names of the tables that attention nodes use.
fn table_names(graph: &GraphProto) -> Vec<String> {
    graph.node.iter().filter_map(super::attention::Inputs::of).flat_map(|inputs| [inputs.cos, inputs.sin]).collect()
}

fn feeds(node: &NodeProto, tables: &[String]) -> bool {
    node.output.iter().any(|output| !output.is_empty() && tables.contains(output))
}

/// The longest length that takes the `else` branch.
fn threshold(choice: &NodeProto, values: &Values<'_>) -> Result<usize, String> {
    let condition = choice.input.first().and_then(|name| values.producer(name));
    let refuse = || {
        Err(format!(
            "node `{}` chooses rotary tables by something other than the sequences' length; foreturn can't do \
             that for each of them",
            choice.name()
        ))
    };
    let Some(condition) = condition else { return refuse() };
    let [length, limit] = &condition.input[..] else { return refuse() };
    let limit = values.constant(limit).and_then(integer).and_then(|limit| usize::try_from(limit).ok());
    let limit = match (condition.op_type(), limit) {
        ("Greater", Some(limit)) => limit,
        ("GreaterOrEqual", Some(limit)) if limit > 0 => limit - 1,
        _ => return refuse(),
    };
    match length_unit(length, values) {
        // A length in whole blocks exceeds a limit in whole blocks exactly when the length in tokens does.
        Some(unit) if limit % unit == 0 => Ok(limit),
        _ => refuse(),
    }
}

/// The unit, in tokens, in which `name` is the sequences' length: 1 if it comes from the attention mask, a block's size
/// if it comes from the block table. `None` if it is something else.
fn length_unit(name: &str, values: &Values<'_>) -> Option<usize> {
    const ON_THE_WAY: [&str; 7] = ["Shape", "Gather", "Cast", "ReduceSum", "ReduceMax", "Squeeze", "Identity"];
    let (mut name, mut unit) = (name, 1);
    while let Some(node) = values.producer(name) {
        name = node.input.first()?;
        if node.op_type() == "Mul" {
            let factor = values.constant(node.input.get(1)?).and_then(integer)?;
            unit *= usize::try_from(factor).ok().filter(|&factor| factor > 0)?;
        } else if !ON_THE_WAY.contains(&node.op_type()) {
            return None;
        }
    }
    (name == "block_table" || (name == "attention_mask" && unit == 1)).then_some(unit)
}

/// The table that is a branch's output `index`, under a name of the outer graph.
fn branch_table(choice: &NodeProto, branch: &str, index: usize, values: &Values<'_>) -> Result<TensorProto, String> {
    let refuse = || Err(format!("node `{}`: output {index} of its {branch} is not a constant table", choice.name()));
    let Some(graph) = Attributes(choice).get(branch).and_then(|attribute| attribute.g.as_ref()) else {
        return refuse();
    };
    let Some(output) = graph.output.get(index) else { return refuse() };
    let inside = Values::of(graph);
    let mut name = output.name();
    while let Some(node) = inside.producer(name).filter(|node| node.op_type() == "Identity") {
        let Some(input) = node.input.first() else { return refuse() };
        name = input;
    }
    if let Some(tensor) = inside.constant(name).filter(|tensor| !is_external(tensor)) {
        // Branches of different nodes may use the same name for different values.
        return Ok(TensorProto { name: Some(format!("{}/{branch}/{name}", choice.name())), ..tensor.clone() });
    }
    match values.constant(name) {
        Some(tensor) => Ok(TensorProto { name: Some(name.to_owned()), ..tensor.clone() }),
        None => refuse(),
    }
}
