//! Brings the lines of one ranking together: request, futures, result.
//!
//! Lines of several rankings may interleave. A second request under the same name begins another ranking, as when a training
//! run starts over. A line belongs to the latest ranking of its name. A future may come twice, as a line and as a copy in the
//! result. These are one: the line knows more, and the result knows whether it counts.

use std::collections::{BTreeMap, HashMap};
use std::mem;

use serde::Serialize;

use super::shown::{Candidate, Candidates, Content, Cost, Line, Outcome, Request, Rollout, Usage};
use crate::reward::Estimate;

/// Rankings in the order in which the trace first names them.
#[derive(Debug, Default)]
pub(super) struct Collection {
    rankings: Vec<Gathered>,
    latest: HashMap<String, usize>,
}

/// The lines of one ranking.
#[derive(Debug, Default)]
struct Gathered {
    id: String,
    request: Option<Request>,
    rollouts: Vec<Rollout>,
    outcome: Option<Outcome>,
}

/// A ranking as the page has it.
#[derive(Debug, Serialize)]
pub(super) struct Ranking {
    pub(super) id: String,
    pub(super) request: Option<Request>,
    /// Best first. Candidates that the result does not name come last.
    pub(super) candidates: Vec<Candidate>,
    pub(super) rollouts: Vec<Rollout>,
    outcome: Option<Outcome>,
    /// The cost in the result, or else the sum over the futures, without wall time.
    cost: Cost,
}

impl Collection {
    /// Adds a line.
    pub(super) fn add(&mut self, Line { ranking: id, content }: Line) {
        match content {
            Content::Request(request) => {
                if self.latest.get(&id).is_some_and(|&index| self.rankings[index].request.is_some()) {
                    self.latest.remove(&id);
                }
                self.latest(id).request = Some(*request);
            }
            Content::Rollout(rollout) => self.latest(id).rollouts.push(*rollout),
            Content::Ranking(outcome) => self.latest(id).outcome = Some(*outcome),
        }
    }

    fn latest(&mut self, id: String) -> &mut Gathered {
        let next = self.rankings.len();
        let index = *self.latest.entry(id.clone()).or_insert(next);
        if index == next {
            self.rankings.push(Gathered { id, ..Gathered::default() });
        }
        &mut self.rankings[index]
    }

    /// All rankings, whole.
    pub(super) fn finish(self) -> Vec<Ranking> {
        self.rankings.into_iter().map(Gathered::finish).collect()
    }
}

impl Gathered {
    fn finish(mut self) -> Ranking {
        let mut candidates = self.outcome.as_mut().map(|outcome| mem::take(&mut outcome.ranking)).unwrap_or_default();
        let mut traced = Vec::new();
        for candidate in &mut candidates {
            let number = candidate.candidate;
            let rollouts = mem::take(&mut candidate.rollouts).into_iter();
            traced.extend(rollouts.map(|rollout| Rollout { candidate: number, ..rollout }));
        }
        let rollouts = merge(self.rollouts, traced);
        add_missing(&mut candidates, self.request.as_ref(), &rollouts);
        let cost = match self.outcome.as_ref().and_then(|outcome| outcome.cost) {
            Some(cost) => cost,
            None => rollouts.iter().filter_map(|rollout| rollout.cost).fold(Cost::default(), sum),
        };
        Ranking { id: self.id, request: self.request, candidates, rollouts, outcome: self.outcome, cost }
    }
}

/// Futures by candidate and sample, each once. Of two lines about one future, the later holds.
fn merge(lines: Vec<Rollout>, traced: Vec<Rollout>) -> Vec<Rollout> {
    let mut known: BTreeMap<(u64, u64), Rollout> = BTreeMap::new();
    let mut nameless = Vec::new();
    let name = |rollout: &Rollout| rollout.candidate.zip(rollout.sample);
    for line in lines {
        match name(&line) {
            Some(name) => drop(known.insert(name, line)),
            None => nameless.push(line),
        }
    }
    for copy in traced {
        match name(&copy) {
            Some(name) => match known.remove(&name) {
                Some(line) => drop(known.insert(name, complete(line, copy))),
                None => drop(known.insert(name, copy)),
            },
            None => nameless.push(copy),
        }
    }
    let mut all: Vec<Rollout> = known.into_values().chain(nameless).collect();
    for rollout in &mut all {
        // Before a ranking has ended, a future with a reward may still count.
        rollout.counted.get_or_insert(rollout.reward.is_some() && rollout.reason.is_none());
    }
    all
}

