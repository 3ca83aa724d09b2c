//! The choice of the code that computes a call: by what the cache holds, and by what the processor has.

use super::bytes::{self, Bytes};
use super::call::{Call, Item};
use super::form::{Floats, Form, Pairs};
use super::layout::Stored;
use super::numbers::Numbers;
use super::prepare::prepare;
use super::tile::attend;
use crate::dot::{ByteWork, Dot};
#[cfg(target_arch = "x86_64")]
use crate::simd::x86::{Avx512, Bf16};
use crate::simd::{Isa, Simd, Work};

impl Call<'_> {
    /// Rotates one token's query and key by row `position` of the rotary tables; stores the query, and key and value in
    /// cache slot `slot` unless it is `None`.
    ///
    /// # Safety
    /// The pointers are valid for the sizes in their comments, `slot` is inside the cache, and no other thread works on
    /// the same token or slot.
    pub unsafe fn prepare(&self, token: usize, position: usize, slot: Option<usize>, isa: Isa) {
        // SAFETY: passed on to the caller.
        unsafe { self.on(Prepare { call: self, token, position, slot }, isa) }
    }

    /// Computes the outputs of one item.
    ///
    /// # Safety
    /// As for [`Call::prepare`]; every token of the batch has been prepared, and no other thread works on this item.
    pub unsafe fn attend(&self, item: Item, isa: Isa) {
        // The usual case has no code for windows and soft caps.
        let plain = self.window == usize::MAX && self.softcap == 0.0;
        // SAFETY: passed on to the caller.
        unsafe {
            if plain {
                self.on(Attend::<true> { call: self, item }, isa);
            } else {
                self.on(Attend::<false> { call: self, item }, isa);
            }
        }
    }

    /// Does a task with the lanes of `isa`. Where they have no products of bfloat16, plain Rust does it.
    ///
    /// # Safety
    /// As for the task.
    unsafe fn on(&self, task: impl Task, isa: Isa) {
        // SAFETY: passed on to the caller.
        unsafe {
            match (self.stored_as, isa) {
                (Stored::Float32, _) => isa.run(Vouched(task)),
                (Stored::Int8, _) => isa.run_bytes(Vouched(task)),
                #[cfg(target_arch = "x86_64")]
                (Stored::Bfloat16, Isa::Avx512Bf16(lanes)) => on_pairs(lanes, task),
                (Stored::Bfloat16, _) => task.on_numbers(Pairs),
            }
        }
    }
}

/// Something to do in a call, whatever its cache holds.
trait Task {
    /// Over numbers.
    ///
    /// # Safety
    /// As for the function of [`Call`] that made the task.
    unsafe fn on_numbers<F: Form>(self, form: F);

    /// Over bytes.
    ///
    /// # Safety
    /// As for [`Task::on_numbers`].
    unsafe fn on_bytes<S: Dot>(self, lanes: S);
}

struct Prepare<'a> {
    call: &'a Call<'a>,
    token: usize,
    position: usize,
    slot: Option<usize>,
}

impl Task for Prepare<'_> {
    #[inline(always)]
    unsafe fn on_numbers<F: Form>(self, form: F) {
        // SAFETY: passed on to the caller.
        unsafe { prepare(form, self.call, self.token, self.position, self.slot) }
    }

    #[inline(always)]
    unsafe fn on_bytes<S: Dot>(self, lanes: S) {
        // SAFETY: passed on to the caller.
        unsafe { bytes::prepare(lanes, self.call, self.token, self.position, self.slot) }
    }
}

/// `PLAIN` where there is neither window nor soft cap.
struct Attend<'a, const PLAIN: bool> {
    call: &'a Call<'a>,
    item: Item,
}

impl<const PLAIN: bool> Task for Attend<'_, PLAIN> {
    #[inline(always)]
    unsafe fn on_numbers<F: Form>(self, form: F) {
        // SAFETY: passed on to the caller.
        unsafe { attend::<Numbers<F>, PLAIN>(form, self.call, self.item) }
    }

    #[inline(always)]
    unsafe fn on_bytes<S: Dot>(self, lanes: S) {
        // SAFETY: passed on to the caller.
        unsafe { attend::<Bytes<S>, PLAIN>(lanes, self.call, self.item) }
    }
}

/// A task in [`Call::on`], whose caller vouches for it.
struct Vouched<T>(T);

impl<T: Task> Work for Vouched<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, lanes: S) {
        // SAFETY: the caller of `Call::on` vouches for the task.
        unsafe { self.0.on_numbers(Floats(lanes)) }
    }
}

impl<T: Task> ByteWork for Vouched<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Dot>(self, lanes: S) {
        // SAFETY: the caller of `Call::on` vouches for the task.
        unsafe { self.0.on_bytes(lanes) }
    }
}

/// Does a task over pairs of bfloat16.
///
/// # Safety
/// As for the task. (The token stands for the processor's features.)
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn on_pairs<T: Task>(lanes: Avx512<Bf16>, task: T) {
    // SAFETY: passed on to the caller.
    unsafe { task.on_numbers(lanes) }
}
