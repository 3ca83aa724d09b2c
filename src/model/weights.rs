//! Weights that are not finite. They are refused by the tensor's name when a model is loaded.
//!
//! NaN is refused everywhere. Infinity is refused in tensors that are factors, norms or look-up tables. Elsewhere it
//! may be intended, as in a mask.

use std::borrow::Cow;
use std::collections::HashSet;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::tensor::{self, entry, is_external};
use crate::files;
use crate::finite::{self, Float, Refused};
use crate::onnx::tensor_proto::DataType;
use crate::onnx::{GraphProto, NodeProto, TensorProto};
use crate::{Error, Result};

/// Operators that compute with weights.
const FACTORS: [&str; 15] = [
    "Conv",
    "DequantizeLinear",
    "EmbedLayerNormalization",
    "FusedMatMul",
    "Gather",
    "GatherBlockQuantized",
    "Gemm",
    "LayerNormalization",
    "MatMul",
    "MatMulInteger",
    "MatMulNBits",
    "RMSNormalization",
    "SimplifiedLayerNormalization",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
];
/// Operators that pass weights on.
const CARRIERS: [&str; 6] = ["Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"];

/// Weights in data files that only ONNX Runtime reads.
#[derive(Debug, Default)]
pub(crate) struct Unread(Vec<(TensorProto, Refused)>);

impl Unread {
    /// Those of `graph` whose names are `wanted`. Tensors in the graph itself are checked right away.
    ///
    /// # Errors
    /// A tensor in the graph is not finite.
    pub(crate) fn of(graph: &GraphProto, wanted: &dyn Fn(&str) -> bool) -> Result<Self> {
        let mut unread = Unread::default();
        unread.add(graph, wanted)?;
        Ok(unread)
    }

    fn add(&mut self, graph: &GraphProto, wanted: &dyn Fn(&str) -> bool) -> Result<()> {
        let factors = factors(graph);
        for tensor in graph.initializer.iter().filter(|tensor| float(tensor).is_some() && wanted(tensor.name())) {
            let refused = if factors.contains(tensor.name()) { Refused::NonFinite } else { Refused::Nan };
            match is_external(tensor) {
                true => self.0.push((tensor.clone(), refused)),
                false => check(tensor, &values(tensor), refused)?,
            }
        }
        let attributes = graph.node.iter().flat_map(|node| &node.attribute);
        // Graphs inside the graph. All of their tensors are wanted, because none of their names is replaced.
        attributes.flat_map(|a| a.g.iter().chain(&a.graphs)).try_for_each(|inner| self.add(inner, &|_| true))
    }

    /// Reads them from the files in `folder`.
    ///
    /// # Errors
    /// A tensor is not finite or can't be read.
    pub(crate) fn check(&self, folder: &Path) -> Result<()> {
        self.0.iter().try_for_each(|(tensor, refused)| check_in_file(tensor, folder, *refused))
    }
}

/// The values that are weights: those that operators compute with, and those that become such values.
fn factors(graph: &GraphProto) -> HashSet<&str> {
    let mut factors: HashSet<&str> = HashSet::new();
    // Nodes are in the order of computation, so the uses of a value are known before it when going backwards.
    for node in graph.node.iter().rev() {
        let carries = |node: &NodeProto| {
            CARRIERS.contains(&node.op_type()) && node.output.iter().any(|name| factors.contains(name.as_str()))
        };
        if FACTORS.contains(&node.op_type()) || carries(node) {
            factors.extend(node.input.iter().map(String::as_str));
        }
    }
    factors
}

fn float(tensor: &TensorProto) -> Option<Float> {
    match DataType::try_from(tensor.data_type()) {
        Ok(DataType::Float) => Some(Float::Float32),
        Ok(DataType::Float16) => Some(Float::Float16),
        Ok(DataType::Bfloat16) => Some(Float::Bfloat16),
        Ok(DataType::Double) => Some(Float::Float64),
        _ => None,
    }
}

/// The bytes of a tensor in the graph.
fn values(tensor: &TensorProto) -> Cow<'_, [u8]> {
    match (&tensor.raw_data, float(tensor)) {
        (Some(raw), _) => raw.as_ref().into(),
        (None, Some(Float::Float32)) => {
            tensor.float_data.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>().into()
        }
        (None, Some(Float::Float64)) => {
            tensor.double_data.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>().into()
        }
        // Half-precision values are stored in integers.
        (None, _) => tensor.int32_data.iter().flat_map(|&bits| (bits as u16).to_le_bytes()).collect::<Vec<u8>>().into(),
    }
}

