//! LoRA adapters of PEFT, merged while their base is exported or refreshed: weight = base + scale · B · A, in float32.
//!
//! ```text
//! adapter_config.json ─ config ─▶ scales ─┐
//! adapter_model.safetensors ─┐            ├─▶ delta ─▶ rows of a tensor, when they are read
//! a live model's tensors ────┴─ parts ────┘
//! ```
//!
//! The base is not changed, and the merged weights are not in memory as a whole. What this version can't merge as PEFT would
//! is refused by name.

mod config;
mod delta;
mod parts;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::config::Settings;
pub(super) use self::delta::Delta;
pub(super) use self::parts::{Parts, Piece, twice};
use super::checkpoint::{Checkpoint, Tensor, WeightFile};
use super::config::Config;
use super::{hf, names};
use crate::onnx::GraphProto;
use crate::{Error, Result};

/// A LoRA adapter that is merged into new weights.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Adapter {
    /// A folder that PEFT saved: `adapter_config.json` and `adapter_model.safetensors`.
    Folder(PathBuf),
    /// The text of an `adapter_config.json`. The adapter's tensors are among those of the model, as in the state dict of a
    /// live PEFT model.
    Config(String),
}

/// An adapter, read.
#[derive(Debug)]
pub(super) struct Lora {
    /// The folder or file, for messages.
    label: String,
    settings: Settings,
    weights: Option<(WeightFile, BTreeMap<String, Tensor>)>,
}

impl Lora {
    /// Reads an adapter. Its weights stay mapped.
    pub(super) fn read(adapter: &Adapter) -> Result<Self> {
        match adapter {
            Adapter::Folder(folder) => Lora::open(folder),
            Adapter::Config(text) => {
                let config = Config::from_json(names::ADAPTER, text.as_bytes())?;
                Ok(Lora { label: names::ADAPTER.into(), settings: Settings::read(&config, false)?, weights: None })
            }
        }
    }

    fn open(folder: &Path) -> Result<Self> {
        let (config, weights) = (folder.join(names::ADAPTER), folder.join(names::ADAPTER_WEIGHTS));
        if !config.exists() {
            return Err(Error::invalid_model(format!(
                "{} has no {}, so it is not an adapter: name the folder that PEFT's save_pretrained made",
                folder.display(),
                names::ADAPTER
            )));
        }
        let settings = Settings::read(&Config::read(&config)?, true)?;
        if !weights.exists() && folder.join("adapter_model.bin").exists() {
            return Err(Error::invalid_model(format!(
                "{} holds pickled weights: load the adapter with PEFT and call save_pretrained, which writes safetensors",
                folder.display()
            )));
        }
        let file = WeightFile::open(&weights)?;
        let tensors = hf::read_header(&weights.display().to_string(), &file.data, 0)?;
        Ok(Lora { label: folder.display().to_string(), settings, weights: Some((file, tensors)) })
    }

    /// The parts in the adapter's own file, if it has one.
    pub(super) fn parts(&self) -> Result<Parts<'_>> {
        let Some((file, tensors)) = &self.weights else { return Ok(Parts::default()) };
        let pieces = tensors.iter().map(|(name, tensor)| (name.clone(), (tensor.clone(), &file.data[..])));
        Parts::sort(pieces).map_err(|error| error.context(&self.label))
    }

    /// The files that it was read from.
    pub(super) fn files(&self) -> impl Iterator<Item = &WeightFile> {
        self.weights.iter().map(|(file, _)| file)
    }

    /// Whether it has a file of its own.
    pub(super) fn has_weights(&self) -> bool {
        self.weights.is_some()
    }

    /// Makes the differences to weights, which `give` gives to them by name. `parts` has all of the adapter's. Returns the names
    /// of the weights that the adapter changes.
    ///
    /// # Errors
    /// There is nothing to merge, or `give` finds no weight for a difference.
    pub(super) fn merge(
        &self,
        parts: &Parts<'_>,
        mut give: impl FnMut(&str, Delta) -> Result<()>,
    ) -> Result<Vec<String>> {
        let named = |error: Error| error.context(&self.label);
        let mut changed: Vec<String> = parts.saved.iter().cloned().collect();
        for (name, delta) in parts.deltas(&self.settings).map_err(named)? {
            give(&name, delta).map_err(named)?;
            changed.push(name);
        }
        if changed.is_empty() {
            let why = "there are no weights of an adapter. Leave the adapter out, or give its tensors";
            return Err(named(Error::invalid_request(why)));
        }
        Ok(changed)
    }
}

/// Gives a weight its difference.
pub(super) fn give(tensor: &mut Tensor, delta: Delta) -> Result<()> {
    if tensor.shape != delta.shape() {
        return Err(Error::invalid_request(format!(
            "the adapter's product for `{}` has shape {:?}, but the base has {:?}: it is another model's adapter",
            tensor.origin,
            delta.shape(),
            tensor.shape
        )));
    }
    tensor.delta = Some(Arc::new(delta));
    Ok(())
}

/// The error of a part that has no weight in the base.
pub(super) fn homeless(name: &str) -> Error {
    if name == names::HEAD {
        return tied(name);
    }
    Error::invalid_request(format!(
        "the adapter changes `{name}`, which the base does not have: it is another model's adapter"
    ))
}

/// Merges the adapter in `folder` into a checkpoint. Returns the names of the weights that it changes.
pub(super) fn apply(checkpoint: &mut Checkpoint, folder: &Path) -> Result<Vec<String>> {
    let lora = Lora::open(folder)?;
    let mut parts = Parts::default();
    parts.add(lora.parts()?);
    let file = checkpoint.files.len();
    for (name, (tensor, _)) in &parts.weights {
        if checkpoint.norms_include_one && name.ends_with("norm.weight") {
            let why = "of the adapter was trained, but the base is a GGUF file, where the weights of norms are others: give \
                       the base's checkpoint";
            return Err(Error::unsupported(format!("`{name}` {why}")).context(&lora.label));
        }
        let place = checkpoint.tensors.get_mut(name).ok_or_else(|| homeless(name).context(&lora.label))?;
        *place = Tensor { file, ..tensor.clone() };
    }
    let changed = lora.merge(&parts, |name, delta| match checkpoint.tensors.get_mut(name) {
        Some(tensor) => give(tensor, delta),
        None => Err(homeless(name)),
    })?;
    checkpoint.files.extend(lora.weights.map(|(file, _)| file));
    Ok(changed)
}

/// Refuses an adapter that changes one of two things which `graph` has as one tensor.
pub(super) fn refuse_tied(graph: &GraphProto, changed: &[String]) -> Result<()> {
    let reads = |node: &&crate::onnx::NodeProto| node.input.iter().any(|input| input.starts_with(names::EMBEDDING));
    let is_tied = graph.node.iter().filter(reads).count() > 1;
    match changed.iter().find(|name| [names::EMBEDDING, names::HEAD].contains(&name.as_str())) {
        Some(name) if is_tied => Err(tied(name)),
        _ => Ok(()),
    }
}

fn tied(name: &str) -> Error {
    Error::unsupported(format!(
        "the adapter changes `{name}`, but the base has no head of its own: embedding and head are one tensor \
         (`tie_word_embeddings`), and merged, the adapter would change both. Train an adapter that leaves them alone, or untie \
         the model, save it, and use that"
    ))
}
