//! The engine on the real model: equal results whatever else is under way, what is shared and what is refused, and the
//! ways in which a request ends early.
#![allow(clippy::disallowed_methods, reason = "a test may panic where the system refuses a thread")]

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::common::{Fresh, MODEL, ModelCopy, config, config_with, folder, fresh, tokens_to_compute, turn, user};
use foreturn::chat::{ChatOutput, ChatReply, ChatRequest, ChatTask, Finish, Message, Role, Ticket, Usage};
use foreturn::config::{ByteSize, RolesConfig};
use foreturn::decode::{GenerateOptions, SamplingOptions};
use foreturn::engine::{CancelToken, Generation, Limits, LogProbs};
use foreturn::model::inspect::Inspection;
use foreturn::model::tokenizer::RenderOptions;
use foreturn::rank::{Ended, Goal, Interim, RankedCandidate};
use foreturn::reward::{Answered, Metric, MetricInput, MetricSettings, MetricValue, WeightedMetric, build_metric};
use foreturn::rollout::{InstructedUser, Simulator};
use foreturn::{ChatModel, Config, Engine, ErrorKind, RankOptions, RankRequest, Ranking, Result};
use serde_json::{Value, json};

// ---- what the tests ask ----

/// Tokens of a cache block.
const BLOCK: usize = 16;

const CANDIDATES: [&str; 4] = [
    "What should it be about?",
    "Roses are red, violets are blue.",
    "Which occasion is it for, and how long may it be?",
    "No.",
];

const SETTINGS: &str = r#"
[rollout]
window = 1
samples = 2
max_user_tokens = 8
max_policy_tokens = 8
[[metrics]]
kind = "token_amount"
[[metrics]]
kind = "helpfulness"
min_mass = 0.0
"#;

fn history() -> Vec<Message> {
    vec![user("Write me a poem.")]
}

fn goal() -> Goal {
    Goal { task: Some("writing".into()), prompt: Some("A poem about my late dog.".into()), ..Goal::default() }
}

/// A request for these candidates; `rest` are further fields.
fn request(candidates: &[&str], rest: Value) -> RankRequest {
    let mut request = json!({"conversation": history(), "candidates": candidates, "goal": goal(), "seed": 7});
    for (field, value) in rest.as_object().expect("fields") {
        request[field] = value.clone();
    }
    request.to_string().parse().expect("a request")
}

fn rank(engine: &Engine, request: RankRequest) -> Ranking {
    engine.rank(request, RankOptions::default()).expect("a ranking")
}

/// Eight rollouts: four candidates, two samples.
fn rank_eight(engine: &Engine) -> Ranking {
    rank(engine, request(&CANDIDATES, json!({})))
}

/// The eight rollouts on an engine that nobody has used.
fn reference() -> &'static Ranking {
    static REFERENCE: OnceLock<Ranking> = OnceLock::new();
    REFERENCE.get_or_init(|| {
        let ranking = rank_eight(&fresh(with_threads(2)).engine);
        assert!(ranking.complete && ranking.bitwise);
        let weights = ranking.models.values().map(|model| model.weights.as_deref());
        assert!(weights.eq([Some(folder().fingerprint()); 3]), "{:?}", ranking.models);
        assert!(ranking.candidates.iter().all(|candidate| candidate.reward.is_some()), "{ranking:?}");
        ranking
    })
}

fn with_threads(threads: usize) -> Config {
    let mut config = config(SETTINGS);
    config.runtime.threads = Some(threads);
    config
}

/// A cache of this many blocks, and no more.
fn with_blocks(mut config: Config, blocks: usize) -> Config {
    let Inspection { kv_bytes_per_token, .. } = folder().inspect();
    config.runtime.kv_cache = Some(ByteSize((kv_bytes_per_token * BLOCK * blocks) as u64));
    config
}

/// A ranking as JSON without `fields`, wherever they are.
fn without(ranking: &Ranking, fields: &[&str]) -> Value {
    fn strip(value: &mut Value, fields: &[&str]) {
        match value {
            Value::Object(object) => {
                object.retain(|key, _| !fields.contains(&key.as_str()));
                object.values_mut().for_each(|value| strip(value, fields));
            }
            Value::Array(list) => list.iter_mut().for_each(|value| strip(value, fields)),
            _ => {}
        }
    }
    let mut value = serde_json::to_value(ranking).expect("JSON");
    strip(&mut value, fields);
    value
}

