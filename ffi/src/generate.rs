//! Replies, log-probabilities, prompts.

use std::ffi::c_void;
use std::sync::Arc;

use foreturn::chat::{Finish, JsonSchema, Usage};
use foreturn::decode::{GenerateOptions, SamplingOptions};
use foreturn::engine::{Generation, LogProbs, Pin, Prompt};
use serde_json::json;

use crate::argument::{self, Out, foreturn_str, sized, slice};
use crate::callback::{Gate, Inside, UserData};
use crate::engine::{Hosted, foreturn_engine, foreturn_limits, messages, waiting};
use crate::error::{foreturn_error, guard};
use crate::failure::Failure;
use crate::handle::{self, handle};
use crate::metric::foreturn_message;
use crate::pending::foreturn_ready_fn;
use crate::status::*;
use crate::string::{Text, foreturn_string};

/// The input that a model continues or scores: a conversation or tokens, not both.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_prompt {
    /// sizeof(foreturn_prompt).
    pub size: usize,
    /// A conversation, rendered with the model's chat template.
    pub messages: *const foreturn_message,
    /// Number of messages.
    pub message_count: usize,
    /// Tokens, if there are no messages.
    pub tokens: *const u32,
    /// Number of tokens.
    pub token_count: usize,
    /// Leave out the header of the reply after the conversation.
    pub without_generation_prompt: bool,
}
sized!(foreturn_prompt);

/// Sets `*prompt` to the defaults: nothing set. `size` is sizeof(foreturn_prompt).
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_prompt_init(prompt: *mut foreturn_prompt, size: usize) -> foreturn_status {
    // SAFETY: passed on.
    unsafe { argument::init(prompt, size) }
}

pub(crate) unsafe fn read_prompt(given: *const foreturn_prompt) -> Result<Prompt, Failure> {
    // SAFETY: the struct and what it points to are the host's, valid for the call.
    unsafe {
        let given = argument::read(given)?;
        match (given.message_count, given.token_count) {
            (0, 0) => Err(Failure::argument("the prompt has neither messages nor tokens")),
            (0, count) => Ok(Prompt::Tokens(slice(given.tokens, count, "prompt.tokens")?.to_vec())),
            (count, 0) => {
                let messages = messages(given.messages, count, "prompt.messages")?;
                Ok(match given.without_generation_prompt {
                    true => Prompt::as_is(messages),
                    false => messages.into(),
                })
            }
            _ => Err(Failure::argument("the prompt has messages and tokens: give only one of them")),
        }
    }
}

/// Receives a reply's text piece by piece. `text` is valid until the callback returns. Called from the engine's thread.
/// It must return quickly and must not call functions that wait.
pub type foreturn_text_fn = Option<unsafe extern "C" fn(user_data: *mut c_void, text: foreturn_str)>;

/// The settings of a reply. NULL in its place, like all-zero, means 256 tokens at temperature 1 without limits.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_generate_options {
    /// sizeof(foreturn_generate_options).
    pub size: usize,
    /// Deadline, cancellation, priority. At the deadline, the reply is what was sampled so far.
    pub limits: foreturn_limits,
    /// Maximum number of tokens to sample; 0: 256.
    pub max_tokens: usize,
    /// Seed of the random stream. The same request with the same seed gives the same reply.
    pub seed: u64,
    /// Take the likeliest token at each step. `temperature` must then be 0.
    pub greedy: bool,
    /// Go on past tokens that end the turn.
    pub ignore_eos: bool,
    /// Sampling temperature, above 0; 0: 1.
    pub temperature: f32,
    /// Probability mass of nucleus sampling, in (0, 1]; 0: off.
    pub top_p: f32,
    /// Drop tokens whose probability is below this share of the likeliest token's, in [0, 1].
    pub min_p: f32,
    /// Penalty on tokens that already occur, above 0; 0: off.
    pub repetition_penalty: f32,
    /// Keep only this many of the likeliest tokens; 0: all.
    pub top_k: usize,
    /// Texts that end the reply and are not part of it.
    pub stop: *const foreturn_str,
    /// Number of stop texts.
    pub stop_count: usize,
    /// Called with each piece of the text; may be NULL.
    pub on_text: foreturn_text_fn,
    /// Passed to `on_text`; may be NULL. It has to live until the call returns.
    pub user_data: *mut c_void,
    /// JSON schema that the reply has to follow; empty: free text. It can't be combined with `stop` or `ignore_eos`.
    pub schema_json: foreturn_str,
    /// Called when a request of foreturn_generate_submit() is done; may be NULL. `user_data` then has to live until it is.
    pub on_ready: foreturn_ready_fn,
}
sized!(foreturn_generate_options);

/// Sets `*options` to the defaults. `size` is sizeof(foreturn_generate_options).
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_generate_options_init(
    options: *mut foreturn_generate_options,
    size: usize,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe { argument::init(options, size) }
}

