//! Scores of texts.

use std::ffi::c_void;
use std::sync::OnceLock;

use foreturn::engine::{CancelToken, ScoreOptions};
use foreturn::model::tokenizer::EncodedText;
use foreturn::score::{ScoreInput, ScoreOutput, ScoreTask, Scores, StepOptions};
use serde_json::{Value, json};

use crate::argument::{self, Out, foreturn_str, sized, slice};
use crate::engine::{Hosted, foreturn_engine, foreturn_limits, messages, waiting};
use crate::error::{foreturn_error, guard};
use crate::failure::Failure;
use crate::handle::{self, handle};
use crate::metric::foreturn_message;
use crate::pending::{Outcome, Request, foreturn_pending, foreturn_ready_fn};
use crate::status::*;

/// What is read off a model: one of FORETURN_SCORE_….
pub type foreturn_score_task = u32;
/// The logits of a reward model's or classifier's head.
pub const FORETURN_SCORE_LABELS: foreturn_score_task = 0;
/// A process reward for each step of the last message.
pub const FORETURN_SCORE_STEPS: foreturn_score_task = 1;
/// A language model's log-probability of the last message, the assistant's, in nats.
pub const FORETURN_SCORE_RESPONSE: foreturn_score_task = 2;
/// The text as a vector.
pub const FORETURN_SCORE_EMBEDDING: foreturn_score_task = 3;

/// One thing to score: a conversation, or a text, or tokens, or a response's tokens after a prompt's. What is not meant
/// stays zero.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_score_input {
    /// sizeof(foreturn_score_input).
    pub size: usize,
    /// A conversation; its last message is what is scored.
    pub messages: *const foreturn_message,
    /// How many messages there are.
    pub message_count: usize,
    /// A text.
    pub text: foreturn_str,
    /// Tokens; of the prompt, where there are response tokens.
    pub tokens: *const u32,
    /// How many there are.
    pub token_count: usize,
    /// Tokens of a response to that prompt.
    pub response_tokens: *const u32,
    /// How many there are.
    pub response_token_count: usize,
}
sized!(foreturn_score_input);

/// How texts are scored. NULL in its place, and all-zero: labels, no limit.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_score_options {
    /// sizeof(foreturn_score_options).
    pub size: usize,
    /// Deadline, cancellation, priority. A score that is not there in time is missing, and with it the whole result. The
    /// engine looks at the clock between steps of the model, so scores may come late by one step.
    pub limits: foreturn_limits,
    /// What is read off.
    pub task: foreturn_score_task,
    /// What stands between steps (FORETURN_SCORE_STEPS); a blank line if empty.
    pub step_separator: foreturn_str,
    /// The control token after each step (FORETURN_SCORE_STEPS); "<extra_0>" if empty.
    pub step_marker: foreturn_str,
    /// For foreturn_score_submit(); may be NULL.
    pub on_ready: foreturn_ready_fn,
    /// Given to it.
    pub user_data: *mut c_void,
}
sized!(foreturn_score_options);

/// Sets a foreturn_score_input to its defaults: nothing set. Give `size` as sizeof(foreturn_score_input).
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_score_input_init(input: *mut foreturn_score_input, size: usize) -> foreturn_status {
    // SAFETY: passed on.
    unsafe { argument::init(input, size) }
}

/// Sets a foreturn_score_options to its defaults. Give `size` as sizeof(foreturn_score_options).
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_score_options_init(
    options: *mut foreturn_score_options,
    size: usize,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe { argument::init(options, size) }
}

/// Scores in the order asked. Any number of threads may read them at once.
pub struct foreturn_scores {
    _private: [u8; 0],
}

pub(crate) struct Scored {
    rows: Vec<Row>,
    json: OnceLock<String>,
}

handle!(foreturn_scores, Scored);

struct Row {
    /// Row by row.
    values: Vec<f64>,
    rows: usize,
    tokens: usize,
    response_tokens: usize,
    json: Value,
}

impl Scored {
    fn new(outputs: Vec<ScoreOutput>) -> Self {
        Scored { rows: outputs.into_iter().map(Row::new).collect(), json: OnceLock::new() }
    }
}

