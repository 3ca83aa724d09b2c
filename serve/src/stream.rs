//! Answers that come piece by piece: server-sent events.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::app::Line;
use crate::asked::Caller;
use crate::failure::Failure;

/// Sends events. What one request can say is bounded (by its tokens or its rollouts), so a slow reader holds no more than
/// that.
#[derive(Clone)]
pub(crate) struct Events {
    // `None` once the last event was sent: a step that was under way then may have more to say.
    to: Arc<Mutex<Option<UnboundedSender<Bytes>>>>,
    logged: Logged,
}

impl Events {
    /// Sends an event in JSON, with a name unless it is empty.
    pub(crate) fn send(&self, name: &str, data: &impl serde::Serialize) {
        let data = serde_json::to_string(data).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"));
        self.text(name, &data);
    }

    /// Sends an event as it is; the text has one line.
    pub(crate) fn text(&self, name: &str, data: &str) {
        let name = if name.is_empty() { String::new() } else { format!("event: {name}\n") };
        if let Some(to) = &*self.to.lock().unwrap_or_else(PoisonError::into_inner) {
            // Nobody reads any more if the caller hung up, and its request ends.
            let _ = to.send(format!("{name}data: {data}\n\n").into());
        }
    }

    /// Sends an error, which the log tells as well: the status was sent long ago.
    pub(crate) fn fail(&self, name: &str, failure: &Failure) {
        self.logged.lock().error = Some(failure.kind());
        self.send(name, &failure.document());
    }

    /// Ends the stream.
    pub(crate) fn end(&self) {
        self.to.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// The line of a stream in the log, which is written when the stream is over.
#[derive(Clone, Default)]
pub(crate) struct Logged(Arc<Mutex<Ending>>);

#[derive(Default)]
struct Ending {
    line: Option<Line>,
    error: Option<&'static str>,
}

impl Logged {
    /// Keeps the line of the stream.
    pub(crate) fn keep(&self, line: Line) {
        self.lock().line = Some(line);
    }

    fn lock(&self) -> MutexGuard<'_, Ending> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the caller reads. Dropping it, as a hang-up does, cancels the request.
struct Reading {
    events: UnboundedReceiver<Bytes>,
    is_over: bool,
    logged: Logged,
    _caller: Arc<Caller>,
}

impl Stream for Reading {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let event = ready!(self.events.poll_recv(context));
        self.is_over = event.is_none();
        Poll::Ready(event.map(Ok))
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut ending = self.logged.lock();
        let error = ending.error;
        if let Some(line) = ending.line.take() {
            line.of_stream(self.is_over, error);
        }
    }
}

/// A stream, and what fills it.
pub(crate) fn open(caller: Arc<Caller>) -> (Events, Response) {
    let (send, events) = unbounded_channel();
    let logged = Logged::default();
    let body = Body::from_stream(Reading { events, is_over: false, logged: logged.clone(), _caller: caller });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    let response = (headers, Extension(logged.clone()), body).into_response();
    (Events { to: Arc::new(Mutex::new(Some(send))), logged }, response)
}
