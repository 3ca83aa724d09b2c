//! A call to one local model as a job of the engine: tasks that begin together.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::job::{Job, Kind, Punctual, Question, Request, Watch, interrupted};
use super::models::Models;
use super::pending::Responder;
use super::refresh::changed;
use super::statistics::Stage;
use crate::chat::local::{self, Completion, Task};
use crate::rank::{AskId, StopReason};
use crate::{Error, Result};

/// How tasks are made, and of how many texts.
pub(super) struct Prepare {
    texts: usize,
    /// Makes the task of the next text. It is called once for each, on the admission's thread.
    make: Box<dyn FnMut() -> Result<Task> + Send>,
}

impl Prepare {
    /// One task.
    pub(super) fn once(make: impl FnOnce() -> Result<Task> + Send + 'static) -> Self {
        let mut make = Some(make);
        let again = || Error::internal("a text was prepared twice");
        Prepare { texts: 1, make: Box::new(move || make.take().ok_or_else(again)?()) }
    }

    /// A task for each of `texts`.
    pub(super) fn each<T: Send + 'static>(
        texts: Vec<T>,
        mut make: impl FnMut(T) -> Result<Task> + Send + 'static,
    ) -> Self {
        let (count, mut rest) = (texts.len(), texts.into_iter());
        let missing = || Error::internal("more texts were prepared than there are");
        Prepare { texts: count, make: Box::new(move || make(rest.next().ok_or_else(missing)?)) }
    }
}

/// Makes the result of what came of each task.
type Read<T> = Box<dyn FnOnce(Vec<Result<Completion>>) -> Result<T> + Send>;

/// A call.
pub(super) struct Call<T> {
    model: Arc<str>,
    stage: Stage,
    /// `None` once they are made.
    prepare: Option<Prepare>,
    /// How many tasks it has.
    texts: usize,
    /// With their places. Those that were asked stay, to be asked again.
    tasks: Vec<(usize, Task)>,
    /// Whether a task can't be asked again.
    once: bool,
    answer: Arc<Mutex<Answer<T>>>,
}

/// What has come of the tasks, and who waits for it.
struct Answer<T> {
    /// How its tasks are called in errors, where it may have several.
    many: Option<&'static str>,
    results: Vec<Option<Result<Completion>>>,
    /// Whether the first failure ends it.
    all_or_nothing: bool,
    failure: Option<Error>,
    /// `None` once the result is handed out.
    caller: Option<(Read<T>, Responder<T>)>,
}

impl<T> Answer<T> {
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

    fn is_done(&self) -> bool {
        self.caller.is_none() || self.failure.is_some() || self.results.iter().all(Option::is_some)
    }
}

/// Hands out the result, once. The caller's function is called without the lock.
fn hand_out<T>(answer: &Mutex<Answer<T>>, missing: impl Fn() -> Error) {
    let mut answer = lock(answer);
    let Some((read, respond)) = answer.caller.take() else { return };
    for at in 0..answer.results.len() {
        if answer.results[at].is_none() {
            answer.set(at, Err(missing()));
        }
    }
    let (failure, results) = (answer.failure.take(), answer.results.iter_mut().filter_map(Option::take).collect());
    drop(answer);
    respond.send(match failure {
        Some(error) => Err(error),
        None => read(results),
    });
}

fn lock<T>(answer: &Mutex<Answer<T>>) -> MutexGuard<'_, Answer<T>> {
    answer.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Send> Punctual for Mutex<Answer<T>> {
    fn answer(&self) {
        hand_out(self, || interrupted(StopReason::Deadline, "the model was at work"));
    }
}

impl<T> Call<T> {
    pub(super) fn new(
        model: Arc<str>,
        stage: Stage,
        prepare: Prepare,
        read: impl FnOnce(Vec<Result<Completion>>) -> Result<T> + Send + 'static,
        respond: Responder<T>,
    ) -> Self {
        let texts = prepare.texts;
        let answer = Answer {
            many: None,
            results: std::iter::repeat_with(|| None).take(texts).collect(),
            all_or_nothing: true,
            failure: None,
            caller: Some((Box::new(read), respond)),
        };
        Call {
            model,
            stage,
            prepare: Some(prepare),
            texts,
            tasks: Vec::new(),
            once: false,
            answer: Arc::new(Mutex::new(answer)),
        }
    }

    /// Says how one of several tasks is called in errors.
    pub(super) fn of_many(self, what: &'static str) -> Self {
        self.answer().many = Some(what);
        self
    }

    /// Goes on where a task failed, or is not done in time.
    pub(super) fn with_failures(self) -> Self {
        self.answer().all_or_nothing = false;
        self
    }

    fn answer(&self) -> MutexGuard<'_, Answer<T>> {
        lock(&self.answer)
    }
}

impl<T: Send + 'static> Job for Call<T> {
    fn kind(&self) -> Kind {
        Kind::Call { texts: self.texts }
    }

    fn stage(&self) -> Stage {
        self.stage
    }

    fn prepare(&mut self, watch: &Watch) -> Result<()> {
        let Some(Prepare { texts, mut make }) = self.prepare.take() else { return Ok(()) };
        for at in 0..texts {
            match watch.check("the texts were tokenised").and_then(|()| make()) {
                Ok(task) => self.tasks.push((at, task)),
                Err(error) => self.answer().set(at, Err(error)),
            }
            if let Some(failure) = self.answer().failure.take() {
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
        let mut answer = self.answer();
        for (at, _) in &self.tasks {
            answer.results[*at] = None;
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
            questions.push(Question { id, model, request: Request::Task(task), further: 0 });
        }
    }

    fn on_answer(&mut self, id: AskId, answer: Result<local::Answer>, _: &mut Vec<Question>) {
        let result = answer.and_then(|answer| match answer {
            local::Answer::Task(completion) => Ok(completion),
            local::Answer::Chat(..) => Err(Error::internal("a task was answered as a chat")),
        });
        self.answer().set(id.0 as usize, result);
    }

    /// Nothing is left to do: the tasks are answered as they stand.
    fn stop(&mut self, _: StopReason) {}

    fn fail(&mut self, error: Error) {
        self.answer().failure.get_or_insert(error);
    }

    fn is_done(&self) -> bool {
        self.answer().is_done()
    }

    fn finish(self: Box<Self>, _: &Models, _: Instant) {
        hand_out(&self.answer, || Error::internal("a task without a result"));
    }

    fn refuse(self: Box<Self>, error: Error) {
        let caller = self.answer().caller.take();
        if let Some((_, respond)) = caller {
            respond.send(Err(error));
        }
    }

    /// A reply has an end of its own at the deadline, and a prefix is let go by the model. Scores are there or are not.
    fn punctual(&self) -> Option<Arc<dyn Punctual>> {
        matches!(self.stage, Stage::Score | Stage::LogProbs).then(|| Arc::clone(&self.answer) as Arc<dyn Punctual>)
    }
}
