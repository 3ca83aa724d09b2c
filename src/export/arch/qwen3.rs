//! Qwen 3: query and key of each head are normalised; windows as in Qwen 2.

use super::read::{Defaults, plain};
use super::{Architecture, Attention, Decoder, GgufNames, llama, qwen2};
use crate::Result;
use crate::export::checkpoint::Checkpoint;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "Qwen3ForCausalLM",
    gguf: Some(GgufNames { architecture: "qwen3", tensors: llama::TENSORS, interleaved: false }),
    decoder,
};

fn decoder(checkpoint: &Checkpoint) -> Result<Decoder> {
    let plain = plain(checkpoint, &Defaults { head_size: Some(128), ..Defaults::of("qwen3") })?;
    let bias = checkpoint.config.flag_or("attention_bias", false)?;
    Ok(Decoder {
        attention: Attention { qk_norm: true, qkv_bias: bias, output_bias: bias, ..plain.attention },
        layers: qwen2::layers(checkpoint, &plain)?,
        ..plain
    })
}