/// Everything that the promise of equal bits covers.
fn promised(ranking: &Ranking) -> Value {
    without(ranking, &["seconds", "reused_tokens"])
}

fn prompt_tokens(messages: &[Message]) -> Vec<u32> {
    folder().tokenizer().encode_chat(messages, &RenderOptions::default()).expect("tokens").tokens
}

/// A prompt of `tokens` ordinary tokens; different salts share no prefix.
fn filler(tokens: usize, salt: u32) -> Vec<u32> {
    (0..tokens as u32).map(|i| 1000 + (i * 7919 + salt * 104_729) % 10_000).collect()
}

fn sampled(seed: u64, max_tokens: usize) -> GenerateOptions {
    GenerateOptions { seed, max_tokens, ignore_eos: true, ..GenerateOptions::default() }
}

fn generate(engine: &Engine, prompt: &[u32], options: GenerateOptions) -> Result<Generation> {
    engine.model(MODEL).expect("a model").generate(prompt.to_vec(), options)
}

/// What was sampled, to the bit.
fn bits(reply: &Generation) -> (Vec<u32>, Vec<u32>, String) {
    (reply.tokens.clone(), reply.logprobs.iter().map(|p| p.to_bits()).collect(), reply.text.clone())
}

fn blocks(engine: &Engine) -> (usize, usize, u64) {
    let stats = engine.model(MODEL).expect("a model").status().expect("a local model").stats;
    (stats.peak_blocks, stats.blocks, stats.preemptions)
}

/// Runs of the model so far.
fn steps(engine: &Engine) -> u64 {
    engine.model(MODEL).expect("a model").status().expect("a local model").stats.steps
}

// ---- same inputs, same seed: same result ----

#[test]
fn the_same_seed_gives_the_same_ranking() {
    let expected = reference();
    let Fresh { engine, .. } = &fresh(with_threads(2));
    let again = rank_eight(engine);
    assert_eq!(promised(expected), promised(&again), "on another engine");
    let total = |ranking: &Ranking| ranking.cost.roles.total();
    assert_eq!(total(expected).reused_tokens, total(&again).reused_tokens, "a cold cache has the same to reuse");

    let warm = rank_eight(engine);
    assert_eq!(promised(expected), promised(&warm), "on a warm cache");
    assert!(total(&warm).reused_tokens > total(expected).reused_tokens);

    let other = rank(engine, request(&CANDIDATES, json!({"seed": 8})));
    assert_ne!(texts(expected, 0), texts(&other, 0), "another seed");
}

#[test]
fn one_thread_gives_what_two_give() {
    assert_eq!(promised(reference()), promised(&rank_eight(&fresh(with_threads(1)).engine)));
}

/// What was said in a candidate's futures.
fn texts(ranking: &Ranking, candidate: usize) -> Value {
    let candidate = ranking.candidates.iter().find(|ranked| ranked.candidate == candidate).expect("the candidate");
    let futures: Vec<_> = candidate.rollouts.iter().map(|rollout| (rollout.seed, &rollout.messages)).collect();
    serde_json::to_value(futures).expect("JSON")
}

/// With common random numbers a candidate's futures do not depend on who else is ranked, so each can be ranked alone.
#[test]
fn a_candidate_alone_has_the_futures_that_it_has_among_others() {
    let expected = reference();
    let Fresh { engine, .. } = &fresh(with_threads(2));
    for (number, candidate) in CANDIDATES.iter().enumerate() {
        let alone = rank(engine, request(&[candidate], json!({})));
        assert_eq!(texts(expected, number), texts(&alone, 0), "{candidate}");
        let rewards = |ranking: &Ranking, number| {
            ranking.candidates.iter().find(|ranked| ranked.candidate == number).and_then(|ranked| ranked.reward)
        };
        assert_eq!(rewards(expected, number), rewards(&alone, 0), "{candidate}");
    }
}

