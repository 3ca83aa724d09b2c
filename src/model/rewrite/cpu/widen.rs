//! Conversion of graphs in float16 or bfloat16 to float32.
//!
//! ONNX Runtime can't multiply half-precision matrices on the CPU. So every half-precision weight, constant, input and
//! cast becomes float32 here. Tensors in data files are only described; [`Widened::read`] reads them into memory while
//! the model is loaded, at twice their size on disk. ONNX Runtime then takes either all data from memory or none, so
//! the other tensors of the data files are read too, unchanged.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use half::slice::HalfFloatSliceExt as _;
use half::{bf16, f16};

use crate::model::tensor::{self, is_external};
use crate::onnx::nodes::external_tensor;
use crate::onnx::tensor_proto::DataType;
use crate::onnx::{GraphProto, NodeProto, TensorProto, ValueInfoProto, type_proto};
use crate::{Error, Result, files};

/// The name under which ONNX Runtime gets the widened values, as if they were a file.
pub(crate) const LOCATION: &str = "foreturn.float32";

/// Weights in data files, in the order of their widened values in memory. Empty if none has half precision.
#[derive(Debug, Default)]
pub(crate) struct Widened {
    parts: Vec<Part>,
    /// Their size in memory, in bytes.
    bytes: u64,
}

#[derive(Debug)]
struct Part {
    /// Name of the file in the model's folder of data.
    location: String,
    /// Offset and number of its bytes in the file.
    offset: u64,
    length: u64,
    /// Its offset in memory.
    at: u64,
    /// The half-precision type that its values are widened from; `None` if they stay as they are.
    kind: Option<Half>,
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
/// A tensor whose values don't fit its shape, or a tensor in a data file that belongs to a graph inside the graph.
pub(crate) fn widen(graph: &mut GraphProto) -> Result<Widened, String> {
    let mut widened = Widened::default();
    let from_memory = graph.initializer.iter().any(|t| is_external(t) && Half::of(t.data_type()).is_some());
    for tensor in &mut graph.initializer {
        match is_external(tensor) {
            true if from_memory => widened.add(tensor)?,
            true => {}
            false => widen_tensor(tensor)?,
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

/// Widens a tensor whose values are in the graph.
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
    /// Whether there is nothing to read.
    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Size of the weights as float32, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Plans to read `tensor` from its file, and makes it refer to memory instead.
    fn add(&mut self, tensor: &mut TensorProto) -> Result<(), String> {
        /// Alignment of tensors in memory, in bytes.
        const ALIGNMENT: u64 = 16;
        let refuse = |why: String| format!("initializer `{}`: {why}", tensor.name());
        let entry = |key: &str| tensor::entry(tensor, key).map(str::to_owned);
        let number = |key: &str| match entry(key) {
            None => Ok(None),
            Some(text) => text.parse::<u64>().map(Some).map_err(|_| refuse(format!("its `{key}` is `{text}`"))),
        };
        let location = entry("location").ok_or_else(|| refuse("external data without a location".into()))?;
        let Some(length) = number("length")? else { return Err(refuse("external data without a length".into())) };
        let offset = number("offset")?.unwrap_or(0);
        let kind = Half::of(tensor.data_type());
        if kind.is_some() && elements(tensor).and_then(|n| n.checked_mul(2)) != Some(length as usize) {
            return Err(refuse(format!("{length} bytes of external data for the shape {:?}", tensor.dims)));
        }
        let at = self.bytes.next_multiple_of(ALIGNMENT);
        let in_memory = if kind.is_some() { 2 * length } else { length };
        let dims: Vec<usize> = tensor.dims.iter().map(|&dim| dim as usize).collect();
        let element = match kind {
            Some(_) => DataType::Float,
            None => DataType::try_from(tensor.data_type()).unwrap_or(DataType::Undefined),
        };
        *tensor = external_tensor(tensor.name(), element, &dims, LOCATION, at, in_memory);
        self.bytes = at + in_memory;
        self.parts.push(Part { location, offset, length, at, kind });
        Ok(())
    }

    /// Reads the weights from the files in `folder`, widened to float32.
    pub(crate) fn read(&self, folder: &Path) -> Result<Arc<[u8]>> {
        let mut memory: Arc<[u8]> = std::iter::repeat_n(0, self.bytes as usize).collect();
        let bytes = Arc::get_mut(&mut memory).expect("nobody else has it yet");
        for part in &self.parts {
            let path = folder.join(&part.location);
            let (file, _) = files::open(&path).map_err(|e| Error::io("open", &path, e))?;
            part.read(&file, &mut bytes[part.at as usize..]).map_err(|e| Error::io("read the weights of", &path, e))?;
        }
        Ok(memory)
    }
}

impl Part {
    /// Reads it from its file to the beginning of `to`.
    fn read(&self, file: &File, to: &mut [u8]) -> std::io::Result<()> {
        const CHUNK: usize = 1 << 20;
        let length = self.length as usize;
        let Some(kind) = self.kind else { return file.read_exact_at(&mut to[..length], self.offset) };
        let mut raw = vec![0; CHUNK.min(length)];
        for (chunk, to) in (0..length).step_by(CHUNK).zip(to[..2 * length].chunks_mut(2 * CHUNK)) {
            let raw = &mut raw[..to.len() / 2];
            file.read_exact_at(raw, self.offset + chunk as u64)?;
            let bits: Vec<u16> = raw.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
            for (to, value) in to.chunks_exact_mut(4).zip(kind.widen(&bits)) {
                to.copy_from_slice(&value.to_le_bytes());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::nodes::{int, node};

    fn half(name: &str, kind: DataType, dims: &[usize], bits: &[u16]) -> TensorProto {
        TensorProto {
            name: Some(name.into()),
            data_type: Some(kind.into()),
            dims: dims.iter().map(|&dim| dim as i64).collect(),
            raw_data: Some(bits.iter().flat_map(|bits| bits.to_le_bytes()).collect::<Vec<_>>().into()),
            ..TensorProto::default()
        }
    }

    fn floats(raw: &[u8]) -> Vec<f32> {
        raw.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    #[test]
    fn constants_and_casts_become_float32() {
        let bits = [1.5, -0.25].map(|x| f16::from_f32(x).to_bits());
        let mut graph = GraphProto {
            initializer: vec![half("w", DataType::Float16, &[2], &bits)],
            node: vec![node("", "Cast", "cast", &["w"], &["x"], vec![int("to", DataType::Bfloat16 as i64)])],
            ..GraphProto::default()
        };
        assert!(widen(&mut graph).expect("widened").is_empty(), "nothing is in a file");
        assert_eq!(graph.initializer[0].data_type(), DataType::Float as i32);
        assert_eq!(floats(graph.initializer[0].raw_data()), [1.5, -0.25]);
        assert_eq!(graph.node[0].attribute[0].i(), DataType::Float as i64);
    }

    #[test]
    fn weights_in_files_are_read_widened_and_the_others_with_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let bits = [2.0, -3.5, 0.125].map(|x| bf16::from_f32(x).to_bits());
        let mut file: Vec<u8> = vec![7, 8, 9];
        file.extend(bits.iter().flat_map(|bits| bits.to_le_bytes()));
        std::fs::write(folder.path().join("data"), &file).expect("written");
        let mut graph = GraphProto {
            initializer: vec![
                external_tensor("ids", DataType::Uint8, &[3], "data", 0, 3),
                external_tensor("w", DataType::Bfloat16, &[3], "data", 3, 6),
            ],
            ..GraphProto::default()
        };
        let widened = widen(&mut graph).expect("widened");
        let memory = widened.read(folder.path()).expect("read");
        assert_eq!(memory[..3], [7, 8, 9]);
        assert_eq!(floats(&memory[16..]), [2.0, -3.5, 0.125]);
        let entries = |i: usize| graph.initializer[i].external_data.iter().map(|e| e.value()).collect::<Vec<_>>();
        assert_eq!((entries(0), entries(1)), (vec![LOCATION, "0", "3"], vec![LOCATION, "16", "12"]));
    }

    #[test]
    fn values_that_do_not_fit_their_shape_are_refused() {
        let refused = |tensor: TensorProto| {
            let mut graph = GraphProto { initializer: vec![tensor], ..GraphProto::default() };
            widen(&mut graph).map(|_| ()).expect_err("refused")
        };
        assert!(refused(half("w", DataType::Float16, &[3], &[0, 0])).contains("`w`"));
        assert!(refused(external_tensor("v", DataType::Float16, &[3], "data", 0, 4)).contains("`v`"));
        assert!(refused(external_tensor("u", DataType::Float16, &[usize::MAX >> 1, 4], "data", 0, 4)).contains("`u`"));
    }
}
