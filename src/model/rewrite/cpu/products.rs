//! Conversion of products with weights to `foreturn.PackedMatMul`.
//!
//! The weights leave the graph. The graph keeps numbered matrices, and a [`Product`] for each says where its weights
//! are. Products of one input that belong together become one: query, key and value of an attention node, and the two
//! halves of a gated feed-forward layer with their activation.
//!
//! MatMul, FusedMatMul and Gemm in float32 are converted, and MatMulNBits at accuracy level 4. Weights may be half
//! precision, if a Cast widens them, or if they were widened with their graph. The caller chooses whether numbers are
//! multiplied in float32 or in bfloat16, or leaves it to the weights. ONNX Runtime still computes the rest: zero points
//! of 8 bits, blocks that are not a multiple of 32, biases inside the node, and everything on processors without AVX2.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use crate::Result;
use crate::kernels::attention::{self, DOMAIN};
use crate::kernels::matmul::pack::{Activation, BLOCK, Blocks, Epilogue, Floats, Kind, Number, Part, Shape};
use crate::kernels::matmul::{MATRIX, OPERATOR};
use crate::model::options::Dtype;
use crate::model::rewrite::graph::{Attributes, Values, integers};
use crate::model::rewrite::precision::{self, Precision};
use crate::model::source::Source;
use crate::model::tensor::{self, is_external};
use crate::onnx::nodes::{int, node};
use crate::onnx::tensor_proto::DataType;
use crate::onnx::{GraphProto, NodeProto, TensorProto};

/// A matrix and the weights that it is made of.
#[derive(Debug)]
pub(crate) struct Product {
    pub(crate) shape: Shape,
    weights: Vec<Weight>,
}

/// One weight of the graph.
#[derive(Debug, Clone)]
struct Weight {
    form: Form,
    columns: usize,
    /// Its values; or quants, scales and, if there are any, zero points.
    tensors: Vec<TensorProto>,
}

#[derive(Debug, Clone, Copy)]
enum Form {
    Floats { number: Number, by_column: bool },
    Blocks { bits: usize, block: usize },
}

/// A node that multiplies by a weight.
#[derive(Debug, Clone)]
struct Candidate {
    /// The value that is multiplied, without the block sums that may be appended to it.
    input: String,
    inputs: usize,
    block_sums: bool,
    kind: Kind,
    columns: usize,
    weight: Weight,
}

/// Replaces the products of `graph` that the engine computes itself, those of numbers in `dtype`. `original` is the graph
/// before it was widened.
pub(in crate::model::rewrite) fn replace(graph: &mut GraphProto, original: &GraphProto, dtype: Dtype) -> Vec<Product> {
    let values = Values::of(graph);
    let halves = original.initializer.iter().filter(|tensor| number(tensor).is_some_and(|n| n != Number::Float32));
    let halves: HashMap<&str, &TensorProto> = halves.map(|tensor| (tensor.name(), tensor)).collect();
    let uses = uses(graph);
    let candidates: HashMap<&str, Candidate> = graph
        .node
        .iter()
        .filter_map(|node| Some((node.output.first()?.as_str(), candidate(node, (&values, &halves), dtype)?)))
        .collect();
    let places = graph.node.iter().enumerate().filter_map(|(place, node)| Some((node.output.first()?.as_str(), place)));
    let plan = Plan { candidates: &candidates, values: &values, uses: &uses, places: places.collect() };

    let mut merged: HashSet<&str> = HashSet::new();
    // Keyed by the output of the first node that a product replaces, because the product stands there.
    let mut products: HashMap<&str, (Product, String)> = HashMap::new();
    let mut renamed: HashMap<&str, String> = HashMap::new();
    for node in &graph.node {
        let Some(output) = node.output.first().map(String::as_str) else { continue };
        if let Some(members) = plan.attended(node) {
            let name = format!("{output}/query_key_value");
            merged.extend(&members);
            products.insert(plan.first(&members), (plan.merge(&members, Epilogue::Store), name.clone()));
            renamed.insert(output, name);
        } else if let Some((members, inner, activation)) = plan.gated(node) {
            merged.extend(members.iter().chain(&inner).chain([&output]));
            let product = plan.merge(&members, Epilogue::Gated(activation));
            products.insert(plan.first(&members), (product, output.to_owned()));
        }
    }
    for (output, _) in candidates.iter().filter(|(output, _)| !merged.contains(*output)) {
        products.insert(output, (plan.merge(&[output], Epilogue::Store), (*output).to_owned()));
    }

    let (mut nodes, mut found) = (Vec::with_capacity(graph.node.len()), Vec::new());
    for node in &graph.node {
        let output = node.output.first().map_or("", String::as_str);
        if let Some((product, name)) = products.remove(output) {
            nodes.push(packed(&name, &plan.candidates[output].input, found.len()));
            found.push(product);
        } else if let Some(name) = renamed.remove(output) {
            let mut node = node.clone();
            node.input[..3].clone_from_slice(&[name, String::new(), String::new()]);
            nodes.push(node);
        } else if !merged.contains(output) {
            nodes.push(node.clone());
        }
    }
    graph.node = nodes;
    found
}

