//! Rankings: results.

use std::sync::OnceLock;

use foreturn::Ranking;
use foreturn::rank::{MetricSummary, RankedCandidate, RolloutTrace, Stopped};

use crate::argument::{self, Out, foreturn_str, sized};
use crate::error::{foreturn_error, guard};
use crate::failure::Failure;
use crate::handle::{self, handle};
use crate::metric::foreturn_message;
use crate::status::*;

/// Candidates ordered by reward, with the rollouts and metrics behind it. Any number of threads may read one at once.
pub struct foreturn_ranking {
    _private: [u8; 0],
}

/// A ranking and its JSON, which is made on demand.
pub(crate) struct Ranked {
    ranking: Ranking,
    json: OnceLock<String>,
}

handle!(foreturn_ranking, Ranked);

impl Ranked {
    /// # Errors
    /// The ranking ended before any candidate had a reward, so it can't be used to choose.
    pub(crate) fn new(ranking: Ranking) -> Result<Self, Failure> {
        if ranking.came_to_nothing() {
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

    /// The JSON, made on first use.
    fn json(&self) -> Result<&str, Failure> {
        if self.json.get().is_none() {
            let json = serde_json::to_string(&self.ranking).map_err(|e| {
                Failure::new(FORETURN_ERROR_INTERNAL, format!("a ranking can't be written as JSON: {e}"))
            })?;
            // Another thread may have set the same text first.
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

pub(crate) fn or_nan(number: Option<f64>) -> f64 {
    number.unwrap_or(f64::NAN)
}

/// The totals of a ranking.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_ranking_info {
    /// sizeof(foreturn_ranking_info).
    pub size: usize,
    /// Number of candidates.
    pub candidate_count: usize,
    /// Whether every rollout ran to its end. If not, a deadline or the caller cut the ranking short.
    pub complete: bool,
    /// Whether the same request with the same seed gives bitwise the same rewards.
    pub bitwise: bool,
    /// Wall time in seconds.
    pub seconds: f64,
    /// Number of tokens in all prompts.
    pub prompt_tokens: u64,
    /// Number of those tokens that were taken from the cache.
    pub reused_tokens: u64,
    /// Number of sampled tokens.
    pub generated_tokens: u64,
}
sized!(foreturn_ranking_info);

/// A candidate and its reward. Unknown numbers are NaN.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_candidate {
    /// sizeof(foreturn_candidate).
    pub size: usize,
    /// Index in the request, from 0.
    pub candidate: usize,
    /// The text. Empty if it should have been sampled but was not.
    pub response: foreturn_str,
    /// The multiturn-aware reward: the mean over the rollouts that count.
    pub reward: f64,
    /// The reward's standard error. Unknown with one sample.
    pub std_error: f64,
    /// Lower end of the reward's 95% interval (Student's t).
    pub interval_low: f64,
    /// Upper end of that interval.
    pub interval_high: f64,
    /// Number of metrics.
    pub metric_count: usize,
    /// Number of rollouts.
    pub rollout_count: usize,
    /// Number of requested rollouts that do not count.
    pub excluded: usize,
}
sized!(foreturn_candidate);

/// One metric over the rollouts that count. Unknown numbers are NaN.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_metric_summary {
    /// sizeof(foreturn_metric_summary).
    pub size: usize,
    /// The metric's name.
    pub name: foreturn_str,
    /// The metric's mean.
    pub mean: f64,
    /// The mean's standard error.
    pub std_error: f64,
    /// The metric's weight in the reward.
    pub weight: f64,
}
sized!(foreturn_metric_summary);

/// One sampled future.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_rollout {
    /// sizeof(foreturn_rollout).
    pub size: usize,
    /// Index among the candidate's samples, from 0.
    pub sample: usize,
    /// Weighted sum of the metrics; NaN if one is missing.
    pub reward: f64,
    /// Seed of the rollout's random stream.
    pub seed: u64,
    /// Number of messages after the response.
    pub message_count: usize,
    /// The reason for the rollout's end, in the JSON's words.
    pub ended: foreturn_str,
    /// The reason why the rollout doesn't count; empty if it does.
    pub reason: foreturn_str,
    /// Whether the rollout counts.
    pub counted: bool,
}
sized!(foreturn_rollout);

/// Reads a ranking's totals into `*out`. The caller sets `out->size` first.
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

/// Reads a candidate into `*out`. `place` is its place in the ranking; 0 is the best, and candidates without a reward
/// come last. The caller sets `out->size` first.
///
/// Ownership: strings belong to the ranking and are valid until it is freed.
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE. Any thread.
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

/// Reads a metric of the candidate at `place` into `*out`. `index` is below the candidate's `metric_count`; metrics are
/// ordered by name. The caller sets `out->size` first.
///
/// Ownership: strings belong to the ranking and are valid until it is freed.
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE. Any thread.
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

/// Reads a rollout of the candidate at `place` into `*out`. `index` is below the candidate's `rollout_count`. The
/// caller sets `out->size` first.
///
/// Ownership: strings belong to the ranking and are valid until it is freed.
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE. Any thread.
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

/// Reads a message of a rollout of the candidate at `place` into `*out`. `rollout` is below the candidate's
/// `rollout_count`, and `index` is below the rollout's `message_count`.
///
/// Ownership: strings belong to the ranking and are valid until it is freed.
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE. Any thread.
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

/// Writes the ranking as the JSON object that the command line prints into `*out`.
///
/// Ownership: the text belongs to the ranking and is valid until it is freed.
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE. Any thread.
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

/// Frees a ranking and the strings that it lent. NULL is ignored.
///
/// Errors: FORETURN_ERROR_INVALID_HANDLE if it was freed before. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_ranking_free(ranking: *mut foreturn_ranking) -> foreturn_status {
    handle::free::<Ranked>(ranking)
}
