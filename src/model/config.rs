//! `genai_config.json`: what the folder says about its model.

use std::path::{Component, Path};

use serde::Deserialize;

use crate::{Error, Result};

/// File name in a model folder.
pub(crate) const FILE: &str = "genai_config.json";

/// The part of onnxruntime-genai's configuration that this library reads.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct GenaiConfig {
    pub(crate) model: ModelConfig,
}

/// `model` in the file.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ModelConfig {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) vocab_size: usize,
    pub(crate) context_length: usize,
    #[serde(default)]
    pub(crate) eos_token_id: TokenIds,
    pub(crate) decoder: DecoderConfig,
}

/// `model.decoder` in the file.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct DecoderConfig {
    #[serde(default = "default_filename")]
    pub(crate) filename: String,
    #[serde(default)]
    pub(crate) inputs: Inputs,
    #[serde(default)]
    pub(crate) outputs: Outputs,
}

/// Names of the graph's inputs.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct Inputs {
    pub(crate) input_ids: String,
    pub(crate) position_ids: String,
}

/// Names of the graph's outputs.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct Outputs {
    pub(crate) logits: String,
}

fn default_filename() -> String {
    "model.onnx".into()
}

impl Default for Inputs {
    fn default() -> Self {
        Inputs { input_ids: "input_ids".into(), position_ids: "position_ids".into() }
    }
}

impl Default for Outputs {
    fn default() -> Self {
        Outputs { logits: "logits".into() }
    }
}

/// One id or a list of them, as the file may have either.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(untagged)]
pub(crate) enum TokenIds {
    One(u32),
    Many(Vec<u32>),
    #[default]
    None,
}

impl TokenIds {
    pub(crate) fn to_vec(&self) -> Vec<u32> {
        match self {
            TokenIds::One(id) => vec![*id],
            TokenIds::Many(ids) => ids.clone(),
            TokenIds::None => Vec::new(),
        }
    }
}

impl GenaiConfig {
    /// Reads `folder`'s configuration.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let text = std::fs::read_to_string(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::invalid_model(format!(
                "{} has no {FILE}. Export a checkpoint with `foreturn export --from <checkpoint> --to <folder>`, or give a folder that onnxruntime-genai's model builder wrote",
                folder.display()
            )),
            _ => Error::io("read", &path, e),
        })?;
        let config: GenaiConfig = serde_json::from_str(&text).map_err(|e| {
            let message = format!("{}: {e}. Correct it, or export the model again", path.display());
            Error::invalid_model(message).with_source(e)
        })?;
        let filename = &config.model.decoder.filename;
        if !Path::new(filename).components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(Error::invalid_model(format!(
                "{}: model.decoder.filename is `{filename}`, which leaves the model's folder; put the graph into it",
                path.display()
            )));
        }
        let positive = [("vocab_size", config.model.vocab_size), ("context_length", config.model.context_length)];
        for (field, value) in positive {
            if value == 0 || value > i32::MAX as usize {
                return Err(Error::invalid_model(format!(
                    "{}: model.{field} is {value}; it has to be a positive number",
                    path.display()
                )));
            }
        }
        if let Some(id) =
            config.model.eos_token_id.to_vec().into_iter().find(|&id| id as usize >= config.model.vocab_size)
        {
            return Err(Error::invalid_model(format!(
                "{}: model.eos_token_id holds {id}, but model.vocab_size is {}",
                path.display(),
                config.model.vocab_size
            )));
        }
        Ok(config)
    }
}
