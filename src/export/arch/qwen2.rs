//! Qwen 2 and 2.5: Llama with biases of query, key and value; some have windows in their upper layers.

use super::read::{Defaults, plain, windows};
use super::{Architecture, Attention, Decoder, GgufNames, Layer, llama};
use crate::Result;
use crate::export::checkpoint::Checkpoint;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "Qwen2ForCausalLM",
    gguf: Some(GgufNames { architecture: "qwen2", tensors: llama::TENSORS, interleaved: false }),
    decoder,
};

fn decoder(checkpoint: &Checkpoint) -> Result<Decoder> {
    let plain = plain(checkpoint, &Defaults::of("qwen2"))?;
    Ok(Decoder {
        attention: Attention { qkv_bias: true, ..plain.attention },
        layers: layers(checkpoint, &plain)?,
        ..plain
    })
}

/// Layers from `max_window_layers` on have a window where `use_sliding_window` says so.
pub(super) fn layers(checkpoint: &Checkpoint, plain: &Decoder) -> Result<Vec<Layer>> {
    let config = &checkpoint.config;
    let slides = config.flag_or("use_sliding_window", false)?;
    let window = if slides { config.size_unless_null("sliding_window", Some(4096))? } else { None };
    let first = config.count_or("max_window_layers", 28)?;
    let windows = windows(config, plain, window, |layer| window.is_some() && layer >= first)?;
    Ok(windows.into_iter().map(|window| Layer { window, rope: Some(0) }).collect())
}
