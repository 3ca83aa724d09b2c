//! Gemma 3, text only: Gemma 2 with normalised queries and keys instead of soft caps; five layers of six have a window
//! and a rotary embedding of their own.

use super::gemma2::{TENSORS, gemma, softcap};
use super::read::{Defaults, windows};
use super::{Architecture, Attention, Decoder, GgufNames, Head, Layer};
use crate::Result;
use crate::export::checkpoint::Checkpoint;
use crate::export::rope::Rope;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    name: "Gemma3ForCausalLM",
    gguf: Some(GgufNames { architecture: "gemma3", tensors: TENSORS, interleaved: false }),
    decoder,
};

/// Indices into [`Decoder::ropes`].
const GLOBAL: usize = 0;
const LOCAL: usize = 1;

fn decoder(checkpoint: &Checkpoint) -> Result<Decoder> {
    let config = &checkpoint.config;
    if config.flag_or("use_bidirectional_attention", false)? {
        let complaint = "a model whose tokens see those after them can't generate: it is an encoder";
        return Err(config.unsupported("use_bidirectional_attention", complaint));
    }
    if config.get("attn_logit_softcapping").is_some() {
        let complaint = "transformers ignores it in this class, so what it should do is unclear: set it to null";
        return Err(config.unsupported("attn_logit_softcapping", complaint));
    }
    let gemma = gemma(checkpoint, Defaults { ropes, ..Defaults::of("gemma3_text") })?;
    let window = config.size_unless_null("sliding_window", Some(4096))?;
    let pattern = config.size_or("sliding_window_pattern", 6)?;
    let windows = windows(config, &gemma, window, |layer| (layer + 1) % pattern != 0)?;
    let layer = |window: Option<usize>| Layer { window, rope: Some(if window.is_some() { LOCAL } else { GLOBAL }) };
    Ok(Decoder {
        layers: windows.into_iter().map(layer).collect(),
        head: Head { softcap: softcap(checkpoint, "final_logit_softcapping", None)?, ..gemma.head },
        attention: Attention { qk_norm: true, ..gemma.attention },
        ..gemma
    })
}

/// The rotary embedding of layers without a window, and that of layers with one, which is never scaled. Newer
/// transformers files both under `rope_parameters`.
fn ropes(checkpoint: &Checkpoint, head_size: usize) -> Result<Vec<Rope>> {
    let config = &checkpoint.config;
    let nested = config.object("rope_parameters")?;
    let kind = |kind| nested.as_ref().map_or(Ok(None), |nested| nested.object(kind));
    let (global, local) = (kind("full_attention")?, kind("sliding_attention")?);
    let global = match global {
        Some(parameters) => Rope::of(&parameters, head_size, 1e6)?,
        None => Rope::read(checkpoint, head_size, 1e6)?,
    };
    let local = match local {
        Some(parameters) => Rope::of(&parameters, head_size, 1e4)?,
        None => Rope::unscaled(head_size, config.positive_or("rope_local_base_freq", 1e4)?),
    };
    Ok(vec![global.named("global"), local.named("local")])
}
