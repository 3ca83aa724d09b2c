//! The difference that an adapter makes to a matrix.

use crate::export::checkpoint::Tensor;

/// Two narrow matrices, whose product times a factor is added to a weight.
#[derive(Debug)]
pub(in crate::export) struct Delta {
    /// [rows, rank]
    left: Vec<f32>,
    /// [rank, columns]
    right: Vec<f32>,
    rank: usize,
    columns: usize,
    scale: f32,
}

impl Delta {
    /// For a weight of [rows, columns]. The lengths of the matrices are multiples of `rank`.
    pub(super) fn new(left: Vec<f32>, right: Vec<f32>, rank: usize, scale: f32) -> Self {
        let columns = right.len() / rank.max(1);
        Delta { left, right, rank, columns, scale }
    }

    pub(super) fn shape(&self) -> [usize; 2] {
        [self.left.len() / self.rank.max(1), self.columns]
    }

    /// Adds its row `row` to that of the weight. The factor comes last, as in PEFT.
    pub(in crate::export) fn add_to(&self, row: usize, values: &mut [f32]) {
        let mut sums = vec![0.0; self.columns];
        let factors = &self.left[row * self.rank..(row + 1) * self.rank];
        for (factor, right) in factors.iter().zip(self.right.chunks_exact(self.columns.max(1))) {
            sums.iter_mut().zip(right).for_each(|(sum, value)| *sum += factor * value);
        }
        values.iter_mut().zip(&sums).for_each(|(value, sum)| *value += sum * self.scale);
    }

    /// More than any of its numbers, without the sign, and than any sum on the way. NaN where the factor is not finite.
    pub(in crate::export) fn bound(&self) -> f64 {
        let largest = |values: &[f32]| values.iter().fold(0.0_f64, |most, value| most.max(f64::from(value.abs())));
        // The factor comes last, so a small one doesn't help.
        self.rank as f64 * largest(&self.left) * largest(&self.right) * f64::from(self.scale.abs()).max(1.0)
    }
}

/// The float32 values of a matrix, and of a transposed one.
pub(super) fn values(tensor: &Tensor, data: &[u8]) -> Vec<f32> {
    let mut values = vec![0.0; tensor.elements()];
    (tensor.format.widen)(&data[tensor.offset..tensor.offset + tensor.bytes], &mut values);
    values
}

pub(super) fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    let rows = values.len() / columns.max(1);
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_gets_the_scaled_product() {
        // [[1, 2], [3, 4], [5, 6]] times [[1, 0, 2, 1], [0, 1, 1, 1]], halved.
        let delta =
            Delta::new(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], vec![1.0, 0.0, 2.0, 1.0, 0.0, 1.0, 1.0, 1.0], 2, 0.5);
        assert_eq!(delta.shape(), [3, 4]);
        let mut row = [10.0, 20.0, 30.0, 40.0];
        delta.add_to(1, &mut row);
        assert_eq!(row, [11.5, 22.0, 35.0, 43.5]);
        assert!(delta.bound() >= 8.5);
        assert_eq!(transposed(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    }
}
