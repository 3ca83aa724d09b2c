//! Reads a GGUF file as if it were a Hugging Face checkpoint: metadata under the names of `config.json`, tensors under
//! the names of transformers, rows in transformers' order.

mod metadata;
mod parse;
#[cfg(test)]
mod tests;
mod tokenizer;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value as Json};

use self::parse::{Gguf, TensorInfo, Value};
use super::arch::{self, Architecture, GgufNames};
use super::checkpoint::{Checkpoint, RowOrder, Tensor, WeightFile};
use super::config::Config;
use crate::finite::REMEDY;
use crate::{Error, Result};

/// Reads the checkpoint in the file at `path`; weights stay mapped, not loaded.
pub(super) fn read(path: &Path) -> Result<Checkpoint> {
    let file = WeightFile::open(path)?;
    let mut checkpoint = interpret(&path.display().to_string(), &file.data)?;
    checkpoint.files.push(file);
    Ok(checkpoint)
}

/// Reads the file `label`, whose bytes are `data`, into a checkpoint whose one file is still to be added.
pub(super) fn interpret(label: &str, data: &[u8]) -> Result<Checkpoint> {
    let gguf = parse::parse(label, data)?;
    refuse_parts(label, &gguf)?;
    let (architecture, names) = find_architecture(label, &gguf)?;
    let source = Source { label, gguf: &gguf, names, data };

    let config = metadata::config(&source, architecture.name)?;
    let mut tensors = source.tensors(&config)?;
    for name in metadata::tensors_read(&source) {
        tensors.remove(*name);
    }
    Ok(Checkpoint {
        config,
        tensors,
        rope_factors: source.numbers(metadata::ROPE_FACTORS)?,
        norms_include_one: metadata::norms_include_one(&source),
        tokenizer: tokenizer::files(&source)?,
        special: tokenizer::special_tokens(&source)?,
        generation: Map::new(),
        modules: None,
        files: Vec::new(),
    })
}

/// Refuses files that are not a whole model.
fn refuse_parts(label: &str, gguf: &Gguf<'_>) -> Result<()> {
    let number = |key: &str| gguf.metadata.get(key).and_then(|value| value.unsigned());
    if let Some(count) = number("split.count").filter(|count| *count > 1) {
        let part = number("split.no").map_or_else(|| "one".to_owned(), |part| part.saturating_add(1).to_string());
        return Err(Error::unsupported(format!(
            "{label} is part {part} of a model in {count} files (`split.count`): merge them with `llama-gguf-split --merge \
             FIRST-PART MERGED.gguf`, and export that"
        )));
    }
    match gguf.metadata.get("general.type").and_then(|value| value.text()) {
        Some("adapter") => Err(Error::unsupported(format!(
            "{label} is an adapter (`general.type`), not a whole model: merge it into its base with `llama-export-lora`"
        ))),
        Some("mmproj") => Err(Error::unsupported(format!(
            "{label} is what lets a model see or hear (`general.type` is mmproj): export the language model beside it"
        ))),
        _ => Ok(()),
    }
}

fn find_architecture(label: &str, gguf: &Gguf<'_>) -> Result<(&'static Architecture, &'static GgufNames)> {
    let key = "general.architecture";
    let name = gguf.metadata.get(key).and_then(|value| value.text()).ok_or_else(|| {
        Error::invalid_model(format!("{label}: `{key}` is missing: without it the file can't be understood"))
    })?;
    arch::by_gguf_name(name).ok_or_else(|| {
        Error::unsupported(format!(
            "{label}: `{key}` is `{}`: this version exports {}",
            name.escape_debug(),
            arch::gguf_names().join(", ")
        ))
    })
}

/// A parsed file and the vocabulary of its architecture.
struct Source<'a> {
    label: &'a str,
    gguf: &'a Gguf<'a>,
    names: &'static GgufNames,
    /// The whole file.
    data: &'a [u8],
}

