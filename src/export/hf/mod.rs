//! Reads a Hugging Face folder: `config.json`, one or several `.safetensors`, tokenizer files.
//!
//! Links are followed everywhere, because the Hugging Face cache is a folder of links.
//!
//! - `header`: the tensors of one file. `modules`: the files that sentence-transformers puts beside an encoder.

mod header;
mod modules;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

pub(super) use self::header::read_header;
use super::checkpoint::{Checkpoint, Content, SpecialTokens, Tensor, TokenizerFile, WeightFile, refuse_all_but_files};
use super::config::{Config, parse};
use super::names;
use crate::model::tokenizer::auto::Settled;
use crate::model::tokenizer::files::present;
use crate::{Error, Result};

const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Reads the checkpoint in `folder`; weights stay mapped, not loaded.
pub(super) fn read(folder: &Path) -> Result<Checkpoint> {
    let config = Config::read(&folder.join("config.json"))?;
    let (mut files, tensors) = read_weights(folder)?;
    let mut tensors = names::put_right(folder, &config, tensors)?;
    refuse_without_tokenizer(folder)?;
    let settled = Settled::read(folder)?;
    let modules = modules::read(folder, &settled, &mut files, &mut tensors)?;
    let generation = read_generation(folder)?;
    let tokenizer = tokenizer_files(folder, &settled, &generation)?;
    let special = special_tokens(&settled, &config, &generation)?;
    Ok(Checkpoint {
        config,
        files,
        tensors,
        rope_factors: None,
        norms_include_one: false,
        tokenizer,
        special,
        generation: generation.fields,
        modules,
    })
}

type Weights = (Vec<WeightFile>, BTreeMap<String, Tensor>);

fn read_weights(folder: &Path) -> Result<Weights> {
    if folder.join(WEIGHTS).exists() {
        let file = WeightFile::open(&folder.join(WEIGHTS))?;
        let tensors = read_header(&folder.join(WEIGHTS).display().to_string(), &file.data, 0)?;
        return Ok((vec![file], tensors));
    }
    if folder.join(INDEX).exists() {
        return read_shards(folder);
    }
    let found = other_weights(folder).unwrap_or_else(|| "is the download complete?".to_owned());
    Err(Error::invalid_model(format!("{} holds neither {WEIGHTS} nor {INDEX}: {found}", folder.display())))
}

/// What weights a folder holds instead, with the remedy.
fn other_weights(folder: &Path) -> Option<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    let find = |fits: &dyn Fn(&str) -> bool| names.iter().find(|name| fits(name));
    let saves = "load it with transformers and call save_pretrained, which writes safetensors";
    if find(&|name| name.starts_with("pytorch_model") && name.contains(".bin")).is_some() {
        return Some(format!("it holds pickled weights: {saves}"));
    }
    if let Some(name) = find(&|name| name.starts_with("consolidated") || name.ends_with(".pth")) {
        return Some(format!(
            "{name} has the names of the model's makers (Meta's or Mistral's own format): fetch the files that transformers \
             reads, or convert it with transformers' convert_*_weights_to_hf.py"
        ));
    }
    if let Some(name) = find(&|name| name.contains("-of-") && name.ends_with(".safetensors")) {
        return Some(format!("{name} is one of several files, and {INDEX} says what is in which: fetch that as well"));
    }
    if let Some(name) = find(&|name| name.ends_with(".safetensors")) {
        return Some(format!("if {name} has the model's weights, call it {WEIGHTS}"));
    }
    if find(&|name| name.ends_with(".gguf")).is_some() {
        return Some("it holds a GGUF file: name that file instead of the folder".to_owned());
    }
    let name = find(&|name| name.ends_with(".h5") || name.ends_with(".msgpack"))?;
    Some(format!("{name} has the weights for TensorFlow or JAX: {saves}"))
}

/// The part of the index that says which shard holds which tensor.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

