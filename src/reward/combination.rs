//! Combination of the values of a response's conversations into its reward.

use super::metric::WeightedMetric;

/// The order in which metrics are weighted and futures averaged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Combination {
    /// Each conversation's weighted sum, then the mean over conversations: Eq. 2, then Eq. 1.
    #[default]
    SumThenMean,
    /// Each metric's mean over conversations, times its weight, clamped to [−1, 1], then the sum: verl's recipe. The
    /// clamp may apply to a mean although it applies to no single conversation, and vice versa.
    ClampedMeans,
}

impl Combination {
    /// The bound at which a metric's weighted `mean` is clamped, if it is.
    pub(crate) fn bound(self, mean: Option<f64>, weight: f64) -> Option<f64> {
        let weighted = mean? * weight;
        (self == Combination::ClampedMeans && weighted.abs() > 1.0).then_some(weighted.signum())
    }

    /// One number for each conversation. Their mean is the response's reward. `conversations` holds the metrics'
    /// values.
    ///
    /// A metric whose mean is clamped gives each conversation its bound. So the spread of these numbers is the
    /// reward's, because a mean well beyond the clamp does not move it.
    pub(crate) fn rewards(self, conversations: &[Vec<f64>], metrics: &[WeightedMetric]) -> Vec<f64> {
        let bounds: Vec<Option<f64>> = metrics
            .iter()
            .enumerate()
            .map(|(at, weighted)| {
                let sum: f64 = conversations.iter().filter_map(|values| values.get(at)).sum();
                self.bound(Some(sum / conversations.len() as f64), weighted.weight)
            })
            .collect();
        let reward = |values: &Vec<f64>| {
            let terms = values.iter().zip(metrics).zip(&bounds);
            terms.map(|((value, weighted), bound)| bound.unwrap_or(weighted.weight * value)).sum()
        };
        conversations.iter().map(reward).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::metric::{Answered, Metric, MetricValue};
    use super::*;

    struct Nothing;

    impl Metric for Nothing {
        fn kind(&self) -> &str {
            "nothing"
        }
        fn score(&self, _: &[Answered<'_>]) -> Vec<crate::Result<MetricValue>> {
            Vec::new()
        }
    }

    #[test]
    fn means_are_clamped_not_conversations() {
        let metrics = [2.0, -1.0].map(|weight| WeightedMetric::new(Arc::new(Nothing), weight));
        let conversations = [vec![0.0, 3.0], vec![0.9, -1.5]];
        let sums = Combination::SumThenMean.rewards(&conversations, &metrics);
        assert_eq!(sums, [-3.0, 3.3]);
        // Means 0.45 and 0.75: weighted 0.9 and −0.75, neither clamped, though single conversations are beyond 1.
        assert_eq!(Combination::ClampedMeans.rewards(&conversations, &metrics), sums);
        // Means 0.6 and 2: weighted 1.2 and −2.
        let beyond = [vec![0.3, 3.0], vec![0.9, 1.0]];
        assert_eq!(Combination::ClampedMeans.rewards(&beyond, &metrics), [0.0, 0.0]);
        assert_eq!(Combination::ClampedMeans.bound(Some(0.5), 2.0), None, "1 itself is not clamped");
        assert!(Combination::ClampedMeans.rewards(&[], &metrics).is_empty());
    }
}
