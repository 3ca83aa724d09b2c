//! Replies, log-probabilities, prompts.

use std::ffi::c_void;
use std::sync::Arc;

use foreturn::chat::{Finish, JsonSchema};
use foreturn::decode::{GenerateOptions, SamplingOptions};
use foreturn::engine::{Generation, Pin, Prompt};
use serde_json::json;

use crate::argument::{self, Out, foreturn_str, sized, slice};
use crate::callback::{Gate, Inside, UserData};
use crate::engine::{Hosted, foreturn_engine, foreturn_limits, messages, waiting};
use crate::error::{Failure, Text, foreturn_error, foreturn_string, guard};
use crate::handle::{self, handle};
use crate::metric::foreturn_message;
use crate::status::*;

/// What a model is to continue or to score: a conversation, or tokens.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_prompt {
    /// sizeof(foreturn_prompt).
    pub size: usize,
    /// A conversation, rendered with the model's chat template.
    pub messages: *const foreturn_message,
    /// How many messages there are.
    pub message_count: usize,
    /// Tokens, instead.
    pub tokens: *const u32,
    /// How many there are.
    pub token_count: usize,
    /// Leaves out the header of a reply behind the conversation.
    pub without_generation_prompt: bool,
}
sized!(foreturn_prompt);

/// Sets a foreturn_prompt to its defaults: nothing set. Give `size` as sizeof(foreturn_prompt).
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_prompt_init(prompt: *mut foreturn_prompt, size: usize) -> foreturn_status {
    // SAFETY: passed on.
    unsafe { argument::init(prompt, size) }
}

unsafe fn read_prompt(given: *const foreturn_prompt) -> Result<Prompt, Failure> {
    // SAFETY: the struct and what it points to are the host's, valid for the call.
    unsafe {
        let given = argument::read(given)?;
        match (given.message_count, given.token_count) {
            (0, 0) => Err(Failure::argument("the prompt has neither messages nor tokens")),
            (0, count) => Ok(Prompt::Tokens(slice(given.tokens, count, "prompt.tokens")?.to_vec())),
            (count, 0) => {
                let messages = messages(given.messages, count, "prompt.messages")?;
                Ok(Prompt::Messages(messages, !given.without_generation_prompt))
            }
            _ => Err(Failure::argument("the prompt has messages and tokens: give the one or the other")),
        }
    }
}

/// Receives a reply's text piece by piece, each lent until it returns. Called from the engine's thread; it must return
/// quickly and not call functions that wait.
pub type foreturn_text_fn = Option<unsafe extern "C" fn(user_data: *mut c_void, text: foreturn_str)>;

/// What a reply should be like. NULL in its place, and all-zero: 256 tokens at temperature 1, no limit.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_generate_options {
    /// sizeof(foreturn_generate_options).
    pub size: usize,
    /// Deadline, cancellation, priority; at a deadline the reply is what was sampled until then.
    pub limits: foreturn_limits,
    /// Most tokens to sample; 0: 256.
    pub max_tokens: usize,
    /// Names the random stream: same request and same seed, same reply.
    pub seed: u64,
    /// Takes the likeliest token; then `temperature` is 0.
    pub greedy: bool,
    /// Goes on past tokens that end the turn.
    pub ignore_eos: bool,
    /// Divides the logits, above 0; 0: 1.
    pub temperature: f32,
    /// Nucleus sampling, in (0, 1]; 0: off.
    pub top_p: f32,
    /// Drops tokens less likely than this share of the likeliest, in [0, 1].
    pub min_p: f32,
    /// Discourages tokens that are there already, above 0; 0: off.
    pub repetition_penalty: f32,
    /// Keeps this many of the likeliest tokens; 0: all.
    pub top_k: usize,
    /// Texts that end the reply and are no part of it.
    pub stop: *const foreturn_str,
    /// How many there are.
    pub stop_count: usize,
    /// May be NULL.
    pub on_text: foreturn_text_fn,
    /// Given to it; has to live until the call returns.
    pub user_data: *mut c_void,
    /// A JSON schema that the reply has to follow, as JSON; empty: free text. Takes neither `stop` nor `ignore_eos`.
    pub schema_json: foreturn_str,
}
sized!(foreturn_generate_options);

/// Sets a foreturn_generate_options to its defaults. Give `size` as sizeof(foreturn_generate_options).
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

