//! Mistral: Llama in which a token sees a window of the last tokens, the same in all layers.

use super::read::{Defaults, plain, same_window};
use super::{Architecture, Decoder};
use crate::Result;
use crate::export::checkpoint::Checkpoint;

/// GGUF calls it `llama`.
pub(super) const ARCHITECTURE: Architecture = Architecture { name: "MistralForCausalLM", gguf: None, decoder };

fn decoder(checkpoint: &Checkpoint) -> Result<Decoder> {
    let plain = plain(checkpoint, &Defaults::of("mistral"))?;
    Ok(Decoder { layers: same_window(&checkpoint.config, &plain, Some(4096))?, ..plain })
}
