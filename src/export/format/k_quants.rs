//! ggml's K-quants: superblocks of 256 elements, in eight rows of 32, whose sub-blocks have scales of their own, which
//! are themselves integers under one scale (f16) of the superblock.
//!
//! A value is (scale × sub-scale) × quant, less (minimum × sub-minimum) where the form has minima, each step rounded,
//! as ggml's reference does.

use super::half_at;

/// Element `index` of row `row`, where numbers of `BITS` bits are packed so that row follows row within 32 bytes,
/// lowest bits first.
fn packed<const BITS: usize>(bytes: &[u8], row: usize, index: usize) -> u8 {
    let rows = 8 / BITS;
    bytes[32 * (row / rows) + index] >> (BITS * (row % rows)) & ((1 << BITS) - 1)
}

/// Calls `widen` with the row and the index in it of every element.
fn widen_rows(values: &mut [f32; 256], widen: impl Fn(usize, usize) -> f32) {
    for (row, values) in values.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for (index, value) in values.iter_mut().enumerate() {
            *value = widen(row, index);
        }
    }
}

/// Sub-block of 16 that an element lies in.
fn sixteenth(row: usize, index: usize) -> usize {
    2 * row + index / 16
}

/// 16 bytes of sub-scale (low nibble) and sub-minimum (high), 64 bytes of 2-bit quants, scale, minimum.
pub(super) fn widen_q2_k(input: &[u8], output: &mut [f32]) {
    for (block, values) in input.as_chunks::<84>().0.iter().zip(output.as_chunks_mut().0) {
        let (sub, quants) = block.split_at(16);
        let (scale, minimum) = (half_at(block, 80), half_at(block, 82));
        let scales: [f32; 16] = std::array::from_fn(|at| scale * f32::from(sub[at] & 0x0f));
        let minima: [f32; 16] = std::array::from_fn(|at| minimum * f32::from(sub[at] >> 4));
        widen_rows(values, |row, index| {
            let at = sixteenth(row, index);
            scales[at] * f32::from(packed::<2>(quants, row, index)) - minima[at]
        });
    }
}

/// 32 bytes of third bits, 64 bytes of 2-bit quants, 12 bytes of sub-scales, scale. A third bit that is not set takes
/// four away.
pub(super) fn widen_q3_k(input: &[u8], output: &mut [f32]) {
    for (block, values) in input.as_chunks::<110>().0.iter().zip(output.as_chunks_mut().0) {
        let (third, quants, sub) = (&block[..32], &block[32..96], &block[96..108]);
        let scale = half_at(block, 108);
        let scales: [f32; 16] = std::array::from_fn(|at| {
            let low = sub[at % 8] >> (4 * (at / 8)) & 0x0f;
            let high = sub[8 + at % 4] >> (2 * (at / 4)) & 0x03;
            scale * f32::from(i16::from(low | high << 4) - 32)
        });
        widen_rows(values, |row, index| {
            let quant = i16::from(packed::<2>(quants, row, index)) + 4 * i16::from(packed::<1>(third, row, index)) - 4;
            scales[sixteenth(row, index)] * f32::from(quant)
        });
    }
}

/// The scale and the minimum of each row, from what Q4_K and Q5_K begin with: scale, minimum, then 12 bytes: six bits
/// for each of the scales and minima of rows 0 to 3, whose upper two bits are those of rows 4 to 7, and the lower four
/// bits of the latter.
pub(super) fn rows_of_scales(block: &[u8]) -> [(f32, f32); 8] {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let sub = &block[4..16];
    std::array::from_fn(|row| {
        let at = row % 4;
        let (sub_scale, sub_minimum) = if row < 4 {
            (sub[at] & 0x3f, sub[at + 4] & 0x3f)
        } else {
            (sub[at + 8] & 0x0f | sub[at] >> 6 << 4, sub[at + 8] >> 4 | sub[at + 4] >> 6 << 4)
        };
        (scale * f32::from(sub_scale), minimum * f32::from(sub_minimum))
    })
}

/// Scales and minima, then 128 bytes of nibbles.
pub(super) fn widen_q4_k(input: &[u8], output: &mut [f32]) {
    for (block, values) in input.as_chunks::<144>().0.iter().zip(output.as_chunks_mut().0) {
        let rows = rows_of_scales(block);
        widen_rows(values, |row, index| {
            let (scale, minimum) = rows[row];
            scale * f32::from(packed::<4>(&block[16..], row, index)) - minimum
        });
    }
}

/// Scales and minima, 32 bytes of fifth bits, then 128 bytes of nibbles.
pub(super) fn widen_q5_k(input: &[u8], output: &mut [f32]) {
    for (block, values) in input.as_chunks::<176>().0.iter().zip(output.as_chunks_mut().0) {
        let rows = rows_of_scales(block);
        let (fifth, nibbles) = block[16..].split_at(32);
        widen_rows(values, |row, index| {
            let (scale, minimum) = rows[row];
            let quant = packed::<4>(nibbles, row, index) | packed::<1>(fifth, row, index) << 4;
            scale * f32::from(quant) - minimum
        });
    }
}

/// 128 bytes of nibbles, 64 bytes of upper bits in pairs, 16 signed sub-scales, scale; quants are around 32. Of each
/// 64 bytes of nibbles the low ones are two rows, the high ones the next two.
pub(super) fn widen_q6_k(input: &[u8], output: &mut [f32]) {
    for (block, values) in input.as_chunks::<210>().0.iter().zip(output.as_chunks_mut().0) {
        let (nibbles, upper, sub) = (&block[..128], &block[128..192], &block[192..208]);
        let scale = half_at(block, 208);
        widen_rows(values, |row, index| {
            let nibble = nibbles[64 * (row / 4) + 32 * (row % 2) + index] >> (4 * (row % 4 / 2)) & 0x0f;
            let quant = i16::from(nibble | packed::<2>(upper, row, index) << 4) - 32;
            scale * f32::from(sub[sixteenth(row, index)].cast_signed()) * f32::from(quant)
        });
    }
}
