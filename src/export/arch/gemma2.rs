//! Gemma 2: four norms a layer, soft-capped scores and logits, a window in every other layer.

use super::read::{Defaults, plain, windows};
use super::{Activation, Architecture, Attention, Decoder, GgufNames, Head, Layer, Norm};
use crate::Result;
use crate::export::checkpoint::Checkpoint;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "Gemma2ForCausalLM",
    gguf: Some(GgufNames { architecture: "gemma2", tensors: TENSORS, interleaved: false }),
    decoder,
};

/// The tensors of Gemma 2 and 3. Gemma 2 does not normalise queries and keys.
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
    ("attn_output", "self_attn.o_proj"),
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

fn decoder(checkpoint: &Checkpoint) -> Result<Decoder> {
    let config = &checkpoint.config;
    let gemma = gemma(checkpoint, Defaults::of("gemma2"))?;
    let window = config.size_unless_null("sliding_window", Some(4096))?;
    let windows = windows(config, &gemma, window, |layer| layer % 2 == 0)?;
    Ok(Decoder {
        attention: Attention { softcap: softcap(checkpoint, "attn_logit_softcapping", Some(50.0))?, ..gemma.attention },
        layers: windows.into_iter().map(|window| Layer { window, rope: Some(0) }).collect(),
        head: Head { softcap: softcap(checkpoint, "final_logit_softcapping", Some(30.0))?, ..gemma.head },
        ..gemma
    })
}

/// Reads what Gemma 2 and 3 have in common.
pub(super) fn gemma(checkpoint: &Checkpoint, defaults: Defaults) -> Result<Decoder> {
    let config = &checkpoint.config;
    let activation = ("hidden_activation", Activation::GeluTanh);
    let plain = plain(checkpoint, &Defaults { tied: true, head_size: Some(256), activation, ..defaults })?;
    let bias = config.flag_or("attention_bias", false)?;
    let scale = config.positive_or("query_pre_attn_scalar", 256.0)?.sqrt().recip() as f32;
    Ok(Decoder {
        // transformers rounds the factor to the type of the weights, which is float32 here.
        embedding_scale: Some((plain.hidden_size as f64).sqrt() as f32),
        norm: Norm { plus_one: !checkpoint.norms_include_one, branches: true, ..plain.norm },
        attention: Attention { scale, qkv_bias: bias, output_bias: bias, ..plain.attention },
        ..plain
    })
}

/// The cap under `field`; null means none.
pub(super) fn softcap(checkpoint: &Checkpoint, field: &str, default: Option<f64>) -> Result<Option<f32>> {
    Ok(checkpoint.config.positive_unless_null(field, default)?.map(|cap| cap as f32))
}