/// A line, completed with what only the result knows.
fn complete(line: Rollout, copy: Rollout) -> Rollout {
    Rollout {
        messages: if line.messages.is_empty() { copy.messages } else { line.messages },
        metrics: if line.metrics.is_empty() { copy.metrics } else { line.metrics },
        ended: line.ended.or(copy.ended),
        seed: line.seed.or(copy.seed),
        reward: line.reward.or(copy.reward),
        counted: copy.counted.or(line.counted),
        reason: copy.reason.or(line.reason),
        ..line
    }
}

/// Adds candidates that the result does not name, and texts that it does not have. Without a result, rewards are those of the
/// futures so far.
fn add_missing(candidates: &mut Vec<Candidate>, request: Option<&Request>, rollouts: &[Rollout]) {
    let mut known: BTreeMap<Option<u64>, (Option<&str>, Vec<f64>)> = BTreeMap::new();
    if let Some(Candidates::Given(given)) = request.and_then(|request| request.candidates.as_ref()) {
        known.extend((0..).map(Some).zip(given.iter().map(|text| (Some(text.as_str()), Vec::new()))));
    }
    for rollout in rollouts {
        let (text, rewards) = known.entry(rollout.candidate).or_default();
        *text = text.or(rollout.response.as_deref());
        rewards.extend(rollout.reward.filter(|_| rollout.counted == Some(true)));
    }
    let ranked: HashMap<Option<u64>, usize> =
        candidates.iter().enumerate().map(|(index, candidate)| (candidate.candidate, index)).collect();
    let is_final = !candidates.is_empty();
    for (number, (text, rewards)) in known {
        let text = text.map(str::to_owned);
        match ranked.get(&number) {
            Some(&index) => candidates[index].response = candidates[index].response.take().or(text),
            None => {
                let rewards = if is_final { &[][..] } else { &rewards };
                candidates.push(preliminary(number, text, rewards));
            }
        }
    }
    if !is_final {
        candidates.sort_by(|a, b| match (a.reward, b.reward) {
            (Some(a), Some(b)) => b.total_cmp(&a),
            (a, b) => b.is_some().cmp(&a.is_some()),
        });
    }
}

fn preliminary(candidate: Option<u64>, response: Option<String>, rewards: &[f64]) -> Candidate {
    let estimate = Estimate::of(rewards);
    Candidate {
        candidate,
        response,
        reward: estimate.map(|estimate| estimate.mean),
        std_error: estimate.and_then(|estimate| estimate.std_error),
        interval: estimate.and_then(|estimate| estimate.interval).map(|bounds| bounds.map(Some)),
        ..Candidate::default()
    }
}

fn sum(a: Cost, b: Cost) -> Cost {
    Cost {
        policy: both(a.policy, b.policy, sum_usage),
        user: both(a.user, b.user, sum_usage),
        judge: both(a.judge, b.judge, sum_usage),
        extractor: both(a.extractor, b.extractor, sum_usage),
        reward_model: both(a.reward_model, b.reward_model, sum_usage),
        seconds: None,
    }
}

fn sum_usage(a: Usage, b: Usage) -> Usage {
    Usage {
        prompt_tokens: both(a.prompt_tokens, b.prompt_tokens, u64::saturating_add),
        reused_tokens: both(a.reused_tokens, b.reused_tokens, u64::saturating_add),
        generated_tokens: both(a.generated_tokens, b.generated_tokens, u64::saturating_add),
        seconds: both(a.seconds, b.seconds, |a, b| a + b),
    }
}

