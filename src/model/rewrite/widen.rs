//! Graphs in float16 or bfloat16, made float32.
//!
//! ONNX Runtime multiplies no half-precision matrices on the CPU. So every half-precision weight, constant, input and
//! cast becomes float32 here. What lies in data files is only described; [`Widened::read`] brings it into memory when
//! the model is loaded, at twice the size that it has on disk.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use half::slice::HalfFloatSliceExt as _;
use half::{bf16, f16};

use super::graph::is_external;
use crate::onnx::build::external_tensor;
use crate::onnx::tensor_proto::DataType;
use crate::onnx::{GraphProto, NodeProto, TensorProto, ValueInfoProto, type_proto};
use crate::{Error, Result};

/// The name under which the widened values are given to ONNX Runtime, as if they were a file.
pub(crate) const LOCATION: &str = "foreturn.float32";

/// Half-precision weights in data files, in the order in which they lie in memory once widened.
#[derive(Debug, Default)]
pub(crate) struct Widened {
    parts: Vec<Part>,
    /// Bytes of all of them as float32.
    bytes: u64,
}

#[derive(Debug)]
struct Part {
    /// Name of the file in the model's folder of data.
    location: String,
    /// Where it begins in there, in bytes.
    offset: u64,
    elements: usize,
    kind: Half,
}

#[derive(Debug, Clone, Copy)]
enum Half {
    Float16,
    Bfloat16,
}

impl Half {
    fn of(kind: i32) -> Option<Self> {
        match DataType::try_from(kind) {
            Ok(DataType::Float16) => Some(Half::Float16),
            Ok(DataType::Bfloat16) => Some(Half::Bfloat16),
            _ => None,
        }
    }

    fn widen(self, bits: &[u16]) -> Vec<f32> {
        use half::slice::HalfBitsSliceExt as _;
        match self {
            Half::Float16 => bits.reinterpret_cast::<f16>().to_f32_vec(),
            Half::Bfloat16 => bits.reinterpret_cast::<bf16>().to_f32_vec(),
        }
    }
}

/// Makes every half-precision value of `graph` float32.
///
/// # Errors
/// A tensor whose values don't fit its shape, or that lies in a data file but in a graph inside the graph.
pub(crate) fn widen(graph: &mut GraphProto) -> Result<Widened, String> {
    let mut widened = Widened::default();
    for tensor in &mut graph.initializer {
        match Half::of(tensor.data_type()) {
            Some(kind) if is_external(tensor) => widened.add(tensor, kind)?,
            _ => widen_tensor(tensor)?,
        }
    }
    widen_types(graph);
    graph.node.iter_mut().try_for_each(widen_node)?;
    Ok(widened)
}

fn widen_types(graph: &mut GraphProto) {
    graph.value_info.clear();
    graph.input.iter_mut().chain(&mut graph.output).for_each(widen_type);
}

fn widen_type(value: &mut ValueInfoProto) {
    let tensor = value.r#type.as_mut().and_then(|kind| kind.value.as_mut());
    if let Some(type_proto::Value::TensorType(tensor)) = tensor
        && Half::of(tensor.elem_type()).is_some()
    {
        tensor.elem_type = Some(DataType::Float.into());
    }
}

fn widen_node(node: &mut NodeProto) -> Result<(), String> {
    let casts = node.op_type() == "Cast";
    for attribute in &mut node.attribute {
        if casts && attribute.name() == "to" && Half::of(attribute.i() as i32).is_some() {
            attribute.i = Some(DataType::Float as i64);
        }
        if let Some(tensor) = &mut attribute.t {
            widen_tensor(tensor)?;
        }
        for inner in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            inner.initializer.iter_mut().try_for_each(widen_tensor)?;
            widen_types(inner);
            inner.node.iter_mut().try_for_each(widen_node)?;
        }
    }
    Ok(())
}

