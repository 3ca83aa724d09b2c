//! Products of bytes: sixteen columns' sums of four products each.
//!
//! Weights are unsigned (128 stands for zero), inputs signed, because AVX-512's `vpdpbusd` multiplies these. Integer sums
//! have no rounding, so every processor gives the same bits.

mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "x86_64")]
use crate::simd::x86::{Avx512, Vnni};
use crate::simd::{Isa, LANES, Scalar, Simd};

/// Bytes of one column that are multiplied at once.
pub const QUAD: usize = 4;

/// The best that this processor has for bytes: AVX-512 counts only with products and other operations of bytes.
pub fn best_isa() -> Isa {
    #[cfg(target_arch = "x86_64")]
    if let Some(lanes) = Avx512::<Vnni>::detect() {
        return Isa::Avx512Vnni(lanes);
    }
    Isa::detect_without_avx512()
}

/// True if this processor has products of bytes that make rounding worthwhile: AVX-512 VNNI.
pub fn multiplies_bytes() -> bool {
    best_isa().name() == "avx512"
}

impl Isa {
    /// Does `work` in code that is compiled for these lanes and their products of bytes.
    pub fn run_bytes<W: ByteWork>(self, work: W) -> W::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni(lanes) => x86::run_avx512(lanes, work),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(lanes) => x86::run_avx2(lanes.avx2(), work),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16(lanes) => x86::run_avx2(lanes.avx2(), work),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(lanes) => x86::run_avx2(lanes, work),
            Isa::Scalar => work.run(Scalar),
        }
    }
}

/// Something that is done on sixteen lanes with products of bytes.
pub trait ByteWork {
    type Output;

    /// Does it. As [`Work::run`](crate::simd::Work::run), implementations are `#[inline(always)]`.
    fn run<S: Dot>(self, lanes: S) -> Self::Output;
}

/// Sums of products of bytes, beside the float lanes of [`Simd`].
///
/// # Safety
/// Pointers need no alignment. What they are read or written for, they are valid for.
pub trait Dot: Simd {
    /// Sixteen 32-bit sums, one a column.
    type Sums: Copy;
    /// Four weights of each of sixteen columns.
    type Weights: Copy;
    /// Four inputs, for all columns.
    type Inputs: Copy;
    /// Four inputs of each of sixteen columns.
    type ColumnInputs: Copy;
    fn splat_sum(self, x: i32) -> Self::Sums;
    /// Loads 64 weights.
    unsafe fn weights(self, p: *const u8) -> Self::Weights;
    /// Loads one byte for each of sixteen columns, four times.
    unsafe fn four_times(self, p: *const u8) -> Self::Weights;
    /// The low nibbles of 64 bytes, each added to its byte of `shifts`.
    fn low_nibbles(self, bytes: Self::Weights, shifts: Self::Weights) -> Self::Weights;
    /// The high nibbles.
    fn high_nibbles(self, bytes: Self::Weights, shifts: Self::Weights) -> Self::Weights;
    /// Stores 64 weights.
    unsafe fn store_weights(self, p: *mut u8, weights: Self::Weights);
    /// Loads four inputs.
    unsafe fn inputs(self, p: *const i8) -> Self::Inputs;
    /// `sums + weights · inputs`, column by column.
    fn dot(self, sums: Self::Sums, weights: Self::Weights, inputs: Self::Inputs) -> Self::Sums;
    /// Loads four weights, for all columns.
    unsafe fn splat_weights(self, p: *const u8) -> Self::Weights;
    /// Loads 64 inputs.
    unsafe fn column_inputs(self, p: *const i8) -> Self::ColumnInputs;
    /// As [`Dot::dot`], each column with inputs of its own.
    fn dot_columns(self, sums: Self::Sums, weights: Self::Weights, inputs: Self::ColumnInputs) -> Self::Sums;
    fn floats(self, sums: Self::Sums) -> Self::V;
    /// Sixteen unsigned bytes as floats.
    fn widen(self, bytes: &[u8; LANES]) -> Self::V;
    /// The sixteen sums and differences of all lanes that Walsh and Hadamard's transform is made of, without its
    /// factor; in lane i, lane k is taken off where i and k have an odd number of bits in common.
    fn mix(self, v: Self::V) -> Self::V;
    /// Rounds twice sixteen floats below 255.5 to the nearest integers, ties to even, and stores them as unsigned bytes.
    /// What stands for a NaN is unspecified.
    fn store_unsigned(self, to: &mut [u8; 2 * LANES], low: Self::V, high: Self::V);
    /// Rounds twice sixteen floats in [-127, 127] to the nearest integers, ties to even, and stores them as bytes; returns
    /// sums of two, lane by lane.
    fn store_bytes(self, to: &mut [i8; 2 * LANES], low: Self::V, high: Self::V) -> Self::Sums;
    fn add_sums(self, a: Self::Sums, b: Self::Sums) -> Self::Sums;
    /// The sum over all lanes.
    fn total(self, sums: Self::Sums) -> i32;
    /// True if a lane is NaN.
    fn has_nan(self, v: Self::V) -> bool;
}
