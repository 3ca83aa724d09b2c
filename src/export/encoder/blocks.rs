//! The parts of encoders: embeddings, norms, attention over a padded batch, pooling.
//!
//! Hidden states are [batch, sequence, hidden]. Nodes are named after the modules whose weights they use. Operators are
//! ONNX's own, except those that `Builder` writes for weights and the rotary embedding.

use crate::Result;
use crate::export::checkpoint::Checkpoint;
use crate::export::config::Config;
use crate::export::graph::{Builder, Linear, Size};
use crate::export::quantize::Scheme;
use crate::onnx::AttributeProto;
use crate::onnx::nodes::{float, int, ints, text};
use crate::onnx::tensor_proto::DataType;

/// A function applied to each element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::export) enum Activation {
    /// x·Φ(x)
    Gelu,
    /// The same, with Φ approximated by a hyperbolic tangent.
    GeluTanh,
    Relu,
    Silu,
    Tanh,
    /// No function.
    Identity,
}

impl Activation {
    /// The activation that `field` names as transformers does; GELU where it is absent.
    pub(super) fn read(config: &Config, field: &str) -> Result<Self> {
        Self::read_or(config, field, Activation::Gelu)
    }

    /// As [`Activation::read`], with another `default`.
    pub(super) fn read_or(config: &Config, field: &str, default: Self) -> Result<Self> {
        match config.get(field).map(|value| value.as_str()) {
            None => Ok(default),
            Some(Some("gelu" | "gelu_python")) => Ok(Activation::Gelu),
            Some(Some("gelu_new" | "gelu_fast" | "gelu_pytorch_tanh")) => Ok(Activation::GeluTanh),
            Some(Some("relu")) => Ok(Activation::Relu),
            Some(Some("silu" | "swish")) => Ok(Activation::Silu),
            Some(Some("tanh")) => Ok(Activation::Tanh),
            Some(_) => {
                let known = "`gelu`, `gelu_new`, `gelu_pytorch_tanh`, `relu`, `silu` and `tanh`";
                Err(config.unsupported(field, &format!("this version exports {known}")))
            }
        }
    }
}

/// The heads of an encoder's attention.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    pub(super) count: usize,
    /// Elements of one head.
    pub(super) size: usize,
}

impl Heads {
    /// Reads `num_attention_heads`, which has to divide `hidden_size`.
    pub(super) fn read(config: &Config) -> Result<Self> {
        let (count, hidden) = (config.size("num_attention_heads")?, config.size("hidden_size")?);
        if hidden % count != 0 {
            return Err(config.bad_value("num_attention_heads", &format!("does not divide the hidden size {hidden}")));
        }
        Ok(Heads { count, size: hidden / count })
    }
}

/// An encoder's graph in the making.
pub(in crate::export) struct Blocks<'a> {
    pub(super) builder: Builder<'a>,
    pub(super) hidden: Size,
    /// The number that keeps norms from dividing by zero.
    epsilon: f32,
    /// The length of the padded sequences: [1].
    pub(super) length: String,
    /// True for keys that are not padding: bool [batch, 1, 1, sequence].
    pub(super) keys: String,
    /// The bias of scores by which padding does not count: [batch, 1, 1, sequence].
    pub(super) padding: String,
}

/// The beginning of the names of a module's nodes: `/encoder/layer.0` for `encoder.layer.0`.
pub(super) fn path(module: &str) -> String {
    let mut path = String::new();
    for part in module.split('.') {
        let is_number = part.starts_with(|first: char| first.is_ascii_digit());
        path.push(if is_number { '.' } else { '/' });
        path.push_str(part);
    }
    path
}

