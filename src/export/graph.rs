//! Writes a decoder's graph in the GroupQueryAttention layout of onnxruntime-genai.
//!
//! Tensor and node names are onnxruntime-genai's where it has them; weights keep the names of the checkpoint, so that
//! a later checkpoint can be put in their place.

use std::collections::BTreeSet;

use super::arch::Decoder;
use super::checkpoint::{Checkpoint, Tensor};
use crate::onnx::build::{Dim, MICROSOFT, float, int, int64_tensor, node, value_info};
use crate::onnx::tensor_proto::DataType;
use crate::onnx::{AttributeProto, GraphProto};
use crate::{Error, Result};

/// Initialisers of the rotary tables, both [positions, half a head].
pub(super) const COS_CACHE: &str = "cos_cache";
pub(super) const SIN_CACHE: &str = "sin_cache";

const ONE: &str = "/model/constants/INT64/1";
const ONE_AXIS: &str = "/model/constants/INT64/[1]";

/// A graph that still lacks its weights.
pub(super) struct Graph<'a> {
    pub(super) proto: GraphProto,
    /// The tensors that it names as initialisers, in order of first use.
    pub(super) weights: Vec<(String, &'a Tensor)>,
}

/// Builds the graph, checking every tensor it names against the configuration.
pub(super) fn build<'a>(decoder: &Decoder, checkpoint: &'a Checkpoint) -> Result<Graph<'a>> {
    let mut builder = Builder {
        decoder,
        checkpoint,
        sizes: Sizes::of(decoder),
        proto: GraphProto { name: Some("main_graph".to_owned()), ..GraphProto::default() },
        weights: Vec::new(),
        seen: BTreeSet::new(),
    };
    builder.attention_mask();
    // Ends at the first layer without weights, so an absurd number of layers costs nothing; only then are they declared.
    builder.body()?;
    builder.refuse_unused()?;
    builder.declare();
    Ok(Graph { proto: builder.proto, weights: builder.weights })
}

/// A size and the configuration fields it comes from, for messages.
#[derive(Clone, Copy)]
struct Size {
    value: usize,
    fields: &'static [&'static str],
}

/// The sizes that weights can have.
struct Sizes {
    vocab: Size,
    hidden: Size,
    intermediate: Size,
    query: Size,
    key_value: Size,
}

impl Sizes {
    fn of(decoder: &Decoder) -> Self {
        let size = |value, fields| Size { value, fields };
        Sizes {
            vocab: size(decoder.vocab_size, &["vocab_size"]),
            hidden: size(decoder.hidden_size, &["hidden_size"]),
            intermediate: size(decoder.intermediate_size, &["intermediate_size"]),
            query: size(decoder.heads * decoder.head_size, &["num_attention_heads", "head_dim"]),
            key_value: size(decoder.kv_heads * decoder.head_size, &["num_key_value_heads", "head_dim"]),
        }
    }
}

/// The attention node's mask inputs.
const SEQUENCE_LENGTHS: &str = "/model/attn_mask_reformat/attn_mask_subgraph/Sub/Cast/output_0";
const TOTAL_LENGTH: &str = "/model/attn_mask_reformat/attn_mask_subgraph/Gather/Cast/output_0";

struct Builder<'d, 'a> {
    decoder: &'d Decoder,
    checkpoint: &'a Checkpoint,
    sizes: Sizes,
    proto: GraphProto,
    weights: Vec<(String, &'a Tensor)>,
    seen: BTreeSet<&'a str>,
}

impl<'a> Builder<'_, 'a> {
    fn declare(&mut self) {
        let batch = Dim::Symbol("batch_size");
        let sequence = Dim::Symbol("sequence_length");
        let total = Dim::Symbol("total_sequence_length");
        let cache =
            |length| [batch, Dim::Size(self.decoder.kv_heads), Dim::Symbol(length), Dim::Size(self.decoder.head_size)];
        let (past, present) = (cache("past_sequence_length"), cache("total_sequence_length"));

        self.proto.input.push(value_info("input_ids", DataType::Int64, &[batch, sequence]));
        self.proto.input.push(value_info("attention_mask", DataType::Int64, &[batch, total]));
        let logits = [batch, sequence, Dim::Size(self.decoder.vocab_size)];
        self.proto.output.push(value_info("logits", DataType::Float, &logits));
        for layer in 0..self.decoder.layers {
            for kind in ["key", "value"] {
                let input = value_info(&format!("past_key_values.{layer}.{kind}"), DataType::Float, &past);
                self.proto.input.push(input);
                let output = value_info(&format!("present.{layer}.{kind}"), DataType::Float, &present);
                self.proto.output.push(output);
            }
        }
        self.proto.initializer.push(int64_tensor(ONE, &[], &[1]));
        self.proto.initializer.push(int64_tensor(ONE_AXIS, &[1], &[1]));
    }

