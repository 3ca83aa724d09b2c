//! From logits to a token.

use serde::{Deserialize, Serialize};

/// How to draw the next token from the logits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingOptions {
    /// Divides the logits; 0 is greedy. In [0, ∞).
    pub temperature: f32,
    /// Keeps the smallest set of likeliest tokens whose probability reaches this. In (0, 1]; 1 keeps all.
    pub top_p: f32,
    /// Keeps this many of the likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Drops tokens less likely than this share of the likeliest. In [0, 1]; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens already in the prompt or the reply (CTRL, 2019). 1 is off.
    pub repetition_penalty: f32,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        SamplingOptions { temperature: 1.0, top_p: 1.0, top_k: 0, min_p: 0.0, repetition_penalty: 1.0 }
    }
}
