//! A search for numbers that are not finite in the bytes of weights.
//!
//! A NaN in a weight does not always reach the logits. A search for the largest number skips it, and a model gives
//! finite numbers that mean nothing. So weights are checked before they are used. Only the exponent matters, so the
//! check costs little compared with reading the bytes.

use crate::simd::{Isa, Simd, Work};

/// A format of floating-point numbers, little endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Float {
    Float16,
    Bfloat16,
    Float32,
    Float64,
}

/// The numbers to refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// NaN alone.
    Nan,
    /// NaN and the infinities.
    NonFinite,
    /// These, and numbers whose difference from another may be infinite.
    Huge,
}

impl Float {
    /// Size of a number in bytes.
    pub fn size(self) -> usize {
        match self {
            Float::Float16 | Float::Bfloat16 => 2,
            Float::Float32 => 4,
            Float::Float64 => 8,
        }
    }

    /// The index of the first number in `bytes` that is refused, and the number. Remaining bytes at the end are not
    /// checked.
    pub fn first(self, bytes: &[u8], refused: Refused) -> Option<(usize, f64)> {
        let index = match self {
            Float::Float16 => first(bytes, |b| u16::from_le_bytes(b) & 0x7fff, limit(0x7c00, 1 << 10, refused)),
            Float::Bfloat16 => first(bytes, |b| u16::from_le_bytes(b) & 0x7fff, limit(0x7f80, 1 << 7, refused)),
            Float::Float32 => {
                let limit = limit(0x7f80_0000, 1 << 23, refused);
                first(bytes, |b| u32::from_le_bytes(b) & (u32::MAX >> 1), limit)
            }
            Float::Float64 => {
                let limit = limit(0x7ff0_0000_0000_0000, 1 << 52, refused);
                first(bytes, |b| u64::from_le_bytes(b) & (u64::MAX >> 1), limit)
            }
        }?;
        Some((index, self.number(&bytes[index * self.size()..])))
    }

    /// The number that `bytes` begin with.
    fn number(self, bytes: &[u8]) -> f64 {
        let pair = || [bytes[0], bytes[1]];
        match self {
            Float::Float16 => half::f16::from_le_bytes(pair()).to_f64(),
            Float::Bfloat16 => half::bf16::from_le_bytes(pair()).to_f64(),
            Float::Float32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]).into(),
            Float::Float64 => f64::from_le_bytes(std::array::from_fn(|at| bytes[at])),
        }
    }
}

/// The largest number that is not refused, without its sign, as an integer. `infinity` has the bits of infinity, and
/// `one` is the lowest bit of the exponent.
fn limit<T: Copy + std::ops::Sub<Output = T> + From<u8>>(infinity: T, one: T, refused: Refused) -> T {
    match refused {
        Refused::Nan => infinity,
        Refused::NonFinite => infinity - T::from(1),
        Refused::Huge => infinity - one - T::from(1),
    }
}

fn first<const SIZE: usize, T: PartialOrd + Copy>(
    bytes: &[u8],
    magnitude: impl Fn([u8; SIZE]) -> T,
    limit: T,
) -> Option<usize> {
    Isa::detect().run(First { numbers: bytes.as_chunks().0, magnitude, limit })
}

/// The search, compiled for the processor's widest registers.
struct First<'a, const SIZE: usize, T, F> {
    numbers: &'a [[u8; SIZE]],
    magnitude: F,
    limit: T,
}

impl<const SIZE: usize, T: PartialOrd + Copy, F: Fn([u8; SIZE]) -> T> Work for First<'_, SIZE, T, F> {
    type Output = Option<usize>;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Option<usize> {
        // Without an early exit, the inner loop processes many numbers at a time.
        const PIECE: usize = 1024;
        let refused = |number: &[u8; SIZE]| (self.magnitude)(*number) > self.limit;
        for (index, piece) in self.numbers.chunks(PIECE).enumerate() {
            if piece.iter().fold(false, |any, number| any | refused(number)) {
                return piece.iter().position(refused).map(|at| index * PIECE + at);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_found_wherever_it_stands_in_every_form() {
        const NAN: u64 = 0x7ff8_0000_0000_0000;
        let write = |form: Float, x: f64| match form {
            Float::Float16 => half::f16::from_f64(x).to_le_bytes().to_vec(),
            Float::Bfloat16 => half::bf16::from_f64(x).to_le_bytes().to_vec(),
            Float::Float32 => (x as f32).to_le_bytes().to_vec(),
            Float::Float64 => x.to_le_bytes().to_vec(),
        };
        for form in [Float::Float16, Float::Bfloat16, Float::Float32, Float::Float64] {
            let sound: Vec<u8> = (0..3000).flat_map(|at| write(form, f64::from(at) - 1500.0)).collect();
            assert_eq!(form.first(&sound, Refused::NonFinite), None, "{form:?}");
            for (at, x) in
                [(0, f64::INFINITY), (1023, f64::NEG_INFINITY), (1024, f64::from_bits(NAN)), (2999, -f64::NAN)]
            {
                let mut bytes = sound.clone();
                bytes[at * form.size()..][..form.size()].copy_from_slice(&write(form, x));
                let (found, number) = form.first(&bytes, Refused::NonFinite).unwrap();
                assert_eq!((found, number.is_nan()), (at, x.is_nan()), "{form:?}");
                let nan = form.first(&bytes, Refused::Nan).map(|(at, _)| at);
                assert_eq!(nan, x.is_nan().then_some(at), "{form:?}");
            }
        }
        assert_eq!(Float::Float32.first(&f32::MAX.to_le_bytes(), Refused::NonFinite), None);
        assert!(Float::Float32.first(&f32::MAX.to_le_bytes(), Refused::Huge).is_some());
        assert!(Float::Float32.first(&1.6e38f32.to_le_bytes(), Refused::Huge).is_none());
    }
}
