//! Reads a Hugging Face folder: `config.json`, one or several `.safetensors`, tokenizer files.
//!
//! Links are followed everywhere, because the Hugging Face cache is a folder of links.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::checkpoint::{
    Checkpoint, Content, RowOrder, SpecialTokens, Tensor, TokenizerFile, WeightFile, is_sound_name,
    refuse_all_but_files,
};
use super::config::Config;
use super::encoder::sentence;
use super::format::{self, Format};
use super::names;
use crate::files::{self, Kind};
use crate::model::tokenizer::auto::Settled;
use crate::model::tokenizer::files::present;
use crate::{Error, Result, json, mistaken};

const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Reads the checkpoint in `folder`; weights stay mapped, not loaded.
pub(super) fn read(folder: &Path) -> Result<Checkpoint> {
    let config_path = folder.join("config.json");
    let config = Config::from_json(&config_path.display().to_string(), &read_file(&config_path)?)?;
    let (mut files, tensors) = read_weights(folder)?;
    let mut tensors = names::put_right(folder, &config, tensors)?;
    let sentence = sentence::read(folder, &mut files, &mut tensors)?;
    refuse_without_tokenizer(folder)?;
    let settled = Settled::read(folder)?;
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
        sentence,
    })
}

pub(super) fn read_file(path: &Path) -> Result<Vec<u8>> {
    let is_tokenizer = path.file_name().is_some_and(|name| name == "tokenizer.json");
    files::read(path, if is_tokenizer { Kind::TOKENIZER } else { Kind::CONFIG })
}

pub(super) fn parse<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T> {
    json::parse(&read_file(path)?).map_err(|error| {
        Error::invalid_model(format!("{} is not the JSON it should be: {error}", path.display())).with_source(error)
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
    let remedy = if folder.join("pytorch_model.bin").exists() || folder.join("pytorch_model.bin.index.json").exists() {
        "it holds pickled weights: load it with transformers and call save_pretrained, which writes safetensors"
    } else if has_gguf(folder) {
        "it holds a GGUF file: name that file instead of the folder"
    } else {
        "is the download complete?"
    };
    Err(Error::invalid_model(format!("{} holds neither {WEIGHTS} nor {INDEX}: {remedy}", folder.display())))
}

fn has_gguf(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.path().extension().is_some_and(|extension| extension == "gguf"))
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
            // A shard is a file of this very folder: `../x` in an index is an attack, not a layout.
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

/// Reads the header of the safetensors file `label`, whose bytes are `data`. Nothing in the header is trusted: the
/// ranges returned lie inside `data` and fit their shapes.
pub(crate) fn read_header(label: &str, data: &[u8], file: usize) -> Result<BTreeMap<String, Tensor>> {
    let (header, metadata) = SafeTensors::read_metadata(data).map_err(|error| {
        let what = match data.get(8..).is_some_and(|header| header.starts_with(b"\xef\xbb\xbf")) {
            true => Some("has a byte order mark before its header, which the format has no place for: save it again"),
            false => mistaken::recognise(data),
        };
        let complaint = || format!("is not a complete safetensors file ({error}): download or save it again");
        Error::invalid_model(format!("{label} {}", what.map_or_else(complaint, str::to_owned))).with_source(error)
    })?;
    let start = header + size_of::<u64>();
    refuse_duplicates(label, &data[size_of::<u64>()..start])?;
    let mut tensors = BTreeMap::new();
    for (name, info) in metadata.tensors() {
        if !is_sound_name(&name) {
            let shown: String = name.chars().take(80).collect();
            return Err(Error::invalid_model(format!("{label}: tensor {shown:?}: no model names one so")));
        }
        let (begin, end) = info.data_offsets;
        let Some(format) = format_of(info.dtype) else {
            if name.ends_with(".weight") || name.ends_with(".bias") {
                return Err(Error::unsupported(format!(
                    "{label}: tensor `{name}` is stored as {:?}; this version reads F32, F16 and BF16",
                    info.dtype
                )));
            }
            // Old checkpoints keep masks and counters as tensors.
            continue;
        };
        tensors.insert(
            name.clone(),
            Tensor {
                format,
                shape: info.shape.clone(),
                file,
                offset: start + begin,
                bytes: end - begin,
                origin: name,
                rows: RowOrder::Standard,
            },
        );
    }
    Ok(tensors)
}

/// Refuses a header that describes a tensor twice: readers would differ in which of the two they take.
fn refuse_duplicates(label: &str, header: &[u8]) -> Result<()> {
    struct Names;
    impl<'de> Visitor<'de> for Names {
        type Value = ();

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
            let mut seen = HashSet::new();
            while let Some((name, IgnoredAny)) = map.next_entry::<String, _>()? {
                if let Some(name) = seen.replace(name) {
                    return Err(A::Error::custom(format!("{name:?} is described twice")));
                }
            }
            Ok(())
        }
    }
    // Trailing spaces are padding.
    serde_json::Deserializer::from_slice(header).deserialize_map(Names).map_err(|error| {
        Error::invalid_model(format!("{label} is no sound safetensors file: {error}: save it again")).with_source(error)
    })
}

fn format_of(dtype: Dtype) -> Option<&'static Format> {
    match dtype {
        Dtype::F32 => Some(&format::F32),
        Dtype::F16 => Some(&format::F16),
        Dtype::BF16 => Some(&format::BF16),
        _ => None,
    }
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

/// The tokenizer's files. `tokenizer_config.json` is made anew where it would be read by other rules without the
/// `config.json` that stays behind.
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
    let text = read_file(&path)?;
    let config = Config::from_json(&path.display().to_string(), &text)?;
    Ok(Generation { config: Some(config), fields: parse(&path)? })
}

