//! The way from a call to the code for this processor and this kind of cache.

use super::bytes::{self, Bytes};
use super::call::{Call, Item};
use super::form::{self, Floats};
use super::layout::Stored;
use super::numbers::Numbers;
use super::prepare::prepare;
use super::tile::attend;
use crate::simd::{self, Isa};

impl Call<'_> {
    /// Rotates one token's query and key by row `position` of the rotary tables; stores the query, and key and value in
    /// cache slot `slot` unless it is `None`.
    ///
    /// # Safety
    /// The pointers are valid for the sizes in their comments, `slot` is inside the cache, and no other thread works on
    /// the same token or slot. The processor has what `isa` stands for.
    pub unsafe fn prepare(&self, token: usize, position: usize, slot: Option<usize>, isa: Isa) {
        // SAFETY: passed on; the caller vouches for the processor.
        unsafe {
            match (self.stored_as, isa) {
                #[cfg(target_arch = "x86_64")]
                (Stored::Float32, Isa::Avx512) => prepare_avx512(self, token, position, slot),
                #[cfg(target_arch = "x86_64")]
                (Stored::Float32, Isa::Avx2) => prepare_avx2(self, token, position, slot),
                (Stored::Float32, Isa::Scalar) => prepare::<Floats<simd::Scalar>>(self, token, position, slot),
                #[cfg(target_arch = "x86_64")]
                (Stored::Bfloat16, Isa::Avx512) => prepare_avx512_bf16(self, token, position, slot),
                (Stored::Bfloat16, _) => prepare::<form::Pairs>(self, token, position, slot),
                #[cfg(target_arch = "x86_64")]
                (Stored::Int8, Isa::Avx512) => prepare_avx512_bytes(self, token, position, slot),
                #[cfg(target_arch = "x86_64")]
                (Stored::Int8, Isa::Avx2) => prepare_avx2_bytes(self, token, position, slot),
                (Stored::Int8, Isa::Scalar) => bytes::prepare::<simd::Scalar>(self, token, position, slot),
            }
        }
    }

    /// Computes the outputs of one item.
    ///
    /// # Safety
    /// As for [`Call::prepare`]; every token of the batch has been prepared, and no other thread works on this item.
    /// The processor has what `isa` stands for.
    pub unsafe fn attend(&self, item: Item, isa: Isa) {
        // The usual case has no code for windows and soft caps.
        let plain = self.window == usize::MAX && self.softcap == 0.0;
        // SAFETY: passed on.
        unsafe { if plain { self.attend_on::<true>(item, isa) } else { self.attend_on::<false>(item, isa) } }
    }

    /// # Safety
    /// As for [`Call::attend`].
    unsafe fn attend_on<const PLAIN: bool>(&self, item: Item, isa: Isa) {
        // SAFETY: passed on; the caller vouches for the processor.
        unsafe {
            match (self.stored_as, isa) {
                #[cfg(target_arch = "x86_64")]
                (Stored::Float32, Isa::Avx512) => attend_avx512::<PLAIN>(self, item),
                #[cfg(target_arch = "x86_64")]
                (Stored::Float32, Isa::Avx2) => attend_avx2::<PLAIN>(self, item),
                (Stored::Float32, Isa::Scalar) => attend::<Numbers<Floats<simd::Scalar>>, PLAIN>(self, item),
                #[cfg(target_arch = "x86_64")]
                (Stored::Bfloat16, Isa::Avx512) => attend_avx512_bf16::<PLAIN>(self, item),
                (Stored::Bfloat16, _) => attend::<Numbers<form::Pairs>, PLAIN>(self, item),
                #[cfg(target_arch = "x86_64")]
                (Stored::Int8, Isa::Avx512) => attend_avx512_bytes::<PLAIN>(self, item),
                #[cfg(target_arch = "x86_64")]
                (Stored::Int8, Isa::Avx2) => attend_avx2_bytes::<PLAIN>(self, item),
                (Stored::Int8, Isa::Scalar) => attend::<Bytes<simd::Scalar>, PLAIN>(self, item),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn attend_avx512<const PLAIN: bool>(call: &Call<'_>, item: Item) {
    // SAFETY: compiled for the features that Avx512 stands for.
    unsafe { attend::<Numbers<Floats<simd::x86::Avx512>>, PLAIN>(call, item) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn attend_avx512_bf16<const PLAIN: bool>(call: &Call<'_>, item: Item) {
    // SAFETY: compiled for the features that Avx512Pairs stands for.
    unsafe { attend::<Numbers<form::x86::Avx512Pairs>, PLAIN>(call, item) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn attend_avx2<const PLAIN: bool>(call: &Call<'_>, item: Item) {
    // SAFETY: compiled for the features that Avx2 stands for.
    unsafe { attend::<Numbers<Floats<simd::x86::Avx2>>, PLAIN>(call, item) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn attend_avx512_bytes<const PLAIN: bool>(call: &Call<'_>, item: Item) {
    // SAFETY: compiled for the features that Avx512 stands for, with its products of bytes.
    unsafe { attend::<Bytes<simd::x86::Avx512>, PLAIN>(call, item) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn attend_avx2_bytes<const PLAIN: bool>(call: &Call<'_>, item: Item) {
    // SAFETY: compiled for the features that Avx2 stands for.
    unsafe { attend::<Bytes<simd::x86::Avx2>, PLAIN>(call, item) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn prepare_avx512(call: &Call<'_>, token: usize, position: usize, slot: Option<usize>) {
    // SAFETY: compiled for the features that Avx512 stands for.
    unsafe { prepare::<Floats<simd::x86::Avx512>>(call, token, position, slot) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn prepare_avx512_bf16(call: &Call<'_>, token: usize, position: usize, slot: Option<usize>) {
    // SAFETY: compiled for the features that Avx512Pairs stands for.
    unsafe { prepare::<form::x86::Avx512Pairs>(call, token, position, slot) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn prepare_avx2(call: &Call<'_>, token: usize, position: usize, slot: Option<usize>) {
    // SAFETY: compiled for the features that Avx2 stands for.
    unsafe { prepare::<Floats<simd::x86::Avx2>>(call, token, position, slot) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn prepare_avx512_bytes(call: &Call<'_>, token: usize, position: usize, slot: Option<usize>) {
    // SAFETY: compiled for the features that Avx512 stands for, with its products of bytes.
    unsafe { bytes::prepare::<simd::x86::Avx512>(call, token, position, slot) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn prepare_avx2_bytes(call: &Call<'_>, token: usize, position: usize, slot: Option<usize>) {
    // SAFETY: compiled for the features that Avx2 stands for.
    unsafe { bytes::prepare::<simd::x86::Avx2>(call, token, position, slot) }
}
