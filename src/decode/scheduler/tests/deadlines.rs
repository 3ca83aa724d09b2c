//! Steps that are sized to deadlines, at 1,000 tokens a second by a clock that stands still.

use super::urgency::{prompt, submit};
use super::*;

/// A step of 250 tokens, 32 at least.
fn budget(now: Instant) -> Budget {
    Budget { tokens: 250, least: 32, rate: Some(1000.0), now }
}

fn within(now: Instant, ms: u64) -> Urgency {
    Urgency { priority: 0, deadline: Some(now + Duration::from_millis(ms)), ..Urgency::default() }
}

/// Tokens that each sequence computes in the next step, by its number.
fn step(scheduler: &mut Scheduler<Greedy>, fake: &mut Fake, budget: &Budget) -> BTreeMap<u32, usize> {
    let before = fake.computed.len();
    scheduler.step(budget, fake, &mut Vec::new());
    let mut computed = BTreeMap::new();
    for (token, _) in &fake.computed[before..] {
        // Tokens that are sampled are small.
        *computed.entry(*token as u32 / 1000).or_default() += 1;
    }
    computed
}

/// A sequence that decodes, and one whose prompt takes many steps.
fn decoding_beside_a_long_prompt(urgency: Urgency, long: Urgency) -> (Scheduler<Greedy>, Fake) {
    let (mut scheduler, mut fake) = scheduler(200);
    submit(&mut scheduler, &prompt(0, 20), 30, urgency);
    step(&mut scheduler, &mut fake, &budget(Instant::now()));
    submit(&mut scheduler, &prompt(1, 2000), 0, long);
    (scheduler, fake)
}

#[test]
fn a_step_ends_before_the_deadline_of_a_reply_that_is_under_way() {
    let now = Instant::now();
    // Three quarters of the time are planned for. The reply's own token is one of the step's.
    for (ms, long) in [(10_000, 250), (200, 149), (100, 74), (20, 32), (1, 32)] {
        for priority in [-1, 1] {
            let long_prompt = Urgency { priority, ..Urgency::default() };
            let (mut scheduler, mut fake) = decoding_beside_a_long_prompt(within(now, ms), long_prompt);
            let computed = step(&mut scheduler, &mut fake, &budget(now));
            assert_eq!(computed, BTreeMap::from([(0, 1), (2, long)]), "{ms} ms, priority {priority}");
        }
    }
}

/// A reply that may take 29 tokens more, and what its request samples after it.
#[test]
fn the_time_until_a_deadline_is_spread_over_the_steps_before_it() {
    let now = Instant::now();
    // 3,000 ms are planned for. 130 steps of the least size take longer than there is time, so nothing is spread.
    for (further, long) in [(0, 102), (21, 59), (71, 32), (101, 250)] {
        let urgency = Urgency { further, ..within(now, 4000) };
        let (mut scheduler, mut fake) = decoding_beside_a_long_prompt(urgency, Urgency::default());
        let computed = step(&mut scheduler, &mut fake, &budget(now));
        assert_eq!(computed, BTreeMap::from([(0, 1), (2, long)]), "{further} steps after it");
    }
    // A prompt keeps time for its reply's steps.
    let (mut scheduler, mut fake) = scheduler(200);
    submit(&mut scheduler, &prompt(0, 500), 0, Urgency::default());
    submit(&mut scheduler, &prompt(1, 60), 10, within(now, 1000));
    assert_eq!(step(&mut scheduler, &mut fake, &budget(now)), BTreeMap::from([(1, 69), (2, 60)]));
}

#[test]
fn a_deadline_that_has_passed_sizes_nothing() {
    let now = Instant::now();
    let (mut scheduler, mut fake) = decoding_beside_a_long_prompt(within(now, 50), Urgency::default());
    let later = budget(now + Duration::from_millis(50));
    assert_eq!(step(&mut scheduler, &mut fake, &later), BTreeMap::from([(0, 1), (2, 250)]));
}

