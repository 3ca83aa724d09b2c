//! Tiny models of other kinds, bit for bit against themselves: windows, soft caps, quantised weights, and rotary tables by
//! length, which replies outgrow half-way.

use super::*;
use crate::export::Quantize;

/// A checkpoint of tests/fixtures/models, exported to a folder that goes away with the first; and the prompts of its
/// reference.
fn exported(name: &str, quantize: Quantize) -> (tempfile::TempDir, Arc<ModelFolder>, Vec<Vec<u32>>) {
    let (folder, to) = crate::testing::exported(name, quantize);
    let cases = fixture(&format!("models/{name}/reference.json"))["cases"].as_array().expect("cases").clone();
    let opened = Arc::new(ModelFolder::open(&to).expect("the model opens"));
    (folder, opened, cases.iter().map(|case| tokens(&case["tokens"])).collect())
}

fn load(folder: &Arc<ModelFolder>, threads: usize, blocks: usize, step_budget: Duration) -> Decoder {
    let options = DecodeOptions { kv_cache: blocks * folder.block_bytes(), step_budget, ..DecodeOptions::default() };
    let mut decoder = Decoder::load(Arc::clone(folder), &options, &runtime(threads)).expect("the model loads");
    decoder.poison();
    decoder
}

fn sampled_past_eos(seed: usize) -> GenerateOptions {
    GenerateOptions { ignore_eos: true, ..sampled(seed as u64, 40) }
}

#[test]
fn batching_changes_nothing_for_other_kinds_of_models() {
    /// Prompt tokens a step are between 32 and 512: the least, and all at once.
    const BUDGETS: [Duration; 2] = [Duration::from_nanos(1), Duration::from_secs(1)];
    for (name, quantize) in [
        ("gemma2", Quantize::None),
        ("gemma2", Quantize::Int4),
        ("gemma3", Quantize::Int8),
        ("qwen2-window", Quantize::None),
        ("phi3-longrope", Quantize::None),
    ] {
        let (_files, folder, mut prompts) = exported(name, quantize);
        assert!(folder.inspect().bitwise, "{name}, {quantize:?}");
        // Others that leave the same prefix at different places.
        let longest = prompts.iter().max_by_key(|prompt| prompt.len()).expect("a prompt").clone();
        prompts.extend([20, 47, 60, 63, 64, 65].map(|at| [&longest[..at], &[5, 6, 7]].concat()));
        let alone: Vec<_> = prompts
            .iter()
            .enumerate()
            .map(|(i, prompt)| {
                let mut decoder = load(&folder, 2, 100, BUDGETS[1]);
                generate(&mut decoder, prompt, sampled_past_eos(i));
                finish(&mut decoder).into_iter().map(reply).next().expect("one reply")
            })
            .collect();
        for (threads, blocks, step) in [(2, 300, BUDGETS[0]), (1, 300, BUDGETS[1]), (2, 14, BUDGETS[0])] {
            let mut decoder = load(&folder, threads, blocks, step);
            for round in 0..2 {
                for (i, prompt) in prompts.iter().enumerate() {
                    generate(&mut decoder, prompt, sampled_past_eos(i));
                }
                let together: Vec<_> = finish(&mut decoder).into_iter().map(reply).collect();
                assert_eq!(together, alone, "{name}, {quantize:?}, {threads} threads, {blocks} blocks, round {round}");
            }
        }
    }
}
