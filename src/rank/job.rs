//! One ranking, as a state machine.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::allocation::{AllocationSettings, Allocator, Decision, Spent, Why};
use super::assemble;
use super::future::{Candidate, Future, Place, is_interruption};
use super::measuring::{MetricBatch, MetricValues};
use super::plan::{FailurePolicy, RankPlan};
use super::ranking::{ModelsInfo, Ranking, RoleCosts};
use super::record::EndedRollout;
use super::request::{Candidates, RankRequest, check_turns};
use super::rescore::{self, Origin};
use crate::chat::{ChatOutput, ChatReply, ChatRequest, ChatTask, Finish, Message, Role};
use crate::reward::{Asker, Pending};
use crate::rollout::seed::{candidate_seed, question_seed, rollout_seed};
use crate::rollout::{Ended, ModelRole, ReplySettings, Rollout, Scene};
use crate::{Error, ErrorKind, Result};

/// Names one request of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AskId(pub u64);

/// A request that a job wants answered.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The name to give back with the reply.
    pub id: AskId,
    /// The role whose model answers, and to which the cost belongs.
    pub role: ModelRole,
    /// The name of the model, if it is not the one of the role.
    pub model: Option<Arc<str>>,
    /// The request.
    pub request: ChatRequest,
    /// The most tokens of the same future that are sampled one after the other once this is answered.
    pub further: usize,
}

/// The reason why a job is stopped from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StopReason {
    /// Its deadline passed.
    Deadline,
    /// The caller no longer wants it.
    Cancelled,
}

/// The progress of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Rollouts that have ended and are judged.
    pub finished: usize,
    /// Rollouts in all.
    pub total: usize,
}

/// One ranking in the making. See the [module](super) for how it is driven.
///
/// The result does not depend on the order of replies, because every request has its own seed, and every sum is taken in the
/// order of candidates and samples.
pub struct RankJob {
    pub(super) plan: Arc<RankPlan>,
    pub(super) scene: Arc<Scene>,
    pub(super) candidates: Vec<Candidate>,
    pub(super) cost: RoleCosts,
    /// Remarks of replies that the reader of the ranking has to know.
    pub(super) notes: BTreeSet<String>,
    /// The origin of the futures, if they are not sampled here.
    pub(super) origin: Option<Origin>,
    /// What the weights are called that replies were computed with, by role.
    pub(super) weights: BTreeMap<ModelRole, BTreeSet<Arc<str>>>,
    seed: u64,
    /// Says which rollouts come next; `None` if the futures come from elsewhere.
    pub(super) allocator: Option<Allocator>,
    /// The reason why there are no more rollouts.
    pub(super) allocated: Option<Why>,
    begun: Option<Instant>,
    /// The requests that wait for a reply, and what the reply is for.
    waiting: BTreeMap<AskId, (ModelRole, Waiting)>,
    /// The work that has to begin, in order. Its requests are not made before it begins.
    due: VecDeque<Due>,
    /// The most requests that may wait for replies while other work begins.
    most_out: usize,
    asked: u64,
    /// True while metrics are at work.
    scoring: bool,
    started: bool,
    stopped: Option<StopReason>,
    failure: Option<Error>,
}

/// Work that has to begin.
#[derive(Clone, Copy)]
enum Due {
    Candidate(usize),
    Future(Place),
    /// A future that paused.
    Rest(Place),
}

/// The use of a reply.
enum Waiting {
    Candidate(usize),
    Rollout(Place),
    Metric { place: Place, asker: Asker, number: usize },
}