#[test]
fn without_a_measured_rate_no_deadline_sizes_a_step() {
    let now = Instant::now();
    let (mut scheduler, mut fake) = decoding_beside_a_long_prompt(within(now, 50), Urgency::default());
    let unknown = Budget { rate: None, ..budget(now) };
    assert_eq!(step(&mut scheduler, &mut fake, &unknown), BTreeMap::from([(0, 1), (2, 250)]));
}

#[test]
fn a_less_urgent_prompt_gets_what_makes_the_urgent_one_not_late() {
    let now = Instant::now();
    // Of 150 tokens that are planned for in 200 ms, the urgent prompt takes its own.
    for (urgent, other) in [(60, 90), (149, 1)] {
        let (mut scheduler, mut fake) = scheduler(200);
        submit(&mut scheduler, &prompt(0, 500), 0, Urgency::default());
        submit(&mut scheduler, &prompt(1, urgent), 1, within(now, 200));
        let computed = step(&mut scheduler, &mut fake, &budget(now));
        assert_eq!(computed, BTreeMap::from([(1, other), (2, urgent)]));
    }
    // Nothing, where it takes all of them; then it takes two steps itself.
    let (mut scheduler, mut fake) = scheduler(200);
    submit(&mut scheduler, &prompt(0, 500), 0, Urgency::default());
    submit(&mut scheduler, &prompt(1, 190), 1, within(now, 200));
    assert_eq!(step(&mut scheduler, &mut fake, &budget(now)), BTreeMap::from([(2, 150)]));
    let later = budget(now + Duration::from_millis(150));
    assert_eq!(step(&mut scheduler, &mut fake, &later), BTreeMap::from([(2, 37)]));
}

#[test]
fn a_deadline_that_cannot_be_kept_sizes_nothing() {
    let now = Instant::now();
    let (mut scheduler, mut fake) = scheduler(200);
    submit(&mut scheduler, &prompt(0, 500), 0, Urgency::default());
    submit(&mut scheduler, &prompt(1, 201), 1, within(now, 200));
    assert_eq!(step(&mut scheduler, &mut fake, &budget(now)), BTreeMap::from([(1, 49), (2, 201)]));
}

/// Four candidates with a long prefix in common, none of which could be in time if each computed it for itself.
#[test]
fn a_shared_prefix_is_counted_once() {
    let now = Instant::now();
    let (mut scheduler, mut fake) = scheduler(200);
    submit(&mut scheduler, &prompt(9, 500), 0, Urgency::default());
    for candidate in 0..4 {
        let shared = prompt(0, 96).into_iter().chain(prompt(1 + candidate, 8)).collect::<Vec<u32>>();
        submit(&mut scheduler, &shared, 1, within(now, 200));
    }
    // 96 + 4 * 8 = 128 of 150 tokens. The others' own tokens come a step later.
    assert_eq!(step(&mut scheduler, &mut fake, &budget(now)), BTreeMap::from([(1, 96), (2, 8), (10, 22)]));
    let later = budget(now + Duration::from_millis(126));
    let computed = step(&mut scheduler, &mut fake, &later);
    assert_eq!(computed[&3] + computed[&4] + computed[&5], 24, "{computed:?}");
}

#[test]
fn cached_rows_are_not_counted() {
    let now = Instant::now();
    let (mut scheduler, mut fake) = scheduler(200);
    submit(&mut scheduler, &prompt(0, 96), 0, Urgency::default());
    run(&mut scheduler, &mut fake, 250);
    submit(&mut scheduler, &prompt(1, 500), 0, Urgency::default());
    let warm = prompt(0, 96).into_iter().chain(prompt(2, 10)).collect::<Vec<u32>>();
    submit(&mut scheduler, &warm, 1, within(now, 40));
    // Of 30 tokens that are planned for, ten are its own. The step has its least otherwise.
    assert_eq!(step(&mut scheduler, &mut fake, &budget(now)), BTreeMap::from([(2, 20), (3, 10)]));
}
