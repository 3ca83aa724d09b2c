//! A ranking as a job of the engine.

use std::sync::Arc;
use std::time::Instant;

use super::RankOptions;
use super::job::{Job, Kind, Question, Request};
use super::models::Models;
use super::pending::Responder;
use super::statistics::Stage;
use crate::chat::local::Answer;
use crate::rank::{Ask, AskId, MetricBatch, MetricValues, RankJob, RankPlan, Ranking, StopReason};
use crate::{Error, Result};

/// Requests of a ranking that are out when further rollouts begin: twice the sequences that share a step, so that as many
/// wait for a place as have one.
const MAX_OUT: usize = 128;

/// Makes a job of one request.
pub(super) type Make = Box<dyn Fn() -> Result<RankJob> + Send>;

/// A [`RankJob`] with who waits for it.
pub(super) struct Rank {
    job: RankJob,
    /// Makes it from the start.
    make: Make,
    plan: Arc<RankPlan>,
    options: RankOptions,
    reported: usize,
    /// Rollouts that were scored when interim rewards were last looked at.
    scored: usize,
    /// Those that counted.
    counted: usize,
    respond: Responder<Ranking>,
}

impl Rank {
    /// `job` is what `make` makes.
    pub(super) fn new(
        job: RankJob,
        make: Make,
        plan: Arc<RankPlan>,
        options: RankOptions,
        respond: Responder<Ranking>,
    ) -> Self {
        Rank { job: job.with_most_out(MAX_OUT), make, plan, options, reported: 0, scored: 0, counted: 0, respond }
    }

    /// Names the model of each request.
    fn question(&mut self, asks: Vec<Ask>, questions: &mut Vec<Question>) {
        for Ask { id, role, model, request, further } in asks {
            let model = model.or_else(|| self.plan.roles.resolve(role).map(|(_, name)| name.into()));
            match model {
                Some(model) => questions.push(Question { id, model, request: Request::Chat(request), further }),
                None => {
                    let message = format!("no model plays the role `{}`", role.as_str());
                    self.job.fail(Error::invalid_config(message));
                }
            }
        }
    }

    /// Gives out interim rewards if more rollouts count than last time.
    fn report_interim(&mut self) {
        let Some(on_interim) = &mut self.options.on_interim else { return };
        let scored = self.job.scored();
        if scored == std::mem::replace(&mut self.scored, scored) {
            return;
        }
        let Some(interim) = self.job.interim(self.counted) else { return };
        self.counted = interim.iter().map(|known| known.rollouts).sum();
        on_interim(interim);
    }
}

impl Job for Rank {
    fn kind(&self) -> Kind {
        Kind::Ranking
    }

    fn stage(&self) -> Stage {
        Stage::Rank
    }

    fn asks(&self, model: &str) -> bool {
        let mut roles = self.plan.roles.models.values();
        roles.any(|name| name == model) || self.plan.metric_models().iter().any(|name| **name == *model)
    }

    fn start_over(&mut self) -> Result<()> {
        self.job = (self.make)()?.with_most_out(MAX_OUT);
        (self.reported, self.scored, self.counted) = (0, 0, 0);
        Ok(())
    }

    fn start(&mut self, questions: &mut Vec<Question>) {
        let mut asks = Vec::new();
        self.job.start(&mut asks);
        self.question(asks, questions);
    }

    fn on_answer(&mut self, id: AskId, answer: Result<Answer>, questions: &mut Vec<Question>) {
        let reply = answer.and_then(|answer| match answer {
            Answer::Chat(reply, weights) => {
                self.job.note_weights(id, weights);
                Ok(reply)
            }
            Answer::Task(_) => Err(Error::internal("a chat was answered with what no chat asks for")),
        });
        let mut asks = Vec::new();
        let known = self.job.on_reply(id, reply, &mut asks);
        debug_assert!(known.is_ok(), "a reply that nobody waits for");
        self.question(asks, questions);
    }

    fn take_metrics(&mut self) -> Option<MetricBatch> {
        self.job.take_metrics()
    }

    fn on_values(&mut self, values: MetricValues, questions: &mut Vec<Question>) {
        let mut asks = Vec::new();
        self.job.on_values(values, &mut asks);
        self.question(asks, questions);
    }

    fn stop(&mut self, why: StopReason) {
        self.job.stop(why);
    }

    fn fail(&mut self, error: Error) {
        self.job.fail(error);
    }

    fn is_done(&self) -> bool {
        self.job.is_done()
    }

    fn report(&mut self) {
        if let Some(on_rollout) = &mut self.options.on_rollout {
            self.job.take_ended().into_iter().for_each(on_rollout);
        }
        let progress = self.job.progress();
        if let Some(on_progress) = self.options.on_progress.as_mut().filter(|_| progress.finished != self.reported) {
            self.reported = progress.finished;
            on_progress(progress);
        }
        self.report_interim();
    }

    fn finish(mut self: Box<Self>, models: &Models, start: Instant) {
        // What a deadline or a cancellation has ended.
        self.report();
        let info = models.info(&self.plan);
        let Rank { job, options, respond, .. } = *self;
        // A callback is gone before whoever waits goes on.
        drop(options);
        respond.send(job.finish(info, start.elapsed().as_secs_f64()));
    }

    fn refuse(self: Box<Self>, error: Error) {
        self.respond.send(Err(error));
    }

    /// A ranking of nothing says that it is incomplete, as one does that had begun.
    fn expire(mut self: Box<Self>, why: StopReason, start: Instant) {
        self.job.stop(why);
        self.finish(&Models(Vec::new()), start);
    }

    fn leave_metrics(&mut self) {
        self.job.leave_metrics();
    }
}
