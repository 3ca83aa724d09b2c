//! The scheduler over a stand-in model whose cache rows can be recognised: each row must be the hash of the very prefix
//! that its sequence has there, whatever was shared, copied, evicted, preempted or emptied.

mod deadlines;
mod reset;
mod urgency;

use std::cell::Cell;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use ndarray::Array2;
use proptest::prelude::*;

use super::*;

const VOCABULARY: usize = 7;
/// Tokens of a block, where a test does not say otherwise.
const BLOCK_SIZE: usize = 16;

fn mix(state: u64, token: u64) -> u64 {
    let mut x = (state ^ token.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(0x1234_5678_9abc_def1);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ (x >> 27)
}

thread_local! {
    /// The stand-in's weights at present, by number.
    static WEIGHTS: Cell<u64> = const { Cell::new(0) };
}

/// The state before the first token: rows of one variant are none of the other's, and those of old weights none of the
/// new ones'.
fn root(variant: Variant) -> u64 {
    let weights = 2 * WEIGHTS.get();
    match variant {
        Variant::Short => weights + 1,
        Variant::Long => weights + 2,
    }
}

/// The state after a sequence's tokens.
fn hash(variant: Variant, tokens: &[u32]) -> u64 {
    tokens.iter().fold(root(variant), |state, &token| mix(state, u64::from(token)))
}

/// The stand-in's greedy continuation of a prefix.
fn continuation(state: u64) -> u32 {
    (state % VOCABULARY as u64) as u32
}

/// Rows are hashes of prefixes; a row depends on the row before it, found through the block table.
struct Fake {
    rows: Vec<u64>,
    block_size: usize,
    /// Most blocks whose rows were ever written.
    computed: Vec<(i64, i64)>,
}

impl Executor for Fake {
    fn copy_block(&mut self, from: u32, to: u32) {
        let from = from as usize * self.block_size;
        self.rows.copy_within(from..from + self.block_size, to as usize * self.block_size);
    }

    fn run(&mut self, step: &Step, read: &mut dyn FnMut(ArrayView2<'_, f32>)) -> Result<()> {
        let (width, size) = (step.block_table.len() / step.sequences(), self.block_size);
        let mut states = vec![0; step.tokens.len()];
        let mut written = std::collections::HashSet::new();
        // As in the operator: all rows are written before any is read.
        for sequence in 0..step.sequences() {
            let table = &step.block_table[sequence * width..][..width];
            let at = |position: usize| table[position / size] as usize * size + position % size;
            let (first, end) = (step.cumulative[sequence] as usize, step.cumulative[sequence + 1] as usize);
            let mut state = match step.past[sequence] {
                0 => root(step.variants[sequence]),
                past => self.rows[at(past as usize - 1)],
            };
            for (token, computed) in states.iter_mut().enumerate().take(end).skip(first) {
                let position = step.positions[token] as usize;
                assert_eq!(position, step.past[sequence] as usize + token - first);
                state = mix(state, step.tokens[token] as u64);
                *computed = state;
                self.computed.push((step.tokens[token], step.positions[token]));
                match step.slots[token] {
                    -1 => assert_eq!(self.rows[at(position)], state, "a row that was there already is another's"),
                    slot => {
                        assert_eq!(slot as usize, at(position));
                        assert!(written.insert(slot), "two tokens write one slot");
                        self.rows[slot as usize] = state;
                    }
                }
            }
        }
        let mut logits = Array2::zeros((step.logit_rows.len(), VOCABULARY));
        for (row, &token) in step.logit_rows.iter().enumerate() {
            logits[[row, continuation(states[token as usize]) as usize]] = 1.0;
        }
        read(logits.view());
        Ok(())
    }
}

/// Decodes greedily; every row read is checked against the hash of its prefix.
struct Greedy {
    variants: Variants,
    /// Tokens of the prompt, each of which is given the ones before it.
    prompt: usize,
    next: usize,
    left: usize,
    out: Vec<u32>,
}

impl Reader for Greedy {
    fn next_position(&self) -> usize {
        self.next
    }

    fn read(&mut self, position: usize, tokens: &[u32], logits: &[f32]) -> Result<Next> {
        assert_eq!(position, self.next, "positions are read once, in order");
        self.next += 1;
        let token = logits.iter().position(|&x| x == 1.0).expect("one-hot") as u32;
        let variant = self.variants.of(tokens.len().max(self.prompt));
        assert_eq!(token, continuation(hash(variant, tokens)));
        if position + 1 < self.prompt {
            return Ok(Next::Continue);
        }
        if self.left == 0 {
            return Ok(Next::Finish);
        }
        self.left -= 1;
        self.out.push(token);
        Ok(if self.left == 0 { Next::Finish } else { Next::Append(token) })
    }
}

/// All sequences are short.
const ONE: Variants = Variants { longest_short: None };

fn greedy(prompt: &[u32], new: usize) -> Greedy {
    scored(prompt, prompt.len() - 1, new)
}

/// As [`greedy`]; the prompt's rows from `from` on are read, too, as where each of its tokens gets a score.
fn scored(prompt: &[u32], from: usize, new: usize) -> Greedy {
    Greedy { variants: ONE, prompt: prompt.len(), next: from, left: new, out: Vec::new() }
}

fn expected(variants: Variants, prompt: &[u32], new: usize) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    for _ in 0..new {
        tokens.push(continuation(hash(variants.of(tokens.len()), &tokens)));
    }
    tokens.split_off(prompt.len())
}

fn scheduler(blocks: usize) -> (Scheduler<Greedy>, Fake) {
    scheduler_with(blocks, ONE)
}

fn scheduler_with(blocks: usize, variants: Variants) -> (Scheduler<Greedy>, Fake) {
    scheduler_of(blocks, BLOCK_SIZE, variants)
}

fn scheduler_of(blocks: usize, block_size: usize, variants: Variants) -> (Scheduler<Greedy>, Fake) {
    let most = 64;
    made(SchedulerOptions { blocks, block_size, max_sequences: most, max_logit_rows: most, block_bytes: 1, variants })
}

fn made(options: SchedulerOptions) -> (Scheduler<Greedy>, Fake) {
    let (blocks, block_size) = (options.blocks, options.block_size);
    (Scheduler::new(options), Fake { rows: vec![u64::MAX; blocks * block_size], block_size, computed: Vec::new() })
}

/// The time at which all tests begin.
static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A step of so many prompt tokens, whatever the deadlines.
fn step_of(budget: usize) -> Budget {
    Budget { tokens: budget, least: budget, rate: None, now: *BEGINNING }
}

/// A step that is sized to deadlines, 20 ms after the one before it, at a token a step.
fn sized(scheduler: &Scheduler<Greedy>, budget: usize, least: usize) -> Budget {
    let now = *BEGINNING + Duration::from_millis(20 * scheduler.totals.steps);
    Budget { tokens: budget, least, rate: Some(50.0), now }
}

fn run(scheduler: &mut Scheduler<Greedy>, fake: &mut Fake, budget: usize) -> Vec<Ended<Greedy>> {
    let mut ended = Vec::new();
    // Every step computes at least a token; sequences that are preempted start over.
    let left = scheduler.running.values().chain(scheduler.waiting.values());
    let tokens: usize = left.map(|sequence| sequence.limit + 1).sum();
    let most = tokens * (1 + scheduler.running() + scheduler.waiting());
    for steps in 0.. {
        if scheduler.is_idle() {
            break;
        }
        assert!(steps <= most, "not done after {steps} steps");
        assert!(scheduler.step(&step_of(budget), fake, &mut ended) > 0, "a step with work to do makes progress");
        scheduler.cache.check();
    }
    ended
}

#[test]
fn twelve_that_start_together_compute_a_shared_prefix_once() {
    // 4 candidates × 3 samples over 100 shared tokens, then 30 per candidate: nothing is computed twice but each
    // sequence's last token.
    let (mut scheduler, mut fake) = scheduler(200);
    let mut prompts = Vec::new();
    for candidate in 0..4u32 {
        for _ in 0..3 {
            let tail = (0..30).map(|i| 1000 + candidate * 100 + i);
            prompts.push((0..100).chain(tail).collect::<Vec<u32>>());
        }
    }
    for prompt in &prompts {
        scheduler.submit(prompt.clone(), 5, Urgency::default(), greedy(prompt, 5)).expect("fits");
    }
    let ended = run(&mut scheduler, &mut fake, 64);
    let computed: usize = ended.iter().map(|e| e.cost.computed).sum();
    let reused: usize = ended.iter().map(|e| e.cost.reused()).sum();
    assert_eq!(computed, 100 + 4 * 30 + 8); // eight twins compute their last token again
    assert_eq!(computed + reused, 12 * 130);
    for e in ended {
        assert_eq!(e.reader.out, expected(ONE, &prompts[e.id.0 as usize], 5));
    }
}

#[test]
fn what_cannot_fit_alone_is_refused_with_the_numbers() {
    let (mut scheduler, _) = scheduler(4);
    let prompt: Vec<u32> = (0..60).collect();
    let error = scheduler
        .submit(prompt.clone(), 10, Urgency::default(), greedy(&prompt, 10))
        .expect_err("69 rows need five blocks");
    assert_eq!(error.kind(), ErrorKind::MemoryBudget);
    assert!(error.to_string().contains("69 tokens needs 5 cache blocks"), "{error}");
    scheduler.submit(prompt.clone(), 5, Urgency::default(), greedy(&prompt, 5)).expect("64 rows fit four blocks");
}

#[test]
fn a_pinned_prefix_survives_and_counts_against_the_budget() {
    let (mut scheduler, mut fake) = scheduler(6);
    let prefix: Vec<u32> = (0..35).collect();
    scheduler.pin(1, &prefix).expect("fits");
    scheduler.submit(prefix.clone(), 1, Urgency::default(), greedy(&prefix, 1)).expect("fits");
    run(&mut scheduler, &mut fake, 64);
    let other: Vec<u32> = (100..160).collect();
    scheduler.submit(other.clone(), 1, Urgency::default(), greedy(&other, 1)).expect("four blocks are left");
    run(&mut scheduler, &mut fake, 64);
    let prompt: Vec<u32> = prefix.iter().copied().chain([7, 8]).collect();
    scheduler.submit(prompt.clone(), 1, Urgency::default(), greedy(&prompt, 1)).expect("fits");
    let ended = run(&mut scheduler, &mut fake, 64);
    assert_eq!(ended[0].cost.reused(), 32, "the pinned blocks are still there");
    let long: Vec<u32> = (0..80).map(|i| i + 500).collect();
    assert!(
        scheduler.submit(long.clone(), 1, Urgency::default(), greedy(&long, 1)).is_err(),
        "five blocks are not to be had beside the pin"
    );
    scheduler.unpin(1);
    scheduler.submit(long.clone(), 1, Urgency::default(), greedy(&long, 1)).expect("now they are");
    scheduler.cache.check();
}

#[test]
fn a_sequence_that_outgrows_its_tables_starts_over_with_the_others() {
    let variants = Variants { longest_short: Some(40) };
    let (mut scheduler, mut fake) = scheduler_with(20, variants);
    let prompt: Vec<u32> = (0..35).collect();
    let submit = |scheduler: &mut Scheduler<Greedy>| {
        scheduler
            .submit(prompt.clone(), 10, Urgency::default(), Greedy { variants, ..greedy(&prompt, 10) })
            .expect("fits");
    };
    submit(&mut scheduler);
    let ended = run(&mut scheduler, &mut fake, 64);
    assert_eq!(ended[0].reader.out, expected(variants, &prompt, 10));
    // 35 rows of the prompt; one for each token but the last; 40 again, once the 41st had been sampled.
    assert_eq!(fake.computed.len(), 35 + 9 + 40);
    assert_eq!(ended[0].cost.preemptions, 0);
    // A second one finds the rows of either kind.
    submit(&mut scheduler);
    let ended = run(&mut scheduler, &mut fake, 64);
    assert_eq!(ended[0].reader.out, expected(variants, &prompt, 10));
    assert_eq!(ended[0].cost.computed, 1, "its last token, for its logits");
}

#[test]
fn a_pinned_prefix_serves_sequences_of_its_own_variant() {
    let (mut scheduler, mut fake) = scheduler_with(20, Variants { longest_short: Some(40) });
    let prefix: Vec<u32> = (0..32).collect();
    scheduler.pin(1, &prefix).expect("fits");
    let mut reused = |length: u32| {
        let prompt: Vec<u32> = (0..length).collect();
        let reader = Greedy { variants: Variants { longest_short: Some(40) }, ..greedy(&prompt, 1) };
        scheduler.submit(prompt, 1, Urgency::default(), reader).expect("fits");
        run(&mut scheduler, &mut fake, 64)[0].cost.reused()
    };
    assert_eq!((reused(33), reused(34), reused(41), reused(42)), (0, 33, 0, 41));
}

/// Forty tokens leave half a block in the cache, of which the next sequence has four rows in common. It reads the rows that
/// it could have copied, and needs every block.
#[test]
fn a_prefix_that_ends_within_a_block_leaves_the_whole_cache_to_a_scored_prompt() {
    let (mut scheduler, mut fake) = scheduler(8);
    let first: Vec<u32> = (10..50).collect();
    let second: Vec<u32> = (10..46).chain(100..192).collect();
    for prompt in [first, second] {
        scheduler.submit(prompt.clone(), 0, Urgency::default(), scored(&prompt, 0, 0)).expect("fits");
        let ended = run(&mut scheduler, &mut fake, 64);
        assert!(ended[0].result.is_ok());
    }
}

#[test]
fn a_pinned_prefix_does_not_hold_what_it_could_copy() {
    let (mut scheduler, mut fake) = scheduler(8);
    let first: Vec<u32> = (10..50).collect();
    scheduler.submit(first.clone(), 0, Urgency::default(), greedy(&first, 0)).expect("fits");
    run(&mut scheduler, &mut fake, 64);
    let pinned: Vec<u32> = (10..46).chain(200..212).collect();
    scheduler.pin(1, &pinned).expect("three blocks");
    let other: Vec<u32> = (300..380).collect();
    scheduler.submit(other.clone(), 0, Urgency::default(), scored(&other, 0, 0)).expect("five blocks are left");
    assert!(run(&mut scheduler, &mut fake, 64)[0].result.is_ok());
}

/// Nothing else leads there.
#[test]
fn a_step_without_work_fails_the_first_and_goes_on() {
    let (mut scheduler, mut fake) = scheduler(8);
    let prompt: Vec<u32> = (0..20).collect();
    for _ in 0..2 {
        scheduler.submit(prompt.clone(), 1, Urgency::default(), greedy(&prompt, 1)).expect("fits");
    }
    let mut ended = Vec::new();
    assert_eq!(scheduler.step(&step_of(0), &mut fake, &mut ended), 0, "no budget, no work");
    let error = ended[0].result.as_ref().expect_err("ended");
    assert_eq!((ended[0].id, error.kind()), (SequenceId(0), ErrorKind::Internal));
    assert!(error.to_string().contains("nothing to compute for 2 running"), "{error}");
    scheduler.cache.check();
    let ended = run(&mut scheduler, &mut fake, 64);
    assert_eq!(ended[0].reader.out, expected(ONE, &prompt, 1));
}

/// What a test does between steps.
#[derive(Debug, Clone)]
enum Action {
    Submit {
        prompt: Vec<u32>,
        new: usize,
        /// Rows of the prompt that are read, from its end.
        read: usize,
        urgency: Urgency,
    },
    /// A prefix that stays, until the next one.
    Pin {
        of: usize,
        keep: usize,
        tail: Vec<u32>,
    },
    /// Forks the n-th submitted prompt, with its continuation so far unknown to the scheduler.
    Fork {
        of: usize,
        keep: usize,
        tail: Vec<u32>,
        new: usize,
        read: usize,
        urgency: Urgency,
    },
    Cancel {
        of: usize,
    },
    Steps {
        count: usize,
        budget: usize,
    },
}

/// One row, as for a reply, or all, or as many as come.
fn read() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1), Just(usize::MAX), 1..100usize]
}

