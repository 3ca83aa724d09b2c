//! Mistral: Llama in which a token sees a window of the last tokens, the same in all layers.

use super::read::{Defaults, plain, windows};
use super::{Architecture, Decoder, Layer};
use crate::Result;
use crate::export::checkpoint::Checkpoint;

/// In GGUF it is `llama`.
pub(super) const ARCHITECTURE: Architecture = Architecture { name: "MistralForCausalLM", gguf: None, decoder };

fn decoder(checkpoint: &Checkpoint) -> Result<Decoder> {
    let config = &checkpoint.config;
    let plain = plain(checkpoint, &Defaults::of("mistral"))?;
    let window = config.size_unless_null("sliding_window", Some(4096))?;
    let windows = windows(config, &plain, window, |_| window.is_some())?;
    if windows.iter().any(|&here| here != window) {
        let complaint = "transformers gives all layers of this class the window that `sliding_window` says";
        return Err(config.unsupported("layer_types", complaint));
    }
    let layers = windows.into_iter().map(|window| Layer { window, rope: Some(0) }).collect();
    Ok(Decoder { layers, ..plain })
}