impl RankJob {
    /// Makes a job for `request`. It asks nothing before [`RankJob::start`].
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] for a request that makes no sense or lacks what a metric needs,
    /// [`ErrorKind::InvalidConfig`] for a plan that lacks metrics or a model.
    pub fn new(request: RankRequest, plan: Arc<RankPlan>) -> Result<Self> {
        request.validate()?;
        let (window, samples) = (plan.window(&request), plan.samples(&request));
        let mut needs = Vec::new();
        if window > 0 {
            needs.extend([ModelRole::Policy, ModelRole::User]);
        } else if matches!(request.candidates, Candidates::Sample(_)) {
            needs.push(ModelRole::Policy);
        }
        plan.check(needs, &request.goal)?;
        check_turns(request.candidates.len(), samples, window)?;
        let candidates: Vec<Candidate> = match &request.candidates {
            Candidates::Given(texts) => texts.iter().map(|text| Candidate::new(Some(text.clone()), 0)).collect(),
            Candidates::Sample(count) => (0..*count).map(|_| Candidate::new(None, 0)).collect(),
        };
        // Without sampling there is nothing to allocate.
        let settings = if window > 0 { plan.allocation } else { AllocationSettings::default() };
        let allocator = Allocator::new(settings, candidates.len(), samples, plan.rollout.common_random_numbers)?;
        Ok(RankJob { allocator: Some(allocator), ..RankJob::of(request, plan, candidates) })
    }

    /// Makes a job that samples nothing: it scores the rollouts of `ranking`, which was made of `request`, with the metrics of
    /// `plan`. Rollouts that did not count there are left out.
    ///
    /// The new ranking has the responses, futures and seeds of the old one, and says which models sampled them. Its cost is
    /// the cost of scoring. With the same metrics, judges that give equal replies to equal requests give equal rewards, to
    /// the last bit. Messages are known by their text alone: if other tokens were sampled than the text gives, they are lost.
    /// `plan` needs the window that the ranking was made with, unless the request has it.
    ///
    /// # Errors
    /// As [`RankJob::new`], except that no model needs to play policy or user. [`ErrorKind::InvalidRequest`] if `ranking` was
    /// not made of `request`, or if none of its rollouts counts.
    pub fn rescore(request: RankRequest, ranking: &Ranking, plan: Arc<RankPlan>) -> Result<Self> {
        request.validate()?;
        plan.check([], &request.goal)?;
        let candidates = rescore::candidates(&request, ranking)?;
        Ok(RankJob { origin: Some(Origin::of(ranking)), ..RankJob::of(request, plan, candidates) })
    }

    fn of(request: RankRequest, plan: Arc<RankPlan>, candidates: Vec<Candidate>) -> Self {
        let scene = Scene {
            window: plan.window(&request),
            history: request.conversation,
            goal: request.goal,
            simulator: plan.simulator.clone(),
            settings: plan.rollout.clone(),
        };
        RankJob {
            scene: Arc::new(scene),
            candidates,
            cost: RoleCosts::default(),
            notes: BTreeSet::new(),
            weights: BTreeMap::new(),
            origin: None,
            seed: request.seed.unwrap_or(plan.seed),
            plan,
            allocator: None,
            allocated: None,
            begun: None,
            waiting: BTreeMap::new(),
            due: VecDeque::new(),
            most_out: usize::MAX,
            asked: 0,
            scoring: false,
            started: false,
            stopped: None,
            failure: None,
        }
    }

    /// Begins rollouts only while fewer than `most` requests wait for replies, so that the prompts of a large ranking are not
    /// all written at once. The requests and the result stay the same.
    #[must_use]
    pub fn with_most_out(self, most: usize) -> Self {
        RankJob { most_out: most.max(1), ..self }
    }

    /// Makes the first requests. Does nothing when called again.
    pub fn start(&mut self, asks: &mut Vec<Ask>) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        let before = asks.len();
        self.begun = Some(Instant::now());
        for candidate in 0..self.candidates.len() {
            match &self.candidates[candidate] {
                Candidate { response: Some(_), given: Some(_), .. } => self.take_given(candidate),
                Candidate { response: None, given: None, .. } => self.due.push_back(Due::Candidate(candidate)),
                _ => {}
            }
        }
        if self.origin.is_some() {
            self.start_futures(0);
        }
        self.go_on(asks, before);
    }

    /// Begins work that may begin, and plans the next round once a round is over. If the job has failed, the requests since
    /// `before` are taken back.
    fn go_on(&mut self, asks: &mut Vec<Ask>, before: usize) {
        loop {
            self.begin_due(asks);
            if !self.next_round() {
                break;
            }
        }
        self.withdraw_if_failed(asks, before);
    }

    fn begin_due(&mut self, asks: &mut Vec<Ask>) {
        while self.waiting.len() < self.most_out && self.stopped.is_none() && self.failure.is_none() {
            match self.due.pop_front() {
                None => return,
                Some(Due::Candidate(candidate)) => self.ask_for_candidate(candidate, asks),
                Some(Due::Future(place)) => self.start_future(place, asks),
                Some(Due::Rest(place)) => self.resume(place, asks),
            }
        }
    }

    /// Plans the next round of rollouts if the last one is over. Returns true if it did. Before the first round, none is
    /// under way, so the first call plans.
    fn next_round(&mut self) -> bool {
        if self.allocated.is_some() || self.stopped.is_some() || self.failure.is_some() || self.allocator.is_none() {
            return false;
        }
        let first = self.candidates.iter().all(|candidate| candidate.samples == 0);
        let over = || self.is_quiet() && !self.scoring && self.futures().all(|(_, future)| future.is_settled());
        if !first && !over() {
            return false;
        }
        if self.futures().any(|(_, future)| future.rollout.is_paused()) {
            self.prune();
            return true;
        }
        let (rewards, spent) = (self.rewards(), self.spent());
        let Some(allocator) = &mut self.allocator else { return false };
        match allocator.next(&rewards, spent) {
            Decision::Done(why) => self.allocated = Some(why),
            Decision::Sample { rollouts } => {
                let from = rollouts.iter().map(|(_, samples)| samples.start).min().unwrap_or(0);
                for (candidate, samples) in rollouts {
                    self.candidates[candidate].samples = samples.end;
                    self.plan_futures(candidate);
                }
                self.start_futures(from);
            }
        }
        true
    }

    /// Tells whether no request waits for a reply and no work has to begin.
    fn is_quiet(&self) -> bool {
        self.waiting.is_empty() && self.due.is_empty()
    }

    /// Queues the futures from this sample on. Sample k of every candidate comes before sample k + 1, so that a deadline finds
    /// complete rounds.
    fn start_futures(&mut self, from: usize) {
        let most = self.candidates.iter().map(|candidate| candidate.futures.len()).max().unwrap_or(0);
        for sample in from..most {
            for candidate in 0..self.candidates.len() {
                if sample < self.candidates[candidate].futures.len() {
                    self.due.push_back(Due::Future(Place { candidate, sample }));
                }
            }
        }
    }

    /// Queues futures that go on after their pause.
    pub(super) fn resume_all(&mut self, places: impl IntoIterator<Item = Place>) {
        self.due.extend(places.into_iter().map(Due::Rest));
    }

    pub(super) fn rewards(&self) -> Vec<Vec<Option<f64>>> {
        let reward = |future: &Future| future.reward(&self.plan.metrics);
        self.candidates.iter().map(|candidate| candidate.futures.iter().map(reward).collect()).collect()
    }

    fn spent(&self) -> Spent {
        let total = self.cost.total();
        Spent {
            rollouts: self.candidates.iter().map(|candidate| candidate.samples).sum(),
            tokens: total.prompt_tokens + total.generated_tokens,
            seconds: self.begun.map_or(0.0, |begun| begun.elapsed().as_secs_f64()),
        }
    }

    /// Notes what the weights are called that the reply to a request was computed with, before the reply is taken.
    pub fn note_weights(&mut self, id: AskId, weights: Option<Arc<str>>) {
        let (Some((role, waiting)), Some(weights)) = (self.waiting.get(&id), weights) else { return };
        let role = *role;
        if let Waiting::Rollout(place) | Waiting::Metric { place, .. } = *waiting {
            self.future(place).weights.entry(role).or_default().insert(Arc::clone(&weights));
        }
        self.weights.entry(role).or_default().insert(weights);
    }

    /// Takes the reply to one request, or the error with which it was refused, and appends the requests that follow from it.
    /// Only the rollout that waited for it goes on. After [`RankJob::stop`] or a failure, replies only add to the cost.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] for a reply that no request waits for.
    pub fn on_reply(&mut self, id: AskId, reply: Result<ChatReply>, asks: &mut Vec<Ask>) -> Result<()> {
        let Some((role, waiting)) = self.waiting.remove(&id) else {
            return Err(Error::internal(format!(
                "request {} of this ranking is unknown, or was answered before",
                id.0
            )));
        };
        let candidate = match waiting {
            Waiting::Candidate(candidate) => candidate,
            Waiting::Rollout(place) | Waiting::Metric { place, .. } => place.candidate,
        };
        if let Ok(reply) = &reply {
            self.notes.extend(reply.note.clone());
            self.cost.add(role, reply.usage);
            self.candidates[candidate].cost.add(role, reply.usage);
            if let Waiting::Rollout(place) | Waiting::Metric { place, .. } = waiting {
                self.future(place).cost.add(role, reply.usage);
            }
        }
        if self.stopped.is_some() || self.failure.is_some() {
            return Ok(());
        }
        let before = asks.len();
        match waiting {
            Waiting::Candidate(candidate) => self.on_candidate(candidate, reply),
            Waiting::Rollout(place) => {
                let next = self.future(place).rollout.on_reply(reply);
                self.advance(place, next, asks);
            }
            Waiting::Metric { place, asker, number } => {
                let answer = reply.map(|reply| reply.output);
                let (plan, scene) = (self.plan.clone(), self.scene.clone());
                let pending = self.future(place).evaluate(&plan, &scene, |evaluation, input| {
                    evaluation.on_answer(&plan.metrics, input, (asker, number), answer)
                });
                self.ask_questions(place, pending, asks);
            }
        }
        self.go_on(asks, before);
        Ok(())
    }

    /// Ends the ranking early. Rollouts that are finished by now are ranked, if they can be compared. The others are reported
    /// as excluded. Does nothing to a job that is done.
    pub fn stop(&mut self, why: StopReason) {
        if self.is_done() {
            return;
        }
        if !self.started {
            // The rollouts that were planned then exist, so that they can be reported.
            self.most_out = 0;
            self.start(&mut Vec::new());
        }
        self.stopped = Some(why);
        self.due.clear();
        let ended = match why {
            StopReason::Deadline => Ended::Deadline,
            StopReason::Cancelled => Ended::Cancelled,
        };
        for future in self.candidates.iter_mut().flat_map(|candidate| &mut candidate.futures) {
            future.rollout.end(ended);
        }
    }

    /// Takes the conversations that metrics have to score now. `None` while metrics are at work, or if there is nothing to
    /// score. Bring the scores back with [`RankJob::on_values`].
    pub fn take_metrics(&mut self) -> Option<MetricBatch> {
        if self.scoring || self.failure.is_some() {
            return None;
        }
        let quiet = self.is_quiet() || self.stopped.is_some();
        let mut batch = MetricBatch::new(&self.plan, &self.scene);
        for (place, future) in self.futures().filter(|(_, future)| future.is_scorable() && !future.is_settled()) {
            batch.add(place, future, |weighted| quiet || !weighted.metric.wants_whole_rounds());
        }
        self.scoring = !batch.is_empty();
        self.scoring.then_some(batch)
    }

    /// Runs the metrics that are due on this thread, for drivers that have nothing else to do meanwhile.
    pub fn score(&mut self, asks: &mut Vec<Ask>) {
        while let Some(batch) = self.take_metrics() {
            self.on_values(batch.run(), asks);
        }
    }

    /// Takes the scores of the last batch, and appends the requests that follow from them.
    pub fn on_values(&mut self, values: MetricValues, asks: &mut Vec<Ask>) {
        if !std::mem::replace(&mut self.scoring, false) {
            // They come too late.
            return;
        }
        let before = asks.len();
        for (place, metric, score) in values.0 {
            if let Err(error) = &score {
                self.fail_if(self.plan.on_metric_failure, error, place);
            }
            self.future(place).scores[metric] = Some(score);
        }
        self.go_on(asks, before);
    }

    /// Does without the values that metrics are still at work on: their rollouts count as cut off by the deadline.
    pub fn leave_metrics(&mut self) {
        self.scoring = false;
        let metrics = self.plan.metrics.len();
        let futures = self.candidates.iter_mut().flat_map(|candidate| &mut candidate.futures);
        for future in futures.filter(|future| future.is_answered() && !future.is_settled()) {
            for metric in 0..metrics {
                future.scores[metric].get_or_insert_with(|| {
                    Err(Error::new(ErrorKind::DeadlineExceeded, "the deadline passed while the metric was at work"))
                });
            }
        }
    }

    /// Tells whether no reply and no score can change the result any more.
    pub fn is_done(&self) -> bool {
        if self.failure.is_some() {
            return true;
        }
        let asked = self.allocator.is_none() || self.allocated.is_some();
        let quiet = self.stopped.is_some() || (self.started && asked && self.is_quiet());
        quiet && !self.scoring && self.futures().all(|(_, future)| !future.is_answered() || future.is_settled())
    }

    /// Tells whether the job was stopped from outside. Replies are then of no use.
    pub fn is_stopped(&self) -> bool {
        self.stopped.is_some()
    }

    /// Ends the ranking with an error of its driver.
    pub fn fail(&mut self, error: Error) {
        self.failure.get_or_insert(error);
    }

    /// The requests that wait for a reply. If the job is done or stopped, they can be cancelled.
    pub fn outstanding(&self) -> impl Iterator<Item = AskId> + '_ {
        self.waiting.keys().copied()
    }

    /// The progress of the job.
    pub fn progress(&self) -> Progress {
        let total = self.candidates.iter().map(|candidate| candidate.samples).sum();
        let finished = |future: &Future| future.rollout.ended().is_some() && future.is_answered();
        Progress { finished: self.futures().filter(|(_, future)| finished(future)).count(), total }
    }

    /// Takes the rollouts that have ended since the last call. They are scored, or they will not be scored.
    pub fn take_ended(&mut self) -> Vec<EndedRollout> {
        let (done, plan) = (self.is_done(), Arc::clone(&self.plan));
        let mut taken = Vec::new();
        for (candidate, of) in self.candidates.iter_mut().enumerate() {
            for (sample, future) in of.futures.iter_mut().enumerate().filter(|(_, future)| !future.told) {
                if future.rollout.ended().is_some() && (future.is_settled() || done) {
                    future.told = true;
                    taken.push(EndedRollout::of(candidate, sample, future, &plan));
                }
            }
        }
        taken
    }

    /// The result, once the job is done.
    ///
    /// # Errors
    /// The failure that ended the job, if the plan says that failures end it. [`ErrorKind::ModelOutput`] if rollouts failed and
    /// none is left to count; [`ErrorKind::ContextLength`] if that is because the conversation is too long for the policy.
    /// [`ErrorKind::Internal`] if the job is not done.
    pub fn finish(mut self, models: ModelsInfo, seconds: f64) -> Result<Ranking> {
        if !self.is_done() {
            return Err(Error::internal("this ranking still waits for replies or scores"));
        }
        match self.failure.take() {
            Some(failure) => Err(failure),
            None => assemble::ranking(&self, models, seconds),
        }
    }

    /// The reason why the job was stopped from outside, if it was.
    pub(super) fn stopped(&self) -> Option<StopReason> {
        self.stopped
    }

    pub(super) fn futures(&self) -> impl Iterator<Item = (Place, &Future)> {
        self.candidates.iter().enumerate().flat_map(|(candidate, of)| {
            of.futures.iter().enumerate().map(move |(sample, future)| (Place { candidate, sample }, future))
        })
    }

    fn future(&mut self, place: Place) -> &mut Future {
        &mut self.candidates[place.candidate].futures[place.sample]
    }

    fn ask(&mut self, role: ModelRole, request: ChatRequest, waiting: Waiting, asks: &mut Vec<Ask>) {
        self.ask_model(role, None, request, waiting, asks);
    }

    fn ask_model(
        &mut self,
        role: ModelRole,
        model: Option<Arc<str>>,
        request: ChatRequest,
        waiting: Waiting,
        asks: &mut Vec<Ask>,
    ) {
        // The judge may play the extractor. Its cost is then the judge's.
        let role = self.plan.roles.resolve(role).map_or(role, |(role, _)| role);
        let id = AskId(self.asked);
        self.asked += 1;
        let further = if let Waiting::Rollout(place) = waiting { self.future(place).rollout.tokens_after() } else { 0 };
        self.waiting.insert(id, (role, waiting));
        asks.push(Ask { id, role, model, request, further });
    }

    fn ask_for_candidate(&mut self, candidate: usize, asks: &mut Vec<Ask>) {
        let ReplySettings { max_tokens, sampling } = self.scene.settings.policy.clone();
        let request = ChatRequest {
            messages: self.scene.history.clone(),
            task: ChatTask::Generate { max_tokens, sampling, stop: Vec::new(), schema: None, speaker: Role::Assistant },
            seed: candidate_seed(self.seed, candidate),
        };
        self.ask(ModelRole::Policy, request, Waiting::Candidate(candidate), asks);
    }

    fn on_candidate(&mut self, candidate: usize, reply: Result<ChatReply>) {
        match sampled_candidate(reply) {
            Ok((response, finish)) => {
                self.candidates[candidate].response = Some(response);
                self.candidates[candidate].finish = Some(finish);
                self.plan_futures(candidate);
                let samples = 0..self.candidates[candidate].samples;
                self.due.extend(samples.map(|sample| Due::Future(Place { candidate, sample })));
            }
            Err(error) => {
                let error = error.context("sampling it from the policy");
                self.fail_if(self.plan.on_rollout_failure, &error, format!("candidate {candidate}"));
                self.candidates[candidate].failure = Some(error);
                if let Some(allocator) = &mut self.allocator {
                    allocator.leave_out(candidate);
                }
            }
        }
    }

    /// Makes the futures of a candidate that were asked for and do not exist yet, once its response is known.
    fn plan_futures(&mut self, candidate: usize) {
        let common = self.scene.settings.common_random_numbers;
        let (scene, metrics, seed) = (Arc::clone(&self.scene), self.plan.metrics.len(), self.seed);
        let prunes = self.prunes_next_round();
        let of = &mut self.candidates[candidate];
        let Some(response) = of.response.clone().map(Arc::new) else { return };
        for sample in of.futures.len()..of.samples {
            let seed = rollout_seed(seed, candidate, sample, common);
            let rollout = Rollout::new(Arc::clone(&scene), Arc::clone(&response), seed);
            let rollout = if prunes { rollout.pausing_after(1) } else { rollout };
            of.futures.push(Future::new(rollout, metrics));
        }
    }

    /// Makes the futures that a candidate had before.
    fn take_given(&mut self, candidate: usize) {
        let (scene, metrics) = (Arc::clone(&self.scene), self.plan.metrics.len());
        let of = &mut self.candidates[candidate];
        let (Some(response), Some(traces)) = (of.response.clone().map(Arc::new), of.given.take()) else { return };
        let given = |trace| Future::given(Arc::clone(&scene), Arc::clone(&response), trace, metrics);
        of.futures = traces.into_iter().map(given).collect();
    }

    fn start_future(&mut self, place: Place, asks: &mut Vec<Ask>) {
        if self.future(place).left_out.is_some() {
            return;
        }
        let next = self.future(place).rollout.start();
        self.advance(place, next, asks);
    }

    /// Lets a rollout go on after its pause.
    fn resume(&mut self, place: Place, asks: &mut Vec<Ask>) {
        let future = self.future(place);
        future.forget_scores();
        let next = future.rollout.resume();
        self.advance(place, next, asks);
    }

    /// Sends the next request of a rollout. A rollout that has ended is judged at once.
    fn advance(&mut self, place: Place, next: Option<(ModelRole, ChatRequest)>, asks: &mut Vec<Ask>) {
        if let Some((role, request)) = next {
            return self.ask(role, request, Waiting::Rollout(place), asks);
        }
        let (plan, scene) = (self.plan.clone(), self.scene.clone());
        let future = self.future(place);
        if let Some(failure) = future.rollout.failure().map(Error::duplicate) {
            self.fail_if(plan.on_rollout_failure, &failure, place);
        } else if future.is_judged() {
            let pending = future.evaluate(&plan, &scene, |evaluation, input| evaluation.start(&plan.metrics, input));
            self.ask_questions(place, pending, asks);
        }
    }

    fn ask_questions(&mut self, place: Place, pending: Vec<Pending>, asks: &mut Vec<Ask>) {
        for Pending { asker, number, question } in pending {
            let seed = question_seed(self.future(place).rollout.seed(), asker.number(), number, question.role);
            let request = ChatRequest { messages: question.messages, task: question.task, seed };
            self.ask_model(question.role, question.model, request, Waiting::Metric { place, asker, number }, asks);
        }
        if let Some(failure) = self.future(place).evaluation.failure().map(Error::duplicate) {
            self.fail_if(self.plan.on_metric_failure, &failure, place);
        }
    }

    /// Takes the requests since `before` back if the job has failed, because a failed job asks nothing more.
    fn withdraw_if_failed(&mut self, asks: &mut Vec<Ask>, before: usize) {
        if self.failure.is_some() {
            for ask in asks.drain(before..) {
                self.waiting.remove(&ask.id);
            }
        }
    }

    /// Fails the whole ranking if the policy says so. An interruption is not a failure.
    fn fail_if(&mut self, policy: FailurePolicy, error: &Error, place: impl std::fmt::Display) {
        if policy == FailurePolicy::Error && !is_interruption(error) && self.failure.is_none() {
            self.failure = Some(error.duplicate().context(place));
        }
    }
}

/// The response in the policy's reply. An empty response is scored like any other.
fn sampled_candidate(reply: Result<ChatReply>) -> Result<(Message, Finish)> {
    match reply?.output {
        ChatOutput::Text { finish: Finish::Deadline, .. } => {
            Err(Error::new(ErrorKind::DeadlineExceeded, "the deadline passed"))
        }
        ChatOutput::Text { finish: Finish::Cancelled, .. } => Err(Error::new(ErrorKind::Cancelled, "it was cancelled")),
        ChatOutput::Text { text, tokens, finish, .. } => {
            Ok((Message { role: Role::Assistant, content: text, tokens }, finish))
        }
        ChatOutput::Choice { .. } | ChatOutput::Score(_) => {
            Err(Error::internal("the policy gave numbers where a response was asked for"))
        }
    }
}