#[test]
fn twelve_replies_at_once_are_those_drawn_one_at_a_time() {
    let prompts = simulator_prompts(&CANDIDATES);
    let each = || prompts.iter().flat_map(|prompt| (0..3).map(move |seed| (prompt.clone(), sampled(seed, 8))));
    // One at a time, all but the first find their prefix in the cache; all at once, on a cold one, they wait for it.
    let one_at_a_time = |Fresh { engine, .. }: Fresh| -> Vec<_> {
        each().map(|(prompt, options)| bits(&generate(&engine, &prompt, options).expect("a reply"))).collect()
    };
    let all_at_once = |Fresh { engine, .. }: Fresh| -> Vec<_> {
        let pending: Vec<_> = each().map(|(prompt, options)| submit(&engine, prompt, options)).collect();
        pending.into_iter().map(|reply| bits(&reply.wait().expect("a reply"))).collect()
    };
    let alone = one_at_a_time(fresh(config("")));
    assert_eq!(alone, all_at_once(fresh(config(""))));
    assert_ne!(alone[0].0, alone[1].0, "other seeds draw other tokens");
}

#[test]
fn threads_that_share_an_engine_get_what_they_would_get_alone() {
    let Fresh { engine, .. } = &fresh(config(""));
    let ask = |salt: u32| bits(&generate(engine, &filler(40, salt), sampled(u64::from(salt), 12)).expect("a reply"));
    let serial: Vec<_> = (0..8).map(ask).collect();
    let parallel: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|salt| scope.spawn(move || ask(salt))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert_eq!(serial, parallel);
}

#[test]
fn engines_of_one_process_work_side_by_side() {
    let Fresh { engine: one, .. } = &fresh(with_threads(1));
    let two = &Engine::new(with_threads(2)).expect("a second engine");
    let on = |engine: &Engine| submit(engine, filler(40, 1), sampled(1, 12));
    let pending = [on(one), on(two)];
    let [first, second] = pending.map(|reply| bits(&reply.wait().expect("a reply")));
    assert_eq!(first, second);
}

#[test]
fn scoring_gives_what_sampling_gave() {
    let Fresh { engine, .. } = &fresh(config(""));
    let reply = generate(engine, &filler(40, 1), sampled(3, 20)).expect("a reply");
    let whole = [reply.prompt_tokens.clone(), reply.tokens.clone()].concat();
    let LogProbs { tokens, logprobs, .. } =
        engine.model(MODEL).expect("a model").logprobs(whole.clone()).expect("scores");
    assert_eq!((&tokens, logprobs.len()), (&whole, whole.len() - 1));
    let scored: Vec<_> = logprobs[39..].iter().map(|logprob| logprob.to_bits()).collect();
    assert_eq!(scored, bits(&reply).1, "prefilled or decoded");
}

#[test]
fn candidates_can_be_sampled_from_the_policy() {
    let Fresh { engine, .. } = &fresh(config(SETTINGS));
    let ask = || rank(engine, request(&[], json!({"candidates": 2, "window": 0})));
    let (ranking, again) = (ask(), ask());
    assert_eq!(promised(&ranking), promised(&again));
    let responses: Vec<_> = ranking.candidates.iter().filter_map(|candidate| candidate.response.as_deref()).collect();
    assert!(responses.len() == 2 && responses[0] != responses[1], "{responses:?}");
    assert!(ranking.cost.roles.policy.generated_tokens > 2);
}

// ---- replies ----

#[test]
fn a_reply_stops_before_a_stop_text_and_streams_what_it_says() {
    let Fresh { engine, .. } = &fresh(config(""));
    let (said, hear) = std::sync::mpsc::channel();
    let options = GenerateOptions {
        sampling: SamplingOptions::greedy(),
        stop: vec![" Paris".into()],
        on_text: Some(Box::new(move |text| said.send(text.to_owned()).expect("somebody listens"))),
        ..GenerateOptions::default()
    };
    let prompt = vec![user("What is the capital of France?")];
    let reply = engine.model(MODEL).expect("a model").generate(prompt, options).expect("a reply");
    assert_eq!((reply.text.as_str(), reply.finish), ("The capital of France is", Finish::Stop));
    let pieces: Vec<String> = hear.try_iter().collect();
    assert!(pieces.len() > 1, "{pieces:?}");
    assert_eq!(pieces.concat(), reply.text);
}

