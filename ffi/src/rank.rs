//! Requests for rankings.

use std::ffi::c_void;

use foreturn::engine::CancelToken;
use foreturn::rank::{Candidates, EndedRollout, Goal, Progress};
use foreturn::{RankOptions, RankRequest};

use crate::argument::{self, Out, foreturn_str, sized, slice};
use crate::callback::{Gate, Inside, UserData};
use crate::engine::{Hosted, foreturn_engine, foreturn_limits, messages, waiting};
use crate::error::{foreturn_error, guard};
use crate::failure::Failure;
use crate::handle;
use crate::metric::foreturn_message;
use crate::pending::{Outcome, Request, foreturn_pending, foreturn_ready_fn};
use crate::ranking::{Ranked, foreturn_ranking};
use crate::status::foreturn_status;

/// A ranking to be made. Everything is read before the function that it is given to returns.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_rank_request {
    /// sizeof(foreturn_rank_request).
    pub size: usize,
    /// The whole request as JSON, as the command line takes it; then everything below stays zero.
    pub json: foreturn_str,
    /// The conversation so far; its last message is the user's.
    pub messages: *const foreturn_message,
    /// How many messages there are.
    pub message_count: usize,
    /// The responses to rank.
    pub candidates: *const foreturn_str,
    /// How many there are.
    pub candidate_count: usize,
    /// Instead of responses: how many to sample from the policy.
    pub sample_candidates: usize,
    /// What the user is after, as a JSON object; none if empty. The policy never sees it.
    pub goal_json: foreturn_str,
    /// Whether `window` is set.
    pub has_window: bool,
    /// Whether `seed` is set.
    pub has_seed: bool,
    /// Turns to sample ahead, 0 to 32; the configuration's unless `has_window`.
    pub window: u32,
    /// Futures for each candidate, 1 to 1024; 0: the configuration's.
    pub samples: u32,
    /// Decides all random draws; the configuration's unless `has_seed`.
    pub seed: u64,
}
sized!(foreturn_rank_request);

/// A rollout that has ended and is scored, or will not be. Lent until the callback returns.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_ended_rollout {
    /// Its candidate, from 0.
    pub candidate: usize,
    /// Which of the candidate's samples it is, from 0.
    pub sample: usize,
    /// What was said after the response.
    pub messages: *const foreturn_message,
    /// How many messages there are.
    pub message_count: usize,
    /// Why it ended, as in JSON.
    pub ended: foreturn_str,
    /// Seed of its random stream.
    pub seed: u64,
    /// The weighted sum of its metrics; 0 without `has_reward`.
    pub reward: f64,
    /// Whether it has a reward: one whose rollout or whose metric failed has none.
    pub has_reward: bool,
    /// All that is known of it, as the JSON object of a trace: messages, tokens, metrics with what models answered, cost.
    pub json: foreturn_str,
}

/// Told whenever a rollout has ended and is judged, with how many have, of how many. Called from the engine's thread; it
/// must return quickly and not call functions that wait.
pub type foreturn_progress_fn = Option<unsafe extern "C" fn(user_data: *mut c_void, finished: usize, total: usize)>;

/// Told of each rollout that has ended. As foreturn_progress_fn.
pub type foreturn_rollout_fn =
    Option<unsafe extern "C" fn(user_data: *mut c_void, rollout: *const foreturn_ended_rollout)>;

/// How a ranking is run. NULL in its place, and all-zero, is no limit and no callback.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_rank_options {
    /// sizeof(foreturn_rank_options).
    pub size: usize,
    /// Deadline, cancellation, priority. At the deadline, what is finished for all candidates is ranked, and the ranking
    /// says that it is incomplete; where no candidate has a reward by then, it is FORETURN_ERROR_DEADLINE_EXCEEDED.
    pub limits: foreturn_limits,
    /// May be NULL.
    pub on_progress: foreturn_progress_fn,
    /// May be NULL.
    pub on_rollout: foreturn_rollout_fn,
    /// For foreturn_rank_submit(); may be NULL.
    pub on_ready: foreturn_ready_fn,
    /// Given to the callbacks. It has to live until the request is done.
    pub user_data: *mut c_void,
}
sized!(foreturn_rank_options);

/// Sets a foreturn_rank_request to its defaults. Give `size` as sizeof(foreturn_rank_request).
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_rank_request_init(
    request: *mut foreturn_rank_request,
    size: usize,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe { argument::init(request, size) }
}

/// Sets a foreturn_rank_options to its defaults. Give `size` as sizeof(foreturn_rank_options).
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_rank_options_init(
    options: *mut foreturn_rank_options,
    size: usize,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe { argument::init(options, size) }
}

