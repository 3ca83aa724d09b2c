//! Scores of texts.

use std::ffi::c_void;
use std::sync::OnceLock;

use foreturn::Engine;
use foreturn::chat::Usage;
use foreturn::engine::{self, Model, Pin};
use foreturn::model::tokenizer::EncodedText;
use foreturn::score::{ScoreInput, ScoreOutput, ScoreTask, Scores, StepOptions};
use serde_json::{Value, json};

use crate::argument::{self, Out, foreturn_str, sized, slice};
use crate::engine::{Hosted, foreturn_engine, foreturn_limits, messages, waiting};
use crate::error::{foreturn_error, guard};
use crate::failure::Failure;
use crate::generate::foreturn_pin;
use crate::handle::{self, handle};
use crate::metric::foreturn_message;
use crate::pending::{Outcome, Request, foreturn_pending, foreturn_ready_fn};
use crate::status::*;

/// The kind of score: one of FORETURN_SCORE_….
pub type foreturn_score_task = u32;
/// The logits of a reward model's or classifier's head.
pub const FORETURN_SCORE_LABELS: foreturn_score_task = 0;
/// A process reward for each step of the last message.
pub const FORETURN_SCORE_STEPS: foreturn_score_task = 1;
/// A language model's log-probability of the last message, the assistant's, in nats.
pub const FORETURN_SCORE_RESPONSE: foreturn_score_task = 2;
/// The embedding of the text.
pub const FORETURN_SCORE_EMBEDDING: foreturn_score_task = 3;

/// An input to score. Set exactly one of these: `messages`; `messages` with `candidates`; `text`; `tokens`; `tokens` of a
/// prompt with `response_tokens`; `pin` with `candidates`; or `pin` with `response_tokens`. The other fields stay zero.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_score_input {
    /// sizeof(foreturn_score_input).
    pub size: usize,
    /// A conversation. Its last message is scored, or each of the candidates that follow it.
    pub messages: *const foreturn_message,
    /// Number of messages.
    pub message_count: usize,
    /// A text.
    pub text: foreturn_str,
    /// Tokens. If there are response tokens, these are the prompt's.
    pub tokens: *const u32,
    /// Number of tokens.
    pub token_count: usize,
    /// Tokens of a response to the prompt.
    pub response_tokens: *const u32,
    /// Number of response tokens.
    pub response_token_count: usize,
    /// Replies of the assistant to the conversation in `messages` or in `pin`. Each of them is scored as if it were the last message of
    /// an input of its own, and the input has as many scores, in the order of its candidates. What they have in common is
    /// computed once.
    pub candidates: *const foreturn_str,
    /// Number of candidates.
    pub candidate_count: usize,
    /// A prefix that foreturn_warm() pinned for this model. `candidates` reply to its conversation, and `response_tokens` follow
    /// its tokens. The scores are those of the same input with the conversation or the tokens in the place of the pin. It may
    /// be freed while the request goes on.
    pub pin: *const foreturn_pin,
}
sized!(foreturn_score_input until candidates);

/// The settings of a score. NULL in its place, like all-zero, means labels without limits.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_score_options {
    /// sizeof(foreturn_score_options).
    pub size: usize,
    /// Deadline, cancellation, priority. If any score is not ready in time, the whole call fails. The engine checks the
    /// clock between steps of the model, so scores may come late by one step.
    pub limits: foreturn_limits,
    /// The kind of score.
    pub task: foreturn_score_task,
    /// The separator between steps (FORETURN_SCORE_STEPS); empty: a blank line.
    pub step_separator: foreturn_str,
    /// The control token after each step (FORETURN_SCORE_STEPS); empty: "<extra_0>".
    pub step_marker: foreturn_str,
    /// Called when a request of foreturn_score_submit() is done; may be NULL.
    pub on_ready: foreturn_ready_fn,
    /// Passed to `on_ready`; may be NULL. It has to live until the request is done.
    pub user_data: *mut c_void,
    /// Give the scores that are there where others failed or are not ready in time; foreturn_score_info.status tells which.
    /// Otherwise one of them fails the whole call.
    pub partial: bool,
}
sized!(foreturn_score_options);

