//! The choice of the code that computes a product, by what the processor has.

use super::bytes;
use super::call::Call;
use super::inputs::{quantise, round};
use super::numbers;
use super::pack::Kind;
use crate::dot::{self, ByteWork, Dot};
use crate::pairs::{PairWork, Pairs};
use crate::simd::Isa;

/// The best that this processor has for matrices of a kind.
pub(super) fn best_isa(kind: Kind) -> Isa {
    match kind {
        Kind::Bfloat16 => Isa::detect_pairs(),
        Kind::Floats | Kind::Bytes | Kind::Nibbles => dot::best_isa(),
    }
}

impl Call<'_> {
    /// Normalises a row of inputs, if the product is one of normalised rows, and rounds it to what the matrix is
    /// multiplied by: bytes or bfloat16. What `scratch` held doesn't matter.
    ///
    /// # Safety
    /// No other thread works on this row.
    pub unsafe fn quantise(&self, row: usize, scratch: &mut Vec<f32>) {
        debug_assert!(row < self.rows && self.shape.kind != Kind::Floats);
        self.run(Quantise { call: self, row, scratch });
    }

    /// Computes the columns of one panel for rows `first..end`; what `scratch` held doesn't matter.
    ///
    /// # Safety
    /// No other thread works on these; the rows have been rounded, unless the matrix is one of floats.
    pub unsafe fn multiply(&self, panel: usize, first: usize, end: usize, scratch: &mut Vec<u8>) {
        debug_assert!(panel < self.shape.panels() && first <= end && end <= self.rows);
        self.run(Multiply { call: self, panel, first, end, scratch });
    }

    /// Does work with the products that the matrix takes.
    fn run<W: ByteWork<Output = ()> + PairWork<Output = ()>>(&self, work: W) {
        match self.shape.kind {
            Kind::Bfloat16 => self.isa.run_pairs(work),
            Kind::Floats | Kind::Bytes | Kind::Nibbles => self.isa.run_bytes(work),
        }
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

impl PairWork for Quantise<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Pairs>(self, lanes: S) {
        // SAFETY: the caller of `Call::quantise` vouches for it.
        unsafe { round(lanes, self.call, self.row, self.scratch) }
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
        unsafe {
            match self.call.shape.kind {
                Kind::Floats => {
                    numbers::multiply::<S, numbers::Float32>(lanes, self.call, self.panel, self.first, self.end)
                }
                _ => bytes::multiply(lanes, self.call, self.panel, self.first, self.end, self.scratch),
            }
        }
    }
}

impl PairWork for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Pairs>(self, lanes: S) {
        // SAFETY: the caller of `Call::multiply` vouches for it.
        unsafe { numbers::multiply::<S, numbers::Bfloat16>(lanes, self.call, self.panel, self.first, self.end) }
    }
}
