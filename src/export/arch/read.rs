//! Reads what the configurations of several architectures have in common.

use serde_json::Value;

use super::{Activation, Attention, Decoder, FeedForward, Head, Layer, Norm};
use crate::export::checkpoint::Checkpoint;
use crate::export::config::Config;
use crate::export::rope::Rope;
use crate::{Error, Result};

/// The assumptions of a class of transformers where `config.json` says nothing.
pub(super) struct Defaults {
    pub(super) genai_type: &'static str,
    pub(super) rms_norm_eps: f64,
    pub(super) tied: bool,
    /// The size of a head. If absent, the hidden size is divided among the heads.
    pub(super) head_size: Option<usize>,
    /// The field that names the activation, and the activation where it is absent.
    pub(super) activation: (&'static str, Activation),
    /// Reads the rotary embeddings for heads of a size.
    pub(super) ropes: fn(&Checkpoint, usize) -> Result<Vec<Rope>>,
}

impl Defaults {
    /// The assumptions of Llama, which most classes share.
    pub(super) fn of(genai_type: &'static str) -> Self {
        Defaults {
            genai_type,
            rms_norm_eps: 1e-6,
            tied: false,
            head_size: None,
            activation: ("hidden_act", Activation::Silu),
            ropes: |checkpoint, head_size| Ok(vec![Rope::read(checkpoint, head_size, 1e4)?]),
        }
    }
}

/// Reads a decoder built like Llama without biases: one rotary embedding for whole heads, no windows, two norms a layer.
/// Architectures change what they do differently.
pub(super) fn plain(checkpoint: &Checkpoint, defaults: &Defaults) -> Result<Decoder> {
    let config = &checkpoint.config;
    let attention = attention(config, defaults)?;
    let activation = activation(config, defaults.activation)?;
    Ok(Decoder {
        genai_type: defaults.genai_type,
        vocab_size: config.size("vocab_size")?,
        hidden_size: config.size("hidden_size")?,
        context_length: positions(config)?,
        embedding_scale: None,
        norm: Norm {
            epsilon: config.positive_or("rms_norm_eps", defaults.rms_norm_eps)? as f32,
            plus_one: false,
            branches: false,
        },
        attention,
        feed_forward: FeedForward { size: config.size("intermediate_size")?, activation, fused: false, bias: false },
        ropes: (defaults.ropes)(checkpoint, attention.head_size)?,
        layers: vec![Layer { window: None, rope: Some(0) }; layers(config)?],
        head: Head { tied: config.flag_or("tie_word_embeddings", defaults.tied)?, softcap: None },
    })
}

/// The longest context. Its rotary tables are written out, so an absurd number would fill the disk.
pub(in crate::export) fn positions(config: &Config) -> Result<usize> {
    const MOST: usize = 1 << 22;
    let field = "max_position_embeddings";
    let positions = config.size(field)?;
    if positions > MOST {
        return Err(config.unsupported(field, &format!("at most {MOST} positions are exported")));
    }
    Ok(positions)
}

/// The number of layers. Each is described before its weights are looked for, so an absurd number would fill memory.
fn layers(config: &Config) -> Result<usize> {
    const MOST: usize = 1 << 12;
    let field = "num_hidden_layers";
    let layers = config.size(field)?;
    if layers > MOST {
        return Err(config.unsupported(field, &format!("at most {MOST} layers are exported")));
    }
    Ok(layers)
}

/// The window of each layer: `window` where `layer_types` calls the layer sliding or, without that field, `slides` does.
pub(super) fn windows(
    config: &Config,
    decoder: &Decoder,
    window: Option<usize>,
    slides: impl Fn(usize) -> bool,
) -> Result<Vec<Option<usize>>> {
    let layers = decoder.layers.len();
    let sliding = layer_types(config, layers)?.unwrap_or_else(|| (0..layers).map(slides).collect());
    if window.is_none() && sliding.contains(&true) {
        return Err(config.bad_value("sliding_window", "some layers have a window, so its size is needed"));
    }
    Ok(sliding.into_iter().map(|slides| window.filter(|_| slides)).collect())
}

/// Layers that all have the window under `sliding_window`, for classes of which transformers doesn't read `layer_types`.
pub(super) fn same_window(config: &Config, decoder: &Decoder, default: Option<usize>) -> Result<Vec<Layer>> {
    let window = config.size_unless_null("sliding_window", default)?;
    if windows(config, decoder, window, |_| window.is_some())?.iter().any(|&listed| listed != window) {
        let complaint = "transformers gives all layers of this class the window that `sliding_window` says";
        return Err(config.unsupported("layer_types", complaint));
    }
    Ok(vec![Layer { window, rope: Some(0) }; decoder.layers.len()])
}

/// Says for each layer whether `layer_types` calls it sliding.
pub(in crate::export) fn layer_types(config: &Config, layers: usize) -> Result<Option<Vec<bool>>> {
    let field = "layer_types";
    let Some(value) = config.get(field) else { return Ok(None) };
    let kinds = value.as_array().filter(|kinds| kinds.len() == layers);
    let kinds =
        kinds.ok_or_else(|| config.bad_value(field, &format!("expected a list of {layers}, one for each layer")))?;
    let sliding = |kind: &Value| match kind.as_str() {
        Some("full_attention") => Ok(false),
        Some("sliding_attention") => Ok(true),
        _ => Err(config.unsupported(field, "this version exports `full_attention` and `sliding_attention`")),
    };
    kinds.iter().map(sliding).collect::<Result<_>>().map(Some)
}

/// The activation that `field` names.
fn activation(config: &Config, (field, default): (&str, Activation)) -> Result<Activation> {
    match config.get(field).map(|value| value.as_str()) {
        None => Ok(default),
        Some(Some("silu" | "swish")) => Ok(Activation::Silu),
        Some(Some("gelu_pytorch_tanh")) => Ok(Activation::GeluTanh),
        Some(_) => Err(config.unsupported(field, "this version exports `silu`, `swish` and `gelu_pytorch_tanh`")),
    }
}

/// Plain attention, its sizes checked against each other.
fn attention(config: &Config, defaults: &Defaults) -> Result<Attention> {
    let heads = config.size("num_attention_heads")?;
    let kv_heads = config.size_or("num_key_value_heads", heads)?;
    let hidden = config.size("hidden_size")?;
    if heads % kv_heads != 0 {
        return Err(config.bad_value("num_key_value_heads", &format!("does not divide the {heads} attention heads")));
    }
    if config.get("head_dim").is_none() && defaults.head_size.is_none() && hidden % heads != 0 {
        let complaint = format!("does not divide the hidden size {hidden}, and no head_dim is given");
        return Err(config.bad_value("num_attention_heads", &complaint));
    }
    let head_size = config.size_or("head_dim", defaults.head_size.unwrap_or(hidden / heads))?;
    // ONNX Runtime's attention rotates 16 elements at a time.
    if head_size % 16 != 0 {
        return Err(Error::unsupported(format!(
            "{}: heads of {head_size} elements: ONNX Runtime's GroupQueryAttention takes multiples of 16",
            config.file()
        )));
    }
    Ok(Attention {
        heads,
        kv_heads,
        head_size,
        scale: (head_size as f64).sqrt().recip() as f32,
        softcap: None,
        fused: false,
        qk_norm: false,
        qkv_bias: false,
        output_bias: false,
    })
}