fn packed(output: &str, input: &str, index: usize) -> NodeProto {
    node(DOMAIN, OPERATOR, &format!("{output}/packed"), &[input], &[output], vec![int(MATRIX, index as i64)])
}

/// The number of readers of each value.
pub(super) fn uses(graph: &GraphProto) -> HashMap<String, usize> {
    let mut uses = HashMap::new();
    let outputs = graph.output.iter().map(|output| output.name());
    for name in graph.node.iter().flat_map(|node| node.input.iter().map(String::as_str)).chain(outputs) {
        *uses.entry(name.to_owned()).or_insert(0) += 1;
    }
    uses
}

/// The plan of which products replace which nodes.
struct Plan<'g> {
    candidates: &'g HashMap<&'g str, Candidate>,
    values: &'g Values<'g>,
    uses: &'g HashMap<String, usize>,
    /// The position of each node, by its first output.
    places: HashMap<&'g str, usize>,
}

impl<'g> Plan<'g> {
    /// The product that computes `name`, if only one node reads it.
    fn product(&self, name: &str) -> Option<(&'g str, &'g Candidate)> {
        let (name, candidate) = self.candidates.get_key_value(name)?;
        (self.uses.get(*name) == Some(&1)).then_some((*name, candidate))
    }

    /// The products that give an attention node its query, key and value, if they can be one.
    fn attended(&self, node: &NodeProto) -> Option<Vec<&'g str>> {
        if node.domain() != DOMAIN || node.op_type() != attention::OPERATOR {
            return None;
        }
        let [query, key, value] = node.input.get(..3)? else { return None };
        let members = [query, key, value].map(|name| self.product(name));
        let members: Vec<_> = members.into_iter().collect::<Option<_>>()?;
        self.together(&members)
    }

    /// The products of a gated layer (gate, then the other), the nodes between them and `node`, and the activation.
    fn gated(&self, node: &NodeProto) -> Option<(Vec<&'g str>, Vec<&'g str>, Activation)> {
        let [a, b] = node.input.as_slice() else { return None };
        if node.op_type() != "Mul" || !node.domain().is_empty() {
            return None;
        }
        [(a, b), (b, a)].into_iter().find_map(|(activated, up)| {
            let up = self.product(up)?;
            let (gate, inner, activation) = self.activation(activated)?;
            // The panels of both alternate, half a panel at a time.
            let fits = up.1.columns == gate.1.columns && up.1.columns % 16 == 0;
            let members = self.together(&[gate, up]).filter(|_| fits)?;
            Some((members, inner, activation))
        })
    }

    /// The product that becomes `name` through an activation, and the nodes between them.
    fn activation(&self, name: &str) -> Option<((&'g str, &'g Candidate), Vec<&'g str>, Activation)> {
        let node = self.values.producer(name).filter(|_| self.uses.get(name) == Some(&1))?;
        let output = node.output.first()?.as_str();
        match (node.op_type(), node.input.as_slice()) {
            ("Gelu", [input]) if Attributes(node).text("approximate") == "tanh" => {
                Some((self.product(input)?, vec![output], Activation::GeluTanh))
            }
            ("FastGelu", [input]) => Some((self.product(input)?, vec![output], Activation::GeluTanh)),
            ("Mul", [a, b]) => [(a, b), (b, a)].into_iter().find_map(|(gate, sigmoid)| {
                let inner = self.values.producer(sigmoid)?;
                let fits = inner.op_type() == "Sigmoid" && inner.input.as_slice() == [gate.clone()];
                // The sigmoid and this product read it, and only this product reads the sigmoid.
                let alone = self.uses.get(gate) == Some(&2) && self.uses.get(sigmoid) == Some(&1);
                let (gate, candidate) = self.candidates.get_key_value(gate.as_str()).filter(|_| fits && alone)?;
                Some(((*gate, candidate), vec![inner.output.first()?.as_str(), output], Activation::Silu))
            }),
            _ => None,
        }
    }

    /// The names of these products, if they have the same input and kind of weights.
    fn together(&self, members: &[(&'g str, &'g Candidate)]) -> Option<Vec<&'g str>> {
        let first = members.first()?.1;
        let alike = |c: &Candidate| (c.input == first.input) && (c.kind, c.inputs) == (first.kind, first.inputs);
        members.iter().all(|(_, c)| alike(c)).then(|| members.iter().map(|(name, _)| *name).collect())
    }

    /// The member that comes first in the graph.
    fn first(&self, members: &[&'g str]) -> &'g str {
        members.iter().copied().min_by_key(|member| self.places.get(member)).unwrap_or_default()
    }

    fn merge(&self, members: &[&str], epilogue: Epilogue) -> Product {
        let members: Vec<&Candidate> = members.iter().map(|name| &self.candidates[*name]).collect();
        // Four bits are kept unless another member has more.
        let nibbles = members.iter().all(|member| matches!(member.weight.form, Form::Blocks { bits: 4, .. }));
        let shape = Shape {
            kind: if nibbles { Kind::Nibbles } else { members[0].kind },
            epilogue,
            inputs: members[0].inputs,
            block_sums: members.iter().any(|member| member.block_sums),
            columns: members.iter().map(|member| member.columns).sum(),
        };
        Product { shape, weights: members.into_iter().map(|member| member.weight.clone()).collect() }
    }
}

/// The weights that `node` multiplies by, if the engine computes this product itself.
fn candidate<'a>(
    node: &NodeProto,
    (values, halves): (&Values<'a>, &HashMap<&str, &'a TensorProto>),
    dtype: Dtype,
) -> Option<Candidate> {
    let attributes = Attributes(node);
    let given = |index: usize| node.input.get(index).filter(|name| !name.is_empty());
    let input = given(0)?.clone();
    let weight = given(1)?;
    let floats = |input, by_column| floats(input, unwidened(weight, values, halves)?, by_column, dtype);
    let by_column = attributes.int("transB") == 1;
    match (node.domain(), node.op_type()) {
        ("com.microsoft", "MatMulNBits") => quantised(node, input, values.constant(weight)?, values),
        ("", "MatMul") => floats(input, false),
        ("" | "com.microsoft", "Gemm" | "FusedMatMul") => {
            let scaled = attributes.get("alpha").is_some_and(|alpha| alpha.f() != 1.0);
            let turned = ["transA", "transBatchA", "transBatchB"].iter().any(|name| attributes.int(name) != 0);
            if scaled || turned || given(2).is_some() {
                return None;
            }
            floats(input, by_column)
        }
        _ => None,
    }
}

