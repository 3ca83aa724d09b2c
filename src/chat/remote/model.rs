//! An endpoint as a chat model.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use super::client;
use super::endpoint::Endpoint;
use super::limits::Interrupt;
use super::pool::{Job, Outcome, Pool};
use super::request;
use crate::chat::{ChatModel, ChatReply, ChatRequest, Ticket};
use crate::{Error, ErrorKind, Result};

/// A model that an endpoint runs.
pub(crate) struct RemoteChat {
    name: Arc<str>,
    pool: Pool,
    outcomes: Receiver<Outcome>,
    next: u64,
    /// Requests that wait for their replies.
    under_way: BTreeMap<Ticket, Arc<Interrupt>>,
    cancelled: Vec<Ticket>,
}

impl RemoteChat {
    /// A model behind `endpoint`. Nothing is sent yet.
    ///
    /// # Errors
    /// This machine has no root certificates for https.
    pub(crate) fn new(endpoint: Endpoint) -> Result<Self> {
        client::agent(&endpoint)?;
        let (sender, outcomes) = channel();
        let (name, pool) = (Arc::clone(&endpoint.name), Pool::new(endpoint, sender));
        Ok(RemoteChat { name, pool, outcomes, next: 0, under_way: BTreeMap::new(), cancelled: Vec::new() })
    }
}

impl ChatModel for RemoteChat {
    fn name(&self) -> &str {
        &self.name
    }

    /// The endpoint's own names for the versions that answered, if it gives any.
    fn weights(&self) -> Option<String> {
        let seen = self.pool.fingerprints();
        (!seen.is_empty()).then(|| seen.join(", "))
    }

    fn submit(&mut self, request: ChatRequest) -> Result<Ticket> {
        let (body, wanted) = request::body(self.pool.endpoint(), request)?;
        let (ticket, interrupt) = (Ticket(self.next), Arc::<Interrupt>::default());
        self.next += 1;
        let body = body.to_string().into_bytes();
        let job = Job { ticket, body, wanted, submitted: Instant::now(), interrupt: Arc::clone(&interrupt) };
        self.pool.submit(job)?;
        self.under_way.insert(ticket, interrupt);
        Ok(ticket)
    }

    fn poll(&mut self, finished: &mut Vec<(Ticket, Result<ChatReply>)>) -> bool {
        for (ticket, reply) in self.outcomes.try_iter() {
            // A cancelled one has already been reported.
            if self.under_way.remove(&ticket).is_some() {
                finished.push((ticket, reply));
            }
        }
        let cancelled = |ticket| (ticket, Err(Error::new(ErrorKind::Cancelled, "the request was cancelled")));
        finished.extend(self.cancelled.drain(..).map(cancelled));
        !self.under_way.is_empty()
    }

    fn cancel(&mut self, ticket: Ticket) {
        if let Some(interrupt) = self.under_way.remove(&ticket) {
            interrupt.interrupt();
            self.cancelled.push(ticket);
        }
    }
}

impl Drop for RemoteChat {
    fn drop(&mut self) {
        self.under_way.values().for_each(|interrupt| interrupt.interrupt());
    }
}
