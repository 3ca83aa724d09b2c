//! `accuracy`: whether the conversation reached the reference answer, by the judge (MATH-Chat's extrinsic reward, R_ext of
//! Eq. 3 with the comparison left to the judge).
//!
//! Range [0, 1]; hard judging gives 0 or 1. Needs `goal.reference`.
//!
//! Settings: `judging = "soft" | "hard" | "json"`, `min_mass` in [0, 1], `max_tokens` (see [`JudgeSettings`]).

use std::path::Path;
use std::sync::Arc;

use super::settings;
use crate::Result;
use crate::reward::judged::{JudgeMetric, JudgeSettings};
use crate::reward::metric::Metric;

const RUBRIC: &str = include_str!("../rubrics/accuracy.toml");

pub(super) fn build(table: toml::Table, _: &Path) -> Result<Arc<dyn Metric>> {
    let settings: JudgeSettings = settings(table)?;
    let rubric = RUBRIC.parse()?;
    Ok(Arc::new(JudgeMetric::new("accuracy", rubric, settings)?))
}