fn both<T>(a: Option<T>, b: Option<T>, join: impl FnOnce(T, T) -> T) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(join(a, b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(lines: &[&str]) -> Vec<Ranking> {
        let mut collection = Collection::default();
        for line in lines {
            let read = Line::parse(line.as_bytes()).unwrap_or_else(|why| panic!("{why}: {line}"));
            collection.add(read.unwrap_or_else(|| panic!("an unknown kind: {line}")));
        }
        collection.finish()
    }

    #[test]
    fn interleaved_rankings_are_told_apart() {
        let rankings = collect(&[
            r#"{"kind":"request","ranking":"a","candidates":["x"]}"#,
            r#"{"kind":"rollout","ranking":"b","candidate":0,"sample":0}"#,
            r#"{"kind":"rollout","ranking":"a","candidate":0,"sample":0}"#,
            r#"{"kind":"request","ranking":"b"}"#,
            r#"{"kind":"rollout","ranking":"b","candidate":0,"sample":1}"#,
        ]);
        let seen: Vec<_> = rankings.iter().map(|ranking| (ranking.id.as_str(), ranking.rollouts.len())).collect();
        assert_eq!(seen, [("a", 1), ("b", 2)]);
    }

    #[test]
    fn a_second_request_starts_anew() {
        let rankings = collect(&[
            r#"{"kind":"request","ranking":"a"}"#,
            r#"{"kind":"rollout","ranking":"a","candidate":0,"sample":0,"reward":1}"#,
            r#"{"kind":"request","ranking":"a"}"#,
            r#"{"kind":"rollout","ranking":"a","candidate":0,"sample":0,"reward":2}"#,
        ]);
        let rewards: Vec<_> = rankings.iter().map(|ranking| ranking.rollouts[0].reward).collect();
        assert_eq!(rewards, [Some(1.0), Some(2.0)]);
    }

    #[test]
    fn a_line_and_the_results_copy_are_one_future() {
        let [ranking] = &collect(&[
            r#"{"kind":"rollout","ranking":"a","candidate":1,"sample":0,"reward":0.5,"messages":[{"content":"hm"}],
                "metrics":{"m":{"value":0.5,"mass":0.9}}}"#,
            r#"{"kind":"ranking","ranking":"a","result":{"ranking":[{"candidate":1,"reward":null,"rollouts":[
                {"sample":0,"reward":0.5,"counted":false,"reason":"paired with one that failed","metrics":{"m":0.5}},
                {"sample":1,"ended":"failed","counted":false}]}]}}"#,
        ])[..] else {
            panic!("one ranking");
        };
        assert_eq!(ranking.rollouts.len(), 2);
        let first = &ranking.rollouts[0];
        assert_eq!((first.counted, first.reason.as_deref()), (Some(false), Some("paired with one that failed")));
        assert_eq!(first.messages.len(), 1);
        assert!(matches!(first.metrics["m"], Some(super::super::shown::Metric::Judged(_))));
        assert_eq!(ranking.rollouts[1].candidate, Some(1));
    }

    #[test]
    fn without_a_result_rewards_are_those_so_far() {
        let [ranking] = &collect(&[
            r#"{"kind":"request","ranking":"a","candidates":["bad","good","untried"]}"#,
            r#"{"kind":"rollout","ranking":"a","candidate":0,"sample":0,"reward":0.1,"cost":{"user":{"prompt_tokens":3}}}"#,
            r#"{"kind":"rollout","ranking":"a","candidate":1,"sample":0,"reward":0.4,"cost":{"user":{"prompt_tokens":4}}}"#,
            r#"{"kind":"rollout","ranking":"a","candidate":1,"sample":1,"reward":0.6}"#,
            r#"{"kind":"rollout","ranking":"a","candidate":1,"sample":2,"reward":null}"#,
        ])[..] else {
            panic!("one ranking");
        };
        let rows: Vec<_> = ranking.candidates.iter().map(|c| (c.response.as_deref().unwrap(), c.reward)).collect();
        assert_eq!(rows, [("good", Some(0.5)), ("bad", Some(0.1)), ("untried", None)]);
        // 0.5 ± 12.706 · 0.1
        let [low, high] = ranking.candidates[0].interval.unwrap();
        assert!((low.unwrap() + 0.7706).abs() < 1e-4 && (high.unwrap() - 1.7706).abs() < 1e-4);
        assert_eq!(ranking.cost.user.unwrap().prompt_tokens, Some(7));
        assert_eq!(ranking.rollouts.iter().filter(|rollout| rollout.counted == Some(true)).count(), 3);
    }

    #[test]
    fn futures_without_a_name_are_kept() {
        let line = r#"{"kind":"rollout","ranking":"a","response":"so"}"#;
        let [ranking] = &collect(&[line, line])[..] else { panic!("one ranking") };
        assert_eq!(ranking.rollouts.len(), 2);
        let [candidate] = &ranking.candidates[..] else { panic!("one candidate") };
        assert_eq!((candidate.candidate, candidate.response.as_deref()), (None, Some("so")));
    }
}