/// The weight `name` as it is stored: a constant in float32, or the one in half precision that became it, by a Cast or with
/// its graph.
fn unwidened<'a>(name: &str, values: &Values<'a>, halves: &HashMap<&str, &'a TensorProto>) -> Option<&'a TensorProto> {
    let cast = |node: &&NodeProto| node.op_type() == "Cast" && Attributes(node).int("to") == DataType::Float as i64;
    let before = values.producer(name).filter(cast).and_then(|cast| cast.input.first());
    let name = before.map_or(name, String::as_str);
    let is_float = |weight: &&TensorProto| before.is_some() || weight.data_type() == DataType::Float as i32;
    let weight = values.constant(name).filter(is_float)?;
    let half = halves.get(name).filter(|half| half.dims == weight.dims && stored(half).is_some());
    Some(half.copied().unwrap_or(weight))
}

/// The type of a tensor's numbers, if they can be multiplied.
fn number(tensor: &TensorProto) -> Option<Number> {
    Some(match Precision::of(tensor.data_type())? {
        Precision::Float32 => Number::Float32,
        Precision::Float16 => Number::Float16,
        Precision::Bfloat16 => Number::Bfloat16,
    })
}

fn floats(input: String, weight: &TensorProto, by_column: bool, dtype: Dtype) -> Option<Candidate> {
    let number = number(weight)?;
    let kind = match (dtype, number) {
        (Dtype::Bfloat16, _) | (Dtype::Auto, Number::Bfloat16) => Kind::Bfloat16,
        (Dtype::Float32, _) | (Dtype::Auto, Number::Float32 | Number::Float16) => Kind::Floats,
    };
    let [rows, columns] = *weight.dims.as_slice() else { return None };
    let (inputs, columns) = if by_column { (columns, rows) } else { (rows, columns) };
    let (inputs, columns) = (usize::try_from(inputs).ok()?, usize::try_from(columns).ok()?);
    let weight = Weight { form: Form::Floats { number, by_column }, columns, tensors: vec![stored(weight)?] };
    (inputs > 0 && columns > 0).then_some(Candidate { input, inputs, block_sums: false, kind, columns, weight })
}

