//! The architectures that can be exported, one short file each.
//!
//! To add one: write a file that reads its configuration into a [`Decoder`], and put a row into [`ARCHITECTURES`].

mod llama;

use super::checkpoint::Checkpoint;
use super::rope::Rope;
use crate::{Error, Result};

const ARCHITECTURES: &[Architecture] = &[llama::ARCHITECTURE];

/// What the exporter has to know about an architecture.
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
    /// Whether the rows of the query and key projections are interleaved for llama.cpp's rotary embedding.
    pub(super) interleaved: bool,
}

/// Everything that decides a decoder's graph. Sizes count elements.
#[derive(Debug)]
pub(super) struct Decoder {
    /// The `type` of `genai_config.json`.
    pub(super) genai_type: &'static str,
    pub(super) vocab_size: usize,
    pub(super) hidden_size: usize,
    pub(super) intermediate_size: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_size: usize,
    /// The most positions; the rotary tables have as many rows.
    pub(super) context_length: usize,
    pub(super) norm_epsilon: f32,
    pub(super) rope: Rope,
    /// Whether the embedding is also the language-model head.
    pub(super) tied: bool,
    /// Biases of the query, key and value projections.
    pub(super) qkv_bias: bool,
    /// Bias of the attention's output projection.
    pub(super) output_bias: bool,
    /// Biases of the three projections of the feed-forward network.
    pub(super) mlp_bias: bool,
}

/// The architecture that the checkpoint's configuration names.
pub(super) fn of(checkpoint: &Checkpoint) -> Result<&'static Architecture> {
    let config = &checkpoint.config;
    if config.get("quantization_config").is_some() {
        let complaint = "quantised checkpoints are not read: export the original, or a GGUF of it";
        return Err(config.unsupported("quantization_config", complaint));
    }
    let known = || ARCHITECTURES.iter().map(|architecture| architecture.name).collect::<Vec<_>>().join(", ");
    let names = config.get("architectures").and_then(|value| value.as_array()).filter(|names| !names.is_empty());
    let names = names.ok_or_else(|| {
        config.bad_value("architectures", &format!("expected a list with the model's class, one of: {}", known()))
    })?;
    names
        .iter()
        .find_map(|name| ARCHITECTURES.iter().find(|architecture| name.as_str() == Some(architecture.name)))
        .ok_or_else(|| config.unsupported("architectures", &format!("this version exports {}", known())))
}

/// The architecture that llama.cpp calls `name`.
pub(super) fn by_gguf_name(name: &str) -> Option<(&'static Architecture, &'static GgufNames)> {
    ARCHITECTURES
        .iter()
        .filter_map(|architecture| Some((architecture, architecture.gguf.as_ref()?)))
        .find(|(_, names)| names.architecture == name)
}

/// What llama.cpp calls the architectures known here.
pub(super) fn gguf_names() -> Vec<&'static str> {
    ARCHITECTURES.iter().filter_map(|architecture| Some(architecture.gguf.as_ref()?.architecture)).collect()
}

/// The longest context. Its rotary tables are written out, so a number of nonsense would fill the disk.
pub(super) fn positions(checkpoint: &Checkpoint) -> Result<usize> {
    const MOST: usize = 1 << 22;
    let field = "max_position_embeddings";
    let positions = checkpoint.config.size(field)?;
    if positions > MOST {
        return Err(checkpoint.config.unsupported(field, &format!("at most {MOST} positions are exported")));
    }
    Ok(positions)
}

/// The sizes of attention heads, checked against each other: (heads, key-value heads, head size).
pub(super) fn heads(checkpoint: &Checkpoint) -> Result<(usize, usize, usize)> {
    let config = &checkpoint.config;
    let heads = config.size("num_attention_heads")?;
    let kv_heads = config.size_or("num_key_value_heads", heads)?;
    let hidden = config.size("hidden_size")?;
    if heads % kv_heads != 0 {
        return Err(config.bad_value("num_key_value_heads", &format!("does not divide the {heads} attention heads")));
    }
    if config.get("head_dim").is_none() && hidden % heads != 0 {
        let complaint = format!("does not divide the hidden size {hidden}, and no head_dim is given");
        return Err(config.bad_value("num_attention_heads", &complaint));
    }
    let head_size = config.size_or("head_dim", hidden / heads)?;
    // ONNX Runtime's attention rotates 16 elements at a time.
    if head_size % 16 != 0 {
        return Err(Error::unsupported(format!(
            "{}: heads of {head_size} elements: ONNX Runtime's GroupQueryAttention takes multiples of 16",
            config.file()
        )));
    }
    Ok((heads, kv_heads, head_size))
}
