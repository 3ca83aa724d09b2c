//! The choice of the code that computes a product, by what the processor has.

use super::call::Call;
use super::inputs::quantise;
use super::kernel::multiply;
use super::pack::Kind;
use crate::dot::{ByteWork, Dot};

impl Call<'_> {
    /// Normalises a row of inputs, if the product is one of normalised rows, and rounds it to bytes. What `scratch` held
    /// doesn't matter.
    ///
    /// # Safety
    /// No other thread works on this row.
    pub unsafe fn quantise(&self, row: usize, scratch: &mut Vec<f32>) {
        debug_assert!(row < self.rows && self.shape.kind != Kind::Floats);
        self.isa.run_bytes(Quantise { call: self, row, scratch });
    }

    /// Computes the columns of one panel for rows `first..end`; what `scratch` held doesn't matter.
    ///
    /// # Safety
    /// No other thread works on these; the rows have been rounded, if the matrix is one of bytes.
    pub unsafe fn multiply(&self, panel: usize, first: usize, end: usize, scratch: &mut Vec<u8>) {
        debug_assert!(panel < self.shape.panels() && first <= end && end <= self.rows);
        self.isa.run_bytes(Multiply { call: self, panel, first, end, scratch });
    }
}

/// [`Call::quantise`] alone makes it, whose caller vouches for it.
struct Quantise<'a> {
    call: &'a Call<'a>,
    row: usize,
    scratch: &'a mut Vec<f32>,
}

impl ByteWork for Quantise<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Dot>(self, lanes: S) {
        // SAFETY: the caller of `Call::quantise` vouches for it.
        unsafe { quantise(lanes, self.call, self.row, self.scratch) }
    }
}

/// [`Call::multiply`] alone makes it, whose caller vouches for it.
struct Multiply<'a> {
    call: &'a Call<'a>,
    panel: usize,
    first: usize,
    end: usize,
    scratch: &'a mut Vec<u8>,
}

impl ByteWork for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Dot>(self, lanes: S) {
        // SAFETY: the caller of `Call::multiply` vouches for it.
        unsafe { multiply(lanes, self.call, self.panel, self.first, self.end, self.scratch) }
    }
}
