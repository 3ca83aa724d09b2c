//! Futures of a finished ranking, which are scored again.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::allocation::Strategy;
use super::future::{Candidate, Future};
use super::ranking::{AllocationSummary, ModelInfo, RankedCandidate, Ranking, RolloutTrace, TracedMessage};
use super::request::{Candidates, RankRequest};
use crate::chat::{Finish, Message};
use crate::rollout::{ModelRole, Rollout, RolloutMessage, Scene};
use crate::{Error, ErrorKind, Result};

/// The origin of futures that are scored again.
pub(super) struct Origin {
    /// The models that sampled them.
    models: BTreeMap<ModelRole, ModelInfo>,
    allocation: AllocationSummary,
    bitwise: bool,
    complete: bool,
}

/// The roles that sample. The others score.
const SAMPLING: [ModelRole; 2] = [ModelRole::Policy, ModelRole::User];

impl Origin {
    pub(super) fn of(ranking: &Ranking) -> Self {
        let models = SAMPLING.iter().filter_map(|role| Some((*role, ranking.models.get(role)?.clone()))).collect();
        Origin { models, allocation: ranking.allocation, bitwise: ranking.bitwise, complete: ranking.complete }
    }

    /// The strategy that decided their number.
    pub(super) fn strategy(&self) -> Strategy {
        self.allocation.strategy
    }

    /// Writes the origin into a ranking that was made of these futures.
    pub(super) fn mark(&self, ranking: &mut Ranking) {
        // The models that would sample here have sampled nothing.
        ranking.models.retain(|role, _| !SAMPLING.contains(role));
        ranking.models.extend(self.models.clone());
        ranking.allocation = self.allocation;
        ranking.bitwise &= self.bitwise;
        ranking.complete &= self.complete;
    }
}

/// The candidates of `ranking` in the order of `request`, with the futures that they had.
pub(super) fn candidates(request: &RankRequest, ranking: &Ranking) -> Result<Vec<Candidate>> {
    let mut ranked: Vec<&RankedCandidate> = ranking.candidates.iter().collect();
    ranked.sort_by_key(|ranked| ranked.candidate);
    if !ranked.iter().map(|ranked| ranked.candidate).eq(0..request.candidates.len()) {
        return Err(Error::invalid_request(format!(
            "candidates has {} entries, and the ranking has {}: give the request that was ranked",
            request.candidates.len(),
            ranked.len()
        )));
    }
    if let Candidates::Given(texts) = &request.candidates
        && let Some(at) = texts.iter().zip(&ranked).position(|(text, ranked)| ranked.response.as_ref() != Some(text))
    {
        return Err(Error::invalid_request(format!(
            "candidates[{at}] is another text than in the ranking: give the request that was ranked"
        )));
    }
    if !ranked.iter().flat_map(|ranked| &ranked.rollouts).any(|rollout| rollout.counted) {
        return Err(Error::invalid_request("no rollout of the ranking counts: there is nothing to score again"));
    }
    Ok(ranked.into_iter().map(candidate).collect())
}

fn candidate(ranked: &RankedCandidate) -> Candidate {
    // Without a response there are no rollouts. Those that were asked for are reported as excluded.
    let samples = if ranked.response.is_some() { ranked.rollouts.len() } else { ranked.excluded };
    let missing = || (ranked.response.is_none()).then(|| "the response was not sampled".to_owned());
    let failure = ranked.note.clone().or_else(missing).map(|note| Error::new(ErrorKind::ModelOutput, note));
    Candidate {
        given: Some(ranked.rollouts.clone()),
        failure,
        given_up: ranked.given_up,
        note: ranked.note.clone(),
        retokenized_differs: ranked.retokenized_differs,
        ..Candidate::new(ranked.response.clone(), samples)
    }
}

impl Future {
    /// A future of `response` as a ranking has it. If it did not count there, it does not count here.
    pub(super) fn given(scene: Arc<Scene>, response: Arc<Message>, trace: RolloutTrace, metrics: usize) -> Self {
        let RolloutTrace { messages, ended, seed, counted, reason, .. } = trace;
        let left_out = (!counted).then(|| reason.unwrap_or_else(|| "it did not count before".into()));
        let future = messages.into_iter().map(said).collect();
        Future { left_out, ..Future::new(Rollout::given(scene, response, seed, future, ended), metrics) }
    }
}

fn said(traced: TracedMessage) -> RolloutMessage {
    RolloutMessage {
        message: Message::new(traced.role, traced.content),
        finish: traced.finish.unwrap_or(Finish::Stop),
        retokenized_differs: traced.retokenized_differs,
        confusion: traced.confusion,
    }
}