impl Row {
    fn new(output: ScoreOutput) -> Self {
        let (rows, tokens, response_tokens, json) = match &output {
            ScoreOutput::Labels(score) => {
                let rows = if let Scores::Tokens(rows) = &score.scores { rows.len() } else { 1 };
                (rows, score.tokens, 0, json!(score))
            }
            ScoreOutput::Steps(steps) => (steps.steps.len(), steps.tokens, 0, json!(steps)),
            ScoreOutput::Response(scored) => (1, scored.tokens, scored.response_tokens, json!(scored)),
            ScoreOutput::Embedding(row) => (1, 0, 0, json!({ "embedding": row })),
        };
        Row { values: output.numbers(), rows, tokens, response_tokens, json }
    }
}

/// A score. Numbers stand row by row.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_score_info {
    /// sizeof(foreturn_score_info).
    pub size: usize,
    /// Logits, one a label (FORETURN_SCORE_LABELS); probabilities in [0, 1], one a step (FORETURN_SCORE_STEPS); the
    /// log-probability in nats (FORETURN_SCORE_RESPONSE); the vector (FORETURN_SCORE_EMBEDDING).
    pub values: *const f64,
    /// How many there are.
    pub value_count: usize,
    /// Rows of values: as many as tokens where the head scores each token, as many as steps; else 1.
    pub row_count: usize,
    /// Tokens that the model read; 0 where it doesn't say.
    pub tokens: usize,
    /// Tokens whose log-probabilities were summed, the one that ends the turn included (FORETURN_SCORE_RESPONSE); else 0.
    pub response_tokens: usize,
}
sized!(foreturn_score_info);

unsafe fn inputs(given: *const foreturn_score_input, count: usize) -> Result<Vec<ScoreInput>, Failure> {
    // SAFETY: the structs and what they point to are the host's, valid for the call.
    unsafe {
        let given = argument::read_all(given, count, "inputs")?;
        given.iter().enumerate().map(|(at, input)| one_input(input, at)).collect()
    }
}

unsafe fn one_input(input: &foreturn_score_input, at: usize) -> Result<ScoreInput, Failure> {
    // SAFETY: as for `inputs`.
    unsafe {
        let text = input.text.text(&format!("inputs[{at}].text"))?;
        let tokens = slice(input.tokens, input.token_count, &format!("inputs[{at}].tokens"))?;
        let response =
            slice(input.response_tokens, input.response_token_count, &format!("inputs[{at}].response_tokens"))?;
        match (input.message_count > 0, !text.is_empty(), !tokens.is_empty(), !response.is_empty()) {
            (true, false, false, false) => {
                messages(input.messages, input.message_count, &format!("inputs[{at}].messages")).map(ScoreInput::Chat)
            }
            (false, true, false, false) => Ok(ScoreInput::Text(text.to_owned())),
            (false, false, true, false) => {
                Ok(ScoreInput::Tokens(EncodedText { tokens: tokens.to_vec(), ..EncodedText::default() }))
            }
            (false, false, true, true) => {
                Ok(ScoreInput::Response { prompt: tokens.to_vec(), response: response.to_vec() })
            }
            _ => Err(Failure::argument(format!(
                "inputs[{at}]: set messages, or text, or tokens, or tokens and response_tokens, and nothing else"
            ))),
        }
    }
}

unsafe fn score_options(given: &foreturn_score_options) -> Result<ScoreOptions, Failure> {
    // SAFETY: the strings are the host's, valid for the call.
    let (separator, marker) =
        unsafe { (given.step_separator.text("step_separator")?, given.step_marker.text("step_marker")?) };
    let task = match given.task {
        FORETURN_SCORE_LABELS => ScoreTask::Labels,
        FORETURN_SCORE_RESPONSE => ScoreTask::Response,
        FORETURN_SCORE_EMBEDDING => ScoreTask::Embedding,
        FORETURN_SCORE_STEPS => {
            let mut steps = StepOptions::default();
            if !separator.is_empty() {
                steps.separator = separator.to_owned();
            }
            if !marker.is_empty() {
                steps.marker = marker.to_owned();
            }
            ScoreTask::Steps(steps)
        }
        other => return Err(Failure::argument(format!("options.task is {other}: it is one of FORETURN_SCORE_…"))),
    };
    let steps = matches!(task, ScoreTask::Steps(_));
    if !steps && (!separator.is_empty() || !marker.is_empty()) {
        return Err(Failure::argument("step_separator and step_marker are for FORETURN_SCORE_STEPS alone"));
    }
    Ok(ScoreOptions { task, limits: given.limits.limits()? })
}

