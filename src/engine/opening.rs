//! First messages: what a simulated user opens a conversation with.
//!
//! Conversations are often known by their goal alone (a dataset of questions and answers). The user's model then writes
//! the first message, which says roughly what is wanted and leaves details for later, as people do.

use super::{Engine, Limits, Prompt};
use crate::chat::{Message, Role};
use crate::decode::GenerateOptions;
use crate::rollout::seed::turn_seed;
use crate::rollout::{Goal, ModelRole, UserTurn};
use crate::{Error, ErrorKind, Result};

impl Engine {
    /// The message with which the simulated user of the configuration opens a conversation about `goal`. The same seed
    /// gives the same message.
    ///
    /// ```no_run
    /// use foreturn::engine::{Engine, Limits};
    /// use foreturn::rank::Goal;
    ///
    /// # fn main() -> foreturn::Result<()> {
    /// # let engine = Engine::new(foreturn::Config::default())?;
    /// let goal = Goal { prompt: Some("A poem about my late dog, who loved the sea.".into()), ..Goal::default() };
    /// let first = engine.open_conversation(&goal, 7, Limits::default())?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Nobody plays the user, or a model that is not a local one; the user wrote nothing, or left at once.
    pub fn open_conversation(&self, goal: &Goal, seed: u64, limits: Limits) -> Result<Message> {
        let plan = self.plan()?;
        let Some((_, model)) = plan.roles.resolve(ModelRole::User) else {
            return Err(Error::invalid_config("roles.user is missing: name one of [models] there"));
        };
        let (simulator, user) = (&plan.simulator, &plan.rollout.user);
        let messages = simulator.prompt(goal, &[]);
        let prompt = if simulator.is_trained() {
            let local = self.local(model)?;
            Prompt::Tokens(local.folder.tokenizer().encode_user_turn(&messages, &local.render_options(false))?.tokens)
        } else {
            Prompt::Messages(messages, true)
        };
        let options = GenerateOptions {
            max_tokens: user.max_tokens,
            sampling: user.sampling.clone(),
            seed: turn_seed(seed, 0, ModelRole::User),
            stop: simulator.stop_texts(),
            schema: simulator.schema(),
            ..GenerateOptions::default()
        };
        let reply = self.generate(model, prompt, options, limits)?;
        match simulator.read(&reply.text)? {
            UserTurn::Says(words) => Ok(Message::new(Role::User, words)),
            UserTurn::Leaves(_) => Err(Error::new(
                ErrorKind::ModelOutput,
                format!(
                    "the simulated user left before saying anything (reply {:?}): use a better model for roles.user",
                    reply.text
                ),
            )),
        }
    }
}
