//! Bodies of requests: each is read as a whole, and all of them together have a bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::Request;
use axum::http::{StatusCode, header};
use foreturn::{Error, ErrorKind};
use futures_util::StreamExt as _;

use crate::failure::{Answer, Failure};

/// The time for a body to arrive.
const TIME: Duration = Duration::from_secs(60);
/// The time to read what is thrown away.
const DRAIN: Duration = Duration::from_secs(2);
/// Bodies of the largest size that fit at once.
const AT_ONCE: usize = 16;

/// The bounds of bodies, and the bytes that are set aside for them.
#[derive(Clone)]
pub(crate) struct Bodies {
    most: usize,
    held: Arc<AtomicUsize>,
}

/// The bytes that are set aside for a body, which count until this is dropped.
pub(crate) struct Held {
    bytes: usize,
    all: Arc<AtomicUsize>,
}

impl Held {
    /// Counts more bytes and returns how many count for all bodies together.
    fn grow(&mut self, bytes: usize) -> usize {
        self.bytes += bytes;
        self.all.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Bodies {
    /// A body has at most `most` bytes.
    pub(crate) fn new(most: usize) -> Self {
        Bodies { most, held: Arc::default() }
    }

    /// The request with all of its body. Its bytes count as long as the second result is there.
    pub(crate) async fn whole(&self, request: Request) -> Answer<(Request, Held)> {
        let (parts, body) = request.into_parts();
        let stated =
            parts.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        let mut pieces = body.into_data_stream();
        let read = if stated.is_some_and(|length| length > self.most as u64) {
            Err(self.too_large())
        } else {
            // What is stated may never come, so it is no more than a bound.
            let most = stated.map_or(self.most, |length| length as usize);
            let late =
                |_| Failure::new(StatusCode::REQUEST_TIMEOUT, "invalid_request", "the body did not arrive in time");
            tokio::time::timeout(TIME, self.read(&mut pieces, most)).await.map_err(late).flatten()
        };
        match read {
            Ok((bytes, held)) => Ok((Request::from_parts(parts, Body::from(bytes)), held)),
            Err(failure) => {
                self.drain(pieces).await;
                Err(failure)
            }
        }
    }

    /// Reads a body that may grow to `most` bytes.
    async fn read(&self, pieces: &mut BodyDataStream, most: usize) -> Answer<(Vec<u8>, Held)> {
        let (mut bytes, mut held) = (Vec::<u8>::new(), Held { bytes: 0, all: Arc::clone(&self.held) });
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| Failure::refused(format!("the body broke off: {error}")))?;
            if piece.len() > most - bytes.len() {
                return Err(self.too_large());
            }
            let (length, capacity) = (bytes.len() + piece.len(), bytes.capacity());
            if length > capacity {
                let larger = length.max(capacity.saturating_mul(2)).min(most);
                if held.grow(larger - capacity) > self.most.saturating_mul(AT_ONCE) {
                    let message =
                        "the bodies of requests that are under way take all the memory that they may; ask again later";
                    return Err(Error::new(ErrorKind::Overloaded, message).into());
                }
                bytes.reserve_exact(larger - bytes.len());
            }
            bytes.extend_from_slice(&piece);
        }
        Ok((bytes, held))
    }

    fn too_large(&self) -> Failure {
        let message = format!("the body is larger than the {} bytes that this server takes (--max-body)", self.most);
        Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request", message)
    }

    /// Reads what a caller still sends, for a moment, because a connection that is closed before loses the answer.
    async fn drain(&self, mut pieces: BodyDataStream) {
        // A body a little too large is the likely one.
        let mut left = self.most.saturating_mul(2);
        let read = async {
            while let Some(Ok(piece)) = pieces.next().await {
                left = left.saturating_sub(piece.len());
                if left == 0 {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(DRAIN, read).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(pieces: usize, size: usize) -> Request {
        let pieces = std::iter::repeat_n(vec![b' '; size], pieces).map(Ok::<_, std::convert::Infallible>);
        Request::new(Body::from_stream(futures_util::stream::iter(pieces)))
    }

    #[tokio::test]
    async fn bodies_have_bounds_each_and_together() {
        let bodies = Bodies::new(100);
        let mut held = Vec::new();
        for _ in 0..AT_ONCE {
            held.push(bodies.whole(body(10, 10)).await.map_err(|e| e.status()).unwrap().1);
        }
        let refused = bodies.whole(body(1, 1)).await.map(|_| ()).unwrap_err();
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        held.pop();
        assert!(bodies.whole(body(10, 10)).await.is_ok());
        let refused = bodies.whole(body(11, 10)).await.map(|_| ()).unwrap_err();
        assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);
        drop(held);
        assert_eq!(bodies.held.load(Ordering::Relaxed), 0);
    }
}
