//! Two hundred threads on one engine with little memory: rankings, replies, scores and pinned prefixes, with deadlines of
//! a millisecond, cancellations and a queue that is too short. Each gets its answer or is told why not, and nothing stays
//! behind.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};

use super::*;
use crate::common::models;
use foreturn::Error;

const THREADS: u64 = 200;
const ASKS: usize = 6;
/// One block more than the whole context, so that whatever is left pinned is in the way of a full prompt.
const BLOCKS: usize = 17;
const CONTEXT: usize = 16 * BLOCK;

const SETTINGS: &str = "
[runtime]
max_queued = 64
[rollout]
role_style = 'user_lm'
window = 1
samples = 2
max_user_tokens = 4
max_policy_tokens = 4
[[metrics]]
kind = 'token_amount'
[models.policy]
path = 'llama'
[models.user]
path = 'user'
[roles]
policy = 'policy'
user = 'user'
judge = 'policy'
";

/// Numbers that look random and are the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// What was asked for, so that it can be asked for again in peace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Asked {
    family: u32,
    prompt: usize,
    tokens: usize,
    seed: u64,
}

impl Asked {
    fn new(numbers: &mut Numbers) -> Self {
        let mut below = |bound| numbers.below(bound) as usize;
        Asked { family: below(3) as u32, prompt: 2 + below(119), tokens: 1 + below(20), seed: below(9) as u64 }
    }

    /// Prompts of one family share what they can.
    fn prompt(&self) -> Vec<u32> {
        (0..self.prompt as u32).map(|at| 10 + (at * 7919 + self.family * 104_729) % 250).collect()
    }

    fn options(&self) -> GenerateOptions {
        sampled(self.seed, self.tokens)
    }
}

enum Ended {
    Reply(Asked, Vec<u32>, Finish),
    Other(&'static str),
    Failed(&'static str, ErrorKind, String),
}

fn engine(folder: &Path, blocks: usize) -> Engine {
    let mut config = Config::from_toml(SETTINGS, folder).expect("settings");
    config.runtime.library = Some(crate::common::runtime_path());
    let token = foreturn::model::ModelFolder::open(folder.join("llama")).expect("a model").inspect().kv_bytes_per_token;
    config.runtime.kv_cache = Some(ByteSize((token * BLOCK * blocks) as u64));
    Engine::new(config).expect("an engine")
}

fn limits(numbers: &mut Numbers) -> Limits {
    let timeout = match numbers.below(4) {
        0 => Some(Duration::from_millis(1)),
        1 => Some(Duration::from_millis(numbers.below(300))),
        _ => None,
    };
    let cancel = (numbers.below(3) == 0).then(CancelToken::new);
    if let Some(cancel) = cancel.clone() {
        let after = Duration::from_millis(numbers.below(80));
        std::thread::spawn(move || {
            std::thread::sleep(after);
            cancel.cancel();
        });
    }
    Limits { timeout, cancel, priority: numbers.below(3) as i32 }
}

/// One thread's asks, one after another.
fn ask(engine: &Engine, numbers: &mut Numbers, told: &Sender<Ended>) {
    for _ in 0..ASKS {
        let asked = Asked::new(numbers);
        let engine = engine.within(limits(numbers));
        let model = engine.model("policy").expect("a model");
        let failed = |what, error: Error| Ended::Failed(what, error.kind(), error.to_string());
        let done = |what, result: Result<()>| result.map_or_else(|error| failed(what, error), |()| Ended::Other(what));
        let ended = match numbers.below(5) {
            0 => done("rank", engine.rank(request(&["a b", "c"], json!({})), RankOptions::default()).map(drop)),
            1 => done("logprobs", model.logprobs(asked.prompt()).map(drop)),
            2 => done("warm", model.warm(asked.prompt()).map(|_pin| std::thread::yield_now())),
            _ => match model.generate(asked.prompt(), asked.options()) {
                Ok(reply) => Ended::Reply(asked, reply.tokens, reply.finish),
                Err(error) => failed("generate", error),
            },
        };
        if told.send(ended).is_err() {
            return; // The test has failed already.
        }
    }
}

#[test]
fn a_crowd_gets_its_answers_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    models::with_user(folder.path());
    let _turn = turn();
    let crowded = engine(folder.path(), BLOCKS);
    let (told, hear) = channel();
    for thread in 1..=THREADS {
        let (engine, told) = (crowded.clone(), told.clone());
        std::thread::spawn(move || ask(&engine, &mut Numbers(thread * 7919), &told));
    }
    drop(told);
    let (mut replies, mut kinds) = (BTreeMap::<Asked, Vec<(Vec<u32>, Finish)>>::new(), BTreeMap::new());
    loop {
        match hear.recv_timeout(Duration::from_secs(120)) {
            Ok(Ended::Reply(asked, tokens, finish)) => replies.entry(asked).or_default().push((tokens, finish)),
            Ok(Ended::Other(what)) => *kinds.entry(what).or_insert(0) += 1,
            Ok(Ended::Failed(what, kind, message)) => {
                use ErrorKind::{Cancelled, DeadlineExceeded, MemoryBudget, Overloaded};
                let expected = [Cancelled, DeadlineExceeded, MemoryBudget, Overloaded].contains(&kind);
                assert!(expected, "{what}: {kind:?}: {message}");
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => panic!("nobody got anything: {:?}", crowded.statistics()),
        }
    }
    assert!(["rank", "logprobs", "warm"].iter().all(|kind| kinds.contains_key(kind)), "{kinds:?}");

    // Who had to give way, was cut off or came among many others has what they would have had alone.
    let quiet = engine(folder.path(), 64 * BLOCKS);
    let mut whole = 0;
    for (asked, got) in replies {
        let alone = quiet.model("policy").expect("a model").generate(asked.prompt(), asked.options()).expect("a reply");
        for (tokens, finish) in got {
            if finish == alone.finish {
                assert_eq!(tokens, alone.tokens, "{asked:?}");
                whole += 1;
            } else {
                assert!(matches!(finish, Finish::Deadline | Finish::Cancelled), "{asked:?}: {finish:?}");
                assert!(alone.tokens.starts_with(&tokens), "{asked:?}: {tokens:?} of {:?}", alone.tokens);
            }
        }
    }
    assert!(whole > 0, "nobody got a whole reply");

    // The threads are gone; what they asked for is, too.
    let left = crowded.statistics().expect("a live engine");
    assert_eq!((left.queued_rankings, left.queued_calls, left.active_rankings, left.active_texts), (0, 0, 0, 0));
    assert!(!left.errors.contains_key(&ErrorKind::Internal), "{:?}", left.errors);
    for status in left.models.values() {
        let stats = status.stats;
        assert_eq!((stats.sequences, stats.waiting), (0, 0), "{stats:?}");
        assert!(stats.peak_blocks <= stats.blocks, "{stats:?}");
    }
    let full = Asked { family: 3, prompt: CONTEXT - 1, tokens: 1, seed: 0 };
    let reply = crowded.model("policy").expect("a model").generate(full.prompt(), full.options());
    assert_eq!(reply.expect("nothing is pinned").tokens.len(), 1);
}