impl<'a> Source<'a> {
    fn get(&self, key: &str) -> Option<Value<'a>> {
        self.gguf.metadata.get(key).copied()
    }

    /// The architecture's own metadata `suffix`.
    fn own(&self, suffix: &str) -> (String, Option<Value<'a>>) {
        let key = format!("{}.{suffix}", self.names.architecture);
        let value = self.get(&key);
        (key, value)
    }

    fn wrong(&self, key: &str, complaint: &str) -> Error {
        Error::invalid_model(format!("{}: `{key}`: {complaint}", self.label))
    }

    /// The numbers of a small tensor that is really metadata.
    fn numbers(&self, name: &str) -> Result<Option<Vec<f32>>> {
        let Some(tensor) = self.gguf.tensors.iter().find(|tensor| tensor.name == name) else { return Ok(None) };
        let mut values = vec![0.0; tensor.shape.iter().product()];
        (tensor.format.widen)(&self.data[tensor.offset..tensor.offset + tensor.bytes], &mut values);
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(Some(values)),
            Some(index) => {
                let complaint = format!("value {index} is {}, not a finite number. {REMEDY}", values[index]);
                Err(self.wrong(name, &complaint))
            }
        }
    }

    fn tensors(&self, config: &Config) -> Result<BTreeMap<String, Tensor>> {
        let heads = config.size("num_attention_heads")?;
        let kv_heads = config.size_or("num_key_value_heads", heads)?;
        let mut tensors = BTreeMap::new();
        for info in &self.gguf.tensors {
            let rows = match info.name.rsplit_once('.').map(|(name, _)| name) {
                Some(name) if self.names.interleaved && name.ends_with(".attn_q") => self.interleaved(info, heads)?,
                Some(name) if self.names.interleaved && name.ends_with(".attn_k") => {
                    self.interleaved(info, kv_heads)?
                }
                _ => RowOrder::Standard,
            };
            let tensor = Tensor {
                format: info.format,
                shape: info.shape.clone(),
                file: 0,
                offset: info.offset,
                bytes: info.bytes,
                origin: info.name.to_owned(),
                rows,
                delta: None,
            };
            tensors.insert(self.standard_name(info.name), tensor);
        }
        Ok(tensors)
    }

    fn interleaved(&self, info: &TensorInfo<'_>, heads: usize) -> Result<RowOrder> {
        let rows = info.shape[0];
        let head_size = rows / heads;
        // Rows are moved whole, so no row may share a block with the next. A bias in blocks would.
        let rows_are_whole =
            info.bytes.is_multiple_of(rows) && (info.shape.len() > 1 || info.format.block_elements == 1);
        if !rows.is_multiple_of(heads) || !head_size.is_multiple_of(2) || head_size == 0 || !rows_are_whole {
            return Err(Error::invalid_model(format!(
                "{}: tensor `{}` has {rows} rows of {}, which {heads} heads of even size can't share",
                self.label, info.name, info.format.name
            )));
        }
        Ok(RowOrder::InterleavedHeads { head_size })
    }

    /// The name that transformers gives a tensor. Without one, it is the file's own name, by which it is then refused.
    fn standard_name(&self, name: &str) -> String {
        let Some((stem, kind)) = name.rsplit_once('.') else { return name.to_owned() };
        let lookup = |stem: &str| self.names.tensors.iter().find(|(ours, _)| *ours == stem).map(|(_, theirs)| *theirs);
        if let Some((layer, inner)) = stem.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
            let number_is_plain = layer.parse::<usize>().is_ok_and(|number| number.to_string() == layer);
            if let (true, Some(theirs)) = (number_is_plain, lookup(inner)) {
                return format!("model.layers.{layer}.{theirs}.{kind}");
            }
        } else if let Some(theirs) = lookup(stem) {
            return format!("{theirs}.{kind}");
        }
        name.to_owned()
    }

    fn token_id(&self, name: &str) -> Result<Option<u64>> {
        let key = format!("tokenizer.ggml.{name}");
        self.get(&key).map(|value| value.unsigned().ok_or_else(|| self.wrong(&key, "expected a token id"))).transpose()
    }
}

/// A value as JSON, for fields and messages. Long arrays lose their ends: no field read here is a list.
fn json(value: Value<'_>) -> Json {
    match value {
        Value::Unsigned(number) => number.into(),
        Value::Signed(number) => number.into(),
        // JSON has no such numbers. As texts they are refused where a number is expected.
        Value::Float(number) if !number.is_finite() => number.to_string().into(),
        Value::Float(number) => number.into(),
        Value::Bool(flag) => flag.into(),
        Value::Text(text) => text.into(),
        Value::Array(array) => Json::Array(array.iter().take(8).map(json).collect()),
    }
}