    /// Turns the mask into what the attention takes: the last position of each sequence, and the longest length.
    fn attention_mask(&mut self) {
        let base = "/model/attn_mask_reformat/attn_mask_subgraph";
        let int32 = || vec![int("to", i64::from(DataType::Int32 as i32))];
        let sum = self.op(
            "",
            "ReduceSum",
            &format!("{base}/ReduceSum"),
            &["attention_mask", ONE_AXIS],
            vec![int("keepdims", 0)],
        );
        let last = self.op("", "Sub", &format!("{base}/Sub"), &[&sum, ONE_AXIS], vec![]);
        self.op("", "Cast", &format!("{base}/Sub/Cast"), &[&last], int32());
        let shape = self.op("", "Shape", &format!("{base}/Shape"), &["attention_mask"], vec![]);
        let length = self.op("", "Gather", &format!("{base}/Gather"), &[&shape, ONE], vec![int("axis", 0)]);
        self.op("", "Cast", &format!("{base}/Gather/Cast"), &[&length], int32());
    }

    fn body(&mut self) -> Result<()> {
        let Sizes { vocab, hidden, .. } = self.sizes;
        let embedding = self.weight("model.embed_tokens.weight", &[vocab, hidden])?;
        let mut stream = self.op("", "Gather", "/model/embed_tokens/Gather", &[&embedding, "input_ids"], vec![]);
        let mut branch = None;
        for layer in 0..self.decoder.layers {
            let (normed, sum) = self.norm(&format!("layers.{layer}"), "input_layernorm", &stream, branch)?;
            stream = sum;
            let attention = self.attention(layer, &normed)?;
            let (normed, sum) =
                self.norm(&format!("layers.{layer}"), "post_attention_layernorm", &stream, Some(attention))?;
            stream = sum;
            branch = Some(self.feed_forward(layer, &normed)?);
        }
        let (normed, _) = self.norm("", "norm", &stream, branch)?;
        let head = if self.decoder.tied { embedding } else { self.weight("lm_head.weight", &[vocab, hidden])? };
        let logits = node(MICROSOFT, "FusedMatMul", "/lm_head/MatMul", &[&normed, &head], &["logits"], transposed());
        self.proto.node.push(logits);
        Ok(())
    }

    /// Adds `branch` to the residual stream and normalises: (normalised, new stream).
    fn norm(&mut self, parent: &str, name: &str, stream: &str, branch: Option<String>) -> Result<(String, String)> {
        let within = if parent.is_empty() { name.to_owned() } else { format!("{parent}.{name}") };
        let weight = self.weight(&format!("model.{within}.weight"), &[self.sizes.hidden])?;
        let base = if parent.is_empty() { format!("/model/{name}") } else { format!("/model/{parent}/{name}") };
        let normed = format!("{base}/output_0");
        let epsilon = float("epsilon", self.decoder.norm_epsilon);
        let Some(branch) = branch else {
            let attributes = vec![int("axis", -1), epsilon, int("stash_type", 1)];
            let op_type = "SimplifiedLayerNormalization";
            let name = format!("{base}/LayerNorm");
            self.proto.node.push(node("", op_type, &name, &[stream, &weight], &[&normed], attributes));
            return Ok((normed, stream.to_owned()));
        };
        let sum = format!("{base}/output_3");
        // The sum after the last layer goes nowhere else.
        let outputs: &[&str] = if parent.is_empty() { &[&normed] } else { &[&normed, "", "", &sum] };
        let op_type = "SkipSimplifiedLayerNormalization";
        let name = format!("{base}/SkipLayerNorm");
        self.proto.node.push(node(MICROSOFT, op_type, &name, &[stream, &branch, &weight], outputs, vec![epsilon]));
        Ok((normed, sum))
    }

