//! Forms against values worked out by hand; `gguf/tests` holds all of them to ggml's.

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
    assert_eq!(Q6_K.bytes(255), None);
    assert_eq!(from_ggml(15).unwrap_err(), "Q8_K");
    assert_eq!(from_ggml(4_000_000_000).unwrap_err(), "number 4000000000");
}
