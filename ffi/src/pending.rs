//! Requests under way.

use std::ffi::c_void;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use foreturn::Engine;
use foreturn::engine::{CancelToken, Limits, Pending, Pin};

use crate::argument::Out;
use crate::callback::{Inside, UserData, refuse_inside};
use crate::error::{foreturn_error, guard};
use crate::failure::Failure;
use crate::generate::{Reply, foreturn_generation, foreturn_pin};
use crate::handle::{self, Object, handle};
use crate::ranking::{Ranked, foreturn_ranking};
use crate::score::{Scored, foreturn_scores};
use crate::status::*;
use crate::string::{Text, foreturn_string};

/// A queued request. Any thread may use it.
pub struct foreturn_pending {
    _private: [u8; 0],
}

/// Called once, when a request is done, successfully or not. foreturn_pending_wait() then returns at once. It is not
/// called if the function that submits the request fails. Called from a thread of the library, perhaps before the
/// submitting function returns. It must return quickly and must not call functions that wait.
pub type foreturn_ready_fn = Option<unsafe extern "C" fn(user_data: *mut c_void)>;

/// The result of a request.
pub(crate) enum Outcome {
    Ranking(Box<Ranked>),
    Scores(Scored),
    Generation(Box<Reply>),
    Pin(Pin),
    Version(Text),
}

impl Outcome {
    /// Its name, for whoever asks for another.
    fn what(&self) -> &'static str {
        match self {
            Outcome::Ranking(_) => "a ranking",
            Outcome::Scores(_) => "scores",
            Outcome::Generation(_) => "a generation",
            Outcome::Pin(_) => "a pin",
            Outcome::Version(_) => "the name of new weights",
        }
    }
}

enum State {
    Waiting,
    Ready(Result<Outcome, Failure>),
    Taken,
}

struct Slot {
    state: Mutex<State>,
    ready: Condvar,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct Request {
    slot: Arc<Slot>,
    cancel: CancelToken,
}

handle!(foreturn_pending, Request);

impl Request {
    /// Submits within `limits`, and calls `on_ready` when the request is done. The host's token cancels it, or one of its own.
    pub(crate) fn submit<T: 'static>(
        engine: &Engine,
        mut limits: Limits,
        (on_ready, user_data): (foreturn_ready_fn, *mut c_void),
        submit: impl FnOnce(&Engine) -> Result<Pending<T>, Failure>,
        outcome: impl FnOnce(T) -> Result<Outcome, Failure> + Send + 'static,
    ) -> Result<Self, Failure> {
        let cancel = limits.cancel.get_or_insert_with(CancelToken::new).clone();
        Ok(Request::follow(submit(&engine.within(limits))?, cancel, on_ready, user_data, outcome))
    }

    /// Follows `pending`, which `cancel` cancels.
    fn follow<T: 'static>(
        pending: Pending<T>,
        cancel: CancelToken,
        on_ready: foreturn_ready_fn,
        user_data: *mut c_void,
        outcome: impl FnOnce(T) -> Result<Outcome, Failure> + Send + 'static,
    ) -> Self {
        let slot = Arc::new(Slot { state: Mutex::new(State::Waiting), ready: Condvar::new() });
        let (given, user_data) = (Arc::clone(&slot), UserData(user_data));
        pending.on_ready(move |result| {
            let user_data = user_data;
            *given.lock() = State::Ready(result.map_err(Failure::from).and_then(outcome));
            given.ready.notify_all();
            if let Some(on_ready) = on_ready {
                let _inside = Inside::enter();
                // SAFETY: the host's function, with the host's pointer.
                unsafe { on_ready(user_data.0) }
            }
        });
        Request { slot, cancel }
    }

    /// Waits until `end`, or for ever. Returns whether the request is done.
    fn wait(&self, end: Option<Instant>) -> bool {
        let mut state = self.slot.lock();
        while matches!(*state, State::Waiting) {
            let left = end.map_or(Duration::from_secs(3600), |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return false;
            }
            state = self.slot.ready.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Takes the result if `wanted` accepts it. A failure can be taken any number of times.
    fn take<T>(&self, wanted: impl FnOnce(Outcome) -> Result<T, Outcome>) -> Result<T, Failure> {
        let mut state = self.slot.lock();
        match std::mem::replace(&mut *state, State::Taken) {
            State::Waiting => {
                *state = State::Waiting;
                Err(Failure::new(FORETURN_ERROR_NOT_READY, "the result isn't ready yet: wait for it"))
            }
            State::Taken => Err(Failure::argument("the result was taken already")),
            State::Ready(Err(failure)) => {
                let again = Failure {
                    status: failure.status,
                    message: failure.message.clone(),
                    causes: failure.causes.clone(),
                };
                *state = State::Ready(Err(again));
                Err(failure)
            }
            State::Ready(Ok(outcome)) => wanted(outcome).map_err(|other| {
                let what = other.what();
                *state = State::Ready(Ok(other));
                Failure::argument(format!("this request gives {what}"))
            }),
        }
    }
}

/// Waits until the request is done, successfully or not, for at most `timeout_ms` milliseconds. 0 only checks;
/// UINT64_MAX waits for ever. Sets `*ready` to whether the request is done.
///
/// Errors: FORETURN_ERROR_INVALID_HANDLE, FORETURN_ERROR_REENTRANT, FORETURN_ERROR_FORKED. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_pending_wait(
    pending: *const foreturn_pending,
    timeout_ms: u64,
    ready: *mut bool,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            let request = handle::get::<Request>(pending)?;
            let ready = Out::new(ready, "ready")?;
            if timeout_ms > 0 {
                refuse_inside("foreturn_pending_wait")?;
            }
            // A time beyond the clock's range means no limit.
            ready.write(request.wait(Instant::now().checked_add(Duration::from_millis(timeout_ms))));
            Ok(())
        })
    }
}

