//! Two means compared.

use serde::{Deserialize, Serialize};

use super::Estimate;
use super::estimate::t_quantile_975;
use crate::json;

/// The difference between the means of two candidates. A field is `None` where its value is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Difference {
    /// The first mean minus the second.
    #[serde(deserialize_with = "json::null_is_nan::number")]
    pub mean: f64,
    /// Its standard error; unknown if either has one sample.
    pub std_error: Option<f64>,
    /// Its 95% interval by Student's t; unknown if either has one sample.
    #[serde(default, deserialize_with = "json::null_is_nan::pair")]
    pub interval: Option<[f64; 2]>,
}

impl Difference {
    /// The difference of the means of `a` and `b`, whose entries are by sample, `None` where missing.
    ///
    /// With `paired`, sample k of both shares its random numbers. The estimate is then that of the differences by sample, over
    /// the samples that both have, so the luck that a sample adds to both drops out. Otherwise the two are independent, with
    /// unequal variances, and each contributes all its samples (Welch 1947; Student's own at two samples each).
    ///
    /// `None` if there is nothing to compare.
    ///
    /// ```
    /// use foreturn::reward::Difference;
    ///
    /// let (a, b) = ([Some(0.9), Some(0.5), Some(0.7)], [Some(0.6), Some(0.2), None]);
    /// let difference = Difference::of(&a, &b, true).unwrap();
    /// assert!((difference.mean - 0.3).abs() < 1e-12 && difference.std_error.unwrap() < 1e-12);
    /// ```
    pub fn of(a: &[Option<f64>], b: &[Option<f64>], paired: bool) -> Option<Self> {
        if paired {
            let differences: Vec<f64> = a.iter().zip(b).filter_map(|(a, b)| Some((*a)? - (*b)?)).collect();
            let Estimate { mean, std_error, interval, .. } = Estimate::of(&differences)?;
            return Some(Difference { mean, std_error, interval });
        }
        let [a, b] = [a, b].map(|samples| samples.iter().copied().flatten().collect::<Vec<f64>>());
        Self::welch(Estimate::of(&a)?, Estimate::of(&b)?)
    }

    /// The second mean minus the first.
    pub fn reversed(self) -> Self {
        let Difference { mean, std_error, interval } = self;
        Difference { mean: 0.0 - mean, std_error, interval: interval.map(|[low, high]| [0.0 - high, 0.0 - low]) }
    }

    fn welch(a: Estimate, b: Estimate) -> Option<Self> {
        let mean = a.mean - b.mean;
        if !mean.is_finite() {
            return None;
        }
        let (Some(error_a), Some(error_b)) = (a.std_error, b.std_error) else {
            return Some(Difference { mean, std_error: None, interval: None });
        };
        // `hypot` would need a newer glibc than everything else. The scaling avoids overflow, as `hypot` would.
        let larger = error_a.max(error_b);
        let error =
            if larger > 0.0 { larger * ((error_a / larger).powi(2) + (error_b / larger).powi(2)).sqrt() } else { 0.0 };
        if error == 0.0 {
            return Some(Difference { mean, std_error: Some(0.0), interval: Some([mean, mean]) });
        }
        // Welch and Satterthwaite, computed with shares of the variance, because their squares do not overflow. At two samples
        // each, their guess of the degrees of freedom makes intervals too wide. The pooled variance has the same error and
        // needs no guess.
        let share = |error_of: f64, n: usize| (error_of / error).powi(4) / (n - 1) as f64;
        let guessed = 1.0 / (share(error_a, a.n) + share(error_b, b.n));
        let freedom = if a.n == 2 && b.n == 2 { 2.0 } else { guessed };
        let interval = t_quantile_975(freedom).map(|t| [mean - t * error, mean + t * error]);
        let interval = interval.filter(|bounds| bounds.iter().all(|bound| bound.is_finite()));
        Some(Difference { mean, std_error: Some(error).filter(|error| error.is_finite()), interval })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(values: &[f64]) -> Vec<Option<f64>> {
        values.iter().copied().map(Some).collect()
    }

    #[track_caller]
    fn assert_close(computed: Difference, mean: f64, error: f64, interval: [f64; 2]) {
        let bounds = computed.interval.unwrap();
        let pairs = [
            (computed.mean, mean),
            (computed.std_error.unwrap(), error),
            (bounds[0], interval[0]),
            (bounds[1], interval[1]),
        ];
        for (computed, expected) in pairs {
            assert!((computed - expected).abs() < 1e-9, "{computed}, not {expected}");
        }
    }

    #[test]
    fn pairs_by_hand() {
        // Differences 1, 2, 6 (see `Estimate`); the last sample of either has no partner.
        let (mut a, mut b) = (some(&[5.0, 2.0, 7.0, 9.0]), some(&[4.0, 0.0, 1.0, 3.0]));
        b[3] = None;
        let error = (7.0_f64 / 3.0).sqrt();
        let half = 4.302_652_729_7 * error;
        assert_close(Difference::of(&a, &b, true).unwrap(), 3.0, error, [3.0 - half, 3.0 + half]);
        a.truncate(1);
        assert_eq!(
            Difference::of(&a, &b, true),
            Some(Difference { mean: 1.0, std_error: None, interval: None }),
            "one pair says nothing of its error"
        );
    }

    #[test]
    fn welch_is_scipys() {
        // scipy 1.17: ttest_ind([1.1, 2.3, 0.7, 1.9], [0.2, 3.5, 1.4], equal_var=False).confidence_interval(0.95)
        let computed = Difference::of(&some(&[1.1, 2.3, 0.7, 1.9]), &some(&[0.2, 3.5, 1.4]), false).unwrap();
        assert_close(computed, -0.2, 1.031_180_553_217_201_4, [-3.806_338_812_142_782_6, 3.406_338_812_142_782_2]);
    }

    #[test]
    fn what_is_unknown_is_none() {
        assert_eq!(Difference::of(&[], &some(&[1.0]), false), None);
        assert_eq!(Difference::of(&[None, Some(1.0)], &[Some(1.0), None], true), None);
        let one = Difference::of(&some(&[1.0]), &some(&[0.0, 0.5]), false).unwrap();
        assert_eq!(one, Difference { mean: 0.75, std_error: None, interval: None });
        let same = Difference::of(&some(&[1.0; 3]), &some(&[0.5; 2]), false).unwrap();
        assert_eq!(same, Difference { mean: 0.5, std_error: Some(0.0), interval: Some([0.5, 0.5]) });
    }
}
