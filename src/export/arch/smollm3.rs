//! SmolLM3: Llama in which every fourth layer, or those that the configuration lists, has no positions at all.

use super::read::{Defaults, plain, windows};
use super::{Architecture, Attention, Decoder, FeedForward, GgufNames, Layer, llama};
use crate::Result;
use crate::export::checkpoint::Checkpoint;
use crate::export::config::Config;
use crate::export::rope::Rope;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "SmolLM3ForCausalLM",
    gguf: Some(GgufNames { architecture: "smollm3", tensors: llama::TENSORS, interleaved: true }),
    decoder,
};

fn decoder(checkpoint: &Checkpoint) -> Result<Decoder> {
    let config = &checkpoint.config;
    let plain = plain(checkpoint, &Defaults { ropes, tied: true, ..Defaults::of("smollm3") })?;
    let bias = config.flag_or("attention_bias", false)?;
    let rotated = rotated(config, plain.layers.len())?;
    let window = config.size_unless_null("sliding_window", None)?;
    let slides = config.flag_or("use_sliding_window", false)? && window.is_some();
    let windows = windows(config, &plain, window, |layer| slides && !rotated[layer])?;
    let layer = |(window, rotated): (_, bool)| Layer { window, rope: rotated.then_some(0) };
    Ok(Decoder {
        attention: Attention { qkv_bias: bias, output_bias: bias, ..plain.attention },
        feed_forward: FeedForward { bias: config.flag_or("mlp_bias", false)?, ..plain.feed_forward },
        layers: windows.into_iter().zip(rotated.iter().copied()).map(layer).collect(),
        ..plain
    })
}

fn ropes(checkpoint: &Checkpoint, head_size: usize) -> Result<Vec<Rope>> {
    Ok(vec![Rope::read(checkpoint, head_size, 2e6)?])
}

/// Says for each layer whether it rotates. Despite its name, `no_rope_layers` holds a 1 for each layer that does.
fn rotated(config: &Config, layers: usize) -> Result<Vec<bool>> {
    let field = "no_rope_layers";
    let Some(value) = config.get(field) else {
        let interval = config.size_or("no_rope_layer_interval", 4)?;
        return Ok((1..=layers).map(|layer| layer % interval != 0).collect());
    };
    let flags = value.as_array().filter(|flags| flags.len() == layers);
    let rotated: Option<Vec<bool>> =
        flags.and_then(|flags| flags.iter().map(|flag| flag.as_bool().or(flag.as_u64().map(|n| n != 0))).collect());
    rotated.ok_or_else(|| config.bad_value(field, &format!("expected a 0 or 1 for each of {layers} layers")))
}
