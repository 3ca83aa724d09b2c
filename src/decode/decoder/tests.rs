//! The real model: against transformers' tokens, and bit for bit against itself.

#[cfg(feature = "constraints")]
mod constrained;
mod device;
mod finite;
mod kinds;

use super::*;
use crate::decode::SamplingOptions;
use crate::decode::constraint::Constraint;
use crate::decode::reader::{Generate, GenerateOptions, LogProbs};
use crate::model::{Batching, ModelKind, OpenOptions};
use crate::testing::{fixture, runtime, smollm2};

fn decoder(threads: usize, kv_cache: usize, step_budget: Duration) -> Decoder {
    let options = DecodeOptions { kv_cache, step_budget, ..DecodeOptions::default() };
    let mut decoder = Decoder::load(smollm2(), &options, &runtime(threads)).expect("the model loads");
    decoder.poison();
    decoder
}

const AMPLE: usize = 256 << 20;
const SHORT: Duration = Duration::from_millis(30);
const LONG: Duration = Duration::from_secs(1);

fn tokens(value: &serde_json::Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("a list of token ids")
}

/// Queues a reply.
fn generate(decoder: &mut Decoder, prompt: &[u32], options: GenerateOptions) -> SequenceId {
    generate_within(decoder, prompt, options, None)
}

fn generate_within(
    decoder: &mut Decoder,
    prompt: &[u32],
    options: GenerateOptions,
    constraint: Option<Constraint>,
) -> SequenceId {
    let folder = Arc::clone(decoder.folder());
    let (tokenizer, stop_tokens) = (folder.tokenizer(), folder.stop_tokens());
    let reader = Generate::new(options, prompt.len(), folder.context_length(), tokenizer, &stop_tokens, constraint)
        .expect("options");
    let max = reader.max_tokens();
    decoder.submit(prompt.to_vec(), max, Urgency::default(), AnyReader::Generate(Box::new(reader))).expect("accepted")
}

/// Runs until nothing is left; results in order of submission.
fn finish(decoder: &mut Decoder) -> Vec<Ended<AnyReader>> {
    let mut ended = Vec::new();
    while decoder.step(&mut ended) {}
    ended.sort_by_key(|e| e.id);
    ended
}

/// Tokens and the bits of their log-probabilities.
fn reply(ended: Ended<AnyReader>) -> (Vec<u32>, Vec<u32>) {
    ended.result.expect("no error");
    match ended.reader {
        AnyReader::Generate(reader) => (reader.tokens, reader.logprobs.iter().map(|x| x.to_bits()).collect()),
        _ => panic!("not a reply"),
    }
}

fn sampled(seed: u64, max_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_tokens, seed, sampling: SamplingOptions::default(), ..GenerateOptions::default() }
}

#[test]
fn greedy_tokens_are_those_of_transformers() {
    let cases = fixture("smollm2/greedy.json")["cases"].as_array().expect("cases").clone();
    let mut decoder = decoder(2, AMPLE, LONG);
    for ignore_eos in [false, true] {
        for case in &cases {
            let sampling = SamplingOptions::greedy();
            let options = GenerateOptions { max_tokens: 64, sampling, ignore_eos, ..GenerateOptions::default() };
            generate(&mut decoder, &tokens(&case["prompt_tokens"]), options);
        }
        for (ended, case) in finish(&mut decoder).into_iter().zip(&cases) {
            let wanted = &case[if ignore_eos { "tokens_past_eos" } else { "tokens" }];
            assert_eq!(reply(ended).0, tokens(wanted), "{}", case["name"]);
        }
    }
}