/// Sets `*input` to the defaults: nothing set. `size` is sizeof(foreturn_score_input).
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_score_input_init(input: *mut foreturn_score_input, size: usize) -> foreturn_status {
    // SAFETY: passed on.
    unsafe { argument::init(input, size) }
}

/// Sets `*options` to the defaults. `size` is sizeof(foreturn_score_options).
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

/// Scores, in the order of the inputs: one for each, or one for each of its candidates. Any number of threads may read
/// them at once.
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
    token_ids: Vec<u32>,
    token_logprobs: Vec<f32>,
    usage: Usage,
    status: foreturn_status,
    json: Value,
}

impl Scored {
    fn each(outputs: Vec<foreturn::Result<engine::Scored>>) -> Self {
        let row = |output: foreturn::Result<engine::Scored>| output.map_or_else(|error| Row::missing(&error), Row::new);
        Scored { rows: outputs.into_iter().map(row).collect(), json: OnceLock::new() }
    }

    fn new(outputs: Vec<engine::Scored>) -> Self {
        Scored { rows: outputs.into_iter().map(Row::new).collect(), json: OnceLock::new() }
    }
}

impl Row {
    fn new(engine::Scored { output, usage, .. }: engine::Scored) -> Self {
        let (values, none) = (output.numbers(), Row::none(usage));
        match output {
            ScoreOutput::Labels(score) => {
                let rows = if let Scores::Tokens(rows) = &score.scores { rows.len() } else { 1 };
                Row { values, rows, tokens: score.tokens, json: json!(score), ..none }
            }
            ScoreOutput::Steps(steps) => {
                Row { values, rows: steps.steps.len(), tokens: steps.tokens, json: json!(steps), ..none }
            }
            ScoreOutput::Response(scored) => Row {
                values,
                rows: 1,
                tokens: scored.tokens,
                json: json!(scored),
                token_ids: scored.token_ids,
                token_logprobs: scored.token_logprobs,
                ..none
            },
            ScoreOutput::Embedding(row) => Row { values, rows: 1, json: json!({ "embedding": row }), ..none },
        }
    }

    fn missing(error: &foreturn::Error) -> Self {
        let json = json!({ "error": error.to_string() });
        Row { status: error.kind().into(), json, ..Row::none(Usage::default()) }
    }

    fn none(usage: Usage) -> Self {
        Row {
            values: Vec::new(),
            rows: 0,
            tokens: 0,
            token_ids: Vec::new(),
            token_logprobs: Vec::new(),
            usage,
            status: FORETURN_OK,
            json: Value::Null,
        }
    }
}

/// The score of one input.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_score_info {
    /// sizeof(foreturn_score_info).
    pub size: usize,
    /// The numbers, row by row: one logit per label (FORETURN_SCORE_LABELS); one probability in [0, 1] per step
    /// (FORETURN_SCORE_STEPS); the log-probability in nats (FORETURN_SCORE_RESPONSE); the vector
    /// (FORETURN_SCORE_EMBEDDING).
    pub values: *const f64,
    /// Number of values.
    pub value_count: usize,
    /// Number of rows: one per token if the head scores each token, one per step for steps, otherwise 1.
    pub row_count: usize,
    /// Number of tokens that the model read; 0 if unknown.
    pub tokens: usize,
    /// Number of tokens whose log-probabilities were summed, including the one that ends the turn
    /// (FORETURN_SCORE_RESPONSE); otherwise 0.
    pub response_tokens: usize,
    /// FORETURN_OK; or, with foreturn_score_options.partial, the reason why this score is missing: there are no values then.
    pub status: foreturn_status,
    /// Number of tokens that were taken from the model's cache, because they were warm or shared with another input.
    pub reused_tokens: u64,
    /// Seconds from when the model got the input until the score was there. Inputs run together, so these overlap.
    pub seconds: f64,
    /// The tokens whose log-probabilities were summed, as the model read them: `response_tokens` of them.
    pub token_ids: *const u32,
    /// The log-probability of each of `token_ids` given everything before it, in nats: `response_tokens` of them.
    pub token_logprobs: *const f32,
}
sized!(foreturn_score_info until reused_tokens);

