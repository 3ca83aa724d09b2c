//! ModernBERT: norms before attention and feed-forward network, rotary embeddings, gated feed-forward networks; two
//! layers of three see only the tokens around them.

use super::blocks::{Activation, Blocks, Heads, path};
use super::{Body, Family, size};
use crate::Result;
use crate::export::arch::{layer_types, positions};
use crate::export::checkpoint::Checkpoint;
use crate::export::config::Config;
use crate::export::graph::Size;
use crate::export::quantize::Scheme;
use crate::export::rope::Rope;
use crate::model::head::HeadKind;
use crate::onnx::nodes::{MICROSOFT, int, node};

pub(super) const FAMILY: Family = Family { prefix: "model.", body, features, unused: &[] };

fn body<'a>(checkpoint: &'a Checkpoint, scheme: Scheme, prefix: &str) -> Result<Body<'a>> {
    let config = &checkpoint.config;
    if config.get("rope_scaling").is_some() {
        return Err(config.unsupported("rope_scaling", "this version exports ModernBERT without it only"));
    }
    let hidden = size(config, &["hidden_size"])?;
    let mut blocks = Blocks::new(checkpoint, scheme, hidden, config.positive_or("norm_eps", 1e-5)? as f32);
    let layer = Layer::read(&mut blocks, config)?;

    let embeddings = format!("{prefix}embeddings");
    let words = format!("{embeddings}.tok_embeddings");
    let embedded = blocks.embedding(&words, "input_ids", size(config, &["vocab_size"])?, hidden)?;
    let mut states = blocks.norm(&format!("{embeddings}.norm"), &embedded, layer.norm_bias)?;
    let layers = config.size("num_hidden_layers")?;
    let every = config.size_or("global_attn_every_n_layers", 3)?;
    let listed = layer_types(config, layers)?;
    for number in 0..layers {
        let is_local = listed.as_ref().map_or(number % every != 0, |listed| listed[number]);
        let sight = if is_local { &layer.local } else { &layer.global };
        states = layer.write(&mut blocks, &format!("{prefix}layers.{number}"), number == 0, sight, &states)?;
    }
    let states = blocks.norm(&format!("{prefix}final_norm"), &states, layer.norm_bias)?;
    let positions = Some(positions(config)?);
    Ok(Body { blocks, states, layers, positions, ropes: vec![layer.global.rope, layer.local.rope] })
}

/// The settings that all layers share.
struct Layer {
    heads: Heads,
    intermediate: usize,
    activation: Activation,
    norm_bias: bool,
    attention_bias: bool,
    mlp_bias: bool,
    global: Sight,
    local: Sight,
}

/// The view of a layer's tokens, and the way in which they tell places apart.
struct Sight {
    /// The bias of scores.
    bias: String,
    rope: Rope,
}

impl Layer {
    fn read(blocks: &mut Blocks<'_>, config: &Config) -> Result<Self> {
        let heads = Heads::read(config)?;
        let (global, local) = ropes(config, heads)?;
        let window = window(blocks, config.size_or("local_attention", 128)?);
        Ok(Layer {
            heads,
            intermediate: config.size("intermediate_size")?,
            activation: Activation::read(config, "hidden_activation")?,
            norm_bias: config.flag_or("norm_bias", false)?,
            attention_bias: config.flag_or("attention_bias", false)?,
            mlp_bias: config.flag_or("mlp_bias", false)?,
            global: Sight { bias: blocks.padding.clone(), rope: global },
            local: Sight { bias: window, rope: local },
        })
    }

    /// One layer; the first has its norm in the embeddings.
    fn write(
        &self,
        blocks: &mut Blocks<'_>,
        module: &str,
        is_first: bool,
        sight: &Sight,
        states: &str,
    ) -> Result<String> {
        let normed = match is_first {
            true => states.to_owned(),
            false => blocks.norm(&format!("{module}.attn_norm"), states, self.norm_bias)?,
        };
        let attention = self.attention(blocks, &format!("{module}.attn"), sight, &normed)?;
        let states = blocks.add(&path(&format!("{module}.attn")), states, &attention);
        let normed = blocks.norm(&format!("{module}.mlp_norm"), &states, self.norm_bias)?;
        let mlp = self.feed_forward(blocks, &format!("{module}.mlp"), &normed)?;
        Ok(blocks.add(&path(&format!("{module}.mlp")), &states, &mlp))
    }

    fn attention(&self, blocks: &mut Blocks<'_>, module: &str, sight: &Sight, states: &str) -> Result<String> {
        let (hidden, name) = (blocks.hidden, path(module));
        let packed = Size::new(3 * hidden.value, &["hidden_size"]);
        let packed = blocks.linear(&format!("{module}.Wqkv"), states, packed, hidden, self.attention_bias)?;
        let [query, key, value] = split(blocks, &format!("{name}/Wqkv"), &packed);
        let mut rotated = |kind: &str, states: &str| {
            let name = format!("{name}/{kind}");
            let rotated = rotate(blocks, &name, states, self.heads, &sight.rope);
            blocks.split(&name, &rotated, self.heads)
        };
        let (query, key) = (rotated("query", &query), rotated("key", &key));
        let value = blocks.split(&format!("{name}/value"), &value, self.heads);
        let scores = blocks.products(&format!("{name}/scores"), &query, &key);
        let context = blocks.attend(&name, &scores, (self.heads.size as f32).sqrt().recip(), &sight.bias, &value);
        blocks.linear(&format!("{module}.Wo"), &context, hidden, hidden, self.attention_bias)
    }

