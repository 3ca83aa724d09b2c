//! One rollout, as a state machine.

use std::sync::Arc;

use super::seed::turn_seed;
use super::{
    Confusion, Ended, Goal, ModelRole, OnRoleConfusion, ReplySettings, RolloutSettings, Simulator, UserTurn, confusion,
};
use crate::chat::{ChatOutput, ChatReply, ChatRequest, ChatTask, Finish, JsonSchema, Message, Role};
use crate::{Error, ErrorKind, Result};

/// The parts that all rollouts of a ranking share.
pub struct Scene {
    /// The conversation before the response. Its last message is the user's.
    pub history: Vec<Message>,
    /// The user's goal.
    pub goal: Goal,
    /// The simulator that plays the user.
    pub simulator: Arc<dyn Simulator>,
    /// The settings for sampling futures.
    pub settings: RolloutSettings,
    /// Number of turns to sample; 0 samples nothing.
    pub window: usize,
}

/// A message of a sampled future.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolloutMessage {
    /// The message.
    pub message: Message,
    /// Why the model stopped writing; [`Finish::Length`] if the message was cut off.
    pub finish: Finish,
    /// Whether tokenising its text again gives tokens other than the sampled ones. Known only once a later prompt has
    /// included it.
    pub retokenized_differs: bool,
    /// The sign in a user's message that its model speaks as the assistant.
    pub confusion: Option<Confusion>,
}

/// One sampled future of one response.
pub struct Rollout {
    scene: Arc<Scene>,
    response: Arc<Message>,
    seed: u64,
    future: Vec<RolloutMessage>,
    /// Turns completed.
    turn: usize,
    /// The turn before which it waits for [`Rollout::resume`].
    pause: Option<usize>,
    speaker: ModelRole,
    ended: Option<Ended>,
    failure: Option<Error>,
    response_retokenized_differs: bool,
}

impl Rollout {
    /// A future of `response`, drawn from the random stream `seed`. Nothing happens before [`Rollout::start`].
    pub fn new(scene: Arc<Scene>, response: impl Into<Arc<Message>>, seed: u64) -> Self {
        Rollout {
            scene,
            response: response.into(),
            seed,
            future: Vec::new(),
            turn: 0,
            pause: None,
            speaker: ModelRole::User,
            ended: None,
            failure: None,
            response_retokenized_differs: false,
        }
    }

    /// A future of `response` that is already known. `future` holds its messages, and `ended` says why it ended.
    pub fn given(
        scene: Arc<Scene>,
        response: impl Into<Arc<Message>>,
        seed: u64,
        future: Vec<RolloutMessage>,
        ended: Ended,
    ) -> Self {
        Rollout { future, ended: Some(ended), ..Rollout::new(scene, response, seed) }
    }

    /// Makes it wait for [`Rollout::resume`] after this many turns, if it hasn't ended by then.
    #[must_use]
    pub fn pausing_after(self, turns: usize) -> Self {
        Rollout { pause: Some(turns), ..self }
    }

    /// Whether it waits to be resumed.
    pub fn is_paused(&self) -> bool {
        self.ended.is_none() && self.pause == Some(self.turn) && self.speaker == ModelRole::User
    }

    /// Goes on after a pause: the next request.
    pub fn resume(&mut self) -> Option<(ModelRole, ChatRequest)> {
        self.pause = None;
        self.next_request()
    }

    /// The first request. It is none if the window is 0 or the future was given; then the rollout has ended.
    pub fn start(&mut self) -> Option<(ModelRole, ChatRequest)> {
        self.next_request()
    }

    /// Takes the reply to the last request. Returns the next request, or none once the rollout has ended. A rollout that
    /// has ended ignores replies.
    pub fn on_reply(&mut self, reply: Result<ChatReply>) -> Option<(ModelRole, ChatRequest)> {
        if self.ended.is_some() {
            return None;
        }
        if let Err(error) = self.take(reply) {
            self.fail(error);
        }
        self.next_request()
    }

    /// Ends the rollout from outside.
    pub fn end(&mut self, why: Ended) {
        self.ended.get_or_insert(why);
    }

    /// Why it ended; `None` while it goes on.
    pub fn ended(&self) -> Option<Ended> {
        self.ended
    }

