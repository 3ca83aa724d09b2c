//! Llama 2 and 3, SmolLM 1 and 2, and the many models that share `LlamaForCausalLM`.

use super::read::{Defaults, plain};
use super::{Architecture, Attention, Decoder, FeedForward, GgufNames};
use crate::Result;
use crate::export::checkpoint::Checkpoint;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "LlamaForCausalLM",
    gguf: Some(GgufNames { architecture: "llama", tensors: TENSORS, interleaved: true }),
    decoder,
};

/// The tensors of Llama and of models that are built like it. Some of them normalise queries and keys.
pub(super) const TENSORS: &[(&str, &str)] = &[
    ("token_embd", "model.embed_tokens"),
    ("output_norm", "model.norm"),
    ("output", "lm_head"),
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

fn decoder(checkpoint: &Checkpoint) -> Result<Decoder> {
    let config = &checkpoint.config;
    let plain = plain(checkpoint, &Defaults::of("llama"))?;
    let bias = config.flag_or("attention_bias", false)?;
    Ok(Decoder {
        attention: Attention { qkv_bias: bias, output_bias: bias, ..plain.attention },
        feed_forward: FeedForward { bias: config.flag_or("mlp_bias", false)?, ..plain.feed_forward },
        ..plain
    })
}
