//! Rankings: requests.

use std::ffi::c_void;

use foreturn::engine::{Pending, Pin};
use foreturn::rank::{Candidates, EndedRollout, Goal, Interim, Progress};
use foreturn::{Engine, RankOptions, RankRequest, Ranking};
use serde_json::{Value, json};

use crate::argument::{self, Out, foreturn_str, sized, slice};
use crate::callback::{Gate, Inside, UserData};
use crate::engine::{Hosted, foreturn_engine, foreturn_limits, messages, waiting};
use crate::error::{foreturn_error, guard};
use crate::failure::Failure;
use crate::generate::foreturn_pin;
use crate::handle;
use crate::metric::foreturn_message;
use crate::pending::{Outcome, Request, foreturn_pending, foreturn_ready_fn};
use crate::ranking::{Ranked, foreturn_ranking, or_nan};
use crate::status::{FORETURN_ERROR_INVALID_REQUEST, foreturn_status};

/// A request for a ranking. All of it is read before the function that takes it returns.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_rank_request {
    /// sizeof(foreturn_rank_request).
    pub size: usize,
    /// The whole request as JSON, in the format of the command line. If set, all fields below must be zero, except `pin`, which
    /// gives the conversation that the JSON leaves out then.
    pub json: foreturn_str,
    /// The conversation so far. Its last message is the user's.
    pub messages: *const foreturn_message,
    /// Number of messages.
    pub message_count: usize,
    /// The responses to rank.
    pub candidates: *const foreturn_str,
    /// Number of candidates.
    pub candidate_count: usize,
    /// Number of responses to sample from the policy, instead of `candidates`.
    pub sample_candidates: usize,
    /// The user's goal as a JSON object; empty: none. The policy never sees it.
    pub goal_json: foreturn_str,
    /// Whether `window` is set.
    pub has_window: bool,
    /// Whether `seed` is set.
    pub has_seed: bool,
    /// Number of turns to sample ahead, 0 to 32. Without `has_window`, the configuration's.
    pub window: u32,
    /// Number of futures per candidate, 1 to 1024; 0: the configuration's.
    pub samples: u32,
    /// Seed of all random draws. Without `has_seed`, the configuration's.
    pub seed: u64,
    /// The conversation so far, in the place of `messages` or of the JSON's: one that foreturn_warm() pinned for the policy of this engine.
    pub pin: *const foreturn_pin,
}
sized!(foreturn_rank_request until pin);

/// A rollout that has ended and has been scored, unless it or a metric failed. Valid until the callback returns.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_ended_rollout {
    /// Index of its candidate in the request, from 0.
    pub candidate: usize,
    /// Index among the candidate's samples, from 0.
    pub sample: usize,
    /// The messages after the response.
    pub messages: *const foreturn_message,
    /// Number of messages.
    pub message_count: usize,
    /// The reason for its end, in the JSON's words.
    pub ended: foreturn_str,
    /// Seed of its random stream.
    pub seed: u64,
    /// Weighted sum of its metrics; 0 without `has_reward`.
    pub reward: f64,
    /// Whether it has a reward. It has none if the rollout or a metric failed.
    pub has_reward: bool,
    /// The rollout as the JSON object of a trace: messages, tokens, metrics with the models' answers, cost.
    pub json: foreturn_str,
}

/// Reports progress: `finished` of `total` rollouts have ended and are judged. Called from the engine's thread. It must
/// return quickly and must not call functions that wait.
pub type foreturn_progress_fn = Option<unsafe extern "C" fn(user_data: *mut c_void, finished: usize, total: usize)>;

/// Receives each rollout that has ended. The rules of foreturn_progress_fn apply.
pub type foreturn_rollout_fn =
    Option<unsafe extern "C" fn(user_data: *mut c_void, rollout: *const foreturn_ended_rollout)>;

/// A candidate's reward while its futures are still being sampled. Unknown numbers are NaN.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_interim {
    /// Index in the request, from 0.
    pub candidate: usize,
    /// The mean over the rollouts that count so far, at least one.
    pub reward: f64,
    /// Its standard error. Unknown with one rollout.
    pub std_error: f64,
    /// The probability that the candidate is the best.
    pub probability_best: f64,
    /// Number of rollouts that count so far.
    pub rollout_count: usize,
}

impl foreturn_interim {
    fn of(known: &Interim) -> Self {
        foreturn_interim {
            candidate: known.candidate,
            reward: known.reward,
            std_error: or_nan(known.std_error),
            probability_best: or_nan(known.probability_best),
            rollout_count: known.rollouts,
        }
    }
}

/// Receives the `count` candidates that have a reward by now, the best first, whenever another sample has ended for all
/// candidates. Valid until the callback returns. The rules of foreturn_progress_fn apply.
pub type foreturn_interim_fn =
    Option<unsafe extern "C" fn(user_data: *mut c_void, known: *const foreturn_interim, count: usize)>;

