//! Scores of many texts at once.

use std::sync::{Arc, Mutex, PoisonError};

use super::command::Task;
use super::pending::{self, Pending, Responder};
use super::{Engine, Limits, Stage};
use crate::chat::Message;
use crate::chat::local::{Completion, OnCompletion};
use crate::score::{
    ImplicitOptions, ImplicitReward, ResponseLogProb, Score, ScoreInput, ScoreOutput, ScoreTask, StepOptions,
    StepScores, input,
};
use crate::{Error, Result};

/// How texts are scored.
#[derive(Debug, Clone, Default)]
pub struct ScoreOptions {
    /// What is read off.
    pub task: ScoreTask,
    /// Deadline and cancellation. A score that is not there by then is missing, and with it the whole result.
    pub limits: Limits,
}

impl Engine {
    /// The logits of `model`'s head for each conversation. They run together; on the paged engine each score is what it
    /// would be alone, to the last bit, and prefixes that conversations share are computed once.
    ///
    /// ```no_run
    /// use foreturn::chat::{Message, Role};
    /// use foreturn::engine::{Engine, Limits};
    ///
    /// # fn main() -> foreturn::Result<()> {
    /// # let engine = Engine::new(foreturn::Config::default())?;
    /// let chat = |reply| vec![Message::new(Role::User, "What is 2 + 3?"), Message::new(Role::Assistant, reply)];
    /// let scores = engine.score("reward-model", vec![chat("5"), chat("6")], Limits::default())?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// There is no such local model, it has no such head, a conversation can't be rendered or is longer than its context
    /// (which is never cut), or the model failed. The message names the conversation.
    pub fn score(&self, model: &str, chats: Vec<Vec<Message>>, limits: Limits) -> Result<Vec<Score>> {
        let inputs = chats.into_iter().map(ScoreInput::Chat).collect();
        let outputs = self.submit_score(model, inputs, ScoreOptions { task: ScoreTask::Labels, limits })?.wait()?;
        outputs
            .into_iter()
            .map(|output| if let ScoreOutput::Labels(score) = output { Ok(score) } else { mixed() })
            .collect()
    }

    /// A process reward for each step of each conversation's last message.
    ///
    /// # Errors
    /// As [`Engine::score`]; the model has no such marker.
    pub fn score_steps(
        &self,
        model: &str,
        chats: Vec<Vec<Message>>,
        options: StepOptions,
        limits: Limits,
    ) -> Result<Vec<StepScores>> {
        let inputs = chats.into_iter().map(ScoreInput::Chat).collect();
        let options = ScoreOptions { task: ScoreTask::Steps(options), limits };
        let outputs = self.submit_score(model, inputs, options)?.wait()?;
        outputs
            .into_iter()
            .map(|output| if let ScoreOutput::Steps(steps) = output { Ok(steps) } else { mixed() })
            .collect()
    }

    /// The texts as vectors.
    ///
    /// # Errors
    /// As [`Engine::score`].
    pub fn embed(&self, model: &str, texts: Vec<String>, limits: Limits) -> Result<Vec<Vec<f32>>> {
        let inputs = texts.into_iter().map(ScoreInput::Text).collect();
        let outputs = self.submit_score(model, inputs, ScoreOptions { task: ScoreTask::Embedding, limits })?.wait()?;
        outputs
            .into_iter()
            .map(|output| if let ScoreOutput::Embedding(row) = output { Ok(row) } else { mixed() })
            .collect()
    }

    /// How much likelier `policy` finds each conversation's last message, the assistant's, than `reference` does, times β:
    /// the reward that a policy trained by preferences implies.
    ///
    /// # Errors
    /// As [`Engine::score`], for either model; `options.beta` is out of range.
    pub fn implicit_rewards(
        &self,
        policy: &str,
        reference: &str,
        chats: Vec<Vec<Message>>,
        options: ImplicitOptions,
        limits: Limits,
    ) -> Result<Vec<ImplicitReward>> {
        options.validate()?;
        let submit = |model: &str| {
            let inputs = chats.iter().cloned().map(ScoreInput::Chat).collect();
            self.submit_score(model, inputs, ScoreOptions { task: ScoreTask::Response, limits: limits.clone() })
        };
        // Both at once: their models take turns.
        let (policy, reference) = (submit(policy)?, submit(reference)?);
        let pairs = responses(policy.wait()?).zip(responses(reference.wait()?));
        pairs.map(|(policy, reference)| Ok(options.reward(policy?, reference?))).collect()
    }

    /// Queues texts to be scored; one result each, in order. They begin together, so they share passes of the model from
    /// the first one on.
    ///
    /// # Errors
    /// As [`Engine::score`], for what shows before the model runs.
    pub fn submit_score(
        &self,
        model: &str,
        inputs: Vec<ScoreInput>,
        options: ScoreOptions,
    ) -> Result<Pending<Vec<ScoreOutput>>> {
        let local = self.local(model)?;
        let ScoreOptions { task, limits } = options;
        let deadline = limits.deadline();
        let encode = |(at, given): (usize, ScoreInput)| {
            let in_time = limits.check(deadline, "the texts were tokenised");
            in_time
                .and_then(|()| input::encode(&local.folder, &local.prompting, given, &task))
                .map_err(|e| e.context(format!("text {at}")))
        };
        let encoded = inputs.into_iter().enumerate().map(encode).collect::<Result<Vec<_>>>()?;
        let (pending, respond) = pending::pair(limits.cancel.clone());
        let collector = Collector::new(encoded.len(), respond);
        let with_done = |(at, encoded)| {
            let collector = Arc::clone(&collector);
            let done: OnCompletion = Box::new(move |result| Collector::take(&collector, at, result));
            (Task::Score(encoded, task.clone()), done)
        };
        let tasks = encoded.into_iter().enumerate().map(with_done).collect();
        self.call(model, Stage::Score, tasks, (deadline, limits.priority), pending.token())?;
        Ok(pending)
    }
}

fn mixed<T>() -> Result<T> {
    Err(Error::internal("a score of another kind than was asked for"))
}

fn responses(outputs: Vec<ScoreOutput>) -> impl Iterator<Item = Result<ResponseLogProb>> {
    outputs.into_iter().map(|output| if let ScoreOutput::Response(scored) = output { Ok(scored) } else { mixed() })
}

/// Brings the results of one call together.
struct Collector {
    outputs: Vec<Option<ScoreOutput>>,
    missing: usize,
    /// Taken by the first failure or by the last result.
    respond: Option<Responder<Vec<ScoreOutput>>>,
}

impl Collector {
    fn new(count: usize, respond: Responder<Vec<ScoreOutput>>) -> Arc<Mutex<Self>> {
        let mut collector = Collector { outputs: vec![None; count], missing: count, respond: Some(respond) };
        collector.finish();
        Arc::new(Mutex::new(collector))
    }

    fn take(collector: &Mutex<Self>, at: usize, result: Result<Completion>) {
        let mut collector = collector.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(Completion { score: Some(score), .. }) => {
                collector.outputs[at] = Some(score);
                collector.missing -= 1;
                collector.finish();
            }
            Ok(_) => collector.fail(Error::internal("a request for a score gave none")),
            Err(error) => collector.fail(error.context(format!("text {at}"))),
        }
    }

    fn finish(&mut self) {
        if self.missing == 0
            && let Some(respond) = self.respond.take()
        {
            respond.send(Ok(self.outputs.drain(..).flatten().collect()));
        }
    }

    fn fail(&mut self, error: Error) {
        if let Some(respond) = self.respond.take() {
            respond.send(Err(error));
        }
    }
}
