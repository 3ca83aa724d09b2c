//! Finds the quants of values, and the blocks that suit them.

use super::super::format::affine::Block;

/// The nearest quants of `values` between 0 and `most`, where zero is at `origin`.
fn round(values: &[f32], scale: f32, origin: f32, most: u8, quants: &mut [u8]) {
    let inverse = if scale == 0.0 { 0.0 } else { scale.recip() };
    for (value, quant) in values.iter().zip(quants) {
        *quant = (value * inverse + origin).round_ties_even().clamp(0.0, f32::from(most)) as u8;
    }
}

/// Quants of a block that is known: exact where the block has them.
pub(super) fn carried(values: &[f32], block: Block, bits: usize, quants: &mut [u8]) {
    let most = u8::MAX >> (8 - bits);
    let Some(minimum) = block.minimum else {
        return round(values, block.scale, f32::from(1u8 << (bits - 1)), most, quants);
    };
    let above: Vec<f32> = values.iter().map(|value| value - minimum).collect();
    round(&above, block.scale, 0.0, most, quants);
}

/// The symmetric block of `values`, as ggml makes Q8_0 and Q4_0: the largest value is 127 steps away from zero in eight
/// bits, and in four bits it is eight steps below, so that all sixteen quants are of use.
pub(super) fn symmetric(values: &[f32], bits: usize, quants: &mut [u8]) -> Block {
    let largest = values.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or(0.0);
    let scale = if bits == 8 { largest.abs() / 127.0 } else { largest / -8.0 };
    let block = Block { scale, minimum: None };
    carried(values, block, bits, quants);
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
    fn eight_bits_are_within_half_a_step() {
        let values = noise(32);
        let mut quants = [0; 32];
        let block = symmetric(&values, 8, &mut quants);
        for (value, quant) in values.iter().zip(quants) {
            let restored = block.scale * (f32::from(quant) - 128.0);
            assert!((value - restored).abs() <= 0.5001 * block.scale, "{value} became {restored}");
        }
    }

    #[test]
    fn four_bits_use_all_quants_of_the_longer_side() {
        let mut quants = [0; 4];
        let block = symmetric(&[-1.0, 0.5, 4.0, 0.0], 4, &mut quants);
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
        assert_eq!(symmetric(&[0.0; 3], 8, &mut quants).scale, 0.0);
        assert_eq!(quants, [128; 3]);
        // Garbage in, garbage out, but no panic.
        with_minimum(&[f32::NAN, f32::INFINITY, 0.0], &mut quants);
        symmetric(&[f32::NAN, f32::INFINITY, 0.0], 4, &mut quants);
    }
}
