//! Sentence embeddings: the modules that sentence-transformers puts after an encoder, as `modules.json` lists them.
//!
//! A folder without `modules.json` gets the mean over tokens, as in sentence-transformers.

use super::EMBEDDING;
use super::blocks::{Activation, Blocks};
use crate::export::checkpoint::{Checkpoint, Module, Modules};
use crate::export::config::Config;
use crate::export::graph::Size;
use crate::model::head::{Head, HeadKind, Pooling};
use crate::onnx::nodes::int;
use crate::{Error, Result};

/// The modules that follow the encoder.
#[derive(Debug)]
struct Sentence {
    pooling: Pooling,
    steps: Vec<Step>,
    /// The most tokens of a text. sentence-transformers cuts off the rest.
    max_length: Option<usize>,
}

#[derive(Debug)]
enum Step {
    Dense(Dense),
    /// Divides by the Euclidean length.
    Normalize,
}

/// activation(linear(embedding))
#[derive(Debug)]
struct Dense {
    /// Its linear layer's name in the exported folder, where modules share one space of names.
    module: String,
    inner: Size,
    out: Size,
    bias: bool,
    activation: Activation,
}

/// Refuses a checkpoint whose modules can't be exported. A folder of sentence-transformers is not exported as something
/// else.
pub(in crate::export) fn check(checkpoint: &Checkpoint) -> Result<()> {
    checkpoint.modules.as_ref().map_or(Ok(()), |modules| Sentence::of(modules).map(drop))
}

impl Sentence {
    fn of(modules: &Modules) -> Result<Self> {
        let [encoder, pooling, rest @ ..] = modules.modules.as_slice() else { return Err(wrong_order(modules)) };
        if class(encoder) != "Transformer" || class(pooling) != "Pooling" {
            return Err(wrong_order(modules));
        }
        if !encoder.path.is_empty() {
            return Err(Error::unsupported(format!(
                "{}: the encoder lies in {:?}: move the files of that folder beside modules.json",
                modules.list, encoder.path
            )));
        }
        let step = |module: &Module| match class(module) {
            "Dense" => Dense::of(modules, module).map(Step::Dense),
            "Normalize" => Ok(Step::Normalize),
            _ => Err(Error::unsupported(format!(
                "{}: module {:?}: this version exports Transformer, Pooling, Dense and Normalize",
                modules.list, module.kind
            ))),
        };
        let steps = rest.iter().map(step).collect::<Result<_>>()?;
        let pooling = read_pooling(config(modules, pooling)?)?;
        refuse_default_prompt(modules)?;
        Ok(Sentence { pooling, steps, max_length: max_length(modules)? })
    }
}

/// A module's class without the package.
fn class(module: &Module) -> &str {
    module.kind.rsplit('.').next().unwrap_or_default()
}

fn wrong_order(modules: &Modules) -> Error {
    Error::unsupported(format!("{}: this version exports a Transformer followed by a Pooling module", modules.list))
}

/// The settings that a module has to have.
fn config<'a>(modules: &Modules, module: &'a Module) -> Result<&'a Config> {
    module.config.as_ref().ok_or_else(|| match module.path.as_str() {
        "" => Error::invalid_model(format!("{}: `path` is \"\", which is not a folder's name", modules.list)),
        _ => {
            Error::invalid_model(format!("{} holds no config.json: is the download complete?", module.folder.display()))
        }
    })
}

fn read_pooling(config: &Config) -> Result<Pooling> {
    // Newer versions write one mode by its name.
    match config.get("pooling_mode").map(|mode| mode.as_str()) {
        None => {}
        Some(Some("cls")) => return Ok(Pooling::First),
        Some(Some("mean")) => return Ok(Pooling::Mean),
        Some(_) => return Err(config.unsupported("pooling_mode", "this version pools the first token or the mean")),
    }
    const MODES: [&str; 6] = [
        "pooling_mode_cls_token",
        "pooling_mode_mean_tokens",
        "pooling_mode_max_tokens",
        "pooling_mode_mean_sqrt_len_tokens",
        "pooling_mode_weightedmean_tokens",
        "pooling_mode_lasttoken",
    ];
    let mut chosen = Vec::new();
    for mode in MODES {
        if config.flag_or(mode, false)? {
            chosen.push(mode);
        }
    }
    match chosen.as_slice() {
        ["pooling_mode_cls_token"] => Ok(Pooling::First),
        ["pooling_mode_mean_tokens"] => Ok(Pooling::Mean),
        [] => Err(config.bad_value(MODES[1], "no pooling mode is true")),
        [other] => Err(config.unsupported(other, "this version pools the first token or the mean")),
        [first, ..] => Err(config.unsupported(first, "several modes at once are not exported")),
    }
}