// ---- memory ----

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

// ---- what is shared is computed once ----

fn submit(engine: &Engine, prompt: Vec<u32>, options: GenerateOptions) -> foreturn::engine::Pending<Generation> {
    engine.model(MODEL).expect("a model").submit_generate(prompt, options).expect("queued")
}

/// The prompt with which the user is simulated, for each candidate.
fn simulator_prompts(candidates: &[&str]) -> Vec<Vec<u32>> {
    let prompt = |candidate: &&str| {
        let conversation = [history(), vec![Message::new(Role::Assistant, *candidate)]].concat();
        let conversation: Vec<&Message> = conversation.iter().collect();
        prompt_tokens(&InstructedUser::default().prompt(&goal(), &conversation))
    };
    candidates.iter().map(prompt).collect()
}

/// All prompts of the judge about responses as they stand.
fn judge_prompts(kinds: &[&str]) -> Vec<Vec<u32>> {
    let mut prompts = Vec::new();
    for candidate in CANDIDATES {
        let (history, goal, response) = (history(), goal(), Message::new(Role::Assistant, candidate));
        let input = MetricInput { history: &history, ..MetricInput::new(&response, &goal, &|_| 0) };
        for kind in kinds {
            let metric = build_metric(kind, MetricSettings::default()).expect("a metric");
            let questions = metric.questions(&input, &[]).expect("questions");
            prompts.extend(questions.iter().map(|question| prompt_tokens(&question.messages)));
        }
    }
    prompts
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

// ---- ways to end early ----

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

// ---- models of the host's own ----

static TICKETS: AtomicU64 = AtomicU64::new(0);

/// Leaves after its first message as the user, and says Yes to everything as the judge.
struct Scripted {
    waiting: Vec<(Ticket, ChatReply)>,
    asked: Arc<AtomicUsize>,
}

impl ChatModel for Scripted {
    fn name(&self) -> &str {
        "scripted"
    }

    fn is_bitwise(&self) -> bool {
        true
    }

    fn submit(&mut self, request: ChatRequest) -> Result<Ticket> {
        let ticket = Ticket(TICKETS.fetch_add(1, Ordering::Relaxed));
        let output = match request.task {
            ChatTask::Choose { answers } => ChatOutput::Choice {
                probabilities: answers.iter().map(|a| if a[0] == "Yes" { 0.9 } else { 0.1 }).collect(),
            },
            ChatTask::Generate { .. } => ChatOutput::Text {
                text: if request.messages[1].content.contains("A short one.") {
                    "[[TERMINATE CHAT]]".into()
                } else {
                    "A short one.".into()
                },
                tokens: None,
                finish: Finish::Stop,
                retokenized_differs: Vec::new(),
            },
            ChatTask::Score(_) => panic!("no metric of these tests asks for scores"),
        };
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.waiting.push((ticket, ChatReply { output, usage: Usage::default(), note: None }));
        Ok(ticket)
    }

    fn poll(&mut self, finished: &mut Vec<(Ticket, Result<ChatReply>)>) -> bool {
        finished.extend(self.waiting.drain(..).map(|(ticket, reply)| (ticket, Ok(reply))));
        false
    }

    fn cancel(&mut self, ticket: Ticket) {
        self.waiting.retain(|(other, _)| *other != ticket);
    }
}

#[test]
fn a_model_of_the_hosts_own_plays_beside_the_real_policy() {
    let mut config = config(SETTINGS);
    let role = |name: &str| Some(name.to_owned());
    config.roles =
        RolesConfig { policy: role(MODEL), user: role("scripted"), judge: role("scripted"), extractor: None };
    let policy = config.models.get_mut(MODEL).and_then(|model| model.as_local_mut()).expect("a local model");
    policy.version = Some("step-17".into());
    let _turn = turn();
    let asked = Arc::new(AtomicUsize::new(0));
    let model = Scripted { waiting: Vec::new(), asked: Arc::clone(&asked) };
    let scripted = Box::new(|| Ok(Box::new(model) as Box<dyn ChatModel>));
    let engine = Engine::builder(config).chat_model("scripted", scripted).build().expect("an engine");
    assert_eq!(engine.models(), [MODEL, "scripted"]);
    let ended: Arc<Mutex<Vec<_>>> = Arc::default();
    let telling = Arc::clone(&ended);
    let on_rollout = Box::new(move |rollout| telling.lock().expect("one thread").push(rollout));
    let options = RankOptions { on_rollout: Some(on_rollout), ..RankOptions::default() };
    let asked_for = request(&CANDIDATES[..2], json!({"window": 3, "samples": 2}));
    let ranking = engine.rank(asked_for, options).expect("a ranking");
    assert!(ranking.complete && ranking.bitwise);
    // Whoever loads weights names them, and a rollout says which ones it was sampled with.
    for rollout in &*ended.lock().expect("one thread") {
        assert_eq!(json!(rollout.weights), json!({"policy": ["step-17"]}));
    }
    for candidate in &ranking.candidates {
        assert_eq!(candidate.metrics["helpfulness"].mean, Some(0.9));
        for rollout in &candidate.rollouts {
            assert_eq!(rollout.ended, Ended::StopSignal);
            let [user, policy] = &rollout.messages[..] else { panic!("{rollout:?}") };
            assert_eq!((user.role, user.content.as_str()), (Role::User, "A short one."));
            assert!(policy.role == Role::Assistant && !policy.content.is_empty());
        }
    }
    assert!(ranking.cost.roles.policy.generated_tokens > 0);
    // Two user turns a rollout, two questions.
    assert_eq!(asked.load(Ordering::Relaxed), 4 * (2 + 2));

    let models = serde_json::to_value(&ranking.models).expect("JSON");
    assert_eq!((&models["user"]["name"], &models["user"]["weights"]), (&json!("scripted"), &Value::Null));
    assert_eq!(models["policy"]["weights"], json!("step-17"));
    let error = engine.model("scripted").expect("a model").generate(vec![1], sampled(0, 1)).expect_err("remote");
    assert!(error.to_string().contains("`scripted` is not a local model"), "{error}");
}

/// Interim rewards come with each round that is complete, and the last are those of the ranking.
#[test]
fn rewards_come_while_futures_end() {
    let Fresh { engine, .. } = &fresh(config(SETTINGS));
    let told: Arc<Mutex<Vec<Vec<Interim>>>> = Arc::default();
    let telling = Arc::clone(&told);
    let on_interim = Box::new(move |known| telling.lock().expect("one thread").push(known));
    let options = RankOptions { on_interim: Some(on_interim), ..RankOptions::default() };
    let ranking =
        engine.rank(request(&CANDIDATES[..3], json!({"window": 1, "samples": 3})), options).expect("a ranking");
    let told = told.lock().expect("one thread");
    let rounds: Vec<usize> = told.iter().map(|known| known[0].rollouts).collect();
    assert!(rounds.is_sorted_by(|a, b| a < b) && rounds.last() == Some(&3), "{rounds:?}");
    for known in &*told {
        assert!(known.len() == 3 && known.iter().all(|of| of.rollouts == known[0].rollouts), "{known:?}");
        assert!(known.is_sorted_by(|a, b| a.reward >= b.reward));
    }
    let numbers = |of: &RankedCandidate| (of.candidate, of.reward, of.std_error, of.probability_best);
    let interim = |of: &Interim| (of.candidate, Some(of.reward), of.std_error, of.probability_best);
    let last: Vec<_> = told.last().expect("told").iter().map(interim).collect();
    assert_eq!(last, ranking.candidates.iter().map(numbers).collect::<Vec<_>>());
}

#[test]
fn another_engine_scores_the_same_futures_again() {
    let engine = || {
        let asked = Arc::new(AtomicUsize::new(0));
        let model = Scripted { waiting: Vec::new(), asked: Arc::clone(&asked) };
        let scripted = Box::new(|| Ok(Box::new(model) as Box<dyn ChatModel>));
        let config = Config::from_toml(SETTINGS, "/").expect("settings");
        (Engine::builder(config).chat_model("scripted", scripted).build().expect("an engine"), asked)
    };
    let ask = || request(&CANDIDATES[..2], json!({"window": 1, "samples": 2}));
    let (first, (second, asked)) = (engine().0, engine());
    let ranking = rank(&first, ask());
    let again = second.rescore(ask(), &ranking, RankOptions::default()).expect("a ranking");
    let uncosted = |ranking: &Ranking| without(ranking, &["cost"]);
    assert_eq!(uncosted(&again), uncosted(&ranking));
    assert_eq!(asked.load(Ordering::Relaxed), 4 * 2, "two questions on each of four futures, and nothing else");
    let error = second.rescore(request(&CANDIDATES[..1], json!({})), &ranking, RankOptions::default()).expect_err("no");
    assert!(error.to_string().contains("give the request that was ranked"), "{error}");
}

#[test]
fn futures_scored_again_get_their_scores_to_the_last_bit() {
    let expected = reference();
    let Fresh { engine, .. } = &fresh(with_threads(2));
    let again = engine.rescore(request(&CANDIDATES, json!({})), expected, RankOptions::default()).expect("a ranking");
    assert!(again.complete && again.bitwise);
    let scores = |ranking: &Ranking| -> Vec<_> {
        let scores = |ranked: &foreturn::rank::RankedCandidate| {
            (ranked.candidate, ranked.reward, ranked.std_error, ranked.metrics.clone(), ranked.excluded)
        };
        ranking.candidates.iter().map(scores).collect()
    };
    assert_eq!(scores(&again), scores(expected));
    let total = again.cost.roles;
    assert_eq!((total.policy, total.user), (Usage::default(), Usage::default()));
    assert!(total.judge.prompt_tokens > 0);
}

/// Whoever plays the user opens a conversation, be it a local model or not.
#[test]
fn a_user_of_the_hosts_own_opens_a_conversation() {
    let (engine, asked) = scripted();
    assert_eq!(engine.open_conversation(&goal(), 7).expect("a message"), user("A short one."));
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    let limits = Limits { timeout: Some(Duration::from_millis(50)), ..Limits::default() };
    let error = silent().within(limits).open_conversation(&goal(), 7).expect_err("nobody answers");
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error}");
}