/// Scores `count` inputs by a local model and waits for the result. They run together; conversations that share a prefix
/// compute it once. `options` may be NULL.
///
/// Ownership: the caller frees `*out` with foreturn_scores_free().
/// Errors: FORETURN_ERROR_INVALID_REQUEST, FORETURN_ERROR_CONTEXT_LENGTH, FORETURN_ERROR_MEMORY_BUDGET,
/// FORETURN_ERROR_RUNTIME, FORETURN_ERROR_CANCELLED, FORETURN_ERROR_DEADLINE_EXCEEDED, FORETURN_ERROR_OVERLOADED,
/// FORETURN_ERROR_CLOSED, FORETURN_ERROR_REENTRANT. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_score(
    engine: *const foreturn_engine,
    model: foreturn_str,
    inputs: *const foreturn_score_input,
    count: usize,
    options: *const foreturn_score_options,
    out: *mut *mut foreturn_scores,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        waiting("foreturn_score", engine, out, error, |engine| {
            let options = score_options(&argument::read(options)?)?;
            let pending = engine.submit_score(model.text("model")?, self::inputs(inputs, count)?, options)?;
            Ok(Scored::new(pending.wait()?))
        })
    }
}

/// Queues inputs to be scored and returns at once. `options` may be NULL; its `on_ready` is called when all are scored.
///
/// Ownership: the caller frees `*out` with foreturn_pending_free(). Errors: as foreturn_score(), for what shows before the
/// model runs; the rest shows when the result is taken. Any thread, and callbacks too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_score_submit(
    engine: *const foreturn_engine,
    model: foreturn_str,
    inputs: *const foreturn_score_input,
    count: usize,
    options: *const foreturn_score_options,
    out: *mut *mut foreturn_pending,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            let engine = handle::get::<Hosted>(engine)?;
            let out = Out::new(out, "out")?;
            let given = argument::read(options)?;
            let mut options = score_options(&given)?;
            let cancel = options.limits.cancel.get_or_insert_with(CancelToken::new).clone();
            let pending = engine.submit_score(model.text("model")?, self::inputs(inputs, count)?, options)?;
            let outcome = |outputs| Ok(Outcome::Scores(Scored::new(outputs)));
            out.write(handle::insert(Request::follow(pending, cancel, given.on_ready, given.user_data, outcome)));
            Ok(())
        })
    }
}

/// How many scores there are, into `*out`.
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_scores_count(
    scores: *const foreturn_scores,
    out: *mut usize,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            let scores = handle::get::<Scored>(scores)?;
            Out::new(out, "out")?.write(scores.rows.len());
            Ok(())
        })
    }
}

/// Reads the score of an input, from 0, into `*out`, whose `size` is set.
///
/// Ownership: the numbers are the scores', until they are freed. Errors: FORETURN_ERROR_INVALID_ARGUMENT,
/// FORETURN_ERROR_INVALID_HANDLE. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_scores_read(
    scores: *const foreturn_scores,
    index: usize,
    out: *mut foreturn_score_info,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            let scores = handle::get::<Scored>(scores)?;
            let row = scores.rows.get(index);
            let row = row.ok_or_else(|| Failure::beyond("index", index, scores.rows.len(), "scores"))?;
            let info = foreturn_score_info {
                size: 0,
                values: row.values.as_ptr(),
                value_count: row.values.len(),
                row_count: row.rows,
                tokens: row.tokens,
                response_tokens: row.response_tokens,
            };
            argument::fill(out, info)
        })
    }
}

/// The scores as a JSON list, with the names of labels.
///
/// Ownership: the text is the scores', until they are freed. Errors: FORETURN_ERROR_INVALID_ARGUMENT,
/// FORETURN_ERROR_INVALID_HANDLE. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_scores_json(
    scores: *const foreturn_scores,
    out: *mut foreturn_str,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            let scores = handle::get::<Scored>(scores)?;
            let all = || Value::Array(scores.rows.iter().map(|row| row.json.clone()).collect()).to_string();
            Out::new(out, "out")?.write(foreturn_str::of(scores.json.get_or_init(all)));
            Ok(())
        })
    }
}

/// Frees scores and what they lent. NULL is nothing. Errors: FORETURN_ERROR_INVALID_HANDLE if they were freed before. Any
/// thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_scores_free(scores: *mut foreturn_scores) -> foreturn_status {
    handle::free::<Scored>(scores)
}
