//! Tiny models on a device, held to the same on the CPU. `make test-gpu` names the device; elsewhere these tests have
//! nothing to run on and say so.

use super::*;
use crate::export::Quantize;
use crate::model::OpenOptions;
use crate::runtime::{Provider, RuntimeOptions, providers};

/// Tokens of a block of the device.
const BLOCK: usize = 64;
/// Largest difference of a log-probability in float16 from one in float32. 0.07 came on lavapipe.
const TOLERANCE: f32 = 0.15;
/// No step takes as long, so the sizes of steps don't depend on the time that they take: the first ones on a device compile its
/// shaders for seconds.
const UNHURRIED: Duration = Duration::from_secs(3600);

/// The provider that `make test-gpu` names, if it has a device, which CI may not do without.
#[allow(clippy::print_stderr, reason = "a test that is skipped says so")]
fn named() -> Option<Provider> {
    let Ok(name) = std::env::var("FORETURN_TEST_PROVIDER") else {
        eprintln!("skipped: no device is named; run `make test-gpu`");
        return None;
    };
    let provider = name.parse().expect("a provider");
    let Err(reason) = providers::probe(provider, &runtime(2)).expect("ONNX Runtime") else { return Some(provider) };
    assert!(std::env::var_os("CI").is_none(), "`{name}` is not there: {reason}");
    eprintln!("skipped: `{name}` is not there: {reason}");
    None
}

/// A checkpoint on the CPU and on the device, with so many blocks there. The device's cache begins with NaN.
struct Both {
    _files: tempfile::TempDir,
    cpu: Decoder,
    device: Decoder,
}

fn both(name: &str, blocks: usize) -> Option<Both> {
    let runtime = RuntimeOptions { providers: vec![named()?], ..runtime(2) };
    let (files, to) = crate::testing::exported(name, Quantize::None);
    let on_cpu = Arc::new(ModelFolder::open(&to).expect("the model opens"));
    let folder = ModelFolder::open_on(&to, OpenOptions::default(), &runtime).expect("the model opens");
    assert_eq!(folder.block_size(), BLOCK);
    let options = DecodeOptions { kv_cache: AMPLE, step_budget: UNHURRIED, ..DecodeOptions::default() };
    let cpu = Decoder::load(on_cpu, &options, &self::runtime(2)).expect("the model loads");
    let options = DecodeOptions { kv_cache: blocks * folder.block_bytes(), ..options };
    let mut device = Decoder::load(folder, &options, &runtime).expect("the model loads on the device");
    assert!(!device.provider().nodes.is_empty(), "it is known which provider runs each node");
    device.poison();
    Some(Both { _files: files, cpu, device })
}

/// Tokens that look random.
fn text(seed: u32, length: usize) -> Vec<u32> {
    (0..length as u32).map(|at| 5 + (seed.wrapping_mul(7919) + at.wrapping_mul(104_729) + at * at * 31) % 300).collect()
}

/// The log-probabilities of each text, all texts in one go, and what was computed and taken from the cache.
fn scored(decoder: &mut Decoder, texts: &[Vec<u32>]) -> (Vec<Vec<f32>>, Vec<(usize, usize)>) {
    for text in texts {
        let reader = AnyReader::LogProbs(LogProbs::new(text.clone().into(), 0));
        decoder.submit(text.clone(), 0, Urgency::default(), reader).expect("accepted");
    }
    let ended = finish(decoder).into_iter().map(|ended| {
        ended.result.expect("no error");
        let AnyReader::LogProbs(reader) = ended.reader else { panic!("not log-probabilities") };
        (reader.logprobs, (ended.cost.computed, ended.cost.reused()))
    });
    ended.unzip()
}

fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() < TOLERANCE, "{what}: token {at} has {found}, and {expected} on the CPU");
    }
}