pub(super) fn read_shards(folder: &Path) -> Result<Weights> {
    let index_path = folder.join(INDEX);
    let index: Index = parse(&index_path)?;
    let mut files = Vec::new();
    let mut shards: BTreeMap<&str, BTreeMap<String, Tensor>> = BTreeMap::new();
    let mut tensors = BTreeMap::new();
    for (name, shard) in &index.weight_map {
        if !shards.contains_key(shard.as_str()) {
            // A shard is a file of this folder. `../x` in an index is an attack, not a layout.
            if Path::new(shard).file_name().is_none_or(|file| file != shard.as_str()) {
                return Err(Error::invalid_model(format!(
                    "{}: `weight_map` puts `{name}` into {shard:?}, which is not a file name",
                    index_path.display()
                )));
            }
            let path = folder.join(shard);
            let file = WeightFile::open(&path)?;
            shards.insert(shard, read_header(&path.display().to_string(), &file.data, files.len())?);
            files.push(file);
        }
        let tensor = shards.get_mut(shard.as_str()).and_then(|tensors| tensors.remove(name)).ok_or_else(|| {
            Error::invalid_model(format!(
                "{}: `weight_map` puts `{name}` into {shard}, which lacks it",
                index_path.display()
            ))
        })?;
        tensors.insert(name.clone(), tensor);
    }
    Ok((files, tensors))
}

fn refuse_without_tokenizer(folder: &Path) -> Result<()> {
    if !folder.join("tokenizer.json").exists() {
        let remedy = if ["tokenizer.model", "vocab.json", "vocab.txt"].iter().any(|name| folder.join(name).exists()) {
            "convert the older files with `AutoTokenizer.from_pretrained(folder).save_pretrained(folder)`"
        } else {
            "copy the tokenizer files of the model it was trained from"
        };
        return Err(Error::invalid_model(format!("{} holds no tokenizer.json: {remedy}", folder.display())));
    }
    Ok(())
}

/// The tokenizer's files. `tokenizer_config.json` is made anew if it would be read by other rules without
/// `config.json`, which is not copied.
fn tokenizer_files(folder: &Path, settled: &Settled, generation: &Generation) -> Result<Vec<TokenizerFile>> {
    let mut files = Vec::new();
    for name in present(folder)? {
        let path = folder.join(&name);
        refuse_all_but_files(&path)?;
        files.push(TokenizerFile { name, content: Content::Copied(path) });
    }
    if let Some(config) = settled.config_for_copy(&generation.fields) {
        files.retain(|file| file.name != TOKENIZER_CONFIG);
        let content = Content::Made(Value::Object(config).to_string().into_bytes());
        files.push(TokenizerFile { name: TOKENIZER_CONFIG.to_owned(), content });
    }
    Ok(files)
}

/// `generation_config.json`, as a config for messages and as plain fields.
struct Generation {
    config: Option<Config>,
    fields: Map<String, Value>,
}

fn read_generation(folder: &Path) -> Result<Generation> {
    let path = folder.join("generation_config.json");
    if !path.exists() {
        return Ok(Generation { config: None, fields: Map::new() });
    }
    Ok(Generation { config: Some(Config::read(&path)?), fields: parse(&path)? })
}

/// `generation_config.json` says what ends a text, otherwise `config.json`. The tokenizer's end-of-sequence
/// token joins them, because chat models often name their end of turn only there.
fn special_tokens(tokenizer: &Settled, config: &Config, generation: &Generation) -> Result<SpecialTokens> {
    let ids = |field: &str| -> Result<Vec<u64>> {
        let said = generation.config.as_ref().map_or(Ok(Vec::new()), |generation| generation.token_ids(field))?;
        if said.is_empty() { config.token_ids(field) } else { Ok(said) }
    };
    // A token that a class names, and that the vocabulary lacks, has no row in the model.
    let rows = config.size_or("vocab_size", usize::MAX)? as u64;
    let mut eos = ids("eos_token_id")?;
    if let Some(id) = tokenizer.end().filter(|id| *id < rows)
        && !eos.contains(&id)
    {
        eos.insert(0, id);
    }
    let first = |ids: Vec<u64>| ids.first().copied();
    Ok(SpecialTokens {
        bos: first(ids("bos_token_id")?).or_else(|| tokenizer.named_id("bos_token").filter(|id| *id < rows)),
        eos,
        pad: first(ids("pad_token_id")?).or_else(|| tokenizer.named_id("pad_token").filter(|id| *id < rows)),
    })
}