unsafe fn inputs(model: &Model, given: *const foreturn_score_input, count: usize) -> Result<Vec<ScoreInput>, Failure> {
    // SAFETY: the structs and what they point to are the host's, valid for the call.
    unsafe {
        let given = argument::read_all(given, count, "inputs")?;
        let mut all = Vec::with_capacity(count);
        for (at, input) in given.iter().enumerate() {
            match (input.pin.is_null(), input.candidate_count) {
                (false, _) => all.extend(pinned(model, input, at)?),
                (true, 0) => all.push(one_input(input, at)?),
                (true, _) => all.extend(replies(input, at)?),
            }
        }
        Ok(all)
    }
}

/// A conversation with candidates.
unsafe fn replies(input: &foreturn_score_input, at: usize) -> Result<Vec<ScoreInput>, Failure> {
    let others = [input.text.size, input.token_count, input.response_token_count];
    if input.message_count == 0 || others.iter().any(|&size| size > 0) {
        return Err(Failure::argument(format!(
            "inputs[{at}]: candidates reply to messages; set messages, and no text, tokens or response_tokens"
        )));
    }
    // SAFETY: as for `inputs`.
    unsafe {
        let history = messages(input.messages, input.message_count, format_args!("inputs[{at}].messages"))?;
        Ok(ScoreInput::replies(history, candidates(input, at)?))
    }
}

unsafe fn candidates<'a>(input: &foreturn_score_input, at: usize) -> Result<Vec<&'a str>, Failure> {
    // SAFETY: as for `inputs`.
    unsafe {
        let texts = slice(input.candidates, input.candidate_count, format_args!("inputs[{at}].candidates"))?.iter();
        texts.enumerate().map(|(place, text)| text.text(format_args!("inputs[{at}].candidates[{place}]"))).collect()
    }
}

/// A pinned prefix with candidates, or with the tokens of a response.
unsafe fn pinned(model: &Model, input: &foreturn_score_input, at: usize) -> Result<Vec<ScoreInput>, Failure> {
    let pin = handle::get::<Pin>(input.pin)?;
    let others = input.message_count > 0 || input.text.size > 0 || input.token_count > 0;
    let named = |error: foreturn::Error| Failure::from(error.context(format!("inputs[{at}].pin")));
    // SAFETY: as for `inputs`.
    unsafe {
        match (others, input.candidate_count > 0, input.response_token_count > 0) {
            (false, true, false) => model.replies(&pin, candidates(input, at)?).map_err(named),
            (false, false, true) => {
                let what = format_args!("inputs[{at}].response_tokens");
                let response = slice(input.response_tokens, input.response_token_count, what)?;
                model.responses(&pin, [response.to_vec()]).map_err(named)
            }
            _ => Err(Failure::argument(format!(
                "inputs[{at}]: what goes on from the pin is missing, or is not all that is set; set pin with candidates or \
                 with response_tokens, and nothing else"
            ))),
        }
    }
}

