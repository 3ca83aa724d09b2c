//! DeBERTa-v2 and v3: BERT's layers with disentangled attention, which scores relative positions too.

use super::bert::Layer;
use super::blocks::{Activation, Blocks, path};
use super::disentangled::Attention;
use super::{Body, Family, size};
use crate::Result;
use crate::export::checkpoint::Checkpoint;
use crate::export::config::Config;
use crate::export::graph::Size;
use crate::export::quantize::Scheme;
use crate::model::head::HeadKind;
use crate::onnx::nodes::{int, ints};
use crate::onnx::tensor_proto::DataType;

pub(super) const FAMILY: Family = Family {
    prefix: "deberta.",
    body,
    features,
    // transformers leaves them out too if positions are only relative.
    unused: &["embeddings.position_embeddings."],
};

fn body<'a>(checkpoint: &'a Checkpoint, scheme: Scheme, prefix: &str) -> Result<Body<'a>> {
    let config = &checkpoint.config;
    let hidden = size(config, &["hidden_size"])?;
    let mut blocks = Blocks::new(checkpoint, scheme, hidden, config.positive_or("layer_norm_eps", 1e-7)? as f32);
    let mask = blocks.cast("/attention_mask/float", "attention_mask", DataType::Float);
    let last = blocks.builder.integers(&[2]);
    let mask = blocks.op("Unsqueeze", "/attention_mask/float/Unsqueeze", &[&mask, &last], vec![]);

    let (embedded, positions) = embeddings(&mut blocks, config, prefix, &mask)?;
    let layer = Layer::read(config)?;
    let attention = Attention::read(&mut blocks, config, prefix, layer.heads)?;
    let layers = config.size("num_hidden_layers")?;
    let mut states = embedded.clone();
    for number in 0..layers {
        let module = format!("{prefix}encoder.layer.{number}");
        let context = attention.write(&mut blocks, &format!("{module}.attention.self"), &states)?;
        states = layer.write(&mut blocks, &module, &states, &context)?;
        if number == 0 && config.get("conv_kernel_size").is_some_and(|size| size.as_u64() != Some(0)) {
            states = convolution(&mut blocks, config, &format!("{prefix}encoder.conv"), &embedded, &states, &mask)?;
        }
    }
    Ok(Body { blocks, states, layers, positions, ropes: vec![] })
}

/// The embeddings, and the number of positions that they know, if they know positions.
fn embeddings(blocks: &mut Blocks<'_>, config: &Config, prefix: &str, mask: &str) -> Result<(String, Option<usize>)> {
    let hidden = blocks.hidden;
    let width = Size::new(config.size_or("embedding_size", hidden.value)?, &["embedding_size"]);
    let module = format!("{prefix}embeddings");
    let embedding = |name: &str| format!("{module}.{name}_embeddings");
    let mut sum = blocks.embedding(&embedding("word"), "input_ids", size(config, &["vocab_size"])?, width)?;
    let mut positions = None;
    if config.flag_or("position_biased_input", true)? {
        let rows = size(config, &["max_position_embeddings"])?;
        let places = blocks.positions(&embedding("position"), rows, width)?;
        sum = blocks.add(&path(&embedding("position")), &sum, &places);
        positions = Some(rows.value);
    }
    if config.get("type_vocab_size").is_some_and(|types| types.as_u64() != Some(0)) {
        let kinds =
            blocks.embedding(&embedding("token_type"), "token_type_ids", size(config, &["type_vocab_size"])?, width)?;
        sum = blocks.add(&path(&embedding("token_type")), &sum, &kinds);
    }
    if width.value != hidden.value {
        sum = blocks.linear(&format!("{module}.embed_proj"), &sum, hidden, width, false)?;
    }
    let normed = blocks.norm(&format!("{module}.LayerNorm"), &sum, true)?;
    Ok((blocks.op("Mul", &format!("{}/Mul", path(&module)), &[&normed, mask], vec![]), positions))
}

/// The first layer's output, with a convolution over its input added to it.
fn convolution(
    blocks: &mut Blocks<'_>,
    config: &Config,
    module: &str,
    input: &str,
    states: &str,
    mask: &str,
) -> Result<String> {
    let kernel = size(config, &["conv_kernel_size"])?;
    if kernel.value % 2 == 0 {
        return Err(config.unsupported("conv_kernel_size", "only odd sizes keep a text's length"));
    }
    let groups = config.size_or("conv_groups", 1)?;
    let hidden = blocks.hidden;
    if !hidden.value.is_multiple_of(groups) {
        return Err(config.bad_value("conv_groups", &format!("does not divide the hidden size {}", hidden.value)));
    }
    let inner = Size::new(hidden.value / groups, &["hidden_size", "conv_groups"]);
    let weight = blocks.builder.weight(&format!("{module}.conv.weight"), &[hidden, inner, kernel])?;
    let bias = blocks.builder.weight(&format!("{module}.conv.bias"), &[hidden])?;
    let activation = Activation::read_or(config, "conv_act", Activation::Tanh)?;

    let name = path(module);
    let columns = blocks.transpose(&format!("{name}/columns"), input, &[0, 2, 1]);
    let reach = (kernel.value / 2) as i64;
    let attributes = vec![ints("pads", &[reach, reach]), int("group", groups as i64)];
    let mixed = blocks.op("Conv", &format!("{name}/Conv"), &[&columns, &weight, &bias], attributes);
    let rows = blocks.transpose(&format!("{name}/rows"), &mixed, &[0, 2, 1]);
    let kept = blocks.op("Mul", &format!("{name}/rows/Mul"), &[&rows, mask], vec![]);
    let activated = blocks.activate(&name, activation, &kept);
    let sum = blocks.add(&name, states, &activated);
    let normed = blocks.norm(&format!("{module}.LayerNorm"), &sum, true)?;
    Ok(blocks.op("Mul", &format!("{name}/Mul"), &[&normed, mask], vec![]))
}

/// A text's features are its first token's state through the pooler, which is the class's own.
fn features(blocks: &mut Blocks<'_>, config: &Config, kind: HeadKind, _prefix: &str, states: &str) -> Result<String> {
    if kind == HeadKind::TokenClassification {
        return Ok(states.to_owned());
    }
    let activation = Activation::read(config, "pooler_hidden_act")?;
    let first = blocks.first(states);
    let pooled = blocks.exact("pooler.dense", &first, blocks.hidden, blocks.hidden, true)?;
    Ok(blocks.activate("/pooler", activation, &pooled))
}
