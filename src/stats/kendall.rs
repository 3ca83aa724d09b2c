//! Agreement of two rankings.

/// Kendall's τ_b of two lists of values: the share of pairs that both put in the same order minus the share that they put in
/// opposite orders, where a pair that one of them ties counts for neither (Kendall 1945). 1 for the same order, −1 for the
/// opposite one. `None` where a list ties everything, or there are fewer than two values.
pub(crate) fn kendall(a: &[f64], b: &[f64]) -> Option<f64> {
    let (mut sum, mut untied) = (0.0, [0.0, 0.0]);
    let sign = |x: f64, y: f64| f64::from(i8::from(x > y) - i8::from(x < y));
    for first in 0..a.len().min(b.len()) {
        for second in 0..first {
            let [of_a, of_b] = [sign(a[first], a[second]), sign(b[first], b[second])];
            sum += of_a * of_b;
            untied[0] += of_a.abs();
            untied[1] += of_b.abs();
        }
    }
    let scale = f64::sqrt(untied[0] * untied[1]);
    (scale > 0.0).then(|| sum / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_scipys() {
        // scipy 1.17: kendalltau(a, b).statistic, variant "b".
        let cases: [(&[f64], &[f64], f64); 4] = [
            (&[1.0, 2.0, 3.0, 4.0], &[1.0, 3.0, 2.0, 4.0], 0.666_666_666_666_666_6),
            (&[1.0, 2.0, 2.0, 4.0, 0.5], &[3.0, 1.0, 2.0, 2.0, 2.5], -0.444_444_444_444_444_4),
            (&[0.1, 0.2, 0.3], &[0.9, 0.5, 0.1], -1.0),
            (&[1.0, 1.0, 2.0, 3.0, 3.0, 3.0], &[2.0, 1.0, 2.0, 2.0, 5.0, 5.0], 0.727_272_727_272_727_3),
        ];
        for (a, b, tau) in cases {
            assert!((kendall(a, b).unwrap() - tau).abs() < 1e-12, "{a:?} {b:?}: {:?}", kendall(a, b));
        }
    }

    #[test]
    fn a_list_without_an_order_agrees_with_nothing() {
        assert_eq!(kendall(&[1.0, 1.0], &[1.0, 2.0]), None);
        assert_eq!(kendall(&[1.0], &[1.0]), None);
    }
}