/// Takes the ranking of a request that is done. It can be taken once.
///
/// Ownership: the caller frees `*out` with foreturn_ranking_free().
///
/// Errors: the request's own, FORETURN_ERROR_NOT_READY, FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_pending_ranking(
    pending: *const foreturn_pending,
    out: *mut *mut foreturn_ranking,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    let wanted = |outcome| match outcome {
        Outcome::Ranking(ranking) => Ok(*ranking),
        other => Err(other),
    };
    // SAFETY: passed on.
    unsafe { hand_out(pending, out, error, wanted) }
}

/// Takes the scores of a request that is done. They can be taken once.
///
/// Ownership: the caller frees `*out` with foreturn_scores_free().
///
/// Errors: the request's own, FORETURN_ERROR_NOT_READY, FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_pending_scores(
    pending: *const foreturn_pending,
    out: *mut *mut foreturn_scores,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    let wanted = |outcome| match outcome {
        Outcome::Scores(scores) => Ok(scores),
        other => Err(other),
    };
    // SAFETY: passed on.
    unsafe { hand_out(pending, out, error, wanted) }
}

/// Takes the reply of a finished request, or its log-probabilities. They are given out once.
///
/// Ownership: the caller frees `*out` with foreturn_generation_free().
///
/// Errors: the request's own, FORETURN_ERROR_NOT_READY, FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_pending_generation(
    pending: *const foreturn_pending,
    out: *mut *mut foreturn_generation,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    let wanted = |outcome| match outcome {
        Outcome::Generation(reply) => Ok(*reply),
        other => Err(other),
    };
    // SAFETY: passed on.
    unsafe { hand_out(pending, out, error, wanted) }
}

/// Takes the pin of a finished request. It is given out once.
///
/// Ownership: the caller frees `*out` with foreturn_pin_free(), which releases the prefix.
///
/// Errors: the request's own, FORETURN_ERROR_NOT_READY, FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_pending_pin(
    pending: *const foreturn_pending,
    out: *mut *mut foreturn_pin,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    let wanted = |outcome| match outcome {
        Outcome::Pin(pin) => Ok(pin),
        other => Err(other),
    };
    // SAFETY: passed on.
    unsafe { hand_out(pending, out, error, wanted) }
}

/// Takes the name of the new weights that a finished refresh put in place. It is given out once.
///
/// Ownership: the caller frees `*out` with foreturn_string_free().
///
/// Errors: the request's own, FORETURN_ERROR_NOT_READY, FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_pending_version(
    pending: *const foreturn_pending,
    out: *mut *mut foreturn_string,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    let wanted = |outcome| match outcome {
        Outcome::Version(version) => Ok(version),
        other => Err(other),
    };
    // SAFETY: passed on.
    unsafe { hand_out(pending, out, error, wanted) }
}

/// Makes a handle of a request's result, if `wanted` accepts it.
unsafe fn hand_out<T: Object>(
    pending: *const foreturn_pending,
    out: *mut *mut T::Handle,
    error: *mut *mut foreturn_error,
    wanted: impl FnOnce(Outcome) -> Result<T, Outcome>,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            let request = handle::get::<Request>(pending)?;
            let out = Out::new(out, "out")?;
            out.write(handle::insert(request.take(wanted)?));
            Ok(())
        })
    }
}

/// Cancels the request and every other one that carries the same foreturn_cancel. They end within about one step of the
/// model.
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_pending_cancel(
    pending: *const foreturn_pending,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            handle::get::<Request>(pending)?.cancel.cancel();
            Ok(())
        })
    }
}

/// Frees the handle of a request. The request goes on unless it is cancelled. NULL is ignored.
///
/// Errors: FORETURN_ERROR_INVALID_HANDLE if it was freed before. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_pending_free(pending: *mut foreturn_pending) -> foreturn_status {
    handle::free::<Request>(pending)
}
