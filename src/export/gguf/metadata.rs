//! A file's metadata under the field names of `config.json`.
//!
//! llama.cpp has some constants of a family built in, and its files do not repeat them. A [`Dialect`] fills them in. A
//! key that changes the computation and has no field here is refused by name.

use serde_json::{Value as Json, json};

use super::parse::Value;
use super::{Source, json};
use crate::export::config::Config;
use crate::{Error, Result};

/// `config.json` fields and the metadata keys, after the architecture's prefix, that hold them.
const FIELDS: &[(&str, &str)] = &[
    ("hidden_size", "embedding_length"),
    ("intermediate_size", "feed_forward_length"),
    ("num_hidden_layers", "block_count"),
    ("num_attention_heads", "attention.head_count"),
    ("num_key_value_heads", "attention.head_count_kv"),
    ("max_position_embeddings", "context_length"),
    ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
    ("rope_theta", "rope.freq_base"),
    ("head_dim", "attention.key_length"),
    ("vocab_size", "vocab_size"),
];

/// Metadata keys that change what the model computes, refused where they say anything unless a dialect reads them.
const UNHANDLED: &[&str] = &[
    "attention.causal",
    "attention.clamp_kqv",
    "attention.max_alibi_bias",
    "attention.scale",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "attention.temperature_scale",
    "attn_logit_softcapping",
    "embedding_scale",
    "expert_count",
    "final_logit_softcapping",
    "logit_scale",
    "pooling_type",
    "residual_scale",
    "rope.freq_base_swa",
    "rope.scale_linear",
    "rope.scaling.attn_factor",
    "use_parallel_residual",
];

/// The particulars of an architecture's files.
struct Dialect {
    /// The value of `general.architecture`.
    architecture: &'static str,
    /// The keys of [`UNHANDLED`] that it reads.
    reads: &'static [&'static str],
    /// Sets the fields that follow from these, or from what llama.cpp has built in.
    read: fn(&Source<'_>, &mut Config) -> Result<()>,
    /// Tensors that are metadata.
    tensors: &'static [&'static str],
    norms_include_one: bool,
    /// Allows part of each head to stay unrotated.
    partial_rotary: bool,
}

const PLAIN: Dialect = Dialect {
    architecture: "",
    reads: &[],
    read: |_, _| Ok(()),
    tensors: &[ROPE_FACTORS],
    norms_include_one: false,
    partial_rotary: false,
};

const GEMMA: Dialect = Dialect { norms_include_one: true, ..PLAIN };

const DIALECTS: &[Dialect] = &[
    Dialect {
        architecture: "gemma2",
        reads: &[
            "attention.sliding_window",
            "attention.sliding_window_pattern",
            "attn_logit_softcapping",
            "final_logit_softcapping",
        ],
        read: |source, config| {
            copy(source, config, "attn_logit_softcapping", "attn_logit_softcapping");
            gemma(source, config, &Gemma { window: 4096, period: 2, layers_of_27b: 46 })
        },
        ..GEMMA
    },
    Dialect {
        architecture: "gemma3",
        reads: &[
            "attention.sliding_window",
            "attention.sliding_window_pattern",
            "final_logit_softcapping",
            "rope.freq_base_swa",
        ],
        read: |source, config| {
            copy(source, config, "rope_local_base_freq", "rope.freq_base_swa");
            gemma(source, config, &Gemma { window: 0, period: 6, layers_of_27b: 62 })
        },
        ..GEMMA
    },
    Dialect {
        architecture: "phi3",
        reads: &["attention.sliding_window", "rope.scaling.attn_factor"],
        read: phi3,
        tensors: &[ROPE_FACTORS_SHORT, ROPE_FACTORS_LONG],
        partial_rotary: true,
        ..PLAIN
    },
];

/// The tensors in which llama.cpp stores the divisors of rotary frequencies: of all, of short and of long sequences.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";
const ROPE_FACTORS_SHORT: &str = "rope_factors_short.weight";
const ROPE_FACTORS_LONG: &str = "rope_factors_long.weight";

