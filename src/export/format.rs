//! How checkpoints store numbers, and how each form widens to float32.
//!
//! The blocks of the quantised forms are ggml's: a few scales, then packed integers. Another form is one more row.

use half::{bf16, f16};

/// One way of storing the elements of a tensor.
#[derive(Debug)]
pub(crate) struct Format {
    /// The name that messages use.
    pub(super) name: &'static str,
    /// The number of this type in GGUF files; none for forms that GGUF lacks.
    pub(super) ggml_type: u32,
    /// Elements that are stored together.
    pub(super) block_elements: usize,
    /// Bytes of such a block.
    pub(super) block_bytes: usize,
    /// Widens whole blocks: `input` is n·`block_bytes` long and `output` n·`block_elements`.
    pub(super) widen: fn(input: &[u8], output: &mut [f32]),
}

pub(super) static F32: Format =
    Format { name: "F32", ggml_type: 0, block_elements: 1, block_bytes: 4, widen: widen_f32 };
pub(super) static F16: Format =
    Format { name: "F16", ggml_type: 1, block_elements: 1, block_bytes: 2, widen: widen_f16 };
pub(super) static BF16: Format =
    Format { name: "BF16", ggml_type: 30, block_elements: 1, block_bytes: 2, widen: widen_bf16 };
pub(super) static Q4_0: Format =
    Format { name: "Q4_0", ggml_type: 2, block_elements: 32, block_bytes: 18, widen: widen_q4_0 };
pub(super) static Q4_1: Format =
    Format { name: "Q4_1", ggml_type: 3, block_elements: 32, block_bytes: 20, widen: widen_q4_1 };
pub(super) static Q8_0: Format =
    Format { name: "Q8_0", ggml_type: 8, block_elements: 32, block_bytes: 34, widen: widen_q8_0 };

/// The forms that GGUF tensors may have.
pub(super) static GGUF_FORMATS: [&Format; 6] = [&F32, &F16, &BF16, &Q4_0, &Q4_1, &Q8_0];

