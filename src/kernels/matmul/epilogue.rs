//! What becomes of a tile's sums: they are activated or added to the residual stream, and brought to the output.

#![allow(
    clippy::needless_range_loop,
    reason = "iterators take closures, which may be compiled without the processor's features"
)]

use super::call::Call;
use super::pack::{Activation, Epilogue, PANEL};
use crate::simd::{self, LANES, Simd};

/// Sums of a tile of `R` rows.
pub(super) type Sums<const R: usize> = [[[f32; LANES]; PANEL / LANES]; R];

/// Brings a tile's sums to the output.
#[inline(always)]
pub(super) unsafe fn epilogue<S: Simd, const R: usize>(
    s: S,
    call: &Call<'_>,
    panel: usize,
    row: usize,
    sums: &mut Sums<R>,
) {
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
