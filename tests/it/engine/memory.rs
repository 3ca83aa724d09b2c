//! A cache that is too small, and prefixes that are computed once for all that share them.

use super::*;

#[test]
fn with_far_too_little_memory_the_same_ranking_comes_out() {
    let expected = reference();
    let longest = simulator_prompts(&CANDIDATES).iter().map(Vec::len).max().expect("prompts") + 12;
    // Room for the longest prompt and its reply, and one block more: of eight rollouts, one.
    let budget = longest.div_ceil(BLOCK) + 1;
    let Fresh { engine, .. } = &fresh(with_blocks(with_threads(2), budget));
    assert_eq!(promised(expected), promised(&rank_eight(engine)));
    let (peak, blocks, preemptions) = blocks(engine);
    assert_eq!(blocks, budget);
    assert!(peak <= blocks, "{peak} of {blocks} blocks");
    assert!(preemptions > 0, "nobody had to give way, so the cache was not too small");
}

#[test]
fn what_cannot_fit_alone_is_refused_at_once_with_the_numbers() {
    let Fresh { engine, .. } = &fresh(with_blocks(with_threads(2), 8));
    let error = generate(engine, &filler(100, 0), sampled(0, 60)).expect_err("ten blocks do not fit into eight");
    assert_eq!(error.kind(), ErrorKind::MemoryBudget);
    for part in ["159 tokens needs 10 cache blocks", "the key-value cache has 8", "kv_cache"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    let error = engine.rank(request(&CANDIDATES, json!({})), RankOptions::default()).expect_err("no rollout fits");
    assert!(error.to_string().contains("the key-value cache has 8"), "{error}");
    assert_eq!((blocks(engine).0, steps(engine)), (0, 0), "nothing was computed");
    assert!(generate(engine, &filler(100, 0), sampled(0, 20)).is_ok(), "what fits is still served");
}

#[test]
fn a_budget_below_one_block_is_refused_when_the_engine_is_made() {
    let mut config = config("");
    config.runtime.kv_cache = Some(ByteSize(1000));
    let _turn = turn();
    let error = Engine::new(config).expect_err("no engine");
    assert_eq!(error.kind(), ErrorKind::MemoryBudget);
    assert!(error.to_string().contains("runtime.kv_cache: 1000 bytes"), "{error}");
}

#[test]
fn twelve_requests_on_a_cold_engine_compute_each_shared_prefix_once() {
    let (shared, tails) = (filler(200, 1), [filler(37, 2), filler(50, 3), filler(1, 4), filler(16, 5)]);
    let mut prompts: Vec<Vec<u32>> = tails.iter().map(|tail| [shared.clone(), tail.clone()].concat()).collect();
    prompts = [prompts.clone(), prompts.clone(), prompts].concat();
    let Fresh { engine, .. } = &fresh(config(""));
    let pending: Vec<_> = prompts.iter().map(|prompt| submit(engine, prompt.clone(), sampled(0, 4))).collect();
    let mut usage = Usage::default();
    for reply in pending {
        usage += reply.wait().expect("a reply").usage;
    }
    // The shared 200, the four tails, and for each of the eight repetitions its last token.
    let expected = 200 + (37 + 50 + 1 + 16) + 8;
    assert_eq!(tokens_to_compute(&prompts), expected);
    assert_eq!(usage.prompt_tokens, 3 * (4 * 200 + 104));
    assert_eq!(usage.prompt_tokens - usage.reused_tokens, expected);
    assert_eq!(usage.generated_tokens, 12 * 4);
    // The last token that is sampled is never read.
    assert_eq!(
        engine.model(MODEL).expect("a model").status().expect("a local model").stats.computed_tokens,
        expected + 12 * 3
    );
}

#[test]
fn eight_rollouts_on_a_cold_engine_compute_each_shared_prefix_once() {
    // The user speaks first in all eight, so nothing else has been computed before.
    let prompts = simulator_prompts(&CANDIDATES);
    let rounds = [prompts.clone(), prompts].concat();
    let user = reference().cost.roles.user;
    assert_eq!(user.prompt_tokens, rounds.iter().map(|prompt| prompt.len() as u64).sum::<u64>());
    assert_eq!(user.prompt_tokens - user.reused_tokens, tokens_to_compute(&rounds));
}

#[test]
fn questions_about_one_conversation_share_it() {
    let settings =
        "[[metrics]]\nkind = \"interactivity\"\nmin_mass = 0.0\n[[metrics]]\nkind = \"helpfulness\"\nmin_mass = 0.0";
    let Fresh { engine, .. } = &fresh(config(settings));
    let ranking = rank(engine, request(&CANDIDATES, json!({"window": 0})));
    let prompts = judge_prompts(&["interactivity", "helpfulness"]);
    assert_eq!(prompts.len(), 4 * (3 + 2));
    let judge = ranking.cost.roles.judge;
    assert_eq!(judge.prompt_tokens, prompts.iter().map(|prompt| prompt.len() as u64).sum::<u64>());
    assert_eq!(judge.prompt_tokens - judge.reused_tokens, tokens_to_compute(&prompts));
    assert_eq!(judge.generated_tokens, 0, "answers are read from the logits");
}

#[test]
fn a_pinned_prefix_stays_and_later_prompts_reuse_it() {
    let Fresh { engine, .. } = &fresh(with_blocks(config(""), 24));
    let prefix = filler(10 * BLOCK, 1);
    let with_prefix = |salt| [prefix.clone(), filler(20, salt)].concat();
    let pin = engine.model(MODEL).expect("a model").warm(prefix.clone()).expect("room for the prefix");
    assert_eq!(pin.tokens(), prefix.len());
    let overwrite = || {
        for salt in 10..13 {
            generate(engine, &filler(13 * BLOCK, salt), sampled(0, 1)).expect("room beside the pin");
        }
    };
    overwrite();
    let reused = |salt| generate(engine, &with_prefix(salt), sampled(0, 1)).expect("a reply").usage.reused_tokens;
    assert_eq!(reused(2), prefix.len() as u64);

    let error = generate(engine, &filler(15 * BLOCK, 14), sampled(0, 1)).expect_err("the pin is in the way");
    assert!(error.to_string().contains("10 of them pinned"), "{error}");
    drop(pin);
    overwrite();
    assert_eq!(reused(3), 0, "without the pin it was overwritten");
}
