//! Counters.

use foreturn::engine::{Latency, Stage};

use crate::argument::{self, foreturn_str, sized};
use crate::callback::refuse_inside;
use crate::engine::{Hosted, foreturn_engine, waiting};
use crate::error::{foreturn_error, guard};
use crate::failure::Failure;
use crate::handle;
use crate::status::*;
use crate::string::{Text, foreturn_string};

/// How long a stage took, in seconds; quantiles to within 1%. All are 0 before the first.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_latency {
    /// How often it was gone through.
    pub count: u64,
    /// Seconds in all.
    pub sum: f64,
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
}

/// An engine's counters at one moment.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_statistics {
    /// sizeof(foreturn_statistics).
    pub size: usize,
    /// Rankings that wait for a place.
    pub queued_rankings: u64,
    /// Calls to single models that wait for one.
    pub queued_calls: u64,
    /// Rankings under way.
    pub active_rankings: u64,
    /// Texts of calls under way.
    pub active_texts: u64,
    /// Requests refused because the queue was full.
    pub refused: u64,
    /// From submission until a request gets its place.
    pub queue: foreturn_latency,
    /// Of rankings, from submission to the result.
    pub rank: foreturn_latency,
    /// Of scores, likewise.
    pub score: foreturn_latency,
    /// Of replies, likewise.
    pub generate: foreturn_latency,
    /// Of log-probabilities, likewise.
    pub logprobs: foreturn_latency,
    /// Of prefixes to be pinned, likewise.
    pub warm: foreturn_latency,
}
sized!(foreturn_statistics);

/// A local model's counters at one moment.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_model_statistics {
    /// sizeof(foreturn_model_statistics).
    pub size: usize,
    /// Runs of the model.
    pub steps: u64,
    /// Token rows computed, prompts and replies together.
    pub computed_tokens: u64,
    /// Tokens of the prompts that have ended.
    pub prompt_tokens: u64,
    /// Of these, tokens taken from the cache.
    pub reused_tokens: u64,
    /// Sequences that started over for want of memory.
    pub preemptions: u64,
    /// Sequences in the batch now.
    pub sequences: u64,
    /// Sequences that wait for the batch.
    pub waiting: u64,
    /// Blocks of the key-value cache.
    pub cache_blocks: u64,
    /// Of these, blocks with contents now.
    pub cache_used_blocks: u64,
    /// Most blocks with contents at once.
    pub cache_peak_blocks: u64,
}
sized!(foreturn_model_statistics);

/// Reads an engine's counters into `*out`, whose `size` is set. Waits for the step under way.
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE, FORETURN_ERROR_CLOSED,
/// FORETURN_ERROR_REENTRANT. Any thread.
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
            refuse_inside("foreturn_engine_statistics")?;
            let now = engine.statistics()?;
            let stage = |stage| {
                let Latency { count, sum, p50, p95, p99 } = now.stages.get(&stage).copied().unwrap_or_default();
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
            };
            argument::fill(out, all)
        })
    }
}

/// Reads a local model's counters into `*out`, whose `size` is set. Waits for the step under way.
///
/// Errors: as foreturn_engine_statistics(), and FORETURN_ERROR_INVALID_REQUEST for a model that isn't there. Any thread.
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
            refuse_inside("foreturn_engine_model_statistics")?;
            let stats = engine.status(model.text("model")?)?.stats;
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
            };
            argument::fill(out, all)
        })
    }
}

/// An engine's counters, its models' included, in the OpenMetrics text format. Waits for the step under way.
///
/// Ownership: the caller frees `*out` with foreturn_string_free(). Errors: as foreturn_engine_statistics(). Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_engine_openmetrics(
    engine: *const foreturn_engine,
    out: *mut *mut foreturn_string,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        waiting("foreturn_engine_openmetrics", engine, out, error, |engine| {
            Ok(Text(engine.statistics()?.to_openmetrics()))
        })
    }
}

/// An engine's counters, its models' and their execution providers included, as a JSON object. Waits for the step under
/// way.
///
/// Ownership: the caller frees `*out` with foreturn_string_free(). Errors: as foreturn_engine_statistics(). Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_engine_statistics_json(
    engine: *const foreturn_engine,
    out: *mut *mut foreturn_string,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        waiting("foreturn_engine_statistics_json", engine, out, error, |engine| {
            let json = serde_json::to_string(&engine.statistics()?).map_err(|e| {
                Failure::new(FORETURN_ERROR_INTERNAL, format!("statistics that JSON has no words for: {e}"))
            })?;
            Ok(Text(json))
        })
    }
}
