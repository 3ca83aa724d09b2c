//! The engine on the real model: equal results whatever else is under way. The folder beside this file has what is
//! shared and what is refused, the ways in which a request ends early, and models of the host's own.
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

mod crowd;
mod ends;
mod memory;
mod own_models;

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
