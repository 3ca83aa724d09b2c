//! Chat templates as transformers runs them: Jinja's syntax, and Python's values, methods and numbers.
//!
//! The template engine (minijinja) compiles, keeps scopes and loops. What it does otherwise than Jinja and Python is
//! replaced here: [`source`] rewrites a template's operators, attributes and method calls into filters, and the other
//! files are those filters, Jinja's own filters and tests, and its global functions. Where Python's answer can't be had,
//! a template ends with an error that names the thing; tests/jinja.rs compares some 1,900 snippets with Jinja's own
//! answers.
//!
//! # Bounds
//!
//! A template comes with a model folder and is not trusted. Its nesting is bounded before it is compiled, values are
//! bounded as they are made, and each function pays for the bytes and items that it handles (see [`limits`]).

mod access;
mod arguments;
mod case;
mod containers;
mod expression;
mod filters;
mod globals;
mod json;
mod lexer;
mod limits;
mod macros;
mod names;
mod numbers;
mod operators;
mod predicates;
mod printf;
mod repr;
mod source;
mod str_format;
mod strings;
mod values;

use minijinja::value::{Rest, Value, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State};

pub(super) use source::prepare;

/// Most levels of an expression. A published template has some ten.
const MAX_EXPRESSION_DEPTH: usize = 48;

/// Most levels of blocks within blocks; an `elif` counts as one.
const MAX_BLOCK_DEPTH: usize = 48;

/// Most arguments of a call, and most parameters of a macro. Each is compared with those before it.
const MAX_ARGUMENTS: usize = 1000;

/// A function that templates call.
type Function = fn(&mut State<'_, '_>, &[Value]) -> Result<Value, Error>;

/// Why a template isn't run.
#[derive(Debug)]
pub(super) struct Refusal(String);

impl Refusal {
    fn new(message: impl Into<String>) -> Self {
        Refusal(message.into())
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// An error of a function, as a template's author reads it.
fn error(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// Makes a template environment behave like Jinja's in Python.
pub(super) fn install(env: &mut Environment<'_>) {
    limits::install(env);
    env.set_formatter(repr::print);
    env.set_unknown_method_callback(access::unknown_method);
    for name in ["debug", "dict", "range", "namespace"] {
        env.remove_global(name);
    }
    let filters = [operators::FILTERS, access::FILTERS, macros::FILTERS, limits::FILTERS, json::FILTERS];
    for (name, function) in filters.into_iter().chain(filters::ALL).flatten() {
        env.add_filter(*name, callable(*function));
    }
    for (name, test) in predicates::ALL {
        env.add_test(*name, move |state: &mut State<'_, '_>, values: Rest<ValueOrKwargs>| {
            test(state, &values.into_values())
        });
    }
    for (name, function) in globals::ALL {
        env.add_function(*name, callable(*function));
    }
}

fn callable(
    function: Function,
) -> impl Fn(&mut State<'_, '_>, Rest<ValueOrKwargs>) -> Result<Value, Error> + Send + Sync + 'static {
    move |state, values| function(state, &values.into_values())
}