pub(crate) unsafe fn generate_options(
    given: &foreturn_generate_options,
    gate: &Gate,
) -> Result<GenerateOptions, Failure> {
    let or = |number: f32, default: f32| if number == 0.0 { default } else { number };
    if given.greedy && given.temperature != 0.0 {
        return Err(Failure::argument("greedy and temperature are both set: give one of them"));
    }
    // SAFETY: the strings are the host's, valid for the call.
    let stop = unsafe { slice(given.stop, given.stop_count, "stop")? };
    let stop = stop.iter().enumerate();
    // SAFETY: likewise.
    let stop = stop.map(|(at, text)| unsafe { text.text(format_args!("stop[{at}]")) }.map(str::to_owned));
    // SAFETY: likewise.
    let schema = unsafe { given.schema_json.text("schema_json")? };
    let parsed = (!schema.is_empty()).then(|| schema.parse::<JsonSchema>());
    let schema = parsed.transpose().map_err(|e| e.context("schema_json"))?.map(Arc::new);
    let (user_data, gate) = (UserData(given.user_data), gate.clone());
    let on_text = given.on_text.map(|call| -> Box<dyn FnMut(&str) + Send> {
        Box::new(move |text| {
            let user_data = user_data;
            if gate.is_shut() {
                return;
            }
            let _inside = Inside::enter();
            // SAFETY: the host's function, with the host's pointer and a text that lives until it returns.
            unsafe { call(user_data.0, foreturn_str::of(text)) }
        })
    });
    Ok(GenerateOptions {
        max_tokens: if given.max_tokens == 0 { 256 } else { given.max_tokens },
        sampling: SamplingOptions {
            temperature: if given.greedy { 0.0 } else { or(given.temperature, 1.0) },
            top_p: or(given.top_p, 1.0),
            top_k: given.top_k,
            min_p: given.min_p,
            repetition_penalty: or(given.repetition_penalty, 1.0),
        },
        seed: given.seed,
        stop: stop.collect::<Result<_, _>>()?,
        ignore_eos: given.ignore_eos,
        schema,
        on_text,
    })
}

/// A sampled reply, or the log-probabilities of a prompt. Any number of threads may read one at once.
pub struct foreturn_generation {
    _private: [u8; 0],
}

/// What a foreturn_generation is.
pub(crate) struct Reply {
    text: String,
    finish: Finish,
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    usage: Usage,
}

handle!(foreturn_generation, Reply);

impl From<Generation> for Reply {
    fn from(reply: Generation) -> Self {
        let Generation { text, finish, tokens, logprobs, usage, .. } = reply;
        Reply { text, finish, tokens, logprobs, usage }
    }
}

impl From<LogProbs> for Reply {
    fn from(scored: LogProbs) -> Self {
        let LogProbs { mut tokens, logprobs, usage, .. } = scored;
        tokens.remove(0);
        Reply { text: String::new(), finish: Finish::Stop, tokens, logprobs, usage }
    }
}

/// The contents of a foreturn_generation.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_generation_info {
    /// sizeof(foreturn_generation_info).
    pub size: usize,
    /// The reply's text, without special tokens and stop text. Empty for the log-probabilities of a prompt.
    pub text: foreturn_str,
    /// The reason for the reply's end: "stop", "length", "context", "deadline" or "cancelled".
    pub finish: foreturn_str,
    /// The sampled tokens, including the one that ended the turn; or the scored tokens of a prompt.
    pub tokens: *const u32,
    /// The log-probability of each token, in nats, before temperature and truncation.
    pub logprobs: *const f32,
    /// Number of tokens, and of log-probabilities.
    pub token_count: usize,
    /// Number of tokens in the prompt.
    pub prompt_tokens: u64,
    /// Number of those tokens that were taken from the cache.
    pub reused_tokens: u64,
}
sized!(foreturn_generation_info);

/// Samples a reply of the local model named `model` and waits for it. `options` may be NULL.
///
/// Ownership: the caller frees `*out` with foreturn_generation_free().
///
/// Errors: FORETURN_ERROR_INVALID_REQUEST, FORETURN_ERROR_CONTEXT_LENGTH, FORETURN_ERROR_MEMORY_BUDGET,
/// FORETURN_ERROR_RUNTIME, FORETURN_ERROR_OVERLOADED, FORETURN_ERROR_CLOSED, FORETURN_ERROR_REENTRANT. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_generate(
    engine: *const foreturn_engine,
    model: foreturn_str,
    prompt: *const foreturn_prompt,
    options: *const foreturn_generate_options,
    out: *mut *mut foreturn_generation,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        waiting("foreturn_generate", engine, out, error, |engine| {
            let given = argument::read(options)?;
            let model = engine.within(given.limits.limits()?).model(model.text("model")?)?;
            let reply = model.generate(read_prompt(prompt)?, generate_options(&given, &engine.gate)?)?;
            Ok(Reply::from(reply))
        })
    }
}

