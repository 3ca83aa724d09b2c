//! Matrices in half precision.
//!
//! The graph stays one of float32: it widens such a matrix by a Cast, and of a table the rows that it takes. So everything
//! between products is computed as in any export, and whoever runs the graph needs no kernels for half precision. Norms,
//! biases, score heads and rotary tables stay float32, because they are small.

use std::io::{self, Write};

use half::{bf16, f16};

use super::TensorType;
use super::checkpoint::Tensor;
use crate::onnx::tensor_proto::DataType;
use crate::{Error, Result};

/// A type of half precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    Float16,
    Bfloat16,
}

impl Half {
    /// `None` for float32.
    pub(super) fn of(kind: TensorType) -> Option<Self> {
        match kind {
            TensorType::Float32 => None,
            TensorType::Float16 => Some(Half::Float16),
            TensorType::Bfloat16 => Some(Half::Bfloat16),
        }
    }

    /// `None` for other types.
    pub(super) fn of_data(kind: DataType) -> Option<Self> {
        [Half::Float16, Half::Bfloat16].into_iter().find(|half| half.data_type() == kind)
    }

    pub(super) fn data_type(self) -> DataType {
        match self {
            Half::Float16 => DataType::Float16,
            Half::Bfloat16 => DataType::Bfloat16,
        }
    }

    /// `x` rounded to nearest, ties to even.
    fn round(self, x: f32) -> [u8; 2] {
        match self {
            Half::Float16 => f16::from_f32(x).to_le_bytes(),
            Half::Bfloat16 => bf16::from_f32(x).to_le_bytes(),
        }
    }

    fn is_too_large(self, x: f32) -> bool {
        match self {
            Half::Float16 => f16::from_f32(x).is_infinite(),
            Half::Bfloat16 => bf16::from_f32(x).is_infinite(),
        }
    }

    /// Refuses a matrix with a number that the type can't hold. `data` is the whole file, whose numbers are finite.
    pub(super) fn check(self, tensor: &Tensor, data: &[u8]) -> Result<()> {
        let mut refused = None;
        rows(tensor, data, &mut |row, values| {
            let column = values.iter().position(|&x| self.is_too_large(x));
            refused = column.map(|column| (row, column, values[column]));
            refused.is_none()
        });
        let Some((row, column, number)) = refused else { return Ok(()) };
        let (name, kind) = (&tensor.origin, self.data_type().as_str_name().to_lowercase());
        let instead = if self == Half::Float16 { "bfloat16 or float32" } else { "float32" };
        Err(Error::unsupported(format!(
            "tensor `{name}` holds {number} at [{row}, {column}], which is too large for {kind}: export in {instead}"
        )))
    }

    /// Writes a matrix, rows in standard order. `data` is the whole file.
    pub(super) fn write(self, tensor: &Tensor, data: &[u8], sink: &mut (impl Write + ?Sized)) -> io::Result<()> {
        let mut written = Ok(());
        let mut bytes = Vec::new();
        rows(tensor, data, &mut |_, values| {
            bytes.clear();
            bytes.extend(values.iter().flat_map(|&x| self.round(x)));
            written = sink.write_all(&bytes);
            written.is_ok()
        });
        written
    }
}

/// Hands out the rows of a matrix in float32, in standard order, while `take` returns true.
fn rows(tensor: &Tensor, data: &[u8], take: &mut dyn FnMut(usize, &[f32]) -> bool) {
    let [rows, columns] = tensor.shape[..] else { return };
    let mut values = vec![0.0; columns];
    for row in 0..rows {
        tensor.widen_row(data, row, &mut values);
        if !take(row, &values) {
            return;
        }
    }
}
