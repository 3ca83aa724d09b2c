//! Turns a checkpoint into a model folder: ONNX in onnxruntime-genai's GroupQueryAttention layout, and a tokenizer.
//!
//! ```text
//! Hugging Face folder ─ hf ──┐              ┌─ arch ─▶ decoder ─▶ graph ─▶ model.onnx
//!                            ├▶ checkpoint ─┤─ weights ─▶ *.safetensors (copied; or widened, rounded or quantised)
//! GGUF file ────────── gguf ─┘              └─ genai ─▶ genai_config.json; tokenizer files
//! ```
//!
//! A checkpoint is not trusted. Sizes are checked against the bytes that are there. What this version does not know is
//! refused by name, and not exported as something similar.
//!
//! `adapter` merges a LoRA adapter into a checkpoint's tensors, or into those of a live model.
//!
//! A reader yields a checkpoint: hyper-parameters, and tensors under their Hugging Face names. `class` finds what it
//! is. For decoders, `arch` makes a description from which `graph` writes nodes, ending in a language model's head or
//! in the scores of `head`. `encoder` writes BERT, DeBERTa and ModernBERT from common blocks. `foreturn.json` says what
//! a model with a head gives. onnxruntime-genai runs the files of decoders too, which `make check-genai` tests. A
//! folder gets its name last, so an interrupted export leaves nothing that looks finished.

mod adapter;
mod arch;
mod checkpoint;
mod class;
mod config;
mod encoder;
mod folder;
mod format;
#[cfg(fuzzing)]
pub mod fuzz;
mod genai;
mod gguf;
mod given;
mod graph;
mod head;
mod hf;
mod names;
mod narrow;
mod quantize;
mod rope;
mod safetensors;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod weights;

use std::path::{Path, PathBuf};

use prost::Message;

pub use self::adapter::Adapter;
use self::checkpoint::{Checkpoint, Content};
use self::class::{Class, GRAPH};
use self::folder::Staging;
pub(crate) use self::given::{GivenWeights, Refreshed};
pub use self::given::{NamedTensor, TensorType};
pub use self::quantize::Quantize;
use self::quantize::Scheme;
use crate::model::head::Head;
use crate::onnx::{ModelProto, OperatorSetIdProto, nodes::MICROSOFT};
use crate::{Error, Result, files};

/// The source, the target and the form of an export.
///
/// ```
/// use foreturn::export::{ExportOptions, Quantize};
/// let options = ExportOptions { quantize: Quantize::None, ..ExportOptions::new("SmolLM2-135M", "models/smollm2") };
/// assert!(!options.overwrite);
/// ```
#[derive(Debug, Clone)]
pub struct ExportOptions {
    /// A Hugging Face folder (`config.json`, `.safetensors`, tokenizer files) or a `.gguf` file.
    pub from: PathBuf,
    /// The folder to make. Its parent is made if it is missing.
    pub to: PathBuf,
    /// The form in which weights are stored.
    pub quantize: Quantize,
    /// The type of matrices that are not quantised. Half precision takes half the space, and everything else of the model
    /// stays float32. Decoders on the CPU and the paged path compute products with matrices in bfloat16 in bfloat16, unless
    /// [`OpenOptions::dtype`](crate::model::OpenOptions::dtype) says otherwise.
    pub dtype: TensorType,
    /// The number of weights that share a scale if matrices are quantised: 32, 64, 128 or 256. More than 32 takes less
    /// space and loses more, and results no longer have the same bits in any batch (except 8 bits in blocks of 64).
    pub block: usize,
    /// Replaces an earlier export at `to`. Other folders are never replaced.
    pub overwrite: bool,
    /// Gives float32 `.safetensors` a second name in `to` instead of copying them, if the file system can. The export
    /// then takes no space and shares its file with the checkpoint. Saving the checkpoint in place then changes the
    /// export too, or ends a process that runs it.
    pub hard_link: bool,
    /// The folder of a LoRA adapter (`adapter_config.json`, `adapter_model.safetensors`) that is merged into the weights, in
    /// float32. The checkpoint stays as it is.
    pub adapter: Option<PathBuf>,
}