/// Refuses a default prompt. Texts would have to begin with it, and the library does not put it there.
fn refuse_default_prompt(modules: &Modules) -> Result<()> {
    match modules.texts.as_ref().filter(|config| config.get("default_prompt_name").is_some()) {
        None => Ok(()),
        Some(config) => {
            Err(config.unsupported("default_prompt_name", "texts are embedded without a prompt: set it to null"))
        }
    }
}

fn max_length(modules: &Modules) -> Result<Option<usize>> {
    let Some(config) = &modules.encoder else { return Ok(None) };
    if config.flag_or("do_lower_case", false)? && !modules.lowers {
        let complaint = "lower-casing is left to the tokenizer: put a Lowercase normalizer into tokenizer.json";
        return Err(config.unsupported("do_lower_case", complaint));
    }
    config.get("max_seq_length").map(|_| config.size("max_seq_length")).transpose()
}

impl Dense {
    fn of(modules: &Modules, module: &Module) -> Result<Self> {
        let config = config(modules, module)?;
        if !module.has_weights {
            return Err(Error::invalid_model(format!(
                "{} holds no model.safetensors: load the model with sentence-transformers and save it again",
                module.folder.display()
            )));
        }
        Ok(Dense {
            module: format!("{}.linear", module.path),
            inner: Size::new(config.size("in_features")?, &["in_features"]),
            out: Size::new(config.size("out_features")?, &["out_features"]),
            bias: config.flag_or("bias", true)?,
            activation: activation(config)?,
        })
    }
}

/// The class that `activation_function` names with its module; a hyperbolic tangent where it is absent.
fn activation(config: &Config) -> Result<Activation> {
    const FIELD: &str = "activation_function";
    let Some(name) = config.get(FIELD) else { return Ok(Activation::Tanh) };
    match name.as_str().and_then(|name| name.rsplit('.').next()) {
        Some("Tanh") => Ok(Activation::Tanh),
        Some("Identity") => Ok(Activation::Identity),
        Some("GELU") => Ok(Activation::Gelu),
        Some("ReLU") => Ok(Activation::Relu),
        _ => Err(config.unsupported(FIELD, "this version exports Tanh, Identity, GELU and ReLU")),
    }
}

/// Writes the nodes that make an embedding of `states`. No text may be longer than the encoder's `positions`.
pub(super) fn write(
    blocks: &mut Blocks<'_>,
    checkpoint: &Checkpoint,
    states: &str,
    positions: Option<usize>,
) -> Result<Head> {
    let sentence = match &checkpoint.modules {
        Some(modules) => Sentence::of(modules)?,
        None => Sentence { pooling: Pooling::Mean, steps: vec![], max_length: None },
    };
    let mut size = blocks.hidden;
    let mut embedding = match sentence.pooling {
        Pooling::First => blocks.first(states),
        _ => blocks.mean(states),
    };
    for (number, step) in sentence.steps.iter().enumerate() {
        embedding = match step {
            Step::Dense(dense) => {
                if dense.inner.value != size.value {
                    return Err(Error::invalid_model(format!(
                        "{}: `{}` takes {} numbers, but what comes before it gives {}",
                        checkpoint.config.file(),
                        dense.module,
                        dense.inner.value,
                        size.value
                    )));
                }
                size = dense.out;
                let linear = blocks.exact(&dense.module, &embedding, dense.out, dense.inner, dense.bias)?;
                blocks.activate(&format!("/dense.{number}"), dense.activation, &linear)
            }
            Step::Normalize => {
                let attributes = vec![int("axis", -1), int("p", 2)];
                blocks.op("LpNormalization", &format!("/normalize.{number}"), &[&embedding], attributes)
            }
        };
    }
    blocks.builder.rename(&embedding, EMBEDDING);
    let bounds = [positions, sentence.max_length];
    Ok(Head {
        kind: HeadKind::Embedding,
        labels: vec![],
        pooling: Pooling::None,
        normalize: matches!(sentence.steps.last(), Some(Step::Normalize)),
        size: size.value,
        max_length: bounds.into_iter().flatten().min(),
        pad_token_id: None,
    })
}
