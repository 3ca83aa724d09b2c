//! Answers that come piece by piece: server-sent events.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::asked::Caller;

/// Sends events. What one request can say is bounded (by its tokens or its rollouts), so a slow reader holds no more than
/// that.
#[derive(Clone)]
pub(crate) struct Events {
    // `None` once the last event was sent: a step that was under way then may have more to say.
    to: Arc<Mutex<Option<UnboundedSender<Bytes>>>>,
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

    /// Ends the stream.
    pub(crate) fn end(&self) {
        self.to.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// What the caller reads. Dropping it, as a hang-up does, cancels the request.
struct Reading {
    events: UnboundedReceiver<Bytes>,
    _caller: Arc<Caller>,
}

impl Stream for Reading {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_recv(context).map(|event| event.map(Ok))
    }
}

/// A stream, and what fills it.
pub(crate) fn open(caller: Arc<Caller>) -> (Events, Response) {
    let (send, events) = unbounded_channel();
    let body = Body::from_stream(Reading { events, _caller: caller });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (Events { to: Arc::new(Mutex::new(Some(send))) }, (headers, body).into_response())
}
