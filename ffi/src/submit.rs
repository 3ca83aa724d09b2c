//! Replies, log-probabilities and prefixes that are queued: the functions of `generate` that return at once.

use std::ffi::c_void;

use foreturn::engine::{Limits, Model, Pending};

use crate::argument::{self, Out, foreturn_str};
use crate::engine::{Hosted, foreturn_engine, foreturn_limits};
use crate::error::{foreturn_error, guard};
use crate::failure::Failure;
use crate::generate::{Reply, foreturn_generate_options, foreturn_prompt, generate_options, read_prompt};
use crate::handle;
use crate::pending::{Outcome, Request, foreturn_pending, foreturn_ready_fn};
use crate::status::foreturn_status;

/// Queues the sampling of a reply and returns at once. `options` may be NULL. When the reply is done, its `on_ready` is
/// called; `user_data` has to live until then.
///
/// Ownership: the caller frees `*out` with foreturn_pending_free().
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_REQUEST, FORETURN_ERROR_OVERLOADED,
/// FORETURN_ERROR_CLOSED. What is wrong with the prompt shows in the result. Any thread, callbacks included.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_generate_submit(
    engine: *const foreturn_engine,
    model: foreturn_str,
    prompt: *const foreturn_prompt,
    options: *const foreturn_generate_options,
    out: *mut *mut foreturn_pending,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            let engine = handle::get::<Hosted>(engine)?;
            let given = argument::read(options)?;
            let how = generate_options(&given, &engine.gate)?;
            let prompt = read_prompt(prompt)?;
            let outcome = |reply| Ok(Outcome::Generation(Box::new(Reply::from(reply))));
            let limits = given.limits.limits()?;
            let ready = (given.on_ready, given.user_data);
            queue(&engine, model, limits, ready, out, outcome, |model| model.submit_generate(prompt, how))
        })
    }
}

/// Queues the log-probabilities of a prompt and returns at once. `limits` and `on_ready` may be NULL. `on_ready` is called
/// with `user_data` when they are done.
///
/// Ownership: the caller frees `*out` with foreturn_pending_free().
///
/// Errors: as foreturn_generate_submit(). Any thread, callbacks included.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_logprobs_submit(
    engine: *const foreturn_engine,
    model: foreturn_str,
    prompt: *const foreturn_prompt,
    limits: *const foreturn_limits,
    on_ready: foreturn_ready_fn,
    user_data: *mut c_void,
    out: *mut *mut foreturn_pending,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            let engine = handle::get::<Hosted>(engine)?;
            let (limits, prompt) = (foreturn_limits::or_none(limits)?, read_prompt(prompt)?);
            let outcome = |scored| Ok(Outcome::Generation(Box::new(Reply::from(scored))));
            queue(&engine, model, limits, (on_ready, user_data), out, outcome, |model| model.submit_logprobs(prompt))
        })
    }
}

/// Queues the computation of a prefix and returns at once. `limits` and `on_ready` may be NULL. `on_ready` is called with
/// `user_data` when the prefix is in the cache.
///
/// Ownership: the caller frees `*out` with foreturn_pending_free().
///
/// Errors: as foreturn_generate_submit(). Any thread, callbacks included.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_warm_submit(
    engine: *const foreturn_engine,
    model: foreturn_str,
    prefix: *const foreturn_prompt,
    limits: *const foreturn_limits,
    on_ready: foreturn_ready_fn,
    user_data: *mut c_void,
    out: *mut *mut foreturn_pending,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            let engine = handle::get::<Hosted>(engine)?;
            let (limits, prefix) = (foreturn_limits::or_none(limits)?, read_prompt(prefix)?);
            let outcome = |pin| Ok(Outcome::Pin(pin));
            queue(&engine, model, limits, (on_ready, user_data), out, outcome, |model| model.submit_warm(prefix))
        })
    }
}

/// Submits to a model, and makes a handle of the request.
///
/// # Safety
/// As for [`Out::new`] and [`foreturn_str::text`].
pub(crate) unsafe fn queue<T: 'static>(
    engine: &Hosted,
    model: foreturn_str,
    limits: Limits,
    ready: (foreturn_ready_fn, *mut c_void),
    out: *mut *mut foreturn_pending,
    outcome: impl FnOnce(T) -> Result<Outcome, Failure> + Send + 'static,
    submit: impl FnOnce(&Model) -> foreturn::Result<Pending<T>>,
) -> Result<(), Failure> {
    // SAFETY: passed on.
    let (out, name) = unsafe { (Out::new(out, "out")?, model.text("model")?) };
    let request = Request::submit(engine, limits, ready, |engine| Ok(submit(&engine.model(name)?)?), outcome)?;
    out.write(handle::insert(request));
    Ok(())
}
