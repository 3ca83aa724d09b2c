//! Everything that decides a decoder's graph.

use super::super::rope::Rope;

/// A decoder-only transformer: embedding, layers of attention and feed-forward network, norm, head. Sizes count
/// elements.
///
/// Weights are named as transformers names them: `model.layers.N.self_attn.q_proj.weight` and so on.
#[derive(Debug)]
pub(in crate::export) struct Decoder {
    /// The `type` of `genai_config.json`.
    pub(in crate::export) genai_type: &'static str,
    pub(in crate::export) vocab_size: usize,
    pub(in crate::export) hidden_size: usize,
    /// The most positions; the rotary tables have as many rows.
    pub(in crate::export) context_length: usize,
    /// The factor of embeddings.
    pub(in crate::export) embedding_scale: Option<f32>,
    pub(in crate::export) norm: Norm,
    pub(in crate::export) attention: Attention,
    pub(in crate::export) feed_forward: FeedForward,
    /// The rotary embeddings that layers choose from.
    pub(in crate::export) ropes: Vec<Rope>,
    pub(in crate::export) layers: Vec<Layer>,
    pub(in crate::export) head: Head,
}

/// Root-mean-square normalisation.
#[derive(Debug, Clone, Copy)]
pub(in crate::export) struct Norm {
    pub(in crate::export) epsilon: f32,
    /// Adds one to the stored weights.
    pub(in crate::export) plus_one: bool,
    /// Normalises the outputs of attention and feed-forward network too, before they are added to the stream.
    pub(in crate::export) branches: bool,
}

/// The attention of all layers.
#[derive(Debug, Clone, Copy)]
pub(in crate::export) struct Attention {
    pub(in crate::export) heads: usize,
    pub(in crate::export) kv_heads: usize,
    pub(in crate::export) head_size: usize,
    /// The factor of scores.
    pub(in crate::export) scale: f32,
    /// Scores become `cap · tanh(score / cap)`.
    pub(in crate::export) softcap: Option<f32>,
    /// Takes query, key and value from one projection, `qkv_proj`.
    pub(in crate::export) fused: bool,
    /// Normalises each head's query and key before they are rotated.
    pub(in crate::export) qk_norm: bool,
    /// Biases of the query, key and value projections.
    pub(in crate::export) qkv_bias: bool,
    /// Bias of the output projection.
    pub(in crate::export) output_bias: bool,
}

/// down(activation(gate) · up)
#[derive(Debug, Clone, Copy)]
pub(in crate::export) struct FeedForward {
    pub(in crate::export) size: usize,
    pub(in crate::export) activation: Activation,
    /// Takes gate and up from one projection, `gate_up_proj`.
    pub(in crate::export) fused: bool,
    /// Biases of all projections.
    pub(in crate::export) bias: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::export) enum Activation {
    Silu,
    /// GELU by its approximation with a hyperbolic tangent.
    GeluTanh,
}

/// The settings of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::export) struct Layer {
    /// A token sees itself and the `window - 1` tokens before it; without a window, all before it.
    pub(in crate::export) window: Option<usize>,
    /// Index into [`Decoder::ropes`]; none where positions are not encoded.
    pub(in crate::export) rope: Option<usize>,
}

/// The head, which turns hidden states into logits.
#[derive(Debug, Clone, Copy)]
pub(in crate::export) struct Head {
    /// Uses the embedding as the language-model head too.
    pub(in crate::export) tied: bool,
    /// Logits become `cap · tanh(logit / cap)`.
    pub(in crate::export) softcap: Option<f32>,
}