#[test]
fn shared_prefixes_are_computed_once_and_counted_as_on_the_cpu() {
    for name in ["llama", "qwen3"] {
        let Some(Both { mut cpu, mut device, .. }) = both(name, 64) else { return };
        let prefix = text(1, 2 * BLOCK + 22);
        // Texts that leave the prefix within a block, at its edge and at its end; and one by itself.
        let mut texts: Vec<Vec<u32>> =
            [3, 63, 64, 65, 128, 149, 150].map(|at| [&prefix[..at], &text(at as u32, 9)].concat()).to_vec();
        texts.push(text(9, 80));
        for round in 0..2 {
            let (expected, counts) = scored(&mut cpu, &texts);
            let (found, on_device) = scored(&mut device, &texts);
            for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
                assert_close(found, expected, &format!("{name}, round {round}, text {index}"));
            }
            assert_eq!(on_device, counts, "{name}, round {round}: tokens computed and reused");
        }
        let (on_cpu, on_device) = (cpu.stats(), device.stats());
        assert_eq!(on_device.computed_tokens, on_cpu.computed_tokens, "{name}");
        assert_eq!(on_device.reused_tokens, on_cpu.reused_tokens, "{name}");
    }
}

/// What is taken from the cache is read from the device's memory: NaN there is NaN in the logits.
#[test]
fn the_cache_is_the_devices_memory() {
    let Some(Both { mut device, .. }) = both("llama", 8) else { return };
    let prompt = text(3, BLOCK + 5);
    scored(&mut device, std::slice::from_ref(&prompt));
    device.poison();
    generate(&mut device, &prompt, sampled(1, 4));
    let ended = finish(&mut device).remove(0);
    assert!(ended.cost.reused() > BLOCK, "its prefix is there");
    let error = ended.result.expect_err("it is not a number").to_string();
    assert!(error.contains("NaN") || error.contains("finite"), "{error}");
}

/// Forks write into copies of the block that they share.
#[test]
fn forks_go_on_from_copies_of_a_block() {
    let Some(Both { mut cpu, mut device, .. }) = both("llama", 64) else { return };
    let prompt = text(2, BLOCK + 20);
    let options = |seed| GenerateOptions { ignore_eos: true, ..sampled(seed, 20) };
    generate(&mut device, &prompt, options(5));
    let (first, _) = reply(finish(&mut device).remove(0));
    let forked = [&prompt[..], &first[..11]].concat();
    // Several at once, each of which goes on its own way.
    for seed in 0..4 {
        generate(&mut device, &forked, options(seed));
    }
    let ended = finish(&mut device);
    let computed: Vec<usize> = ended.iter().map(|ended| ended.cost.computed).collect();
    assert_eq!(computed, [1; 4], "of its prompt, a fork computes the last token alone");
    let replies: Vec<(Vec<u32>, Vec<u32>)> = ended.into_iter().map(reply).collect();
    assert!(replies.iter().any(|other| other.0 != replies[0].0), "they differ");
    let whole: Vec<Vec<u32>> = replies.iter().map(|(tokens, _)| [&forked[..], tokens].concat()).collect();
    let (expected, _) = scored(&mut cpu, &whole);
    for (seed, ((_, bits), expected)) in replies.iter().zip(&expected).enumerate() {
        let found: Vec<f32> = bits.iter().map(|&bits| f32::from_bits(bits)).collect();
        assert_close(&found, &expected[forked.len() - 1..], &format!("fork {seed}"));
    }
}

#[test]
fn sequences_that_are_sent_back_lose_nothing() {
    let Some(Both { mut cpu, mut device, .. }) = both("llama", 8) else { return };
    let prompts: Vec<Vec<u32>> = (0..5).map(|seed| text(seed, BLOCK - 9 + seed as usize)).collect();
    for (seed, prompt) in prompts.iter().enumerate() {
        generate(&mut device, prompt, GenerateOptions { ignore_eos: true, ..sampled(seed as u64, BLOCK + 20) });
    }
    let replies: Vec<(Vec<u32>, Vec<u32>)> = finish(&mut device).into_iter().map(reply).collect();
    assert!(device.stats().preemptions > 0, "8 blocks hold two or three of them: {:?}", device.stats());
    let whole: Vec<Vec<u32>> =
        prompts.iter().zip(&replies).map(|(prompt, reply)| [&prompt[..], &reply.0].concat()).collect();
    let (expected, _) = scored(&mut cpu, &whole);
    for (index, ((_, bits), expected)) in replies.iter().zip(&expected).enumerate() {
        let found: Vec<f32> = bits.iter().map(|&bits| f32::from_bits(bits)).collect();
        assert_close(&found, &expected[prompts[index].len() - 1..], &format!("sequence {index}"));
    }
}