/// `generation_config.json` says what ends a text; `config.json` where that is silent. The tokenizer's end-of-sequence
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn safetensors(header: &str, data: usize) -> Vec<u8> {
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.resize(file.len() + data, 0);
        file
    }

    const HEADER: &str = r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]},"c":{"dtype":"I64","shape":[1],"data_offsets":[22,30]}}"#;

    #[test]
    fn ranges_count_from_the_start_of_the_file() {
        let tensors = read_header("x", &safetensors(HEADER, 30), 3).unwrap();
        assert_eq!(tensors.len(), 2, "the integer tensor is no weight");
        let b = &tensors["b"];
        assert_eq!((b.offset, b.bytes, b.file, b.format.name), (8 + HEADER.len() + 16, 6, 3, "BF16"));
    }

    #[test]
    fn damaged_headers_are_refused_by_name() {
        let whole = safetensors(HEADER, 30);
        let overlapping = HEADER.replace("[16,22]", "[15,21]");
        let duplicate = HEADER.replace("\"b\":", "\"a\":").replace("[22,30]", "[16,24]");
        let twice = r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#;
        let gap = HEADER.replace("[16,22]", "[17,23]").replace("[22,30]", "[23,31]");
        let beyond = HEADER.replace("[22,30]", "[22,4294967326]");
        let shape = HEADER.replace("\"shape\":[3]", "\"shape\":[4611686018427387904,4]");
        let name = HEADER.replace("\"b\"", "\"\\u001b[2J\"");
        for (damaged, data) in [
            (&*duplicate, 30),
            (twice, 16),
            (&*gap, 31),
            (&*beyond, 30),
            (&*shape, 30),
            (&*name, 30),
            ("[]", 0),
            ("", 0),
        ] {
            let error = read_header("shard.safetensors", &safetensors(damaged, data), 0).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::InvalidModel, "{damaged}: {error}");
            assert!(error.to_string().starts_with("shard.safetensors"), "{error}");
            assert!(!error.to_string().contains(char::is_control), "{error}");
        }
        let absurd = [u64::MAX.to_le_bytes().as_slice(), b"{}"].concat();
        for damaged in [&whole[..whole.len() - 1], &whole[..50], &[], &safetensors(&overlapping, 30), &absurd] {
            let error = read_header("shard.safetensors", damaged, 0).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::InvalidModel);
            assert!(error.to_string().starts_with("shard.safetensors is not a complete safetensors file"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn mutated_headers_never_panic(changes in prop::collection::vec((0usize..200, any::<u8>()), 1..6)) {
            let mut bytes = safetensors(HEADER, 30);
            for (at, value) in changes {
                let at = at % bytes.len();
                bytes[at] = value;
            }
            if let Ok(tensors) = read_header("x", &bytes, 0) {
                for tensor in tensors.values() {
                    prop_assert!(tensor.offset + tensor.bytes <= bytes.len());
                    tensor.write_float32(&bytes, &mut std::io::sink()).unwrap();
                }
            }
        }
    }
}