    /// The error that made it fail, if it [`Ended::Failed`].
    pub fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }

    /// The seed of its random stream.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The response that it is a future of.
    pub fn response(&self) -> &Message {
        &self.response
    }

    /// The messages sampled so far.
    pub fn future(&self) -> &[RolloutMessage] {
        &self.future
    }

    /// The most tokens that are still sampled one after the other once the reply is there that it waits for.
    pub fn tokens_after(&self) -> usize {
        let (policy, user) = (self.scene.settings.policy.max_tokens, self.scene.settings.user.max_tokens);
        let turns = self.scene.window.saturating_sub(self.turn + 1);
        let answer = if self.speaker == ModelRole::User { policy } else { 0 };
        turns.saturating_mul(policy.saturating_add(user)).saturating_add(answer)
    }

    /// Whether tokenising the response's text again gives tokens other than the sampled ones.
    pub fn response_retokenized_differs(&self) -> bool {
        self.response_retokenized_differs
    }

    fn next_request(&mut self) -> Option<(ModelRole, ChatRequest)> {
        if self.ended.is_none() && self.turn == self.scene.window {
            let cut_off = self.future.last().is_some_and(|last| last.finish == Finish::Length);
            self.ended = Some(if cut_off { Ended::Length } else { Ended::Window });
        }
        if self.ended.is_some() || self.is_paused() {
            return None;
        }
        let conversation: Vec<&Message> = self.conversation().collect();
        let settings = &self.scene.settings;
        let request = match self.speaker {
            ModelRole::User => {
                let simulator = &self.scene.simulator;
                let prompt = simulator.prompt(&self.scene.goal, &conversation);
                self.request(prompt, &settings.user, simulator.stop_texts(), simulator.schema())
            }
            // The policy sees only the conversation: no goal, and no instructions of ours.
            _ => self.request(conversation.into_iter().cloned().collect(), &settings.policy, Vec::new(), None),
        };
        Some((self.speaker, request))
    }

    fn request(
        &self,
        messages: Vec<Message>,
        generation: &ReplySettings,
        stop: Vec<String>,
        schema: Option<Arc<JsonSchema>>,
    ) -> ChatRequest {
        let ReplySettings { max_tokens, sampling } = generation.clone();
        let seed = turn_seed(self.seed, self.turn, self.speaker);
        let is_user = self.speaker == ModelRole::User && self.scene.simulator.is_trained();
        let speaker = if is_user { Role::User } else { Role::Assistant };
        ChatRequest { messages, task: ChatTask::Generate { max_tokens, sampling, stop, schema, speaker }, seed }
    }

    fn conversation(&self) -> impl Iterator<Item = &Message> {
        let future = self.future.iter().map(|said| &said.message);
        self.scene.history.iter().chain(std::iter::once(&*self.response)).chain(future)
    }

    fn take(&mut self, reply: Result<ChatReply>) -> Result<()> {
        let ChatOutput::Text { text, tokens, finish, retokenized_differs } = reply?.output else {
            return Err(Error::internal(format!(
                "the {} model gave probabilities instead of a message",
                self.speaker.as_str()
            )));
        };
        if let Some(why) = interruption(finish) {
            // Half a message is not what the model would have said.
            self.end(why);
            return Ok(());
        }
        if self.speaker == ModelRole::User {
            self.take_user(&text, finish)
        } else {
            self.note_retokenized(&retokenized_differs);
            self.push(Message { role: Role::Assistant, content: text, tokens }, finish);
            self.turn += 1;
            self.speaker = ModelRole::User;
            Ok(())
        }
    }

    fn take_user(&mut self, reply: &str, finish: Finish) -> Result<()> {
        let turn = match self.scene.simulator.read(reply) {
            // A full context may leave no room for a single word.
            Err(_) if finish == Finish::Context => UserTurn::Says(String::new()),
            turn => turn?,
        };
        // The tokens of a cleaned text differ from the sampled ones, and the policy re-tokenises anyway.
        match turn {
            UserTurn::Says(words) => {
                self.push_user(words, finish)?;
                self.speaker = ModelRole::Policy;
            }
            UserTurn::Leaves(words) => {
                if let Some(words) = words {
                    self.push_user(words, Finish::Stop)?;
                }
                self.end(Ended::StopSignal);
            }
        }
        Ok(())
    }

    /// Appends the user's message, unless it is the assistant's and this counts as a failure.
    fn push_user(&mut self, words: String, finish: Finish) -> Result<()> {
        let on_confusion = self.scene.settings.on_role_confusion;
        let found = match on_confusion {
            OnRoleConfusion::Ignore => None,
            _ => confusion(&words, &self.conversation().collect::<Vec<_>>()),
        };
        if let (Some(_), OnRoleConfusion::Fail) = (found, on_confusion) {
            return Err(Error::new(
                ErrorKind::ModelOutput,
                format!(
                    "the simulated user speaks as the assistant ({words:?}): use a model for roles.user that stays in its part, \
                     or set rollout.on_role_confusion = \"report\""
                ),
            ));
        }
        let before = self.future.len();
        self.push(Message::new(Role::User, words), finish);
        if let Some(said) = self.future.get_mut(before) {
            said.confusion = found;
        }
        Ok(())
    }

    /// Appends a message. A full context ends the rollout after it, and an empty message is then dropped.
    fn push(&mut self, message: Message, finish: Finish) {
        let full = finish == Finish::Context;
        if !(full && message.content.is_empty()) {
            self.future.push(RolloutMessage { message, finish, retokenized_differs: false, confusion: None });
        }
        if full {
            self.end(Ended::Context);
        }
    }

    /// The policy's prompt is history, response and future. The indices refer to it.
    fn note_retokenized(&mut self, indices: &[usize]) {
        let response_at = self.scene.history.len();
        for &index in indices {
            if index == response_at {
                self.response_retokenized_differs = true;
            } else if let Some(said) = index.checked_sub(response_at + 1).and_then(|at| self.future.get_mut(at)) {
                said.retokenized_differs = true;
            }
        }
    }

    fn fail(&mut self, error: Error) {
        self.end(match error.kind() {
            ErrorKind::ContextLength => Ended::Context,
            ErrorKind::DeadlineExceeded => Ended::Deadline,
            ErrorKind::Cancelled => Ended::Cancelled,
            _ => Ended::Failed,
        });
        if self.ended == Some(Ended::Failed) {
            self.failure = Some(error);
        }
    }
}