/// An engine without ONNX Runtime, whose one model is scripted, and how much was asked of it.
fn scripted() -> (Engine, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let model = Scripted { waiting: Vec::new(), asked: Arc::clone(&asked) };
    let model = Box::new(move || Ok(Box::new(model) as Box<dyn ChatModel>));
    let config = Config::from_toml(SETTINGS, "/").expect("settings");
    (Engine::builder(config).chat_model("scripted", model).build().expect("an engine"), asked)
}

/// A metric that works until it is told to end.
struct Stuck(Mutex<std::sync::mpsc::Receiver<()>>);

impl Metric for Stuck {
    fn kind(&self) -> &'static str {
        "stuck"
    }

    fn score(&self, batch: &[Answered<'_>]) -> Vec<Result<MetricValue>> {
        let _ = self.0.lock().expect("one thread").recv();
        batch.iter().map(|_| Ok(1.0.into())).collect()
    }
}

#[test]
fn a_metric_at_work_does_not_outlast_the_deadline() {
    let (end, told) = std::sync::mpsc::channel();
    let metric = WeightedMetric::new(Arc::new(Stuck(Mutex::new(told))), 1.0);
    let silent = Box::new(|| Ok(Box::new(Silent) as Box<dyn ChatModel>));
    let config = Config::from_toml("[rollout]\nwindow = 0\n[[metrics]]\nkind = \"token_amount\"", "/");
    let builder = Engine::builder(config.expect("settings")).chat_model("silent", silent).metric(metric);
    let engine = builder.build().expect("an engine");
    for limits in [
        Limits { timeout: Some(Duration::from_millis(50)), ..Limits::default() },
        Limits { cancel: Some(CancelToken::new()), ..Limits::default() },
    ] {
        let pending = engine.within(limits.clone()).submit_rank(request(&["a"], json!({})), RankOptions::default());
        let pending = pending.expect("queued");
        while engine.statistics().expect("a live engine").active_rankings == 0 && pending.poll().is_none() {
            std::thread::yield_now();
        }
        limits.cancel.iter().for_each(CancelToken::cancel);
        let ranking = pending.wait().expect("what there is");
        let only = &ranking.candidates[0];
        assert!(!ranking.complete && only.reward.is_none() && only.excluded == 1, "{only:?}");
    }
    drop(end);
}

