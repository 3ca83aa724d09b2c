//! The sequences of a step that go into a run of the graph together.
//!
//! Sequences with as many past and as many new tokens fill one batch exactly. Where the graph hides padding, shorter
//! pasts may stand beside longer ones. Everything else runs alone.

use std::collections::BTreeMap;

use crate::decode::executor::Step;

/// The restrictions of the graph.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    /// Pasts may be padded on the left.
    pub(super) left_padding: bool,
    /// Several new tokens after a past are for one sequence only.
    pub(super) grouped: bool,
    /// Most rows of past in a run, padding included, beyond those of a single sequence.
    pub(super) most_past: usize,
    /// Most new tokens in a run, at least one for each sequence.
    pub(super) most_tokens: usize,
}

/// One run of the graph.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) members: Vec<Member>,
    /// New tokens of each member.
    pub(super) new: usize,
}

/// A sequence's part in a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// Its number in the step.
    pub(super) sequence: usize,
    /// Its first token in the step's stream.
    pub(super) first: usize,
    /// Its tokens before that one.
    pub(super) past: usize,
}

/// A row of logits that somebody reads.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) member: usize,
    /// Its token among the member's new ones.
    pub(super) token: usize,
    /// Its place among the step's rows of logits.
    pub(super) to: usize,
}

impl Run {
    /// Rows of past that every member has, padding included.
    pub(super) fn past(&self) -> usize {
        self.members.iter().map(|member| member.past).max().unwrap_or(0)
    }

    /// The rows of logits that the step wants of this run.
    pub(super) fn wanted(&self, step: &Step) -> Vec<Wanted> {
        let mut wanted = Vec::new();
        for (index, member) in self.members.iter().enumerate() {
            // Rows come in the order of the stream.
            let from = step.logit_rows.partition_point(|&row| (row as usize) < member.first);
            let rows = step.logit_rows[from..].iter().map(|&row| row as usize - member.first);
            let own = rows.take_while(|&token| token < self.new);
            wanted.extend(own.enumerate().map(|(i, token)| Wanted { member: index, token, to: from + i }));
        }
        wanted
    }
}

/// Cuts a step into runs. A sequence that is cut into several has them in order.
pub(super) fn split(step: &Step, rules: &Rules) -> Vec<Run> {
    // By new tokens and past, so that neighbours fit together best; the longest past first.
    let mut alike: BTreeMap<(usize, std::cmp::Reverse<usize>), Vec<Member>> = BTreeMap::new();
    let mut runs = Vec::new();
    for sequence in 0..step.sequences() {
        let (from, to) = (step.cumulative[sequence] as usize, step.cumulative[sequence + 1] as usize);
        let past = step.past[sequence] as usize;
        let member = |first: usize| Member { sequence, first, past: past + first - from };
        let alone = to - from > rules.most_tokens || (rules.grouped && past > 0 && to - from > 1);
        if alone {
            let firsts = (from..to).step_by(rules.most_tokens.min(to - from));
            runs.extend(
                firsts.map(|first| Run { members: vec![member(first)], new: (to - first).min(rules.most_tokens) }),
            );
        } else {
            alike.entry((to - from, std::cmp::Reverse(past))).or_default().push(member(from));
        }
    }
    for ((new, _), members) in alike {
        for member in members {
            match runs.last_mut().filter(|run: &&mut Run| fits(run, new, &member, rules)) {
                Some(run) => run.members.push(member),
                None => runs.push(Run { members: vec![member], new }),
            }
        }
    }
    runs
}

/// True if `member`, whose past is not longer than those of `run`, may join it.
fn fits(run: &Run, new: usize, member: &Member, rules: &Rules) -> bool {
    let (batch, past) = (run.members.len() + 1, run.past());
    // Beyond half of the past, padding would cost more than another run saves.
    let alike = member.past == past || (rules.left_padding && 2 * member.past >= past);
    let together = !(rules.grouped && past > 0 && new > 1);
    let small = batch * past <= rules.most_past && batch * new <= rules.most_tokens;
    run.new == new && alike && together && small
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::rope::Variant;

    const RULES: Rules = Rules { left_padding: false, grouped: false, most_past: 1000, most_tokens: 100 };

    /// A step of sequences with these many past and new tokens, all of whose last rows are wanted.
    fn step(sequences: &[(usize, usize)]) -> Step {
        let mut step = Step::default();
        for &(past, new) in sequences {
            step.push(Variant::default(), &vec![0; new], past, std::iter::empty(), |_| -1, 1);
        }
        step
    }

    /// The sequences of each run, with their past.
    fn plan(sequences: &[(usize, usize)], rules: &Rules) -> Vec<(usize, Vec<(usize, usize)>)> {
        let runs = split(&step(sequences), rules);
        runs.iter().map(|r| (r.new, r.members.iter().map(|m| (m.sequence, m.past)).collect())).collect()
    }

    #[test]
    fn equal_lengths_share_a_run_and_others_only_where_padding_is_hidden() {
        let sequences = [(9, 1), (5, 1), (9, 1), (2, 1), (5, 3)];
        assert_eq!(
            plan(&sequences, &RULES),
            [(1, vec![(0, 9), (2, 9)]), (1, vec![(1, 5)]), (1, vec![(3, 2)]), (3, vec![(4, 5)])]
        );
        let padding = Rules { left_padding: true, ..RULES };
        assert_eq!(
            plan(&sequences, &padding),
            [(1, vec![(0, 9), (2, 9), (1, 5)]), (1, vec![(3, 2)]), (3, vec![(4, 5)])]
        );
    }

    #[test]
    fn grouped_attention_takes_chunks_after_a_past_alone() {
        let rules = Rules { grouped: true, ..RULES };
        assert_eq!(plan(&[(4, 2), (4, 2), (0, 2), (0, 2)], &rules).len(), 3);
        assert_eq!(plan(&[(4, 1), (4, 1)], &rules).len(), 1);
    }

    #[test]
    fn runs_are_bounded_and_long_chunks_come_in_order() {
        let rules = Rules { most_tokens: 4, most_past: 20, ..RULES };
        assert_eq!(plan(&[(3, 10)], &rules), [(4, vec![(0, 3)]), (4, vec![(0, 7)]), (2, vec![(0, 11)])]);
        assert_eq!(plan(&[(9, 1); 5], &rules).len(), 3, "two of nine rows each");
        assert_eq!(plan(&[(0, 1); 5], &rules).len(), 2);
    }

    #[test]
    fn wanted_rows_are_found_in_whichever_run_computes_them() {
        let step = step(&[(0, 3), (0, 10), (0, 3)]);
        let runs = split(&step, &Rules { most_tokens: 6, ..RULES });
        let found: Vec<_> = runs
            .iter()
            .flat_map(|run| run.wanted(&step).into_iter().map(|w| (run.members[w.member].sequence, w.token, w.to)))
            .collect();
        assert_eq!(found, [(1, 3, 1), (0, 2, 0), (2, 2, 2)]);
    }
}
