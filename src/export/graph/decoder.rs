//! From a [`Decoder`] to its graph.

use super::super::arch::{Activation, Decoder};
use super::super::checkpoint::Checkpoint;
use super::super::head::Scores;
use super::super::names;
use super::super::quantize::Scheme;
use super::{Builder, Graph, Linear, Size};
use crate::Result;
use crate::onnx::nodes::{Dim, MICROSOFT, float, int, node, text, value_info};
use crate::onnx::tensor_proto::DataType;

/// Builds the graph, and checks every tensor that it names against the configuration. The graph ends in `scores` if
/// there are some, otherwise in the language model's head.
pub(in crate::export) fn build<'a>(
    decoder: &Decoder,
    scores: Option<&Scores>,
    checkpoint: &'a Checkpoint,
    scheme: Scheme,
) -> Result<Graph<'a>> {
    let mut writer = Writer { decoder, scores, sizes: Sizes::of(decoder), builder: Builder::new(checkpoint, scheme) };
    writer.attention_mask();
    writer.rotary_switches();
    writer.body()?;
    writer.declare();
    writer.builder.finish(|name| {
        // Old checkpoints store the rotary frequencies; tied ones sometimes store the embedding twice; those with
        // scores keep the head they had before. TRL puts a value head beside that of the language model.
        let has_no_head = decoder.head.tied || scores.is_some();
        name.ends_with(".rotary_emb.inv_freq")
            || (has_no_head && name == "lm_head.weight")
            || (scores.is_some() && name == "lm_head.bias")
            || name.starts_with(names::VALUE_HEAD)
    })
}

/// The sizes that weights can have.
pub(super) struct Sizes {
    pub(super) vocab: Size,
    pub(super) hidden: Size,
    pub(super) intermediate: Size,
    pub(super) gate_up: Size,
    pub(super) head: Size,
    pub(super) query: Size,
    pub(super) key_value: Size,
    pub(super) qkv: Size,
}

impl Sizes {
    fn of(decoder: &Decoder) -> Self {
        let attention = &decoder.attention;
        let (query, key_value) = (attention.heads * attention.head_size, attention.kv_heads * attention.head_size);
        Sizes {
            vocab: Size::new(decoder.vocab_size, &["vocab_size"]),
            hidden: Size::new(decoder.hidden_size, &["hidden_size"]),
            intermediate: Size::new(decoder.feed_forward.size, &["intermediate_size"]),
            gate_up: Size::new(2 * decoder.feed_forward.size, &["intermediate_size"]),
            head: Size::new(attention.head_size, &["head_dim"]),
            query: Size::new(query, &["num_attention_heads", "head_dim"]),
            key_value: Size::new(key_value, &["num_key_value_heads", "head_dim"]),
            qkv: Size::new(query + 2 * key_value, &["num_attention_heads", "num_key_value_heads", "head_dim"]),
        }
    }
}

pub(super) struct Writer<'d, 'a> {
    pub(super) decoder: &'d Decoder,
    scores: Option<&'d Scores>,
    pub(super) sizes: Sizes,
    pub(super) builder: Builder<'a>,
}

const EMBEDDING: &str = "model.embed_tokens";

impl Writer<'_, '_> {
    fn declare(&mut self) {
        let batch = Dim::Symbol("batch_size");
        let sequence = Dim::Symbol("sequence_length");
        let total = Dim::Symbol("total_sequence_length");
        let attention = &self.decoder.attention;
        let cache =
            |length| [batch, Dim::Size(attention.kv_heads), Dim::Symbol(length), Dim::Size(attention.head_size)];
        let (past, present) = (cache("past_sequence_length"), cache("total_sequence_length"));

        let graph = &mut self.builder.proto;
        graph.input.push(value_info("input_ids", DataType::Int64, &[batch, sequence]));
        graph.input.push(value_info("attention_mask", DataType::Int64, &[batch, total]));
        let width = self.scores.map_or(self.decoder.vocab_size, |scores| scores.head.size);
        let logits = [batch, sequence, Dim::Size(width)];
        graph.output.push(value_info("logits", DataType::Float, &logits));
        for layer in 0..self.decoder.layers.len() {
            for kind in ["key", "value"] {
                let input = value_info(&format!("past_key_values.{layer}.{kind}"), DataType::Float, &past);
                graph.input.push(input);
                let output = value_info(&format!("present.{layer}.{kind}"), DataType::Float, &present);
                graph.output.push(output);
            }
        }
    }

