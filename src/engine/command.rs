//! What the handle sends to the owner: rankings, calls to single models, and small questions.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::pending::Responder;
use super::statistics::{Stage, Statistics};
use super::{CancelToken, RankOptions};
use crate::chat::local::OnCompletion;
use crate::decode::GenerateOptions;
use crate::rank::{Ask, EndedRollout, Progress, RankJob, RankPlan, Ranking, StopReason};
use crate::score::ScoreTask;
use crate::score::input::Encoded;
use crate::{Error, ErrorKind};

/// Requests of a ranking that are out when further rollouts begin: twice the sequences that share a step, so that as many
/// wait for a place as have one.
const MAX_OUT: usize = 128;

/// A message from the handle to the owner.
pub(super) enum Command {
    Rank(Box<RankRun>),
    Call(Call),
    Unpin { model: usize, key: u64 },
    Statistics(Responder<Statistics>),
    Shutdown,
}

/// A call to one local model. Its tasks begin together.
pub(super) struct Call {
    pub(super) model: usize,
    pub(super) stage: Stage,
    pub(super) tasks: Vec<(Task, OnCompletion)>,
    pub(super) start: Instant,
    pub(super) deadline: Option<Instant>,
    pub(super) priority: i32,
    pub(super) cancel: CancelToken,
}

impl Call {
    /// The reason to end it now, if there is one.
    pub(super) fn interruption(&self, now: Instant) -> Option<Error> {
        let late = || self.deadline.is_some_and(|deadline| now >= deadline);
        match self.cancel.is_cancelled() {
            true => Some(Error::new(ErrorKind::Cancelled, "cancelled while the request waited for its turn")),
            false if late() => {
                let message =
                    "the deadline passed while the request waited for its turn. Allow more time, or ask less at once";
                Some(Error::new(ErrorKind::DeadlineExceeded, message))
            }
            false => None,
        }
    }

    pub(super) fn refuse(self, error: &Error) {
        self.tasks.into_iter().for_each(|(_, done)| done(Err(error.duplicate())));
    }
}

/// Work of a local model that is not a chat.
pub(super) enum Task {
    Generate(Vec<u32>, GenerateOptions),
    LogProbs(Vec<u32>),
    Warm(u64, Vec<u32>),
    Score(Encoded, ScoreTask),
}

/// A ranking under way.
pub(super) struct RankRun {
    pub(super) job: RankJob,
    pub(super) plan: Arc<RankPlan>,
    pub(super) start: Instant,
    pub(super) deadline: Option<Instant>,
    pub(super) priority: i32,
    cancel: CancelToken,
    on_progress: Option<Box<dyn FnMut(Progress) + Send>>,
    on_rollout: Option<Box<dyn FnMut(EndedRollout) + Send>>,
    /// Requests that no model has got yet.
    pub(super) asks: VecDeque<Ask>,
    reported: usize,
    pub(super) respond: Responder<Ranking>,
}

impl RankRun {
    pub(super) fn new(
        job: RankJob,
        plan: Arc<RankPlan>,
        start: Instant,
        options: RankOptions,
        cancel: CancelToken,
        respond: Responder<Ranking>,
    ) -> Self {
        let RankOptions { limits, on_progress, on_rollout } = options;
        let (deadline, priority) = (limits.deadline(), limits.priority);
        let (job, asks) = (job.with_most_out(MAX_OUT), VecDeque::new());
        RankRun { job, plan, start, deadline, priority, cancel, on_progress, on_rollout, asks, reported: 0, respond }
    }

    /// The reason to end it now, if there is one.
    pub(super) fn interruption(&self, now: Instant) -> Option<StopReason> {
        if self.cancel.is_cancelled() {
            return Some(StopReason::Cancelled);
        }
        self.deadline.is_some_and(|deadline| now >= deadline).then_some(StopReason::Deadline)
    }

    /// Ends it early; what it has not asked yet is asked no more.
    pub(super) fn stop(&mut self, why: StopReason) {
        self.job.stop(why);
        self.asks.clear();
    }

    pub(super) fn report(&mut self) {
        if let Some(on_rollout) = &mut self.on_rollout {
            self.job.take_ended().into_iter().for_each(on_rollout);
        }
        let progress = self.job.progress();
        if let Some(on_progress) = self.on_progress.as_mut().filter(|_| progress.finished != self.reported) {
            self.reported = progress.finished;
            on_progress(progress);
        }
    }
}
