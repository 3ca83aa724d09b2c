//! One product, and its operands.

use std::ops::Range;

use super::pack::{Epilogue, Kind, Shape};
use crate::simd::Isa;

/// Root mean square normalisation of each row of inputs: x / √(mean of x² + epsilon) · weight.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    /// One for each number of a row.
    pub weight: &'a [f32],
    pub epsilon: f32,
}

/// Rounded rows of inputs. To bytes: `[rows, blocks, numbers of a block]`, and of each block its scale and what 128 for
/// zero in the weights adds to its sums, with the sign turned. To bfloat16: `[rows, numbers]`.
#[derive(Debug, Default)]
pub struct Rounded {
    pub(super) bytes: Vec<i8>,
    pub(super) scales: Vec<f32>,
    pub(super) offsets: Vec<i32>,
    /// As [`Pairs::Number`](crate::pairs::Pairs::Number), none of which is larger.
    pub(super) numbers: Vec<f32>,
}

impl Rounded {
    /// Makes room for `rows` rows for a matrix of this shape.
    fn resize(&mut self, rows: usize, shape: &Shape) {
        // Only grows: what is not used does no harm.
        match shape.kind {
            Kind::Floats => return,
            Kind::Bfloat16 => {
                let numbers = rows * shape.numbers();
                return self.numbers.resize(self.numbers.len().max(numbers), 0.0);
            }
            Kind::Bytes | Kind::Nibbles => {}
        }
        let blocks = rows * shape.blocks();
        self.bytes.resize(self.bytes.len().max(blocks * shape.block()), 0);
        self.scales.resize(self.scales.len().max(blocks), 0.0);
        self.offsets.resize(self.offsets.len().max(blocks), 0);
    }
}

/// What a product is given for each of its rows.
#[derive(Debug, Clone, Copy)]
pub struct Operands<'a> {
    /// `[rows, inputs]`
    pub inputs: &'a [f32],
    /// What is done to them first; matrices of floats have none.
    pub norm: Option<Norm<'a>>,
    /// `[rows, outputs]`, what the product is added to; gated ones have none.
    pub residual: Option<&'a [f32]>,
}

impl<'a> Operands<'a> {
    /// Inputs that are multiplied as they are.
    pub fn plain(inputs: &'a [f32]) -> Self {
        Operands { inputs, norm: None, residual: None }
    }

    /// Those of some rows.
    pub(super) fn rows(&self, rows: &Range<usize>, shape: &Shape) -> Self {
        let of = |all: &'a [f32], width: usize| &all[rows.start * width..rows.end * width];
        Operands {
            inputs: of(self.inputs, shape.inputs),
            norm: self.norm,
            residual: self.residual.map(|residual| of(residual, shape.outputs())),
        }
    }
}

/// One product: `rows` rows of inputs, all columns of a matrix.
pub struct Call<'a> {
    pub shape: Shape,
    pub isa: Isa,
    pub rows: usize,
    /// The packed matrix.
    pub matrix: &'a [u8],
    pub(super) operands: Operands<'a>,
    /// `[rows, blocks]`, for matrices of bytes.
    pub(super) bytes: *mut i8,
    pub(super) scales: *mut f32,
    pub(super) offsets: *mut i32,
    /// `[rows, numbers]`, for matrices of bfloat16.
    pub(super) numbers: *mut f32,
    /// `[rows, outputs]`
    pub(super) output: *mut f32,
}

// SAFETY: `quantise` writes the rounded rows that it is given alone, `multiply` the columns of the panels that it is
// given alone; the operator runs all of the first before any of the second.
unsafe impl Sync for Call<'_> {}

impl<'a> Call<'a> {
    /// `rounded` has room for the rows; `output` holds `[rows, outputs]`.
    pub fn new(
        shape: Shape,
        isa: Isa,
        matrix: &'a [u8],
        operands: Operands<'a>,
        rounded: &'a mut Rounded,
        output: &'a mut [f32],
    ) -> Self {
        let Operands { inputs, norm, residual } = operands;
        let rows = inputs.len() / shape.inputs;
        assert_eq!(inputs.len(), rows * shape.inputs, "whole rows of inputs");
        assert_eq!(output.len(), rows * shape.outputs(), "room for the product");
        assert!(
            residual.is_none_or(|r| r.len() == output.len() && shape.epilogue == Epilogue::Store),
            "one for each number"
        );
        assert!(
            norm.is_none_or(|n| n.weight.len() == shape.inputs && shape.kind != Kind::Floats),
            "one for each input"
        );
        assert_eq!(matrix.len(), shape.bytes(), "a matrix of this shape");
        rounded.resize(rows, &shape);
        let Rounded { bytes, scales, offsets, numbers } = rounded;
        Call {
            shape,
            isa,
            rows,
            matrix,
            operands,
            bytes: bytes.as_mut_ptr(),
            scales: scales.as_mut_ptr(),
            offsets: offsets.as_mut_ptr(),
            numbers: numbers.as_mut_ptr(),
            output: output.as_mut_ptr(),
        }
    }
}
