//! The threads that wait for an endpoint, so that the engine's thread doesn't have to.

use std::collections::{BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ureq::Agent;

use super::client::{self, Failure, Retry};
use super::endpoint::Endpoint;
use super::limits::{Interrupt, Pace, lock, pause};
use super::reply;
use super::request::Wanted;
use crate::chat::{ChatReply, Ticket};
use crate::{Error, ErrorKind, Result};

/// Time that the end of a pool waits for its threads. Threads that are connecting can't be interrupted, and end by
/// themselves later.
const FAREWELL: Duration = Duration::from_secs(1);

/// The result of a request.
pub(super) type Outcome = (Ticket, Result<ChatReply>);

/// A request on its way.
pub(super) struct Job {
    pub(super) ticket: Ticket,
    pub(super) body: Vec<u8>,
    pub(super) wanted: Wanted,
    pub(super) submitted: Instant,
    pub(super) interrupt: Arc<Interrupt>,
}

/// A bounded number of threads that send requests, started as they are needed.
pub(super) struct Pool {
    shared: Arc<Shared>,
    outcomes: Sender<Outcome>,
}

struct Shared {
    endpoint: Endpoint,
    pace: Pace,
    queue: Mutex<Queue>,
    changed: Condvar,
    /// The model's versions, as the endpoint named them.
    fingerprints: Mutex<BTreeSet<String>>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    workers: usize,
    idle: usize,
    closed: bool,
}

impl Pool {
    pub(super) fn new(endpoint: Endpoint, outcomes: Sender<Outcome>) -> Self {
        let shared = Shared {
            pace: Pace::new(endpoint.requests_per_minute),
            endpoint,
            queue: Mutex::default(),
            changed: Condvar::new(),
            fingerprints: Mutex::default(),
        };
        Pool { shared: Arc::new(shared), outcomes }
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.shared.endpoint
    }

    /// The versions of the model that replies came from.
    pub(super) fn fingerprints(&self) -> Vec<String> {
        lock(&self.shared.fingerprints).iter().cloned().collect()
    }

    /// Queues a request.
    ///
    /// # Errors
    /// No thread could be started.
    pub(super) fn submit(&self, job: Job) -> Result<()> {
        let mut queue = lock(&self.shared.queue);
        if queue.idle <= queue.jobs.len() && queue.workers < self.endpoint().max_concurrent {
            match self.start_worker() {
                Ok(()) => queue.workers += 1,
                // The existing threads do the work.
                Err(_) if queue.workers > 0 => {}
                Err(e) => {
                    let message = format!("cannot start a thread for it: {e}. {}", crate::thread::limits());
                    return Err(self.endpoint().error(ErrorKind::Io, &message));
                }
            }
        }
        queue.jobs.push_back(job);
        self.shared.changed.notify_one();
        Ok(())
    }

    fn start_worker(&self) -> std::io::Result<()> {
        let (shared, outcomes) = (Arc::clone(&self.shared), self.outcomes.clone());
        let work = move || {
            let mut agent = None;
            while let Some(job) = shared.next() {
                let ticket = job.ticket;
                // A panic must not leave a ranking waiting.
                let outcome = catch_unwind(AssertUnwindSafe(|| shared.answer(job, &mut agent)));
                let outcome = outcome.unwrap_or_else(|_| Some(Err(reply::lost(&shared.endpoint))));
                // There is no receiver once the engine has ended.
                if let Some(reply) = outcome {
                    drop(outcomes.send((ticket, reply)));
                }
            }
        };
        std::thread::Builder::new().name("foreturn-remote".into()).spawn(work).map(drop)
    }
}

impl Drop for Pool {
    /// A pool is dropped only after its requests were interrupted.
    fn drop(&mut self) {
        let mut queue = lock(&self.shared.queue);
        queue.closed = true;
        queue.jobs.clear();
        self.shared.changed.notify_all();
        let wait = self.shared.changed.wait_timeout_while(queue, FAREWELL, |queue| queue.workers > 0);
        drop(wait.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Shared {
    /// The next request; `None` to end.
    fn next(&self) -> Option<Job> {
        let mut queue = lock(&self.queue);
        queue.idle += 1;
        loop {
            if queue.closed {
                queue.workers -= 1;
                self.changed.notify_all();
                return None;
            }
            if let Some(job) = queue.jobs.pop_front() {
                queue.idle -= 1;
                return Some(job);
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Sends a request until it is answered or given up. `None` if it was interrupted.
    fn answer(&self, job: Job, agent: &mut Option<Agent>) -> Option<Result<ChatReply>> {
        let endpoint = &self.endpoint;
        for attempts in 1.. {
            if !job.interrupt.sleep_until(self.pace.slot()) {
                return None;
            }
            let failure = match self.attempt(&job, agent)? {
                Err(error) => return Some(Err(error)),
                Ok(Ok(body)) => return Some(self.read(&job, &body)),
                Ok(Err(failure)) => failure,
            };
            if attempts > endpoint.max_retries || failure.retry == Retry::Never {
                return Some(Err(client::failed(endpoint, &failure, attempts)));
            }
            let pause = pause(attempts - 1);
            if let Retry::After(asked) = failure.retry {
                // All requests wait, because the endpoint is overloaded and not this request.
                self.pace.hold(asked);
            }
            if !job.interrupt.sleep_until(Instant::now() + pause) {
                return None;
            }
        }
        None
    }

    /// Sends a request once, on this thread's connections. `None` if it was interrupted.
    fn attempt(&self, job: &Job, agent: &mut Option<Agent>) -> Option<Result<Result<Vec<u8>, Failure>>> {
        let current = match agent.take().map_or_else(|| client::agent(&self.endpoint), Ok) {
            Ok(current) => current,
            Err(error) => return Some(Err(error)),
        };
        let sent =
            job.interrupt.guard(&current, || client::send(&current, &self.endpoint, job.wanted.route(), &job.body))?;
        // Not kept if it was interrupted, because its connections are closed for good.
        *agent = Some(current);
        Some(Ok(sent))
    }

    fn read(&self, job: &Job, body: &[u8]) -> Result<ChatReply, Error> {
        let (reply, fingerprint) = reply::read(&self.endpoint, &job.wanted, body, job.submitted.elapsed())?;
        if let Some(fingerprint) = fingerprint {
            let mut seen = lock(&self.fingerprints);
            // Hosted models have a handful of versions. A server that counts up must not fill the memory.
            if seen.len() < 8 {
                seen.insert(fingerprint);
            }
        }
        Ok(reply)
    }
}
