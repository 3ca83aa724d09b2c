//! Tools to build graphs: nodes, constants, and the functions that every weight of a checkpoint passes through.

use std::collections::{BTreeMap, BTreeSet};

use super::super::checkpoint::{Checkpoint, Tensor};
use super::super::names;
use super::super::quantize::{Layout, Role, Scheme};
use crate::model::rewrite::precision::Precision;
use crate::onnx::nodes::{MICROSOFT, float, float_tensor, int, int64_tensor, node};
use crate::onnx::tensor_proto::DataType;
use crate::onnx::{AttributeProto, GraphProto, NodeProto};
use crate::{Error, Result};

/// A graph that still lacks its weights.
pub(in crate::export) struct Graph<'a> {
    pub(in crate::export) proto: GraphProto,
    /// The tensors that it names as initialisers, in order of first use.
    pub(in crate::export) weights: Vec<Weight<'a>>,
}

/// A tensor of the checkpoint that a graph uses.
pub(in crate::export) struct Weight<'a> {
    pub(in crate::export) name: String,
    pub(in crate::export) tensor: &'a Tensor,
    pub(in crate::export) form: Form,
}

/// The form in which a weight is stored.
#[derive(Debug, Clone, Copy)]
pub(in crate::export) enum Form {
    Float32,
    /// A matrix in half precision, which the graph widens.
    Half(Precision),
    Packed(Packing),
}

/// A form, and the parts of it that the graph names.
#[derive(Debug, Clone, Copy)]
pub(in crate::export) struct Packing {
    pub(in crate::export) layout: Layout,
    /// Its rows are looked up.
    pub(in crate::export) is_table: bool,
    /// It is a factor of products.
    pub(in crate::export) is_factor: bool,
}

/// A size and the configuration fields it comes from, for messages.
#[derive(Debug, Clone, Copy)]
pub(in crate::export) struct Size {
    pub(in crate::export) value: usize,
    pub(in crate::export) fields: &'static [&'static str],
}

impl Size {
    pub(in crate::export) const fn new(value: usize, fields: &'static [&'static str]) -> Self {
        Size { value, fields }
    }

    /// Returns whether it counts the tokens of the vocabulary.
    pub(super) fn is_vocabulary(self) -> bool {
        self.fields.contains(&"vocab_size")
    }
}

/// A projection by a checkpoint's [out, inner] weight.
pub(in crate::export) struct Linear<'n> {
    /// Its name in the checkpoint, without `.weight`.
    pub(in crate::export) module: &'n str,
    /// The beginning of its nodes' names.
    pub(in crate::export) path: &'n str,
    pub(in crate::export) out: Size,
    pub(in crate::export) inner: Size,
    /// Says that a `.bias` belongs to it.
    pub(in crate::export) bias: bool,
}

/// A graph in the making.
pub(in crate::export) struct Builder<'a> {
    checkpoint: &'a Checkpoint,
    scheme: Scheme,
    pub(in crate::export) proto: GraphProto,
    pub(super) weights: Vec<Weight<'a>>,
    seen: BTreeSet<&'a str>,
    /// Inputs of products with the sums of their blocks behind them, by input and block.
    pub(super) summed: BTreeMap<(String, usize), String>,
}

impl<'a> Builder<'a> {
    pub(in crate::export) fn new(checkpoint: &'a Checkpoint, scheme: Scheme) -> Self {
        let proto = GraphProto { name: Some("main_graph".to_owned()), ..GraphProto::default() };
        let (weights, seen, summed) = (Vec::new(), BTreeSet::new(), BTreeMap::new());
        Builder { checkpoint, scheme, proto, weights, seen, summed }
    }

    /// Adds a node.
    pub(in crate::export) fn push(&mut self, node: NodeProto) {
        self.proto.node.push(node);
    }

