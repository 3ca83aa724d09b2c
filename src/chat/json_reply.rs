//! Replies that are JSON objects: what is asked for, and how it is read.
//!
//! Local models are held to the schema while they write. Endpoints may not be, and wrap the object in a fence or in words,
//! or write what is nearly JSON (`lenient`); so the object is looked for, but nothing is guessed: what doesn't parse is a
//! failure.

use serde_json::{Map, Value, json};

use super::{ChatOutput, Finish, JsonSchema};
use crate::message::reasoning::visible;
use crate::{Error, ErrorKind, Result};

mod lenient;

/// A schema for an object with these properties, all required, in this order, and no others.
pub(crate) fn schema<'a>(name: &str, properties: impl IntoIterator<Item = (&'a str, Value)>) -> JsonSchema {
    let properties: Map<String, Value> = properties.into_iter().map(|(key, schema)| (key.to_owned(), schema)).collect();
    let required: Vec<&String> = properties.keys().collect();
    let schema =
        json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
    JsonSchema { name: name.to_owned(), schema }
}

/// The sentence that tells a model which keys to write.
pub(crate) fn instruction(schema: &JsonSchema) -> String {
    let noun = if keys(schema).count() == 1 { "key" } else { "keys, in this order" };
    format!("\n\nReply with one JSON object with the {noun} {}.", quoted(schema))
}

/// The object in a reply: all of it, or what stands between the first brace and the last.
///
/// # Errors
/// [`ErrorKind::ModelOutput`] where there is none.
pub(crate) fn object(reply: &str) -> Result<Map<String, Value>> {
    let inner = match (reply.find('{'), reply.rfind('}')) {
        (Some(from), Some(to)) if from < to => &reply[from..=to],
        _ => reply.trim(),
    };
    match serde_json::from_str(inner).or_else(|strict| lenient::parse(inner).map_err(|e| (strict, e))) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(unreadable(reply, &format!("it is {other}"))),
        Err((strict, lenient)) => Err(unreadable(reply, &format!("{strict}; {lenient}"))),
    }
}

/// As [`object`], of a reply with all keys of the schema that was asked for; `limit` names the setting that bounds the
/// reply's length.
///
/// # Errors
/// [`ErrorKind::ModelOutput`] for a reply that was cut off, is no such object, or lacks a key.
pub(crate) fn read(output: &ChatOutput, schema: &JsonSchema, limit: &str) -> Result<Map<String, Value>> {
    let ChatOutput::Text { text, finish, .. } = output else {
        return Err(Error::internal("the model gave numbers where a text was asked for"));
    };
    if matches!(finish, Finish::Length | Finish::Context) {
        return Err(Error::new(
            ErrorKind::ModelOutput,
            format!("the reply was cut off ({}): raise {limit}, or use a model with a longer context", finish.as_str()),
        ));
    }
    // Braces in what it reasoned are not its reply.
    let object = object(visible(text))?;
    match keys(schema).find(|key| !object.contains_key(*key)) {
        None => Ok(object),
        Some(key) => Err(Error::new(
            ErrorKind::ModelOutput,
            format!("{key} in the model's reply is missing: the keys {} were asked for", quoted(schema)),
        )),
    }
}

/// `key` of a reply as a number in [`minimum`, `maximum`]. A number in quotes is one, as for collabllm's parser.
///
/// # Errors
/// [`ErrorKind::ModelOutput`] for anything else.
pub(crate) fn number(object: &Map<String, Value>, key: &str, (minimum, maximum): (f64, f64)) -> Result<f64> {
    let number = match object.get(key) {
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) => text.trim().parse().ok(),
        _ => None,
    };
    let in_range = number.filter(|number| (minimum..=maximum).contains(number));
    in_range.ok_or_else(|| wrong(key, &format!("a number from {minimum} to {maximum}"), object.get(key)))
}

fn keys(schema: &JsonSchema) -> impl Iterator<Item = &String> {
    schema.schema["properties"].as_object().into_iter().flat_map(Map::keys)
}

