//! Questions to a model outside of rankings: the messages of the simulated user that open a conversation and go on with one.
//!
//! Conversations are often known by their goal alone (a dataset of questions and answers). The user's model then writes
//! the first message, which says roughly what is wanted and leaves details for later, as people do.

use std::sync::Arc;
use std::time::Instant;

use super::job::{Job, Kind, Question, Request, interrupted};
use super::models::Models;
use super::pending::{Pending, Responder};
use super::statistics::Stage;
use super::{Engine, check_templates};
use crate::chat::local::Answer;
use crate::chat::{ChatOutput, ChatReply, ChatRequest, ChatTask, Finish, Message, Role, Usage};
use crate::rank::{AskId, RankPlan, StopReason};
use crate::rollout::seed::turn_seed;
use crate::rollout::{Ended, Goal, ModelRole, Rollout, Scene, UserTurn};
use crate::{Error, ErrorKind, Result};

/// What the simulated user did in reply to the assistant.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct UserReply {
    /// The message; last words, where the conversation ended. `None` where it ended without a word.
    pub(crate) message: Option<Message>,
    /// [`Ended::StopSignal`] or [`Ended::Context`]; `None` while the conversation goes on.
    pub(crate) ended: Option<Ended>,
    pub(crate) usage: Usage,
}

impl Engine {
    /// The message with which the simulated user of the configuration opens a conversation about `goal`. The same seed
    /// gives the same message.
    ///
    /// ```no_run
    /// use foreturn::Engine;
    /// use foreturn::rank::Goal;
    ///
    /// # fn main() -> foreturn::Result<()> {
    /// # let engine = Engine::new(foreturn::Config::default())?;
    /// let goal = Goal { prompt: Some("A poem about my late dog, who loved the sea.".into()), ..Goal::default() };
    /// let first = engine.open_conversation(&goal, 7)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Nobody plays the user; the user wrote nothing, or left at once; the model failed.
    pub fn open_conversation(&self, goal: &Goal, seed: u64) -> Result<Message> {
        self.submit_open_conversation(goal, seed)?.wait()
    }

    /// Queues a first message.
    ///
    /// # Errors
    /// Nobody plays the user, or the queue is full.
    pub fn submit_open_conversation(&self, goal: &Goal, seed: u64) -> Result<Pending<Message>> {
        self.submit_opening(goal, seed, |message, _| message)
    }

    /// As [`Engine::open_conversation`], with what it cost.
    pub(crate) fn opening(&self, goal: &Goal, seed: u64) -> Result<(Message, Usage)> {
        self.submit_opening(goal, seed, |message, usage| (message, usage))?.wait()
    }

    /// What the simulated user replies to `conversation`, which ends with a message of the assistant. It is read as in a
    /// rollout: a user who speaks as the assistant fails where the configuration says so.
    pub(crate) fn user_reply(&self, goal: &Goal, conversation: &[Message], seed: u64) -> Result<UserReply> {
        let Some((response, history)) = conversation.split_last() else {
            return Err(Error::internal("a reply of the user to nothing"));
        };
        let plan = self.plan()?;
        let scene = Arc::new(Scene {
            history: history.to_vec(),
            goal: goal.clone(),
            simulator: Arc::clone(&plan.simulator),
            settings: plan.rollout.clone(),
            window: 1,
        });
        let response = Arc::new(response.clone());
        let rollout = move || Rollout::new(Arc::clone(&scene), Arc::clone(&response), seed);
        let Some((_, question)) = rollout().start() else {
            return Err(Error::internal("a turn that asks nothing"));
        };
        self.submit_to(ModelRole::User, question, move |reply| replied(rollout(), reply))?.wait()
    }

    fn submit_opening<T: Send + 'static>(
        &self,
        goal: &Goal,
        seed: u64,
        of: impl Fn(Message, Usage) -> T + Send + 'static,
    ) -> Result<Pending<T>> {
        let plan = Arc::clone(self.plan()?);
        let question = question(&plan, goal, seed);
        self.submit_to(ModelRole::User, question, move |reply| {
            let usage = reply.usage;
            Ok(of(opened(&plan, reply)?, usage))
        })
    }

    /// Queues one question to the model of a role.
    pub(super) fn submit_to<T: Send + 'static>(
        &self,
        role: ModelRole,
        question: ChatRequest,
        read: impl Fn(ChatReply) -> Result<T> + Send + 'static,
    ) -> Result<Pending<T>> {
        let plan = self.plan()?;
        let Some((_, model)) = plan.roles.resolve(role) else {
            let name = role.as_str();
            return Err(Error::invalid_config(format!("roles.{name} is missing: name one of [models] there")));
        };
        let model: Arc<str> = model.into();
        check_templates(plan, vec![role], &self.inner.locals)?;
        let read = Box::new(read);
        self.submit(|respond| Box::new(ToRole { role, question, model, read, result: None, respond }))
    }
}

