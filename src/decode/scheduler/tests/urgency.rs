//! Who goes first, and how long the others wait.

use super::*;
use crate::decode::scheduler::admission::PATIENCE;

fn priority(priority: i32) -> Urgency {
    Urgency { priority, ..Urgency::default() }
}

/// A prompt that has nothing in common with those of other numbers.
pub(super) fn prompt(number: u32, length: usize) -> Vec<u32> {
    (0..length as u32).map(|at| 1000 * (number + 1) + at).collect()
}

pub(super) fn submit(scheduler: &mut Scheduler<Greedy>, prompt: &[u32], new: usize, urgency: Urgency) -> SequenceId {
    scheduler.submit(prompt.to_vec(), new, urgency, greedy(prompt, new)).expect("fits")
}

/// As `scheduler`, with fewer places.
pub(super) fn with_places(blocks: usize, max_sequences: usize) -> (Scheduler<Greedy>, Fake) {
    made(SchedulerOptions {
        blocks,
        block_size: BLOCK_SIZE,
        max_sequences,
        max_logit_rows: 64,
        block_bytes: 1,
        variants: ONE,
    })
}

fn order(ended: &[Ended<Greedy>]) -> Vec<u64> {
    ended.iter().map(|ended| ended.id.0).collect()
}

#[test]
fn steps_are_filled_by_priority_then_deadline_then_age() {
    let (mut scheduler, mut fake) = scheduler(100);
    let within = |seconds| Some(*BEGINNING + Duration::from_secs(seconds));
    let urgencies = [
        Urgency::default(),
        Urgency { priority: -1, deadline: within(1), ..Urgency::default() },
        Urgency { priority: 0, deadline: within(90), ..Urgency::default() },
        Urgency { priority: 5, deadline: None, ..Urgency::default() },
        Urgency { priority: 0, deadline: within(60), ..Urgency::default() },
        Urgency::default(),
    ];
    for (number, urgency) in (0..).zip(urgencies) {
        submit(&mut scheduler, &prompt(number, 100), 0, urgency);
    }
    assert_eq!(order(&run(&mut scheduler, &mut fake, 100)), [3, 4, 2, 0, 5, 1]);
}

#[test]
fn a_short_urgent_prompt_ends_before_the_long_ones_that_are_under_way() {
    let (mut scheduler, mut fake) = scheduler(400);
    for number in 0..12 {
        submit(&mut scheduler, &prompt(number, 300), 0, priority(-5));
    }
    let mut ended = Vec::new();
    scheduler.step(&step_of(32), &mut fake, &mut ended);
    submit(&mut scheduler, &prompt(12, 20), 0, priority(100));
    scheduler.step(&step_of(32), &mut fake, &mut ended);
    assert_eq!(order(&ended), [12]);
}

#[test]
fn the_least_urgent_gives_its_place_to_the_most_urgent() {
    let (mut scheduler, mut fake) = with_places(100, 2);
    let prompts: Vec<_> = (0..4).map(|number| prompt(number, 10)).collect();
    submit(&mut scheduler, &prompts[0], 30, priority(1));
    submit(&mut scheduler, &prompts[1], 30, priority(0));
    let mut ended = Vec::new();
    scheduler.step(&step_of(32), &mut fake, &mut ended);
    submit(&mut scheduler, &prompts[2], 2, priority(2));
    submit(&mut scheduler, &prompts[3], 2, priority(1));
    ended.extend(run(&mut scheduler, &mut fake, 32));
    assert_eq!(order(&ended), [2, 3, 0, 1], "age takes no place from an equal, and priority does");
    assert_eq!(ended.iter().map(|ended| ended.cost.preemptions).collect::<Vec<_>>(), [0, 0, 0, 1]);
    for ended in &ended {
        let prompt = &prompts[ended.id.0 as usize];
        assert_eq!(ended.reader.out, expected(ONE, prompt, ended.reader.out.len()));
    }
}

#[test]
fn the_least_urgent_gives_way_when_blocks_run_out() {
    // Two of them fill the cache; the third is the most urgent and needs half of it.
    let (mut scheduler, mut fake) = scheduler(8);
    let prompts: Vec<_> = (0..3).map(|number| prompt(number, 60)).collect();
    submit(&mut scheduler, &prompts[0], 4, priority(0));
    submit(&mut scheduler, &prompts[1], 4, priority(1));
    let mut ended = Vec::new();
    scheduler.step(&step_of(200), &mut fake, &mut ended);
    assert_eq!(scheduler.running(), 2);
    submit(&mut scheduler, &prompts[2], 4, priority(2));
    ended.extend(run(&mut scheduler, &mut fake, 200));
    assert_eq!(order(&ended), [1, 2, 0]);
    assert_eq!(ended.iter().map(|ended| ended.cost.preemptions).collect::<Vec<_>>(), [0, 0, 1]);
    for ended in &ended {
        assert_eq!(ended.reader.out, expected(ONE, &prompts[ended.id.0 as usize], 4));
    }
}

/// Urgent prompts that fill every step, from the beginning on.
#[test]
fn urgent_prompts_that_keep_coming_leave_the_elder_an_eighth_of_each_step() {
    let (mut scheduler, mut fake) = scheduler(100);
    let patient = submit(&mut scheduler, &prompt(0, 80), 3, priority(0));
    let mut ended = Vec::new();
    let mut steps = 0;
    while !ended.iter().any(|ended: &Ended<Greedy>| ended.id == patient) {
        submit(&mut scheduler, &prompt(1 + steps, 64), 0, priority(9));
        let before = fake.computed.len();
        scheduler.step(&step_of(64), &mut fake, &mut ended);
        scheduler.cache.check();
        let own = fake.computed[before..].iter().filter(|(token, _)| (1000..2000).contains(token)).count();
        // The prompt's 80 tokens take ten steps.
        let first = PATIENCE as u32;
        let part = if (first..first + 10).contains(&steps) { 8 } else { 0 };
        assert_eq!((own, fake.computed.len() - before >= 64), (part, true), "step {steps}");
        steps += 1;
    }
    // The last of them gives the first new token; the other two take a step each.
    assert_eq!(u64::from(steps), PATIENCE + 12);
}

