//! The padded path over a tiny graph whose logits are known.

use std::sync::Arc;
use std::time::Duration;

use crate::decode::reader::{AnyReader, Generate, GenerateOptions};
use crate::decode::urgency::Urgency;
use crate::decode::{DecodeOptions, Decoder, SamplingOptions};
use crate::model::testing::{self, decoder, graph, nodes};
use crate::model::{Batching, ModelFolder, ModelKind, OpenOptions};
use crate::onnx::nodes::{Dim, int, int64_tensor, node, subgraph, value_info};
use crate::onnx::tensor_proto::DataType;
use crate::onnx::{GraphProto, ModelProto, NodeProto};
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
    replies_by(Batching::Auto, model, prompts, count)
}

fn replies_by(batching: Batching, model: &ModelProto, prompts: &[Vec<u32>], count: usize) -> Vec<Vec<u32>> {
    let folder = testing::folder(model);
    let folder = Arc::new(
        ModelFolder::open_with(folder.path(), OpenOptions { batching, ..OpenOptions::default() })
            .expect("the model opens"),
    );
    assert_eq!(folder.kind(), ModelKind::PaddedDecoder);
    let options = DecodeOptions { kv_cache: 1 << 20, step_budget: Duration::from_millis(30), ..Default::default() };
    let mut decoder = Decoder::load(Arc::clone(&folder), &options, &runtime(1)).expect("the model loads");
    decoder.poison();
    for prompt in prompts {
        let greedy = SamplingOptions::greedy();
        let options =
            GenerateOptions { max_tokens: count, sampling: greedy, ignore_eos: true, ..GenerateOptions::default() };
        let reader = Generate::new(options, prompt.len(), 512, folder.tokenizer(), &[], None).expect("options");
        decoder
            .submit(prompt.clone(), count, Urgency::default(), AnyReader::Generate(Box::new(reader)))
            .expect("accepted");
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
            *node = self::node("", "Identity", "seen_masked", &["seen_rows"], &["seen_masked"], Vec::new());
        }
    }
    let prompts = prompts(&[12, 20, 12, 33]);
    let expected: Vec<_> = prompts.iter().map(|prompt| expected(prompt, 12)).collect();
    assert_eq!(replies(&model, &prompts, 12), expected);
}

/// As Optimum merges two graphs: one for beginnings, which ignores the past, and one that goes on.
#[test]
fn merged_graphs_are_told_whether_there_is_a_past() {
    let mut model = decoder();
    graph(&mut model).input.push(value_info("use_cache_branch", DataType::Bool, &[Dim::Size(1)]));
    for name in ["present.0.key", "present.0.value"] {
        let joined = nodes(&mut model).iter_mut().find(|node| node.name() == name).expect("a node");
        let branch = |output: &str, node: NodeProto| GraphProto {
            name: Some(output.into()),
            output: vec![value_info(&node.output[0], DataType::Float, &[])],
            node: vec![node],
            ..GraphProto::default()
        };
        let mut going_on = joined.clone();
        going_on.output = vec![format!("{name}.joined")];
        let beginning = format!("{name}.new");
        let beginning = node("", "Identity", &beginning, &["rows"], &[&beginning], Vec::new());
        let branches = vec![
            subgraph("then_branch", branch("with_past", going_on)),
            subgraph("else_branch", branch("without", beginning)),
        ];
        *joined = node("", "If", name, &["use_cache_branch"], &[name], branches);
    }
    let prompts = prompts(&[12, 20, 33]);
    let expected: Vec<_> = prompts.iter().map(|prompt| expected(prompt, 12)).collect();
    assert_eq!(replies(&model, &prompts, 12), expected);
}

/// As in exports for Transformers.js.
#[test]
fn graphs_are_told_how_many_rows_of_logits_are_wanted() {
    for dims in [&[][..], &[Dim::Size(1)]] {
        let mut model = decoder();
        graph(&mut model).input.push(value_info("num_logits_to_keep", DataType::Int64, dims));
        let shape = int64_tensor("shape", &[1], &[1]);
        testing::initializers(&mut model).extend([shape, int64_tensor("far", &[1], &[i64::MAX])]);
        let nodes = nodes(&mut model);
        nodes.last_mut().expect("nodes").output = vec!["all".into()];
        nodes.last_mut().expect("nodes").name = Some("all".into());
        nodes.extend([
            node("", "Reshape", "kept", &["num_logits_to_keep", "shape"], &["kept"], Vec::new()),
            node("", "Neg", "from", &["kept"], &["from"], Vec::new()),
            node("", "Slice", "logits", &["all", "from", "far", "axis"], &["logits"], Vec::new()),
        ]);
        let prompts = prompts(&[12, 20, 33]);
        let expected: Vec<_> = prompts.iter().map(|prompt| expected(prompt, 12)).collect();
        assert_eq!(replies(&model, &prompts, 12), expected);
    }
}

/// Token ids up to 2048 are exact in half precision, and so is everything that is kept of them.
#[test]
fn caches_may_be_of_half_precision() {
    let mut model = decoder();
    let is_cache = |name: &str| name.starts_with("past_key_values") || name.starts_with("present");
    for value in graph(&mut model).input.iter_mut().filter(|value| is_cache(value.name())) {
        let dims = [Dim::Symbol("batch"), Dim::Size(1), Dim::Symbol("past"), Dim::Size(1)];
        *value = value_info(value.name(), DataType::Float16, &dims);
    }
    for value in graph(&mut model).output.iter_mut().filter(|value| is_cache(value.name())) {
        let dims = [Dim::Symbol("batch"), Dim::Size(1), Dim::Symbol("total"), Dim::Size(1)];
        *value = value_info(value.name(), DataType::Float16, &dims);
    }
    let cast =
        |from: &str, to: &str, kind: DataType| node("", "Cast", to, &[from], &[to], vec![int("to", kind as i64)]);
    let nodes = nodes(&mut model);
    for joined in nodes.iter_mut().filter(|node| is_cache(node.name())) {
        joined.input[1] = "half_rows".into();
    }
    nodes.iter_mut().filter(|node| node.name() == "seen_ids").for_each(|node| node.input[0] = "wide".into());
    nodes.extend([cast("rows", "half_rows", DataType::Float16), cast("present.0.key", "wide", DataType::Float)]);
    let prompts = prompts(&[12, 20, 33]);
    let expected: Vec<_> = prompts.iter().map(|prompt| expected(prompt, 12)).collect();
    // Widened to float32, and as it is.
    for (batching, element) in [(Batching::Auto, "float"), (Batching::Padded, "float16")] {
        let folder = testing::folder(&model);
        let folder = ModelFolder::open_with(folder.path(), OpenOptions { batching, ..OpenOptions::default() })
            .expect("the model opens");
        assert_eq!(folder.inspect().kv_type.as_deref(), Some(element));
        assert_eq!(replies_by(batching, &model, &prompts, 12), expected);
    }
}