fn urgency() -> impl Strategy<Value = Urgency> {
    let deadline = prop::option::of((0..3000u64).prop_map(|ms| *BEGINNING + Duration::from_millis(ms)));
    prop_oneof![
        Just(Urgency::default()),
        (-1..2i32, deadline).prop_map(|(priority, deadline)| Urgency { priority, deadline, ..Urgency::default() })
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let tokens = |n| prop::collection::vec(0..3u32, n);
    prop_oneof![
        3 => (tokens(1..90), 0..40usize, read(), urgency())
            .prop_map(|(prompt, new, read, urgency)| Action::Submit { prompt, new, read, urgency }),
        4 => (0..64usize, 0..90usize, tokens(1..20), 0..40usize, read(), urgency())
            .prop_map(|(of, keep, tail, new, read, urgency)| Action::Fork { of, keep, tail, new, read, urgency }),
        1 => (0..64usize, 0..90usize, tokens(0..40)).prop_map(|(of, keep, tail)| Action::Pin { of, keep, tail }),
        1 => (0..64usize).prop_map(|of| Action::Cancel { of }),
        4 => (1..6usize, 1..70usize).prop_map(|(count, budget)| Action::Steps { count, budget }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Under any mix of forks, lengths, urgencies, cancellations, variants and memory, all sequences end, with what
    /// they would give alone, and the budget is never exceeded (`Cache::check` and the pool's size see to that).
    #[test]
    fn any_schedule_ends_and_changes_nothing(
        blocks in 9usize..40,
        longest_short in prop::option::of(1usize..110),
        actions in prop::collection::vec(action(), 1..40),
    ) {
        let variants = Variants { longest_short };
        let (mut scheduler, mut fake) = scheduler_with(blocks, variants);
        let mut prompts: Vec<(Vec<u32>, usize)> = Vec::new();
        let mut ended = Vec::new();
        let mut cancelled = 0;
        for action in actions {
            let forked = |prompts: &[(Vec<u32>, usize)], of: usize, keep: usize, tail: &[u32]| {
                let (prompt, n) = prompts.get(of % prompts.len().max(1))?;
                let mut tokens = prompt.clone();
                tokens.extend(expected(variants, prompt, *n));
                tokens.truncate(keep.max(1));
                Some([&tokens, tail].concat())
            };
            let (prompt, new, read, urgency) = match action {
                Action::Submit { prompt, new, read, urgency } => (prompt, new, read, urgency),
                Action::Fork { of, keep, tail, new, read, urgency } => match forked(&prompts, of, keep, &tail) {
                    Some(tokens) => (tokens, new, read, urgency),
                    None => continue,
                },
                Action::Pin { of, keep, tail } => {
                    if let Some(tokens) = forked(&prompts, of, keep, &tail) {
                        scheduler.unpin(1);
                        // Refused where the others would not fit beside it.
                        drop(scheduler.pin(1, &tokens));
                    }
                    continue;
                }
                Action::Cancel { of } => {
                    cancelled += usize::from(scheduler.cancel(SequenceId(of as u64)).is_some());
                    continue;
                }
                Action::Steps { count, budget } => {
                    for _ in 0..count {
                        let (idle, sized) = (scheduler.is_idle(), sized(&scheduler, budget, 1));
                        let computed = scheduler.step(&sized, &mut fake, &mut ended);
                        prop_assert_eq!(computed == 0, idle, "a step with work to do makes progress");
                        scheduler.cache.check();
                    }
                    continue;
                }
            };
            // Ids count what was accepted.
            let reader = Greedy { variants, ..scored(&prompt, prompt.len().saturating_sub(read), new) };
            if scheduler.submit(prompt.clone(), new, urgency, reader).is_ok() {
                prompts.push((prompt, new));
            }
        }
        ended.extend(run(&mut scheduler, &mut fake, 17));
        prop_assert_eq!(ended.len() + cancelled, prompts.len());
        for e in ended {
            prop_assert!(e.result.is_ok());
            let (prompt, new) = &prompts[e.id.0 as usize];
            prop_assert_eq!(&e.reader.out, &expected(variants, prompt, *new));
        }
        scheduler.unpin(1);
        scheduler.cache.check();
        prop_assert_eq!(scheduler.cache.available(), blocks, "nothing is held once all have ended");
    }

    /// Prompts that fill the cache exactly, scored or continued, one after the other or together, each having any part of
    /// the one before it in common.
    #[test]
    fn what_fills_the_cache_exactly_ends(
        block_size in prop_oneof![Just(4usize), Just(16), Just(64)],
        blocks in 1usize..10,
        sequences in prop::collection::vec((0usize..160, read(), 0usize..40, any::<bool>(), 0usize..3), 2..8),
        budget in 1usize..70,
    ) {
        let (mut scheduler, mut fake) = scheduler_of(blocks, block_size, ONE);
        let mut before: Vec<u32> = Vec::new();
        let mut submitted = Vec::new();
        let mut ended = Vec::new();
        for (at, (keep, read, new, wait, short)) in sequences.into_iter().enumerate() {
            // The last token sampled needs no row.
            let rows = (blocks * block_size).saturating_sub(short).max(1);
            let length = rows.saturating_sub(new.saturating_sub(1)).max(1);
            let fresh = (0..length as u32).map(|i| 1000 * (at as u32 + 1) + i);
            let prompt: Vec<u32> = before.iter().copied().take(keep).chain(fresh).take(length).collect();
            let new = new.min(rows - length + 1);
            let reader = scored(&prompt, prompt.len().saturating_sub(read), new);
            scheduler.submit(prompt.clone(), new, Urgency::default(), reader).expect("fits alone");
            before.clone_from(&prompt);
            submitted.push((prompt, new));
            if wait {
                ended.extend(run(&mut scheduler, &mut fake, budget));
            }
        }
        ended.extend(run(&mut scheduler, &mut fake, budget));
        prop_assert_eq!(ended.len(), submitted.len());
        for e in ended {
            prop_assert!(e.result.is_ok());
            let (prompt, new) = &submitted[e.id.0 as usize];
            prop_assert_eq!(&e.reader.out, &expected(ONE, prompt, *new));
        }
    }
}
