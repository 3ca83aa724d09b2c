//! Weights that change while sequences are under way. Each row that is read has to be the one of the present weights,
//! and each reply as a whole that of one set of weights.

use super::urgency::{prompt, submit, with_places};
use super::*;

/// Exchanges the stand-in's weights.
fn exchange() {
    WEIGHTS.set(WEIGHTS.get() + 1);
}

fn all_done(scheduler: &mut Scheduler<Greedy>, fake: &mut Fake, prompts: &[Vec<u32>]) {
    for ended in run(scheduler, fake, 64) {
        let prompt = &prompts[ended.id.0 as usize];
        assert_eq!(ended.reader.out, expected(ONE, prompt, ended.reader.out.len()), "{:?}", ended.id);
        assert!(ended.result.is_ok());
    }
}

/// Two sequences that decode and one that waits for a place.
fn under_way() -> (Scheduler<Greedy>, Fake, Vec<Vec<u32>>) {
    let (mut scheduler, mut fake) = with_places(32, 2);
    let prompts: Vec<_> = (0..3).map(|number| prompt(number, 100)).collect();
    for prompt in &prompts {
        submit(&mut scheduler, prompt, 8, Urgency::default());
    }
    let mut ended = Vec::new();
    for _ in 0..4 {
        scheduler.step(&step_of(100), &mut fake, &mut ended);
    }
    assert_eq!((scheduler.running(), scheduler.waiting(), ended.len()), (2, 1, 0));
    (scheduler, fake, prompts)
}

#[test]
fn those_that_have_begun_end_with_the_old_weights_and_others_wait_for_the_new_ones() {
    let (mut scheduler, mut fake, mut prompts) = under_way();
    let mut ended = Vec::new();
    let mut steps = 0;
    while !scheduler.reset(Begun::Wait, &mut ended) {
        assert!(scheduler.step(&step_of(100), &mut fake, &mut ended) > 0);
        if steps == 0 {
            let urgent = Urgency { priority: 9, ..Urgency::default() };
            prompts.push(prompt(3, 10));
            submit(&mut scheduler, &prompts[3], 2, urgent);
        }
        steps += 1;
    }
    assert_eq!(ended.iter().map(|ended| ended.id.0).collect::<Vec<_>>(), [0, 1]);
    for ended in ended {
        assert_eq!(ended.reader.out, expected(ONE, &prompts[ended.id.0 as usize], 8));
    }
    assert_eq!((scheduler.running(), scheduler.waiting(), scheduler.cache.occupied()), (0, 2, 0));
    exchange();
    all_done(&mut scheduler, &mut fake, &prompts);
}

#[test]
fn while_the_last_have_ended_and_nothing_was_emptied_yet_a_step_does_nothing() {
    let (mut scheduler, mut fake, _) = under_way();
    let mut ended = Vec::new();
    assert!(!scheduler.reset(Begun::Wait, &mut ended));
    while scheduler.step(&step_of(100), &mut fake, &mut ended) > 0 {}
    assert_eq!((ended.len(), scheduler.waiting()), (2, 1));
    assert!(ended.iter().all(|ended| ended.result.is_ok()));
}

#[test]
fn sequences_that_start_over_lose_what_they_sampled() {
    let (mut scheduler, mut fake, prompts) = under_way();
    let mut ended = Vec::new();
    assert!(scheduler.reset(Begun::Restart, &mut ended));
    assert_eq!((ended.len(), scheduler.running(), scheduler.waiting(), scheduler.cache.occupied()), (0, 0, 3, 0));
    exchange();
    all_done(&mut scheduler, &mut fake, &prompts);
}

#[test]
fn sequences_that_are_aborted_say_why_and_others_go_on() {
    let (mut scheduler, mut fake, prompts) = under_way();
    let mut ended = Vec::new();
    assert!(scheduler.reset(Begun::Abort, &mut ended));
    assert_eq!(ended.iter().map(|ended| ended.id.0).collect::<Vec<_>>(), [0, 1]);
    for ended in ended {
        let error = ended.result.expect_err("aborted");
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert!(error.to_string().contains("weights were exchanged"), "{error}");
    }
    exchange();
    all_done(&mut scheduler, &mut fake, &prompts);
}

#[test]
fn a_pin_stays_and_its_prefix_is_computed_again() {
    let (mut scheduler, mut fake) = scheduler(8);
    let pinned = prompt(0, 48);
    scheduler.pin(1, &pinned).expect("fits");
    let mut reused = |scheduler: &mut Scheduler<Greedy>| {
        submit(scheduler, &pinned, 1, Urgency::default());
        run(scheduler, &mut fake, 64)[0].cost.reused()
    };
    assert_eq!((reused(&mut scheduler), reused(&mut scheduler)), (0, 47));
    assert!(scheduler.reset(Begun::Wait, &mut Vec::new()), "nothing is under way");
    exchange();
    assert_eq!((reused(&mut scheduler), reused(&mut scheduler)), (0, 47));
    let long = prompt(1, 90);
    let refused = scheduler.submit(long.clone(), 0, Urgency::default(), greedy(&long, 0));
    assert_eq!(refused.expect_err("three of eight blocks are pinned").kind(), ErrorKind::MemoryBudget);
    scheduler.unpin(1);
    submit(&mut scheduler, &long, 0, Urgency::default());
    scheduler.cache.check();
}