    fn attention(&mut self, layer: usize, input: &str) -> Result<String> {
        let Sizes { hidden, query, key_value, .. } = self.sizes;
        let (qkv_bias, output_bias) = (self.decoder.qkv_bias, self.decoder.output_bias);
        let q = self.linear(layer, "self_attn.q_proj", input, query, hidden, qkv_bias)?;
        let k = self.linear(layer, "self_attn.k_proj", input, key_value, hidden, qkv_bias)?;
        let v = self.linear(layer, "self_attn.v_proj", input, key_value, hidden, qkv_bias)?;
        let name = format!("/model/layers.{layer}/attn/GroupQueryAttention");
        let output = format!("{name}/output_0");
        let cache = |time: &str, kind: &str| format!("{time}.{layer}.{kind}");
        let inputs = [
            q.as_str(),
            &k,
            &v,
            &cache("past_key_values", "key"),
            &cache("past_key_values", "value"),
            SEQUENCE_LENGTHS,
            TOTAL_LENGTH,
            COS_CACHE,
            SIN_CACHE,
        ];
        let outputs = [output.as_str(), &cache("present", "key"), &cache("present", "value")];
        let attributes = vec![
            int("num_heads", self.decoder.heads as i64),
            int("kv_num_heads", self.decoder.kv_heads as i64),
            float("scale", 1.0 / (self.decoder.head_size as f32).sqrt()),
            int("local_window_size", -1),
            float("softcap", 0.0),
            int("do_rotary", 1),
            int("rotary_interleaved", 0),
        ];
        self.proto.node.push(node(MICROSOFT, "GroupQueryAttention", &name, &inputs, &outputs, attributes));
        self.linear(layer, "self_attn.o_proj", &output, hidden, query, output_bias)
    }

    /// down(SiLU(gate) · up)
    fn feed_forward(&mut self, layer: usize, input: &str) -> Result<String> {
        let Sizes { hidden, intermediate, .. } = self.sizes;
        let bias = self.decoder.mlp_bias;
        let gate = self.linear(layer, "mlp.gate_proj", input, intermediate, hidden, bias)?;
        let up = self.linear(layer, "mlp.up_proj", input, intermediate, hidden, bias)?;
        let base = format!("/model/layers.{layer}/mlp");
        let sigmoid = self.op("", "Sigmoid", &format!("{base}/act_fn/Sigmoid"), &[&gate], vec![]);
        let silu = self.op("", "Mul", &format!("{base}/act_fn/Mul"), &[&gate, &sigmoid], vec![]);
        let product = self.op("", "Mul", &format!("{base}/Mul"), &[&silu, &up], vec![]);
        self.linear(layer, "mlp.down_proj", &product, hidden, intermediate, bias)
    }

    /// A projection by a checkpoint's [out, in] weight, used as it is stored.
    fn linear(
        &mut self,
        layer: usize,
        module: &str,
        input: &str,
        out: Size,
        inner: Size,
        bias: bool,
    ) -> Result<String> {
        let weight = self.weight(&format!("model.layers.{layer}.{module}.weight"), &[out, inner])?;
        let base = format!("/model/layers.{layer}/{}", module.replace("self_attn.", "attn/").replace("mlp.", "mlp/"));
        let product = self.op(MICROSOFT, "FusedMatMul", &format!("{base}/MatMul"), &[input, &weight], transposed());
        if !bias {
            return Ok(product);
        }
        let bias = self.weight(&format!("model.layers.{layer}.{module}.bias"), &[out])?;
        Ok(self.op("", "Add", &format!("{base}/Add"), &[&product, &bias], vec![]))
    }

    /// A node with one output, whose name is returned.
    fn op(
        &mut self,
        domain: &str,
        op_type: &str,
        name: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> String {
        let output = format!("{name}/output_0");
        self.proto.node.push(node(domain, op_type, name, inputs, &[&output], attributes));
        output
    }

    /// The tensor `name`, held to `shape`, as an initialiser.
    fn weight(&mut self, name: &str, shape: &[Size]) -> Result<String> {
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
                .map(|size| size.fields.iter().map(|field| config.name_of(field)).collect::<Vec<_>>().join(" × "))
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

    /// A tensor that the graph doesn't use means that the model computes something else.
    fn refuse_unused(&self) -> Result<()> {
        let harmless = |name: &str| {
            // Old checkpoints store the rotary frequencies; tied ones sometimes store the embedding twice.
            name.ends_with(".rotary_emb.inv_freq") || (self.decoder.tied && name == "lm_head.weight")
        };
        let mut names = self.checkpoint.tensors.keys().map(String::as_str);
        match names.find(|name| !self.seen.contains(name) && !harmless(name)) {
            None => Ok(()),
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

fn transposed() -> Vec<AttributeProto> {
    vec![float("alpha", 1.0), int("transA", 0), int("transB", 1)]
}