/// The same for rows of logits, of which a step has few.
#[test]
fn the_elder_has_an_eighth_of_the_rows_of_logits() {
    let (mut scheduler, mut fake) = made(SchedulerOptions {
        blocks: 100,
        block_size: BLOCK_SIZE,
        max_sequences: 64,
        max_logit_rows: 16,
        block_bytes: 1,
        variants: ONE,
    });
    let scored_whole = |scheduler: &mut Scheduler<Greedy>, number, urgency| {
        let prompt = prompt(number, 16);
        scheduler.submit(prompt.clone(), 0, urgency, scored(&prompt, 0, 0)).expect("fits");
    };
    scored_whole(&mut scheduler, 0, priority(0));
    for number in 1..=PATIENCE as u32 + 1 {
        scored_whole(&mut scheduler, number, priority(9));
        let before = fake.computed.len();
        scheduler.step(&step_of(64), &mut fake, &mut Vec::new());
        let own = fake.computed[before..].iter().filter(|(token, _)| (1000..2000).contains(token)).count();
        let part = if u64::from(number) > PATIENCE { 2 } else { 0 };
        assert_eq!((own, fake.computed.len() - before), (part, 16));
    }
}

/// The elder has the only place.
#[test]
fn urgent_sequences_that_keep_coming_leave_the_elder_a_place() {
    let (mut scheduler, mut fake) = with_places(100, 1);
    let patient = submit(&mut scheduler, &prompt(0, 40), 5, priority(0));
    let mut ended = Vec::new();
    for step in 0..40 {
        submit(&mut scheduler, &prompt(1 + step, 30), 2, priority(9));
        scheduler.step(&step_of(64), &mut fake, &mut ended);
    }
    let at = ended.iter().position(|ended| ended.id == patient).expect("ended");
    assert_eq!(at, PATIENCE as usize / 2, "others went first until then");
    assert!(ended.len() > at + 5, "and they do again");
}

/// A sequence that comes while others are under way.
#[derive(Debug, Clone)]
struct Arrival {
    /// Steps before it.
    after: usize,
    length: usize,
    /// Tokens that it has in common with the one before it.
    shared: usize,
    new: usize,
    read: usize,
    urgency: Urgency,
}

fn arrival() -> impl Strategy<Value = Arrival> {
    (0..3usize, 1..60usize, 0..60usize, 0..12usize, read(), super::urgency())
        .prop_map(|(after, length, shared, new, read, urgency)| Arrival { after, length, shared, new, read, urgency })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// However urgent what comes after it, a sequence ends within the steps that are promised, and with the same
    /// result.
    #[test]
    fn nobody_waits_longer_than_promised(
        arrivals in prop::collection::vec(arrival(), 1..80),
        blocks in 18usize..40,
        max_sequences in 1usize..5,
        max_logit_rows in 1usize..20,
        longest_short in prop::option::of(1usize..70),
        budget in 1usize..40,
    ) {
        let variants = Variants { longest_short };
        let options = SchedulerOptions { blocks, block_size: 4, max_sequences, max_logit_rows, block_bytes: 1, variants };
        let (mut scheduler, mut fake) = made(options);
        // By sequence: its prompt, its new tokens, and the step by which it is to have ended.
        let mut promised: Vec<(Vec<u32>, usize, u64)> = Vec::new();
        let mut left: BTreeMap<SequenceId, u64> = BTreeMap::new();
        let mut before: Vec<u32> = Vec::new();
        let mut arrivals = (0..).zip(arrivals).peekable();
        let mut idle_until = 0;
        for step in 0.. {
            while let Some((number, next)) = arrivals.next_if(|(_, next)| step >= idle_until + next.after) {
                idle_until = step;
                let Arrival { length, shared, new, read, urgency, .. } = next;
                let own = prompt(number, length);
                before = before.iter().take(shared.min(length - 1)).copied().chain(own).take(length).collect();
                let reader = Greedy { variants, ..scored(&before, before.len().saturating_sub(read), new) };
                let id = scheduler.submit(before.clone(), new, urgency, reader).expect("72 rows fit");
                let rows = if longest_short.is_some() { 2 } else { 1 } * (length + new) as u64;
                left.insert(id, PATIENCE + rows);
                promised.push((before.clone(), new, scheduler.totals.steps + left.values().sum::<u64>()));
            }
            let mut ended = Vec::new();
            if scheduler.is_idle() && arrivals.peek().is_none() {
                break;
            }
            // Deadlines are met or not; nobody gets less than was promised for that.
            let sized = sized(&scheduler, budget, budget.min(8));
            scheduler.step(&sized, &mut fake, &mut ended);
            scheduler.cache.check();
            for ended in ended {
                left.remove(&ended.id);
                let (prompt, new, by) = &promised[ended.id.0 as usize];
                prop_assert!(ended.result.is_ok());
                prop_assert_eq!(&ended.reader.out, &expected(variants, prompt, *new));
                prop_assert!(scheduler.totals.steps <= *by, "{} instead of {by} steps", scheduler.totals.steps);
            }
            for id in left.keys() {
                prop_assert!(scheduler.totals.steps < promised[id.0 as usize].2, "{id:?} is late");
            }
        }
        prop_assert!(left.is_empty());
    }
}
