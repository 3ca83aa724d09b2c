//! Work that the engine drives: a [`Job`] asks models, takes their answers, and has a result in the end.
//!
//! ```text
//! submit ─▶ prepare (on the admission's thread) ─▶ start ─▶ questions ⇄ answers, metrics ⇄ values ─▶ finish
//!                                                   stop, at a deadline or a cancellation ─┘
//! ```
//!
//! A job knows no model and no thread. Rankings (`ranking`), calls to one model (`call`) and first messages (`opening`)
//! are jobs; another kind of work is another file beside them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::CancelToken;
use super::models::Models;
use super::statistics::{Recorder, Stage};
use crate::chat::ChatRequest;
use crate::chat::local::{Answer, Task};
use crate::decode::urgency::Turn;
use crate::rank::{AskId, MetricBatch, MetricValues, StopReason};
use crate::{Error, ErrorKind, Result};

/// What a job asks of a model.
pub(super) struct Question {
    /// The job's own number for it.
    pub(super) id: AskId,
    /// The model's name.
    pub(super) model: Arc<str>,
    pub(super) request: Request,
    /// How many steps the job takes after this, at most, one after the other, as far as it knows.
    pub(super) further: usize,
}

/// What is asked.
pub(super) enum Request {
    Chat(ChatRequest),
    /// Only local models can be asked this.
    Task(Task),
}

/// Which places a job takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One of those for rankings.
    Ranking,
    /// As many of those for texts as it has.
    Call {
        /// How many.
        texts: usize,
    },
}

/// Work that the owner of the models drives.
pub(super) trait Job: Send {
    fn kind(&self) -> Kind;

    /// What its time counts as.
    fn stage(&self) -> Stage;

    /// Does what needs no model, before the owner has the job: tokenises what it was given.
    ///
    /// # Errors
    /// What is wrong with the request, or its end while it was prepared. The job is refused with it.
    fn prepare(&mut self, _watch: &Watch) -> Result<()> {
        Ok(())
    }

    /// Whether it asks this model, now or later.
    fn asks(&self, model: &str) -> bool;

    /// The first questions. Called again after [`Job::start_over`].
    fn start(&mut self, questions: &mut Vec<Question>);

    /// Takes an answer, or the error with which the question was refused, and appends the questions that follow from it.
    fn on_answer(&mut self, id: AskId, answer: Result<Answer>, questions: &mut Vec<Question>);

    /// Takes what metrics are to score now, on a thread of their own.
    fn take_metrics(&mut self) -> Option<MetricBatch> {
        None
    }

    /// Takes the metrics' values, and appends the questions that follow from them.
    fn on_values(&mut self, _values: MetricValues, _questions: &mut Vec<Question>) {}

    /// Forgets every answer, because a model has other weights now.
    ///
    /// # Errors
    /// A part of the result was passed on already. The job is failed with it.
    fn start_over(&mut self) -> Result<()>;

    /// Ends it early. What it has asked is ended as well, and still answered where a model of this process was asked.
    fn stop(&mut self, why: StopReason);

    /// Ends it with an error of the engine.
    fn fail(&mut self, error: Error);

    /// Whether no answer and no value can change the result any more.
    fn is_done(&self) -> bool;

    /// Tells the caller of progress, where it wants to know.
    fn report(&mut self) {}

    /// Hands out the result of a job that is done.
    fn finish(self: Box<Self>, models: &Models, start: Instant);

    /// Hands out an error instead.
    fn refuse(self: Box<Self>, error: Error);

    /// Hands out what there is to say of a job whose time is over before it began.
    fn expire(self: Box<Self>, why: StopReason, _start: Instant) {
        self.refuse(interrupted(why, "the request waited for its turn"));
    }

    /// Does without the values that metrics still work on.
    fn leave_metrics(&mut self) {}

    /// What answers the caller at the deadline, also in the middle of a step. Without it, the answer comes after the step.
    fn punctual(&self) -> Option<Arc<dyn Punctual>> {
        None
    }
}

/// The part of a job that knows its caller. Any thread may use it.
pub(super) trait Punctual: Send + Sync {
    /// Hands out what there is at the deadline, unless the job has handed out its result.
    fn answer(&self);
}

/// When a request is over, whatever has come of it.
#[derive(Clone)]
pub(super) struct Watch {
    pub(super) deadline: Option<Instant>,
    pub(super) cancel: CancelToken,
}

impl Watch {
    /// The reason to end the request now, if there is one.
    pub(super) fn interruption(&self, now: Instant) -> Option<StopReason> {
        if self.cancel.is_cancelled() {
            return Some(StopReason::Cancelled);
        }
        self.deadline.is_some_and(|deadline| now >= deadline).then_some(StopReason::Deadline)
    }

    /// Refuses to go on with a request that is over; `doing` says with what.
    pub(super) fn check(&self, doing: &str) -> Result<()> {
        self.interruption(Instant::now()).map_or(Ok(()), |why| Err(interrupted(why, doing)))
    }
}

/// The error of a request that ended while it was `doing` something.
pub(super) fn interrupted(why: StopReason, doing: &str) -> Error {
    match why {
        StopReason::Cancelled => Error::new(ErrorKind::Cancelled, format!("cancelled while {doing}")),
        StopReason::Deadline => {
            let message = format!("the deadline passed while {doing}. Allow more time, or ask less at once");
            Error::new(ErrorKind::DeadlineExceeded, message)
        }
    }
}

/// Whether it was counted that a request was not whole in time. Whoever hands out its result may see that first.
#[derive(Clone, Default)]
pub(super) struct Late(Arc<AtomicBool>);

impl Late {
    /// Counts the request, unless it was counted.
    pub(super) fn count(&self, recorder: &Recorder, why: StopReason) {
        if !self.0.swap(true, Ordering::Relaxed) {
            recorder.interrupted(why);
        }
    }
}

/// A job with what the engine has to know of it.
pub(super) struct Run {
    pub(super) job: Box<dyn Job>,
    pub(super) turn: Turn,
    pub(super) start: Instant,
    pub(super) watch: Watch,
    /// Questions that no model has got yet.
    pub(super) questions: VecDeque<Question>,
    /// Places for texts that it still holds.
    pub(super) texts: usize,
    /// Until when it may finish what needs no model, once it was stopped.
    pub(super) stopped: Option<Instant>,
    /// How often it has started over: what was measured before is of no use.
    pub(super) begun: u32,
    /// That it was not whole in time is counted once.
    pub(super) late: Late,
}

impl Run {
    pub(super) fn new(job: Box<dyn Job>, turn: Turn, start: Instant, watch: Watch) -> Self {
        let texts = if let Kind::Call { texts } = job.kind() { texts } else { 0 };
        Run {
            job,
            turn,
            start,
            watch,
            questions: VecDeque::new(),
            texts,
            stopped: None,
            begun: 0,
            late: Late::default(),
        }
    }
}
