//! Weights that change between sequences. Each row that is read has to be the one of the present weights.

use super::urgency::{prompt, submit};
use super::*;

/// Exchanges the stand-in's weights.
fn exchange() {
    WEIGHTS.set(WEIGHTS.get() + 1);
}

#[test]
fn weights_are_not_exchanged_under_sequences() {
    let (mut scheduler, mut fake) = scheduler(8);
    submit(&mut scheduler, &prompt(0, 20), 2, Urgency::default());
    assert_eq!(scheduler.reset().expect_err("one waits").kind(), ErrorKind::Internal);
    run(&mut scheduler, &mut fake, 64);
    scheduler.reset().expect("none is left");
    assert_eq!(scheduler.cache.occupied(), 0);
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
    scheduler.reset().expect("nothing is under way");
    assert_eq!(scheduler.pinned().collect::<Vec<_>>(), [&*pinned]);
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
    /// All sequences end, or are cancelled, and weights are exchanged.
    Exchange { cancel: bool },
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => action().prop_map(Change::Other),
        1 => any::<bool>().prop_map(|cancel| Change::Exchange { cancel }),
    ]
}

/// A scheduler whose weights change, and what came of its sequences.
struct Changing {
    scheduler: Scheduler<Greedy>,
    fake: Fake,
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

    fn exchange(&mut self, cancel: bool) {
        if cancel {
            (0..self.prompts.len()).for_each(|of| self.cancel(of));
        }
        self.finish();
        self.scheduler.reset().expect("nothing is under way");
        assert_eq!(self.scheduler.cache.occupied(), 0);
        exchange();
        self.scheduler.cache.check();
    }

    fn finish(&mut self) {
        for _ in 0..100_000 {
            if self.scheduler.is_idle() {
                return;
            }
            self.step(17);
        }
        panic!("sequences never end");
    }

    fn cancel(&mut self, of: usize) {
        self.over += usize::from(self.scheduler.cancel(SequenceId(of as u64)).is_some());
    }

    fn step(&mut self, budget: usize) {
        let mut ended = Vec::new();
        let idle = self.scheduler.is_idle();
        let computed = self.scheduler.step(&step_of(budget), &mut self.fake, &mut ended);
        assert_eq!(computed == 0, idle, "a step with work to do makes progress");
        self.scheduler.cache.check();
        // Those that are done are done with the present weights.
        self.over += ended.len();
        for ended in ended {
            let (prompt, new) = &self.prompts[ended.id.0 as usize];
            assert!(ended.result.is_ok());
            assert_eq!(ended.reader.out, expected(self.variants, prompt, *new));
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
            Action::Cancel { of } => self.cancel(of),
            Action::Steps { count, budget } => (0..count).for_each(|_| self.step(budget)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// In any mix of sequences, steps, cancellations, pins and changes of weights, all sequences end, and none with
    /// rows of other weights than its own.
    #[test]
    fn no_row_outlives_its_weights(
        blocks in 9usize..40,
        longest_short in prop::option::of(1usize..110),
        changes in prop::collection::vec(change(), 1..50),
    ) {
        let variants = Variants { longest_short };
        let (scheduler, fake) = scheduler_with(blocks, variants);
        let mut changing = Changing { scheduler, fake, prompts: Vec::new(), variants, over: 0 };
        for change in changes {
            match change {
                Change::Other(action) => changing.act(action),
                Change::Exchange { cancel } => changing.exchange(cancel),
            }
        }
        changing.finish();
        prop_assert_eq!(changing.over, changing.prompts.len());
        changing.scheduler.unpin(0);
        changing.scheduler.unpin(1);
        prop_assert_eq!(changing.scheduler.cache.available(), blocks, "nothing is held once all have ended");
    }
}