#[test]
fn log_probabilities_are_those_of_transformers() {
    let mut decoder = decoder(2, AMPLE, LONG);
    let cases = fixture("smollm2/logprobs.json")["cases"].as_array().expect("cases").clone();
    for case in &cases {
        let tokens = tokens(&case["tokens"]);
        let reader = AnyReader::LogProbs(LogProbs::new(tokens.clone().into(), 0));
        decoder.submit(tokens, 0, Urgency::default(), reader).expect("accepted");
    }
    for (ended, case) in finish(&mut decoder).into_iter().zip(&cases) {
        let AnyReader::LogProbs(reader) = ended.reader else { panic!("not log-probabilities") };
        let wanted: Vec<f32> = serde_json::from_value(case["logprobs"].clone()).expect("numbers");
        assert_eq!(reader.logprobs.len(), wanted.len());
        for (got, want) in reader.logprobs.iter().zip(wanted) {
            assert!((got - want).abs() < 1e-3, "{}: {got} is not {want}", case["name"]);
        }
    }
}

#[test]
fn batching_changes_nothing_to_the_last_bit() {
    let cases = fixture("smollm2/greedy.json")["cases"].as_array().expect("cases").clone();
    // The first three come again, with other seeds.
    let prompts: Vec<_> = (0..8)
        .map(|i| {
            let prompt = tokens(&cases[i % 5]["prompt_tokens"]);
            prompt[..prompt.len().min(160)].to_vec()
        })
        .collect();
    // One at a time, whole prompts in one chunk, two threads.
    let alone: Vec<_> = prompts
        .iter()
        .enumerate()
        .map(|(i, prompt)| {
            let mut decoder = decoder(2, AMPLE, LONG);
            generate(&mut decoder, prompt, sampled(i as u64, 16));
            finish(&mut decoder).into_iter().map(reply).next().expect("one reply")
        })
        .collect();
    // All at once, in small chunks; then again from the prefix cache; with one thread; with next to no memory.
    let small = 14 * smollm2().block_bytes();
    for (threads, kv_cache, step) in [(2, AMPLE, SHORT), (1, AMPLE, LONG), (2, small, SHORT)] {
        let mut decoder = decoder(threads, kv_cache, step);
        for round in 0..2 {
            for (i, prompt) in prompts.iter().enumerate() {
                generate(&mut decoder, prompt, sampled(i as u64, 16));
            }
            let together: Vec<_> = finish(&mut decoder).into_iter().map(reply).collect();
            assert_eq!(together, alone, "{threads} threads, {kv_cache} bytes, round {round}");
        }
        assert_eq!(decoder.stats().preemptions > 0, kv_cache == small);
        assert!(decoder.stats().peak_blocks <= decoder.stats().blocks);
    }
}

#[test]
fn a_fork_continues_as_if_decoded_from_scratch() {
    let case = &fixture("smollm2/greedy.json")["cases"][3];
    let prompt = tokens(&case["prompt_tokens"]);
    let mut decoder = decoder(2, AMPLE, LONG);
    generate(&mut decoder, &prompt, sampled(5, 20));
    let (first, _) = reply(finish(&mut decoder).remove(0));
    let mut forked = prompt.clone();
    forked.extend(&first[..11]);
    generate(&mut decoder, &forked, sampled(6, 16));
    let ended = finish(&mut decoder).remove(0);
    assert_eq!(ended.cost.computed, 1, "the fork computes nothing but its last token");
    let fork = reply(ended);

    let mut fresh = self::decoder(1, AMPLE, SHORT);
    generate(&mut fresh, &forked, sampled(6, 16));
    assert_eq!(fork, reply(finish(&mut fresh).remove(0)));
}