/// A model that never answers.
struct Silent;

impl ChatModel for Silent {
    fn name(&self) -> &str {
        "silent"
    }

    fn submit(&mut self, _: ChatRequest) -> Result<Ticket> {
        Ok(Ticket(TICKETS.fetch_add(1, Ordering::Relaxed)))
    }

    fn poll(&mut self, _: &mut Vec<(Ticket, Result<ChatReply>)>) -> bool {
        true
    }

    fn cancel(&mut self, _: Ticket) {}
}

/// An engine without ONNX Runtime, on which rankings wait for ever.
fn silent() -> Engine {
    let silent = Box::new(|| Ok(Box::new(Silent) as Box<dyn ChatModel>));
    let config = Config::from_toml(SETTINGS, "/").expect("settings");
    Engine::builder(config).chat_model("silent", silent).build().expect("an engine")
}

#[test]
fn a_model_that_never_answers_does_not_outlast_the_deadline() {
    let limits = Limits { timeout: Some(Duration::from_millis(100)), cancel: None, priority: 0 };
    let ranking = silent().within(limits).rank(request(&["a"], json!({})), RankOptions::default()).expect("nulls");
    assert!(!ranking.complete && !ranking.bitwise);
    assert_eq!(ranking.candidates[0].reward, None);
}

