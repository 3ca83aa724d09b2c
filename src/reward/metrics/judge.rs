//! `judge`: any question that a judge can answer with one of given words, by a rubric of the user's.
//!
//! Range: that of the rubric's values; the mean of its questions by their weights.
//!
//! Settings: `rubric`, the path of a TOML file as [`Rubric`](crate::reward::Rubric) describes it, relative to the
//! configuration; `judging = "soft" | "hard"`, `min_mass` in [0, 1], `show_reasoning` (see [`JudgeSettings`]).

use std::path::Path;
use std::sync::Arc;

use super::settings;
use crate::files::{self, Kind};
use crate::reward::judged::{JudgeMetric, JudgeSettings};
use crate::reward::metric::Metric;
use crate::{Error, Result};

pub(super) fn build(mut table: toml::Table, base: &Path) -> Result<Arc<dyn Metric>> {
    let path = match table.remove("rubric") {
        Some(toml::Value::String(path)) if !path.trim().is_empty() => base.join(path),
        Some(other) => return Err(Error::invalid_config(format!("rubric = {other} is not the path of a file"))),
        None => {
            return Err(Error::invalid_config(
                "rubric is missing: name a file of questions, as in rubric = \"tone.toml\"",
            ));
        }
    };
    let settings: JudgeSettings = settings(table)?;
    let text = files::read_text(&path, Kind::SETTINGS).map_err(|e| e.context("rubric"))?;
    let rubric = text.parse().map_err(|e: Error| e.context(path.display()))?;
    Ok(Arc::new(JudgeMetric::new("judge", rubric, settings)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn mistakes_are_said_with_the_file_they_are_in() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tone.toml"), "[[questions]]\ntext = 'Friendly?'\nanswers = []").unwrap();
        let refused = |toml: &str| match build(toml.parse().unwrap(), folder.path()) {
            Ok(_) => panic!("{toml}: accepted"),
            Err(error) => (error.kind(), error.to_string()),
        };
        let (kind, message) = refused("rubric = 'tone.toml'");
        assert_eq!(kind, ErrorKind::InvalidConfig);
        assert!(message.contains("tone.toml: questions[0]: answers has 0 entries"), "{message}");
        let (kind, message) = refused("rubric = 'none.toml'");
        assert!(kind == ErrorKind::Io && message.contains("none.toml"), "{message}");
        assert!(refused("").1.starts_with("rubric is missing"));
        assert!(refused("rubric = 3").1.starts_with("rubric = 3 is not the path"));
        assert!(refused("rubric = 'tone.toml'\njuding = 'hard'").1.contains("unknown field `juding`"));
    }
}
