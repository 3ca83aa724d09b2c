//! The parts of the quantised forms with blocks of 32, for exports that keep their blocks.

use super::{Format, half_at, k_quants};

/// A block of 32 elements: value = `scale` × quant, plus `minimum`. In symmetric forms quants are signed and there is no
/// minimum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::export) struct Block {
    pub(in crate::export) scale: f32,
    pub(in crate::export) minimum: Option<f32>,
}

/// The blocks of 32 in whole stored blocks of a form.
pub(in crate::export) type Blocks = fn(&[u8]) -> Vec<Block>;

impl Format {
    /// The function that reads the blocks, and the bits of a quant; none for forms without such blocks.
    pub(in crate::export) fn affine_blocks(&self) -> Option<(usize, Blocks)> {
        match self.name {
            "Q4_0" => Some((4, symmetric::<18>)),
            "Q5_0" => Some((5, symmetric::<22>)),
            "Q8_0" => Some((8, symmetric::<34>)),
            "Q4_1" => Some((4, with_minima)),
            "Q4_K" => Some((4, superblocks)),
            _ => None,
        }
    }
}

fn symmetric<const BYTES: usize>(stored: &[u8]) -> Vec<Block> {
    let blocks = stored.as_chunks::<BYTES>().0.iter();
    blocks.map(|block| Block { scale: half_at(block, 0), minimum: None }).collect()
}

fn with_minima(stored: &[u8]) -> Vec<Block> {
    let blocks = stored.as_chunks::<20>().0.iter();
    blocks.map(|block| Block { scale: half_at(block, 0), minimum: Some(half_at(block, 2)) }).collect()
}

fn superblocks(stored: &[u8]) -> Vec<Block> {
    let rows = stored.as_chunks::<144>().0.iter().flat_map(|block| k_quants::rows_of_scales(block));
    rows.map(|(scale, minimum)| Block { scale, minimum: Some(-minimum) }).collect()
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::super::GGUF_FORMATS;

    /// Bytes without a pattern, halves where `halves` lie, so that no scale is infinite.
    fn noise(length: usize, halves: &[usize]) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..length as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for (index, at) in halves.iter().enumerate() {
            bytes[*at..at + 2].copy_from_slice(&f16::from_f32(0.0625 * (index as f32 + 1.0)).to_le_bytes());
        }
        bytes
    }

    #[test]
    fn values_are_whole_quants_of_their_blocks() {
        let mut checked = 0;
        for format in GGUF_FORMATS {
            let Some((bits, blocks)) = format.affine_blocks() else { continue };
            let stored = noise(format.block_bytes, &[0, 2]);
            let mut values = vec![0.0; format.block_elements];
            (format.widen)(&stored, &mut values);
            let blocks = blocks(&stored);
            assert_eq!(32 * blocks.len(), values.len(), "{}", format.name);
            for (values, block) in values.as_chunks::<32>().0.iter().zip(blocks) {
                for value in values {
                    let quant = (value - block.minimum.unwrap_or(0.0)) / block.scale;
                    assert!((quant - quant.round()).abs() < 1e-3, "{}: {quant}", format.name);
                    let (least, most) = match block.minimum {
                        Some(_) => (0.0, f32::from((1u16 << bits) - 1)),
                        None => (-f32::from(1u16 << (bits - 1)), f32::from((1u16 << (bits - 1)) - 1)),
                    };
                    assert!((least..=most).contains(&quant.round()), "{}: {quant}", format.name);
                }
            }
            checked += 1;
        }
        assert_eq!(checked, 5);
    }
}
