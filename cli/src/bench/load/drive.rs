//! The clients: each takes the next arrival, waits for its moment, asks, and notes what came.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use foreturn::Result;
use foreturn::runtime::thread_refused;

use super::arrivals::{Arrival, Arrivals};
use super::mix::Line;
use super::target::{Fate, Target};

/// A run at one rate.
pub(super) struct Drive<'a> {
    pub(super) target: &'a Target,
    pub(super) lines: &'a [Line],
    /// Most requests under way. While all clients wait for answers, those that arrive wait for a client, and this counts.
    pub(super) clients: usize,
    pub(super) arrivals: Arrivals,
    /// From its arrival on.
    pub(super) deadline: Option<Duration>,
}

/// A request, and what became of it. Times count from the start of the run.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) due: Duration,
    pub(super) ended: Duration,
    pub(super) fate: Fate,
    /// The number that a server gave the request.
    pub(super) number: Option<String>,
}

impl Drive<'_> {
    /// Asks until the time is over and each request has ended.
    pub(super) fn run(self) -> Result<Vec<Asked>> {
        let arrivals = &Mutex::new(self.arrivals.clone());
        let start = Instant::now();
        let next = move || arrivals.lock().unwrap_or_else(PoisonError::into_inner).next(start.elapsed());
        let work = || {
            let client = self.target.client();
            std::iter::from_fn(next).map(|arrival| self.ask(&client, arrival, start)).collect::<Vec<_>>()
        };
        std::thread::scope(|scope| {
            let spawn = |_| {
                let client = std::thread::Builder::new().name("foreturn-client".into()).spawn_scoped(scope, work);
                client.map_err(|e| thread_refused("for each client (--clients)", e))
            };
            let clients = (0..self.clients).map(spawn).collect::<Result<Vec<_>>>();
            if clients.is_err() {
                // Those that have started find nothing to do, and the scope ends.
                *arrivals.lock().unwrap_or_else(PoisonError::into_inner) = Arrivals::new(0, None, Duration::ZERO, 1);
            }
            let asked = |client: std::thread::ScopedJoinHandle<'_, Vec<Asked>>| {
                client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            Ok(clients?.into_iter().flat_map(asked).collect())
        })
    }

    fn ask(&self, client: &super::target::Client<'_>, arrival: Arrival, start: Instant) -> Asked {
        let due = arrival.due;
        std::thread::sleep(due.saturating_sub(start.elapsed()));
        let waited = start.elapsed().saturating_sub(due);
        let left = self.deadline.map(|deadline| deadline.saturating_sub(waited));
        if left.is_some_and(|left| left.is_zero()) {
            // Whoever has waited so long for a free client has gone.
            return Asked { due, ended: start.elapsed(), fate: Fate::Unsent, number: None };
        }
        let said = client.ask(arrival.line, &self.lines[arrival.line], left);
        Asked { due, ended: said.at.saturating_duration_since(start), fate: said.fate, number: said.number }
    }
}
