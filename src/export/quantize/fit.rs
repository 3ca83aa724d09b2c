//! Finds the quants of values, and the blocks that suit them.

use super::super::format::affine::Block;

/// From here on, float32 has integers only. So a number from 0 to 255 that is added is rounded to the nearest one, ties to even,
/// and that is the lowest byte of the sum. Every processor does this for several numbers at once; a function that rounds is
/// called for each number where instruction sets of later years can't be taken for granted.
const INTEGERS: f32 = 8_388_608.0;

/// The nearest quants between 0 and `most` of `values`, which `steps` turns into steps from the lowest quant.
fn round(values: &[f32], steps: impl Fn(f32) -> f32, most: u8, quants: &mut [u8]) {
    let most = f32::from(most);
    for (value, quant) in values.iter().zip(quants) {
        *quant = (steps(*value).clamp(0.0, most) + INTEGERS).to_bits() as u8;
    }
}

/// Quants of a block that is known: exact where the block has them.
pub(super) fn carried(values: &[f32], block: Block, bits: usize, quants: &mut [u8]) {
    let most = u8::MAX >> (8 - bits);
    let inverse = if block.scale == 0.0 { 0.0 } else { block.scale.recip() };
    match block.minimum {
        Some(minimum) => round(values, |value| (value - minimum) * inverse, most, quants),
        None => {
            let zero = f32::from(1u8 << (bits - 1));
            round(values, |value| value * inverse + zero, most, quants);
        }
    }
}

/// The largest magnitude of `values`.
fn magnitude(values: &[f32]) -> f32 {
    // Magnitudes are in the order of their bits, which processors compare by the vector.
    let bits = values.iter().map(|value| value.abs().to_bits() as i32);
    f32::from_bits(bits.fold(0, i32::max) as u32)
}

/// The symmetric four-bit block of `values`, as ggml makes Q4_0: the largest value is eight steps below zero, so that all
/// sixteen quants are of use.
pub(super) fn symmetric(values: &[f32], quants: &mut [u8]) -> Block {
    let magnitude = magnitude(values);
    let largest = values.iter().rev().find(|value| value.abs() == magnitude).unwrap_or(&magnitude);
    let block = Block { scale: largest / -8.0, minimum: None };
    carried(values, block, 4, quants);
    block
}

/// The numbers of steps, more or less than fifteen, that are tried to span the range of a block.
const STRETCHES: [f32; 6] = [-1.0, -0.5, 0.0, 0.5, 1.0, 1.5];

/// The four-bit block with minimum that comes nearest to `values`. From the block that spans their range and from some
/// that are a little wider or narrower, scale and minimum are fitted to the quants by least squares, quants to these,
/// and so once more.
pub(super) fn with_minimum(values: &[f32], quants: &mut [u8]) -> Block {
    let least = values.iter().copied().fold(f32::INFINITY, f32::min);
    let range = values.iter().copied().fold(f32::NEG_INFINITY, f32::max) - least;
    let mut best = Block { scale: range / 15.0, minimum: Some(least) };
    carried(values, best, 4, quants);
    if range == 0.0 || !range.is_finite() {
        return best;
    }
    let mut error = squared_error(values, best, quants);
    let mut tried = vec![0; values.len()];
    for stretch in STRETCHES {
        let scale = range / (15.0 + stretch);
        // Values beyond the range are cut at both ends.
        let mut block = Block { scale, minimum: Some(least + scale * stretch.max(0.0) / 2.0) };
        for _ in 0..2 {
            carried(values, block, 4, &mut tried);
            block = least_squares(values, &tried, block);
        }
        let e = squared_error(values, block, &tried);
        if e < error {
            (best, error) = (block, e);
            quants.copy_from_slice(&tried);
        }
    }
    best
}

/// Scale and minimum that suit `quants` best; `block` where all quants are equal.
fn least_squares(values: &[f32], quants: &[u8], block: Block) -> Block {
    let n = values.len() as f32;
    let (mut q, mut qq, mut v, mut qv) = (0.0f32, 0.0f32, 0.0f32, 0.0f32);
    for (value, quant) in values.iter().zip(quants) {
        let quant = f32::from(*quant);
        q += quant;
        qq += quant * quant;
        v += value;
        qv += quant * value;
    }
    let determinant = n * qq - q * q;
    if determinant <= 0.0 {
        return block;
    }
    let scale = (n * qv - q * v) / determinant;
    Block { scale, minimum: Some((v - scale * q) / n) }
}

fn squared_error(values: &[f32], block: Block, quants: &[u8]) -> f32 {
    let minimum = block.minimum.unwrap_or(0.0);
    values.iter().zip(quants).map(|(value, quant)| (value - block.scale * f32::from(*quant) - minimum).powi(2)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(length: u32) -> Vec<f32> {
        let bits = (0..length).map(|at| (at + 1).wrapping_mul(2_654_435_761) >> 8);
        bits.map(|bits| bits as f32 / (1 << 24) as f32 - 0.4).collect()
    }

    #[test]
    fn four_bits_use_all_quants_of_the_longer_side() {
        let mut quants = [0; 4];
        let block = symmetric(&[-1.0, 0.5, 4.0, 0.0], &mut quants);
        assert_eq!((block.scale, quants), (-0.5, [10, 7, 0, 8]));
    }

    #[test]
    fn the_search_is_never_worse_than_the_range() {
        for start in 0..50 {
            let values: Vec<f32> = noise(2000)[32 * start..32 * (start + 1)].iter().map(|x| x.powi(3)).collect();
            let least = values.iter().copied().fold(f32::INFINITY, f32::min);
            let most = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let plain = Block { scale: (most - least) / 15.0, minimum: Some(least) };
            let mut quants = [0; 32];
            carried(&values, plain, 4, &mut quants);
            let before = squared_error(&values, plain, &quants);
            let block = with_minimum(&values, &mut quants);
            assert!(squared_error(&values, block, &quants) <= before);
        }
    }

    #[test]
    fn values_on_a_grid_are_found_again() {
        let values: Vec<f32> = (0..32u8).map(|at| 0.25 * f32::from(at % 16) - 1.875).collect();
        let mut quants = [0; 32];
        let block = with_minimum(&values, &mut quants);
        assert_eq!(block, Block { scale: 0.25, minimum: Some(-1.875) });
        assert_eq!(quants[..16], std::array::from_fn::<u8, 16, _>(|at| at as u8));
    }

    #[test]
    fn blocks_without_range_and_without_numbers() {
        let mut quants = [7; 3];
        assert_eq!(with_minimum(&[2.5; 3], &mut quants), Block { scale: 0.0, minimum: Some(2.5) });
        assert_eq!(quants, [0; 3]);
        assert_eq!(symmetric(&[0.0; 3], &mut quants).scale, 0.0);
        assert_eq!(quants, [8; 3]);
        // Garbage in, garbage out, but no panic.
        with_minimum(&[f32::NAN, f32::INFINITY, 0.0], &mut quants);
        symmetric(&[f32::NAN, f32::INFINITY, 0.0], &mut quants);
    }
}
