//! JSON as other programs write it: with a byte order mark, and with the `NaN` and `Infinity` of Python's `json`.
//!
//! All JSON of foreign files and requests is read here. It is public only for the crates beside this one.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

use crate::mistaken;

/// The reason why something is not the expected JSON.
#[derive(Debug)]
pub struct Wrong {
    /// The kind of file, if it is a well-known one.
    what: Option<&'static str>,
    error: serde_json::Error,
}

impl fmt::Display for Wrong {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.what {
            Some(what) => write!(formatter, "it {what} ({})", self.error),
            None => self.error.fmt(formatter),
        }
    }
}

impl Wrong {
    /// Tells whether the document only lacks its end.
    pub(crate) fn is_cut_off(&self, document: &[u8]) -> bool {
        // serde_json calls `-` and `1e` at the end invalid numbers, although the rest of a number may be missing.
        let last = document.rsplit(|byte| matches!(byte, b':' | b',' | b'[')).next().unwrap_or_default().trim_ascii();
        let within_number =
            matches!(last, [b'-' | b'0'..=b'9', ..]) && matches!(last, [.., b'-' | b'+' | b'.' | b'e' | b'E']);
        let is_read = self.what.is_none() || document.trim_ascii().is_empty();
        is_read && (self.error.is_eof() || (within_number && self.error.column() >= document.len()))
    }

    /// The name of the last field before the place of the error, if the document is one line.
    pub(crate) fn near<'a>(&self, document: &'a [u8]) -> Option<&'a str> {
        let before = document.get(..self.error.column()).filter(|_| self.what.is_none() && self.error.line() == 1)?;
        let (mut quote, mut name, mut at) = (None, None, 0);
        while at < before.len() {
            match (before[at], quote) {
                (b'\\', Some(_)) => at += 1,
                (b'"', None) => quote = Some(at + 1),
                (b'"', Some(start)) => {
                    quote = None;
                    let is_name = before[at + 1..].trim_ascii_start().starts_with(b":");
                    name = if is_name { Some(&before[start..at]) } else { name };
                }
                _ => {}
            }
            at += 1;
        }
        std::str::from_utf8(name?).ok()
    }
}

impl std::error::Error for Wrong {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Reads a document.
///
/// Python's constants are ignored in fields that are not read. In a field that is read, they are an error.
///
/// # Errors
/// It is not JSON, or not of the expected form.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Wrong> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    serde_json::from_slice(bytes).or_else(|error| match without_constants(bytes) {
        Cow::Owned(plain) if error.is_syntax() => {
            serde_json::from_slice(&plain).map_err(|error| match error.is_data() {
                true => Wrong { what: Some(CONSTANTS_READ), error },
                false => wrong(bytes, error),
            })
        }
        _ => Err(wrong(bytes, error)),
    })
}

/// Like [`parse`], for types that read all fields, where a text instead of a number would go unnoticed. Python's
/// constants are refused.
///
/// # Errors
/// As [`parse`].
pub fn parse_strictly<T: DeserializeOwned>(text: &str) -> Result<T, Wrong> {
    let bytes = text.strip_prefix('\u{feff}').unwrap_or(text).as_bytes();
    serde_json::from_slice(bytes).map_err(|error| match without_constants(bytes) {
        // If nothing else is wrong.
        Cow::Owned(plain) if serde_json::from_slice::<IgnoredAny>(&plain).is_ok() => {
            Wrong { what: Some(CONSTANTS_READ), error }
        }
        _ => wrong(bytes, error),
    })
}

/// The error for a constant of Python in a field that is read.
const CONSTANTS_READ: &str =
    "has NaN or Infinity, which Python writes and JSON does not have: write null or a text instead";

fn wrong(bytes: &[u8], error: serde_json::Error) -> Wrong {
    Wrong { what: mistaken::recognise(bytes), error }
}