/// Checks `bytes`, the values of `tensor`.
///
/// # Errors
/// Names the tensor and the place of the first number that is refused.
pub(super) fn check(tensor: &TensorProto, bytes: &[u8], refused: Refused) -> Result<()> {
    match float(tensor).and_then(|float| float.first(bytes, refused)) {
        None => Ok(()),
        Some((index, number)) => Err(not_finite(tensor, index, number)),
    }
}

fn not_finite(tensor: &TensorProto, index: usize, number: f64) -> Error {
    let shape: Vec<usize> = tensor.dims.iter().map(|&dim| dim as usize).collect();
    let (name, place) = (tensor.name(), finite::place(index, &shape));
    let message = format!("the weight `{name}` holds {number} at {place}, not a finite number. {}", finite::REMEDY);
    Error::invalid_model(message)
}

fn check_in_file(tensor: &TensorProto, folder: &Path, refused: Refused) -> Result<()> {
    /// Number of bytes that are read at once, few enough to stay in the processor's cache.
    const PIECE: usize = 1 << 18;
    let Some(float) = float(tensor) else { return Ok(()) };
    // Both were checked when the graph was read.
    let offset = entry(tensor, "offset").and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let length = tensor::bytes(tensor).map_err(Error::invalid_model)? as usize;
    let path = folder.join(entry(tensor, "location").unwrap_or_default());
    let (file, _) = files::open(&path).map_err(|e| Error::io("open", &path, e))?;
    let mut buffer = vec![0; PIECE.min(length)];
    for start in (0..length).step_by(PIECE) {
        let piece = &mut buffer[..PIECE.min(length - start)];
        file.read_exact_at(piece, offset + start as u64).map_err(|e| Error::io("read the weights of", &path, e))?;
        if let Some((index, number)) = float.first(piece, refused) {
            let error = not_finite(tensor, start / float.size() + index, number);
            return Err(error.context(path.display()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::nodes::{external_tensor, float_tensor, node};

    fn graph(op: &str, tensor: TensorProto) -> GraphProto {
        let cast = node("", "Cast", "cast", &["w"], &["c"], vec![]);
        let used = node("", op, "n", &["x", "c"], &["y"], vec![]);
        GraphProto { initializer: vec![tensor], node: vec![cast, used], ..GraphProto::default() }
    }

    #[test]
    fn infinity_is_refused_in_weights_and_nan_everywhere() {
        let verdict = |op, x| {
            let error = Unread::of(&graph(op, float_tensor("w", &[1, 2], &[0.0, x])), &|_| true).err();
            error.map(|error| error.to_string())
        };
        assert!(verdict("MatMul", f32::INFINITY).unwrap().contains("`w` holds inf at [0, 1]"));
        assert!(verdict("Add", f32::NAN).unwrap().contains("`w` holds NaN"));
        assert_eq!(verdict("Add", f32::NEG_INFINITY), None, "a mask");
        assert_eq!(verdict("MatMul", f32::MAX), None);
    }

    #[test]
    fn weights_in_files_are_looked_at_from_end_to_end() {
        let folder = tempfile::tempdir().unwrap();
        let count = 200_000;
        for at in [None, Some(0), Some(65_536), Some(count - 1)] {
            let mut values: Vec<f32> = vec![1.0; count];
            at.into_iter().for_each(|at| values[at] = f32::NAN);
            let bytes: Vec<u8> = [0; 3].into_iter().chain(values.iter().flat_map(|x| x.to_le_bytes())).collect();
            std::fs::write(folder.path().join("data"), bytes).unwrap();
            let tensor = external_tensor("w", DataType::Float, &[count], "data", 3, 4 * count as u64);
            let unread = Unread::of(&graph("Add", tensor), &|_| true).unwrap();
            let found = unread.check(folder.path()).err().map(|error| error.to_string());
            match at {
                None => assert_eq!(found, None),
                Some(at) => assert!(found.unwrap().contains(&format!("data: the weight `w` holds NaN at [{at}]"))),
            }
        }
    }
}
