//! The tokens of prompts, and their text.

use crate::argument::{Out, foreturn_str};
use crate::engine::{Hosted, foreturn_engine};
use crate::error::{foreturn_error, guard};
use crate::failure::Failure;
use crate::generate::{foreturn_prompt, read_prompt};
use crate::handle;
use crate::status::foreturn_status;
use crate::string::{Text, foreturn_string};

/// Makes the tokens that the local model named `model` sees of a prompt. Writes the first `capacity` of them to `tokens`,
/// and the number of all of them to `*count`. `tokens` may be NULL if `capacity` is 0, to only count. It doesn't wait for
/// the engine.
///
/// Errors: FORETURN_ERROR_INVALID_REQUEST, FORETURN_ERROR_CONTEXT_LENGTH (the prompt is longer than the model's context),
/// FORETURN_ERROR_INVALID_ARGUMENT. Any thread, callbacks included.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_tokens(
    engine: *const foreturn_engine,
    model: foreturn_str,
    prompt: *const foreturn_prompt,
    tokens: *mut u32,
    capacity: usize,
    count: *mut usize,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            let engine = handle::get::<Hosted>(engine)?;
            let count = Out::new(count, "count")?;
            if capacity > 0 && (tokens.is_null() || !tokens.is_aligned()) {
                return Err(Failure::argument(format!(
                    "tokens is NULL or not aligned, and its capacity is {capacity}"
                )));
            }
            let made = engine.model(model.text("model")?)?.tokens(read_prompt(prompt)?)?;
            for (at, &token) in made.iter().take(capacity).enumerate() {
                // The host has room for `capacity` tokens here.
                tokens.add(at).write(token);
            }
            count.write(made.len());
            Ok(())
        })
    }
}

/// Writes the text that the local model named `model` sees of a prompt: a rendered conversation, or the text of tokens,
/// special tokens included. It doesn't wait for the engine.
///
/// Ownership: the caller frees `*out` with foreturn_string_free().
///
/// Errors: FORETURN_ERROR_INVALID_REQUEST, FORETURN_ERROR_INVALID_ARGUMENT. Any thread, callbacks included.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_prompt_text(
    engine: *const foreturn_engine,
    model: foreturn_str,
    prompt: *const foreturn_prompt,
    out: *mut *mut foreturn_string,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            let engine = handle::get::<Hosted>(engine)?;
            let out = Out::new(out, "out")?;
            out.write(handle::insert(Text(engine.model(model.text("model")?)?.render(read_prompt(prompt)?)?)));
            Ok(())
        })
    }
}