unsafe fn read_request(given: *const foreturn_rank_request) -> Result<RankRequest, Failure> {
    // SAFETY: the struct and what it points to are the host's, valid for the call.
    unsafe {
        let given = argument::read(given)?;
        let json = given.json.text("request.json")?;
        if !json.is_empty() {
            if given.message_count > 0 || given.candidate_count > 0 || given.sample_candidates > 0 {
                return Err(Failure::argument("request.json is set beside other fields: give the one or the others"));
            }
            return Ok(json.parse().map_err(|e: foreturn::Error| e.context("the request"))?);
        }
        let texts = slice(given.candidates, given.candidate_count, "request.candidates")?.iter().enumerate();
        let texts: Vec<String> = texts
            .map(|(at, text)| text.text(&format!("request.candidates[{at}]")).map(str::to_owned))
            .collect::<Result<_, _>>()?;
        let candidates = match (texts.is_empty(), given.sample_candidates) {
            (_, 0) => Candidates::Given(texts),
            (true, count) => Candidates::Sample(count),
            (false, _) => {
                return Err(Failure::argument("request has candidates and sample_candidates: give one of them"));
            }
        };
        let goal = given.goal_json.text("request.goal_json")?;
        let goal = match goal.is_empty() {
            true => Goal::default(),
            false => serde_json::from_str(goal)
                .map_err(|e| Failure::argument(format!("request.goal_json is not a goal: {e}")))?,
        };
        let request = RankRequest {
            conversation: messages(given.messages, given.message_count, "request.messages")?,
            candidates,
            goal,
            window: given.has_window.then_some(given.window as usize),
            samples: (given.samples > 0).then_some(given.samples as usize),
            seed: given.has_seed.then_some(given.seed),
        };
        request.validate()?;
        Ok(request)
    }
}

fn rank_options(given: &foreturn_rank_options, gate: &Gate) -> Result<RankOptions, Failure> {
    let (user_data, gate, shut) = (UserData(given.user_data), gate.clone(), gate.clone());
    let on_progress = given.on_progress.map(|call| -> Box<dyn FnMut(Progress) + Send> {
        Box::new(move |progress| {
            let user_data = user_data;
            if shut.is_shut() {
                return;
            }
            let _inside = Inside::enter();
            // SAFETY: the host's function, with the host's pointer.
            unsafe { call(user_data.0, progress.finished, progress.total) }
        })
    });
    let on_rollout = given.on_rollout.map(|call| -> Box<dyn FnMut(EndedRollout) + Send> {
        Box::new(move |rollout| {
            let user_data = user_data;
            if gate.is_shut() {
                return;
            }
            let said = rollout.messages.iter();
            let messages: Vec<_> =
                said.map(|said| foreturn_message::of(said.message.role, &said.message.content)).collect();
            let json = serde_json::to_string(&rollout).unwrap_or_default();
            let lent = foreturn_ended_rollout {
                candidate: rollout.candidate,
                sample: rollout.sample,
                messages: messages.as_ptr(),
                message_count: messages.len(),
                ended: foreturn_str::of(rollout.ended.as_str()),
                seed: rollout.seed,
                reward: rollout.reward.unwrap_or_default(),
                has_reward: rollout.reward.is_some(),
                json: foreturn_str::of(&json),
            };
            let _inside = Inside::enter();
            // SAFETY: the host's function, with the host's pointer; what is lent lives until it returns.
            unsafe { call(user_data.0, &raw const lent) }
        })
    });
    Ok(RankOptions { limits: given.limits.limits()?, on_progress, on_rollout })
}

/// Ranks a request's candidates and waits for the result. `options` may be NULL.
///
/// Ownership: the caller frees `*out` with foreturn_ranking_free().
/// Errors: FORETURN_ERROR_INVALID_REQUEST, FORETURN_ERROR_INVALID_CONFIG, FORETURN_ERROR_CONTEXT_LENGTH,
/// FORETURN_ERROR_MODEL_OUTPUT, FORETURN_ERROR_MEMORY_BUDGET, FORETURN_ERROR_RUNTIME, FORETURN_ERROR_OVERLOADED,
/// FORETURN_ERROR_CLOSED, FORETURN_ERROR_REENTRANT; FORETURN_ERROR_DEADLINE_EXCEEDED and FORETURN_ERROR_CANCELLED where no
/// candidate has a reward by then. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_rank(
    engine: *const foreturn_engine,
    request: *const foreturn_rank_request,
    options: *const foreturn_rank_options,
    out: *mut *mut foreturn_ranking,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        waiting("foreturn_rank", engine, out, error, |engine| {
            let options = argument::read(options)?;
            Ranked::new(engine.rank(read_request(request)?, rank_options(&options, &engine.gate)?)?)
        })
    }
}

/// Queues a ranking and returns at once. `options` may be NULL; its `on_ready` is called when the ranking is done.
///
/// Ownership: the caller frees `*out` with foreturn_pending_free(). Errors: as foreturn_rank(), for what shows before a
/// model runs; the rest shows when the result is taken. Any thread, and callbacks too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_rank_submit(
    engine: *const foreturn_engine,
    request: *const foreturn_rank_request,
    options: *const foreturn_rank_options,
    out: *mut *mut foreturn_pending,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            let engine = handle::get::<Hosted>(engine)?;
            let out = Out::new(out, "out")?;
            let given = argument::read(options)?;
            let mut options = rank_options(&given, &engine.gate)?;
            let cancel = options.limits.cancel.get_or_insert_with(CancelToken::new).clone();
            let pending = engine.submit_rank(read_request(request)?, options)?;
            let outcome = |ranking| Ok(Outcome::Ranking(Box::new(Ranked::new(ranking)?)));
            out.write(handle::insert(Request::follow(pending, cancel, given.on_ready, given.user_data, outcome)));
            Ok(())
        })
    }
}
