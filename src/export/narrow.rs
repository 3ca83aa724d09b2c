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

/// Writes a matrix in half precision `to`, rows in standard order. `data` is the whole file.
///
/// # Errors
/// Those of `sink`; a number is too large, because the file changed after it was checked.
pub(super) fn write(to: Precision, tensor: &Tensor, data: &[u8], sink: &mut (impl Write + ?Sized)) -> io::Result<()> {
    let mut written = Ok(());
    rows(tensor, data, &mut |_, values| {
        let narrowed: Option<Vec<[u8; 2]>> = values.iter().map(|&x| to.narrow(x)).collect();
        written = match narrowed {
            Some(row) => sink.write_all(row.as_flattened()),
            None => Err(io::Error::other(format!("a number became too large for {} after it was checked", to.name()))),
        };
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

#[cfg(test)]
mod tests {
    use super::super::checkpoint::RowOrder;
    use super::super::format;
    use super::*;

    #[test]
    fn a_number_that_changed_after_the_check_is_not_left_out() {
        let tensor = Tensor {
            format: &format::F32,
            shape: vec![2, 2],
            file: 0,
            offset: 0,
            bytes: 16,
            origin: "w".to_owned(),
            rows: RowOrder::Standard,
            delta: None,
        };
        let bytes = |numbers: [f32; 4]| numbers.map(f32::to_le_bytes).concat();
        let mut written = Vec::new();
        write(Precision::Float16, &tensor, &bytes([1.0, -2.0, 0.5, 65_504.0]), &mut written).expect("written");
        assert_eq!(written, [0x00, 0x3c, 0x00, 0xc0, 0x00, 0x38, 0xff, 0x7b]);
        let changed = bytes([1.0, -2.0, 65_520.0, 1.0]);
        let error = write(Precision::Float16, &tensor, &changed, &mut Vec::new()).expect_err("too large");
        assert!(error.to_string().contains("too large for float16"), "{error}");
    }
}
