//! What graphs are built with: nodes, constants, and the functions that every weight of a checkpoint passes through.

use std::collections::BTreeSet;

use super::super::checkpoint::{Checkpoint, Tensor};
use crate::onnx::build::{MICROSOFT, float, float_tensor, int, int64_tensor, node};
use crate::onnx::{AttributeProto, GraphProto, NodeProto};
use crate::{Error, Result};

/// A graph that still lacks its weights.
pub(in crate::export) struct Graph<'a> {
    pub(in crate::export) proto: GraphProto,
    /// The tensors that it names as initialisers, in order of first use.
    pub(in crate::export) weights: Vec<(String, &'a Tensor)>,
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
}

/// A projection by a checkpoint's [out, inner] weight.
pub(in crate::export) struct Linear<'n> {
    /// Its name in the checkpoint, without `.weight`.
    pub(in crate::export) module: &'n str,
    /// What its nodes' names begin with.
    pub(in crate::export) path: &'n str,
    pub(in crate::export) out: Size,
    pub(in crate::export) inner: Size,
    /// Whether a `.bias` belongs to it.
    pub(in crate::export) bias: bool,
}

/// A graph in the making.
pub(in crate::export) struct Builder<'a> {
    checkpoint: &'a Checkpoint,
    pub(in crate::export) proto: GraphProto,
    weights: Vec<(String, &'a Tensor)>,
    seen: BTreeSet<&'a str>,
}

impl<'a> Builder<'a> {
    pub(in crate::export) fn new(checkpoint: &'a Checkpoint) -> Self {
        let proto = GraphProto { name: Some("main_graph".to_owned()), ..GraphProto::default() };
        Builder { checkpoint, proto, weights: Vec::new(), seen: BTreeSet::new() }
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
        Ok(self.op("", "Gather", &format!("{path}/Gather"), &[&weight, ids], vec![]))
    }

    /// A projection, its weight used as it is stored.
    pub(in crate::export) fn linear(&mut self, linear: &Linear<'_>, input: &str) -> Result<String> {
        let Linear { module, path, out, inner, bias } = *linear;
        let weight = self.weight(&format!("{module}.weight"), &[out, inner])?;
        let attributes = vec![float("alpha", 1.0), int("transA", 0), int("transB", 1)];
        let product = self.op(MICROSOFT, "FusedMatMul", &format!("{path}/MatMul"), &[input, &weight], attributes);
        if !bias {
            return Ok(product);
        }
        let bias = self.weight(&format!("{module}.bias"), &[out])?;
        Ok(self.op("", "Add", &format!("{path}/Add"), &[&product, &bias], vec![]))
    }

    /// The tensor `name`, held to `shape`, as an initialiser.
    pub(in crate::export) fn weight(&mut self, name: &str, shape: &[Size]) -> Result<String> {
        let config = &self.checkpoint.config;
        let Some((name, tensor)) = self.checkpoint.tensors.get_key_value(name) else {
            return Err(Error::invalid_model(format!(
                "{}: the weights lack `{name}`, which the configuration calls for: is a file missing, or a field wrong \
                 ({})?",
                config.file(),
                ["num_hidden_layers", "tie_word_embeddings", "attention_bias", "mlp_bias"]
                    .map(|f| config.name_of(f))
                    .join(", ")
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
            self.weights.push((name.clone(), tensor));
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
