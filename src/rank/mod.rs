//! Rankings: candidates in, rewards out.
//!
//! ```text
//! RankRequest + RankPlan ─▶ RankJob ⇄ models ─▶ Ranking
//! ```
//!
//! A `RankJob` is one ranking as a state machine. It starts no thread and knows no model. It hands out `Ask`s, takes
//! replies in any order, and ends with a [`Ranking`]. The owner of the models drives it, and may drive many at once:
//!
//! ```text
//! job.start(&mut asks)
//! while !job.is_done() {
//!     submit every ask to the model that plays its role
//!     job.on_reply(id, reply, &mut asks)     as replies come
//!     job.take_metrics() ─▶ batch.run()      on any thread: metrics may block
//!     job.on_values(scores, &mut asks)       as scores come
//! }
//! job.finish(models, seconds)
//! ```
//!
//! - `request`, `ranking`: the input and the output, as JSON.
//! - `plan`: the settings of a ranking, resolved.
//! - `allocation`: the number of rollouts for each candidate; `prune`: candidates that are given up after their first turn.
//! - `job`: the state machine; `future`: a rollout with its judging; `measuring`: metrics at work.
//! - `record`: a rollout for traces.
//! - `rescore`: futures of an earlier ranking; `count`: the rollouts that count; `assemble`: the arithmetic.

mod allocation;
mod assemble;
mod count;
mod future;
mod interim;
mod job;
mod measuring;
mod plan;
mod prune;
mod ranking;
mod record;
mod request;
mod rescore;

pub use allocation::Strategy;
internal! {
    allocation::{
        AllocationSettings, Allocator, Budget, DEFAULT_CONFIDENCE, DEFAULT_FIRST, Decision, Spent, Why,
    }
}
pub use interim::Interim;
pub use job::Progress;
internal! { job::{Ask, AskId, RankJob, StopReason} }
internal! { measuring::{MetricBatch, MetricValues} }
pub use plan::FailurePolicy;
internal! { plan::{RankPlan, Roles} }
pub use ranking::{
    AllocationSummary, Cost, MetricSummary, ModelInfo, RankedCandidate, Ranking, RoleCosts, RolloutTrace, Stopped,
    TracedMessage,
};
internal! { ranking::ModelsInfo }
pub(crate) use ranking::{SCHEMA, schema};
pub use record::{EndedRollout, MetricRecord, RawAnswer, RecordedMessage};
pub use request::{Candidates, MAX_CANDIDATES, MAX_SAMPLES, MAX_TURNS, MAX_WINDOW, RankRequest};
pub(crate) use request::{validate_samples, validate_window};

pub use crate::rollout::{Confusion, Ended, Goal, ModelRole, Style, Trait};
