//! A tile: a few rows of inputs and one panel of columns. Its sums are activated or added to the residual stream, and brought
//! to the output.

#![allow(
    clippy::needless_range_loop,
    reason = "iterators take closures, which may be compiled without the processor's features"
)]

use super::call::Call;
use super::pack::{Activation, Epilogue, PANEL};
use crate::simd::{self, LANES, Simd};

/// A form of panels: how the sums of a tile are computed.
pub(super) trait Panel<S: Simd> {
    /// Sums of `C` vectors of columns, beginning with vector `half`, for `R` rows from `row` on.
    ///
    /// # Safety
    /// `weights` is such a panel. The rows are the call's, and have been rounded for it.
    unsafe fn sum<const R: usize, const C: usize>(
        s: S,
        call: &Call<'_>,
        weights: *const u8,
        row: usize,
        half: usize,
    ) -> [[S::V; C]; R];
}

/// Sums of a tile of `R` rows.
type Sums<const R: usize> = [[[f32; LANES]; PANEL / LANES]; R];

/// The rows `first..end` in tiles of at most `most`: the first row and their number. They are as equal as can be: six and six
/// rows take less time than eleven and one.
#[inline(always)]
pub(super) fn rows(first: usize, end: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let tiles = (end - first).div_ceil(most);
    (0..tiles).scan(first, move |next, tile| {
        let (row, count) = (*next, (end - *next) / (tiles - tile));
        *next += count;
        Some((row, count))
    })
}

/// Computes a tile of `R` rows from `row` on. `panel` numbers the panel whose weights, or what became of them, are `weights`.
///
/// # Safety
/// As for [`Panel::sum`]. No other thread works on these columns of these rows.
#[inline(always)]
pub(super) unsafe fn compute<S: Simd, P: Panel<S>, const R: usize>(
    s: S,
    call: &Call<'_>,
    weights: *const u8,
    panel: usize,
    row: usize,
) {
    let mut sums: Sums<R> = [[[0.0; LANES]; PANEL / LANES]; R];
    // SAFETY: passed on.
    unsafe {
        if S::MANY_REGISTERS {
            store(s, &mut sums, 0, P::sum::<R, 2>(s, call, weights, row, 0));
        } else {
            store(s, &mut sums, 0, P::sum::<R, 1>(s, call, weights, row, 0));
            store(s, &mut sums, 1, P::sum::<R, 1>(s, call, weights, row, 1));
        }
        epilogue::<S, R>(s, call, panel, row, &mut sums);
    }
}

#[inline(always)]
fn store<S: Simd, const R: usize, const C: usize>(s: S, sums: &mut Sums<R>, half: usize, found: [[S::V; C]; R]) {
    for r in 0..R {
        for c in 0..C {
            s.store(&mut sums[r][half + c], found[r][c]);
        }
    }
}

/// Brings a tile's sums to the output.
#[inline(always)]
unsafe fn epilogue<S: Simd, const R: usize>(s: S, call: &Call<'_>, panel: usize, row: usize, sums: &mut Sums<R>) {
    let outputs = call.shape.outputs();
    let width = match call.shape.epilogue {
        Epilogue::Store => PANEL,
        Epilogue::Gated(_) => PANEL / 2,
    };
    let first = panel * width;
    let count = width.min(outputs - first);
    // Looked up once: for all the compiler knows, what is stored below could change it.
    let residual = call.operands.residual.map(|residual| residual[first..].as_ptr());
    for (r, sums) in sums.iter_mut().enumerate() {
        // SAFETY: the columns of this panel in this row are inside the output and ours alone; sums hold 32 floats.
        unsafe {
            let to = call.output.add((row + r) * outputs + first);
            let (low, high) = (s.load(&sums[0]), s.load(&sums[1]));
            let low = match call.shape.epilogue {
                Epilogue::Store => low,
                Epilogue::Gated(Activation::Silu) => s.mul(silu(s, low), high),
                Epilogue::Gated(Activation::GeluTanh) => s.mul(gelu_tanh(s, low), high),
            };
            let residual = residual.map(|residual| residual.add((row + r) * outputs));
            if count < width {
                s.store(&mut sums[0], low);
                let sums = sums.as_flattened_mut();
                if let Some(residual) = residual {
                    for column in 0..count {
                        sums[column] += *residual.add(column);
                    }
                }
                std::ptr::copy_nonoverlapping(sums.as_ptr(), to, count);
                continue;
            }
            if let Some(residual) = residual {
                s.write(to, s.add(low, s.read(residual)));
                s.write(to.add(LANES), s.add(high, s.read(residual.add(LANES))));
                continue;
            }
            s.write(to, low);
            if call.shape.epilogue == Epilogue::Store {
                s.write(to.add(LANES), high);
            }
        }
    }
}

/// x · sigmoid(x)
#[inline(always)]
fn silu<S: Simd>(s: S, x: S::V) -> S::V {
    let (zero, one) = (s.splat(0.0), s.splat(1.0));
    // In this order: of a NaN and a number, `max` gives the second.
    let magnitude = s.max(s.sub(zero, x), x);
    let e = simd::exp(s, s.sub(zero, magnitude));
    // sigmoid(x) = 1 / (1 + e⁻ˣ) = eˣ / (1 + eˣ): the form that doesn't overflow.
    let numerator = s.select_lt(x, zero, e, one);
    s.mul(x, s.div(numerator, s.add(one, e)))
}

/// x/2 · (1 + tanh(√(2/π) · (x + 0.044715·x³)))
#[inline(always)]
fn gelu_tanh<S: Simd>(s: S, x: S::V) -> S::V {
    let cube = s.mul(s.mul(x, x), x);
    let inner = s.mul(s.splat(0.797_884_6), s.fma(cube, s.splat(0.044_715), x));
    s.mul(s.mul(x, s.splat(0.5)), s.add(s.splat(1.0), simd::tanh(s, inner)))
}
