//! BERT: learnt positions; attention and feed-forward network are each followed by a norm.

use super::blocks::{Activation, Blocks, Heads, path};
use super::{Body, Family, size};
use crate::Result;
use crate::export::checkpoint::Checkpoint;
use crate::export::config::Config;
use crate::export::graph::Size;
use crate::export::quantize::Scheme;
use crate::model::head::HeadKind;

pub(super) const FAMILY: Family = Family {
    prefix: "bert.",
    body,
    features,
    // The pooler is left over from pre-training where a class doesn't use it.
    unused: &["pooler."],
};

fn body<'a>(checkpoint: &'a Checkpoint, scheme: Scheme, prefix: &str) -> Result<Body<'a>> {
    let config = &checkpoint.config;
    if !matches!(config.get("position_embedding_type").map(|kind| kind.as_str()), None | Some(Some("absolute"))) {
        return Err(config.unsupported("position_embedding_type", "this version exports only `absolute`"));
    }
    if config.flag_or("is_decoder", false)? {
        return Err(config.unsupported("is_decoder", "this version exports BERT only as an encoder"));
    }
    let hidden = size(config, &["hidden_size"])?;
    let positions = size(config, &["max_position_embeddings"])?;
    let types = Size::new(config.size_or("type_vocab_size", 2)?, &["type_vocab_size"]);
    let mut blocks = Blocks::new(checkpoint, scheme, hidden, config.positive_or("layer_norm_eps", 1e-12)? as f32);

    let embeddings = format!("{prefix}embeddings");
    let embedding = |name: &str| format!("{embeddings}.{name}_embeddings");
    let words = blocks.embedding(&embedding("word"), "input_ids", size(config, &["vocab_size"])?, hidden)?;
    let kinds = blocks.embedding(&embedding("token_type"), "token_type_ids", types, hidden)?;
    let places = blocks.positions(&embedding("position"), positions, hidden)?;
    let sum = blocks.add(&path(&embedding("word")), &words, &kinds);
    let sum = blocks.add(&path(&embeddings), &sum, &places);
    let mut states = blocks.norm(&format!("{embeddings}.LayerNorm"), &sum, true)?;

    let layers = config.size("num_hidden_layers")?;
    let layer = Layer::read(config)?;
    for number in 0..layers {
        let module = format!("{prefix}encoder.layer.{number}");
        let context = attention(&mut blocks, layer.heads, &format!("{module}.attention.self"), &states)?;
        states = layer.write(&mut blocks, &module, &states, &context)?;
    }
    Ok(Body { blocks, states, layers, positions: Some(positions.value), ropes: vec![] })
}

/// The parts of BERT's and DeBERTa's layers around their attention.
pub(super) struct Layer {
    pub(super) heads: Heads,
    intermediate: Size,
    activation: Activation,
}

impl Layer {
    pub(super) fn read(config: &Config) -> Result<Self> {
        Ok(Layer {
            heads: Heads::read(config)?,
            intermediate: size(config, &["intermediate_size"])?,
            activation: Activation::read(config, "hidden_act")?,
        })
    }

    /// Everything after the attention gave `context`: its projection, the feed-forward network, and their norms.
    pub(super) fn write(&self, blocks: &mut Blocks<'_>, module: &str, states: &str, context: &str) -> Result<String> {
        let states = add_and_norm(blocks, &format!("{module}.attention.output"), context, blocks.hidden, states)?;
        let between = format!("{module}.intermediate");
        let inner = blocks.linear(&format!("{between}.dense"), &states, self.intermediate, blocks.hidden, true)?;
        let inner = blocks.activate(&path(&between), self.activation, &inner);
        add_and_norm(blocks, &format!("{module}.output"), &inner, self.intermediate, &states)
    }
}

/// norm(dense(input) + residual)
fn add_and_norm(blocks: &mut Blocks<'_>, module: &str, input: &str, inner: Size, residual: &str) -> Result<String> {
    let dense = blocks.linear(&format!("{module}.dense"), input, blocks.hidden, inner, true)?;
    let sum = blocks.add(&path(module), &dense, residual);
    blocks.norm(&format!("{module}.LayerNorm"), &sum, true)
}

fn attention(blocks: &mut Blocks<'_>, heads: Heads, module: &str, states: &str) -> Result<String> {
    let mut project = |name: &str| -> Result<String> {
        let module = format!("{module}.{name}");
        let projected = blocks.square(&module, states)?;
        Ok(blocks.split(&path(&module), &projected, heads))
    };
    let (query, key, value) = (project("query")?, project("key")?, project("value")?);
    let name = path(module);
    let scores = blocks.products(&format!("{name}/scores"), &query, &key);
    let padding = blocks.padding.clone();
    Ok(blocks.attend(&name, &scores, (heads.size as f32).sqrt().recip(), &padding, &value))
}

/// A text's features are its first token's state through the pooler.
fn features(blocks: &mut Blocks<'_>, _config: &Config, kind: HeadKind, prefix: &str, states: &str) -> Result<String> {
    if kind == HeadKind::TokenClassification {
        return Ok(states.to_owned());
    }
    let pooler = format!("{prefix}pooler.dense");
    let first = blocks.first(states);
    let pooled = blocks.exact(&pooler, &first, blocks.hidden, blocks.hidden, true)?;
    Ok(blocks.activate(&path(&pooler), Activation::Tanh, &pooled))
}
