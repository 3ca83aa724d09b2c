//! First messages: what a simulated user opens a conversation with.
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
use crate::chat::{ChatOutput, ChatRequest, ChatTask, Finish, Message, Role};
use crate::rank::{AskId, RankPlan, StopReason};
use crate::rollout::seed::turn_seed;
use crate::rollout::{Goal, ModelRole, UserTurn};
use crate::{Error, ErrorKind, Result};

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
        let plan = Arc::clone(self.plan()?);
        let Some((_, model)) = plan.roles.resolve(ModelRole::User) else {
            return Err(Error::invalid_config("roles.user is missing: name one of [models] there"));
        };
        let model: Arc<str> = model.into();
        check_templates(&plan, vec![ModelRole::User], &self.inner.locals)?;
        self.submit(|respond| {
            Box::new(Opening { question: question(&plan, goal, seed), model, plan, result: None, respond })
        })
    }
}

/// What the user's model is asked.
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

/// One question to the user's model.
struct Opening {
    question: ChatRequest,
    model: Arc<str>,
    plan: Arc<RankPlan>,
    result: Option<Result<Message>>,
    respond: Responder<Message>,
}

impl Opening {
    fn read(&self, answer: Answer) -> Result<Message> {
        let Answer::Chat(reply, _) = answer else { return Err(Error::internal("a chat was answered as a task")) };
        let ChatOutput::Text { text, finish, .. } = reply.output else {
            return Err(Error::internal("the user's model gave numbers where a message was asked for"));
        };
        match finish {
            Finish::Deadline => return Err(interrupted(StopReason::Deadline, "the user wrote")),
            Finish::Cancelled => return Err(interrupted(StopReason::Cancelled, "the user wrote")),
            Finish::Stop | Finish::Length | Finish::Context => {}
        }
        match self.plan.simulator.read(&text)? {
            UserTurn::Says(words) => Ok(Message::new(Role::User, words)),
            UserTurn::Leaves(_) => Err(Error::new(
                ErrorKind::ModelOutput,
                format!(
                    "the simulated user left before saying anything (reply {text:?}): use a better model for roles.user"
                ),
            )),
        }
    }
}

impl Job for Opening {
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
        questions.push(Question { id: AskId(0), model: Arc::clone(&self.model), request });
    }

    fn on_answer(&mut self, _: AskId, answer: Result<Answer>, _: &mut Vec<Question>) {
        let result = answer.and_then(|answer| self.read(answer));
        self.result.get_or_insert(result);
    }

    /// An endpoint may take long to answer, and nobody waits for half a message.
    fn stop(&mut self, why: StopReason) {
        self.result.get_or_insert(Err(interrupted(why, "the user wrote")));
    }

    fn fail(&mut self, error: Error) {
        self.result.get_or_insert(Err(error));
    }

    fn is_done(&self) -> bool {
        self.result.is_some()
    }

    fn finish(self: Box<Self>, _: &Models, _: Instant) {
        self.respond.send(self.result.unwrap_or_else(|| Err(Error::internal("an opening without a result"))));
    }

    fn refuse(self: Box<Self>, error: Error) {
        self.respond.send(Err(error));
    }
}