/// Takes its time over each request, as a model does that has a long prompt to write and tokenise.
struct Slow {
    asked: Arc<AtomicUsize>,
    taking: Duration,
}

impl ChatModel for Slow {
    fn name(&self) -> &str {
        "slow"
    }

    fn submit(&mut self, _: ChatRequest) -> Result<Ticket> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(self.taking);
        Ok(Ticket(TICKETS.fetch_add(1, Ordering::Relaxed)))
    }

    fn poll(&mut self, _: &mut Vec<(Ticket, Result<ChatReply>)>) -> bool {
        false
    }

    fn cancel(&mut self, _: Ticket) {}
}

/// An engine with one of those, and how many requests it has got.
fn slow(taking: Duration) -> (Engine, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let model = Slow { asked: Arc::clone(&asked), taking };
    let config = Config::from_toml(SETTINGS, "/").expect("settings");
    let model = Box::new(move || Ok(Box::new(model) as Box<dyn ChatModel>));
    (Engine::builder(config).chat_model("slow", model).build().expect("an engine"), asked)
}

#[test]
fn requests_are_handed_out_as_they_can_run_and_the_clock_is_looked_at_for_each() {
    let candidates = vec!["a"; 200];
    let large = || request(&candidates, json!({"samples": 300}));
    // All that may be out are, and no prompt is written for the others.
    let (engine, asked) = slow(Duration::ZERO);
    let cancel = CancelToken::new();
    let limits = Limits { timeout: None, cancel: Some(cancel.clone()), priority: 0 };
    let pending = engine.within(limits).submit_rank(large(), RankOptions::default()).expect("queued");
    while asked.load(Ordering::Relaxed) < 128 {
        assert!(pending.poll().is_none());
        std::thread::yield_now();
    }
    engine.statistics().expect("an engine that answers");
    cancel.cancel();
    assert!(!pending.wait().expect("nulls").complete);
    assert_eq!(asked.load(Ordering::Relaxed), 128);
    // A deadline that passes while they are handed out ends that.
    const TAKING: Duration = Duration::from_millis(50);
    let (engine, asked) = slow(TAKING);
    let limits = Limits { timeout: Some(4 * TAKING), cancel: None, priority: 0 };
    let ranking = engine.within(limits).rank(large(), RankOptions::default()).expect("nulls");
    assert!(!ranking.complete);
    assert!(asked.load(Ordering::Relaxed) <= 4, "{} took their time", asked.load(Ordering::Relaxed));
}

