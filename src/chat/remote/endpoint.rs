//! Where a remote model is, what it is told, and what must not be told on.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{JsonMode, MaxTokensField};
use crate::{Error, ErrorKind};

/// Most characters of a server's own words in an error.
const MAX_QUOTED: usize = 300;

/// A remote model's settings, resolved.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) name: Arc<str>,
    /// Without a slash at its end.
    pub(crate) base_url: String,
    pub(crate) model: String,
    pub(crate) key: Option<Secret>,
    pub(crate) headers: Vec<(String, Secret)>,
    /// Of one request, from the first byte to the last.
    pub(crate) timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) max_retries: u32,
    pub(crate) max_concurrent: usize,
    pub(crate) requests_per_minute: Option<u32>,
    pub(crate) max_tokens_field: MaxTokensField,
    pub(crate) send_seed: bool,
    pub(crate) logprobs: bool,
    pub(crate) json_mode: JsonMode,
    pub(crate) extensions: Extensions,
}

/// Which settings beyond OpenAI's protocol were given, and so are sent even where they say "off".
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Extensions {
    pub(crate) top_k: bool,
    pub(crate) min_p: bool,
    pub(crate) repetition_penalty: bool,
}

impl Endpoint {
    pub(super) fn url(&self) -> String {
        format!("{}/chat/completions", self.base_url)
    }

    pub(super) fn is_https(&self) -> bool {
        self.base_url.starts_with("https://")
    }

    /// Host and port.
    pub(super) fn host(&self) -> &str {
        let rest = self.base_url.split_once("://").map_or(&*self.base_url, |(_, rest)| rest);
        rest.split('/').next().unwrap_or(rest)
    }

    /// An error that says which model failed, and where it is.
    pub(super) fn error(&self, kind: ErrorKind, what: &str) -> Error {
        Error::new(kind, format!("model `{}` at {}: {}", self.name, self.host(), self.scrub(what)))
    }

    /// A text from outside without the secrets that were sent there: servers quote what they were sent.
    pub(crate) fn scrub(&self, text: &str) -> String {
        let secrets = self.key.iter().chain(self.headers.iter().map(|(_, value)| value));
        // Short values are no secrets ("1", "beta"), and taking them out would garble the text.
        let secrets = secrets.map(Secret::reveal).filter(|secret| secret.len() >= 8);
        secrets.fold(text.to_owned(), |text, secret| text.replace(secret, "[secret]"))
    }

    /// A reply's text without the key, which an endpoint might say back; other texts of ours may be words of the reply.
    pub(super) fn without_key(&self, text: String) -> String {
        match &self.key {
            Some(key) if text.contains(key.reveal()) => text.replace(key.reveal(), "[secret]"),
            _ => text,
        }
    }

    /// The beginning of a server's words on one line, without secrets.
    pub(super) fn quote(&self, text: &str) -> String {
        // Scrubbed before it is cut, or half a key would pass.
        let words = self.scrub(text).split_whitespace().collect::<Vec<_>>().join(" ");
        match words.char_indices().nth(MAX_QUOTED) {
            None => words,
            Some((at, _)) => format!("{}…", &words[..at]),
        }
    }
}

/// A key, or a header that may be one. Not shown by `Debug`.
#[derive(Clone)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(text: String) -> Self {
        Secret(text)
    }

    /// The text itself, for the one place that sends it.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn endpoint() -> Endpoint {
        Endpoint {
            name: "judge".into(),
            base_url: "http://localhost:8000/v1".into(),
            model: "big".into(),
            key: Some(Secret::new("sk-0123456789".into())),
            headers: vec![("x-org".into(), Secret::new("1".into()))],
            timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(1),
            max_retries: 3,
            max_concurrent: 8,
            requests_per_minute: None,
            max_tokens_field: MaxTokensField::MaxTokens,
            send_seed: true,
            logprobs: true,
            json_mode: JsonMode::JsonSchema,
            extensions: Extensions::default(),
        }
    }

    #[test]
    fn quotes_are_short_and_without_secrets() {
        let endpoint = endpoint();
        // A cut before the key is out would leave half of it.
        let quoted = endpoint.quote(&format!("{}\n 1 sk-0123456789 {}", "a".repeat(290), "b".repeat(100)));
        assert_eq!(quoted, format!("{} 1 [secret…", "a".repeat(290)));
        let error = endpoint.error(ErrorKind::Io, "sent sk-0123456789");
        assert_eq!(error.to_string(), "model `judge` at localhost:8000: sent [secret]");
        assert!(!format!("{endpoint:?}").contains("0123"));
    }
}
