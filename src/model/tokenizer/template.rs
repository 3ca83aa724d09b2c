//! A chat template, rendered as transformers' `apply_chat_template` renders it.
//!
//! Templates come with model folders, so they are not trusted: they run with a limit on steps and on output, and see
//! nothing but the conversation and the arguments.

use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, ErrorKind as JinjaErrorKind};
use serde_json::Map;

use super::date::DateTime;
use super::jinja;
use crate::{Error, ErrorKind, Result};

/// Steps that a template may take, or 64 bytes it may handle (see minijinja's fuel). A real one takes some hundreds per
/// message.
const FUEL: u64 = 5_000_000;

/// Bytes that a template may write.
const MAX_OUTPUT: usize = 64 << 20;

/// A compiled template.
#[derive(Debug)]
pub(super) struct ChatTemplate {
    /// Where it came from, for messages.
    origin: String,
    source: String,
    env: Environment<'static>,
}

/// What a template sees.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    /// Role and content of each message.
    pub(super) messages: &'a [(&'a str, &'a str)],
    pub(super) add_generation_prompt: bool,
    /// Named tokens of the tokenizer.
    pub(super) named: &'a Map<String, serde_json::Value>,
    /// Further arguments; they win over named tokens.
    pub(super) arguments: &'a Map<String, serde_json::Value>,
    pub(super) date: DateTime,
}

impl ChatTemplate {
    pub(super) fn compile(source: &str, origin: String) -> Result<Self> {
        let source = jinja::prepare(source, &origin)?;
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        env.set_syntax(syntax.map_err(|e| Error::internal(format!("the template syntax is refused: {e}")))?);
        env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        env.set_fuel(Some(FUEL));
        // Errors of debug mode hold on to the values at hand, which can be big.
        env.set_debug(false);
        jinja::install(&mut env);
        env.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(JinjaErrorKind::InvalidOperation, "raised").with_source(Raised(message)))
        });
        env.add_template_owned("chat template", source.clone())
            .map_err(|e| Error::invalid_model(format!("{origin} cannot be read: {}", describe(&e))).with_source(e))?;
        Ok(ChatTemplate { origin, source, env })
    }

    /// Its source, as it is compiled.
    pub(super) fn source(&self) -> &str {
        &self.source
    }

    /// Renders the template.
    pub(super) fn render(&self, view: View<'_>) -> Result<String> {
        let template = self.env.get_template("chat template");
        self.finish(template.and_then(|template| write(&template, view)))
    }

    /// Renders another source in this template's stead.
    pub(super) fn render_as(&self, source: &str, view: View<'_>) -> Result<String> {
        let template = self.env.template_from_named_str("chat template", source);
        self.finish(template.and_then(|template| write(&template, view)))
    }

    fn finish(&self, rendered: Result<Vec<u8>, minijinja::Error>) -> Result<String> {
        let bytes = rendered.map_err(|e| self.explain(e))?;
        String::from_utf8(bytes).map_err(|e| Error::internal(format!("a template wrote invalid UTF-8: {e}")))
    }

    fn explain(&self, error: minijinja::Error) -> Error {
        let origin = &self.origin;
        if let Some(Raised(message)) = find_cause(&error) {
            let message = format!("{origin} refuses the conversation: {message}");
            return Error::new(ErrorKind::InvalidRequest, message).with_source(error);
        }
        if error.kind() == JinjaErrorKind::OutOfFuel || find_cause::<TooLong>(&error).is_some() {
            let message = format!(
                "{origin} was stopped after {FUEL} steps or {MAX_OUTPUT} bytes of output. It may never end; check its \
                 loops, or shorten the conversation"
            );
            return Error::invalid_model(message).with_source(error);
        }
        Error::invalid_model(format!("{origin} failed: {}", describe(&error))).with_source(error)
    }
}

/// What a template said by `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

#[derive(Debug, thiserror::Error)]
#[error("the output is too long")]
struct TooLong;

/// Looks for an error of one type among the causes.
fn find_cause<T: std::error::Error + 'static>(error: &minijinja::Error) -> Option<&T> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        // An I/O error hands out the source of what it wraps, never the thing itself.
        if let Some(found) = error.downcast_ref::<io::Error>().and_then(|e| e.get_ref()?.downcast_ref::<T>()) {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// An error of the template engine in one line.
fn describe(error: &minijinja::Error) -> String {
    let mut text = error.kind().to_string();
    if let Some(detail) = error.detail() {
        text = format!("{text}: {detail}");
    }
    if let Some(line) = error.line() {
        text = format!("{text} (line {line})");
    }
    text
}

fn write(template: &minijinja::Template<'_, '_>, view: View<'_>) -> Result<Vec<u8>, minijinja::Error> {
    let mut out = Bounded(Vec::new());
    template.render_captured_to(context(view), &mut out)?;
    Ok(out.0)
}

fn context(view: View<'_>) -> Value {
    let mut entries: Vec<(String, Value)> =
        view.named.iter().map(|(key, value)| (key.clone(), Value::from(Serde(value)))).collect();
    let date = view.date;
    let now = move |format: String| {
        let too_long = || minijinja::Error::new(JinjaErrorKind::InvalidOperation, "strftime_now: the date is too long");
        date.written(&format).ok_or_else(too_long)
    };
    entries.push(("strftime_now".to_owned(), Value::from_function(now)));
    entries.push(("tools".to_owned(), Value::from(())));
    entries.push(("documents".to_owned(), Value::from(())));
    entries.extend(view.arguments.iter().map(|(key, value)| (key.clone(), Value::from(Serde(value)))));
    let messages: Value = view
        .messages
        .iter()
        .map(|&(role, content)| Value::from_pairs([("role", Value::from(role)), ("content", Value::from(content))]))
        .collect();
    entries.push(("messages".to_owned(), messages));
    entries.push(("add_generation_prompt".to_owned(), Value::from(view.add_generation_prompt)));
    Value::from_pairs(entries)
}

/// A buffer that refuses to grow beyond the limit.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT {
            return Err(io::Error::other(TooLong));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
