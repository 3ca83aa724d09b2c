//! `implicit_reward`: the reward that a policy trained by preferences implies, β · (log π − log π_ref) of the assistant's
//! last message given what was before it (DPO, arXiv 2305.18290).
//!
//! Range: any number, in nats times β.
//!
//! Settings: `model`, the policy, and `reference`, both by their names in `[models]`; `beta` (0.1), finite and above 0;
//! `length_normalized = true` takes means over tokens; `scope = "conversation" | "response"` (the assistant's last
//! message, or the response under test). Both models' tokens are `cost.reward_model`'s.

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::scored::{Scope, answers, named, question, unexpected};
use super::settings;
use crate::Result;
use crate::chat::ChatOutput;
use crate::model::ModelFolder;
use crate::reward::metric::{Answered, Metric, MetricInput, MetricValue, Question};
use crate::score::{ImplicitOptions, ScoreOutput, ScoreTask, input};

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    model: Option<String>,
    reference: Option<String>,
    beta: f64,
    length_normalized: bool,
    scope: Scope,
}

impl Default for Settings {
    fn default() -> Self {
        let ImplicitOptions { beta, length_normalized } = ImplicitOptions::default();
        Settings { model: None, reference: None, beta, length_normalized, scope: Scope::default() }
    }
}

struct ImplicitReward {
    policy: Arc<str>,
    reference: Arc<str>,
    options: ImplicitOptions,
    scope: Scope,
}

pub(super) fn build(table: toml::Table, _: &Path) -> Result<Arc<dyn Metric>> {
    let Settings { model, reference, beta, length_normalized, scope } = settings(table)?;
    let options = ImplicitOptions { beta, length_normalized };
    options.validate()?;
    let (policy, reference) = (named("model", model)?, named("reference", reference)?);
    Ok(Arc::new(ImplicitReward { policy, reference, options, scope }))
}

impl Metric for ImplicitReward {
    fn kind(&self) -> &str {
        "implicit_reward"
    }

    fn takes_extract(&self) -> bool {
        false
    }

    fn models(&self) -> Vec<Arc<str>> {
        vec![Arc::clone(&self.policy), Arc::clone(&self.reference)]
    }

    fn check_model(&self, _: &str, folder: &ModelFolder) -> Result<()> {
        input::check(folder, &ScoreTask::Response)
    }

    fn questions(&self, input: &MetricInput<'_>, answers: &[ChatOutput]) -> Result<Vec<Question>> {
        // The assistant's reasoning is part of what it wrote. The models' own templates decide what happens to it.
        let ask = |model| question(model, input, (self.scope, true), &ScoreTask::Response);
        Ok(if answers.is_empty() { vec![ask(&self.policy), ask(&self.reference)] } else { Vec::new() })
    }

    fn score(&self, batch: &[Answered<'_>]) -> Vec<Result<MetricValue>> {
        let value = |given: &[ChatOutput]| match answers(given)? {
            [ScoreOutput::Response(policy), ScoreOutput::Response(reference)] => {
                Ok(MetricValue::from(self.options.reward(policy.clone(), reference.clone()).reward))
            }
            _ => Err(unexpected()),
        };
        batch.iter().map(|scored| value(scored.answers)).collect()
    }
}
