//! The padded path over a tiny graph whose logits are known.

use std::sync::Arc;
use std::time::Duration;

use crate::decode::reader::{AnyReader, Generate, GenerateOptions};
use crate::decode::{DecodeOptions, Decoder, SamplingOptions};
use crate::model::testing::{self, decoder, graph, nodes};
use crate::model::{ModelFolder, ModelKind};
use crate::onnx::ModelProto;
use crate::testing::runtime;

/// The likeliest tokens after `prompt`, by the formula.
fn expected(prompt: &[u32], count: usize) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    for _ in 0..count {
        let logits = testing::logits(&tokens);
        let best = (0..logits.len()).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b])).expect("tokens");
        tokens.push(best as u32);
    }
    tokens.split_off(prompt.len())
}

/// Prompts of these lengths, all different.
fn prompts(lengths: &[usize]) -> Vec<Vec<u32>> {
    let token = |i: usize, at: usize| (10 + (i * 37 + at * 11) % 200) as u32;
    lengths.iter().enumerate().map(|(i, &length)| (0..length).map(|at| token(i, at)).collect()).collect()
}

/// Greedy replies of `model`, all prompts at once.
fn replies(model: &ModelProto, prompts: &[Vec<u32>], count: usize) -> Vec<Vec<u32>> {
    let folder = testing::folder(model);
    let folder = Arc::new(ModelFolder::open(folder.path()).expect("the model opens"));
    assert_eq!(folder.kind(), ModelKind::PaddedDecoder);
    let options = DecodeOptions { kv_cache: 1 << 20, step_budget: Duration::from_millis(30), ..Default::default() };
    let mut decoder = Decoder::load(Arc::clone(&folder), &options, &runtime(1)).expect("the model loads");
    decoder.poison();
    for prompt in prompts {
        let greedy = SamplingOptions::greedy();
        let options =
            GenerateOptions { max_tokens: count, sampling: greedy, ignore_eos: true, ..GenerateOptions::default() };
        let reader = Generate::new(options, prompt.len(), 512, folder.tokenizer(), &[]).expect("options");
        decoder.submit(prompt.clone(), count, AnyReader::Generate(Box::new(reader))).expect("accepted");
    }
    let mut ended = Vec::new();
    while decoder.step(&mut ended) {}
    ended.sort_by_key(|e| e.id);
    let tokens = ended.into_iter().map(|ended| {
        ended.result.expect("no error");
        match ended.reader {
            AnyReader::Generate(reader) => reader.tokens,
            _ => panic!("not a reply"),
        }
    });
    tokens.collect()
}

#[test]
fn every_sequence_gets_what_it_would_get_alone() {
    // Equal lengths, lengths that stand in one run after padding, and ones that don't.
    let prompts = prompts(&[5, 5, 40, 33, 40, 90, 1, 17, 16]);
    let expected: Vec<_> = prompts.iter().map(|prompt| expected(prompt, 24)).collect();
    assert_eq!(replies(&decoder(), &prompts, 24), expected);
}

#[test]
fn a_graph_without_a_mask_never_gets_padding() {
    let mut model = decoder();
    graph(&mut model).input.retain(|input| input.name() != "attention_mask");
    nodes(&mut model).retain(|node| !["mask", "mask_rows"].contains(&node.name()));
    for node in nodes(&mut model) {
        if node.name() == "seen_masked" {
            *node = crate::onnx::build::node("", "Identity", "seen_masked", &["seen_rows"], &["seen_masked"], vec![]);
        }
    }
    let prompts = prompts(&[12, 20, 12, 33]);
    let expected: Vec<_> = prompts.iter().map(|prompt| expected(prompt, 12)).collect();
    assert_eq!(replies(&model, &prompts, 12), expected);
}
