//! Arguments of a function, by position and by name, as Python binds them.

use minijinja::Error;
use minijinja::value::{Kwargs, Value};

use super::error;

/// Splits off the arguments that are given by name.
pub(super) fn split(args: &[Value]) -> (&[Value], Vec<(String, Value)>) {
    let Some((last, positional)) = args.split_last() else { return (args, Vec::new()) };
    if !last.is_kwargs() {
        return (args, Vec::new());
    }
    let Ok(kwargs) = Kwargs::try_from(last.clone()) else { return (args, Vec::new()) };
    let named = kwargs.args().filter_map(|name| Some((name.to_owned(), kwargs.peek(name).ok()?))).collect();
    (positional, named)
}

/// One value for each parameter that got one. The first `required` have to. A name that begins with `*` takes an
/// argument by position only.
pub(super) fn bind<const N: usize>(
    function: &str,
    parameters: [&str; N],
    required: usize,
    args: &[Value],
) -> Result<[Option<Value>; N], Error> {
    let (positional, named) = split(args);
    if positional.len() > N {
        return Err(error(format!("{function} takes at most {N} arguments, not {}", positional.len())));
    }
    let mut bound = [const { None }; N];
    for (slot, value) in bound.iter_mut().zip(positional) {
        *slot = Some(value.clone());
    }
    for (name, value) in named {
        match parameters.iter().position(|parameter| *parameter == name) {
            None => return Err(error(format!("{function} has no argument `{name}`"))),
            Some(at) if bound[at].is_some() => return Err(error(format!("{function} got two values for `{name}`"))),
            Some(at) => bound[at] = Some(value),
        }
    }
    match bound.iter().take(required).position(Option::is_none) {
        Some(at) => Err(error(format!("{function} needs the argument `{}`", parameters[at].trim_start_matches('*')))),
        None => Ok(bound),
    }
}

/// No arguments at all.
pub(super) fn none(function: &str, args: &[Value]) -> Result<(), Error> {
    bind::<0>(function, [], 0, args).map(|_| ())
}
