//! The ways in which a request ends early: a deadline, a cancellation, an engine that closes, a full context.

use super::*;

#[test]
fn a_deadline_gives_an_incomplete_ranking() {
    let Fresh { engine, .. } = &fresh(config(SETTINGS));
    let limits = Limits { timeout: Some(Duration::from_millis(5)), cancel: None, priority: 0 };
    let asked = request(&CANDIDATES, json!({"window": 4}));
    let ranking = engine.within(limits).rank(asked, RankOptions::default()).expect("what there is");
    assert!(steps(engine) <= 1, "{} steps began before the deadline", steps(engine));
    assert!(!ranking.complete && !ranking.bitwise);
    assert_eq!(ranking.candidates.len(), 4);
    for candidate in &ranking.candidates {
        assert_eq!((candidate.reward, candidate.excluded), (None, 2), "{candidate:?}");
        assert!(candidate.rollouts.iter().all(|rollout| rollout.ended == Ended::Deadline && !rollout.counted));
    }

    // So much time as some tokens take here and now, and never enough for all.
    let start = Instant::now();
    generate(engine, &filler(20, 0), sampled(0, 8)).expect("a reply");
    let limits = Limits { timeout: Some(4 * start.elapsed()), cancel: None, priority: 0 };
    let reply = engine
        .within(limits)
        .model(MODEL)
        .expect("a model")
        .generate(filler(20, 0), sampled(0, 4000))
        .expect("what there is");
    assert_eq!(reply.finish, Finish::Deadline);
    assert!(reply.tokens.len() < 4000);
}

#[test]
fn a_cancelled_request_ends_after_the_step_that_is_under_way() {
    let Fresh { engine, .. } = &fresh(config(SETTINGS));
    let cancel = CancelToken::new();
    let limits = Limits { timeout: None, cancel: Some(cancel.clone()), priority: 0 };
    // The engine's own thread cancels, within a step: then it is known what may still come.
    let (armed, after) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (is_armed, later, token) = (Arc::clone(&armed), Arc::clone(&after), cancel.clone());
    let on_text = move |_: &str| {
        later.fetch_add(usize::from(token.is_cancelled()), Ordering::Relaxed);
        if is_armed.load(Ordering::Relaxed) {
            token.cancel();
        }
    };
    let told = GenerateOptions { on_text: Some(Box::new(on_text)), ..sampled(0, 4000) };
    let engine_within = engine.within(limits.clone());
    let asked = request(&CANDIDATES, json!({"window": 8}));
    let ranking = engine_within.submit_rank(asked, RankOptions::default()).expect("queued");
    let reply = engine_within.model(MODEL).expect("a model").submit_generate(filler(20, 0), told).expect("queued");
    let both_are_under_way = || {
        let statistics = engine.statistics().expect("a live engine");
        statistics.active_rankings == 1 && statistics.active_texts == 1
    };
    while !both_are_under_way() {
        assert!(ranking.poll().is_none() && reply.poll().is_none(), "both take longer than a look");
    }
    armed.store(true, Ordering::Relaxed);
    let reply = reply.wait().expect("what there is");
    let done = steps(engine);
    let ranking = ranking.wait().expect("what there is");
    assert!(after.load(Ordering::Relaxed) <= 1, "at most what was held back of the text");
    assert_eq!(steps(engine), done, "the ranking ended with the reply");
    assert!(!ranking.complete);
    let mut rollouts = ranking.candidates.iter().flat_map(|candidate| &candidate.rollouts);
    assert!(rollouts.any(|rollout| rollout.ended == Ended::Cancelled));
    assert_eq!(reply.finish, Finish::Cancelled);

    let error = engine
        .within(limits)
        .model(MODEL)
        .expect("a model")
        .logprobs(filler(2000, 1))
        .expect_err("cancelled before it began");
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

#[test]
fn closing_an_engine_ends_what_waits_with_a_clear_error() {
    let Fresh { engine, _turn } = fresh(config(SETTINGS));
    let ranking =
        engine.submit_rank(request(&CANDIDATES, json!({"window": 8})), RankOptions::default()).expect("queued");
    let reply = submit(&engine, filler(20, 0), sampled(0, 4000));
    drop(engine);
    for error in [ranking.wait().expect_err("closed"), reply.wait().expect_err("closed")] {
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
        assert!(error.to_string().contains("the engine was closed"), "{error}");
    }
}

#[test]
fn a_context_that_fills_up_ends_its_rollout_as_context() {
    let model = ModelCopy::new();
    // The judge's and the first user prompt fit; after a few replies the simulated user's no longer does.
    let longest = simulator_prompts(&CANDIDATES).iter().map(Vec::len).max().expect("prompts");
    model.edit("genai_config.json", |config| config["model"]["context_length"] = json!(longest + 24));
    let Fresh { engine, .. } = &fresh(config_with(model.path(), SETTINGS));
    let ranking = rank(engine, request(&CANDIDATES, json!({"window": 6, "samples": 1})));
    assert!(ranking.complete, "a full context is an end like any other");
    for candidate in &ranking.candidates {
        let [rollout] = &candidate.rollouts[..] else { panic!("one sample") };
        assert_eq!(rollout.ended, Ended::Context, "{rollout:?}");
        assert!(rollout.messages.len() < 12 && rollout.counted, "{rollout:?}");
    }
    let error = generate(engine, &filler(longest + 25, 0), sampled(0, 1)).expect_err("a prompt beyond the context");
    assert_eq!(error.kind(), ErrorKind::ContextLength);
    assert!(error.to_string().contains(&format!("{} tokens", longest + 25)), "{error}");
    // What can't fit, whatever its tokens are, is not tokenised.
    let long = "word ".repeat(4_000_000);
    let error = engine.rank(request(&["a", &long], json!({})), RankOptions::default()).expect_err("too long");
    assert_eq!(error.kind(), ErrorKind::ContextLength);
    for part in ["candidates[1]: 20000000 bytes", &format!("can't fit the context of {} tokens", longest + 24)] {
        assert!(error.to_string().contains(part), "{part} is not in {error}");
    }
    let error = engine.model(MODEL).expect("a model").generate(vec![user(&long)], sampled(0, 1)).expect_err("too long");
    assert!(error.to_string().contains("the conversation: 20000000 bytes can't fit"), "{error}");
    let reply = generate(engine, &filler(longest + 20, 0), sampled(0, 10)).expect("room for four");
    assert_eq!((reply.finish, reply.tokens.len()), (Finish::Context, 4));
}

#[test]
fn a_simulated_user_opens_a_conversation() {
    let Fresh { engine, .. } = &fresh(config(SETTINGS));
    let open = |seed| engine.open_conversation(&goal(), seed);
    let first = open(7).expect("a message");
    assert_eq!((first.role, first.content.trim().is_empty()), (Role::User, false));
    assert_eq!(open(7).expect("a message").content, first.content);
    assert!((8..12).any(|seed| open(seed).is_ok_and(|other| other.content != first.content)), "{first:?}");
}
