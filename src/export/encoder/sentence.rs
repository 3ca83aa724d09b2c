//! Sentence embeddings: what sentence-transformers puts after an encoder, as `modules.json` lists it.
//!
//! A folder without `modules.json` gets what sentence-transformers gives it: the mean over tokens.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::EMBEDDING;
use super::blocks::{Activation, Blocks};
use crate::export::checkpoint::{Checkpoint, Tensor, WeightFile};
use crate::export::config::Config;
use crate::export::graph::Size;
use crate::export::hf::{parse, read_file, read_header};
use crate::model::head::{Head, HeadKind, Pooling};
use crate::model::tokenizer::auto::Settled;
use crate::onnx::build::int;
use crate::{Error, Result};

const MODULES: &str = "modules.json";

/// What follows the encoder.
#[derive(Debug)]
pub(in crate::export) struct Sentence {
    pooling: Pooling,
    steps: Vec<Step>,
    /// Most tokens of a text; sentence-transformers cuts off the rest.
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

/// An entry of `modules.json`.
#[derive(Deserialize)]
struct Module {
    #[serde(default)]
    path: String,
    r#type: String,
}

/// Reads the modules of `folder`, if it lists any; weights that they have join `files` and `tensors`.
pub(in crate::export) fn read(
    folder: &Path,
    files: &mut Vec<WeightFile>,
    tensors: &mut BTreeMap<String, Tensor>,
) -> Result<Option<Sentence>> {
    let list = folder.join(MODULES);
    if !list.exists() {
        return Ok(None);
    }
    let modules: Vec<Module> = parse(&list)?;
    let kind = |module: &Module| module.r#type.rsplit('.').next().unwrap_or_default().to_owned();
    let [encoder, pooling, rest @ ..] = modules.as_slice() else { return Err(wrong_order(&list)) };
    if kind(encoder) != "Transformer" || kind(pooling) != "Pooling" {
        return Err(wrong_order(&list));
    }
    if !encoder.path.is_empty() {
        return Err(Error::unsupported(format!(
            "{}: the encoder lies in {:?}: move the files of that folder beside {MODULES}",
            list.display(),
            encoder.path
        )));
    }
    let mut steps = Vec::new();
    for module in rest {
        steps.push(match kind(module).as_str() {
            "Dense" => Step::Dense(Dense::read(&inside(folder, &list, &module.path)?, &module.path, files, tensors)?),
            "Normalize" => Step::Normalize,
            _ => {
                return Err(Error::unsupported(format!(
                    "{}: module {:?}: this version exports Transformer, Pooling, Dense and Normalize",
                    list.display(),
                    module.r#type
                )));
            }
        });
    }
    let pooling = read_pooling(&config(&inside(folder, &list, &pooling.path)?.join("config.json"))?)?;
    refuse_default_prompt(folder)?;
    Ok(Some(Sentence { pooling, steps, max_length: max_length(folder)? }))
}

fn wrong_order(list: &Path) -> Error {
    Error::unsupported(format!("{}: this version exports a Transformer followed by a Pooling module", list.display()))
}

/// The folder of a module, which has to lie in the checkpoint's own.
fn inside(folder: &Path, list: &Path, module: &str) -> Result<std::path::PathBuf> {
    if Path::new(module).file_name().is_none_or(|name| name != module) {
        let message = format!("{}: `path` is {module:?}, which is not a folder's name", list.display());
        return Err(Error::invalid_model(message));
    }
    Ok(folder.join(module))
}

fn config(path: &Path) -> Result<Config> {
    Config::from_json(&path.display().to_string(), &read_file(path)?)
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

/// Texts would have to begin with it, and nobody would put it there.
fn refuse_default_prompt(folder: &Path) -> Result<()> {
    let path = folder.join("config_sentence_transformers.json");
    if !path.exists() {
        return Ok(());
    }
    let config = config(&path)?;
    match config.get("default_prompt_name") {
        None => Ok(()),
        Some(_) => {
            Err(config.unsupported("default_prompt_name", "texts are embedded without a prompt: set it to null"))
        }
    }
}

fn max_length(folder: &Path) -> Result<Option<usize>> {
    let path = folder.join("sentence_bert_config.json");
    if !path.exists() {
        return Ok(None);
    }
    let config = config(&path)?;
    if config.flag_or("do_lower_case", false)? && !tokenizer_lowers(folder)? {
        let complaint = "lower-casing is left to the tokenizer: put a Lowercase normalizer into tokenizer.json";
        return Err(config.unsupported("do_lower_case", complaint));
    }
    config.get("max_seq_length").map(|_| config.size("max_seq_length")).transpose()
}

/// Whether the tokenizer turns text into lower case by itself.
fn tokenizer_lowers(folder: &Path) -> Result<bool> {
    let tokenizer = Settled::read(folder)?.tokenizer;
    let normalizer = tokenizer.get("normalizer").unwrap_or(&Value::Null);
    let steps = normalizer["normalizers"].as_array().map_or(std::slice::from_ref(normalizer), Vec::as_slice);
    Ok(steps.iter().any(|step| step["type"] == "Lowercase" || step["lowercase"] == true))
}

impl Dense {
    fn read(
        folder: &Path,
        name: &str,
        files: &mut Vec<WeightFile>,
        tensors: &mut BTreeMap<String, Tensor>,
    ) -> Result<Self> {
        let config = config(&folder.join("config.json"))?;
        let weights = folder.join("model.safetensors");
        if !weights.exists() {
            return Err(Error::invalid_model(format!(
                "{} holds no model.safetensors: load the model with sentence-transformers and save it again",
                folder.display()
            )));
        }
        let mut file = WeightFile::open(&weights)?;
        // The exported folder has the encoder's model.safetensors already.
        file.name = format!("{name}.safetensors");
        for (tensor, place) in read_header(&weights.display().to_string(), &file.data, files.len())? {
            tensors.insert(format!("{name}.{tensor}"), place);
        }
        files.push(file);
        Ok(Dense {
            module: format!("{name}.linear"),
            inner: Size::new(config.size("in_features")?, &["in_features"]),
            out: Size::new(config.size("out_features")?, &["out_features"]),
            bias: config.flag_or("bias", true)?,
            activation: activation(&config)?,
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

/// Writes what makes an embedding of `states`; an encoder with so many `positions` takes no longer texts.
pub(super) fn write(
    blocks: &mut Blocks<'_>,
    checkpoint: &Checkpoint,
    states: &str,
    positions: Option<usize>,
) -> Result<Head> {
    let plain = Sentence { pooling: Pooling::Mean, steps: vec![], max_length: None };
    let sentence = checkpoint.sentence.as_ref().unwrap_or(&plain);
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