impl ExportOptions {
    /// Options for an export in float32 that overwrites nothing.
    pub fn new(from: impl Into<PathBuf>, to: impl Into<PathBuf>) -> Self {
        ExportOptions {
            from: from.into(),
            to: to.into(),
            quantize: Quantize::None,
            dtype: TensorType::Float32,
            block: Scheme::BLOCK,
            overwrite: false,
            hard_link: false,
            adapter: None,
        }
    }
}

/// The progress of an export, which is reported whenever something was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExportProgress {
    /// Bytes of weights written so far.
    pub done: u64,
    /// Bytes of weights to write in all. Hard-linked files do not count.
    pub total: u64,
}

/// The result of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExportReport {
    /// The checkpoint's class, such as `LlamaForCausalLM`.
    pub architecture: &'static str,
    /// Decoder layers.
    pub layers: usize,
    /// The number of weights. A tied embedding counts once.
    pub parameters: u64,
    /// Size of the folder, linked files included.
    pub bytes: u64,
    /// The files of the folder that hold weights.
    pub weights: Vec<WeightsFile>,
    /// The head, if the model gives something other than the next token.
    pub head: Option<Head>,
}

/// A file of weights in the exported folder.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WeightsFile {
    /// Its name in the folder.
    pub name: String,
    /// The way in which it came there.
    pub placement: Placement,
}

/// The way in which a file of weights came into the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// It is the checkpoint's own file under a second name and takes no further space.
    HardLinked,
    /// It is a copy of the checkpoint's file. If the file system can, both share their blocks until one is written to.
    Copied,
    /// It was widened to float32, rounded to half precision or quantised, and written.
    Written,
}

pub(crate) use crate::model::head::FILE as HEAD;
/// The version that ONNX Runtime 1.20 and later, and onnxruntime-genai, read.
const IR_VERSION: i64 = 10;
const OPSET: i64 = 21;

/// Exports a checkpoint.
///
/// The folder is made under a temporary name and renamed when it is complete.
///
/// # Errors
/// [`ErrorKind::InvalidRequest`](crate::ErrorKind::InvalidRequest) where `to` exists or `from` lies in it,
/// [`InvalidModel`](crate::ErrorKind::InvalidModel) where the checkpoint is damaged or contradicts itself,
/// [`Unsupported`](crate::ErrorKind::Unsupported) where this version can't export what it says, and
/// [`Io`](crate::ErrorKind::Io).
pub fn export(options: &ExportOptions, progress: &mut dyn FnMut(ExportProgress)) -> Result<ExportReport> {
    check_block(options)?;
    check_dtype(options)?;
    refuse_exporting_onto_the_source(options)?;
    let mut checkpoint = read(&options.from)?;
    let adapter = options.adapter.as_deref().map(|folder| adapter::apply(&mut checkpoint, folder)).transpose()?;
    let class = Class::of(&checkpoint)?;
    let scheme = Scheme::new(options, &checkpoint);
    let plan = class.plan(&checkpoint, scheme)?;
    adapter::refuse_tied(&plan.graph.proto, &adapter.unwrap_or_default())?;

    let staging = Staging::create(&options.to, options.overwrite)?;
    let place = weights::Place { folder: staging.path(), hard_link: options.hard_link };
    let stored = weights::store(&checkpoint, &plan.graph.weights, place, &mut |done, total| {
        progress(ExportProgress { done, total });
    })?;
    let mut proto = plan.graph.proto;
    proto.initializer.extend(stored.initialisers);
    let tables: Vec<_> = plan.ropes.iter().flat_map(|rope| rope.tables(plan.positions)).collect();
    proto.initializer.extend(weights::store_rotary(&tables, staging.path())?);
    staging.write(GRAPH, &model(proto).encode_to_vec())?;
    write_tokenizer(&checkpoint, &staging)?;
    for (name, content) in &plan.files {
        staging.write(name, content)?;
    }
    if let Some(head) = &plan.head {
        staging.write(HEAD, head.to_json().as_bytes())?;
    }

    let report = ExportReport {
        architecture: class.name(),
        layers: plan.layers,
        parameters: plan.graph.weights.iter().map(|weight| weight.tensor.elements() as u64).sum(),
        bytes: size_of_folder(staging.path())?,
        weights: stored.files,
        head: plan.head,
    };
    staging.finish()?;
    Ok(report)
}