/// Limits and callbacks of a ranking. NULL in its place, like all-zero, means no limits and no callbacks.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_rank_options {
    /// sizeof(foreturn_rank_options).
    pub size: usize,
    /// Deadline, cancellation, priority. At the deadline, the ranking uses what is finished for all candidates and is
    /// marked as incomplete. If no candidate has a reward by then, the ranking fails with
    /// FORETURN_ERROR_DEADLINE_EXCEEDED.
    pub limits: foreturn_limits,
    /// Called with the progress; may be NULL.
    pub on_progress: foreturn_progress_fn,
    /// Called with each rollout that has ended; may be NULL.
    pub on_rollout: foreturn_rollout_fn,
    /// Called when a request of foreturn_rank_submit() is done; may be NULL.
    pub on_ready: foreturn_ready_fn,
    /// Passed to the callbacks; may be NULL. It has to live until the request is done.
    pub user_data: *mut c_void,
    /// Called with interim rewards; may be NULL.
    pub on_interim: foreturn_interim_fn,
}
sized!(foreturn_rank_options until on_interim);

/// Sets `*request` to the defaults. `size` is sizeof(foreturn_rank_request).
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

/// Sets `*options` to the defaults. `size` is sizeof(foreturn_rank_options).
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

unsafe fn read_request(engine: &Engine, given: *const foreturn_rank_request) -> Result<RankRequest, Failure> {
    // SAFETY: the struct and what it points to are the host's, valid for the call.
    unsafe {
        let given = argument::read(given)?;
        let json = given.json.text("request.json")?;
        if !json.is_empty() {
            if given.message_count > 0 || given.candidate_count > 0 || given.sample_candidates > 0 {
                return Err(Failure::argument(
                    "request.json is set together with other fields: give either the JSON or the fields",
                ));
            }
            if !given.pin.is_null() {
                return with_conversation(engine, &*handle::get::<Pin>(given.pin)?, json);
            }
            return Ok(json.parse().map_err(|e: foreturn::Error| e.context("the request"))?);
        }
        let texts = slice(given.candidates, given.candidate_count, "request.candidates")?.iter().enumerate();
        let texts: Vec<String> = texts
            .map(|(at, text)| text.text(format_args!("request.candidates[{at}]")).map(str::to_owned))
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
            false => foreturn::json::parse_strictly(goal)
                .map_err(|e| Failure::argument(format!("request.goal_json is not a goal: {e}")))?,
        };
        let said = messages(given.messages, given.message_count, "request.messages")?;
        let base = match (given.pin.is_null(), said.is_empty()) {
            (true, _) => RankRequest { conversation: said, candidates, ..RankRequest::default() },
            (false, true) => {
                engine.request_of(&*handle::get::<Pin>(given.pin)?, candidates).map_err(|e| e.context("request.pin"))?
            }
            (false, false) => return Err(Failure::argument("request has messages and a pin: give one of them")),
        };
        let request = RankRequest {
            goal,
            window: given.has_window.then_some(given.window as usize),
            samples: (given.samples > 0).then_some(given.samples as usize),
            seed: given.has_seed.then_some(given.seed),
            ..base
        };
        request.validate()?;
        Ok(request)
    }
}

/// A request in JSON whose conversation is the pin's.
fn with_conversation(engine: &Engine, pin: &Pin, json: &str) -> Result<RankRequest, Failure> {
    let pinned = engine.request_of(pin, Candidates::Sample(1)).map_err(|e| e.context("request.pin"))?;
    let mut fields: serde_json::Map<String, Value> =
        serde_json::from_str(json).map_err(|e| Failure::argument(format!("request.json is not a JSON object: {e}")))?;
    if fields.insert("conversation".into(), json!(pinned.conversation)).is_some() {
        return Err(Failure::argument("request.json has a `conversation` beside request.pin: give one of them"));
    }
    Ok(Value::Object(fields).to_string().parse().map_err(|e: foreturn::Error| e.context("the request"))?)
}

fn rank_options(given: &foreturn_rank_options, gate: &Gate) -> RankOptions {
    let (user_data, gate, shut, closed) = (UserData(given.user_data), gate.clone(), gate.clone(), gate.clone());
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
    let on_interim = given.on_interim.map(|call| -> Box<dyn FnMut(Vec<Interim>) + Send> {
        Box::new(move |interim| {
            let user_data = user_data;
            if closed.is_shut() {
                return;
            }
            let known: Vec<_> = interim.iter().map(foreturn_interim::of).collect();
            let _inside = Inside::enter();
            // SAFETY: the host's function, with the host's pointer; what is lent lives until it returns.
            unsafe { call(user_data.0, known.as_ptr(), known.len()) }
        })
    });
    RankOptions { on_progress, on_rollout, on_interim }
}