fn quantised(node: &NodeProto, input: String, quants: &TensorProto, values: &Values<'_>) -> Option<Candidate> {
    let attributes = Attributes(node);
    let number = |name: &str| attributes.get(name).and_then(|a| usize::try_from(a.i()).ok());
    let (bits, block) = (number("bits").unwrap_or(4), number("block_size")?);
    let (inner, columns) = (number("K")?, number("N")?);
    let given = |index: usize| node.input.get(index).filter(|name| !name.is_empty());
    let constant = |index: usize| given(index).and_then(|name| values.constant(name));
    let zero_points = constant(3);
    // At other levels, inputs must not be rounded. An order of columns and biases are not supported here.
    let plain = attributes.int("accuracy_level") == 4 && given(4).is_none() && given(5).is_none();
    let bytes = bits == 4 || (bits == 8 && given(3).is_none());
    if !plain
        || !bytes
        || block == 0
        || block % BLOCK != 0
        || inner == 0
        || columns == 0
        || given(3).is_some() != zero_points.is_some()
    {
        return None;
    }
    let scales = constant(2).filter(|scales| scales.data_type() == DataType::Float as i32)?;
    let blocks = inner.div_ceil(block);
    // The node's sizes are not trusted. A product that overflows could fit by chance.
    let times = |factors: &[usize]| factors.iter().try_fold(1_usize, |n, factor| n.checked_mul(*factor));
    let holds = |tensor: &TensorProto, bytes: Option<usize>| {
        let width = if tensor.data_type() == DataType::Float as i32 { 4 } else { 1 };
        let dims: Option<Vec<usize>> = tensor.dims.iter().map(|dim| usize::try_from(*dim).ok()).collect();
        bytes.is_some() && dims.and_then(|dims| times(&dims)?.checked_mul(width)) == bytes
    };
    let byte = |tensor: &TensorProto| tensor.data_type() == DataType::Uint8 as i32;
    let fits = holds(scales, times(&[columns, blocks, 4]))
        && byte(quants)
        && holds(quants, times(&[columns, blocks, block, bits]).map(|all| all / 8))
        && zero_points.is_none_or(|z| {
            byte(z) && holds(z, times(&[blocks, bits]).and_then(|row| times(&[columns, row.div_ceil(8)])))
        });
    let tensors = [Some(quants), Some(scales), zero_points].into_iter().flatten().map(stored).collect::<Option<_>>()?;
    let weight = Weight { form: Form::Blocks { bits, block }, columns, tensors };
    let (input, inputs, block_sums) = match summed(&input, inner, values) {
        Some((input, inputs)) => (input, inputs, true),
        None => (input, inner, false),
    };
    fits.then_some(Candidate { input, inputs, block_sums, kind: Kind::Bytes, columns, weight })
}