    /// Wo(activation(first half of Wi) · second half of Wi)
    fn feed_forward(&self, blocks: &mut Blocks<'_>, module: &str, states: &str) -> Result<String> {
        let (hidden, name) = (blocks.hidden, path(module));
        let both = Size::new(2 * self.intermediate, &["intermediate_size"]);
        let both = blocks.linear(&format!("{module}.Wi"), states, both, hidden, self.mlp_bias)?;
        let [input, gate] = split(blocks, &format!("{name}/Wi"), &both);
        let input = blocks.activate(&name, self.activation, &input);
        let gated = blocks.op("Mul", &format!("{name}/Mul"), &[&input, &gate], vec![]);
        let inner = Size::new(self.intermediate, &["intermediate_size"]);
        blocks.linear(&format!("{module}.Wo"), &gated, hidden, inner, self.mlp_bias)
    }
}

/// The rotary embeddings of layers that see everything and of those that don't. Newer transformers files both under
/// `rope_parameters`.
fn ropes(config: &Config, heads: Heads) -> Result<(Rope, Rope)> {
    let theta = config.positive_or("global_rope_theta", 160_000.0)?;
    // Null means that of the other layers. An absent field means a default.
    let local_default = if config.names("local_rope_theta") { theta } else { 10_000.0 };
    let local_theta = config.positive_or("local_rope_theta", local_default)?;
    let nested = config.object("rope_parameters")?;
    let rope = |kind: &str, theta| -> Result<Rope> {
        let parameters = nested.as_ref().map_or(Ok(None), |nested| nested.object(kind))?;
        parameters.map_or_else(|| Ok(Rope::unscaled(heads.size, theta)), |own| Rope::of(&own, heads.size, theta))
    };
    let (global, local) = (rope("full_attention", theta)?, rope("sliding_attention", local_theta)?);
    Ok((global.named("global"), local.named("local")))
}

/// Cuts the last axis into equal parts.
fn split<const PARTS: usize>(blocks: &mut Blocks<'_>, name: &str, input: &str) -> [String; PARTS] {
    let name = format!("{name}/Split");
    let parts: [String; PARTS] = std::array::from_fn(|part| format!("{name}/output_{part}"));
    let outputs: Vec<&str> = parts.iter().map(String::as_str).collect();
    let attributes = vec![int("axis", -1), int("num_outputs", PARTS as i64)];
    blocks.builder.push(node("", "Split", &name, &[input], &outputs, attributes));
    parts
}

/// Rotates each head of [batch, sequence, hidden] by its token's place.
fn rotate(blocks: &mut Blocks<'_>, name: &str, states: &str, heads: Heads, rope: &Rope) -> String {
    let first = blocks.builder.integers(&[0]);
    let (cos, sin) = rope.names();
    let attributes = vec![int("num_heads", heads.count as i64), int("interleaved", 0)];
    let inputs = [states, &first, &cos, &sin];
    blocks.builder.op(MICROSOFT, "RotaryEmbedding", &format!("{name}/RotaryEmbedding"), &inputs, attributes)
}

/// The bias of scores by which each token sees half of `local_attention` tokens on either side: [batch, 1, queries,
/// keys].
fn window(blocks: &mut Blocks<'_>, local_attention: usize) -> String {
    let length = blocks.length.clone();
    let (zero, one) = (blocks.builder.integer(0), blocks.builder.integer(1));
    let length = blocks.op("Squeeze", "/window/Squeeze", &[&length], vec![]);
    let places = blocks.op("Range", "/window/Range", &[&zero, &length, &one], vec![]);
    let column = blocks.reshape("/window", &places, &[-1, 1]);
    let distance = blocks.op("Sub", "/window/Sub", &[&column, &places], vec![]);
    let distance = blocks.op("Abs", "/window/Abs", &[&distance], vec![]);
    let reach = blocks.builder.integer((local_attention / 2) as i64);
    let near = blocks.op("LessOrEqual", "/window/LessOrEqual", &[&distance, &reach], vec![]);
    let keys = blocks.keys.clone();
    let visible = blocks.op("And", "/window/And", &[&near, &keys], vec![]);
    blocks.bias("/window", &visible)
}

/// The first token's state, the mean of all, or each token's, through the head's own layer and norm.
fn features(blocks: &mut Blocks<'_>, config: &Config, kind: HeadKind, _prefix: &str, states: &str) -> Result<String> {
    const FIELD: &str = "classifier_pooling";
    let rows = match (kind, config.get(FIELD).map(|pooling| pooling.as_str())) {
        (HeadKind::TokenClassification, _) => states.to_owned(),
        (_, None | Some(Some("cls"))) => blocks.first(states),
        (_, Some(Some("mean"))) => blocks.mean(states),
        _ => return Err(config.unsupported(FIELD, "this version exports `cls` and `mean`")),
    };
    let activation = Activation::read(config, "classifier_activation")?;
    let hidden = blocks.hidden;
    let bias = config.flag_or("classifier_bias", false)?;
    let dense = blocks.exact("head.dense", &rows, hidden, hidden, bias)?;
    let activated = blocks.activate("/head", activation, &dense);
    blocks.norm("head.norm", &activated, config.flag_or("norm_bias", false)?)
}
