//! `clarification`: whether the response asks what the user means if, and only if, this is open (CollabLLM's
//! generalisation test on Abg-CoQA).
//!
//! The judge says whether the response asks. It sees the conversation up to the response, not its future.
//! `goal.ambiguous`, which is required, says whether the response should ask. Range [0, 1]: the probability that the
//! two agree; hard judging gives 0 or 1. `foreturn evaluate` has averages over a data set.
//!
//! Settings: `judging = "soft" | "hard"`, `min_mass` in [0, 1], `show_reasoning` (see [`JudgeSettings`]).

use std::path::Path;
use std::sync::Arc;

use super::settings;
use crate::Result;
use crate::chat::ChatOutput;
use crate::reward::judged::{JudgeMetric, JudgeSettings};
use crate::reward::metric::{Answered, Metric, MetricInput, MetricValue, Question};
use crate::rollout::{Goal, ModelRole};

const RUBRIC: &str = include_str!("../rubrics/clarification.toml");

/// Its judge gives 1 for a response that asks.
struct Clarification {
    asks: JudgeMetric,
}

pub(super) fn build(table: toml::Table, _: &Path) -> Result<Arc<dyn Metric>> {
    let settings: JudgeSettings = settings(table)?;
    let rubric = RUBRIC.parse()?;
    Ok(Arc::new(Clarification { asks: JudgeMetric::new("clarification", rubric, settings)? }))
}

fn ambiguous(goal: &Goal) -> Result<bool> {
    goal.ambiguous.ok_or_else(|| super::missing("ambiguous", "clarification"))
}

impl Metric for Clarification {
    fn kind(&self) -> &str {
        "clarification"
    }

    fn takes_extract(&self) -> bool {
        false
    }

    fn roles(&self) -> &[ModelRole] {
        self.asks.roles()
    }

    fn check(&self, goal: &Goal) -> Result<()> {
        ambiguous(goal).map(|_| ())
    }

    fn questions(&self, input: &MetricInput<'_>, answers: &[ChatOutput]) -> Result<Vec<Question>> {
        self.asks.questions(&MetricInput { future: &[], ..*input }, answers)
    }

    fn score(&self, batch: &[Answered<'_>]) -> Vec<Result<MetricValue>> {
        let agreed = |(asked, scored): (Result<MetricValue>, &Answered<'_>)| -> Result<MetricValue> {
            let asked = asked?;
            let value = if ambiguous(scored.input.goal)? { asked.value } else { 1.0 - asked.value };
            Ok(MetricValue { value, ..asked })
        };
        self.asks.score(batch).into_iter().zip(batch).map(agreed).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::{Message, Role};

    #[test]
    fn the_judge_sees_the_response_and_not_what_came_after() {
        let metric = build(toml::Table::new(), "".as_ref()).unwrap();
        let (response, later) =
            (Message::new(Role::Assistant, "Which bank?"), Message::new(Role::User, "The river's."));
        let (goal, history) = (Goal::default(), [Message::new(Role::User, "Where is the bank?")]);
        assert_eq!(metric.check(&goal).unwrap_err().kind(), crate::ErrorKind::InvalidRequest);
        let input = MetricInput {
            history: &history,
            future: &[&later],
            ..MetricInput::new(&response, &goal, &|text| text.len())
        };
        let questions = metric.questions(&input, &[]).unwrap();
        let [question] = &questions[..] else { panic!("{questions:?}") };
        let shown = &question.messages[1].content;
        assert!(shown.contains("Which bank?") && !shown.contains("river"), "{shown}");
    }
}
