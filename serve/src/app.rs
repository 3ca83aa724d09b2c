//! What all requests share, and which route answers what.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use foreturn::Engine;
use foreturn::config::ModelConfig;
use foreturn::engine::{Model, Pin};
use foreturn::runtime::BuildInfo;
use serde_json::json;

use crate::failure::{Answer, Failure, done};
use crate::keys::Keys;
use crate::{calls, openai, rankings, trainers};

/// The engine and what belongs to it.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) engine: Engine,
    /// The configuration of each model: its limits and its sampling.
    pub(crate) models: Arc<HashMap<String, ModelConfig>>,
    /// Prefixes that are kept in the cache for a while, by the number of `/v1/warm`.
    pub(crate) pins: Arc<Mutex<HashMap<u64, Pin>>>,
    pub(crate) numbers: Arc<AtomicU64>,
    /// Set once the server ends: new requests are refused.
    pub(crate) ending: Arc<AtomicBool>,
    keys: Option<Keys>,
    logs: bool,
}

impl App {
    pub(crate) fn new(engine: Engine, models: HashMap<String, ModelConfig>, keys: Option<Keys>, logs: bool) -> Self {
        App {
            engine,
            models: Arc::new(models),
            pins: Arc::default(),
            numbers: Arc::default(),
            ending: Arc::default(),
            keys,
            logs,
        }
    }

    /// A model by its name.
    pub(crate) fn model(&self, name: &str) -> Answer<Model> {
        self.engine.model(name).map_err(|error| Failure::unknown(error.to_string()))
    }

    /// The routes. Bodies have at most `max_body` bytes.
    pub(crate) fn router(self, max_body: usize) -> Router {
        let answers = Router::new()
            .route("/v1/rank", post(rankings::rank))
            .route("/v1/rescore", post(rankings::rescore))
            .route("/v1/score", post(calls::score))
            .route("/v1/logprobs", post(calls::logprobs))
            .route("/v1/warm", post(calls::warm))
            .route("/v1/warm/{pin}", axum::routing::delete(calls::release))
            .route("/v1/refresh", post(calls::refresh))
            .route("/v1/models", get(openai::models))
            .route("/v1/chat/completions", post(openai::chat))
            .route("/v1/embeddings", post(openai::embeddings))
            .route("/openrlhf", post(trainers::openrlhf))
            .route("/slime", post(trainers::slime))
            .route("/metrics", get(metrics))
            .fallback(nowhere)
            .method_not_allowed_fallback(not_so)
            .layer(DefaultBodyLimit::max(max_body))
            .layer(middleware::from_fn_with_state(self.clone(), admit));
        // Who watches over the process needs no key.
        let watched = Router::new().route("/health", get(health)).route("/ready", get(ready));
        watched.merge(answers).layer(middleware::from_fn_with_state(self.clone(), log)).with_state(self)
    }
}

async fn health() -> Response {
    done(&json!({"status": "ok"}))
}

/// Ready until the server ends. The models are loaded before it listens.
async fn ready(State(app): State<App>) -> Response {
    if app.ending.load(Ordering::Acquire) {
        return ending().into_response();
    }
    done(&json!({"status": "ready", "version": BuildInfo::here().version}))
}

/// OpenMetrics. Reading them waits for no step.
async fn metrics(State(app): State<App>) -> Answer {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], app.engine.statistics()?.to_openmetrics()).into_response())
}

async fn nowhere(request: Request) -> Failure {
    Failure::unknown(format!("there is no {} here; docs/server.md has the routes", request.uri().path()))
}

async fn not_so(request: Request) -> Failure {
    let message = format!("{} does not answer {}", request.uri().path(), request.method());
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request", message)
}

fn ending() -> Failure {
    Failure::new(StatusCode::SERVICE_UNAVAILABLE, "closed", "the server is ending; ask another one")
}

/// Lets in who has a key, until the server ends.
async fn admit(State(app): State<App>, request: Request, next: Next) -> Response {
    if app.keys.as_ref().is_some_and(|keys| !keys.admit(request.headers())) {
        let message = "this server wants a key: Authorization: Bearer KEY";
        return Failure::new(StatusCode::UNAUTHORIZED, "unauthorized", message).into_response();
    }
    if app.ending.load(Ordering::Acquire) {
        return ending().into_response();
    }
    let response = next.run(request).await;
    if response.status() == StatusCode::PAYLOAD_TOO_LARGE {
        let message = "the body is larger than this server takes (--max-body)";
        return Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request", message).into_response();
    }
    response
}

/// A line for each request: no contents, no keys. It is written when the answer begins.
async fn log(State(app): State<App>, request: Request, next: Next) -> Response {
    if !app.logs {
        return next.run(request).await;
    }
    let number = app.numbers.fetch_add(1, Ordering::Relaxed);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let start = Instant::now();
    let mut response: Response<Body> = next.run(request).await;
    let status = response.status().as_u16();
    let line = json!({
        "request": number, "method": method.as_str(), "path": path, "status": status,
        "ms": (start.elapsed().as_secs_f64() * 1e5).round() / 100.0,
    });
    crate::say(&line.to_string());
    if let Ok(value) = HeaderValue::from_str(&number.to_string()) {
        response.headers_mut().insert("x-request-id", value);
    }
    response
}