#[derive(Debug, Clone)]
enum Change {
    /// Something that doesn't change weights.
    Other(Action),
    Reset(Begun),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => action().prop_map(Change::Other),
        1 => prop_oneof![Just(Begun::Wait), Just(Begun::Restart), Just(Begun::Abort)].prop_map(Change::Reset),
    ]
}

/// A scheduler whose weights change, and what came of its sequences.
struct Changing {
    scheduler: Scheduler<Greedy>,
    fake: Fake,
    /// Whether a reset waits for those that have begun.
    waits: bool,
    prompts: Vec<(Vec<u32>, usize)>,
    variants: Variants,
    over: usize,
}

impl Changing {
    fn submit(&mut self, prompt: Vec<u32>, new: usize, read: usize, urgency: Urgency) {
        let reader = Greedy { variants: self.variants, ..scored(&prompt, prompt.len().saturating_sub(read), new) };
        if self.scheduler.submit(prompt.clone(), new, urgency, reader).is_ok() {
            self.prompts.push((prompt, new));
        }
    }

    /// Any prompt, or any part of one and something else.
    fn forked(&self, of: usize, keep: usize, tail: &[u32]) -> Vec<u32> {
        let mut tokens = match self.prompts.get(of % self.prompts.len().max(1)) {
            Some((prompt, _)) => prompt.clone(),
            None => vec![1],
        };
        tokens.truncate(keep.max(1));
        [&tokens, tail].concat()
    }

    fn reset(&mut self, begun: Begun) {
        let mut ended = Vec::new();
        let done = self.scheduler.reset(begun, &mut ended);
        self.waits = !done;
        self.check(ended);
        if done {
            assert_eq!((self.scheduler.running(), self.scheduler.cache.occupied()), (0, 0));
            exchange();
        }
        self.scheduler.cache.check();
    }

    fn step(&mut self, budget: usize) {
        let mut ended = Vec::new();
        let idle = self.scheduler.is_idle();
        let computed = self.scheduler.step(&step_of(budget), &mut self.fake, &mut ended);
        assert_eq!(computed == 0, idle, "a step with work to do makes progress");
        self.scheduler.cache.check();
        self.check(ended);
        if self.waits {
            self.reset(Begun::Wait);
        }
    }

    /// Those that are done are done with the present weights.
    fn check(&mut self, ended: Vec<Ended<Greedy>>) {
        self.over += ended.len();
        for ended in ended {
            let (prompt, new) = &self.prompts[ended.id.0 as usize];
            match ended.result {
                Ok(()) => assert_eq!(ended.reader.out, expected(self.variants, prompt, *new)),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Cancelled),
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Submit { prompt, new, read, urgency } => self.submit(prompt, new, read, urgency),
            Action::Fork { of, keep, tail, new, read, urgency } => {
                self.submit(self.forked(of, keep, &tail), new, read, urgency);
            }
            Action::Pin { of, keep, tail } => {
                let key = of as u64 % 2;
                self.scheduler.unpin(key);
                // Refused where the others would not fit beside it.
                drop(self.scheduler.pin(key, &self.forked(of, keep, &tail)));
            }
            Action::Cancel { of } => {
                self.over += usize::from(self.scheduler.cancel(SequenceId(of as u64)).is_some());
                // What it waited for may have been just this one.
                if self.waits {
                    self.reset(Begun::Wait);
                }
            }
            Action::Steps { count, budget } => (0..count).for_each(|_| self.step(budget)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// In any mix of sequences, steps, cancellations, pins and changes of weights, all sequences end, and none with
    /// rows or tokens of other weights than the rest of it.
    #[test]
    fn no_row_outlives_its_weights(
        blocks in 9usize..40,
        longest_short in prop::option::of(1usize..110),
        changes in prop::collection::vec(change(), 1..50),
    ) {
        let variants = Variants { longest_short };
        let (scheduler, fake) = scheduler_with(blocks, variants);
        let mut changing = Changing { scheduler, fake, waits: false, prompts: Vec::new(), variants, over: 0 };
        for change in changes {
            match change {
                Change::Other(action) => changing.act(action),
                Change::Reset(begun) => changing.reset(begun),
            }
        }
        for _ in 0..100_000 {
            if changing.scheduler.is_idle() {
                break;
            }
            changing.step(17);
        }
        prop_assert_eq!(changing.over, changing.prompts.len());
        changing.scheduler.unpin(0);
        changing.scheduler.unpin(1);
        prop_assert_eq!(changing.scheduler.cache.available(), blocks, "nothing is held once all have ended");
    }
}
