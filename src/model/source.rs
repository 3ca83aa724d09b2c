//! The places that a model's weights are read from while it is loaded: the files beside its graph, or memory.

use std::borrow::Cow;
use std::collections::HashMap;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use prost::Message as _;

use super::graph::GraphFile;
use super::rewrite::{PagedGraph, precision};
use super::target::Cache;
use super::tensor::{entry, is_external};
use super::weights;
use crate::finite::Refused;
use crate::onnx::nodes::external_tensor;
use crate::onnx::tensor_proto::DataType;
use crate::onnx::{GraphProto, ModelProto, TensorProto};
use crate::runtime::memory::zeroed;
use crate::runtime::session::{InMemory, Values};
use crate::{Error, Result, files};

/// The name under which ONNX Runtime gets values that are in memory, as if they were a file.
const LOCATION: &str = "foreturn.weights";
/// Where tensors begin in memory: at multiples of this.
const ALIGNMENT: usize = 64;

/// Gives the values of a graph's weights.
pub(crate) trait Source: Sync {
    /// The bytes of tensors that belong together: a matrix, or its quants, scales and zero points.
    ///
    /// # Errors
    /// They can't be had, or are not finite.
    fn read(&self, tensors: &[TensorProto]) -> Result<Vec<Cow<'_, [u8]>>>;
}

/// The files in a folder, and what is in the graph itself.
pub(crate) struct Files<'a>(pub(crate) &'a Path);

impl Source for Files<'_> {
    fn read(&self, tensors: &[TensorProto]) -> Result<Vec<Cow<'_, [u8]>>> {
        let read = |path: &Path, bytes: &mut [u8], offset| {
            let read = files::open(path).and_then(|(file, _)| file.read_exact_at(bytes, offset));
            read.map_err(|e| Error::io("read the weights of", path, e))
        };
        tensors.iter().map(|tensor| bytes(tensor, self.0, &read).map(Cow::Owned)).collect()
    }
}

/// The files that a graph had when it was read. Others may have their names by now.
pub(crate) struct Kept<'a>(pub(crate) &'a GraphFile);

impl Source for Kept<'_> {
    fn read(&self, tensors: &[TensorProto]) -> Result<Vec<Cow<'_, [u8]>>> {
        let read = |path: &Path, bytes: &mut [u8], offset| self.0.read_data(path, bytes, offset);
        tensors.iter().map(|tensor| bytes(tensor, &self.0.data_folder, &read).map(Cow::Owned)).collect()
    }
}

/// Fills bytes from a place in a file.
type Read<'a> = &'a dyn Fn(&Path, &mut [u8], u64) -> Result<()>;

/// A tensor's bytes.
fn bytes(tensor: &TensorProto, folder: &Path, read: Read<'_>) -> Result<Vec<u8>> {
    if let Some(raw) = &tensor.raw_data {
        weights::check(tensor, raw, Refused::NonFinite)?;
        return Ok(raw.to_vec());
    }
    let number = |key: &str| entry(tensor, key).and_then(|text| text.parse::<u64>().ok());
    let path = folder.join(entry(tensor, "location").unwrap_or_default());
    let length = number("length").map_or_else(|| super::tensor::bytes(tensor), Ok);
    let length = length.map_err(|why| Error::invalid_model(format!("{}: {why}", path.display())))?;
    let mut bytes = vec![0; length as usize];
    read(&path, &mut bytes, number("offset").unwrap_or(0))?;
    weights::check(tensor, &bytes, Refused::NonFinite).map_err(|error| error.context(path.display()))?;
    Ok(bytes)
}

/// `paged`'s graph with all of its weights in memory: ONNX Runtime takes either all of them from there or none. They are
/// those of `original`, the graph that it was made of.
pub(crate) fn in_memory(paged: &PagedGraph, original: &GraphProto, source: &dyn Source) -> Result<(Vec<u8>, InMemory)> {
    let unreadable = |e| Error::internal(format!("a rewritten graph can't be read: {e}"));
    let mut model = ModelProto::decode(&*paged.bytes).map_err(unreadable)?;
    let originals: HashMap<&str, &TensorProto> = match paged.cache {
        Cache::Host(_) => HashMap::new(),
        // Its weights have another type, and the source knows those of the original.
        Cache::Device(_) => original.initializer.iter().map(|tensor| (tensor.name(), tensor)).collect(),
    };
    let tensors = model.graph.iter_mut().flat_map(|graph| &mut graph.initializer);
    let (mut values, mut end) = (Vec::new(), 0);
    for tensor in tensors.filter(|tensor| is_external(tensor)) {
        let known = originals.get(tensor.name()).map_or(&*tensor, |original| original);
        let value = source.read(std::slice::from_ref(known))?;
        let Some(value) = value.into_iter().next() else { return Err(Error::internal("a weight without values")) };
        let value = precision::bytes(value, known, tensor).map_err(Error::unsupported)?;
        let dims: Vec<usize> = tensor.dims.iter().map(|&dim| dim as usize).collect();
        let kind = DataType::try_from(tensor.data_type()).unwrap_or_default();
        *tensor = external_tensor(tensor.name(), kind, &dims, LOCATION, end as u64, value.len() as u64);
        let start = end;
        end = (end + value.len()).next_multiple_of(ALIGNMENT);
        values.push((start, value));
    }
    let mut memory = zeroed(end);
    // Nobody else has it yet.
    for (start, value) in values {
        if let Some(memory) = Arc::get_mut(&mut memory) {
            memory[start..start + value.len()].copy_from_slice(&value);
        }
    }
    Ok((model.encode_to_vec(), (LOCATION, Arc::new(Values(memory)))))
}
