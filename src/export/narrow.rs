//! Matrices in half precision.
//!
//! The graph stays one of float32: it widens such a matrix by a Cast, and of a table the rows that it takes. So everything
//! between products is computed as in any export, and whoever runs the graph needs no kernels for half precision. Norms,
//! biases, score heads and rotary tables stay float32, because they are small.

use std::io::{self, Write};

use super::checkpoint::Tensor;
use crate::model::rewrite::precision::Precision;
use crate::{Error, Result};

/// Refuses a matrix with a number that half precision `to` can't hold. `data` is the whole file, whose numbers are finite.
pub(super) fn check(to: Precision, tensor: &Tensor, data: &[u8]) -> Result<()> {
    let mut refused = None;
    rows(tensor, data, &mut |row, values| {
        let column = values.iter().position(|&x| to.narrow(x).is_none());
        refused = column.map(|column| (row, column, values[column]));
        refused.is_none()
    });
    let Some((row, column, number)) = refused else { return Ok(()) };
    let instead = if to == Precision::Float16 { "bfloat16 or float32" } else { "float32" };
    Err(Error::unsupported(format!(
        "tensor `{}` holds {number} at [{row}, {column}], which is too large for {}: export in {instead}",
        tensor.origin,
        to.name()
    )))
}

/// Writes a matrix that was checked in half precision `to`, rows in standard order. `data` is the whole file.
pub(super) fn write(to: Precision, tensor: &Tensor, data: &[u8], sink: &mut (impl Write + ?Sized)) -> io::Result<()> {
    let mut written = Ok(());
    let mut bytes = Vec::new();
    rows(tensor, data, &mut |_, values| {
        bytes.clear();
        bytes.extend(values.iter().filter_map(|&x| to.narrow(x)).flatten());
        written = sink.write_all(&bytes);
        written.is_ok()
    });
    written
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
