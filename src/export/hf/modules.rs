//! Reads the files that sentence-transformers puts beside an encoder: `modules.json`, and those of the modules that it
//! lists.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::header::read_header;
use crate::export::checkpoint::{Module, Modules, Tensor, WeightFile};
use crate::export::config::{Config, parse};
use crate::model::tokenizer::auto::Settled;
use crate::{Error, Result};

const LIST: &str = "modules.json";
const WEIGHTS: &str = "model.safetensors";

/// An entry of `modules.json`.
#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    path: String,
    r#type: String,
}

/// Reads the modules of `folder`, if it lists any. Their weights join `files` and `tensors`.
pub(super) fn read(
    folder: &Path,
    settled: &Settled,
    files: &mut Vec<WeightFile>,
    tensors: &mut BTreeMap<String, Tensor>,
) -> Result<Option<Modules>> {
    let list = folder.join(LIST);
    if !list.exists() {
        return Ok(None);
    }
    let entries: Vec<Entry> = parse(&list)?;
    let list = list.display().to_string();
    let mut modules = Vec::new();
    for (at, Entry { path, r#type }) in entries.into_iter().enumerate() {
        let mut module = Module { kind: r#type, path, folder: folder.to_owned(), config: None, has_weights: false };
        // The first is the encoder, whose files lie beside the list.
        if at > 0 && !module.path.is_empty() {
            refuse_other_places(&list, &module.path)?;
            module.folder.push(&module.path);
            module.config = Config::read_if_present(&module.folder.join("config.json"))?;
            module.has_weights = read_weights(&module, files, tensors)?;
        }
        modules.push(module);
    }
    Ok(Some(Modules {
        list,
        modules,
        texts: Config::read_if_present(&folder.join("config_sentence_transformers.json"))?,
        encoder: Config::read_if_present(&folder.join("sentence_bert_config.json"))?,
        lowers: lowers(&settled.tokenizer),
    }))
}

/// The folder of a module has to lie in the checkpoint's own.
fn refuse_other_places(list: &str, module: &str) -> Result<()> {
    if Path::new(module).file_name().is_some_and(|name| name == module) {
        return Ok(());
    }
    Err(Error::invalid_model(format!("{list}: `path` is {module:?}, which is not a folder's name")))
}

/// Reads the weights of a module under the name of its folder, because modules share one space of names in the exported
/// folder. Returns whether it has any.
fn read_weights(module: &Module, files: &mut Vec<WeightFile>, tensors: &mut BTreeMap<String, Tensor>) -> Result<bool> {
    let weights = module.folder.join(WEIGHTS);
    if !weights.exists() {
        return Ok(false);
    }
    let mut file = WeightFile::open(&weights)?;
    // The exported folder has the encoder's model.safetensors already.
    file.name = format!("{}.safetensors", module.path);
    for (tensor, place) in read_header(&weights.display().to_string(), &file.data, files.len())? {
        tensors.insert(format!("{}.{tensor}", module.path), place);
    }
    files.push(file);
    Ok(true)
}

/// Returns whether a tokenizer turns text into lower case.
fn lowers(tokenizer: &Map<String, Value>) -> bool {
    let normalizer = tokenizer.get("normalizer").unwrap_or(&Value::Null);
    let steps = normalizer["normalizers"].as_array().map_or(std::slice::from_ref(normalizer), Vec::as_slice);
    steps.iter().any(|step| step["type"] == "Lowercase" || step["lowercase"] == true)
}
