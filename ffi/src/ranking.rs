//! Rankings: what came.

use std::sync::OnceLock;

use foreturn::Ranking;
use foreturn::rank::{MetricSummary, RankedCandidate, RolloutTrace, Stopped};

use crate::argument::{self, Out, foreturn_str, sized};
use crate::error::{Failure, foreturn_error, guard};
use crate::handle::{self, handle};
use crate::metric::foreturn_message;
use crate::status::*;

/// Candidates by reward, with everything that led to it. Any number of threads may read one at once.
pub struct foreturn_ranking {
    _private: [u8; 0],
}

/// A ranking and what is made of it when it is asked for.
pub(crate) struct Ranked {
    ranking: Ranking,
    json: OnceLock<String>,
}

handle!(foreturn_ranking, Ranked);

impl Ranked {
    /// # Errors
    /// The ranking ended before any candidate had a reward: there is nothing in it to choose by.
    pub(crate) fn new(ranking: Ranking) -> Result<Self, Failure> {
        if !ranking.complete && ranking.candidates.iter().all(|candidate| candidate.reward.is_none()) {
            let rollouts = ranking.allocation.rollouts;
            let (status, what, remedy) = match ranking.allocation.stopped {
                Stopped::Cancelled => (FORETURN_ERROR_CANCELLED, "the ranking was cancelled", ""),
                _ => (
                    FORETURN_ERROR_DEADLINE_EXCEEDED,
                    "the deadline passed",
                    "; give it more time (limits.timeout_ms), or fewer samples",
                ),
            };
            let message =
                format!("{what} before any candidate had a reward, with {rollouts} rollouts under way{remedy}");
            return Err(Failure::new(status, message));
        }
        Ok(Ranked { ranking, json: OnceLock::new() })
    }

    /// Made when it is asked for first.
    fn json(&self) -> Result<&str, Failure> {
        if self.json.get().is_none() {
            let json = serde_json::to_string(&self.ranking).map_err(|e| {
                Failure::new(FORETURN_ERROR_INTERNAL, format!("a ranking that JSON has no words for: {e}"))
            })?;
            // Another thread may have been quicker, with the same.
            let _ = self.json.set(json);
        }
        Ok(self.json.get().map_or("", String::as_str))
    }

    fn candidate(&self, place: usize) -> Result<&RankedCandidate, Failure> {
        let count = self.ranking.candidates.len();
        self.ranking.candidates.get(place).ok_or_else(|| Failure::beyond("place", place, count, "candidates"))
    }

    fn rollout(&self, place: usize, index: usize) -> Result<&RolloutTrace, Failure> {
        let rollouts = &self.candidate(place)?.rollouts;
        rollouts.get(index).ok_or_else(|| Failure::beyond("index", index, rollouts.len(), "rollouts"))
    }
}

fn or_nan(number: Option<f64>) -> f64 {
    number.unwrap_or(f64::NAN)
}

/// A ranking as a whole.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_ranking_info {
    /// sizeof(foreturn_ranking_info).
    pub size: usize,
    /// How many candidates there are.
    pub candidate_count: usize,
    /// Whether every rollout ran to its own end; if not, a deadline or the caller cut the ranking short.
    pub complete: bool,
    /// Whether the same request with the same seed gives these rewards again, to the last bit.
    pub bitwise: bool,
    /// Wall time in seconds.
    pub seconds: f64,
    /// Tokens of all prompts.
    pub prompt_tokens: u64,
    /// Of these, tokens taken from the cache.
    pub reused_tokens: u64,
    /// Tokens sampled.
    pub generated_tokens: u64,
}
sized!(foreturn_ranking_info);

/// A candidate and its reward. Numbers that are unknown are NaN.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_candidate {
    /// sizeof(foreturn_candidate).
    pub size: usize,
    /// Its place in the request, from 0.
    pub candidate: usize,
    /// Its text; empty where it was to be sampled and was not.
    pub response: foreturn_str,
    /// The multiturn-aware reward: the mean over the rollouts that count.
    pub reward: f64,
    /// Its standard error; unknown at one sample.
    pub std_error: f64,
    /// The lower end of its 95% interval (Student's t).
    pub interval_low: f64,
    /// The upper end.
    pub interval_high: f64,
    /// How many metrics there are.
    pub metric_count: usize,
    /// How many rollouts there are.
    pub rollout_count: usize,
    /// How many of the rollouts asked for do not count.
    pub excluded: usize,
}
sized!(foreturn_candidate);

/// One metric over the rollouts that count. Numbers that are unknown are NaN.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_metric_summary {
    /// sizeof(foreturn_metric_summary).
    pub size: usize,
    /// Its name.
    pub name: foreturn_str,
    /// Its mean.
    pub mean: f64,
    /// The mean's standard error.
    pub std_error: f64,
    /// Its factor in the reward.
    pub weight: f64,
}
sized!(foreturn_metric_summary);

/// One sampled future.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_rollout {
    /// sizeof(foreturn_rollout).
    pub size: usize,
    /// Which sample this is, from 0.
    pub sample: usize,
    /// Weighted sum of its metrics; NaN where one is missing.
    pub reward: f64,
    /// Seed of its random stream.
    pub seed: u64,
    /// How many messages were said after the response.
    pub message_count: usize,
    /// Why it ended, as in JSON.
    pub ended: foreturn_str,
    /// Why it doesn't count; empty where it does.
    pub reason: foreturn_str,
    /// Whether it counts.
    pub counted: bool,
}
sized!(foreturn_rollout);

