//! The mean of samples.

use statrs::distribution::{Continuous, ContinuousCDF, StudentsT};

/// A mean with its error. A field is `None` where its value is unknown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The mean of the samples.
    pub mean: f64,
    /// Standard error of the mean: the samples' standard deviation (n − 1 in the denominator) over √n. Unknown at n = 1.
    pub std_error: Option<f64>,
    /// 95% interval of the mean by Student's t with n − 1 degrees of freedom. Unlike ±2 standard errors, it holds at small n.
    /// Unknown at n = 1.
    pub interval: Option<[f64; 2]>,
    /// Number of samples; at least 1.
    pub n: usize,
}

impl Estimate {
    /// The estimate from `samples`. `None` if there are no samples, or if the mean is not finite.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let n = samples.len();
        let mean = samples.iter().sum::<f64>() / n as f64;
        if n == 0 || !mean.is_finite() {
            return None;
        }
        let estimate = Estimate { mean, std_error: None, interval: None, n };
        if n == 1 {
            return Some(estimate);
        }
        let variance = samples.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
        let std_error = Some((variance / n as f64).sqrt()).filter(|error| error.is_finite());
        let interval = std_error.and_then(|error| {
            let half = t_quantile_975((n - 1) as f64)? * error;
            Some([mean - half, mean + half]).filter(|bounds| bounds.iter().all(|bound| bound.is_finite()))
        });
        Some(Estimate { std_error, interval, ..estimate })
    }
}

/// The 97.5% quantile of Student's t.
pub(super) fn t_quantile_975(degrees_of_freedom: f64) -> Option<f64> {
    let distribution = StudentsT::new(0.0, 1.0, degrees_of_freedom).ok()?;
    let t = distribution.inverse_cdf(0.975);
    // The inverse is exact to about 11 digits. One Newton step makes it as exact as the distribution function.
    Some(t - (distribution.cdf(t) - 0.975) / distribution.pdf(t))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_the_published_ones() {
        // From any table of the t distribution, two-sided 95%.
        for (degrees_of_freedom, quantile) in [
            (1, 12.706_204_736),
            (2, 4.302_652_730),
            (3, 3.182_446_305),
            (4, 2.776_445_105),
            (5, 2.570_581_836),
            (9, 2.262_157_163),
            (30, 2.042_272_456),
            (1000, 1.962_339_081),
        ] {
            let computed = t_quantile_975(f64::from(degrees_of_freedom)).unwrap();
            assert!((computed - quantile).abs() < 1e-9, "{degrees_of_freedom}: {computed}");
        }
        // With one and two degrees of freedom there are closed forms.
        let one = (0.475 * std::f64::consts::PI).tan();
        let two = 0.95 * (2.0 / (1.0 - 0.95 * 0.95_f64)).sqrt();
        assert!((t_quantile_975(1.0).unwrap() - one).abs() < 1e-12);
        assert!((t_quantile_975(2.0).unwrap() - two).abs() < 1e-12);
    }

    #[test]
    fn three_samples_by_hand() {
        let estimate = Estimate::of(&[1.0, 2.0, 6.0]).unwrap();
        assert_eq!(estimate.mean, 3.0);
        // Deviations −2, −1, 3: variance 14 / 2 = 7, standard error √(7/3).
        let error = (7.0_f64 / 3.0).sqrt();
        assert!((estimate.std_error.unwrap() - error).abs() < 1e-12);
        let [low, high] = estimate.interval.unwrap();
        assert!((high - low - 2.0 * 4.302_652_729_7 * error).abs() < 1e-8);
        assert!((low + high - 6.0).abs() < 1e-12);
    }

    #[test]
    fn what_is_unknown_is_none() {
        assert_eq!(Estimate::of(&[]), None);
        assert_eq!(Estimate::of(&[f64::NAN, 1.0]), None);
        assert_eq!(Estimate::of(&[0.5]), Some(Estimate { mean: 0.5, std_error: None, interval: None, n: 1 }));
        let wild = Estimate::of(&[1e200, -1e200, 0.0]).unwrap();
        assert_eq!((wild.std_error, wild.interval), (None, None));
        let same = Estimate::of(&[0.25; 4]).unwrap();
        assert_eq!((same.std_error, same.interval), (Some(0.0), Some([0.25, 0.25])));
    }
}
