//! Macros that take their arguments as Jinja's do: further ones are `varargs` and `kwargs`, and a parameter without an
//! argument gets its default as it is called.

use std::sync::Arc;

use minijinja::value::{Enumerator, Kwargs, Object, Value};
use minijinja::{Error, State};

use super::{Function, arguments, error, names, values};

pub(super) const FILTERS: &[(&str, Function)] = &[(names::MACRO, wrap)];

/// Stands for an argument that wasn't given.
#[derive(Debug)]
struct Missing;

impl Object for Missing {}

/// Whether a parameter got no argument.
pub(super) fn is_missing(value: &Value) -> bool {
    value.downcast_object_ref::<Missing>().is_some()
}

#[derive(Debug)]
struct MacroObject {
    name: String,
    parameters: Vec<String>,
    /// How many of the last parameters have defaults.
    defaults: usize,
    /// Whether the body speaks of `varargs`, `kwargs` and `caller`.
    uses: [bool; 3],
    body: Value,
}

/// Wraps a macro; called behind each macro's end.
fn wrap(_: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
    let [body, name, parameters, defaults, uses @ ..] = args else {
        return Err(error("a macro's parameters are missing"));
    };
    let parameters = parameters.try_iter()?.filter_map(|name| name.as_str().map(str::to_owned)).collect();
    let name = name.as_str().unwrap_or_default().to_owned();
    let defaults = defaults.as_usize().unwrap_or(0);
    let uses = [0, 1, 2].map(|at| uses.get(at).is_some_and(Value::is_true));
    Ok(Value::from_object(MacroObject { name, parameters, defaults, uses, body: body.clone() }))
}

impl Object for MacroObject {
    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::NonEnumerable
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str()? {
            "name" => Some(Value::from(self.name.as_str())),
            "arguments" => Some(values::tuple(self.parameters.iter().map(|name| Value::from(name.as_str())).collect())),
            "catch_varargs" => Some(Value::from(self.uses[0])),
            "catch_kwargs" => Some(Value::from(self.uses[1])),
            "caller" => Some(Value::from(self.uses[2])),
            _ => None,
        }
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        let (positional, named) = arguments::split(args);
        let mut bound: Vec<(String, Value)> = Vec::new();
        let mut named: Vec<(String, Value)> = named;
        for (index, parameter) in self.parameters.iter().enumerate() {
            let by_name = named.iter().position(|(name, _)| name == parameter);
            let value = match (positional.get(index), by_name) {
                (Some(_), Some(_)) => {
                    return Err(error(format!("macro `{}` got two values for `{parameter}`", self.name)));
                }
                (Some(value), None) => value.clone(),
                (None, Some(at)) => named.remove(at).1,
                (None, None) if index + self.defaults < self.parameters.len() => Value::UNDEFINED,
                (None, None) => Value::from_object(Missing),
            };
            bound.push((parameter.clone(), value));
        }
        let caller = named.iter().position(|(name, _)| name == "caller").map(|at| named.remove(at).1);
        let further = positional.get(self.parameters.len()..).unwrap_or_default().to_vec();
        self.refuse_unused(!further.is_empty(), named.first().map(|(name, _)| name.as_str()), caller.is_some())?;
        bound.extend(caller.map(|caller| ("caller".to_owned(), caller)));
        self.extend(&mut bound, "varargs", values::tuple(further));
        self.extend(&mut bound, "kwargs", Value::from_pairs(named));
        self.body.call(state, &[Kwargs::from_iter(bound).into()])
    }
}

impl MacroObject {
    fn refuse_unused(&self, further: bool, named: Option<&str>, caller: bool) -> Result<(), Error> {
        let (name, count) = (&self.name, self.parameters.len());
        match (further && !self.uses[0], named.filter(|_| !self.uses[1]), caller && !self.uses[2]) {
            (true, ..) => Err(error(format!("macro `{name}` takes not more than {count} argument(s)"))),
            (_, Some(argument), _) => Err(error(format!("macro `{name}` takes no keyword argument `{argument}`"))),
            (_, _, true) => Err(error(format!("macro `{name}` has no use for a call block"))),
            _ => Ok(()),
        }
    }

    fn extend(&self, bound: &mut Vec<(String, Value)>, name: &str, value: Value) {
        if !self.parameters.iter().any(|own| own == name) {
            bound.push((name.to_owned(), value));
        }
    }
}
