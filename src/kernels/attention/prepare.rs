//! The preparation of a token: its query and key are rotated, and its key and value are written into the cache.

use super::call::{Call, Rotary};
use super::form::{Form, Number};
use super::layout::{Heads, MAX_HEAD};
use crate::simd::{LANES, Simd};

impl Call<'_> {
    /// Writes `x`, rotated for `position`, to the front of `to`.
    #[inline(always)]
    pub(super) fn rotate<S: Simd>(&self, s: S, x: &[f32], position: usize, to: &mut [f32; MAX_HEAD]) {
        let Some(Rotary { cos, sin, half, interleaved }) = self.rotary else {
            to[..x.len()].copy_from_slice(x);
            return;
        };
        let cos = &cos[position * half..][..half];
        let sin = &sin[position * half..][..half];
        to[2 * half..x.len()].copy_from_slice(&x[2 * half..]);
        if interleaved {
            let pairs = x[..2 * half].as_chunks().0.iter().zip(to.as_chunks_mut().0);
            for (([a, b], to), (cos, sin)) in pairs.zip(cos.iter().zip(sin)) {
                *to = [a * cos - b * sin, b * cos + a * sin];
            }
            return;
        }
        let ((a, b), (low, high)) = (x[..2 * half].split_at(half), to[..2 * half].split_at_mut(half));
        // Whole registers, which are read again as such: from narrower ones the processor would have to wait for its cache.
        let from = a.as_chunks().0.iter().zip(b.as_chunks().0);
        let turns = cos.as_chunks().0.iter().zip(sin.as_chunks().0);
        let into = low.as_chunks_mut().0.iter_mut().zip(high.as_chunks_mut().0);
        for (((a, b), (cos, sin)), (low, high)) in from.zip(turns).zip(into) {
            let (a, b, cos, sin) = (s.load(a), s.load(b), s.load(cos), s.load(sin));
            s.store(low, s.sub(s.mul(a, cos), s.mul(b, sin)));
            s.store(high, s.add(s.mul(b, cos), s.mul(a, sin)));
        }
        let whole = half - half % LANES;
        let from = a[whole..].iter().zip(&b[whole..]);
        let turns = cos[whole..].iter().zip(&sin[whole..]);
        let into = low[whole..].iter_mut().zip(&mut high[whole..]);
        for (((a, b), (cos, sin)), (low, high)) in from.zip(turns).zip(into) {
            (*low, *high) = (a * cos - b * sin, b * cos + a * sin);
        }
    }
}

/// As [`Call::prepare`], over numbers.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn prepare<F: Form>(form: F, call: &Call<'_>, token: usize, position: usize, slot: Option<usize>) {
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
            call.rotate(form.lanes(), call.query.head(token, head, size), position, &mut row);
            for x in &mut row[..size] {
                *x *= call.scale;
            }
            let to = call.queries.cast::<F::Number>().add((token * query + head) * stored);
            store(form, std::slice::from_raw_parts_mut(to, stored), &row);
        }
        let Some(slot) = slot else { return };
        let (block, lane) = (slot / LANES, slot % LANES);
        for head in 0..kv {
            let start = call.stored_as.head_offset(call.heads, block, head) / size_of::<F::Number>();
            call.rotate(form.lanes(), call.key.head(token, head, size), position, &mut row);
            store(form, &mut numbers[..stored], &row);
            let keys = call.key_cache.cast::<F::Number>().add(start + lane * run);
            for (d, number) in numbers[..stored].iter().enumerate() {
                keys.add(d / run * run * LANES + d % run).write(*number);
            }
            row[..size].copy_from_slice(call.value.head(token, head, size));
            store(form, &mut numbers[..stored], &row);
            let values = call.value_cache.cast::<F::Number>().add(start + lane / run * run * stored + lane % run);
            for (d, number) in numbers[..stored].iter().enumerate() {
                values.add(d * run).write(*number);
            }
        }
    }
}

/// Stores the first numbers of `row`, as many as `to` takes, a multiple of sixteen.
#[inline(always)]
fn store<F: Form>(form: F, to: &mut [F::Number], row: &[f32; MAX_HEAD]) {
    for (to, x) in to.as_chunks_mut().0.iter_mut().zip(row.as_chunks().0) {
        form.store(to, form.lanes().load(x));
    }
}
