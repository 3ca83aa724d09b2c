//! What every request has: a body, limits, and somebody who waits for the answer.

use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use foreturn::engine::{CancelToken, Limits, Pending};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use crate::failure::{Answer, Failure};

/// Seconds from the request's arrival, such as `0.15`.
const TIMEOUT: HeaderName = HeaderName::from_static("x-timeout");
/// An integer; higher goes first.
const PRIORITY: HeaderName = HeaderName::from_static("x-priority");

/// Reads a body. Errors name the field.
pub(crate) fn body<T: DeserializeOwned>(bytes: &Bytes) -> Answer<T> {
    let refused = |why: String| Failure::refused(format!("the body is not what this route takes: {why}"));
    let text = std::str::from_utf8(bytes).map_err(|error| refused(error.to_string()))?;
    foreturn::json::parse_strictly(text).map_err(|error| refused(error.to_string()))
}

/// What stands behind the `?` of an address.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Chosen {
    /// The model's name in the configuration.
    pub(crate) model: Option<String>,
}

impl<S: Sync> FromRequestParts<S> for Chosen {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Answer<Self> {
        let read = Query::try_from_uri(&parts.uri).map(|Query(chosen)| chosen);
        read.map_err(|error| Failure::refused(format!("the address may end with ?model=NAME: {}", error.body_text())))
    }
}

/// A text or several.
#[derive(Deserialize, JsonSchema, Clone)]
#[serde(untagged, expecting = "a text, or a list of texts")]
pub(crate) enum Strings {
    One(String),
    Several(Vec<String>),
}

impl Strings {
    pub(crate) fn list(self) -> Vec<String> {
        match self {
            Strings::One(text) => vec![text],
            Strings::Several(texts) => texts,
        }
    }
}

/// A request's limits. Dropping it cancels the request, so a caller who hangs up frees its place.
pub(crate) struct Caller {
    cancel: CancelToken,
    timeout: Option<Duration>,
    priority: i32,
    since: Instant,
}

impl Caller {
    pub(crate) fn new(headers: &HeaderMap) -> Answer<Self> {
        let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?").trim().to_owned());
        let wrong =
            |name: &HeaderName, text: &str, right: &str| Failure::refused(format!("{name} is {text:?}: it is {right}"));
        let timeout = text(&TIMEOUT).map(|text| {
            let seconds = text.parse::<f64>().ok().filter(|seconds| *seconds > 0.0);
            seconds
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
                .ok_or_else(|| wrong(&TIMEOUT, &text, "a number of seconds above 0, such as 0.15"))
        });
        let priority =
            text(&PRIORITY).map(|text| text.parse().map_err(|_| wrong(&PRIORITY, &text, "an integer of 32 bits")));
        Ok(Caller {
            cancel: CancelToken::new(),
            since: Instant::now(),
            timeout: timeout.transpose()?,
            priority: priority.transpose()?.unwrap_or_default(),
        })
    }

    /// True if its time is over.
    pub(crate) fn is_late(&self) -> bool {
        self.timeout.is_some_and(|timeout| self.since.elapsed() >= timeout)
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits { timeout: self.timeout, cancel: Some(self.cancel.clone()), priority: self.priority }
    }

    /// Waits for a result without a thread.
    pub(crate) async fn wait<T: Send + 'static>(&self, pending: foreturn::Result<Pending<T>>) -> Answer<T> {
        let (give, take) = oneshot::channel();
        // A full queue is met here, and answered by 429: nothing was done yet.
        pending?.on_ready(move |result| {
            // Nobody waits any more if the caller hung up.
            let _ = give.send(result);
        });
        let closed = || foreturn::Error::new(foreturn::ErrorKind::Closed, "the engine was closed");
        take.await.unwrap_or_else(|_| Err(closed())).map_err(Failure::of_result)
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn bodies_are_json_as_other_programs_write_it() {
        assert_eq!(body::<Value>(&Bytes::from("\u{feff}[1]")).ok(), Some(json!([1])));
        for (text, part) in [
            (&b"[NaN]"[..], "it has NaN or Infinity, which Python writes"),
            (b"\xff\xfe[\0]\0", "invalid utf-8"),
            (b"[1", "line 1 column 2"),
        ] {
            let failure = body::<Value>(&Bytes::from(text)).expect_err("no JSON");
            let said = serde_json::to_string(&failure.document()).unwrap();
            assert!(said.contains("the body is not what this route takes") && said.contains(part), "{said}");
        }
    }
}