/// The names of ggml's types by number, so that what can't be read is at least refused by name.
const GGML_TYPE_NAMES: &[(u32, &str)] = &[
    (6, "Q5_0"),
    (7, "Q5_1"),
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (12, "Q4_K"),
    (13, "Q5_K"),
    (14, "Q6_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

/// The form with this number in GGUF files; otherwise what to call it in a refusal.
pub(super) fn from_ggml(number: u32) -> Result<&'static Format, String> {
    GGUF_FORMATS.into_iter().find(|format| format.ggml_type == number).ok_or_else(|| {
        GGML_TYPE_NAMES
            .iter()
            .find(|(known, _)| *known == number)
            .map_or_else(|| format!("number {number}"), |(_, name)| (*name).to_owned())
    })
}

impl Format {
    /// The bytes that `elements` take; none where they don't fill whole blocks or overflow.
    pub(super) fn bytes(&self, elements: u64) -> Option<u64> {
        if !elements.is_multiple_of(self.block_elements as u64) {
            return None;
        }
        (elements / self.block_elements as u64).checked_mul(self.block_bytes as u64)
    }
}

fn pair(bytes: &[u8]) -> [u8; 2] {
    [bytes[0], bytes[1]]
}

fn widen_f32(input: &[u8], output: &mut [f32]) {
    for (bytes, value) in input.chunks_exact(4).zip(output) {
        *value = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
}

fn widen_f16(input: &[u8], output: &mut [f32]) {
    for (bytes, value) in input.chunks_exact(2).zip(output) {
        *value = f16::from_le_bytes(pair(bytes)).to_f32();
    }
}

fn widen_bf16(input: &[u8], output: &mut [f32]) {
    for (bytes, value) in input.chunks_exact(2).zip(output) {
        *value = bf16::from_le_bytes(pair(bytes)).to_f32();
    }
}

/// The low nibbles are a block's first half, the high nibbles its second.
fn widen_nibbles(nibbles: &[u8], values: &mut [f32], widen: impl Fn(u8) -> f32) {
    let (first, second) = values.split_at_mut(nibbles.len());
    for ((byte, low), high) in nibbles.iter().zip(first).zip(second) {
        *low = widen(byte & 0x0f);
        *high = widen(byte >> 4);
    }
}

/// Scale (f16), then 32 nibbles around 8.
fn widen_q4_0(input: &[u8], output: &mut [f32]) {
    for (block, values) in input.chunks_exact(18).zip(output.chunks_exact_mut(32)) {
        let scale = f16::from_le_bytes(pair(block)).to_f32();
        widen_nibbles(&block[2..], values, |nibble| f32::from(i16::from(nibble) - 8) * scale);
    }
}

/// Scale and minimum (f16), then 32 nibbles.
fn widen_q4_1(input: &[u8], output: &mut [f32]) {
    for (block, values) in input.chunks_exact(20).zip(output.chunks_exact_mut(32)) {
        let scale = f16::from_le_bytes(pair(block)).to_f32();
        let minimum = f16::from_le_bytes(pair(&block[2..])).to_f32();
        // Product and sum are rounded one after the other, as ggml's reference does.
        widen_nibbles(&block[4..], values, |nibble| f32::from(nibble) * scale + minimum);
    }
}

/// Scale (f16), then 32 signed bytes.
fn widen_q8_0(input: &[u8], output: &mut [f32]) {
    for (block, values) in input.chunks_exact(34).zip(output.chunks_exact_mut(32)) {
        let scale = f16::from_le_bytes(pair(block)).to_f32();
        for (byte, value) in block[2..].iter().zip(values) {
            *value = f32::from(byte.cast_signed()) * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn widen(format: &Format, input: &[u8]) -> Vec<f32> {
        let mut output = vec![f32::NAN; input.len() / format.block_bytes * format.block_elements];
        (format.widen)(input, &mut output);
        output
    }

    fn block(scales: &[f32], quants: impl IntoIterator<Item = u8>) -> Vec<u8> {
        scales.iter().flat_map(|scale| f16::from_f32(*scale).to_le_bytes()).chain(quants).collect()
    }

    #[test]
    fn plain_forms_widen_exactly() {
        assert_eq!(widen(&F32, &1.25f32.to_le_bytes()), [1.25]);
        assert_eq!(widen(&F16, &[0x00, 0xc2, 0x01, 0x00]), [-3.0, f32::powi(2.0, -24)]);
        assert_eq!(widen(&BF16, &[0x80, 0x3f, 0x40, 0xc0]), [1.0, -3.0]);
    }

    #[test]
    fn q4_0_centres_its_nibbles_on_eight() {
        // Byte j holds nibble j (low) and 15 - j (high).
        let values = widen(&Q4_0, &block(&[0.5], (0..16).map(|j| j | (15 - j) << 4)));
        let expected: Vec<f32> = (0..16).chain((0..16).rev()).map(|nibble| (nibble as f32 - 8.0) * 0.5).collect();
        assert_eq!(values, expected);
    }

    #[test]
    fn q4_1_adds_its_minimum() {
        let values = widen(&Q4_1, &block(&[0.25, -2.0], [0x3fu8; 16]));
        assert_eq!(values[..16], [15.0 * 0.25 - 2.0; 16]);
        assert_eq!(values[16..], [3.0 * 0.25 - 2.0; 16]);
    }

    #[test]
    fn q8_0_bytes_are_signed() {
        let values = widen(&Q8_0, &block(&[2.0], (0..32).map(|j| if j == 31 { 0x80 } else { j })));
        assert_eq!(values[5], 10.0);
        assert_eq!(values[31], -256.0);
    }

    #[test]
    fn every_row_of_the_table_is_consistent() {
        for format in GGUF_FORMATS {
            assert_eq!(format.bytes(2 * format.block_elements as u64), Some(2 * format.block_bytes as u64));
            assert!(std::ptr::eq(from_ggml(format.ggml_type).unwrap(), format));
            assert_eq!(widen(format, &vec![0; 2 * format.block_bytes]), vec![0.0; 2 * format.block_elements]);
        }
        assert_eq!(Q4_0.bytes(33), None);
        assert_eq!(from_ggml(14).unwrap_err(), "Q6_K");
        assert_eq!(from_ggml(4_000_000_000).unwrap_err(), "number 4000000000");
    }
}
