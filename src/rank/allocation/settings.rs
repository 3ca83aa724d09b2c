//! The settings of the allocation of rollouts.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Default of `confidence` of [`AllocationSettings`].
pub const DEFAULT_CONFIDENCE: f64 = 0.9;
/// Default of `first` of [`AllocationSettings`].
pub const DEFAULT_FIRST: usize = 3;

/// The strategy that decides how many rollouts each candidate gets. docs/allocation.md says when to use which.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Strategy {
    /// The same number for each candidate.
    #[default]
    Fixed,
    /// In rounds. After each round, the worse half of the candidates is given up (Karnin, Koren, Somekh 2013; except that here
    /// every round adds as many samples, where theirs costs as much). Spends its budget, whatever the rewards are.
    SequentialHalving,
    /// In small rounds. After each round, candidates that are very unlikely to be the best are given up. Sampling ends when
    /// the best is known with the confidence asked for. Its budget is a limit that easy rankings do not reach.
    StopWhenSure,
}

/// The most that may be spent. A limit that is not given does not apply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// Rollouts of all candidates together. Without any limit, adaptive strategies may spend what `fixed` would.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollouts: Option<usize>,
    /// Tokens of all models, read and written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Seconds of wall time. A deadline cuts rollouts off; this limit keeps rollouts that would end late from starting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

impl Budget {
    /// Tells whether there is a limit on a cost that is not known before a rollout has run.
    pub(super) fn needs_pilot(&self) -> bool {
        self.tokens.is_some() || self.seconds.is_some()
    }
}

/// The settings of the allocation.
///
/// ```
/// use foreturn::rank::{AllocationSettings, Budget, Strategy};
///
/// let settings = AllocationSettings {
///     strategy: Strategy::StopWhenSure,
///     budget: Budget { rollouts: Some(96), ..Budget::default() },
///     confidence: Some(0.95),
///     ..AllocationSettings::default()
/// };
/// settings.validate()?;
/// # Ok::<(), foreturn::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AllocationSettings {
    /// The strategy; `fixed` if absent.
    pub strategy: Strategy,
    /// The most that may be spent.
    pub budget: Budget,
    /// For `stop_when_sure`: the probability that the leader is the best at which sampling stops, above 0.5 and
    /// below 1; [`DEFAULT_CONFIDENCE`] if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f64>,
    /// For `stop_when_sure`: a difference in reward that does not matter; 0 if absent. The leader then only has to be within
    /// it of the best, so that equal candidates do not use up the budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    /// For `stop_when_sure`: samples for each candidate in the first round, at least 2; [`DEFAULT_FIRST`] if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<usize>,
    /// For `stop_when_sure`: the least number of rollouts in a later round, so that batches stay large when few candidates are
    /// left; the number of candidates if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub round: Option<usize>,
}

impl AllocationSettings {
    /// Refuses settings that make no sense, or that the strategy would ignore.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidConfig`], with the setting, its value and the remedy.
    pub fn validate(&self) -> Result<()> {
        let Budget { rollouts, tokens, seconds } = self.budget;
        if rollouts == Some(0) {
            return Err(Error::invalid_config("budget.rollouts = 0: give at least one rollout for each candidate"));
        }
        if tokens == Some(0) {
            return Err(Error::invalid_config("budget.tokens = 0: give at least 1, or leave it out"));
        }
        if let Some(seconds) = seconds.filter(|seconds| !(seconds.is_finite() && *seconds > 0.0)) {
            return Err(Error::invalid_config(format!("budget.seconds = {seconds}: give a number above 0")));
        }
        self.refuse_what_is_ignored()?;
        if let Some(confidence) = self.confidence.filter(|confidence| !(*confidence > 0.5 && *confidence < 1.0)) {
            return Err(Error::invalid_config(format!(
                "confidence = {confidence}: give a probability above 0.5 and below 1; the default is {DEFAULT_CONFIDENCE}"
            )));
        }
        if let Some(margin) = self.margin.filter(|margin| !(margin.is_finite() && *margin >= 0.0)) {
            return Err(Error::invalid_config(format!(
                "margin = {margin}: give a difference in reward that doesn't matter, 0 or above"
            )));
        }
        if let Some(first) = self.first.filter(|first| !(2..=super::MAX_SAMPLES).contains(first)) {
            return Err(Error::invalid_config(format!(
                "first = {first}: the first round needs 2 to {} samples for each candidate; the default is {DEFAULT_FIRST}",
                super::MAX_SAMPLES
            )));
        }
        if self.round == Some(0) {
            return Err(Error::invalid_config(
                "round = 0: a round has at least 1 rollout; leave it out for the default",
            ));
        }
        Ok(())
    }

    fn refuse_what_is_ignored(&self) -> Result<()> {
        let given = [
            ("confidence", self.confidence.is_some()),
            ("margin", self.margin.is_some()),
            ("first", self.first.is_some()),
            ("round", self.round.is_some()),
        ];
        match given.iter().find(|(_, given)| *given && self.strategy != Strategy::StopWhenSure) {
            Some((name, _)) => Err(Error::invalid_config(format!(
                "{name} is for strategy = \"stop_when_sure\", and strategy is another: leave {name} out, or choose that"
            ))),
            None => Ok(()),
        }
    }

    pub(super) fn confidence(&self) -> f64 {
        self.confidence.unwrap_or(DEFAULT_CONFIDENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> std::result::Result<AllocationSettings, String> {
        let settings: AllocationSettings = serde_json::from_str(text).map_err(|error| error.to_string())?;
        settings.validate().map_err(|error| error.to_string())?;
        Ok(settings)
    }

    #[test]
    fn everything_has_a_default() {
        assert_eq!(parse("{}").unwrap(), AllocationSettings::default());
        let all = r#"{"strategy":"stop_when_sure","budget":{"rollouts":96,"tokens":100000,"seconds":2.5},
            "confidence":0.95,"margin":0.1,"first":2,"round":16}"#;
        let settings = parse(all).unwrap();
        assert_eq!((settings.strategy, settings.budget.tokens), (Strategy::StopWhenSure, Some(100_000)));
        let back: AllocationSettings = serde_json::from_str(&serde_json::to_string(&settings).unwrap()).unwrap();
        assert_eq!(back, settings);
        assert_eq!(parse(r#"{"strategy":"sequential_halving"}"#).unwrap().strategy, Strategy::SequentialHalving);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (text, expected) in [
            (r#"{"stratgy":"fixed"}"#, "unknown field `stratgy`"),
            (r#"{"strategy":"halving"}"#, "unknown variant `halving`"),
            (r#"{"budget":{"rollout":4}}"#, "unknown field `rollout`"),
            (r#"{"budget":{"rollouts":0}}"#, "budget.rollouts = 0"),
            (r#"{"budget":{"tokens":0}}"#, "budget.tokens = 0"),
            (r#"{"budget":{"seconds":-1.0}}"#, "budget.seconds = -1"),
            (r#"{"confidence":0.9}"#, "confidence is for strategy"),
            (r#"{"strategy":"sequential_halving","round":8}"#, "round is for strategy"),
            (r#"{"strategy":"stop_when_sure","confidence":1.0}"#, "confidence = 1"),
            (r#"{"strategy":"stop_when_sure","confidence":0.5}"#, "confidence = 0.5"),
            (r#"{"strategy":"stop_when_sure","margin":-0.1}"#, "margin = -0.1"),
            (r#"{"strategy":"stop_when_sure","first":1}"#, "first = 1"),
            (r#"{"strategy":"stop_when_sure","round":0}"#, "round = 0"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