fn quoted(schema: &JsonSchema) -> String {
    keys(schema).map(|key| format!("\"{key}\"")).collect::<Vec<_>>().join(", ")
}

fn unreadable(reply: &str, why: &str) -> Error {
    let shown: String = reply.chars().take(200).collect();
    Error::new(ErrorKind::ModelOutput, format!("the reply {shown:?} is not the JSON object that was asked for: {why}"))
}

/// The error of an object whose `key` is not what it should be.
pub(crate) fn wrong(key: &str, expected: &str, found: Option<&Value>) -> Error {
    let found = found.map_or("missing".to_owned(), Value::to_string);
    Error::new(ErrorKind::ModelOutput, format!("{key} in the model's reply is {found}: {expected} was asked for"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_found_in_what_surrounds_them() {
        for reply in [r#"{"a": 1}"#, "```json\n{\"a\": 1}\n```", "Sure: {\"a\": 1}. Bye", " \n{\"a\":1}"] {
            assert_eq!(object(reply).unwrap()["a"], 1, "{reply}");
        }
        for reply in ["", "a", "{", "}{", "{\"a\": NaN}", "{\"a\": 1} and {\"b\": 2}", "[1]"] {
            assert_eq!(object(reply).unwrap_err().kind(), ErrorKind::ModelOutput, "{reply}");
        }
    }

    #[test]
    fn numbers_have_to_be_numbers_in_range() {
        let of = |json: &str| number(&object(json).unwrap(), "n", (0.0, 1.0));
        for (json, value) in [(r#"{"n": 0.85}"#, 0.85), (r#"{"n": 1}"#, 1.0), (r#"{"n": " 0.5"}"#, 0.5)] {
            assert_eq!(of(json).unwrap(), value, "{json}");
        }
        for json in [
            r#"{"n": 1.0001}"#,
            r#"{"n": -1}"#,
            r#"{"n": "high"}"#,
            r#"{"n": "nan"}"#,
            r#"{"n": true}"#,
            r#"{"n": null}"#,
            r#"{"n": [1]}"#,
            "{}",
        ] {
            assert_eq!(of(json).unwrap_err().kind(), ErrorKind::ModelOutput, "{json}");
        }
    }

    #[test]
    fn replies_are_read_as_by_the_reference() {
        #[derive(serde::Deserialize)]
        struct Reply {
            reply: String,
            parsed: Option<Value>,
        }
        let replies = include_str!("../../tests/fixtures/collabllm/replies.json");
        let replies: Vec<Reply> = serde_json::from_str(replies).unwrap();
        for Reply { reply, parsed } in replies {
            match (object(&reply), parsed) {
                (Ok(found), Some(parsed)) => assert!(is_same(&Value::Object(found), &parsed), "{reply}"),
                (Err(error), None) => assert_eq!(error.kind(), ErrorKind::ModelOutput),
                (found, parsed) => panic!("{reply}: {found:?}, and the reference has {parsed:?}"),
            }
        }
    }

    /// The reference makes a number or truth value of a text that looks like one; here it stays a text until it is used.
    fn is_same(found: &Value, parsed: &Value) -> bool {
        match (found, parsed) {
            (Value::String(text), Value::Number(_) | Value::Bool(_)) => {
                let spelled = parsed.to_string();
                *text == spelled
            }
            (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
            (Value::Object(a), Value::Object(b)) => {
                a.len() == b.len() && a.iter().all(|(key, value)| b.get(key).is_some_and(|b| is_same(value, b)))
            }
            (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b)),
            _ => found == parsed,
        }
    }

    #[test]
    fn a_schema_keeps_the_order_of_its_keys() {
        let schema = schema("x", [("z", json!({"type": "string"})), ("a", json!({"type": "number"}))]);
        assert_eq!(schema.schema["required"], json!(["z", "a"]));
        assert!(instruction(&schema).ends_with("keys, in this order \"z\", \"a\"."));
    }
}