    fn body(&mut self) -> Result<()> {
        let mut stream = self.embedding()?;
        let mut branch = None;
        for layer in 0..self.decoder.layers.len() {
            let parent = format!("layers.{layer}");
            let (normed, sum) = self.add_and_norm(&parent, "input_layernorm", &stream, branch)?;
            let mut attention = self.attention(layer, &normed)?;
            let mut before_feed_forward = "post_attention_layernorm";
            if self.decoder.norm.branches {
                attention = self.norm(&parent, "post_attention_layernorm", &attention)?;
                before_feed_forward = "pre_feedforward_layernorm";
            }
            let (normed, sum) = self.add_and_norm(&parent, before_feed_forward, &sum, Some(attention))?;
            let mut feed_forward = self.feed_forward(layer, &normed)?;
            if self.decoder.norm.branches {
                feed_forward = self.norm(&parent, "post_feedforward_layernorm", &feed_forward)?;
            }
            (stream, branch) = (sum, Some(feed_forward));
        }
        let (normed, _) = self.add_and_norm("", "norm", &stream, branch)?;
        self.head(&normed)
    }

    fn embedding(&mut self) -> Result<String> {
        let Sizes { vocab, hidden, .. } = self.sizes;
        let embedded = self.builder.embedding(EMBEDDING, "/model/embed_tokens", "input_ids", vocab, hidden)?;
        let Some(scale) = self.decoder.embedding_scale else { return Ok(embedded) };
        let scale = self.builder.float(scale);
        Ok(self.builder.op("", "Mul", "/model/embed_tokens/Mul", &[&embedded, &scale], vec![]))
    }

    /// The graph's output, from the normalised last hidden states.
    fn head(&mut self, hidden: &str) -> Result<()> {
        if let Some(scores) = self.scores {
            let logits = scores.write(&mut self.builder, hidden, self.sizes.hidden)?;
            self.builder.rename(&logits, "logits");
            return Ok(());
        }
        let head = self.decoder.head;
        let linear = Linear {
            module: if head.tied { EMBEDDING } else { "lm_head" },
            path: "/lm_head",
            out: self.sizes.vocab,
            inner: self.sizes.hidden,
            bias: false,
        };
        let builder = &mut self.builder;
        let mut logits = builder.linear(&linear, hidden)?;
        if let Some(cap) = head.softcap {
            let cap = builder.float(cap);
            logits = builder.op("", "Div", "/lm_head/softcap/Div", &[&logits, &cap], vec![]);
            logits = builder.op("", "Tanh", "/lm_head/softcap/Tanh", &[&logits], vec![]);
            logits = builder.op("", "Mul", "/lm_head/softcap/Mul", &[&logits, &cap], vec![]);
        }
        builder.rename(&logits, "logits");
        Ok(())
    }

    /// The weight of a norm; for those that add one to it, the sum.
    fn norm_weight(&mut self, module: &str, path: &str, size: Size) -> Result<String> {
        let weight = self.builder.weight(&format!("{module}.weight"), &[size])?;
        if !self.decoder.norm.plus_one {
            return Ok(weight);
        }
        let one = self.builder.float(1.0);
        Ok(self.builder.op("", "Add", &format!("{path}/weight/Add"), &[&weight, &one], vec![]))
    }

    /// Normalises the last axis of `input`, of `size` elements.
    pub(super) fn norm_of(&mut self, module: &str, path: &str, size: Size, input: &str) -> Result<String> {
        let weight = self.norm_weight(module, path, size)?;
        let output = format!("{path}/output_0");
        let attributes = vec![int("axis", -1), float("epsilon", self.decoder.norm.epsilon), int("stash_type", 1)];
        let name = format!("{path}/LayerNorm");
        let op_type = "SimplifiedLayerNormalization";
        self.builder.push(node("", op_type, &name, &[input, &weight], &[&output], attributes));
        Ok(output)
    }