/// Rows of the old weights are never read: those of the new ones are computed, pinned or not.
#[test]
fn a_decoder_whose_weights_are_exchanged_computes_everything_again() {
    let case = &fixture("smollm2/greedy.json")["cases"][0];
    let prompt = tokens(&case["prompt_tokens"]);
    let mut decoder = decoder(2, AMPLE, SHORT);
    decoder.pin(1, &prompt).expect("fits");
    generate(&mut decoder, &prompt, sampled(5, 24));
    let (folder, options) =
        (Arc::clone(decoder.folder()), DecodeOptions { kv_cache: AMPLE, ..DecodeOptions::default() });
    let fresh = || Loaded::load(Arc::clone(&folder), None, &options, &runtime(2)).expect("the model loads");
    let error = decoder.exchange(fresh()).err().expect("a sequence is under way");
    assert_eq!(error.kind(), ErrorKind::Internal);
    let undisturbed = finish(&mut decoder).remove(0);
    assert_eq!(undisturbed.cost.reused(), 0);

    drop(decoder.exchange(fresh()).expect("nothing is under way"));
    decoder.poison();
    assert_eq!(decoder.stats().used_blocks, 0);
    assert_eq!(decoder.pinned().count(), 1);
    generate(&mut decoder, &prompt, sampled(5, 24));
    let again = finish(&mut decoder).remove(0);
    assert_eq!(again.cost.reused(), 0);
    assert_eq!(reply(again), reply(undisturbed));
}

#[test]
fn the_padded_path_gives_the_same_tokens() {
    let options = OpenOptions { batching: Batching::Padded, ..OpenOptions::default() };
    let folder = Arc::new(ModelFolder::open_with(smollm2().path(), options).expect("the model opens"));
    assert_eq!(folder.kind(), ModelKind::PaddedDecoder);
    let options = DecodeOptions { kv_cache: AMPLE, step_budget: SHORT, ..DecodeOptions::default() };
    let mut decoder = Decoder::load(folder, &options, &runtime(2)).expect("the model loads");
    decoder.poison();
    let cases = fixture("smollm2/greedy.json")["cases"].as_array().expect("cases").clone();
    for case in &cases {
        let sampling = SamplingOptions::greedy();
        generate(
            &mut decoder,
            &tokens(&case["prompt_tokens"]),
            GenerateOptions { max_tokens: 16, sampling, ..GenerateOptions::default() },
        );
    }
    for (ended, case) in finish(&mut decoder).into_iter().zip(&cases) {
        let wanted = tokens(&case["tokens"]);
        assert_eq!(reply(ended).0, wanted[..wanted.len().min(16)], "{}", case["name"]);
    }
}

#[test]
fn prompts_that_cannot_be_taken_are_refused_with_the_numbers() {
    let mut decoder = decoder(2, AMPLE, LONG);
    let mut refuse = |prompt: Vec<u32>| {
        let reader = AnyReader::LogProbs(LogProbs::new(prompt.clone().into(), 0));
        decoder.submit(prompt, 0, Urgency::default(), reader).expect_err("refused").to_string()
    };
    assert!(refuse(vec![]).contains("empty"));
    assert!(refuse(vec![1, 49_152]).contains("token 49152 is beyond the vocabulary"));
    assert!(refuse(vec![1; 8193]).contains("8193 tokens"));
}

#[test]
fn a_step_is_sized_to_deadlines_once_the_rate_is_measured() {
    let now = Instant::now();
    let mut pace = Pace::new(Duration::from_millis(250));
    assert_eq!(pace.budget(now).rate, None);
    pace.observe(100, Duration::from_millis(200));
    let Budget { tokens, least, rate, now: begins } = pace.budget(now);
    assert_eq!((tokens, least, rate, begins), (125, Pace::LEAST, Some(500.0), now));
}

#[test]
fn a_step_keeps_its_budget_from_the_first_one_on() {
    const BUDGET: Duration = Duration::from_millis(250);
    // Steps on machines that compute so many tokens a second, the first one before anything is known of them.
    for (rate, later) in [(50.0, Pace::LEAST), (400.0, 100), (1000.0, 250), (1e6, Pace::MOST)] {
        let mut pace = Pace::new(BUDGET);
        assert_eq!(pace.tokens(), Pace::LEAST, "the least that a step computes");
        for _ in 0..10 {
            pace.observe(pace.tokens(), Duration::from_secs_f64(pace.tokens() as f64 / rate));
            assert!(pace.tokens().abs_diff(later) <= 1, "{} instead of {later} at {rate}", pace.tokens());
        }
    }
}
