//! The way from a product to the code for this processor.

use super::call::Call;
use super::inputs::quantise;
use super::kernel::multiply;
use super::pack::Kind;
use crate::simd::{self, Isa};

impl Call<'_> {
    /// Normalises a row of inputs, if the product is one of normalised rows, and rounds it to bytes. What `scratch` held
    /// doesn't matter.
    ///
    /// # Safety
    /// No other thread works on this row; the processor has what `isa` stands for.
    pub unsafe fn quantise(&self, row: usize, scratch: &mut Vec<f32>) {
        debug_assert!(row < self.rows && self.shape.kind != Kind::Floats);
        // SAFETY: passed on.
        unsafe {
            match self.isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => quantise_avx512(self, row, scratch),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => quantise_avx2(self, row, scratch),
                Isa::Scalar => quantise::<simd::Scalar>(self, row, scratch),
            }
        }
    }

    /// Computes the columns of one panel for rows `first..end`; what `scratch` held doesn't matter.
    ///
    /// # Safety
    /// No other thread works on these; the rows have been rounded, if the matrix is one of bytes. The processor has what
    /// `isa` stands for.
    pub unsafe fn multiply(&self, panel: usize, first: usize, end: usize, scratch: &mut Vec<u8>) {
        debug_assert!(panel < self.shape.panels() && first <= end && end <= self.rows);
        // SAFETY: passed on.
        unsafe {
            match self.isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => multiply_avx512(self, panel, first, end, scratch),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => multiply_avx2(self, panel, first, end, scratch),
                Isa::Scalar => multiply::<simd::Scalar>(self, panel, first, end, scratch),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn quantise_avx512(call: &Call<'_>, row: usize, scratch: &mut Vec<f32>) {
    // SAFETY: compiled for the features that Avx512 stands for.
    unsafe { quantise::<simd::x86::Avx512>(call, row, scratch) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn quantise_avx2(call: &Call<'_>, row: usize, scratch: &mut Vec<f32>) {
    // SAFETY: compiled for the features that Avx2 stands for.
    unsafe { quantise::<simd::x86::Avx2>(call, row, scratch) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn multiply_avx512(call: &Call<'_>, panel: usize, first: usize, end: usize, scratch: &mut Vec<u8>) {
    // SAFETY: compiled for the features that Avx512 stands for.
    unsafe { multiply::<simd::x86::Avx512>(call, panel, first, end, scratch) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply_avx2(call: &Call<'_>, panel: usize, first: usize, end: usize, scratch: &mut Vec<u8>) {
    // SAFETY: compiled for the features that Avx2 stands for.
    unsafe { multiply::<simd::x86::Avx2>(call, panel, first, end, scratch) }
}