/// Reads a ranking's totals into `*out`, whose `size` is set.
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_ranking_read(
    ranking: *const foreturn_ranking,
    out: *mut foreturn_ranking_info,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            let ranking = &handle::get::<Ranked>(ranking)?.ranking;
            let total = ranking.cost.roles.total();
            let info = foreturn_ranking_info {
                size: 0,
                candidate_count: ranking.candidates.len(),
                complete: ranking.complete,
                bitwise: ranking.bitwise,
                seconds: ranking.cost.seconds,
                prompt_tokens: total.prompt_tokens,
                reused_tokens: total.reused_tokens,
                generated_tokens: total.generated_tokens,
            };
            argument::fill(out, info)
        })
    }
}

/// Reads the candidate in a place, from 0 for the best, into `*out`, whose `size` is set. Candidates without a reward come
/// last.
///
/// Ownership: strings are the ranking's, until it is freed. Errors: FORETURN_ERROR_INVALID_ARGUMENT,
/// FORETURN_ERROR_INVALID_HANDLE. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_ranking_candidate(
    ranking: *const foreturn_ranking,
    place: usize,
    out: *mut foreturn_candidate,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            let ranked = handle::get::<Ranked>(ranking)?;
            let candidate = ranked.candidate(place)?;
            let info = foreturn_candidate {
                size: 0,
                candidate: candidate.candidate,
                response: candidate.response.as_deref().map_or(foreturn_str::EMPTY, foreturn_str::of),
                reward: or_nan(candidate.reward),
                std_error: or_nan(candidate.std_error),
                interval_low: or_nan(candidate.interval.map(|[low, _]| low)),
                interval_high: or_nan(candidate.interval.map(|[_, high]| high)),
                metric_count: candidate.metrics.len(),
                rollout_count: candidate.rollouts.len(),
                excluded: candidate.excluded,
            };
            argument::fill(out, info)
        })
    }
}

/// Reads a metric of the candidate in a place into `*out`, whose `size` is set. Metrics are in the order of their names.
///
/// Ownership: strings are the ranking's, until it is freed. Errors: FORETURN_ERROR_INVALID_ARGUMENT,
/// FORETURN_ERROR_INVALID_HANDLE. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_ranking_metric(
    ranking: *const foreturn_ranking,
    place: usize,
    index: usize,
    out: *mut foreturn_metric_summary,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            let ranked = handle::get::<Ranked>(ranking)?;
            let metrics = &ranked.candidate(place)?.metrics;
            let (name, MetricSummary { mean, std_error, weight, .. }) =
                metrics.iter().nth(index).ok_or_else(|| Failure::beyond("index", index, metrics.len(), "metrics"))?;
            let (name, mean, std_error) = (foreturn_str::of(name), or_nan(*mean), or_nan(*std_error));
            argument::fill(out, foreturn_metric_summary { size: 0, name, mean, std_error, weight: *weight })
        })
    }
}

/// Reads a rollout of the candidate in a place into `*out`, whose `size` is set.
///
/// Ownership: strings are the ranking's, until it is freed. Errors: FORETURN_ERROR_INVALID_ARGUMENT,
/// FORETURN_ERROR_INVALID_HANDLE. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_ranking_rollout(
    ranking: *const foreturn_ranking,
    place: usize,
    index: usize,
    out: *mut foreturn_rollout,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            let ranked = handle::get::<Ranked>(ranking)?;
            let rollout = ranked.rollout(place, index)?;
            let info = foreturn_rollout {
                size: 0,
                sample: rollout.sample,
                reward: or_nan(rollout.reward),
                seed: rollout.seed,
                message_count: rollout.messages.len(),
                ended: foreturn_str::of(rollout.ended.as_str()),
                reason: rollout.reason.as_deref().map_or(foreturn_str::EMPTY, foreturn_str::of),
                counted: rollout.counted,
            };
            argument::fill(out, info)
        })
    }
}

/// Reads a message of a rollout into `*out`.
///
/// Ownership: strings are the ranking's, until it is freed. Errors: FORETURN_ERROR_INVALID_ARGUMENT,
/// FORETURN_ERROR_INVALID_HANDLE. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_ranking_message(
    ranking: *const foreturn_ranking,
    place: usize,
    rollout: usize,
    index: usize,
    out: *mut foreturn_message,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            let ranked = handle::get::<Ranked>(ranking)?;
            let messages = &ranked.rollout(place, rollout)?.messages;
            let message =
                messages.get(index).ok_or_else(|| Failure::beyond("index", index, messages.len(), "messages"))?;
            Out::new(out, "out")?.write(foreturn_message::of(message.role, &message.content));
            Ok(())
        })
    }
}

/// The ranking as the JSON object that the command line prints.
///
/// Ownership: the text is the ranking's, until it is freed. Errors: FORETURN_ERROR_INVALID_ARGUMENT,
/// FORETURN_ERROR_INVALID_HANDLE. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_ranking_json(
    ranking: *const foreturn_ranking,
    out: *mut foreturn_str,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            let ranked = handle::get::<Ranked>(ranking)?;
            let out = Out::new(out, "out")?;
            out.write(foreturn_str::of(ranked.json()?));
            Ok(())
        })
    }
}

/// Frees a ranking and the strings it lent. NULL is nothing. Errors: FORETURN_ERROR_INVALID_HANDLE if it was freed before.
/// Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_ranking_free(ranking: *mut foreturn_ranking) -> foreturn_status {
    handle::free::<Ranked>(ranking)
}
