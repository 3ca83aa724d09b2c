//! Replies that are JSON objects: what is asked for, and how it is read.
//!
//! Local models are held to the schema while they write. Endpoints may not be, and wrap the object in a fence or in words;
//! so the object is looked for, but nothing is guessed: what doesn't parse is a failure.

use serde_json::{Map, Value, json};

use crate::chat::JsonSchema;
use crate::{Error, ErrorKind, Result};

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
    let properties = schema.schema["properties"].as_object();
    let keys: Vec<String> = properties.into_iter().flat_map(Map::keys).map(|key| format!("\"{key}\"")).collect();
    let noun = if keys.len() == 1 { "key" } else { "keys, in this order" };
    format!("\n\nReply with one JSON object with the {noun} {}.", keys.join(", "))
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
    match serde_json::from_str(inner) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(unreadable(reply, &format!("it is {other}"))),
        Err(e) => Err(unreadable(reply, &e.to_string())),
    }
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
    fn a_schema_keeps_the_order_of_its_keys() {
        let schema = schema("x", [("z", json!({"type": "string"})), ("a", json!({"type": "number"}))]);
        assert_eq!(schema.schema["required"], json!(["z", "a"]));
        assert!(instruction(&schema).ends_with("keys, in this order \"z\", \"a\"."));
    }
}
