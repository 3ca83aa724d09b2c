//! Conversations in which the policy answers with the best of several candidates. They show what a window, a number of
//! samples or a kind of reward is worth, without training a model for each.

use super::hold::BestOf;
use crate::chat::{Message, Role};
use crate::rank::{Candidates, Ended, RankRequest, RankedCandidate, Ranking, RolloutTrace, TracedMessage};
use crate::tasks::{Talk, seed_below};
use crate::{Error, ErrorKind, Result};

/// Separates the seeds of the user's messages from those of rankings.
const REPLY: u64 = u64::MAX;

/// Holds a conversation from `request` on, and scores the whole. The result is the ranking of the first response, whose one
/// future is the rest, as it is for a policy that does not choose.
pub(super) fn hold(talk: &mut Talk<'_>, request: RankRequest, by: BestOf, turns: usize) -> Result<Ranking> {
    let begun = request.conversation.len();
    let seed = request.seed.unwrap_or_default();
    let mut said = request.conversation.clone();
    let mut first: Option<Ranking> = None;
    let ended = loop {
        let turn = said[begun..].iter().filter(|message| message.role == Role::Assistant).count();
        if turn == turns {
            break Ended::Window;
        }
        let turn_seed = seed_below(seed, &[turn as u64]);
        let ranking = match talk.rank(choice(said.clone(), by, turn_seed)) {
            Err(error) if error.kind() == ErrorKind::ContextLength && first.is_some() => break Ended::Context,
            ranking => ranking.map_err(|e| e.context(format!("turn {}", turn + 1)))?,
        };
        said.push(Message::new(Role::Assistant, best(&ranking)?.response.clone().unwrap_or_default()));
        first.get_or_insert(ranking);
        // The last turn needs no reply.
        if turn + 1 < turns {
            let (message, ended) = talk.reply(&said, seed_below(turn_seed, &[REPLY]))?;
            said.extend(message);
            if let Some(ended) = ended {
                break ended;
            }
        }
    };
    let nothing = || Error::internal("a conversation without a turn");
    let ranking = rest(first.ok_or_else(nothing)?, &said[begun..], ended, seed)?;
    // The response was sampled: it may be empty, as a given one may not.
    talk.rescore(RankRequest { candidates: Candidates::Sample(1), ..request }, &ranking)
}

/// The request by which a turn is chosen.
pub(super) fn choice(conversation: Vec<Message>, by: BestOf, seed: u64) -> RankRequest {
    RankRequest {
        conversation,
        candidates: Candidates::Sample(by.candidates),
        window: Some(by.window),
        samples: Some(by.samples),
        seed: Some(seed),
        ..RankRequest::default()
    }
}

/// The best candidate. One without a reward is not.
fn best(ranking: &Ranking) -> Result<&RankedCandidate> {
    let best = ranking.candidates.first().filter(|candidate| candidate.reward.is_some());
    best.ok_or_else(|| Error::new(ErrorKind::ModelOutput, "no candidate has a reward"))
}

/// The first turn's ranking, with the conversation that followed as the one future of its best candidate.
fn rest(mut ranking: Ranking, said: &[Message], ended: Ended, seed: u64) -> Result<Ranking> {
    let mut candidate = best(&ranking)?.clone();
    let messages = said[1..].iter().map(|message| TracedMessage {
        role: message.role,
        content: message.content.clone(),
        finish: None,
        retokenized_differs: false,
        confusion: None,
    });
    candidate.rollouts = vec![RolloutTrace {
        sample: 0,
        messages: messages.collect(),
        metrics: Default::default(),
        reward: None,
        ended,
        seed,
        counted: true,
        reason: None,
    }];
    (candidate.candidate, candidate.note, candidate.given_up) = (0, None, false);
    ranking.candidates = vec![candidate];
    Ok(ranking)
}
