//! A result that is not there yet.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::statistics::Recorder;
use super::{CancelToken, process};
use crate::{Error, ErrorKind, Result};

/// A request under way. Dropping it doesn't end the request; [`Pending::cancel`] does.
pub struct Pending<T> {
    slot: Arc<Slot<T>>,
    cancel: CancelToken,
}

impl<T> std::fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match *self.slot.lock() {
            State::Ready(_) => "ready",
            State::Taken => "taken",
            _ => "waiting",
        };
        f.debug_struct("Pending").field("state", &state).finish_non_exhaustive()
    }
}

/// Hands over the result, once. Nobody may be waiting for it any more.
pub(crate) struct Responder<T> {
    slot: Arc<Slot<T>>,
    /// Counts the errors.
    recorder: Option<Arc<Recorder>>,
}

/// Where the result lies between the two.
struct Slot<T> {
    state: Mutex<State<T>>,
    ready: Condvar,
    /// In which process the result is made.
    process: u32,
}

enum State<T> {
    Waiting,
    /// Nobody waits; this is called instead.
    Calls(Box<dyn FnOnce(Result<T>) + Send>),
    Ready(Result<T>),
    Taken,
}

impl<T> Slot<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The result, where it is there.
    fn take(state: &mut State<T>) -> Option<Result<T>> {
        match std::mem::replace(state, State::Taken) {
            State::Ready(result) => Some(result),
            State::Taken => Some(Err(Error::invalid_request("the result of this request was taken already"))),
            other => {
                *state = other;
                None
            }
        }
    }
}

/// Both ends. The pending side shares `cancel`, where the caller brought a token.
pub(super) fn pair<T>(cancel: Option<CancelToken>, recorder: Option<Arc<Recorder>>) -> (Pending<T>, Responder<T>) {
    let (state, ready) = (Mutex::new(State::Waiting), Condvar::new());
    let slot = Arc::new(Slot { state, ready, process: std::process::id() });
    (Pending { slot: Arc::clone(&slot), cancel: cancel.unwrap_or_default() }, Responder { slot, recorder })
}

impl<T> Responder<T> {
    /// Hands over the result. One that is an error is counted first; a request that is dropped, such as one that was refused
    /// when it was submitted, is not.
    pub(crate) fn send(self, result: Result<T>) {
        if let (Err(error), Some(recorder)) = (&result, &self.recorder) {
            recorder.failed(error.kind());
        }
        self.put(result);
    }

    fn put(&self, result: Result<T>) {
        let mut state = self.slot.lock();
        match std::mem::replace(&mut *state, State::Taken) {
            State::Waiting => {
                *state = State::Ready(result);
                self.slot.ready.notify_all();
            }
            State::Calls(call) => {
                drop(state);
                call(result);
            }
            done => *state = done,
        }
    }
}

impl<T> Drop for Responder<T> {
    fn drop(&mut self) {
        if matches!(*self.slot.lock(), State::Waiting | State::Calls(_)) {
            self.put(Err(Error::new(ErrorKind::Closed, "the engine was closed before the request was done")));
        }
    }
}

impl<T> Pending<T> {
    /// Waits for the result.
    ///
    /// # Errors
    /// The request's own error.
    pub fn wait(self) -> Result<T> {
        process::refuse_child(self.slot.process)?;
        let mut state = self.slot.lock();
        loop {
            if let Some(result) = Slot::take(&mut state) {
                return result;
            }
            state = self.slot.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for `time` at most; returns whether the result is there.
    ///
    /// # Errors
    /// In a child of the process that made the request, where the result will never come.
    pub fn wait_for(&self, time: Duration) -> Result<bool> {
        process::refuse_child(self.slot.process)?;
        // A time beyond the clock's range is no limit.
        let end = Instant::now().checked_add(time);
        let mut state = self.slot.lock();
        while matches!(*state, State::Waiting) {
            let left = match end.map(|end| end.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return Ok(false),
                left => left.unwrap_or(Duration::from_secs(3600)),
            };
            state = self.slot.ready.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(true)
    }

    /// The result, if it is there; `None` while the request is under way. Gives it out once.
    pub fn poll(&self) -> Option<Result<T>> {
        Slot::take(&mut self.slot.lock())
    }

    /// Has `call` called with the result, on the thread that made it, which may be the engine's: it must return quickly
    /// and not wait for the engine. Where the result is there already, it is called at once.
    pub fn on_ready(self, call: impl FnOnce(Result<T>) + Send + 'static) {
        let mut state = self.slot.lock();
        match Slot::take(&mut state) {
            Some(result) => {
                drop(state);
                call(result);
            }
            None => *state = State::Calls(Box::new(call)),
        }
    }

    /// Ends the request within about one step of the model.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    pub(crate) fn token(&self) -> CancelToken {
        self.cancel.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_given_out_once() {
        let (pending, respond) = pair::<u32>(None, None);
        assert!(pending.poll().is_none());
        assert!(!pending.wait_for(Duration::from_millis(1)).expect("the same process"));
        respond.send(Ok(7));
        assert!(pending.wait_for(Duration::MAX).expect("the same process"));
        assert_eq!(pending.poll().expect("there").expect("well"), 7);
        let again = pending.wait().expect_err("taken");
        assert_eq!(again.kind(), ErrorKind::InvalidRequest);
    }

    #[test]
    fn whoever_asks_to_be_called_is_called_before_and_after_the_fact() {
        let (sender, calls) = std::sync::mpsc::channel();
        for before in [true, false] {
            let (pending, respond) = pair::<u32>(None, None);
            let sender = sender.clone();
            let call = move |result: Result<u32>| sender.send(result.expect("well")).expect("somebody listens");
            if before {
                pending.on_ready(call);
                respond.send(Ok(1));
            } else {
                respond.send(Ok(2));
                pending.on_ready(call);
            }
        }
        assert_eq!([calls.recv(), calls.recv()], [Ok(1), Ok(2)]);
    }

    #[test]
    fn a_responder_that_is_dropped_is_an_error_and_no_hang() {
        let (pending, respond) = pair::<u32>(None, None);
        drop(respond);
        assert_eq!(pending.wait().expect_err("nobody answers").kind(), ErrorKind::Closed);
    }
}
