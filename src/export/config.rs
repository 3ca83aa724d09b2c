//! A checkpoint's hyper-parameters: `config.json`, or the metadata of a GGUF file under the same field names.

use std::collections::HashMap;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::files::{self, Kind};
use crate::{Error, Result, json};

/// A larger size means that the file is damaged or hostile: no layer is that wide, and no model has that many
/// positions.
const LARGEST_SIZE: u64 = 1 << 24;

/// Named hyper-parameters that remember where each came from, so that a message can say it.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// The file as the user knows it.
    file: String,
    fields: Map<String, Value>,
    /// The name that `file` gives a field, where it is another than the field's own.
    origins: HashMap<String, String>,
}

/// Reads a JSON file of a checkpoint.
pub(super) fn parse<T: DeserializeOwned>(path: &Path) -> Result<T> {
    json::parse(&files::read(path, Kind::CONFIG)?).map_err(|error| {
        Error::invalid_model(format!("{} is not the JSON it should be: {error}", path.display())).with_source(error)
    })
}

impl Config {
    /// The fields of the file at `path`.
    pub(super) fn read(path: &Path) -> Result<Self> {
        Config::from_json(&path.display().to_string(), &files::read(path, Kind::CONFIG)?)
    }

    /// The fields of the file at `path`, if there is one.
    pub(super) fn read_if_present(path: &Path) -> Result<Option<Self>> {
        path.exists().then(|| Config::read(path)).transpose()
    }

    /// The fields of a `config.json`.
    pub(crate) fn from_json(file: &str, text: &[u8]) -> Result<Self> {
        let value: Value = json::parse(text)
            .map_err(|error| Error::invalid_model(format!("{file} is not valid JSON: {error}")).with_source(error))?;
        match value {
            Value::Object(fields) => Ok(Config { file: file.to_owned(), fields, origins: HashMap::new() }),
            _ => Err(Error::invalid_model(format!("{file} does not hold a JSON object"))),
        }
    }

    /// All fields, as a file.
    pub(super) fn to_json(&self) -> Vec<u8> {
        json::shown(&Value::Object(self.fields.clone())).into_bytes()
    }

    /// No fields yet; [`Config::set`] adds them.
    pub(super) fn empty(file: &str) -> Self {
        Config { file: file.to_owned(), fields: Map::new(), origins: HashMap::new() }
    }

    /// Sets `field`, which the file calls `origin`.
    pub(super) fn set(&mut self, field: &str, origin: &str, value: impl Into<Value>) {
        self.fields.insert(field.to_owned(), value.into());
        self.origins.insert(field.to_owned(), origin.to_owned());
    }

    pub(super) fn file(&self) -> &str {
        &self.file
    }

    /// The value of `field`; JSON's null counts as absent.
    pub(super) fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    /// All fields and their values.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.fields.iter()
    }

    /// Returns whether the file has `field`, even as null.
    pub(super) fn names(&self, field: &str) -> bool {
        self.fields.contains_key(field)
    }

    /// The name that the file gives `field`, for messages.
    pub(super) fn name_of<'a>(&'a self, field: &'a str) -> &'a str {
        self.origins.get(field).map_or(field, String::as_str)
    }

    /// "`file`: `field` is `value`, but …": the shape of every complaint about a value.
    pub(super) fn bad_value(&self, field: &str, complaint: &str) -> Error {
        Error::invalid_model(self.describe(field, complaint))
    }

    /// As [`Config::bad_value`], for a value that makes sense but can't be exported.
    pub(super) fn unsupported(&self, field: &str, complaint: &str) -> Error {
        Error::unsupported(self.describe(field, complaint))
    }

    fn describe(&self, field: &str, complaint: &str) -> String {
        let name = self.name_of(field);
        match self.get(field) {
            Some(value) => format!("{}: `{name}` is {}: {complaint}", self.file, shortened(value)),
            None => format!("{}: `{name}` is missing: {complaint}", self.file),
        }
    }

    /// A required size: a positive integer.
    pub(super) fn size(&self, field: &str) -> Result<usize> {
        match self.get(field) {
            Some(Value::Number(number)) => match number.as_u64() {
                Some(size @ 1..=LARGEST_SIZE) => Ok(size as usize),
                _ => Err(self.bad_value(field, &format!("expected an integer from 1 to {LARGEST_SIZE}"))),
            },
            _ => Err(self.bad_value(field, "expected a positive integer")),
        }
    }

    /// A size that `default` stands in for when it is absent.
    pub(super) fn size_or(&self, field: &str, default: usize) -> Result<usize> {
        if self.get(field).is_none() { Ok(default) } else { self.size(field) }
    }

    /// A count, which unlike a size may be zero, that `default` stands in for when it is absent.
    pub(super) fn count_or(&self, field: &str, default: usize) -> Result<usize> {
        match self.get(field).map(Value::as_u64) {
            None => Ok(default),
            Some(Some(count @ 0..=LARGEST_SIZE)) => Ok(count as usize),
            Some(_) => Err(self.bad_value(field, &format!("expected an integer from 0 to {LARGEST_SIZE}"))),
        }
    }

    /// A size that `default` stands in for when it is absent; an explicit null means none.
    pub(super) fn size_unless_null(&self, field: &str, default: Option<usize>) -> Result<Option<usize>> {
        match self.fields.get(field) {
            None => Ok(default),
            Some(Value::Null) => Ok(None),
            Some(_) => self.size(field).map(Some),
        }
    }

    /// As [`Config::size_unless_null`], for a positive, finite number.
    pub(super) fn positive_unless_null(&self, field: &str, default: Option<f64>) -> Result<Option<f64>> {
        match self.fields.get(field) {
            None => Ok(default),
            Some(Value::Null) => Ok(None),
            Some(_) => self.positive_or(field, 1.0).map(Some),
        }
    }

    /// A flag that `default` stands in for when it is absent.
    pub(super) fn flag_or(&self, field: &str, default: bool) -> Result<bool> {
        match self.get(field) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.bad_value(field, "expected true or false")),
        }
    }

    /// A positive, finite number that `default` stands in for when it is absent.
    pub(super) fn positive_or(&self, field: &str, default: f64) -> Result<f64> {
        match self.get(field) {
            None => Ok(default),
            Some(value) => match value.as_f64() {
                Some(number) if number > 0.0 && number.is_finite() => Ok(number),
                _ => Err(self.bad_value(field, "expected a positive number")),
            },
        }
    }

    /// The object under `field` as a config of its own, whose messages say `field.inner`.
    pub(super) fn object(&self, field: &str) -> Result<Option<Config>> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(Config {
                file: self.file.clone(),
                fields: fields.clone(),
                origins: fields.keys().map(|key| (key.clone(), format!("{}.{key}", self.name_of(field)))).collect(),
            })),
            Some(_) => Err(self.bad_value(field, "expected an object")),
        }
    }

    /// The token ids under `field`: an integer or a list of them. Old files write -1 for "none".
    pub(super) fn token_ids(&self, field: &str) -> Result<Vec<u64>> {
        let ids = match self.get(field) {
            None => return Ok(Vec::new()),
            Some(Value::Array(ids)) => ids.as_slice(),
            Some(id) => std::slice::from_ref(id),
        };
        let wrong = || self.bad_value(field, "expected a token id or a list of token ids");
        let ids: Vec<i64> = ids.iter().map(|id| id.as_i64().ok_or_else(wrong)).collect::<Result<_>>()?;
        Ok(ids.into_iter().filter_map(|id| u64::try_from(id).ok()).collect())
    }
}

