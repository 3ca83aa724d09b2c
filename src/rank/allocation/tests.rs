use proptest::prelude::*;

// Proptest has one as well.
use super::Strategy;
use super::*;

/// Plays a whole allocation; `reward` gives the rewards, `cost` the tokens of a rollout (and a thousandth in seconds).
struct Play {
    rewards: Vec<Vec<Option<f64>>>,
    spent: Spent,
    rounds: Vec<Vec<(usize, Range<usize>)>>,
    why: Why,
    allocator: Allocator,
}

fn play(
    mut allocator: Allocator,
    reward: impl Fn(usize, usize) -> Option<f64>,
    cost: impl Fn(usize, usize) -> u64,
) -> Play {
    let mut rewards = vec![Vec::new(); allocator.states.len()];
    let (mut spent, mut rounds) = (Spent::default(), Vec::new());
    loop {
        match allocator.next(&rewards, spent) {
            Decision::Done(why) => {
                assert_eq!(allocator.next(&rewards, spent), Decision::Done(why), "done is done");
                return Play { rewards, spent, rounds, why, allocator };
            }
            Decision::Sample { rollouts } => {
                assert!(!rollouts.is_empty() && rollouts.iter().all(|(_, samples)| !samples.is_empty()));
                for (candidate, samples) in rollouts.iter().cloned() {
                    assert_eq!(rewards[candidate].len(), samples.start, "samples are numbered on");
                    spent.rollouts += samples.len();
                    for sample in samples {
                        spent.tokens += cost(candidate, sample);
                        rewards[candidate].push(reward(candidate, sample));
                    }
                }
                spent.seconds = spent.tokens as f64 / 1000.0;
                rounds.push(rollouts);
                assert!(rounds.len() < 5000, "it ends");
            }
        }
    }
}

fn settings(strategy: Strategy, rollouts: usize) -> AllocationSettings {
    AllocationSettings {
        strategy,
        budget: Budget { rollouts: Some(rollouts), ..Budget::default() },
        ..AllocationSettings::default()
    }
}