impl<'a> Blocks<'a> {
    pub(super) fn new(checkpoint: &'a Checkpoint, scheme: Scheme, hidden: Size, epsilon: f32) -> Self {
        let mut blocks = Blocks {
            builder: Builder::new(checkpoint, scheme),
            hidden,
            epsilon,
            length: String::new(),
            keys: String::new(),
            padding: String::new(),
        };
        blocks.length = blocks.op("Shape", "/sequence/Shape", &["input_ids"], vec![int("start", 1), int("end", 2)]);
        let mask = blocks.cast("/attention_mask", "attention_mask", DataType::Bool);
        let axes = blocks.builder.integers(&[1, 2]);
        blocks.keys = blocks.op("Unsqueeze", "/attention_mask/Unsqueeze", &[&mask, &axes], vec![]);
        let keys = blocks.keys.clone();
        blocks.padding = blocks.bias("/attention_mask", &keys);
        blocks
    }

    /// A standard operator with one output, whose name is returned.
    pub(super) fn op(&mut self, kind: &str, name: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        self.builder.op("", kind, name, inputs, attributes)
    }

    pub(super) fn cast(&mut self, name: &str, input: &str, to: DataType) -> String {
        self.builder.cast(&format!("{name}/Cast"), input, to)
    }

    pub(super) fn add(&mut self, name: &str, left: &str, right: &str) -> String {
        self.op("Add", &format!("{name}/Add"), &[left, right], vec![])
    }

    /// The elements of `input` from `start` to `end` along `axis`.
    pub(super) fn slice(&mut self, name: &str, input: &str, start: &str, end: &str, axis: i64) -> String {
        let axis = self.builder.integers(&[axis]);
        self.op("Slice", &format!("{name}/Slice"), &[input, start, end, &axis], vec![])
    }

    pub(super) fn reshape(&mut self, name: &str, input: &str, shape: &[i64]) -> String {
        let shape = self.builder.integers(shape);
        self.op("Reshape", &format!("{name}/Reshape"), &[input, &shape], vec![])
    }

    pub(super) fn transpose(&mut self, name: &str, input: &str, order: &[i64]) -> String {
        self.op("Transpose", &format!("{name}/Transpose"), &[input], vec![ints("perm", order)])
    }

    /// The rows of an embedding that `ids` name.
    pub(super) fn embedding(&mut self, module: &str, ids: &str, rows: Size, width: Size) -> Result<String> {
        self.builder.embedding(module, &path(module), ids, rows, width)
    }

    /// The rows of an embedding of positions, as many as the sequence is long: [sequence, width].
    pub(super) fn positions(&mut self, module: &str, rows: Size, width: Size) -> Result<String> {
        let table = self.builder.weight(&format!("{module}.weight"), &[rows, width])?;
        let (start, end) = (self.builder.integers(&[0]), self.length.clone());
        Ok(self.slice(&path(module), &table, &start, &end, 0))
    }

    /// A linear layer over hidden states.
    pub(super) fn linear(&mut self, module: &str, input: &str, out: Size, inner: Size, bias: bool) -> Result<String> {
        self.builder.linear(&Linear { module, path: &path(module), out, inner, bias }, input)
    }

    /// As [`Blocks::linear`], for pooled states and layers that decide a score. They stay as exact as the checkpoint.
    pub(super) fn exact(&mut self, module: &str, input: &str, out: Size, inner: Size, bias: bool) -> Result<String> {
        self.builder.exact_linear(&Linear { module, path: &path(module), out, inner, bias }, input)
    }

    /// A linear layer with bias that keeps the width of hidden states.
    pub(super) fn square(&mut self, module: &str, input: &str) -> Result<String> {
        self.linear(module, input, self.hidden, self.hidden, true)
    }

    /// Normalises the last axis of hidden states.
    pub(super) fn norm(&mut self, module: &str, input: &str, bias: bool) -> Result<String> {
        let weight = self.builder.weight(&format!("{module}.weight"), &[self.hidden])?;
        let bias = if bias { self.builder.weight(&format!("{module}.bias"), &[self.hidden])? } else { String::new() };
        let name = format!("{}/LayerNormalization", path(module));
        let inputs = [input, &weight, &bias];
        let inputs = if bias.is_empty() { &inputs[..2] } else { &inputs };
        Ok(self.op("LayerNormalization", &name, inputs, vec![int("axis", -1), float("epsilon", self.epsilon)]))
    }

