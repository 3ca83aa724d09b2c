//! Phi-3: Llama with fused projections; long contexts by LongRoPE; Phi-4 mini rotates only part of each head.

use super::read::{Defaults, plain, positions, same_window};
use super::{Architecture, Attention, Decoder, FeedForward, GgufNames};
use crate::Result;
use crate::export::checkpoint::Checkpoint;
use crate::export::rope::Rope;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "Phi3ForCausalLM",
    gguf: Some(GgufNames { architecture: "phi3", tensors: TENSORS, interleaved: false }),
    decoder,
};

const TENSORS: &[(&str, &str)] = &[
    ("token_embd", "model.embed_tokens"),
    ("output_norm", "model.norm"),
    ("output", "lm_head"),
    ("attn_norm", "input_layernorm"),
    ("attn_qkv", "self_attn.qkv_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_up", "mlp.gate_up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

fn decoder(checkpoint: &Checkpoint) -> Result<Decoder> {
    let plain = plain(checkpoint, &Defaults { rms_norm_eps: 1e-5, ropes, ..Defaults::of("phi3") })?;
    Ok(Decoder {
        attention: Attention { fused: true, ..plain.attention },
        feed_forward: FeedForward { fused: true, ..plain.feed_forward },
        layers: same_window(&checkpoint.config, &plain, None)?,
        ..plain
    })
}

fn ropes(checkpoint: &Checkpoint, head_size: usize) -> Result<Vec<Rope>> {
    let config = &checkpoint.config;
    Ok(vec![Rope::read_long(config, head_size, positions(config)?)?])
}
