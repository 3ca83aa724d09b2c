//! Puts weights into the exported folder: float32 `.safetensors` are linked as they are, everything else is widened to
//! float32 and written.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::checkpoint::{Checkpoint, Tensor, WeightFile};
use super::rope::Table;
use super::{Placement, WeightsFile};
use crate::onnx::TensorProto;
use crate::onnx::build::external_tensor;
use crate::onnx::tensor_proto::DataType;
use crate::{Error, Result};

/// The file of the rotary tables. They are no weights, so that a weights file can be replaced without them.
const ROTARY: &str = "rotary.safetensors";

/// Initialisers that refer to files of the folder, and those files.
#[derive(Default)]
pub(super) struct Stored {
    pub(super) initialisers: Vec<TensorProto>,
    pub(super) files: Vec<WeightsFile>,
}

/// Stores `weights` in `folder`; `progress` takes the bytes written and the bytes to write in all.
pub(super) fn store(
    checkpoint: &Checkpoint,
    weights: &[(String, &Tensor)],
    folder: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Stored> {
    let files = &checkpoint.files;
    let linked: Vec<bool> = (0..files.len())
        .map(|file| {
            let mut used = weights.iter().filter(|(_, tensor)| tensor.file == file).peekable();
            files[file].name.ends_with(".safetensors")
                && used.peek().is_some()
                && used.all(|(_, tensor)| tensor.is_plain_float32())
        })
        .collect();
    let mut stored = Stored::default();
    for (file, _) in files.iter().zip(&linked).filter(|(_, linked)| **linked) {
        stored.files.push(WeightsFile { name: file.name.clone(), placement: link(file, folder)? });
    }
    let is_taken = |name: &str| stored.files.iter().any(|file| file.name == name);
    let name = ["model.safetensors", "converted.safetensors"].into_iter().find(|name| !is_taken(name));
    let name = name.unwrap_or("model-converted.safetensors");

    let written: Vec<Float32<'_>> = weights
        .iter()
        .filter(|(_, tensor)| !linked[tensor.file])
        .map(|(name, tensor)| Float32 {
            name,
            shape: tensor.shape.clone(),
            write: Box::new(|sink| tensor.write_float32(&files[tensor.file].data, sink)),
        })
        .collect();
    let mut offsets = BTreeMap::new();
    if !written.is_empty() {
        offsets = write_safetensors(&folder.join(name), &written, progress)?;
        stored.files.push(WeightsFile { name: name.to_owned(), placement: Placement::Written });
    }
    for (weight, tensor) in weights {
        let (file, offset) = match offsets.get(weight.as_str()) {
            Some(&offset) => (name, offset),
            None => (files[tensor.file].name.as_str(), tensor.offset as u64),
        };
        let length = 4 * tensor.elements() as u64;
        stored.initialisers.push(external_tensor(weight, DataType::Float, &tensor.shape, file, offset, length));
    }
    Ok(stored)
}

/// Writes the rotary `tables`; gives their initialisers.
pub(super) fn store_rotary(tables: &[Table<'_>], folder: &Path) -> Result<Vec<TensorProto>> {
    if tables.is_empty() {
        return Ok(vec![]);
    }
    type Function = fn(f64) -> f64;
    let functions: [Function; 2] = [f64::cos, f64::sin];
    let written: Vec<Float32<'_>> = tables
        .iter()
        .flat_map(|table| [&table.cos, &table.sin].into_iter().zip(functions).map(move |named| (table, named)))
        .map(|(table, (name, function))| Float32 {
            name,
            shape: vec![table.positions, table.width()],
            write: Box::new(move |sink| table.write(function, sink)),
        })
        .collect();
    let offsets = write_safetensors(&folder.join(ROTARY), &written, &mut |_, _| {})?;
    let initialiser = |table: &Float32<'_>| {
        external_tensor(table.name, DataType::Float, &table.shape, ROTARY, offsets[table.name], table.bytes())
    };
    Ok(written.iter().map(initialiser).collect())
}

/// A hard link where the file system can, so that nothing is stored twice; else a copy.
fn link(file: &WeightFile, folder: &Path) -> Result<Placement> {
    let target = folder.join(&file.name);
    if fs::hard_link(&file.path, &target).is_ok() {
        return Ok(Placement::HardLinked);
    }
    fs::copy(&file.path, &target).map_err(|error| Error::io("copy weights to", &target, error))?;
    Ok(Placement::Copied)
}

/// Writes the values of one tensor, little endian.
type WriteValues<'a> = dyn Fn(&mut dyn Write) -> io::Result<()> + 'a;

/// A float32 tensor to be written.
struct Float32<'a> {
    name: &'a str,
    shape: Vec<usize>,
    write: Box<WriteValues<'a>>,
}

impl Float32<'_> {
    fn bytes(&self) -> u64 {
        4 * self.shape.iter().product::<usize>() as u64
    }
}

/// Writes a `.safetensors` file one tensor at a time, and says at which byte of the file each begins.
fn write_safetensors<'a>(
    path: &Path,
    tensors: &[Float32<'a>],
    progress: &mut dyn FnMut(u64, u64),
) -> Result<BTreeMap<&'a str, u64>> {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut end = 0;
    for tensor in tensors {
        let begin = end;
        end += tensor.bytes();
        let entry = json!({"dtype": "F32", "shape": tensor.shape, "data_offsets": [begin, end]});
        header.insert(tensor.name.to_owned(), entry);
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    // The format aligns data to 8 bytes; whole cache lines cost nothing more.
    let padded = (header.len() + size_of::<u64>()).next_multiple_of(64) - size_of::<u64>();
    header.resize(padded, b' ');

    let failed = |error| Error::io("write", path, error);
    let mut sink = BufWriter::with_capacity(1 << 20, File::create_new(path).map_err(failed)?);
    sink.write_all(&(header.len() as u64).to_le_bytes()).and_then(|()| sink.write_all(&header)).map_err(failed)?;
    let start = (header.len() + size_of::<u64>()) as u64;
    let mut done = 0;
    let mut offsets = BTreeMap::new();
    for tensor in tensors {
        (tensor.write)(&mut sink).map_err(failed)?;
        offsets.insert(tensor.name, start + done);
        done += tensor.bytes();
        progress(done, end);
    }
    sink.flush().map_err(failed)?;
    Ok(offsets)
}