/// A number in [0, 1) that depends on nothing but its place.
fn scatter(seed: u64, candidate: usize, sample: usize) -> f64 {
    let bits = crate::rollout::seed::derive(seed, &[candidate as u64, sample as u64]);
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

fn counts(play: &Play) -> Vec<usize> {
    play.rewards.iter().map(Vec::len).collect()
}

#[test]
fn fixed_is_one_round() {
    let allocator = Allocator::new(AllocationSettings::default(), 4, 3, true).unwrap();
    let play = play(allocator, |_, _| Some(0.5), |_, _| 1);
    assert_eq!(play.rounds, [[(0, 0..3), (1, 0..3), (2, 0..3), (3, 0..3)]]);
    assert_eq!(play.why, Why::Complete);
}

#[test]
fn fixed_takes_fewer_samples_where_the_budget_is_short() {
    let allocator = Allocator::new(settings(Strategy::Fixed, 11), 4, 3, true).unwrap();
    let play = play(allocator, |_, _| Some(0.5), |_, _| 1);
    assert_eq!((counts(&play), play.why), (vec![2; 4], Why::Budget));
}

#[test]
fn halving_keeps_the_better_half() {
    let allocator = Allocator::new(settings(Strategy::SequentialHalving, 48), 8, 1, true).unwrap();
    let play = play(allocator, |candidate, _| Some([3.0, 9.0, 1.0, 4.0, 7.0, 2.0, 8.0, 5.0][candidate]), |_, _| 1);
    // 48 = 8·3 + 4·4 + 2·4.
    assert_eq!(counts(&play), [3, 11, 3, 3, 7, 3, 11, 7]);
    let given_up: Vec<usize> = (0..8).filter(|&candidate| play.allocator.is_given_up(candidate)).collect();
    assert_eq!((given_up, play.why), (vec![0, 2, 3, 4, 5, 7], Why::Complete));
}

#[test]
fn an_easy_ranking_stops_early_and_a_hard_one_at_its_budget() {
    let wanted = |gap: f64| {
        let reward =
            move |candidate, sample| Some(if candidate == 2 { gap } else { 0.0 } + scatter(7, candidate, sample));
        let allocator = Allocator::new(settings(Strategy::StopWhenSure, 200), 6, 1, true).unwrap();
        play(allocator, reward, |_, _| 1)
    };
    let easy = wanted(2.0);
    assert_eq!((easy.why, counts(&easy)), (Why::Sure, vec![3; 6]));
    let hard = wanted(0.0);
    assert!(hard.why == Why::Budget && hard.spent.rollouts > 190, "{:?} after {}", hard.why, hard.spent.rollouts);
    let close = wanted(0.4);
    assert_eq!(close.why, Why::Sure);
    assert!((0..6).any(|candidate| close.allocator.is_given_up(candidate)) && !close.allocator.is_given_up(2));
}

#[test]
fn what_does_not_matter_needs_no_rollouts() {
    let with = |margin, reward: fn(usize, usize) -> Option<f64>| {
        let settings = AllocationSettings { margin: Some(margin), ..settings(Strategy::StopWhenSure, 400) };
        play(Allocator::new(settings, 4, 1, true).unwrap(), reward, |_, _| 1).why
    };
    let alike = |candidate, sample| Some(scatter(3, candidate, sample));
    assert_eq!(with(0.0, alike), Why::Budget, "equals can't be told apart");
    assert_eq!(with(0.2, alike), Why::Sure);
    // The same future for each: none is better than any other.
    assert_eq!(with(0.0, |_, sample| Some(scatter(3, 0, sample))), Why::Sure);
}

#[test]
fn a_budget_in_tokens_or_seconds_is_kept_where_costs_are_even() {
    for strategy in [Strategy::Fixed, Strategy::SequentialHalving, Strategy::StopWhenSure] {
        for budget in
            [Budget { tokens: Some(2_050), ..Budget::default() }, Budget { seconds: Some(2.05), ..Budget::default() }]
        {
            let settings = AllocationSettings { strategy, budget, ..AllocationSettings::default() };
            let allocator = Allocator::new(settings, 4, 50, true).unwrap();
            let play = play(allocator, |candidate, sample| Some(scatter(1, candidate, sample)), |_, _| 100);
            assert!(play.spent.rollouts <= 20 && play.spent.rollouts >= 16, "{strategy:?}: {}", play.spent.rollouts);
            assert_eq!(counts(&play)[0].min(1), 1);
        }
    }
}

#[test]
fn nothing_starts_that_is_already_too_dear() {
    let budget = Budget { tokens: Some(10), ..Budget::default() };
    let mut allocator =
        Allocator::new(AllocationSettings { budget, ..AllocationSettings::default() }, 4, 3, true).unwrap();
    let spent = Spent { rollouts: 0, tokens: 10, seconds: 1.0 };
    assert_eq!(allocator.next(&[], spent), Decision::Done(Why::Budget));
}

#[test]
fn candidates_without_rewards_leave_play() {
    for strategy in [Strategy::SequentialHalving, Strategy::StopWhenSure] {
        let mut allocator = Allocator::new(settings(strategy, 60), 5, 1, true).unwrap();
        allocator.leave_out(4);
        let reward = |candidate, sample| (candidate != 1).then(|| scatter(5, candidate, sample));
        let play = play(allocator, reward, |_, _| 1);
        assert_eq!(counts(&play)[4], 0);
        assert_eq!(counts(&play)[1], play.rounds[0][1].1.len(), "one round showed that it has none");
        assert!(!play.allocator.is_given_up(1) && !play.allocator.is_given_up(4));
    }
    let none = Allocator::new(settings(Strategy::StopWhenSure, 60), 3, 1, true).unwrap();
    assert_eq!(play(none, |_, _| None, |_, _| 1).why, Why::Complete);
}

#[test]
fn impossible_requests_are_refused() {
    let error = Allocator::new(settings(Strategy::Fixed, 3), 4, 3, true).unwrap_err().to_string();
    assert!(error.contains("budget.rollouts = 3") && error.contains("at least 4"), "{error}");
    let error = Allocator::new(settings(Strategy::StopWhenSure, 2000), 129, 3, true).unwrap_err().to_string();
    assert!(error.contains("at most 128") && error.contains("sequential_halving"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn budgets_hold_counts_are_equal_and_it_ends(
        strategy in prop_oneof![Just(Strategy::Fixed), Just(Strategy::SequentialHalving), Just(Strategy::StopWhenSure)],
        candidates in 1_usize..12,
        extra in 0_usize..150,
        samples in 1_usize..20,
        paired: bool,
        lost in 0.0..1.0_f64,
        tokens in proptest::option::of(1_u64..20_000),
        limited: bool,
        levels in 1_u64..5,
        seed: u64,
    ) {
        let rollouts = limited.then_some(candidates + extra);
        let budget = Budget { rollouts, tokens, seconds: None };
        let settings = AllocationSettings { strategy, budget, ..AllocationSettings::default() };
        // Few levels give ties and variances of zero; some rewards are lost.
        let reward = |candidate, sample| {
            let level = (scatter(seed, candidate, sample) * levels as f64).floor();
            (scatter(seed ^ 1, candidate, sample) >= lost * lost).then_some(level)
        };
        let allocator = || Allocator::new(settings, candidates, samples, paired).unwrap();
        // A rollout costs up to twice the mean.
        let cost = |candidate, sample| 50 + (100.0 * scatter(seed ^ 2, candidate, sample)) as u64;
        // Without a limit in rollouts, a loss of all rounds would be sampled up to the most samples there are.
        let play_one = play(allocator(), reward, cost);
        prop_assert!(play_one.spent.rollouts <= rollouts.unwrap_or(usize::MAX));
        if rollouts.is_none() && tokens.is_none() {
            prop_assert!(play_one.spent.rollouts <= candidates * samples);
        }
        for round in &play_one.rounds {
            let first = &round[0].1;
            prop_assert!(round.iter().all(|(_, samples)| samples == first), "equally many, the same samples");
        }
        for pair in play_one.rounds.windows(2) {
            prop_assert_eq!(pair[0][0].1.end, pair[1][0].1.start);
            let later = pair[1].iter().map(|(candidate, _)| candidate);
            prop_assert!(later.clone().all(|one| pair[0].iter().any(|(other, _)| one == other)), "nobody comes back");
        }
        if let Some(tokens) = tokens {
            let before = play_one.rounds.len() > 1;
            // All rounds after the pilot are predicted to fit; a rollout costs at most 150 where the mean is at least 50.
            prop_assert!(!before || play_one.spent.tokens <= 3 * tokens);
        }
        let again = play(allocator(), reward, cost);
        prop_assert_eq!(play_one.rounds, again.rounds);
        prop_assert_eq!(play_one.why, again.why);
    }
}
