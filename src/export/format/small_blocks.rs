//! ggml's small blocks: a scale, sometimes a minimum (both f16), then 32 packed integers.

use super::half_at;

/// The low nibbles are a block's first half, the high nibbles its second.
fn widen_nibbles(nibbles: &[u8], values: &mut [f32; 32], widen: impl Fn(usize, u8) -> f32) {
    for (index, byte) in nibbles.iter().enumerate() {
        values[index] = widen(index, byte & 0x0f);
        values[index + 16] = widen(index + 16, byte >> 4);
    }
}

/// Bit `index` of the four bytes at `at`, as the fifth bit of a number.
fn fifth_bit(block: &[u8], at: usize, index: usize) -> u8 {
    (block[at + index / 8] >> (index % 8) & 1) << 4
}

/// Scale, then 32 nibbles around 8.
pub(super) fn widen_q4_0(input: &[u8], output: &mut [f32]) {
    for (block, values) in input.as_chunks::<18>().0.iter().zip(output.as_chunks_mut().0) {
        let scale = half_at(block, 0);
        widen_nibbles(&block[2..], values, |_, nibble| f32::from(i16::from(nibble) - 8) * scale);
    }
}

/// Scale and minimum, then 32 nibbles. Product and sum are rounded one after the other, as ggml's reference does.
pub(super) fn widen_q4_1(input: &[u8], output: &mut [f32]) {
    for (block, values) in input.as_chunks::<20>().0.iter().zip(output.as_chunks_mut().0) {
        let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
        widen_nibbles(&block[4..], values, |_, nibble| f32::from(nibble) * scale + minimum);
    }
}

/// Scale, the fifth bits, then 32 nibbles; together around 16.
pub(super) fn widen_q5_0(input: &[u8], output: &mut [f32]) {
    for (block, values) in input.as_chunks::<22>().0.iter().zip(output.as_chunks_mut().0) {
        let scale = half_at(block, 0);
        widen_nibbles(&block[6..], values, |index, nibble| {
            f32::from(i16::from(nibble | fifth_bit(block, 2, index)) - 16) * scale
        });
    }
}

/// Scale and minimum, the fifth bits, then 32 nibbles.
pub(super) fn widen_q5_1(input: &[u8], output: &mut [f32]) {
    for (block, values) in input.as_chunks::<24>().0.iter().zip(output.as_chunks_mut().0) {
        let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
        widen_nibbles(&block[8..], values, |index, nibble| {
            f32::from(nibble | fifth_bit(block, 4, index)) * scale + minimum
        });
    }
}

/// Scale, then 32 signed bytes.
pub(super) fn widen_q8_0(input: &[u8], output: &mut [f32]) {
    for (block, values) in input.as_chunks::<34>().0.iter().zip(output.as_chunks_mut::<32>().0) {
        let scale = half_at(block, 0);
        for (byte, value) in block[2..].iter().zip(values) {
            *value = f32::from(byte.cast_signed()) * scale;
        }
    }
}
