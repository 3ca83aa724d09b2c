//! Rankings: candidates in, rewards out.
//!
//! ```text
//! RankRequest + RankPlan ─▶ RankJob ⇄ models ─▶ Ranking
//! ```
//!
//! A [`RankJob`] is one ranking as a state machine. It opens no thread and knows no model: it hands out [`Ask`]s, takes
//! replies in any order, and has a [`Ranking`] in the end. Whoever owns the models drives it, and may drive many at once:
//!
//! ```text
//! job.start(&mut asks)
//! while !job.is_done() {
//!     submit every ask to the model that plays its role
//!     job.on_reply(id, reply, &mut asks)     as replies come
//! }
//! job.finish(models, seconds)                on any thread: metrics may block
//! ```
//!
//! - `request`, `ranking`: what goes in and comes out, as JSON.
//! - `plan`: a configuration, resolved.
//! - `allocation`: which rollouts to spend where.
//! - `job`: the state machine; `rescore`: futures that are known already; `count`: which rollouts count; `assemble`: the
//!   arithmetic.

mod allocation;
mod assemble;
mod count;
mod job;
mod plan;
mod ranking;
mod request;
mod rescore;

pub use allocation::{
    AllocationSettings, Allocator, Budget, DEFAULT_CONFIDENCE, DEFAULT_FIRST, Decision, Spent, Strategy, Why,
};
pub use job::{Ask, AskId, EndedRollout, Progress, RankJob, StopReason};
pub use plan::{FailurePolicy, RankPlan, Roles};
pub use ranking::{
    Cost, MetricSummary, ModelInfo, ModelsInfo, RankedCandidate, Ranking, RoleCosts, RolloutTrace, TracedMessage,
};
pub use request::{Candidates, MAX_CANDIDATES, MAX_SAMPLES, MAX_WINDOW, RankRequest};
pub(crate) use request::{validate_samples, validate_window};

pub use crate::rollout::{Ended, Goal, ModelRole};
