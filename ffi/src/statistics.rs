//! Counters.

use foreturn::engine::{Latency, Stage};

use crate::argument::{self, Out, foreturn_str, sized};
use crate::engine::{Hosted, foreturn_engine};
use crate::error::{foreturn_error, guard};
use crate::failure::Failure;
use crate::handle;
use crate::status::*;
use crate::string::{Text, foreturn_string};

/// Durations of a stage, in seconds. Quantiles are exact to within 1%. All fields are 0 before the first measurement.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_latency {
    /// Number of measurements.
    pub count: u64,
    /// Total seconds.
    pub sum: f64,
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
}

/// A snapshot of an engine's counters.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_statistics {
    /// sizeof(foreturn_statistics).
    pub size: usize,
    /// Number of rankings that wait for a place.
    pub queued_rankings: u64,
    /// Number of calls to single models that wait for a place.
    pub queued_calls: u64,
    /// Number of rankings that are running.
    pub active_rankings: u64,
    /// Number of texts in calls that are running.
    pub active_texts: u64,
    /// Number of requests refused because the queue was full.
    pub refused: u64,
    /// Time from submission until a request gets its place.
    pub queue: foreturn_latency,
    /// Time of rankings, from submission to the result.
    pub rank: foreturn_latency,
    /// The same for scores.
    pub score: foreturn_latency,
    /// The same for replies.
    pub generate: foreturn_latency,
    /// The same for log-probabilities.
    pub logprobs: foreturn_latency,
    /// The same for pinned prefixes.
    pub warm: foreturn_latency,
    /// Number of requests cancelled before their result was whole.
    pub cancelled: u64,
    /// Number of requests whose result was not whole at their deadline. It may have come later, or in part.
    pub deadlines_missed: u64,
    /// Number of requests that ended with an error. foreturn_engine_errors() counts them by status. Those that were refused
    /// when they were submitted are not among them.
    pub errors: u64,
}
sized!(foreturn_statistics until cancelled);

/// A snapshot of a local model's counters.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_model_statistics {
    /// sizeof(foreturn_model_statistics).
    pub size: usize,
    /// Number of runs of the model.
    pub steps: u64,
    /// Number of token rows computed, for prompts and replies together.
    pub computed_tokens: u64,
    /// Number of tokens in prompts that have ended.
    pub prompt_tokens: u64,
    /// Number of those tokens that were taken from the cache.
    pub reused_tokens: u64,
    /// Number of sequences that started over because memory ran out.
    pub preemptions: u64,
    /// Number of sequences in the batch now.
    pub sequences: u64,
    /// Number of sequences that wait for the batch.
    pub waiting: u64,
    /// Number of blocks in the key-value cache.
    pub cache_blocks: u64,
    /// Number of those blocks with contents now.
    pub cache_used_blocks: u64,
    /// Highest number of blocks with contents at once.
    pub cache_peak_blocks: u64,
    /// Number of times that its weights were exchanged. foreturn_engine_statistics_json() names them.
    pub refreshes: u64,
    /// Number of bytes in the key-value cache.
    pub cache_bytes: u64,
    /// Number of bytes in blocks with contents now.
    pub cache_used_bytes: u64,
    /// Highest number of bytes in blocks with contents at once.
    pub cache_peak_bytes: u64,
}
sized!(foreturn_model_statistics until refreshes);