#[test]
fn a_ranking_of_too_many_turns_is_refused_with_the_numbers() {
    let candidates = vec!["a"; 300];
    let refused = |rest| match silent().rank(request(&candidates, rest), RankOptions::default()) {
        Err(error) => (error.kind(), error.to_string()),
        Ok(_) => panic!("not refused"),
    };
    let (kind, message) = refused(json!({"samples": 300, "window": 1}));
    assert_eq!(kind, ErrorKind::InvalidRequest);
    for part in ["candidates × samples × window is 300 × 300 × 1 = 90000", "at most 65536 turns"] {
        assert!(message.contains(part), "{part} is not in {message}");
    }
    assert!(refused(json!({"samples": 10, "window": 32})).1.contains("= 96000"));
}

#[test]
fn a_full_queue_refuses_and_says_so() {
    let engine = silent();
    let submit = |_| engine.submit_rank(request(&["a"], json!({})), RankOptions::default());
    let submitted: Vec<_> = (0..400).map(submit).collect();
    // Sixteen have a place, and 256 may wait. The caller learns it at once.
    let taken = submitted.iter().take_while(|submitted| submitted.is_ok()).count();
    assert_eq!(taken, 16 + 256);
    for refused in &submitted[taken..] {
        let error = refused.as_ref().expect_err("the queue is full");
        assert_eq!(error.kind(), ErrorKind::Overloaded);
        assert!(error.to_string().contains("rankings are waiting already"), "{error}");
    }
    assert_eq!(engine.statistics().expect("a live engine").refused, 400 - 272);
}

#[test]
fn a_drained_engine_refuses_what_waits_and_ends_what_is_under_way() {
    let (engine, cancel) = (silent(), CancelToken::new());
    let limits = Limits { timeout: None, cancel: Some(cancel.clone()), priority: 0 };
    let submit = |_| engine.within(limits.clone()).submit_rank(request(&["a"], json!({})), RankOptions::default());
    let mut submitted: Vec<_> = (0..20).map(|number| submit(number).expect("queued")).collect();
    while engine.statistics().expect("a live engine").active_rankings < 16 {
        std::thread::yield_now();
    }
    engine.drain();
    for waited in submitted.split_off(16) {
        let error = waited.wait().expect_err("it had no place");
        assert_eq!(error.kind(), ErrorKind::Closed);
        assert!(error.to_string().contains("waited for a place"), "{error}");
    }
    assert_eq!(submit(20).expect_err("nothing more is taken").kind(), ErrorKind::Closed);
    assert_eq!(engine.statistics().expect("it still tells").queued_rankings, 0);
    assert!(submitted.iter().all(|ranking| ranking.poll().is_none()), "what is under way goes on");
    cancel.cancel();
    assert!(submitted.into_iter().all(|ranking| !ranking.wait().expect("nulls").complete));
}

#[test]
fn the_last_handle_may_go_with_a_callback() {
    let engine = silent();
    let (held, cancel) = (engine.clone(), CancelToken::new());
    let on_progress = Box::new(move |_| assert_eq!(held.models(), ["silent"]));
    let limits = Limits { timeout: None, cancel: Some(cancel.clone()), priority: 0 };
    let options = RankOptions { on_progress: Some(on_progress), ..RankOptions::default() };
    let ranking = engine.within(limits).submit_rank(request(&["a"], json!({})), options).expect("queued");
    // Ends what is under way before it returns, if it is the last handle.
    drop(engine);
    assert!(ranking.poll().is_none(), "the callback keeps the engine");
    cancel.cancel();
    assert!(!ranking.wait().expect("nulls").complete);
}

#[test]
fn an_engine_whose_model_cannot_be_made_says_so() {
    let _turn = turn();
    let broken = Box::new(|| Err(foreturn::Error::new(ErrorKind::Runtime, "no such endpoint")));
    let error = Engine::builder(Config::default()).chat_model("mine", broken).build().expect_err("no engine");
    assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Runtime, "no such endpoint"));
}
