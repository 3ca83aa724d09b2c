//! How a run goes about its conversations.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use super::file::Task;
use super::spend::{Price, check_prices};
use crate::config::{Config, ModelSource};
use crate::engine::CancelToken;
use crate::{Error, Result};

/// Most conversations at the same time. Each waits for one request of its own, and so many may wait by default.
const MAX_CONCURRENCY: usize = 256;

/// A part of the tasks, for one of several machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shard {
    /// Which one, from 1.
    pub number: usize,
    /// How many there are.
    pub of: usize,
}

impl Shard {
    /// True if it has the task `id`. Other lines of the file have no part in it, so that a task stays in its shard when
    /// lines are mended, added or removed.
    pub(crate) fn has(self, id: &str) -> bool {
        super::number_of(id) % self.of as u64 == self.number as u64 - 1
    }
}

/// Parses `i/n`, such as `1/4`.
impl FromStr for Shard {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = text.split_once('/').and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
        match parts {
            Some((number, of)) if 1 <= number && number <= of => Ok(Shard { number, of }),
            _ => Err(Error::invalid_request(format!(
                "`{text}` is not a shard: give its number from 1 and how many there are, as in 1/4"
            ))),
        }
    }
}

/// How a run goes about its conversations. None of it changes what they hold.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Conversations at the same time; 1 to 256.
    pub concurrency: usize,
    /// The part of the tasks to take; all if absent.
    pub shard: Option<Shard>,
    /// No conversation begins that would probably take the run beyond this many tokens, of all roles and with those of
    /// earlier runs in the same folder.
    pub max_tokens: Option<u64>,
    /// As `max_tokens`, for the cost. It needs prices.
    pub max_cost: Option<f64>,
    /// Prices by the names of models.
    pub prices: BTreeMap<String, Price>,
    /// The number of conversations to have, spread over the tasks, so that the rest can be estimated; all if absent.
    pub probe: Option<usize>,
    /// Folders of other runs with the same settings, such as shards. Their conversations are taken over first.
    pub merge: Vec<PathBuf>,
    /// Holds conversations again that failed because of their task: it was refused, or is too long. Those that failed for
    /// other reasons, such as an endpoint that was down, are held again anyway.
    pub retry_failed: bool,
    /// Ends the run from outside. Conversations under way are given up, and held by the next run. A run never cancels it
    /// by itself.
    pub cancel: CancelToken,
}

impl Default for RunOptions {
    fn default() -> Self {
        RunOptions {
            concurrency: 8,
            shard: None,
            max_tokens: None,
            max_cost: None,
            prices: BTreeMap::new(),
            probe: None,
            merge: Vec::new(),
            retry_failed: false,
            cancel: CancelToken::new(),
        }
    }
}

impl RunOptions {
    pub(crate) fn validate(&self) -> Result<()> {
        if !(1..=MAX_CONCURRENCY).contains(&self.concurrency) {
            return Err(Error::invalid_request(format!(
                "concurrency is {}: between 1 and {MAX_CONCURRENCY} conversations are held at the same time",
                self.concurrency
            )));
        }
        if self.max_cost.is_some() && self.prices.is_empty() {
            return Err(Error::invalid_request("a limit on the cost needs prices: give those of the models that cost"));
        }
        if let Some(cost) = self.max_cost.filter(|cost| !cost.is_finite() || *cost < 0.0) {
            return Err(Error::invalid_request(format!("the limit {cost} on the cost is not a number of at least 0")));
        }
        if self.probe == Some(0) {
            return Err(Error::invalid_request("an estimate needs at least 1 conversation"));
        }
        Ok(())
    }

    /// Whether the task belongs to this run's shard.
    pub(crate) fn takes(&self, task: &Task) -> bool {
        self.shard.is_none_or(|shard| shard.has(&task.id))
    }

    /// Refuses prices and limits that make no sense with this configuration. It is cheap: nothing is loaded.
    ///
    /// # Errors
    /// The configuration is wrong, a model behind an endpoint has no price although the cost is limited, or the models of
    /// metrics cannot be told apart.
    pub fn check(&self, config: &Config) -> Result<()> {
        let is_elsewhere =
            |name: &str| config.models.get(name).is_some_and(|model| matches!(model.source, ModelSource::Remote(_)));
        check_prices(self, &config.plan(Arc::new(|_| 0))?, &is_elsewhere)
    }

    /// The same options, with a token that the run may cancel without the caller's.
    pub(crate) fn within_run(&self) -> Self {
        RunOptions { cancel: self.cancel.child(), ..self.clone() }
    }
}