/// The value, and its width, to which `input` appends the sums of its blocks.
fn summed(input: &str, inner: usize, values: &Values<'_>) -> Option<(String, usize)> {
    let made_by = |name: &str, op: &str| values.producer(name).filter(|node| node.op_type() == op);
    let concat = made_by(input, "Concat").filter(|node| Attributes(node).int("axis") == -1)?;
    let [plain, sums] = concat.input.as_slice() else { return None };
    let sum = made_by(sums, "ReduceSum")?;
    let axes = sum.input.get(1).and_then(|axes| values.constant(axes)).and_then(integers)?;
    let keeps = Attributes(sum).get("keepdims").is_none_or(|keep| keep.i() != 0);
    let blocks = made_by(sum.input.first()?, "Reshape").filter(|reshape| reshape.input.first() == Some(plain))?;
    let shape = blocks.input.get(1).and_then(|shape| values.constant(shape)).and_then(integers)?;
    let [.., count, width] = shape[..] else { return None };
    let inputs = usize::try_from(count.checked_mul(width)?).ok()?;
    let fits = axes == [-1] && !keeps && width == BLOCK as i64 && inner == inputs + inputs / BLOCK;
    fits.then(|| (plain.clone(), inputs))
}

/// The tensor, if its bytes can be used as they are: in the graph or a file, and not converted while it is loaded.
fn stored(tensor: &TensorProto) -> Option<TensorProto> {
    let converted = || tensor::entry(tensor, "location") == Some(precision::LOCATION);
    let there = if is_external(tensor) { !converted() } else { tensor.raw_data.is_some() };
    there.then(|| tensor.clone())
}

impl Product {
    /// Reads its weights from `source` and passes them to `then`.
    pub(crate) fn read(&self, source: &dyn Source, then: &mut dyn FnMut(&[Part<'_>])) -> Result<()> {
        let loaded = self.weights.iter().map(|weight| source.read(&weight.tensors)).collect::<Result<Vec<_>>>()?;
        let parts: Vec<_> = self.weights.iter().zip(&loaded).map(|(weight, data)| weight.part(data)).collect();
        then(&parts);
        Ok(())
    }
}

impl Weight {
    /// Its description for the kernel. `data` has the bytes of its tensors.
    fn part<'a>(&self, data: &'a [Cow<'_, [u8]>]) -> Part<'a> {
        let columns = self.columns;
        match self.form {
            Form::Floats { number, by_column } => Part::Floats(Floats { number, values: &data[0], columns, by_column }),
            Form::Blocks { bits, block } => {
                let zero_points = data.get(2).map(|bytes| &**bytes);
                Part::Blocks(Blocks { bits, block, columns, quants: &data[0], scales: &data[1], zero_points })
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