    pub(super) fn activate(&mut self, name: &str, activation: Activation, input: &str) -> String {
        let mut op =
            |kind: &str, inputs: &[&str], attributes| self.op(kind, &format!("{name}/{kind}"), inputs, attributes);
        match activation {
            Activation::Identity => input.to_owned(),
            Activation::Gelu => op("Gelu", &[input], vec![text("approximate", "none")]),
            Activation::GeluTanh => op("Gelu", &[input], vec![text("approximate", "tanh")]),
            Activation::Relu => op("Relu", &[input], vec![]),
            Activation::Tanh => op("Tanh", &[input], vec![]),
            Activation::Silu => {
                let sigmoid = op("Sigmoid", &[input], vec![]);
                op("Mul", &[input, &sigmoid], vec![])
            }
        }
    }

    /// The bias of scores by which only `visible` keys count: 0, or the lowest float32.
    pub(super) fn bias(&mut self, name: &str, visible: &str) -> String {
        let (seen, unseen) = (self.builder.float(0.0), self.builder.float(f32::MIN));
        self.op("Where", &format!("{name}/Where"), &[visible, &seen, &unseen], vec![])
    }

    /// [batch, sequence, width] as heads: [batch, heads, sequence, size].
    pub(super) fn split(&mut self, name: &str, input: &str, heads: Heads) -> String {
        let split = self.reshape(name, input, &[0, 0, heads.count as i64, heads.size as i64]);
        self.transpose(name, &split, &[0, 2, 1, 3])
    }

    /// The dot product of each query with each key: [batch, heads, queries, keys].
    pub(super) fn products(&mut self, name: &str, query: &str, key: &str) -> String {
        let key = self.transpose(name, key, &[0, 1, 3, 2]);
        self.op("MatMul", &format!("{name}/MatMul"), &[query, &key], vec![])
    }

    /// The values that `scores`, times `scale` and plus `bias`, choose: [batch, sequence, heads · size].
    pub(super) fn attend(&mut self, name: &str, scores: &str, scale: f32, bias: &str, value: &str) -> String {
        let scale = self.builder.float(scale);
        let scores = self.op("Mul", &format!("{name}/Mul"), &[scores, &scale], vec![]);
        let scores = self.add(&format!("{name}/bias"), &scores, bias);
        let weights = self.op("Softmax", &format!("{name}/Softmax"), &[&scores], vec![int("axis", -1)]);
        let context = self.op("MatMul", &format!("{name}/MatMul"), &[&weights, value], vec![]);
        let context = self.transpose(name, &context, &[0, 2, 1, 3]);
        self.reshape(name, &context, &[0, 0, -1])
    }

    /// The state of each sequence's first token: [batch, hidden].
    pub(super) fn first(&mut self, states: &str) -> String {
        let zero = self.builder.integer(0);
        self.op("Gather", "/pooling/Gather", &[states, &zero], vec![int("axis", 1)])
    }

    /// The mean of the states of the tokens that are not padding: [batch, hidden].
    pub(super) fn mean(&mut self, states: &str) -> String {
        let mask = self.cast("/pooling", "attention_mask", DataType::Float);
        let (sequence, last) = (self.builder.integers(&[1]), self.builder.integers(&[2]));
        let mask = self.op("Unsqueeze", "/pooling/Unsqueeze", &[&mask, &last], vec![]);
        let kept = self.op("Mul", "/pooling/Mul", &[states, &mask], vec![]);
        let mut sum = |name: &str, input: &str| {
            self.op("ReduceSum", &format!("/pooling/{name}/ReduceSum"), &[input, &sequence], vec![int("keepdims", 0)])
        };
        let (sum, count) = (sum("states", &kept), sum("tokens", &mask));
        self.op("Div", "/pooling/Div", &[&sum, &count], vec![])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_with_what_they_count() {
        assert_eq!(path("bert.encoder.layer.0.attention"), "/bert/encoder/layer.0/attention");
        assert_eq!(path("layers.11.mlp.Wo"), "/layers.11/mlp/Wo");
    }
}