unsafe fn one_input(input: &foreturn_score_input, at: usize) -> Result<ScoreInput, Failure> {
    // SAFETY: as for `inputs`.
    unsafe {
        let text = input.text.text(format_args!("inputs[{at}].text"))?;
        let tokens = slice(input.tokens, input.token_count, format_args!("inputs[{at}].tokens"))?;
        let response =
            slice(input.response_tokens, input.response_token_count, format_args!("inputs[{at}].response_tokens"))?;
        match (input.message_count > 0, !text.is_empty(), !tokens.is_empty(), !response.is_empty()) {
            (true, false, false, false) => {
                messages(input.messages, input.message_count, format_args!("inputs[{at}].messages"))
                    .map(ScoreInput::Chat)
            }
            (false, true, false, false) => Ok(ScoreInput::Text(text.to_owned())),
            (false, false, true, false) => {
                Ok(ScoreInput::Tokens(EncodedText { tokens: tokens.to_vec(), ..EncodedText::default() }))
            }
            (false, false, true, true) => {
                Ok(ScoreInput::Response { prompt: tokens.to_vec(), response: response.to_vec() })
            }
            _ => Err(Failure::argument(format!(
                "inputs[{at}]: set messages (with or without candidates), or text, or tokens (with or without \
                 response_tokens), and nothing else"
            ))),
        }
    }
}

unsafe fn score_task(given: &foreturn_score_options) -> Result<ScoreTask, Failure> {
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
        return Err(Failure::argument("step_separator and step_marker only work with FORETURN_SCORE_STEPS"));
    }
    Ok(task)
}

/// Scores `count` inputs with the local model named `model` and waits for the result. The inputs and their candidates run
/// together, and a prefix that conversations share is computed once. `options` may be NULL.
///
/// Ownership: the caller frees `*out` with foreturn_scores_free().
///
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
            let given = argument::read(options)?;
            let (task, limits) = (score_task(&given)?, given.limits.limits()?);
            let model = engine.within(limits).model(model.text("model")?)?;
            let inputs = self::inputs(&model, inputs, count)?;
            if given.partial {
                return Ok(Scored::each(model.submit_score_each(inputs, task)?.wait()?));
            }
            Ok(Scored::new(model.submit_score(inputs, task)?.wait()?))
        })
    }
}

/// Queues inputs to be scored and returns at once. `options` may be NULL. Its `on_ready` is called when all are scored.
///
/// Ownership: the caller frees `*out` with foreturn_pending_free().
///
/// Errors: those of foreturn_score() that are found before the model runs; the others are reported when the result is
/// taken. Any thread, also from callbacks.
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
            let (task, limits) = (score_task(&given)?, given.limits.limits()?);
            let name = model.text("model")?;
            let inputs = self::inputs(&engine.model(name)?, inputs, count)?;
            let ready = (given.on_ready, given.user_data);
            let request = if given.partial {
                let submit = |engine: &Engine| Ok(engine.model(name)?.submit_score_each(inputs, task)?);
                Request::submit(&engine, limits, ready, submit, |outputs| Ok(Outcome::Scores(Scored::each(outputs))))?
            } else {
                let submit = |engine: &Engine| Ok(engine.model(name)?.submit_score(inputs, task)?);
                Request::submit(&engine, limits, ready, submit, |outputs| Ok(Outcome::Scores(Scored::new(outputs))))?
            };
            out.write(handle::insert(request));
            Ok(())
        })
    }
}

/// Reads the number of scores into `*out`.
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

/// Reads the score of an input into `*out`. `index` is the input's index, from 0. The caller sets `out->size` first.
///
/// Ownership: the numbers belong to the scores and are valid until the scores are freed.
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE. Any thread.
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
                response_tokens: row.token_ids.len(),
                status: row.status,
                reused_tokens: row.usage.reused_tokens,
                seconds: row.usage.seconds,
                token_ids: row.token_ids.as_ptr(),
                token_logprobs: row.token_logprobs.as_ptr(),
            };
            argument::fill(out, info)
        })
    }
}

/// Writes the scores as a JSON list, with the names of labels, into `*out`.
///
/// Ownership: the text belongs to the scores and is valid until the scores are freed.
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE. Any thread.
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

/// Frees scores and what they lent. NULL is ignored.
///
/// Errors: FORETURN_ERROR_INVALID_HANDLE if they were freed before. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_scores_free(scores: *mut foreturn_scores) -> foreturn_status {
    handle::free::<Scored>(scores)
}
