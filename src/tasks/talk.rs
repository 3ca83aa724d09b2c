//! The steps of a conversation in which the policy answers with the best of several candidates.

use crate::chat::Message;
use crate::engine::Engine;
use crate::rank::{Ended, Goal, ModelRole, RankRequest, Ranking, RoleCosts};
use crate::{Error, ErrorKind, RankOptions, Result};

/// Questions to the judge that wait at the same time for one conversation.
const AT_ONCE: usize = 16;

/// A conversation under way, with what it has cost.
pub(crate) struct Talk<'a> {
    engine: &'a Engine,
    goal: &'a Goal,
    pub(crate) costs: RoleCosts,
}

impl<'a> Talk<'a> {
    pub(crate) fn new(engine: &'a Engine, goal: &'a Goal) -> Self {
        Talk { engine, goal, costs: RoleCosts::default() }
    }

    /// What was said before the policy's first turn: `given`, or the simulated user's first message.
    pub(crate) fn begin(&mut self, given: &[Message], seed: u64) -> Result<Vec<Message>> {
        if !given.is_empty() {
            return Ok(given.to_vec());
        }
        let (first, usage) = self.engine.opening(self.goal, seed)?;
        self.costs.add(ModelRole::User, usage);
        Ok(vec![first])
    }

    /// Ranks the candidates of a turn.
    ///
    /// # Errors
    /// As [`Engine::rank`]; [`ErrorKind::Cancelled`] where the run was cancelled meanwhile; and [`ErrorKind::Io`] where an
    /// outage cost rollouts, because the turn would be another one without it.
    pub(crate) fn rank(&mut self, request: RankRequest) -> Result<Ranking> {
        let request = RankRequest { goal: self.goal.clone(), ..request };
        self.count(self.engine.rank(request, RankOptions::default())?)
    }

    /// Scores the futures of `ranking` anew, as [`Engine::rescore`] does.
    pub(crate) fn rescore(&mut self, request: RankRequest, ranking: &Ranking) -> Result<Ranking> {
        let request = RankRequest { goal: self.goal.clone(), ..request };
        self.count(self.engine.rescore(request, ranking, RankOptions::default())?)
    }

    /// The probability for each pair of conversations that the judge finds the first better, in the order in which it sees
    /// them.
    pub(crate) fn prefer(&mut self, pairs: &[[&[Message]; 2]], seed: u64) -> Result<Vec<f64>> {
        let mut preferred = Vec::with_capacity(pairs.len());
        // Few at a time, because other conversations wait in the same queue.
        for some in pairs.chunks(AT_ONCE) {
            let asked = some.iter().map(|pair| self.engine.submit_preference(self.goal, *pair, seed));
            for answer in asked.collect::<Result<Vec<_>>>()? {
                let (probability, usage) = answer.wait()?;
                self.costs.add(ModelRole::Judge, usage);
                preferred.push(probability);
            }
        }
        Ok(preferred)
    }

    fn count(&mut self, ranking: Ranking) -> Result<Ranking> {
        self.costs += ranking.cost.roles;
        match &ranking.outage {
            _ if !ranking.complete => {
                Err(Error::new(ErrorKind::Cancelled, "the run was cancelled in the middle of a conversation"))
            }
            Some(reason) => Err(Error::new(ErrorKind::Io, format!("a rollout was lost: {reason}"))),
            None => Ok(ranking),
        }
    }

    /// The simulated user's next message, and why the conversation ends with it, if it does.
    pub(crate) fn reply(&mut self, said: &[Message], seed: u64) -> Result<(Option<Message>, Option<Ended>)> {
        let reply = match self.engine.user_reply(self.goal, said, seed) {
            Err(error) if error.kind() == ErrorKind::ContextLength => return Ok((None, Some(Ended::Context))),
            reply => reply?,
        };
        self.costs.add(ModelRole::User, reply.usage);
        Ok((reply.message, reply.ended))
    }
}
