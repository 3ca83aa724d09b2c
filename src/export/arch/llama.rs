//! Llama 2 and 3, SmolLM 1 and 2, and the many models that share `LlamaForCausalLM`.

use super::{Architecture, Decoder, GgufNames, heads, positions};
use crate::Result;
use crate::export::checkpoint::Checkpoint;
use crate::export::rope::Rope;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "LlamaForCausalLM",
    gguf: Some(GgufNames { architecture: "llama", tensors: TENSORS, interleaved: true }),
    decoder,
};

pub(super) const TENSORS: &[(&str, &str)] = &[
    ("token_embd", "model.embed_tokens"),
    ("output_norm", "model.norm"),
    ("output", "lm_head"),
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

fn decoder(checkpoint: &Checkpoint) -> Result<Decoder> {
    let config = &checkpoint.config;
    config.require_one_of("hidden_act", &["silu", "swish"])?;
    let (heads, kv_heads, head_size) = heads(checkpoint)?;
    let attention_bias = config.flag_or("attention_bias", false)?;
    Ok(Decoder {
        genai_type: "llama",
        vocab_size: config.size("vocab_size")?,
        hidden_size: config.size("hidden_size")?,
        intermediate_size: config.size("intermediate_size")?,
        layers: config.size("num_hidden_layers")?,
        heads,
        kv_heads,
        head_size,
        context_length: positions(checkpoint)?,
        norm_epsilon: config.positive_or("rms_norm_eps", 1e-6)? as f32,
        rope: Rope::read(checkpoint, head_size)?,
        tied: config.flag_or("tie_word_embeddings", false)?,
        qkv_bias: attention_bias,
        output_bias: attention_bias,
        mlp_bias: config.flag_or("mlp_bias", false)?,
    })
}