/// Reads an engine's counters into `*out`. The caller sets `out->size` first. It waits for nothing.
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE, FORETURN_ERROR_CLOSED. Any thread, callbacks
/// included.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_engine_statistics(
    engine: *const foreturn_engine,
    out: *mut foreturn_statistics,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            let engine = handle::get::<Hosted>(engine)?;
            let now = engine.statistics()?;
            let stage = |stage| {
                let Latency { count, sum, p50, p95, p99, .. } = now.stages.get(&stage).copied().unwrap_or_default();
                foreturn_latency { count, sum, p50, p95, p99 }
            };
            let all = foreturn_statistics {
                size: 0,
                queued_rankings: now.queued_rankings as u64,
                queued_calls: now.queued_calls as u64,
                active_rankings: now.active_rankings as u64,
                active_texts: now.active_texts as u64,
                refused: now.refused,
                queue: stage(Stage::Queue),
                rank: stage(Stage::Rank),
                score: stage(Stage::Score),
                generate: stage(Stage::Generate),
                logprobs: stage(Stage::LogProbs),
                warm: stage(Stage::Warm),
                cancelled: now.cancelled,
                deadlines_missed: now.deadlines_missed,
                errors: now.errors.values().sum(),
            };
            argument::fill(out, all)
        })
    }
}

/// Reads the number of requests that ended with `status` into `*out`. It waits for nothing.
///
/// Errors: as foreturn_engine_statistics(). Any thread, callbacks included.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_engine_errors(
    engine: *const foreturn_engine,
    status: i32,
    out: *mut u64,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            let engine = handle::get::<Hosted>(engine)?;
            let out = Out::new(out, "out")?;
            let errors = engine.statistics()?.errors;
            let of = errors.iter().filter(|(kind, _)| foreturn_status::from(**kind) as i32 == status);
            out.write(of.map(|(_, count)| count).sum());
            Ok(())
        })
    }
}

/// Reads a local model's counters into `*out`. The caller sets `out->size` first. It waits for nothing.
///
/// Errors: as foreturn_engine_statistics(), and FORETURN_ERROR_INVALID_REQUEST if there is no such model. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_engine_model_statistics(
    engine: *const foreturn_engine,
    model: foreturn_str,
    out: *mut foreturn_model_statistics,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            let engine = handle::get::<Hosted>(engine)?;
            let status = engine.model(model.text("model")?)?.status()?;
            let stats = status.stats;
            let bytes = |blocks: usize| status.block_bytes as u64 * blocks as u64;
            let all = foreturn_model_statistics {
                size: 0,
                steps: stats.steps,
                computed_tokens: stats.computed_tokens,
                prompt_tokens: stats.prompt_tokens,
                reused_tokens: stats.reused_tokens,
                preemptions: stats.preemptions,
                sequences: stats.sequences as u64,
                waiting: stats.waiting as u64,
                cache_blocks: stats.blocks as u64,
                cache_used_blocks: stats.used_blocks as u64,
                cache_peak_blocks: stats.peak_blocks as u64,
                refreshes: status.refreshes,
                cache_bytes: bytes(stats.blocks),
                cache_used_bytes: bytes(stats.used_blocks),
                cache_peak_bytes: bytes(stats.peak_blocks),
            };
            argument::fill(out, all)
        })
    }
}

/// Writes the counters of an engine and its models in the OpenMetrics text format. It waits for nothing.
///
/// Ownership: the caller frees `*out` with foreturn_string_free().
///
/// Errors: as foreturn_engine_statistics(). Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_engine_openmetrics(
    engine: *const foreturn_engine,
    out: *mut *mut foreturn_string,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            let engine = handle::get::<Hosted>(engine)?;
            Out::new(out, "out")?.write(handle::insert(Text(engine.statistics()?.to_openmetrics())));
            Ok(())
        })
    }
}

/// Writes the counters of an engine and its models, and the models' execution providers, as a JSON object. It
/// waits for nothing.
///
/// Ownership: the caller frees `*out` with foreturn_string_free().
///
/// Errors: as foreturn_engine_statistics(). Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_engine_statistics_json(
    engine: *const foreturn_engine,
    out: *mut *mut foreturn_string,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            let engine = handle::get::<Hosted>(engine)?;
            let out = Out::new(out, "out")?;
            let json = serde_json::to_string(&engine.statistics()?).map_err(|e| {
                Failure::new(FORETURN_ERROR_INTERNAL, format!("statistics can't be written as JSON: {e}"))
            })?;
            out.write(handle::insert(Text(json)));
            Ok(())
        })
    }
}
