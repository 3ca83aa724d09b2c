//! Scores of many texts at once.

use std::sync::Arc;

use super::call::{Call, Prepare};
use super::model::{Model, mixed};
use super::pending::Pending;
use super::statistics::Stage;
use crate::chat::local::{Completion, Output, Task};
use crate::chat::{Message, Usage};
use crate::score::{
    ImplicitOptions, ImplicitReward, ResponseLogProb, Score, ScoreInput, ScoreOutput, ScoreTask, StepOptions,
    StepScores, input,
};
use crate::{Error, Result};

/// A score, and what it cost.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Scored {
    /// The score.
    pub output: ScoreOutput,
    /// Tokens that the model read, those that it took from its cache, and the seconds from when the model got the text.
    pub usage: Usage,
}

impl Model {
    /// The logits of the model's head for each conversation. They run together; on the paged engine each score is what it
    /// would be alone, to the last bit, and prefixes that conversations share are computed once.
    ///
    /// ```no_run
    /// use foreturn::Engine;
    /// use foreturn::chat::{Message, Role};
    ///
    /// # fn main() -> foreturn::Result<()> {
    /// # let engine = Engine::new(foreturn::Config::default())?;
    /// let chat = |reply| vec![Message::new(Role::User, "What is 2 + 3?"), Message::new(Role::Assistant, reply)];
    /// let scores = engine.model("reward-model")?.score(vec![chat("5"), chat("6")])?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// It is not a local model, it has no such head, a conversation can't be rendered or is longer than its context (which
    /// is never cut), the queue is full, or the model failed. The message names the conversation.
    pub fn score(&self, chats: Vec<Vec<Message>>) -> Result<Vec<Score>> {
        let labels = |scored: Scored| if let ScoreOutput::Labels(score) = scored.output { Ok(score) } else { mixed() };
        self.score_chats(chats, ScoreTask::Labels)?.into_iter().map(labels).collect()
    }

    /// A process reward for each step of each conversation's last message.
    ///
    /// # Errors
    /// As [`Model::score`]; the model has no such marker.
    pub fn score_steps(&self, chats: Vec<Vec<Message>>, options: StepOptions) -> Result<Vec<StepScores>> {
        let steps = |scored: Scored| if let ScoreOutput::Steps(steps) = scored.output { Ok(steps) } else { mixed() };
        self.score_chats(chats, ScoreTask::Steps(options))?.into_iter().map(steps).collect()
    }

    /// The texts as vectors.
    ///
    /// # Errors
    /// As [`Model::score`].
    pub fn embed(&self, texts: Vec<String>) -> Result<Vec<Vec<f32>>> {
        let vector = |scored: Scored| if let ScoreOutput::Embedding(row) = scored.output { Ok(row) } else { mixed() };
        let inputs = texts.into_iter().map(ScoreInput::Text).collect();
        self.submit_score(inputs, ScoreTask::Embedding)?.wait()?.into_iter().map(vector).collect()
    }

    /// How much likelier this model, a policy, finds each conversation's last message, the assistant's, than `reference`
    /// does, times β: the reward that a policy trained by preferences implies.
    ///
    /// # Errors
    /// As [`Model::score`], for either model; `options.beta` is out of range.
    pub fn implicit_rewards(
        &self,
        reference: &Model,
        chats: Vec<Vec<Message>>,
        options: ImplicitOptions,
    ) -> Result<Vec<ImplicitReward>> {
        options.validate()?;
        let submit = |model: &Model| {
            let inputs = chats.iter().cloned().map(ScoreInput::Chat).collect();
            model.submit_score(inputs, ScoreTask::Response)
        };
        // Both at once: their models take turns.
        let (policy, reference) = (submit(self)?, submit(reference)?);
        let pairs = responses(policy.wait()?).zip(responses(reference.wait()?));
        pairs.map(|(policy, reference)| Ok(options.reward(policy?, reference?))).collect()
    }

    /// Queues texts to be scored; one result each, in order. They begin together, so they share passes of the model from
    /// the first one on. The first failure ends the call, and so does a deadline that one of them doesn't meet.
    ///
    /// # Errors
    /// It is not a local model, it can't be asked this, or the queue is full. What is wrong with a text shows in the result.
    pub fn submit_score(&self, inputs: Vec<ScoreInput>, task: ScoreTask) -> Result<Pending<Vec<Scored>>> {
        let prepare = self.prepare_scores(inputs, task)?;
        let name = Arc::clone(&self.name);
        let all = |results: Vec<Result<Completion>>| results.into_iter().map(read).collect();
        self.engine
            .submit(move |respond| Box::new(Call::new(name, Stage::Score, prepare, all, respond).of_many("text")))
    }

    /// As [`Model::submit_score`], for whoever can use some scores: each text has its own result, and one that is not there
    /// at the deadline is an error of its own.
    ///
    /// # Errors
    /// As [`Model::submit_score`].
    pub fn submit_score_each(&self, inputs: Vec<ScoreInput>, task: ScoreTask) -> Result<Pending<Vec<Result<Scored>>>> {
        let prepare = self.prepare_scores(inputs, task)?;
        let name = Arc::clone(&self.name);
        let each = |results: Vec<Result<Completion>>| Ok(results.into_iter().map(read).collect());
        self.engine.submit(move |respond| {
            Box::new(Call::new(name, Stage::Score, prepare, each, respond).of_many("text").with_failures())
        })
    }

    fn score_chats(&self, chats: Vec<Vec<Message>>, task: ScoreTask) -> Result<Vec<Scored>> {
        self.submit_score(chats.into_iter().map(ScoreInput::Chat).collect(), task)?.wait()
    }

    fn prepare_scores(&self, inputs: Vec<ScoreInput>, task: ScoreTask) -> Result<Prepare> {
        let local = Arc::clone(self.local()?);
        input::check(&local.folder, &task)?;
        Ok(Prepare::each(inputs, move |given| {
            Ok(Task::Score(input::encode(&local.folder, &local.prompting, given, &task)?, task.clone()))
        }))
    }
}

fn read(result: Result<Completion>) -> Result<Scored> {
    let Completion { output, usage } = result?;
    match output {
        Output::Score(output) => Ok(Scored { output, usage }),
        _ => Err(Error::internal("a request for a score gave none")),
    }
}

fn responses(outputs: Vec<Scored>) -> impl Iterator<Item = Result<ResponseLogProb>> {
    outputs.into_iter().map(|scored| if let ScoreOutput::Response(found) = scored.output { Ok(found) } else { mixed() })
}
