//! JSON as models write it: strict but for what they get wrong again and again.
//!
//! Beyond JSON there may be single quotes, text between three quotes (in which nothing is an escape), line breaks inside
//! texts, a comma behind the last entry, numbers such as `.5` and `+1`, and `True` for `true`: all that the parser of
//! collabllm 0.0.8 takes (`tests/fixtures/collabllm/replies.json`). Nothing is guessed: what is left open stays an error.

use serde_json::{Map, Number, Value};

/// Lists and objects inside each other; more is no reply to anything that was asked.
const MAX_DEPTH: usize = 64;

/// The value that `text` is.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let mut reader = Reader { text, at: 0 };
    let value = reader.value(0)?;
    reader.skip_space();
    if reader.at < text.len() { Err(reader.expected("an end")) } else { Ok(value) }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn expected(&self, what: &str) -> String {
        match self.rest().chars().next() {
            Some(found) => format!("expected {what} at byte {}, found {found:?}", self.at),
            None => format!("expected {what} where it ends"),
        }
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start_matches([' ', '\t', '\n', '\r']).len();
    }

    /// Takes `token`, after any white space.
    fn take(&mut self, token: &str) -> bool {
        self.skip_space();
        let there = self.rest().starts_with(token);
        self.at += if there { token.len() } else { 0 };
        there
    }

    fn value(&mut self, depth: usize) -> Result<Value, String> {
        if depth > MAX_DEPTH {
            return Err(format!("more than {MAX_DEPTH} lists and objects inside each other"));
        }
        self.skip_space();
        match self.rest().chars().next() {
            Some('{') => self.object(depth),
            Some('[') => self.list(depth),
            Some('"' | '\'') => self.string().map(Value::String),
            Some(c) if c.is_ascii_alphabetic() => self.word(),
            Some(_) => self.number(),
            None => Err(self.expected("a value")),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, String> {
        let mut object = Map::new();
        self.at += 1;
        while !self.take("}") {
            let key = self.string()?;
            if !self.take(":") {
                return Err(self.expected("a colon"));
            }
            object.insert(key, self.value(depth + 1)?);
            self.separator('}')?;
        }
        Ok(Value::Object(object))
    }

    fn list(&mut self, depth: usize) -> Result<Value, String> {
        let mut list = Vec::new();
        self.at += 1;
        while !self.take("]") {
            list.push(self.value(depth + 1)?);
            self.separator(']')?;
        }
        Ok(Value::Array(list))
    }

    /// A comma, or what closes the list or object, which is left where it is.
    fn separator(&mut self, close: char) -> Result<(), String> {
        if self.take(",") || self.rest().starts_with(close) {
            return Ok(());
        }
        Err(self.expected(&format!("a comma or {close:?}")))
    }

    fn string(&mut self) -> Result<String, String> {
        self.skip_space();
        for (quote, escapes) in [("\"\"\"", false), ("'''", false), ("\"", true), ("'", true)] {
            if self.rest().starts_with(quote) {
                self.at += quote.len();
                return self.quoted(quote, escapes);
            }
        }
        Err(self.expected("a text in quotes"))
    }

    /// The rest of a text that `quote` opened.
    fn quoted(&mut self, quote: &str, escapes: bool) -> Result<String, String> {
        let mut text = String::new();
        loop {
            if self.rest().starts_with(quote) {
                self.at += quote.len();
                return Ok(text);
            }
            let Some(c) = self.rest().chars().next() else { return Err(self.expected("the end of a text")) };
            self.at += c.len_utf8();
            text.push(if c == '\\' && escapes { self.escape()? } else { c });
        }
    }

    /// The character that stands behind a backslash; one without a meaning there stands for itself.
    fn escape(&mut self) -> Result<char, String> {
        let Some(c) = self.rest().chars().next() else { return Err(self.expected("a character after the backslash")) };
        if c == 'u' {
            return self.code_point();
        }
        self.at += c.len_utf8();
        Ok(match c {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'b' => '\u{8}',
            'f' => '\u{c}',
            other => other,
        })
    }

    /// `u` and four digits, or two such for one character.
    fn code_point(&mut self) -> Result<char, String> {
        for length in [11, 5] {
            let escaped = self.rest().get(..length).map(|digits| format!("\"\\{digits}\""));
            let text = escaped.and_then(|quoted| serde_json::from_str::<String>(&quoted).ok()).unwrap_or_default();
            let mut chars = text.chars();
            if let (Some(c), None) = (chars.next(), chars.next()) {
                self.at += length;
                return Ok(c);
            }
        }
        Err(self.expected("a character by its number"))
    }

    fn word(&mut self) -> Result<Value, String> {
        for (word, value) in [("true", Value::Bool(true)), ("false", Value::Bool(false)), ("null", Value::Null)] {
            if self.rest().get(..word.len()).is_some_and(|text| text.eq_ignore_ascii_case(word)) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.expected("a value"))
    }

    fn number(&mut self) -> Result<Value, String> {
        let digits = |c: char| c.is_ascii_digit() || "-+.eE".contains(c);
        let length = self.rest().find(|c| !digits(c)).unwrap_or(self.rest().len());
        let number = self.rest()[..length].parse::<f64>().ok().and_then(Number::from_f64);
        let number = number.ok_or_else(|| self.expected("a number"))?;
        self.at += length;
        Ok(Value::Number(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_models_get_wrong_is_read() {
        for (text, value) in [
            (r#"{'a': "it's", }"#, serde_json::json!({"a": "it's"})),
            ("[\"\"\"two\n\"lines\" \\n\"\"\", '''''']", serde_json::json!(["two\n\"lines\" \\n", ""])),
            ("'a\nb\\n\\q\\'\\u00e9\\ud83c\\udfb2'", serde_json::json!("a\nb\nq'é🎲")),
            ("[.5, +1, -1e-1, True, NULL,]", serde_json::json!([0.5, 1.0, -0.1, true, null])),
        ] {
            assert_eq!(parse(text).unwrap(), value, "{text}");
        }
    }

    #[test]
    fn what_is_open_stays_an_error() {
        for text in
            ["", "{", "{a: 1}", "{\"a\" 1}", "[1 2]", "'a", "\"a\\", "\"\\u12\"", "--1", "1e999", "nan", "é", "1 2"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse(&"[".repeat(100_000)).is_err());
    }
}
