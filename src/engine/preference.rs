//! Which of two conversations the judge prefers.

use super::Engine;
use super::pending::Pending;
use crate::Result;
use crate::chat::{ChatRequest, Message, Usage};
use crate::reward::preference;
use crate::rollout::{Goal, ModelRole};

impl Engine {
    /// Queues a question to the judge: the probability that the conversation `first` is better than `second`, in this order
    /// of showing them, with what it cost.
    ///
    /// # Errors
    /// Nobody plays the judge, or the queue is full.
    pub(crate) fn submit_preference(
        &self,
        goal: &Goal,
        [first, second]: [&[Message]; 2],
        seed: u64,
    ) -> Result<Pending<(f64, Usage)>> {
        let (messages, task) = preference::question(goal, first, second);
        let question = ChatRequest { messages, task, seed };
        self.submit_to(ModelRole::Judge, question, |reply| Ok((preference::probability(&reply.output)?, reply.usage)))
    }
}
