//! A ranking job with fixed token counts: the work that an engine has with one ranking, whatever models answer.
//!
//! Every future takes `window` turns, each a simulated user message and a reply, and one judge token, which alone is left
//! where there are no turns. By default the prompts have 1,439 (user), 537 (policy) and 992 (judge) tokens, 35,616 in
//! all, of which 11,299 differ in the order of the reference implementation and 5,525 with the fixed text first.

use std::time::{Duration, Instant};

use foreturn::chat::Usage;
use foreturn::engine::{Generation, Pending};
use foreturn::{Engine, Result};
use serde_json::{Value, json};

use super::super::args::{BenchArgs, PromptOrder};
use super::super::models::MODEL;
use super::{Words, engine, exactly, peak_rss_bytes, refuse_zeros};

const USER_TOKENS: usize = 48;
const POLICY_TOKENS: usize = 64;
const JUDGE_TOKENS: usize = 1;

/// Tokens of the conversation that all candidates share, unless told otherwise, and of one candidate.
const HISTORY: usize = 380;
const CANDIDATE: usize = 80;
/// Tokens that a chat template puts before the policy's conversation and after it.
const POLICY_FRAME: [usize; 2] = [22, 7];
/// Instructions before and after the conversation in the reference's prompts.
const USER_FRAME: [usize; 2] = [279, 700];
const JUDGE_FRAME: [usize; 2] = [86, 334];

/// Runs the job on a model that has computed only a few tokens before.
pub(super) fn run(args: &BenchArgs) -> Result<Value> {
    refuse_zeros(&[("--candidates", args.candidates), ("--samples", args.samples)])?;
    let engine = engine(args)?;
    let words = Words::of(&engine);
    super::run(&engine, &words.prompt(32, 1), 2, 1)?;
    let start = Instant::now();
    let mut futures = Vec::new();
    for candidate in 0..args.candidates {
        for sample in 0..args.samples {
            futures.push(Future::new(args, words, candidate, sample));
        }
    }
    for future in &mut futures {
        future.ask(&engine)?;
    }
    // Each future goes on as soon as its own reply is there.
    while futures.iter().any(|future| future.pending.is_some()) {
        let mut advanced = false;
        for future in &mut futures {
            advanced |= future.advance(&engine)?;
        }
        if !advanced {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let mut usage = Usage::default();
    futures.iter().for_each(|future| usage += future.usage);
    Ok(json!({
        "seconds": seconds,
        "prompt_tokens": usage.prompt_tokens,
        "computed_tokens": usage.prompt_tokens - usage.reused_tokens,
        "generated_tokens": usage.generated_tokens,
        "peak_rss_bytes": peak_rss_bytes(),
    }))
}

/// One future of one candidate.
struct Future {
    /// The history, the candidate, and the tokens sampled since.
    conversation: Vec<u32>,
    words: Words,
    order: PromptOrder,
    /// The request that waits for its reply: user and policy in turn, and the judge as the last.
    step: usize,
    last: usize,
    seed: u64,
    pending: Option<Pending<Generation>>,
    usage: Usage,
}

impl Future {
    fn new(args: &BenchArgs, words: Words, candidate: usize, sample: usize) -> Self {
        let mut conversation = words.prompt(args.history_tokens.unwrap_or(HISTORY), 2);
        conversation.extend(words.prompt(CANDIDATE, 100 + candidate));
        Future {
            conversation,
            words,
            order: args.prompt_order,
            step: 0,
            last: 2 * args.window,
            seed: (candidate * args.samples + sample) as u64,
            pending: None,
            usage: Usage::default(),
        }
    }

    /// Sends the next request: a user message, a reply, or in the end the judge's question.
    fn ask(&mut self, engine: &Engine) -> Result<()> {
        let (tokens, new) = if self.step == self.last {
            (self.framed(JUDGE_FRAME, 3, self.order), JUDGE_TOKENS)
        } else if self.step.is_multiple_of(2) {
            (self.framed(USER_FRAME, 5, self.order), USER_TOKENS)
        } else {
            // Chat templates decide where the policy's frame is.
            (self.framed(POLICY_FRAME, 4, PromptOrder::Reference), POLICY_TOKENS)
        };
        let options = exactly(new, self.seed * 1000 + self.step as u64);
        self.pending = Some(engine.model(MODEL)?.submit_generate(tokens, options)?);
        Ok(())
    }

    fn framed(&self, [before, after]: [usize; 2], salt: usize, order: PromptOrder) -> Vec<u32> {
        let fixed = self.words.prompt(before + after, salt);
        let (head, tail) = match order {
            PromptOrder::Reference => fixed.split_at(before),
            PromptOrder::FixedFirst => fixed.split_at(before + after),
        };
        [head, &self.conversation, tail].concat()
    }

    /// Takes the reply, if it is there, and asks what follows from it.
    fn advance(&mut self, engine: &Engine) -> Result<bool> {
        let Some(reply) = self.pending.as_ref().and_then(Pending::poll) else { return Ok(false) };
        self.pending = None;
        let reply = reply?;
        self.usage += reply.usage;
        if self.step < self.last {
            self.conversation.extend(reply.tokens);
            self.step += 1;
            self.ask(engine)?;
        }
        Ok(true)
    }
}