    /// Normalises hidden states.
    fn norm(&mut self, parent: &str, name: &str, input: &str) -> Result<String> {
        let (module, path) = norm_names(parent, name);
        self.norm_of(&module, &path, self.sizes.hidden, input)
    }

    /// Adds `branch` to the residual stream and normalises: (normalised, new stream).
    fn add_and_norm(
        &mut self,
        parent: &str,
        name: &str,
        stream: &str,
        branch: Option<String>,
    ) -> Result<(String, String)> {
        let Some(branch) = branch else { return Ok((self.norm(parent, name, stream)?, stream.to_owned())) };
        let (module, path) = norm_names(parent, name);
        let weight = self.norm_weight(&module, &path, self.sizes.hidden)?;
        let (normed, sum) = (format!("{path}/output_0"), format!("{path}/output_3"));
        // Nothing else takes the sum after the last layer.
        let outputs: &[&str] = if parent.is_empty() { &[&normed] } else { &[&normed, "", "", &sum] };
        let op_type = "SkipSimplifiedLayerNormalization";
        let name = format!("{path}/SkipLayerNorm");
        let epsilon = float("epsilon", self.decoder.norm.epsilon);
        self.builder.push(node(MICROSOFT, op_type, &name, &[stream, &branch, &weight], outputs, vec![epsilon]));
        Ok((normed, sum))
    }

    /// down(activation(gate) · up)
    fn feed_forward(&mut self, layer: usize, input: &str) -> Result<String> {
        let Sizes { hidden, intermediate, .. } = self.sizes;
        let base = format!("/model/layers.{layer}/mlp");
        let (gate, up) = self.gate_and_up(layer, input)?;
        let activated = match self.decoder.feed_forward.activation {
            Activation::Silu => {
                let sigmoid = self.builder.op("", "Sigmoid", &format!("{base}/act_fn/Sigmoid"), &[&gate], vec![]);
                self.builder.op("", "Mul", &format!("{base}/act_fn/Mul"), &[&gate, &sigmoid], vec![])
            }
            Activation::GeluTanh => {
                let attributes = vec![text("approximate", "tanh")];
                self.builder.op("", "Gelu", &format!("{base}/act_fn/Gelu"), &[&gate], attributes)
            }
        };
        let product = self.builder.op("", "Mul", &format!("{base}/Mul"), &[&activated, &up], vec![]);
        self.projection(layer, "mlp.down_proj", &product, hidden, intermediate, self.decoder.feed_forward.bias)
    }

    fn gate_and_up(&mut self, layer: usize, input: &str) -> Result<(String, String)> {
        let Sizes { hidden, intermediate, gate_up, .. } = self.sizes;
        let bias = self.decoder.feed_forward.bias;
        if !self.decoder.feed_forward.fused {
            let gate = self.projection(layer, "mlp.gate_proj", input, intermediate, hidden, bias)?;
            return Ok((gate, self.projection(layer, "mlp.up_proj", input, intermediate, hidden, bias)?));
        }
        let both = self.projection(layer, "mlp.gate_up_proj", input, gate_up, hidden, bias)?;
        let name = format!("/model/layers.{layer}/mlp/gate_up_proj/Split");
        let (gate, up) = (format!("{name}/output_0"), format!("{name}/output_1"));
        let attributes = vec![int("axis", -1), int("num_outputs", 2)];
        self.builder.push(node("", "Split", &name, &[&both], &[&gate, &up], attributes));
        Ok((gate, up))
    }

    /// A projection of layer `layer`.
    pub(super) fn projection(
        &mut self,
        layer: usize,
        module: &str,
        input: &str,
        out: Size,
        inner: Size,
        bias: bool,
    ) -> Result<String> {
        let path = format!("/model/layers.{layer}/{}", module.replace("self_attn.", "attn/").replace("mlp.", "mlp/"));
        let module = format!("model.layers.{layer}.{module}");
        self.builder.linear(&Linear { module: &module, path: &path, out, inner, bias }, input)
    }
}

/// Names of a norm in the checkpoint and in the graph.
fn norm_names(parent: &str, name: &str) -> (String, String) {
    match parent {
        "" => (format!("model.{name}"), format!("/model/{name}")),
        _ => (format!("model.{parent}.{name}"), format!("/model/{parent}/{name}")),
    }
}