/// What Python's `json` writes, and JSON does not have.
const CONSTANTS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// The document with an object in the place of each of Python's constants. No field that is read accepts an object,
/// whereas a text could be a prompt, and null an absent number.
pub(crate) fn without_constants(bytes: &[u8]) -> Cow<'_, [u8]> {
    let mut plain = Vec::new();
    let (mut at, mut copied, mut quoted) = (0, 0, false);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => quoted = !quoted,
            b'\\' if quoted => at += 1,
            b'-' | b'I' | b'N' if !quoted => {
                if let Some(constant) = CONSTANTS.iter().find(|constant| bytes[at..].starts_with(constant.as_bytes())) {
                    plain.extend_from_slice(&bytes[copied..at]);
                    plain.extend([b"{\"", constant.as_bytes(), b"\":null}"].concat());
                    at += constant.len();
                    copied = at;
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    if copied == 0 {
        return Cow::Borrowed(bytes);
    }
    plain.extend_from_slice(&bytes[copied..]);
    Cow::Owned(plain)
}

/// A value as the document has it, Python's constants included.
pub(crate) fn shown(value: &Value) -> String {
    // Quotes inside a text are escaped, so that this is no text.
    CONSTANTS.iter().fold(value.to_string(), |text, name| text.replace(&format!("{{\"{name}\":null}}"), name))
}

/// Numbers that may have been NaN or infinite when they were written: serde_json writes null for these, and they are read as
/// NaN. For `deserialize_with`.
pub(crate) mod null_is_nan {
    use serde::{Deserialize, Deserializer};

    fn nan(number: Option<f64>) -> f64 {
        number.unwrap_or(f64::NAN)
    }

    pub(crate) fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Option::deserialize(deserializer).map(nan)
    }

    pub(crate) fn pair<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<[f64; 2]>, D::Error> {
        Ok(Option::<[Option<f64>; 2]>::deserialize(deserializer)?.map(|pair| pair.map(nan)))
    }

    pub(crate) fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<f64>>, D::Error> {
        Ok(Option::<Vec<_>>::deserialize(deserializer)?.map(|list| list.into_iter().map(nan).collect()))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[test]
    fn pythons_constants_and_byte_order_marks_are_read() {
        let text = "\u{feff}{\"a\": [NaN, -Infinity, Infinity], \"NaN\": \"\\\"Infinity\", \"b\": -1}";
        let value: Value = parse(text.as_bytes()).unwrap();
        assert_eq!(
            value,
            json!({"a": [{"NaN": null}, {"-Infinity": null}, {"Infinity": null}], "NaN": "\"Infinity", "b": -1})
        );
        assert_eq!(shown(&value), "{\"a\":[NaN,-Infinity,Infinity],\"NaN\":\"\\\"Infinity\",\"b\":-1}");
        let text = json!({"a": "{\"NaN\":null}"});
        assert_eq!(shown(&text), text.to_string());
    }

    #[test]
    fn a_value_that_is_wanted_is_refused() {
        #[derive(Debug, Deserialize)]
        struct Wanted {
            #[allow(dead_code, reason = "only whether it can be read matters")]
            a: Option<f64>,
            #[allow(dead_code, reason = "only whether it can be read matters")]
            b: String,
        }
        for text in ["{\"a\": NaN, \"b\": \"\"}", "{\"a\": 1, \"b\": NaN}"] {
            let error = parse::<Wanted>(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("it has NaN or Infinity"), "{error}");
        }
    }

    #[test]
    fn what_is_read_in_all_of_its_fields_has_no_constants() {
        assert_eq!(parse_strictly::<Value>("\u{feff}[1]").unwrap(), json!([1]));
        let error = parse_strictly::<Value>("[1, NaN]").unwrap_err().to_string();
        assert!(error.contains("it has NaN or Infinity") && error.contains("column 5"), "{error}");
        let error = parse_strictly::<Value>("[1, NaN").unwrap_err().to_string();
        assert!(!error.contains("Infinity") && error.contains("line 1 column"), "{error}");
    }

    #[test]
    fn what_is_no_json_is_said_where_and_what_it_is() {
        let error = |bytes: &[u8]| parse::<Value>(bytes).unwrap_err().to_string();
        assert!(error(b"{\"a\": Nay}").contains("line 1 column"), "{}", error(b"{\"a\": Nay}"));
        assert!(error(b"[NaN, nan]").contains("line 1 column"));
        assert!(error(b"\xff\xfe[\0]\0").contains("it is UTF-16"));
        assert!(error(b" \n").contains("it is empty"));
        assert!(error(&[0; 9]).contains("it begins with nothing but zeros"));
        assert!(error(b"version https://git-lfs.github.com/spec/v1\n").contains("git lfs pull"));
    }
}
