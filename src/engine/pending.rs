//! A result that is not there yet.

use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

use super::CancelToken;
use crate::{Error, Result};

/// A request under way. Dropping it doesn't end the request; [`Pending::cancel`] does.
pub struct Pending<T> {
    receiver: Receiver<Result<T>>,
    cancel: CancelToken,
}

/// Hands over the result, once. Nobody may be waiting for it any more.
pub(crate) struct Responder<T>(SyncSender<Result<T>>);

/// Both ends. The pending side shares `cancel`, where the caller brought a token.
pub(crate) fn pair<T>(cancel: Option<CancelToken>) -> (Pending<T>, Responder<T>) {
    let (sender, receiver) = sync_channel(1);
    (Pending { receiver, cancel: cancel.unwrap_or_default() }, Responder(sender))
}

impl<T> Responder<T> {
    pub(crate) fn send(self, result: Result<T>) {
        // The receiver may have been dropped: the caller has lost interest.
        drop(self.0.send(result));
    }
}

impl<T> Pending<T> {
    /// Waits for the result.
    ///
    /// # Errors
    /// The request's own error.
    pub fn wait(self) -> Result<T> {
        self.receiver.recv().unwrap_or_else(|_| Err(ended()))
    }

    /// The result, if it is there; `None` while the request is under way. Gives it out once.
    pub fn poll(&self) -> Option<Result<T>> {
        match self.receiver.try_recv() {
            Ok(result) => Some(result),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(ended())),
        }
    }

    /// Ends the request within about one step of the model.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    pub(crate) fn token(&self) -> CancelToken {
        self.cancel.clone()
    }
}

fn ended() -> Error {
    Error::internal("the engine ended before the request did, or its result was taken already")
}