fn dialect(source: &Source<'_>) -> &'static Dialect {
    DIALECTS.iter().find(|dialect| dialect.architecture == source.names.architecture).unwrap_or(&PLAIN)
}

/// Tensors that are metadata, not weights.
pub(super) fn tensors_read(source: &Source<'_>) -> &'static [&'static str] {
    dialect(source).tensors
}

/// Returns whether the weights of norms already include the one that is added to them.
pub(super) fn norms_include_one(source: &Source<'_>) -> bool {
    dialect(source).norms_include_one
}

/// The fields of `config.json`, for the class that transformers calls `architecture`.
pub(super) fn config(source: &Source<'_>, architecture: &str) -> Result<Config> {
    let dialect = dialect(source);
    refuse_unhandled(source, dialect)?;
    let mut config = Config::empty(source.label);
    for (field, suffix) in FIELDS {
        copy(source, &mut config, field, suffix);
    }
    if config.get("vocab_size").is_none()
        && let Some(tokens) = source.get("tokenizer.ggml.tokens").and_then(Value::array)
    {
        config.set("vocab_size", "tokenizer.ggml.tokens", tokens.iter().count());
    }
    // Classes of transformers assume different numbers where these are absent.
    let (epsilon, value) = source.own("attention.layer_norm_rms_epsilon");
    if value.is_none() {
        return Err(source.wrong(&epsilon, "is missing"));
    }
    if config.get("rope_theta").is_none() {
        config.set("rope_theta", &source.own("rope.freq_base").0, 1e4);
    }
    set_head_size(source, &mut config, dialect)?;
    set_rope_scaling(source, &mut config)?;
    let has = |name: &str| source.gguf.tensors.iter().any(|tensor| tensor.name == name);
    config.set("architectures", "general.architecture", vec![architecture]);
    config.set("tie_word_embeddings", "output.weight", !has("output.weight"));
    config.set("attention_bias", "blk.0.attn_q.bias", has("blk.0.attn_q.bias"));
    config.set("mlp_bias", "blk.0.ffn_up.bias", has("blk.0.ffn_up.bias"));
    (dialect.read)(source, &mut config)?;
    Ok(config)
}

/// Sets `field` to the file's value under `suffix`, if there is one.
fn copy(source: &Source<'_>, config: &mut Config, field: &str, suffix: &str) {
    let (key, value) = source.own(suffix);
    if let Some(value) = value {
        config.set(field, &key, json(value));
    }
}

fn refuse_unhandled(source: &Source<'_>, dialect: &Dialect) -> Result<()> {
    for suffix in UNHANDLED.iter().filter(|suffix| !dialect.reads.contains(suffix)) {
        let (key, value) = source.own(suffix);
        // Converters write zeros for "none", factors of one, and some say of a decoder that it is causal.
        let says_nothing = |value: &Value<'_>| match value {
            Value::Unsigned(0) | Value::Signed(0) | Value::Float(0.0) => true,
            Value::Float(1.0) => suffix.ends_with("_scale") || suffix.ends_with("_factor"),
            Value::Bool(flag) => *flag == (*suffix == "attention.causal"),
            _ => false,
        };
        if let Some(value) = value.filter(|value| !says_nothing(value)) {
            return Err(Error::unsupported(format!(
                "{}: `{key}` is {}: this version can't export that",
                source.label,
                json(value)
            )));
        }
    }
    Ok(())
}

/// Sets the size of heads where the file leaves it to be worked out, and how much of them is rotated.
fn set_head_size(source: &Source<'_>, config: &mut Config, dialect: &Dialect) -> Result<()> {
    let (key, rotated) = source.own("rope.dimension_count");
    if config.get("head_dim").is_none() {
        let (heads, hidden) = (config.size("num_attention_heads")?, config.size("hidden_size")?);
        match rotated {
            Some(rotated) if !dialect.partial_rotary => config.set("head_dim", &key, json(rotated)),
            _ if hidden % heads == 0 => config.set("head_dim", &source.own("embedding_length").0, hidden / heads),
            // The architecture refuses this, and names both.
            _ => {}
        }
    }
    let unsupported = |key: &str, value: &Json, complaint: &str| {
        Err(Error::unsupported(format!("{}: `{key}` is {value}{complaint}", source.label)))
    };
    let head = config.get("head_dim").cloned().unwrap_or_default();
    if let Some(rotated) = rotated.map(json).filter(|rotated| *rotated != head) {
        match (rotated.as_u64(), head.as_u64()) {
            (Some(rotated @ 1..), Some(head)) if dialect.partial_rotary && rotated < head => {
                config.set("partial_rotary_factor", &key, rotated as f64 / head as f64);
            }
            _ => {
                let complaint = ", not the whole head: partial rotary embedding is not exported for this architecture";
                return unsupported(&key, &rotated, complaint);
            }
        }
    }
    let (key, length) = source.own("attention.value_length");
    match length.map(json).filter(|length| *length != head) {
        Some(length) => {
            unsupported(&key, &length, &format!(", but keys have {head}: heads of two sizes are not exported"))
        }
        None => Ok(()),
    }
}

fn set_rope_scaling(source: &Source<'_>, config: &mut Config) -> Result<()> {
    let (key, kind) = source.own("rope.scaling.type");
    match kind.map(|kind| kind.text().ok_or_else(|| source.wrong(&key, "expected a text"))).transpose()? {
        None | Some("none") => {}
        Some(kind) => {
            let factor = source.own("rope.scaling.factor").1.map_or(Json::Null, json);
            config.set("rope_scaling", &source.own("rope.scaling").0, json!({"type": kind, "factor": factor}));
        }
    }
    Ok(())
}

/// The constants of Gemma 2 and 3 that llama.cpp has built in.
struct Gemma {
    /// The window where the file has none; 0 for none.
    window: u64,
    /// The period of layers of which the last has no window.
    period: u64,
    /// The number of layers of the family's largest model, whose scores are scaled differently.
    layers_of_27b: usize,
}

fn gemma(source: &Source<'_>, config: &mut Config, known: &Gemma) -> Result<()> {
    copy(source, config, "final_logit_softcapping", "final_logit_softcapping");
    let layers = config.size("num_hidden_layers")?;
    let (hidden, heads) = (config.size("hidden_size")?, config.size("num_attention_heads")?);
    let scalar = if layers == known.layers_of_27b { hidden / heads } else { config.size("head_dim")? };
    config.set("query_pre_attn_scalar", "block_count", scalar);

    let (key, window) = source.own("attention.sliding_window");
    let window = window.map_or(Ok(known.window), |window| {
        window.unsigned().ok_or_else(|| source.wrong(&key, "expected a number of tokens"))
    })?;
    let slides = if window == 0 { vec![false; listed(layers)] } else { pattern(source, known.period, listed(layers))? };
    if window > 0 {
        config.set("sliding_window", &key, window);
    }
    let kind = |slides: bool| if slides { "sliding_attention" } else { "full_attention" };
    let kinds: Vec<&str> = slides.into_iter().map(kind).collect();
    config.set("layer_types", &source.own("attention.sliding_window_pattern").0, kinds);
    Ok(())
}

/// The most layers that are listed. More are refused later.
fn listed(layers: usize) -> usize {
    layers.min(1 << 12)
}

/// Says for each layer whether it has a window. The file lists them, or gives a period of which the last has none, or
/// says nothing.
fn pattern(source: &Source<'_>, period: u64, layers: usize) -> Result<Vec<bool>> {
    let (key, value) = source.own("attention.sliding_window_pattern");
    let wrong = || source.wrong(&key, "expected a number of layers, or true or false for each layer");
    if let Some(flags) = value.and_then(Value::array) {
        let flag = |value: Value<'_>| match value {
            Value::Bool(flag) => Some(flag),
            other => other.unsigned().map(|number| number != 0),
        };
        return flags.iter().map(flag).collect::<Option<Vec<bool>>>().ok_or_else(wrong);
    }
    let period = value.map_or(Ok(period), |value| value.unsigned().ok_or_else(wrong))?;
    Ok((1..=layers as u64).map(|layer| period == 0 || layer % period != 0).collect())
}

/// The window is 0 for none; the factors of long and short sequences are tensors.
fn phi3(source: &Source<'_>, config: &mut Config) -> Result<()> {
    let (key, window) = source.own("attention.sliding_window");
    if let Some(window) = window.filter(|window| window.unsigned() != Some(0)) {
        config.set("sliding_window", &key, json(window));
    }
    let (Some(short), Some(long)) = (source.numbers(ROPE_FACTORS_SHORT)?, source.numbers(ROPE_FACTORS_LONG)?) else {
        return Ok(());
    };
    copy(source, config, "original_max_position_embeddings", "rope.scaling.original_context_length");
    let factor = source.own("rope.scaling.attn_factor").1.map_or(Json::Null, json);
    let scaling = json!({"type": "longrope", "short_factor": short, "long_factor": long, "attention_factor": factor});
    config.set("rope_scaling", "rope_factors_*.weight", scaling);
    Ok(())
}
