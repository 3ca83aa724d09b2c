//! A call to one local model as a job of the engine: tasks that begin together.

use std::sync::Arc;
use std::time::Instant;

use super::job::{Job, Kind, Question, Request, Watch};
use super::models::Models;
use super::pending::Responder;
use super::refresh::changed;
use super::statistics::Stage;
use crate::chat::local::{Answer, Completion, Task};
use crate::rank::{AskId, StopReason};
use crate::{Error, Result};

/// Makes one task. It runs on the admission's thread.
pub(super) type Prepare = Box<dyn FnOnce() -> Result<Task> + Send>;

/// Makes the result of what came of each task.
type Read<T> = Box<dyn FnOnce(Vec<Result<Completion>>) -> Result<T> + Send>;

/// A call, and who waits for it.
pub(super) struct Call<T> {
    model: Arc<str>,
    stage: Stage,
    /// How its tasks are called in errors, where it may have several.
    many: Option<&'static str>,
    prepare: Vec<Prepare>,
    /// With their places. Those that were asked stay, to be asked again.
    tasks: Vec<(usize, Task)>,
    /// Whether a task can't be asked again.
    once: bool,
    results: Vec<Option<Result<Completion>>>,
    /// Whether the first failure ends it.
    all_or_nothing: bool,
    failure: Option<Error>,
    read: Read<T>,
    respond: Responder<T>,
}

impl<T> Call<T> {
    pub(super) fn new(
        model: Arc<str>,
        stage: Stage,
        prepare: Vec<Prepare>,
        read: impl FnOnce(Vec<Result<Completion>>) -> Result<T> + Send + 'static,
        respond: Responder<T>,
    ) -> Self {
        let results = prepare.iter().map(|_| None).collect();
        let (many, tasks, read) = (None, Vec::new(), Box::new(read));
        Call {
            model,
            stage,
            many,
            prepare,
            tasks,
            once: false,
            results,
            all_or_nothing: true,
            failure: None,
            read,
            respond,
        }
    }

    /// Says how one of several tasks is called in errors.
    pub(super) fn of_many(self, what: &'static str) -> Self {
        Call { many: Some(what), ..self }
    }

    /// Goes on where a task failed, or is not done in time.
    pub(super) fn with_failures(self) -> Self {
        Call { all_or_nothing: false, ..self }
    }

    /// Says in an error which task it is about.
    fn name(&self, at: usize, error: Error) -> Error {
        match self.many {
            Some(what) => error.context(format!("{what} {at}")),
            None => error,
        }
    }

    fn set(&mut self, at: usize, result: Result<Completion>) {
        let result = result.map_err(|error| self.name(at, error));
        match result {
            Err(error) if self.all_or_nothing => drop(self.failure.get_or_insert(error)),
            result => self.results[at] = Some(result),
        }
    }
}

impl<T: Send> Job for Call<T> {
    fn kind(&self) -> Kind {
        Kind::Call { texts: self.results.len() }
    }

    fn stage(&self) -> Stage {
        self.stage
    }

    fn prepare(&mut self, watch: &Watch) -> Result<()> {
        for (at, prepare) in std::mem::take(&mut self.prepare).into_iter().enumerate() {
            match watch.check("the texts were tokenised").and_then(|()| prepare()) {
                Ok(task) => self.tasks.push((at, task)),
                Err(error) => self.set(at, Err(error)),
            }
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
        }
        Ok(())
    }

    fn asks(&self, model: &str) -> bool {
        *self.model == *model
    }

    fn start_over(&mut self) -> Result<()> {
        if self.once {
            return Err(changed(&self.model));
        }
        for (at, _) in &self.tasks {
            self.results[*at] = None;
        }
        Ok(())
    }

    fn start(&mut self, questions: &mut Vec<Question>) {
        for (at, task) in std::mem::take(&mut self.tasks) {
            match task.again() {
                Some(again) => self.tasks.push((at, again)),
                None => self.once = true,
            }
            let (id, model) = (AskId(at as u64), Arc::clone(&self.model));
            questions.push(Question { id, model, request: Request::Task(task) });
        }
    }

    fn on_answer(&mut self, id: AskId, answer: Result<Answer>, _: &mut Vec<Question>) {
        let result = answer.and_then(|answer| match answer {
            Answer::Task(completion) => Ok(completion),
            Answer::Chat(..) => Err(Error::internal("a task was answered as a chat")),
        });
        self.set(id.0 as usize, result);
    }

    /// Nothing is left to do: the tasks are answered as they stand.
    fn stop(&mut self, _: StopReason) {}

    fn fail(&mut self, error: Error) {
        self.failure.get_or_insert(error);
    }

    fn is_done(&self) -> bool {
        self.failure.is_some() || self.results.iter().all(Option::is_some)
    }

    fn finish(self: Box<Self>, _: &Models, _: Instant) {
        let Call { results, failure, read, respond, .. } = *self;
        let missing = || Err(Error::internal("a task without a result"));
        respond.send(match failure {
            Some(error) => Err(error),
            None => read(results.into_iter().map(|result| result.unwrap_or_else(missing)).collect()),
        });
    }

    fn refuse(self: Box<Self>, error: Error) {
        self.respond.send(Err(error));
    }
}
