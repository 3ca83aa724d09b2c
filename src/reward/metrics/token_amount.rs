//! `token_amount`: what the conversation costs the user in reading and writing, −min(λ · TokenCount(t), 1) of Eq. 4.
//!
//! TokenCount is over all user and assistant messages of the conversation: history, response and future. System messages
//! and what the assistant reasoned before a reply are not the user's to read. Range [−1, 0]. Once λ · TokenCount reaches 1 the penalty is saturated and no longer tells
//! conversations apart; rankings say how often that was so.
//!
//! Settings: `lambda` per token, finite and ≥ 0 (default 5e-4, the paper's for MATH-Chat); `unit = "tokens" | "words"`:
//! tokens of the policy, or whitespace-separated words; `count_reasoning = true` counts reasoning too.

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::settings;
use crate::chat::{Message, Role};
use crate::reward::metric::{Metric, MetricInput, MetricValue, Scored};
use crate::{Error, Result};

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TokenAmount {
    lambda: f64,
    unit: Unit,
    count_reasoning: bool,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Unit {
    Tokens,
    Words,
}

impl Default for TokenAmount {
    fn default() -> Self {
        TokenAmount { lambda: 5e-4, unit: Unit::Tokens, count_reasoning: false }
    }
}

pub(super) fn build(table: toml::Table, _: &Path) -> Result<Arc<dyn Metric>> {
    let metric: TokenAmount = settings(table)?;
    if !metric.lambda.is_finite() || metric.lambda < 0.0 {
        return Err(Error::invalid_config(format!("lambda = {} is not a finite number of at least 0", metric.lambda)));
    }
    Ok(Arc::new(metric))
}

impl TokenAmount {
    fn count(&self, input: &MetricInput<'_>) -> usize {
        let read_or_written = input.messages().filter(|message| message.role != Role::System);
        let count = |text: &str| match self.unit {
            Unit::Tokens => (input.count_tokens)(text),
            Unit::Words => text.split_whitespace().count(),
        };
        let text = |message: &'_ Message| {
            if self.count_reasoning { count(&message.content) } else { count(message.visible()) }
        };
        read_or_written.map(text).sum()
    }
}

impl Metric for TokenAmount {
    fn kind(&self) -> &str {
        "token_amount"
    }

    fn score(&self, batch: &[Scored<'_>]) -> Vec<Result<MetricValue>> {
        let value = |scored: &Scored<'_>| {
            let cost = self.lambda * self.count(&scored.input) as f64;
            // `0.0 -` rather than a minus sign: no cost is 0, not −0.
            Ok(MetricValue { value: 0.0 - cost.min(1.0), saturated: Some(cost >= 1.0), mass: None })
        };
        batch.iter().map(value).collect()
    }
}