/// Computes the log-probability of each token of a prompt, given the tokens before it, and waits for the result. The
/// first token has none. `limits` may be NULL.
///
/// Ownership: the caller frees `*out` with foreturn_generation_free().
///
/// Errors: as foreturn_generate(), and FORETURN_ERROR_CANCELLED, FORETURN_ERROR_DEADLINE_EXCEEDED. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_logprobs(
    engine: *const foreturn_engine,
    model: foreturn_str,
    prompt: *const foreturn_prompt,
    limits: *const foreturn_limits,
    out: *mut *mut foreturn_generation,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        waiting("foreturn_logprobs", engine, out, error, |engine| {
            let model = engine.within(foreturn_limits::or_none(limits)?).model(model.text("model")?)?;
            Ok(Reply::from(model.logprobs(read_prompt(prompt)?)?))
        })
    }
}

/// Reads a reply into `*out`. The caller sets `out->size` first.
///
/// Ownership: strings and arrays belong to the reply and are valid until it is freed.
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_generation_read(
    generation: *const foreturn_generation,
    out: *mut foreturn_generation_info,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            let generation = handle::get::<Reply>(generation)?;
            let info = foreturn_generation_info {
                size: 0,
                text: foreturn_str::of(&generation.text),
                finish: foreturn_str::of(generation.finish.as_str()),
                tokens: generation.tokens.as_ptr(),
                logprobs: generation.logprobs.as_ptr(),
                token_count: generation.tokens.len().min(generation.logprobs.len()),
                prompt_tokens: generation.usage.prompt_tokens,
                reused_tokens: generation.usage.reused_tokens,
            };
            argument::fill(out, info)
        })
    }
}

/// Writes a reply as a JSON object: its text, why it ended, its tokens, their log-probabilities and the token counts.
///
/// Ownership: the caller frees `*out` with foreturn_string_free().
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_generation_json(
    generation: *const foreturn_generation,
    out: *mut *mut foreturn_string,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            let generation = handle::get::<Reply>(generation)?;
            let json = json!({
                "text": generation.text,
                "finish": generation.finish.as_str(),
                "tokens": generation.tokens,
                "logprobs": generation.logprobs,
                "prompt_tokens": generation.usage.prompt_tokens,
                "reused_tokens": generation.usage.reused_tokens,
            });
            Out::new(out, "out")?.write(handle::insert(Text(json.to_string())));
            Ok(())
        })
    }
}

/// Frees a reply and what it lent. NULL is ignored.
///
/// Errors: FORETURN_ERROR_INVALID_HANDLE if it was freed before. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_generation_free(generation: *mut foreturn_generation) -> foreturn_status {
    handle::free::<Reply>(generation)
}

/// Renders a conversation with the chat template of the local model named `model`. `generation_prompt` appends the
/// header of the assistant's reply.
///
/// Ownership: the caller frees `*out` with foreturn_string_free().
///
/// Errors: FORETURN_ERROR_INVALID_REQUEST, FORETURN_ERROR_INVALID_ARGUMENT. Any thread; the function doesn't wait for
/// the engine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_render(
    engine: *const foreturn_engine,
    model: foreturn_str,
    messages: *const foreturn_message,
    message_count: usize,
    generation_prompt: bool,
    out: *mut *mut foreturn_string,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            let engine = handle::get::<Hosted>(engine)?;
            let out = Out::new(out, "out")?;
            let messages = self::messages(messages, message_count, "messages")?;
            let prompt = if generation_prompt { messages.into() } else { Prompt::as_is(messages) };
            out.write(handle::insert(Text(engine.model(model.text("model")?)?.render(prompt)?)));
            Ok(())
        })
    }
}

/// A pinned prefix. It stays in a model's cache until the pin is freed. Any thread may use one.
pub struct foreturn_pin {
    _private: [u8; 0],
}

handle!(foreturn_pin, Pin);

/// Computes a prefix before it is needed, waits for it, and keeps it in the cache. `limits` may be NULL. A prefix that
/// isn't ready in time is dropped.
///
/// Ownership: the caller frees `*out` with foreturn_pin_free(), which releases the prefix. A pin doesn't keep its
/// engine alive.
///
/// Errors: as foreturn_logprobs(). Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_warm(
    engine: *const foreturn_engine,
    model: foreturn_str,
    prefix: *const foreturn_prompt,
    limits: *const foreturn_limits,
    out: *mut *mut foreturn_pin,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        waiting("foreturn_warm", engine, out, error, |engine| {
            let model = engine.within(foreturn_limits::or_none(limits)?).model(model.text("model")?)?;
            Ok(model.warm(read_prompt(prefix)?)?)
        })
    }
}

/// Reads the number of tokens of a pinned prefix into `*out`.
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_HANDLE. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_pin_tokens(
    pin: *const foreturn_pin,
    out: *mut usize,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            let pin = handle::get::<Pin>(pin)?;
            Out::new(out, "out")?.write(pin.tokens());
            Ok(())
        })
    }
}

/// Releases a pinned prefix. NULL is ignored.
///
/// Errors: FORETURN_ERROR_INVALID_HANDLE if it was freed before. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_pin_free(pin: *mut foreturn_pin) -> foreturn_status {
    handle::free::<Pin>(pin)
}