/// What the user's model is asked for a first message.
fn question(plan: &RankPlan, goal: &Goal, seed: u64) -> ChatRequest {
    let (simulator, user) = (&plan.simulator, &plan.rollout.user);
    ChatRequest {
        messages: simulator.prompt(goal, &[]),
        task: ChatTask::Generate {
            max_tokens: user.max_tokens,
            sampling: user.sampling.clone(),
            stop: simulator.stop_texts(),
            schema: simulator.schema(),
            speaker: if simulator.is_trained() { Role::User } else { Role::Assistant },
        },
        seed: turn_seed(seed, 0, ModelRole::User),
    }
}

/// Reads a first message.
fn opened(plan: &RankPlan, reply: ChatReply) -> Result<Message> {
    let ChatOutput::Text { text, finish, .. } = reply.output else {
        return Err(Error::internal("the user's model gave numbers where a message was asked for"));
    };
    match finish {
        Finish::Deadline => return Err(interrupted(StopReason::Deadline, "the user wrote")),
        Finish::Cancelled => return Err(interrupted(StopReason::Cancelled, "the user wrote")),
        Finish::Stop | Finish::Length | Finish::Context => {}
    }
    match plan.simulator.read(&text)? {
        UserTurn::Says(words) => Ok(Message::new(Role::User, words)),
        UserTurn::Leaves(_) => Err(Error::new(
            ErrorKind::ModelOutput,
            format!(
                "the simulated user left before saying anything (reply {text:?}): use a better model for roles.user"
            ),
        )),
    }
}

/// Reads a reply as the first of `rollout`.
fn replied(mut rollout: Rollout, reply: ChatReply) -> Result<UserReply> {
    let usage = reply.usage;
    rollout.on_reply(Ok(reply));
    let ended = rollout.ended();
    match (ended, rollout.failure()) {
        (_, Some(failure)) => return Err(failure.duplicate()),
        (Some(Ended::Deadline), _) => return Err(interrupted(StopReason::Deadline, "the user wrote")),
        (Some(Ended::Cancelled), _) => return Err(interrupted(StopReason::Cancelled, "the user wrote")),
        _ => {}
    }
    Ok(UserReply { message: rollout.future().first().map(|said| said.message.clone()), ended, usage })
}

/// One question to the model of a role.
struct ToRole<T> {
    role: ModelRole,
    question: ChatRequest,
    model: Arc<str>,
    /// Called again where the question is asked again.
    read: Box<dyn Fn(ChatReply) -> Result<T> + Send>,
    result: Option<Result<T>>,
    respond: Responder<T>,
}

impl<T: Send> Job for ToRole<T> {
    fn kind(&self) -> Kind {
        Kind::Call { texts: 1 }
    }

    fn stage(&self) -> Stage {
        Stage::Generate
    }

    fn asks(&self, model: &str) -> bool {
        *self.model == *model
    }

    fn start_over(&mut self) -> Result<()> {
        self.result = None;
        Ok(())
    }

    fn start(&mut self, questions: &mut Vec<Question>) {
        let request = Request::Chat(self.question.clone());
        questions.push(Question { id: AskId(0), model: Arc::clone(&self.model), request, further: 0 });
    }

    fn on_answer(&mut self, _: AskId, answer: Result<Answer>, _: &mut Vec<Question>) {
        let result = answer.and_then(|answer| match answer {
            Answer::Chat(reply, _) => (self.read)(reply),
            Answer::Task(_) => Err(Error::internal("a chat was answered as a task")),
        });
        self.result.get_or_insert(result);
    }

    /// An endpoint may take long to answer, and nobody waits for half a message.
    fn stop(&mut self, why: StopReason) {
        let during = if self.role == ModelRole::User { "the user wrote" } else { "the model was asked" };
        self.result.get_or_insert(Err(interrupted(why, during)));
    }

    fn fail(&mut self, error: Error) {
        self.result.get_or_insert(Err(error));
    }

    fn is_done(&self) -> bool {
        self.result.is_some()
    }

    fn finish(self: Box<Self>, _: &Models, _: Instant) {
        self.respond.send(self.result.unwrap_or_else(|| Err(Error::internal("a question without a result"))));
    }

    fn refuse(self: Box<Self>, error: Error) {
        self.respond.send(Err(error));
    }
}
