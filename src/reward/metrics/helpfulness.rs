//! `helpfulness`: whether the assistant moved the user on, by the judge (the ablation's intrinsic reward).
//!
//! Range [0, 1]: the mean over the questions of its rubric.
//!
//! Settings: `judging = "soft" | "hard" | "json"`, `min_mass` in [0, 1], `max_tokens` (see [`JudgeSettings`]).

use std::path::Path;
use std::sync::Arc;

use super::settings;
use crate::Result;
use crate::reward::judged::{JudgeMetric, JudgeSettings};
use crate::reward::metric::Metric;

const RUBRIC: &str = include_str!("../rubrics/helpfulness.toml");

pub(super) fn build(table: toml::Table, _: &Path) -> Result<Arc<dyn Metric>> {
    let settings: JudgeSettings = settings(table)?;
    let rubric = RUBRIC.parse()?;
    Ok(Arc::new(JudgeMetric::new("helpfulness", rubric, settings)?))
}