/// A value as a message shows it, cut off because a hostile file must not flood the terminal.
fn shortened(value: &Value) -> String {
    let text = json::shown(value);
    if text.chars().count() <= 80 { text } else { text.chars().take(77).chain("...".chars()).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config::from_json("config.json", text.as_bytes()).expect("valid JSON")
    }

    #[test]
    fn messages_name_file_field_and_value() {
        let error = config(r#"{"hidden_size": -3}"#).size("hidden_size").unwrap_err();
        assert_eq!(error.to_string(), "config.json: `hidden_size` is -3: expected an integer from 1 to 16777216");
        let error = config("{}").size("hidden_size").unwrap_err();
        assert_eq!(error.to_string(), "config.json: `hidden_size` is missing: expected a positive integer");
    }

    #[test]
    fn pythons_constants_are_shown_and_written_as_they_were() {
        let config = config(r#"{"rms_norm_eps": NaN, "stats": [Infinity]}"#);
        let error = config.size("rms_norm_eps").unwrap_err().to_string();
        assert_eq!(error, "config.json: `rms_norm_eps` is NaN: expected a positive integer");
        assert_eq!(config.to_json(), br#"{"rms_norm_eps":NaN,"stats":[Infinity]}"#);
    }

    #[test]
    fn null_means_none_where_absence_means_the_default() {
        let config = config(r#"{"null": null, "seven": 7, "text": "x"}"#);
        assert_eq!(config.size_unless_null("absent", Some(3)).unwrap(), Some(3));
        assert_eq!(config.size_unless_null("null", Some(3)).unwrap(), None);
        assert_eq!(config.size_unless_null("seven", None).unwrap(), Some(7));
        assert_eq!(config.positive_unless_null("absent", Some(0.5)).unwrap(), Some(0.5));
        assert_eq!(config.positive_unless_null("null", Some(0.5)).unwrap(), None);
        assert!(config.size_unless_null("text", None).is_err() && config.positive_unless_null("text", None).is_err());
        assert_eq!((config.count_or("absent", 28).unwrap(), config.count_or("seven", 28).unwrap()), (28, 7));
    }

    #[test]
    fn an_origin_replaces_the_field_in_messages() {
        let mut config = Config::empty("m.gguf");
        config.set("hidden_size", "llama.embedding_length", 0);
        assert!(
            config.size("hidden_size").unwrap_err().to_string().starts_with("m.gguf: `llama.embedding_length` is 0")
        );
    }

    #[test]
    fn nested_objects_name_the_whole_path() {
        let scaling = config(r#"{"rope_scaling": {"factor": "x"}}"#).object("rope_scaling").unwrap().unwrap();
        let error = scaling.positive_or("factor", 1.0).unwrap_err();
        assert!(error.to_string().contains("`rope_scaling.factor` is \"x\""), "{error}");
    }

    #[test]
    fn token_ids_come_alone_or_in_a_list() {
        let config = config(r#"{"a": 3, "b": [1, 2], "c": null, "d": [1, "x"], "e": -1}"#);
        assert_eq!(config.token_ids("a").unwrap(), [3]);
        assert_eq!(config.token_ids("b").unwrap(), [1, 2]);
        assert_eq!(config.token_ids("c").unwrap(), Vec::<u64>::new());
        assert!(config.token_ids("d").is_err());
        assert_eq!(config.token_ids("e").unwrap(), Vec::<u64>::new());
    }
}
