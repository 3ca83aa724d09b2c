//! The owner's part in an exchange of weights: who has to wait, and the moment itself.

use std::sync::PoisonError;
use std::time::Instant;

use super::CancelToken;
use super::job::{Run, Watch, interrupted};
use super::models::Model;
use super::owner::Owner;
use super::refresh::{Exchange, RefreshMode, Rewarm, changed};
use crate::chat::local::Weights;
use crate::decode::urgency::Turn;
use crate::rank::AskId;
use crate::{Error, Result};

impl Owner {
    /// Takes new weights. Jobs that use the model go on, start over or end, as their mode says.
    pub(super) fn prepare_exchange(&mut self, exchange: Exchange) {
        let uses = |run: &Run| run.stopped.is_none() && !run.job.is_done() && run.job.asks(&exchange.name);
        let users = self.active.iter().filter(|(_, run)| exchange.mode != RefreshMode::Wait && uses(run));
        for turn in users.map(|(turn, _)| *turn).collect::<Vec<_>>() {
            self.send_back(turn, &exchange);
        }
        self.exchanges.push(exchange);
    }

    /// Lets a job wait for new weights and start over, or fails it.
    fn send_back(&mut self, turn: Turn, exchange: &Exchange) {
        self.withdraw(turn);
        let Some(mut run) = self.active.remove(&turn) else { return };
        run.questions.clear();
        let restarted = match exchange.mode {
            RefreshMode::Restart => run.job.start_over(),
            RefreshMode::Wait | RefreshMode::Abort => Err(changed(&exchange.name)),
        };
        match restarted {
            Ok(()) => {
                run.begun += 1;
                self.held.insert(turn, run);
            }
            Err(error) => {
                run.job.fail(error);
                self.active.insert(turn, run);
            }
        }
    }

    /// Exchanges the weights that nothing uses any more, and lets the jobs begin that waited for it.
    pub(super) fn exchange(&mut self) {
        if self.exchanges.is_empty() {
            return;
        }
        self.settle();
        while let Some(at) = self.free_exchange() {
            let Exchange { name, fresh, done, .. } = self.exchanges.remove(at);
            let exchanged = self.put_in_place(&name, fresh);
            // Whoever waits has gone only if its thread was ended.
            drop(done.send(exchanged));
        }
        for (_, run) in std::mem::take(&mut self.held) {
            // Held again where another exchange is due.
            self.begin(run);
        }
    }

    /// The first exchange whose model nothing uses.
    fn free_exchange(&self) -> Option<usize> {
        let used = |exchange: &Exchange| self.active.values().any(|run| run.job.asks(&exchange.name));
        self.exchanges.iter().position(|exchange| !used(exchange))
    }

    fn put_in_place(&mut self, name: &str, fresh: Weights) -> Result<Weights> {
        let index = self.models.index(name)?;
        let Model::Local(model) = &mut self.models.0[index].1 else {
            return Err(Error::internal("weights for a model of another process"));
        };
        let old = model.exchange(fresh)?;
        let (tickets, status) = (model.rewarm(), model.status());
        self.shared.models.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), status);
        // A prefix that can't be queued now is computed when it is next used.
        if let Some(tickets) = tickets.ok().filter(|tickets| !tickets.is_empty()) {
            let watch = Watch { deadline: None, cancel: CancelToken::new() };
            let turn = Turn::new(0, None, self.shared.admission.arrive());
            let job = Box::new(Rewarm { model: name.into(), left: tickets.len() });
            self.asked.extend(tickets.into_iter().map(|ticket| ((index, ticket), (turn, AskId(0)))));
            self.active.insert(turn, Box::new(Run::new(job, turn, Instant::now(), watch)));
        }
        Ok(old)
    }

    /// Ends the waits for new weights, and those of jobs for the exchange, whose time is over.
    pub(super) fn expire(&mut self, now: Instant) {
        for (turn, run) in std::mem::take(&mut self.held) {
            match run.watch.interruption(now) {
                None => drop(self.held.insert(turn, run)),
                Some(why) => {
                    run.late.count(&self.shared.recorder, why);
                    self.leave(&run);
                    run.job.expire(why, run.start);
                }
            }
        }
        self.exchanges.retain(|exchange| match exchange.watch.interruption(now) {
            None => true,
            Some(why) => {
                drop(exchange.done.send(Err(interrupted(why, "requests used the old weights"))));
                false
            }
        });
    }
}
