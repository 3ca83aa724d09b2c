//! The linear algebra that [`super::posterior`] needs.

/// A square matrix.
#[derive(Debug, Clone)]
pub(super) struct Square {
    size: usize,
    /// By rows.
    values: Vec<f64>,
}

impl Square {
    pub(super) fn zero(size: usize) -> Self {
        Square { size, values: vec![0.0; size * size] }
    }

    pub(super) fn at(&mut self, row: usize, column: usize) -> &mut f64 {
        &mut self.values[row * self.size + column]
    }
}

/// L of a symmetric, positive definite matrix L·Lᵀ.
#[derive(Debug)]
pub(super) struct Cholesky(Square);

impl Cholesky {
    /// `None` for a matrix that isn't positive definite.
    pub(super) fn of(mut matrix: Square) -> Option<Self> {
        let size = matrix.size;
        for row in 0..size {
            for column in 0..=row {
                let (above, here) = matrix.values.split_at(row * size);
                let other = if column < row { &above[column * size..][..column] } else { &here[..column] };
                let product: f64 = here.iter().zip(other).map(|(a, b)| a * b).sum();
                let rest = here[column] - product;
                let value = if column < row { rest / above[column * size + column] } else { rest.sqrt() };
                if !value.is_finite() || (column == row && value == 0.0) {
                    return None;
                }
                *matrix.at(row, column) = value;
            }
        }
        Some(Cholesky(matrix))
    }

    /// x where L·Lᵀ·x = `b`.
    pub(super) fn solve(&self, b: &[f64]) -> Vec<f64> {
        let Square { size, values } = &self.0;
        let mut x = b.to_vec();
        for row in 0..*size {
            let product: f64 = values[row * size..][..row].iter().zip(&x).map(|(l, x)| l * x).sum();
            x[row] = (x[row] - product) / values[row * size + row];
        }
        self.solve_transposed(&mut x);
        x
    }

    /// Replaces b by x where Lᵀ·x = b.
    pub(super) fn solve_transposed(&self, b: &mut [f64]) {
        let Square { size, values } = &self.0;
        for row in (0..*size).rev() {
            b[row] /= values[row * size + row];
            let x = b[row];
            // Column by column, so that rows of L are read in order.
            b[..row].iter_mut().zip(&values[row * size..][..row]).for_each(|(b, l)| *b -= l * x);
        }
    }

    /// ln det(L·Lᵀ).
    pub(super) fn log_determinant(&self) -> f64 {
        let Square { size, values } = &self.0;
        (0..*size).map(|at| 2.0 * values[at * size + at].ln()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: [[f64; 3]; 3]) -> Square {
        Square { size: 3, values: rows.concat() }
    }

    #[test]
    fn three_by_three_by_hand() {
        // L = [[2, 0, 0], [1, 3, 0], [-1, 2, 1]].
        let cholesky = Cholesky::of(matrix([[4.0, 2.0, -2.0], [2.0, 10.0, 5.0], [-2.0, 5.0, 6.0]])).unwrap();
        // The matrix times [1, 2, 3].
        for (x, expected) in cholesky.solve(&[2.0, 37.0, 26.0]).iter().zip([1.0, 2.0, 3.0]) {
            assert!((x - expected).abs() < 1e-12, "{x}");
        }
        // The transpose of L times [1, 2, 3].
        let mut x = [1.0, 12.0, 3.0];
        cholesky.solve_transposed(&mut x);
        assert_eq!(x, [1.0, 2.0, 3.0]);
        assert!((cholesky.log_determinant() - 36.0_f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn what_is_not_positive_definite_is_refused() {
        assert!(Cholesky::of(matrix([[1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 1.0]])).is_none());
        assert!(Cholesky::of(Square::zero(2)).is_none());
    }
}
