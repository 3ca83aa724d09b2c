//! Writes `.safetensors` files.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::onnx::TensorProto;
use crate::onnx::nodes::external_tensor;
use crate::onnx::tensor_proto::DataType;
use crate::{Error, Result};

/// A tensor to be written.
pub(super) struct Entry {
    pub(super) name: String,
    /// Float32, float16, bfloat16 or uint8.
    pub(super) kind: DataType,
    pub(super) shape: Vec<usize>,
}

impl Entry {
    fn bytes(&self) -> u64 {
        let (_, size) = self.stored_as();
        size * self.shape.iter().product::<usize>() as u64
    }

    /// The format's name for its type, and the bytes of an element.
    fn stored_as(&self) -> (&'static str, u64) {
        match self.kind {
            DataType::Uint8 => ("U8", 1),
            DataType::Float16 => ("F16", 2),
            DataType::Bfloat16 => ("BF16", 2),
            _ => ("F32", 4),
        }
    }

    /// The initialiser that refers to the tensor at `offset` of `file`.
    pub(super) fn initialiser(&self, file: &str, offset: u64) -> TensorProto {
        external_tensor(&self.name, self.kind, &self.shape, file, offset, self.bytes())
    }
}

/// Writes values, little endian.
type WriteValues<'a> = dyn Fn(&mut dyn Write) -> io::Result<()> + 'a;

/// Refuses a value that must not be written.
type Check<'a> = dyn Fn() -> Result<()> + 'a;

/// Tensors that are made together and written one after the other.
pub(super) struct Part<'a> {
    pub(super) entries: Vec<Entry>,
    /// Called right before `write`, so that bytes that come from a disk are read from it once.
    pub(super) check: Box<Check<'a>>,
    pub(super) write: Box<WriteValues<'a>>,
}

impl Part<'_> {
    pub(super) fn bytes(&self) -> u64 {
        self.entries.iter().map(Entry::bytes).sum()
    }
}

/// Writes a file one part at a time, and says at which byte of the file each tensor begins. `progress` takes the bytes
/// written and the bytes to write in all.
pub(super) fn write(
    path: &Path,
    parts: &[Part<'_>],
    progress: &mut dyn FnMut(u64, u64),
) -> Result<BTreeMap<String, u64>> {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut offsets = BTreeMap::new();
    let mut total = 0;
    for entry in parts.iter().flat_map(|part| &part.entries) {
        let end = total + entry.bytes();
        let (dtype, _) = entry.stored_as();
        let value = json!({"dtype": dtype, "shape": entry.shape, "data_offsets": [total, end]});
        header.insert(entry.name.clone(), value);
        offsets.insert(entry.name.clone(), total);
        total = end;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    // The format aligns data to 8 bytes. Whole cache lines cost nothing more.
    let padded = (header.len() + size_of::<u64>()).next_multiple_of(64) - size_of::<u64>();
    header.resize(padded, b' ');
    let start = (header.len() + size_of::<u64>()) as u64;
    offsets.values_mut().for_each(|offset| *offset += start);

    let failed = |error| Error::io("write", path, error);
    let mut sink = BufWriter::with_capacity(1 << 20, File::create_new(path).map_err(failed)?);
    sink.write_all(&(header.len() as u64).to_le_bytes()).and_then(|()| sink.write_all(&header)).map_err(failed)?;
    let mut done = 0;
    for part in parts {
        (part.check)()?;
        (part.write)(&mut sink).map_err(failed)?;
        done += part.bytes();
        progress(done, total);
    }
    sink.flush().map_err(failed)?;
    Ok(offsets)
}
