//! Rewards of conversations.
//!
//! ```text
//! conversation ─▶ questions ─▶ answers ─▶ metric values ─▶ weighted sum ─▶ mean over futures
//!                 (Metric)    (models)    (Metric)         Eq. 2           Eq. 1
//! ```
//!
//! A [`Metric`] gives a conversation a number. It may ask models about it first. The reward of one conversation is the
//! weighted sum of its metrics (Eq. 2 to 4 of CollabLLM, arXiv 2502.00640); the multiturn-aware reward of a response is
//! the mean over its sampled futures (Eq. 1), given with a standard error and an interval ([`Estimate`]), and compared
//! with others ([`Difference`], `leads`, `probability_best`).
//!
//! - [`Metric`]: the trait; `metrics/` holds one file for each kind.
//! - [`Extraction`]: an artefact that is extracted from the conversation first (Eq. 3).
//! - `Rubric`: questions with weighted answers, as data files; `rubrics/` holds those that come with the library.
//! - [`Combination`]: the order of weighting and averaging.
//! - `preference`: which of two conversations a judge prefers.
//! - `preset`: the constants of published setups.

mod combination;
mod evaluation;
mod extract;
mod judge_json;
mod judged;
mod metric;
mod metrics;
pub(crate) mod preference;
mod preset;
mod rubric;
#[cfg(all(feature = "sandbox", feature = "internals", target_os = "linux"))]
pub mod unit_tests;
#[cfg(all(feature = "sandbox", not(feature = "internals"), target_os = "linux"))]
pub(crate) mod unit_tests;

#[cfg(all(feature = "sandbox", target_os = "linux"))]
pub use crate::sandbox::MemoryLimit;
pub use crate::stats::{Difference, Estimate};
internal! { crate::stats::{MAX_COMPARED, Posterior, leads, probability_best} }
pub use combination::Combination;
pub(crate) use evaluation::{Asker, Evaluation, Pending};
pub use extract::{ExtractConfig, Extraction};
internal! { judge_json::DEFAULT_JUDGE_TOKENS }
internal! { judged::{DEFAULT_MIN_MASS, JudgeMetric, JudgeSettings, Judging} }
pub use metric::{Answered, Metric, MetricInput, MetricValue, Question, WeightedMetric};
internal! { metric::TokenCounter }
pub use metrics::MetricSettings;
internal! { metrics::{build as build_metric, kinds as metric_kinds} }
pub(crate) use preset::PresetValues;
pub use preset::{Preset, Task};
internal! { rubric::{Answer, GoalField, JsonQuestion, Rubric, RubricQuestion} }
