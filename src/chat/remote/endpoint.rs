//! A remote model's address and settings, and the secrets that must not be passed on.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{Decisions, JsonMode, MaxTokensField, OnEchoedKey};
use crate::error::foreign;
use crate::{Error, ErrorKind};

/// Maximum number of characters of a server's own words in an error.
const MAX_QUOTED: usize = 300;
/// A key of at least this many characters can't be a word of ordinary text.
const LONG_KEY: usize = 16;
/// Shorter values of headers are not secrets ("1", "beta").
const SHORTEST_SECRET_HEADER: usize = 8;

/// A remote model's settings, resolved.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) name: Arc<str>,
    /// Without a slash at its end.
    pub(crate) base_url: String,
    pub(crate) model: String,
    pub(crate) key: Option<Secret>,
    pub(crate) headers: Vec<(String, Secret)>,
    /// Timeout of one request, from the first byte to the last.
    pub(crate) timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) max_retries: u32,
    pub(crate) max_concurrent: usize,
    pub(crate) requests_per_minute: Option<u32>,
    pub(crate) max_tokens_field: MaxTokensField,
    pub(crate) send_seed: bool,
    pub(crate) logprobs: bool,
    pub(crate) decisions: Decisions,
    pub(crate) json_mode: JsonMode,
    pub(crate) on_echoed_key: OnEchoedKey,
    pub(crate) extensions: Extensions,
}

/// The settings beyond OpenAI's protocol that were given. They are sent even if they say "off".
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Extensions {
    pub(crate) top_k: bool,
    pub(crate) min_p: bool,
    pub(crate) repetition_penalty: bool,
}

/// The part of an endpoint that a request goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    ChatCompletions,
    Decisions,
}

impl Endpoint {
    pub(super) fn url(&self, route: Route) -> String {
        match route {
            Route::ChatCompletions => format!("{}/chat/completions", self.base_url),
            Route::Decisions => format!("{}/decisions", self.base_url),
        }
    }

    pub(super) fn is_https(&self) -> bool {
        self.base_url.starts_with("https://")
    }

    /// Host and port.
    pub(super) fn host(&self) -> &str {
        let rest = self.base_url.split_once("://").map_or(&*self.base_url, |(_, rest)| rest);
        rest.split('/').next().unwrap_or(rest)
    }

    /// An error that names the model that failed and its address. Words of the server in `what` come from
    /// [`Endpoint::quote`].
    pub(super) fn error(&self, kind: ErrorKind, what: &str) -> Error {
        Error::new(kind, format!("model `{}` at {}: {what}", self.name, self.host()))
    }

    /// A text from outside without the secrets that were sent there, because servers quote what they receive. Only for
    /// messages and names: a reply is content and stays as it came.
    pub(super) fn scrub(&self, text: &str) -> String {
        let headers = self.headers.iter().map(|(_, value)| value);
        let secrets = self.key.iter().chain(headers.filter(|value| value.0.len() >= SHORTEST_SECRET_HEADER));
        secrets.fold(text.to_owned(), |text, secret| secret.cut_from(&text))
    }

    /// Whether a text contains the key, if it is too long to occur by chance. ("EMPTY" and "none" are words.)
    pub(super) fn is_echo(&self, text: &str) -> bool {
        self.key.as_ref().is_some_and(|key| key.0.len() >= LONG_KEY && text.contains(&key.0))
    }

    /// The beginning of a server's words on one line, without secrets.
    pub(super) fn quote(&self, text: &str) -> String {
        // Scrubbed before it is cut, because otherwise half a key could remain.
        foreign::quoted(&self.scrub(text), MAX_QUOTED)
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

    /// A text without it. A secret that may be a word, or a part of one, is removed only if it stands by itself: with
    /// the key "x", "text" stays "text".
    fn cut_from(&self, text: &str) -> String {
        let in_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
        let mut out = String::new();
        let mut rest = 0;
        for (at, found) in text.match_indices(&*self.0) {
            let end = at + found.len();
            let alone = !text[..at].ends_with(in_word) && !text[end..].starts_with(in_word);
            if alone || self.0.len() >= LONG_KEY {
                out.push_str(&text[rest..at]);
                out.push_str("[secret]");
                rest = end;
            }
        }
        out.push_str(&text[rest..]);
        out
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
            decisions: Decisions::None,
            json_mode: JsonMode::JsonSchema,
            on_echoed_key: OnEchoedKey::Note,
            extensions: Extensions::default(),
        }
    }

    #[test]
    fn quotes_are_short_and_without_secrets() {
        let endpoint = endpoint();
        // A cut before the key is removed would leave half of it.
        let quoted = endpoint.quote(&format!("{}\n 1 sk-0123456789 {}", "a".repeat(290), "b".repeat(100)));
        assert_eq!(quoted, format!("{} 1 [secret…", "a".repeat(290)));
        assert!(!format!("{endpoint:?}").contains("0123"));
    }

    #[test]
    fn keys_are_cut_out_of_messages_but_not_out_of_words() {
        let mut endpoint = endpoint();
        for (key, text, quoted) in [
            ("x", "no model xl for x: next (x) \"x\"", "no model xl for [secret]: next ([secret]) \"[secret]\""),
            ("EMPTY", "key EMPTY, NONEMPTY, EMPTY_LIST", "key [secret], NONEMPTY, EMPTY_LIST"),
            ("ollama", "Bearer ollama at ollama/api, ollamas", "Bearer [secret] at [secret]/api, ollamas"),
            ("test", "the latest test-run of test", "the latest test-run of [secret]"),
            ("none", "none of nonesuch", "[secret] of nonesuch"),
            ("sk-0123456789", "key=sk-0123456789.", "key=[secret]."),
            ("sk-0123456789abcdef", "akeysk-0123456789abcdefs", "akey[secret]s"),
        ] {
            endpoint.key = Some(Secret::new(key.into()));
            assert_eq!(endpoint.quote(text), quoted, "{key}");
            assert_eq!(endpoint.is_echo(text), key.len() >= 16, "{key}");
            // Our own words are not the server's.
            let ours = endpoint.error(ErrorKind::Io, "none of the next test, EMPTY x ollama");
            assert!(!ours.to_string().contains("secret"), "{ours}");
        }
        endpoint.headers = vec![("x-org".into(), Secret::new("secret-project".into()))];
        assert_eq!(endpoint.quote("of secret-project and 1"), "of [secret] and 1");
    }
}