unsafe fn generate_options(given: &foreturn_generate_options, gate: &Gate) -> Result<GenerateOptions, Failure> {
    let or = |number: f32, default: f32| if number == 0.0 { default } else { number };
    if given.greedy && given.temperature != 0.0 {
        return Err(Failure::argument("greedy and temperature are both set: give one of them"));
    }
    // SAFETY: the strings are the host's, valid for the call.
    let stop = unsafe { slice(given.stop, given.stop_count, "stop")? };
    let stop = stop.iter().enumerate();
    // SAFETY: likewise.
    let stop = stop.map(|(at, text)| unsafe { text.text(&format!("stop[{at}]")) }.map(str::to_owned));
    // SAFETY: likewise.
    let schema = unsafe { given.schema_json.text("schema_json")? };
    let parsed = (!schema.is_empty()).then(|| JsonSchema::parse(schema, "schema_json").map(Arc::new));
    let schema = parsed.transpose()?;
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

/// A sampled reply, or the log-probabilities of a text. Any number of threads may read one at once.
pub struct foreturn_generation {
    _private: [u8; 0],
}

handle!(foreturn_generation, Generation);

/// What a foreturn_generation holds.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_generation_info {
    /// sizeof(foreturn_generation_info).
    pub size: usize,
    /// The reply's text, without special tokens and stop text; empty for log-probabilities of a prompt.
    pub text: foreturn_str,
    /// Why it ended: "stop", "length", "context", "deadline" or "cancelled".
    pub finish: foreturn_str,
    /// The sampled tokens, with the one that ended the turn; the scored tokens, for log-probabilities of a prompt.
    pub tokens: *const u32,
    /// The log-probability of each, in nats, under the model before temperature and truncation.
    pub logprobs: *const f32,
    /// How many there are of either.
    pub token_count: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Of these, tokens taken from the cache.
    pub reused_tokens: u64,
}
sized!(foreturn_generation_info);

/// Samples a reply and waits for it. `options` may be NULL.
///
/// Ownership: the caller frees `*out` with foreturn_generation_free().
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
            let limits = given.limits.limits()?;
            Ok(engine.generate(
                model.text("model")?,
                read_prompt(prompt)?,
                generate_options(&given, &engine.gate)?,
                limits,
            )?)
        })
    }
}

/// The log-probability of each token of a prompt after the first, given the ones before it. `limits` may be NULL.
///
/// Ownership: the caller frees `*out` with foreturn_generation_free(). Errors: as foreturn_generate(), and
/// FORETURN_ERROR_CANCELLED, FORETURN_ERROR_DEADLINE_EXCEEDED. Any thread.
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
            let limits = foreturn_limits::or_none(limits)?;
            let (mut tokens, logprobs) = engine.logprobs(model.text("model")?, read_prompt(prompt)?, limits)?;
            let prompt_tokens = tokens.clone();
            tokens.remove(0);
            let (text, finish) = (String::new(), Finish::Stop);
            let usage = foreturn::chat::Usage::new(prompt_tokens.len() as u64, 0);
            Ok(Generation { prompt_tokens, tokens, text, finish, logprobs, usage })
        })
    }
}

/// Reads a reply into `*out`, whose `size` is set.
///
/// Ownership: strings and arrays are the reply's, until it is freed. Errors: FORETURN_ERROR_INVALID_ARGUMENT,
/// FORETURN_ERROR_INVALID_HANDLE. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_generation_read(
    generation: *const foreturn_generation,
    out: *mut foreturn_generation_info,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            let generation = handle::get::<Generation>(generation)?;
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

/// A reply as a JSON object: its text, why it ended, tokens, log-probabilities, numbers of tokens.
///
/// Ownership: the caller frees `*out` with foreturn_string_free(). Errors: FORETURN_ERROR_INVALID_ARGUMENT,
/// FORETURN_ERROR_INVALID_HANDLE. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_generation_json(
    generation: *const foreturn_generation,
    out: *mut *mut foreturn_string,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            let generation = handle::get::<Generation>(generation)?;
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

/// Frees a reply and what it lent. NULL is nothing. Errors: FORETURN_ERROR_INVALID_HANDLE if it was freed before. Any
/// thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_generation_free(generation: *mut foreturn_generation) -> foreturn_status {
    handle::free::<Generation>(generation)
}

/// The text that a conversation becomes for a model.
///
/// Ownership: the caller frees `*out` with foreturn_string_free(). Errors: FORETURN_ERROR_INVALID_REQUEST,
/// FORETURN_ERROR_INVALID_ARGUMENT. Any thread; it doesn't wait.
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
            out.write(handle::insert(Text(engine.render(model.text("model")?, &messages, generation_prompt)?)));
            Ok(())
        })
    }
}

/// A prefix that stays in a model's cache until it is freed. Any thread may hold it.
pub struct foreturn_pin {
    _private: [u8; 0],
}

handle!(foreturn_pin, Pin);

/// Computes a prefix ahead of its use, waits for it, and keeps it in the cache. `limits` may be NULL; a prefix that is not
/// there in time is let go.
///
/// Ownership: the caller frees `*out` with foreturn_pin_free(), which lets the prefix go. A pin doesn't keep its engine.
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
            let limits = foreturn_limits::or_none(limits)?;
            Ok(engine.warm_within(model.text("model")?, read_prompt(prefix)?, &limits)?)
        })
    }
}

/// How many tokens a pinned prefix has, into `*out`.
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
            Out::new(out, "out")?.write(pin.tokens);
            Ok(())
        })
    }
}

/// Lets a prefix go. NULL is nothing. Errors: FORETURN_ERROR_INVALID_HANDLE if it was freed before. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_pin_free(pin: *mut foreturn_pin) -> foreturn_status {
    handle::free::<Pin>(pin)
}