    /// Adds a node with one output, whose name is returned.
    pub(in crate::export) fn op(
        &mut self,
        domain: &str,
        op_type: &str,
        name: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> String {
        let output = format!("{name}/output_0");
        self.push(node(domain, op_type, name, inputs, &[&output], attributes));
        output
    }

    /// Gives the output of the last node another name.
    pub(in crate::export) fn rename(&mut self, output: &str, name: &str) {
        let outputs = self.proto.node.last_mut().into_iter().flat_map(|node| &mut node.output);
        outputs.filter(|known| *known == output).for_each(|known| *known = name.to_owned());
    }

    /// An int64 constant, a scalar.
    pub(in crate::export) fn integer(&mut self, value: i64) -> String {
        self.constant(format!("/model/constants/INT64/{value}"), |name| int64_tensor(name, &[], &[value]))
    }

    /// An int64 constant, a list.
    pub(in crate::export) fn integers(&mut self, values: &[i64]) -> String {
        let name = format!("/model/constants/INT64/{values:?}");
        self.constant(name, |name| int64_tensor(name, &[values.len()], values))
    }

    /// A float32 constant, a scalar.
    pub(in crate::export) fn float(&mut self, value: f32) -> String {
        self.constant(format!("/model/constants/FLOAT/{value:?}"), |name| float_tensor(name, &[], &[value]))
    }

    fn constant(&mut self, name: String, make: impl FnOnce(&str) -> crate::onnx::TensorProto) -> String {
        if !self.proto.initializer.iter().any(|tensor| tensor.name() == name) {
            self.proto.initializer.push(make(&name));
        }
        name
    }

    /// The rows of the [rows, width] weight `module` that `ids` name.
    pub(in crate::export) fn embedding(
        &mut self,
        module: &str,
        path: &str,
        ids: &str,
        rows: Size,
        width: Size,
    ) -> Result<String> {
        let weight = self.weight(&format!("{module}.weight"), &[rows, width])?;
        // Other tables (positions, types) are small.
        let form = if rows.is_vocabulary() { self.narrow(&weight, Role::Vocabulary) } else { None };
        if let Some(Form::Packed(packing)) = form {
            packing.is_table = true;
            let layout = packing.layout;
            return Ok(self.quantised_rows(&weight, layout, path, ids));
        }
        let is_half = matches!(form, Some(Form::Half(_)));
        let taken = self.op("", "Gather", &format!("{path}/Gather"), &[&weight, ids], vec![]);
        // Rows are widened, and not the table.
        Ok(if is_half { self.cast(&format!("{path}/Cast"), &taken, DataType::Float) } else { taken })
    }

    /// A projection of hidden states [batch, sequence, inner], in as few bits as the export asks for.
    pub(in crate::export) fn linear(&mut self, linear: &Linear<'_>, input: &str) -> Result<String> {
        let Linear { module, path, out, inner, .. } = *linear;
        let weight = self.weight(&format!("{module}.weight"), &[out, inner])?;
        let role = match module {
            _ if out.is_vocabulary() => Role::Vocabulary,
            _ if [".v_proj", ".value_proj", ".self.value"].iter().any(|value| module.ends_with(value)) => Role::Value,
            _ => Role::Other,
        };
        let Some(Form::Packed(packing)) = self.narrow(&weight, role) else { return self.exact_linear(linear, input) };
        packing.is_factor = true;
        let layout = packing.layout;
        let product = self.quantised_product(&weight, layout, path, input);
        self.add_bias(linear, product)
    }

    /// A projection in float32 whose weight is not made narrower. It is for heads with few outputs that decide
    /// everything.
    pub(in crate::export) fn exact_linear(&mut self, linear: &Linear<'_>, input: &str) -> Result<String> {
        let Linear { module, path, out, inner, .. } = *linear;
        let weight = self.weight(&format!("{module}.weight"), &[out, inner])?;
        let weight = self.widened(weight);
        let attributes = vec![float("alpha", 1.0), int("transA", 0), int("transB", 1)];
        let product = self.op(MICROSOFT, "FusedMatMul", &format!("{path}/MatMul"), &[input, &weight], attributes);
        self.add_bias(linear, product)
    }

    fn add_bias(&mut self, linear: &Linear<'_>, product: String) -> Result<String> {
        let Linear { module, path, out, bias, .. } = *linear;
        if !bias {
            return Ok(product);
        }
        let bias = self.weight(&format!("{module}.bias"), &[out])?;
        Ok(self.op("", "Add", &format!("{path}/Add"), &[&product, &bias], vec![]))
    }

    /// Gives the weight `name` the form that the scheme has for it, if that is not float32.
    fn narrow(&mut self, name: &str, role: Role) -> Option<&mut Form> {
        let weight = self.weights.iter_mut().rev().find(|weight| weight.name == name)?;
        if let Form::Float32 = weight.form {
            weight.form = match (self.scheme.half(weight.tensor), self.scheme.layout(weight.tensor, role)) {
                (Some(half), _) => Form::Half(half),
                (None, Some(layout)) => Form::Packed(Packing { layout, is_table: false, is_factor: false }),
                (None, None) => return None,
            };
        }
        Some(&mut weight.form)
    }

    /// The weight `name` in float32.
    fn widened(&mut self, name: String) -> String {
        let is_half = |weight: &Weight<'_>| weight.name == name && matches!(weight.form, Form::Half(_));
        if !self.weights.iter().any(is_half) {
            return name;
        }
        let output = format!("{name}/Cast/output_0");
        // DeBERTa multiplies states and distances by one weight.
        if self.proto.node.iter().any(|node| node.output.first() == Some(&output)) {
            return output;
        }
        self.cast(&format!("{name}/Cast"), &name, DataType::Float)
    }

    /// `input` as numbers of another type.
    pub(in crate::export) fn cast(&mut self, name: &str, input: &str, to: DataType) -> String {
        self.op("", "Cast", name, &[input], vec![int("to", to as i64)])
    }

    /// The tensor `name`, held to `shape`, as an initialiser.
    pub(in crate::export) fn weight(&mut self, name: &str, shape: &[Size]) -> Result<String> {
        let config = &self.checkpoint.config;
        let Some((name, tensor)) = self.checkpoint.tensors.get_key_value(name) else {
            let fields = || {
                let fields = ["num_hidden_layers", "tie_word_embeddings", "attention_bias", "mlp_bias"];
                let fields = fields.map(|f| config.name_of(f)).join(", ");
                format!("is a file missing, or a field wrong ({fields})?")
            };
            let why = names::behind_a_prefix(name, self.checkpoint.tensors.keys()).unwrap_or_else(fields);
            return Err(Error::invalid_model(format!(
                "{}: the weights lack `{name}`, which the configuration calls for: {why}",
                config.file()
            )));
        };
        if !tensor.shape.iter().copied().eq(shape.iter().map(|size| size.value)) {
            let expected: Vec<String> = shape.iter().map(|size| size.value.to_string()).collect();
            let fields: Vec<String> = shape
                .iter()
                .map(|size| size.fields.iter().map(|field| config.name_of(field)).collect::<Vec<_>>().join(" and "))
                .collect();
            return Err(Error::invalid_model(format!(
                "{}: `{}` has shape {:?}, but {} makes it [{}] ({}): configuration and weights are of different models",
                self.checkpoint.files[tensor.file].path.display(),
                tensor.origin,
                tensor.shape,
                config.file(),
                expected.join(", "),
                fields.join(", ")
            )));
        }
        if self.seen.insert(name) {
            self.weights.push(Weight { name: name.clone(), tensor, form: Form::Float32 });
        }
        Ok(name.clone())
    }

    /// The graph, unless a tensor of the checkpoint is left over that isn't `harmless`: one that the graph doesn't use
    /// means that the model computes something else.
    pub(in crate::export) fn finish(self, harmless: impl Fn(&str) -> bool) -> Result<Graph<'a>> {
        let mut names = self.checkpoint.tensors.keys().map(String::as_str);
        match names.find(|name| !self.seen.contains(name) && !harmless(name)) {
            None => Ok(Graph { proto: self.proto, weights: self.weights }),
            Some(name) => {
                let tensor = &self.checkpoint.tensors[name];
                Err(Error::unsupported(format!(
                    "{}: tensor `{}` has no place in the model that {} describes: leaving it out would change the \
                     model's answers",
                    self.checkpoint.files[tensor.file].path.display(),
                    tensor.origin,
                    self.checkpoint.config.file()
                )))
            }
        }
    }
}
