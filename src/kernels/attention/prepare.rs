//! What happens to a token before attention: its query and key are rotated, its key and value written into the cache.

#![allow(
    clippy::needless_range_loop,
    reason = "iterators take closures, which may be compiled without the processor's features"
)]

use super::call::{Call, Rotary};
use super::form::{Form, Number};
use super::layout::{Heads, MAX_HEAD};
use crate::simd::{LANES, Simd};

impl Call<'_> {
    /// Writes `x`, rotated for `position`, to the front of `to`.
    ///
    /// # Safety
    /// The caller was compiled for what S stands for.
    #[inline(always)]
    pub(super) unsafe fn rotate<S: Simd>(&self, x: &[f32], position: usize, to: &mut [f32; MAX_HEAD]) {
        let Some(Rotary { cos, sin, half, interleaved }) = self.rotary else {
            to[..x.len()].copy_from_slice(x);
            return;
        };
        let cos = &cos[position * half..][..half];
        let sin = &sin[position * half..][..half];
        to[2 * half..x.len()].copy_from_slice(&x[2 * half..]);
        if interleaved {
            let (pairs, to) = (&x[..2 * half], &mut to[..2 * half]);
            for i in 0..half {
                let (a, b) = (pairs[2 * i], pairs[2 * i + 1]);
                to[2 * i] = a * cos[i] - b * sin[i];
                to[2 * i + 1] = b * cos[i] + a * sin[i];
            }
            return;
        }
        let ((a, b), (low, high)) = (x[..2 * half].split_at(half), to[..2 * half].split_at_mut(half));
        let whole = half - half % LANES;
        for i in (0..whole).step_by(LANES) {
            // SAFETY: all six have sixteen numbers from here on. Whole registers, which are read again as such: from
            // narrower ones the processor would have to wait for its cache.
            unsafe {
                let (a, b) = (S::load(a.as_ptr().add(i)), S::load(b.as_ptr().add(i)));
                let (cos, sin) = (S::load(cos.as_ptr().add(i)), S::load(sin.as_ptr().add(i)));
                S::store(low.as_mut_ptr().add(i), S::sub(S::mul(a, cos), S::mul(b, sin)));
                S::store(high.as_mut_ptr().add(i), S::add(S::mul(b, cos), S::mul(a, sin)));
            }
        }
        for i in whole..half {
            low[i] = a[i] * cos[i] - b[i] * sin[i];
            high[i] = b[i] * cos[i] + a[i] * sin[i];
        }
    }
}

#[inline(always)]
pub(super) unsafe fn prepare<F: Form>(call: &Call<'_>, token: usize, position: usize, slot: Option<usize>) {
    let Heads { query, kv, size } = call.heads;
    let (stored, run) = (call.heads.stored(), F::Number::RUN);
    // Behind the head's size they stay zero.
    let mut row = [0.0; MAX_HEAD];
    let mut numbers = [F::Number::of(0.0); MAX_HEAD];
    // SAFETY: `queries` holds query·stored numbers for each token, and this token is ours. The slot is inside the cache,
    // and only this call writes it: single lanes are written through the raw pointer, because other threads write
    // their own lanes of the same block.
    unsafe {
        for head in 0..query {
            call.rotate::<F::S>(call.query.head(token, head, size), position, &mut row);
            for x in &mut row[..size] {
                *x *= call.scale;
            }
            store::<F>(call.queries.cast::<F::Number>().add((token * query + head) * stored), &row, stored);
        }
        let Some(slot) = slot else { return };
        let (block, lane) = (slot / LANES, slot % LANES);
        for head in 0..kv {
            let start = call.stored_as.head_offset(call.heads, block, head) / size_of::<F::Number>();
            call.rotate::<F::S>(call.key.head(token, head, size), position, &mut row);
            store::<F>(numbers.as_mut_ptr(), &row, stored);
            let keys = call.key_cache.cast::<F::Number>().add(start + lane * run);
            for d in 0..stored {
                keys.add(d / run * run * LANES + d % run).write(numbers[d]);
            }
            row[..size].copy_from_slice(call.value.head(token, head, size));
            store::<F>(numbers.as_mut_ptr(), &row, stored);
            let values = call.value_cache.cast::<F::Number>().add(start + lane / run * run * stored + lane % run);
            for d in 0..stored {
                values.add(d * run).write(numbers[d]);
            }
        }
    }
}

/// Stores the first `count` numbers of `row`, a multiple of sixteen.
#[inline(always)]
unsafe fn store<F: Form>(to: *mut F::Number, row: &[f32; MAX_HEAD], count: usize) {
    for d in (0..count).step_by(LANES) {
        // SAFETY: the caller has room for `count` numbers.
        unsafe { F::store(to.add(d), F::S::load(row.as_ptr().add(d))) };
    }
}
