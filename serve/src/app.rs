//! What all requests share, and which route answers what.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use foreturn::Engine;
use foreturn::config::ModelConfig;
use foreturn::engine::{Model, Pin};
use foreturn::runtime::BuildInfo;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;
use tokio::task::AbortHandle;

use crate::bodies::Bodies;
use crate::failure::{Answer, Failure, done};
use crate::keys::Keys;
use crate::stream::Logged;

/// The engine and what belongs to it.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) engine: Engine,
    /// The configuration of each model: its limits and its sampling.
    pub(crate) models: Arc<HashMap<String, ModelConfig>>,
    /// Prefixes that are kept in the cache for a while, by the number of `/v1/warm`.
    pub(crate) pins: Arc<Mutex<HashMap<u64, Kept>>>,
    pub(crate) numbers: Arc<AtomicU64>,
    /// Set once the server ends: new requests are refused.
    pub(crate) ending: Arc<AtomicBool>,
    keys: Option<Keys>,
    logs: bool,
    bodies: Bodies,
}

/// A prefix that is kept, and the task that ends its time.
pub(crate) struct Kept {
    pub(crate) pin: Pin,
    pub(crate) end: AbortHandle,
}

impl App {
    pub(crate) fn pins(&self) -> MutexGuard<'_, HashMap<u64, Kept>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bodies have at most `max_body` bytes.
    pub(crate) fn new(
        engine: Engine,
        models: HashMap<String, ModelConfig>,
        keys: Option<Keys>,
        logs: bool,
        max_body: usize,
    ) -> Self {
        App {
            engine,
            models: Arc::new(models),
            pins: Arc::default(),
            numbers: Arc::default(),
            ending: Arc::default(),
            keys,
            logs,
            bodies: Bodies::new(max_body),
        }
    }

    /// A model by its name.
    pub(crate) fn model(&self, name: &str) -> Answer<Model> {
        self.engine.model(name).map_err(|error| Failure::unknown(error.to_string()))
    }
}

/// The process answers.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Health {
    status: &'static str,
}

/// Requests are taken.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Ready {
    status: &'static str,
    /// The version of the server.
    version: &'static str,
}

/// The media type of OpenMetrics.
pub(crate) const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(crate) async fn health() -> Response {
    done(&Health { status: "ok" })
}

/// Ready until the server ends. The models are loaded before it listens.
pub(crate) async fn ready(State(app): State<App>) -> Response {
    if app.ending.load(Ordering::Acquire) {
        return ending().into_response();
    }
    done(&Ready { status: "ready", version: BuildInfo::here().version })
}

/// OpenMetrics. Reading them waits for no step.
pub(crate) async fn metrics(State(app): State<App>) -> Answer {
    Ok(([(header::CONTENT_TYPE, METRICS)], app.engine.statistics()?.to_openmetrics()).into_response())
}

pub(crate) async fn nowhere(request: Request) -> Failure {
    Failure::unknown(format!("there is no {} here; docs/server.md has the routes", request.uri().path()))
}

pub(crate) async fn not_so(request: Request) -> Failure {
    let message = format!("{} does not answer {}", request.uri().path(), request.method());
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request", message)
}

fn ending() -> Failure {
    Failure::new(StatusCode::SERVICE_UNAVAILABLE, "closed", "the server is ending; ask another one")
}

/// Lets in who has a key, until the server ends.
pub(crate) async fn admit(State(app): State<App>, request: Request, next: Next) -> Response {
    if app.keys.as_ref().is_some_and(|keys| !keys.admit(request.headers())) {
        let message = "this server wants a key: Authorization: Bearer KEY";
        return Failure::new(StatusCode::UNAUTHORIZED, "unauthorized", message).into_response();
    }
    if app.ending.load(Ordering::Acquire) {
        return ending().into_response();
    }
    // Without keys, only this machine reaches the server, but so does any page that a browser on it shows.
    if app.keys.is_none() && request.headers().contains_key(header::ORIGIN) {
        let message = "pages in a browser are not answered by a server without keys (--keys)";
        return Failure::new(StatusCode::FORBIDDEN, "unauthorized", message).into_response();
    }
    match app.bodies.whole(request).await {
        Ok((request, _held)) => next.run(request).await,
        Err(failure) => failure.into_response(),
    }
}

/// A line for each request: no contents, no keys. It is written when the answer begins, or when the caller hangs up. That of a
/// stream is written when the stream is over.
pub(crate) async fn log(State(app): State<App>, request: Request, next: Next) -> Response {
    let number = app.numbers.fetch_add(1, Ordering::Relaxed);
    let mut line = Line {
        number,
        method: request.method().clone(),
        path: request.uri().path().to_owned(),
        start: Instant::now(),
        status: HUNG_UP,
        error: None,
        is_wanted: app.logs,
    };
    let mut response = next.run(request).await;
    line.status = response.status().as_u16();
    response.headers_mut().insert("x-request-id", HeaderValue::from(number));
    if let Some(stream) = response.extensions_mut().remove::<Logged>() {
        stream.keep(line);
    }
    response
}

/// What the log calls a caller who did not wait.
const HUNG_UP: u16 = 499;

/// A line of the log, which is written when it is dropped.
pub(crate) struct Line {
    number: u64,
    method: Method,
    path: String,
    start: Instant,
    status: u16,
    /// The error that a stream ended with.
    error: Option<&'static str>,
    is_wanted: bool,
}

impl Line {
    /// The line of a stream that is over, or that the caller left before its end.
    pub(crate) fn of_stream(mut self, is_over: bool, error: Option<&'static str>) {
        self.error = error;
        if !is_over {
            self.status = HUNG_UP;
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.is_wanted {
            let mut line = json!({
                "request": self.number, "method": self.method.as_str(), "path": self.path, "status": self.status,
                "ms": (self.start.elapsed().as_secs_f64() * 1e5).round() / 100.0,
            });
            if let Some(error) = self.error {
                line["error"] = error.into();
            }
            crate::say(&line.to_string());
        }
    }
}
