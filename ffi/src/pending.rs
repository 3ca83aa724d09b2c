//! Requests under way.

use std::ffi::c_void;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use foreturn::engine::{CancelToken, Pending};

use crate::argument::Out;
use crate::callback::{Inside, UserData, refuse_inside};
use crate::error::{foreturn_error, guard};
use crate::failure::Failure;
use crate::handle::{self, Object, handle};
use crate::ranking::{Ranked, foreturn_ranking};
use crate::score::{Scored, foreturn_scores};
use crate::status::*;

/// A request under way. Any thread may use it.
pub struct foreturn_pending {
    _private: [u8; 0],
}

/// Called once, when a request is done, well or not: foreturn_pending_wait() no longer waits then. Not called where the
/// function that should submit the request fails. Comes from a thread of
/// the library, perhaps before the function that submitted the request returns; it must return quickly and not call
/// functions that wait.
pub type foreturn_ready_fn = Option<unsafe extern "C" fn(user_data: *mut c_void)>;

/// The result of a request.
pub(crate) enum Outcome {
    Ranking(Box<Ranked>),
    Scores(Scored),
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
    /// A request that follows `pending`. `cancel` ends it.
    pub(crate) fn follow<T: 'static>(
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

    /// The result, if `wanted` finds in it what was asked for. A failure is given out each time that it is asked for.
    fn take<T>(&self, wanted: impl FnOnce(Outcome) -> Result<T, Outcome>) -> Result<T, Failure> {
        let mut state = self.slot.lock();
        match std::mem::replace(&mut *state, State::Taken) {
            State::Waiting => {
                *state = State::Waiting;
                Err(Failure::new(FORETURN_ERROR_NOT_READY, "the result isn't there yet: wait for it"))
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
                *state = State::Ready(Ok(other));
                Failure::argument("this request gives something else: a ranking, or scores")
            }),
        }
    }
}

/// Waits until the request is done, well or not, for `timeout_ms` milliseconds at most: 0 looks and doesn't wait,
/// UINT64_MAX waits for ever. `*ready` says whether it is.
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
            // A time beyond the clock's range is no limit.
            ready.write(request.wait(Instant::now().checked_add(Duration::from_millis(timeout_ms))));
            Ok(())
        })
    }
}

/// The ranking of a request that is done. It is given out once.
///
/// Ownership: the caller frees `*out` with foreturn_ranking_free(). Errors: the request's own, FORETURN_ERROR_NOT_READY,
/// FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
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

/// The scores of a request that is done. They are given out once.
///
/// Ownership: the caller frees `*out` with foreturn_scores_free(). Errors: the request's own, FORETURN_ERROR_NOT_READY,
/// FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
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

/// Gives a request's result a handle, if it is of the kind that is `wanted`.
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

/// Ends the request within about one step of the model, and every other one that carries the same foreturn_cancel.
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

/// Lets go of a request, which goes on unless it is cancelled. NULL is nothing. Errors: FORETURN_ERROR_INVALID_HANDLE if
/// it was freed before. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_pending_free(pending: *mut foreturn_pending) -> foreturn_status {
    handle::free::<Request>(pending)
}