/// Ranks a request's candidates and waits for the result. `options` may be NULL.
///
/// Ownership: the caller frees `*out` with foreturn_ranking_free().
///
/// Errors: FORETURN_ERROR_INVALID_REQUEST, FORETURN_ERROR_INVALID_CONFIG, FORETURN_ERROR_CONTEXT_LENGTH,
/// FORETURN_ERROR_MODEL_OUTPUT, FORETURN_ERROR_MEMORY_BUDGET, FORETURN_ERROR_RUNTIME, FORETURN_ERROR_OVERLOADED,
/// FORETURN_ERROR_CLOSED, FORETURN_ERROR_REENTRANT; FORETURN_ERROR_DEADLINE_EXCEEDED and FORETURN_ERROR_CANCELLED if no
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
            let limited = engine.within(options.limits.limits()?);
            Ranked::new(limited.rank(read_request(engine, request)?, rank_options(&options, &engine.gate))?)
        })
    }
}

/// Queues a ranking and returns at once. `options` may be NULL. Its `on_ready` is called when the ranking is done.
///
/// Ownership: the caller frees `*out` with foreturn_pending_free().
///
/// Errors: those of foreturn_rank() that are found before a model runs; the others are reported when the result is
/// taken. Any thread, also from callbacks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_rank_submit(
    engine: *const foreturn_engine,
    request: *const foreturn_rank_request,
    options: *const foreturn_rank_options,
    out: *mut *mut foreturn_pending,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    let submit = |engine: &Engine, request, how| Ok(engine.submit_rank(request, how)?);
    // SAFETY: passed on.
    unsafe { queue(engine, request, options, out, error, submit) }
}

/// Submits a ranking, and makes a handle of the request.
unsafe fn queue(
    engine: *const foreturn_engine,
    request: *const foreturn_rank_request,
    options: *const foreturn_rank_options,
    out: *mut *mut foreturn_pending,
    error: *mut *mut foreturn_error,
    submit: impl FnOnce(&Engine, RankRequest, RankOptions) -> Result<Pending<Ranking>, Failure>,
) -> foreturn_status {
    // SAFETY: the handle, the structs and the place for the result are the host's, valid for the call.
    unsafe {
        guard(error, || {
            let engine = handle::get::<Hosted>(engine)?;
            let out = Out::new(out, "out")?;
            let given = argument::read(options)?;
            let (limits, ready) = (given.limits.limits()?, (given.on_ready, given.user_data));
            let (options, request) = (rank_options(&given, &engine.gate), read_request(&engine, request)?);
            let outcome = |ranking| Ok(Outcome::Ranking(Box::new(Ranked::new(ranking)?)));
            let submit = |engine: &Engine| submit(engine, request, options);
            out.write(handle::insert(Request::submit(&engine, limits, ready, submit, outcome)?));
            Ok(())
        })
    }
}

/// Scores the futures of an earlier ranking again, with this engine's judges and metrics, and waits for the result. Nothing
/// is sampled: where two engines' rewards differ, their judges do. `ranking` is the earlier one's JSON, from
/// foreturn_ranking_json() or `foreturn rank --json`; `request` is the one that it was made of. Rollouts that didn't count
/// are left out. `options` may be NULL.
///
/// Ownership: the caller frees `*out` with foreturn_ranking_free().
///
/// Errors: those of foreturn_rank(); FORETURN_ERROR_INVALID_REQUEST also if `ranking` is not a ranking, was not made of
/// `request`, or has no rollout that counts. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_rescore(
    engine: *const foreturn_engine,
    request: *const foreturn_rank_request,
    ranking: foreturn_str,
    options: *const foreturn_rank_options,
    out: *mut *mut foreturn_ranking,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        waiting("foreturn_rescore", engine, out, error, |engine| {
            let options = argument::read(options)?;
            let limited = engine.within(options.limits.limits()?);
            let (request, earlier) = (read_request(engine, request)?, read_ranking(ranking)?);
            Ranked::new(limited.rescore(request, &earlier, rank_options(&options, &engine.gate))?)
        })
    }
}

/// Queues what foreturn_rescore() does and returns at once. `options` may be NULL. Its `on_ready` is called when the ranking
/// is done.
///
/// Ownership: the caller frees `*out` with foreturn_pending_free().
///
/// Errors: those of foreturn_rescore() that are found before a model runs; the others are reported when the result is
/// taken. Any thread, also from callbacks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_rescore_submit(
    engine: *const foreturn_engine,
    request: *const foreturn_rank_request,
    ranking: foreturn_str,
    options: *const foreturn_rank_options,
    out: *mut *mut foreturn_pending,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        let submit = |engine: &Engine, request, how| {
            let earlier = read_ranking(ranking)?;
            Ok(engine.submit_rescore(request, &earlier, how)?)
        };
        queue(engine, request, options, out, error, submit)
    }
}

unsafe fn read_ranking(json: foreturn_str) -> Result<Ranking, Failure> {
    // SAFETY: passed on.
    let json = unsafe { json.text("ranking") }?;
    foreturn::json::parse_strictly(json).map_err(|e| {
        let message = format!("ranking is not the JSON of a ranking, as foreturn_ranking_json() gives it: {e}");
        Failure::new(FORETURN_ERROR_INVALID_REQUEST, message)
    })
}