/// The way in which an interrupted reply ends its rollout.
pub(crate) fn interruption(finish: Finish) -> Option<Ended> {
    match finish {
        Finish::Deadline => Some(Ended::Deadline),
        Finish::Cancelled => Some(Ended::Cancelled),
        Finish::Stop | Finish::Length | Finish::Context => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::InstructedUser;
    use super::*;
    use crate::chat::{SampledTokens, Usage};

    fn rollout(window: usize) -> Rollout {
        let scene = Scene {
            history: vec![Message::new(Role::User, "hello")],
            goal: Goal { prompt: Some("SECRET".into()), ..Goal::default() },
            simulator: Arc::new(InstructedUser::default()),
            settings: RolloutSettings::default(),
            window,
        };
        Rollout::new(Arc::new(scene), Message::new(Role::Assistant, "I say [[TERMINATE CHAT]]"), 17)
    }

    fn reply(text: &str, finish: Finish) -> Result<ChatReply> {
        let output = ChatOutput::Text { text: text.into(), tokens: None, finish, retokenized_differs: vec![] };
        Ok(ChatReply { output, usage: Usage::default(), note: None })
    }

    #[test]
    fn it_knows_how_much_may_follow() {
        let mut rollout = rollout(2);
        let settings = RolloutSettings::default();
        let (policy, user) = (settings.policy.max_tokens, settings.user.max_tokens);
        let mut after = Vec::new();
        let mut next = rollout.start();
        while next.is_some() {
            after.push(rollout.tokens_after());
            next = rollout.on_reply(reply("Well.", Finish::Stop));
        }
        assert_eq!(after, [2 * policy + user, policy + user, policy, 0]);
    }

    #[test]
    fn turns_alternate_until_the_window_is_full() {
        let mut rollout = rollout(1);
        let (role, request) = rollout.start().unwrap();
        assert_eq!((role, request.seed), (ModelRole::User, turn_seed(17, 0, ModelRole::User)));
        let (role, request) = rollout.on_reply(reply("and?", Finish::Stop)).unwrap();
        assert_eq!((role, request.seed), (ModelRole::Policy, turn_seed(17, 0, ModelRole::Policy)));
        assert_eq!(request.messages.len(), 3);
        assert!(request.messages.iter().all(|m| !m.content.contains("SECRET")), "the policy never sees the goal");
        assert!(rollout.on_reply(reply("so.", Finish::Stop)).is_none());
        assert_eq!(rollout.ended(), Some(Ended::Window));
        assert_eq!(rollout.future().len(), 2);
    }

    #[test]
    fn a_pause_holds_a_rollout_between_two_turns() {
        let mut rollout = rollout(2).pausing_after(1);
        rollout.start();
        assert!(!rollout.is_paused());
        rollout.on_reply(reply("and?", Finish::Stop));
        assert!(rollout.on_reply(reply("so.", Finish::Stop)).is_none());
        assert!(rollout.is_paused() && rollout.ended().is_none());
        let (role, request) = rollout.resume().expect("the second turn");
        assert_eq!((role, request.seed), (ModelRole::User, turn_seed(17, 1, ModelRole::User)));
        assert!(!rollout.is_paused());

        let mut short = super::tests::rollout(1).pausing_after(1);
        short.start();
        short.on_reply(reply("and?", Finish::Stop));
        short.on_reply(reply("so.", Finish::Stop));
        assert_eq!((short.ended(), short.is_paused()), (Some(Ended::Window), false));
    }

    #[test]
    fn window_zero_ends_at_once() {
        let mut rollout = rollout(0);
        assert!(rollout.start().is_none());
        assert_eq!(rollout.ended(), Some(Ended::Window));
    }

    #[test]
    fn a_given_future_asks_nothing() {
        let Rollout { scene, response, seed, .. } = rollout(1);
        let said = RolloutMessage {
            message: Message::new(Role::User, "bye"),
            finish: Finish::Stop,
            retokenized_differs: false,
            confusion: None,
        };
        let mut given = Rollout::given(scene, response, seed, vec![said.clone()], Ended::StopSignal);
        assert!(given.start().is_none() && given.on_reply(reply("more", Finish::Stop)).is_none());
        assert_eq!((given.ended(), given.seed(), given.future()), (Some(Ended::StopSignal), 17, &[said][..]));
    }

    #[test]
    fn cut_off_replies_go_on_and_the_last_one_ends_as_length() {
        let mut rollout = rollout(1);
        rollout.start();
        assert!(rollout.on_reply(reply("cut", Finish::Length)).is_some());
        assert!(rollout.on_reply(reply("cut too", Finish::Length)).is_none());
        assert_eq!(rollout.ended(), Some(Ended::Length));
    }

    #[test]
    fn a_full_context_keeps_what_was_said() {
        let mut rollout = rollout(2);
        rollout.start();
        rollout.on_reply(reply("more", Finish::Stop));
        assert!(rollout.on_reply(reply("as I was say", Finish::Context)).is_none());
        assert_eq!((rollout.ended(), rollout.future().len()), (Some(Ended::Context), 2));

        let mut refused = super::tests::rollout(2);
        refused.start();
        refused.on_reply(Err(Error::new(ErrorKind::ContextLength, "too long")));
        assert_eq!((refused.ended(), refused.future().len()), (Some(Ended::Context), 0));
    }

    #[test]
    fn silence_and_errors_fail_with_a_reason() {
        let mut silent = rollout(1);
        silent.start();
        assert!(silent.on_reply(reply(" ", Finish::Stop)).is_none());
        assert_eq!(silent.ended(), Some(Ended::Failed));
        assert!(silent.failure().unwrap().to_string().contains("wrote nothing"));

        let mut broken = rollout(1);
        broken.start();
        broken.on_reply(Err(Error::runtime("boom")));
        assert_eq!(broken.failure().unwrap().kind(), ErrorKind::Runtime);
    }

    #[test]
    fn a_user_who_speaks_as_the_assistant_is_marked_or_fails() {
        let mut marked = rollout(1);
        marked.start();
        assert!(marked.on_reply(reply("How can I help you today?", Finish::Stop)).is_some());
        assert_eq!(marked.future()[0].confusion, Some(Confusion::Offers));

        let with = |on_role_confusion| {
            let Rollout { scene, response, .. } = rollout(1);
            let settings = RolloutSettings { on_role_confusion, ..RolloutSettings::default() };
            let Scene { history, goal, simulator, window, .. } = Arc::into_inner(scene).expect("the only one");
            let scene = Scene { history, goal, simulator, settings, window };
            let mut rollout = Rollout::new(Arc::new(scene), response, 17);
            rollout.start();
            rollout.on_reply(reply("How can I help you today?", Finish::Stop));
            rollout
        };
        let failed = with(OnRoleConfusion::Fail);
        assert_eq!((failed.ended(), failed.future().len()), (Some(Ended::Failed), 0));
        assert!(failed.failure().unwrap().to_string().contains("speaks as the assistant"));
        assert_eq!(with(OnRoleConfusion::Ignore).future()[0].confusion, None);
    }

    #[test]
    fn sampled_tokens_travel_on_and_differences_are_noted() {
        let mut rollout = rollout(2);
        rollout.start();
        rollout.on_reply(reply("q", Finish::Stop));
        let tokens = SampledTokens { model: "policy".into(), ids: Arc::from([1, 2, 3]) };
        let output = ChatOutput::Text {
            text: "a".into(),
            tokens: Some(tokens.clone()),
            finish: Finish::Stop,
            retokenized_differs: vec![1],
        };
        rollout.on_reply(Ok(ChatReply { output, usage: Usage::default(), note: None }));
        assert!(rollout.response_retokenized_differs());
        let (_, request) = rollout.on_reply(reply("q2", Finish::Stop)).unwrap();
        assert_eq!(request.messages[3].tokens.as_ref(), Some(&tokens));
        let output =
            ChatOutput::Text { text: "b".into(), tokens: None, finish: Finish::Stop, retokenized_differs: vec![3, 99] };
        rollout.on_reply(Ok(ChatReply { output, usage: Usage::default(), note: None }));
        let flags: Vec<bool> = rollout.future().iter().map(|m| m.retokenized_differs).collect();
        assert_eq!(flags, [false, true, false, false]);
    }
}