fn check_block(options: &ExportOptions) -> Result<()> {
    let refuse = |why: &str| Err(Error::invalid_request(format!("block = {}: {why}", options.block)));
    match (options.quantize, options.block) {
        (_, Scheme::BLOCK) | (Quantize::Int8 | Quantize::Int4, 64 | 128 | 256) => Ok(()),
        (Quantize::None, _) => refuse("float32 weights have no blocks: leave it out, or ask for int8 or int4"),
        _ => refuse("blocks are of 32, 64, 128 or 256 weights"),
    }
}

fn check_dtype(options: &ExportOptions) -> Result<()> {
    if options.quantize == Quantize::None || options.dtype == TensorType::Float32 {
        return Ok(());
    }
    let dtype = options.dtype.precision().name();
    Err(Error::invalid_request(format!(
        "dtype = {dtype}: it is the type of matrices that are not quantised, but these are to be; leave out one of the two"
    )))
}

/// The error for what can't be opened. A name such as `Qwen/Qwen2.5-0.5B` is probably that of a model on the hub.
fn missing(from: &Path, error: std::io::Error) -> Error {
    let name = from.to_string_lossy();
    let parts: Vec<&str> = name.split('/').collect();
    let is_hub =
        matches!(&parts[..], [owner, name] if !owner.is_empty() && !owner.starts_with('.') && !name.is_empty());
    if error.kind() != std::io::ErrorKind::NotFound || !is_hub || from.parent().is_some_and(Path::exists) {
        return Error::io("read", from, error);
    }
    let message = format!(
        "{name} is neither a file nor a folder here. If it is a model of the Hugging Face Hub, fetch it first: \
         `hf download {name} --local-dir FOLDER`"
    );
    Error::new(crate::ErrorKind::Io, message).with_source(error)
}

/// Reads a checkpoint. A folder is one of Hugging Face, and a file is GGUF.
fn read(from: &Path) -> Result<Checkpoint> {
    let metadata = std::fs::metadata(from).map_err(|error| missing(from, error))?;
    if metadata.is_dir() {
        names::refuse_adapter(from)?;
        if !from.join("config.json").exists() {
            return Err(Error::invalid_model(format!(
                "{} has no config.json, so it is not a Hugging Face checkpoint: name the folder that holds config.json and \
                 the .safetensors files, or a .gguf file",
                from.display()
            )));
        }
        return hf::read(from);
    }
    match from.extension().and_then(|extension| extension.to_str()) {
        Some("safetensors" | "json" | "bin") => Err(Error::invalid_request(format!(
            "{} is one file of a checkpoint: name the folder it lies in",
            from.display()
        ))),
        _ => gguf::read(from),
    }
}

/// Refuses to overwrite the folder that is read, because that would destroy the checkpoint.
fn refuse_exporting_onto_the_source(options: &ExportOptions) -> Result<()> {
    let Ok(to) = options.to.canonicalize() else { return Ok(()) };
    let sources = [(Some(&options.from), "checkpoint"), (options.adapter.as_ref(), "adapter")];
    let inside = |path: &PathBuf| path.canonicalize().is_ok_and(|from| from.starts_with(&to));
    match sources.into_iter().find(|(path, _)| path.is_some_and(inside)) {
        None => Ok(()),
        Some((_, what)) => Err(Error::invalid_request(format!(
            "cannot export to {}: the {what} itself lies there; name another folder",
            options.to.display()
        ))),
    }
}

fn model(graph: crate::onnx::GraphProto) -> ModelProto {
    let opset = |domain: &str, version| OperatorSetIdProto { domain: Some(domain.to_owned()), version: Some(version) };
    ModelProto {
        ir_version: Some(IR_VERSION),
        producer_name: Some(env!("CARGO_PKG_NAME").to_owned()),
        producer_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        opset_import: vec![opset("", OPSET), opset(MICROSOFT, 1)],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

fn write_tokenizer(checkpoint: &Checkpoint, staging: &Staging) -> Result<()> {
    for file in &checkpoint.tokenizer {
        match &file.content {
            Content::Made(content) => staging.write(&file.name, content)?,
            Content::Copied(from) => {
                staging.write(&file.name, &files::read(from, files::Kind::TOKENIZER)?)?;
            }
        }
    }
    Ok(())
}

fn size_of_folder(folder: &Path) -> Result<u64> {
    let failed = |error| Error::io("read", folder, error);
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let metadata = entry.metadata().map_err(failed)?;
        bytes += if metadata.is_dir() { size_of_folder(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}