/// Widens a tensor whose values stand in the graph.
fn widen_tensor(tensor: &mut TensorProto) -> Result<(), String> {
    let Some(kind) = Half::of(tensor.data_type()) else { return Ok(()) };
    let refuse = |why: &str| Err(format!("tensor `{}` of half-precision values: {why}", tensor.name()));
    if is_external(tensor) {
        return refuse("its values lie in a data file, but it belongs to a graph inside the graph");
    }
    let bits: Vec<u16> = match &tensor.raw_data {
        Some(raw) => raw.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect(),
        None => tensor.int32_data.iter().map(|&bits| bits as u16).collect(),
    };
    if elements(tensor) != Some(bits.len()) {
        return refuse(&format!("{} values for the shape {:?}", bits.len(), tensor.dims));
    }
    let raw: Vec<u8> = kind.widen(&bits).into_iter().flat_map(f32::to_le_bytes).collect();
    tensor.int32_data.clear();
    tensor.raw_data = Some(raw.into());
    tensor.data_type = Some(DataType::Float.into());
    Ok(())
}

fn elements(tensor: &TensorProto) -> Option<usize> {
    tensor.dims.iter().try_fold(1usize, |product, &dim| product.checked_mul(usize::try_from(dim).ok()?))
}

impl Widened {
    /// Whether nothing has to be read.
    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Bytes that the weights take as float32.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Plans to read `tensor` from its file, and points it to memory instead.
    fn add(&mut self, tensor: &mut TensorProto, kind: Half) -> Result<(), String> {
        let refuse = |why: String| format!("initializer `{}`: {why}", tensor.name());
        let entry = |key: &str| tensor.external_data.iter().find(|e| e.key() == key).map(|e| e.value().to_owned());
        let number = |key: &str| match entry(key) {
            None => Ok(None),
            Some(text) => text.parse::<u64>().map(Some).map_err(|_| refuse(format!("its `{key}` is `{text}`"))),
        };
        let location = entry("location").ok_or_else(|| refuse("external data without a location".into()))?;
        let elements = elements(tensor).ok_or_else(|| refuse(format!("shape {:?}", tensor.dims)))?;
        let bytes = (elements as u64).checked_mul(2).ok_or_else(|| refuse(format!("shape {:?}", tensor.dims)))?;
        if let Some(length) = number("length")?.filter(|&length| length != bytes) {
            return Err(refuse(format!("{length} bytes of external data for the shape {:?}", tensor.dims)));
        }
        self.parts.push(Part { location, offset: number("offset")?.unwrap_or(0), elements, kind });
        let dims: Vec<usize> = tensor.dims.iter().map(|&dim| dim as usize).collect();
        *tensor = external_tensor(tensor.name(), DataType::Float, &dims, LOCATION, self.bytes, 2 * bytes);
        self.bytes += 2 * bytes;
        Ok(())
    }

    /// Reads the weights from the files in `folder`, widened to float32.
    pub(crate) fn read(&self, folder: &Path) -> Result<Arc<[u8]>> {
        const CHUNK: usize = 1 << 20;
        let mut memory: Arc<[u8]> = std::iter::repeat_n(0, self.bytes as usize).collect();
        let mut rest = Arc::get_mut(&mut memory).expect("nobody else has it yet");
        let mut raw = vec![0; 2 * CHUNK];
        for part in &self.parts {
            let path = folder.join(&part.location);
            let file = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
            for first in (0..part.elements).step_by(CHUNK) {
                let raw = &mut raw[..2 * CHUNK.min(part.elements - first)];
                let at = part.offset + 2 * first as u64;
                file.read_exact_at(raw, at).map_err(|e| Error::io("read the weights of", &path, e))?;
                let bits: Vec<u16> = raw.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
                let (to, after) = rest.split_at_mut(2 * raw.len());
                for (to, value) in to.chunks_exact_mut(4).zip(part.kind.widen(&bits)) {
                    to.copy_from_slice(&value.to_le_bytes());
                }
                rest = after;
            }
        }
        Ok(memory)
    }
}
