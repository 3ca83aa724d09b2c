//! The architectures that can be exported, one short file each.
//!
//! To add one: write a file that reads its configuration into a [`Decoder`], and put a row into [`ARCHITECTURES`].

mod decoder;
mod gemma2;
mod gemma3;
mod llama;
mod mistral;
mod phi3;
mod qwen2;
mod qwen3;
mod read;
mod smollm3;
#[cfg(test)]
mod tests;

pub(super) use self::decoder::{Activation, Attention, Decoder, FeedForward, Head, Layer, Norm};
pub(super) use self::read::{layer_types, positions};
use super::checkpoint::Checkpoint;
use crate::Result;

const ARCHITECTURES: &[Architecture] = &[
    gemma2::ARCHITECTURE,
    gemma3::ARCHITECTURE,
    llama::ARCHITECTURE,
    mistral::ARCHITECTURE,
    phi3::ARCHITECTURE,
    qwen2::ARCHITECTURE,
    qwen3::ARCHITECTURE,
    smollm3::ARCHITECTURE,
];

/// An architecture, as the exporter has to know it.
pub(super) struct Architecture {
    /// The class that `config.json` names under `architectures`.
    pub(super) name: &'static str,
    /// Its names in GGUF, where llama.cpp converts it.
    pub(super) gguf: Option<GgufNames>,
    /// Reads the configuration, refusing by name what the graph would get wrong.
    pub(super) decoder: fn(&Checkpoint) -> Result<Decoder>,
}

/// llama.cpp's names for an architecture.
pub(super) struct GgufNames {
    /// The value of `general.architecture`, and the prefix of its metadata.
    pub(super) architecture: &'static str,
    /// llama.cpp's tensor names and transformers', without `blk.N.` or `model.layers.N.` and without `.weight`.
    pub(super) tensors: &'static [(&'static str, &'static str)],
    /// Says that the rows of the query and key projections are interleaved for llama.cpp's rotary embedding.
    pub(super) interleaved: bool,
}

/// The architecture of the class `name`, such as `LlamaForCausalLM`.
pub(super) fn by_name(name: &str) -> Option<&'static Architecture> {
    ARCHITECTURES.iter().find(|architecture| architecture.name == name)
}

/// The classes of all architectures.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    ARCHITECTURES.iter().map(|architecture| architecture.name)
}

/// The architecture that llama.cpp calls `name`.
pub(super) fn by_gguf_name(name: &str) -> Option<(&'static Architecture, &'static GgufNames)> {
    ARCHITECTURES
        .iter()
        .filter_map(|architecture| Some((architecture, architecture.gguf.as_ref()?)))
        .find(|(_, names)| names.architecture == name)
}

/// llama.cpp's names for the architectures that are known here.
pub(super) fn gguf_names() -> Vec<&'static str> {
    ARCHITECTURES.iter().filter_map(|architecture| Some(architecture.gguf.as_ref()?.architecture)).collect()
}
