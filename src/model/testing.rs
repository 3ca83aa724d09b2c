//! A tiny decoder of plain operators, for tests that damage it or run it.
//!
//! Its logits are those of a table of bigrams, weighted by the position. They are raised for every token that is in the
//! sequence or in the same run, so they depend on the past. Keys and values hold the tokens' ids. [`logits`] computes
//! them.

use std::path::{Path, PathBuf};

use prost::Message as _;
use serde_json::json;
use tempfile::TempDir;

use crate::onnx::nodes::{Dim, float_tensor, int, int64_tensor, node, subgraph, value_info};
use crate::onnx::tensor_proto::DataType;
use crate::onnx::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto};

/// Number of tokens of the tiny decoder, which are those of the tokenizer `bytes`.
pub(crate) const VOCABULARY: usize = 320;

fn plain(op: &str, name: &str, inputs: &[&str], attributes: Vec<crate::onnx::AttributeProto>) -> NodeProto {
    node("", op, name, inputs, &[name], attributes)
}

fn symbols(name: &str, kind: DataType, dims: &[&'static str]) -> ValueInfoProto {
    let dims: Vec<Dim<'_>> = dims.iter().map(|dim| dim.parse().map_or(Dim::Symbol(dim), Dim::Size)).collect();
    value_info(name, kind, &dims)
}

/// The decoder's graph, in the layout of Optimum.
pub(crate) fn decoder() -> ModelProto {
    let cache = ["batch", "1", "past", "1"];
    let bigrams: Vec<f32> = (0..VOCABULARY).flat_map(|from| (0..VOCABULARY).map(move |to| bigram(from, to))).collect();
    let graph = GraphProto {
        name: Some("tiny".into()),
        input: vec![
            symbols("input_ids", DataType::Int64, &["batch", "new"]),
            symbols("attention_mask", DataType::Int64, &["batch", "total"]),
            symbols("position_ids", DataType::Int64, &["batch", "new"]),
            symbols("past_key_values.0.key", DataType::Float, &cache),
            symbols("past_key_values.0.value", DataType::Float, &cache),
        ],
        output: vec![
            symbols("logits", DataType::Float, &["batch", "new", "320"]),
            symbols("present.0.key", DataType::Float, &["batch", "1", "total", "1"]),
            symbols("present.0.value", DataType::Float, &["batch", "1", "total", "1"]),
        ],
        initializer: vec![
            float_tensor("bigrams", &[VOCABULARY, VOCABULARY], &bigrams),
            int64_tensor("axes", &[2], &[1, 3]),
            int64_tensor("axis", &[1], &[1]),
            int64_tensor("vocabulary", &[], &[VOCABULARY as i64]),
            int64_tensor("minus_one", &[1], &[-1]),
            float_tensor("off_on", &[2], &[0.0, 0.5]),
            float_tensor("hundred", &[], &[100.0]),
        ],
        node: vec![
            plain("Cast", "ids", &["input_ids"], vec![int("to", DataType::Float as i64)]),
            plain("Unsqueeze", "rows", &["ids", "axes"], Vec::new()),
            plain("Concat", "present.0.key", &["past_key_values.0.key", "rows"], vec![int("axis", 2)]),
            plain("Concat", "present.0.value", &["past_key_values.0.value", "rows"], vec![int("axis", 2)]),
            plain("Gather", "next", &["bigrams", "input_ids"], Vec::new()),
            // The tokens of the sequence that the mask lets through, [batch, total, vocabulary].
            plain("Squeeze", "seen_ids", &["present.0.key", "axes"], Vec::new()),
            plain("Cast", "seen_tokens", &["seen_ids"], vec![int("to", DataType::Int64 as i64)]),
            plain("OneHot", "seen_rows", &["seen_tokens", "vocabulary", "off_on"], Vec::new()),
            plain("Cast", "mask", &["attention_mask"], vec![int("to", DataType::Float as i64)]),
            plain("Unsqueeze", "mask_rows", &["mask", "minus_one"], Vec::new()),
            plain("Mul", "seen_masked", &["seen_rows", "mask_rows"], Vec::new()),
            plain("ReduceSum", "seen", &["seen_masked", "axis"], Vec::new()),
            plain("Cast", "positions", &["position_ids"], vec![int("to", DataType::Float as i64)]),
            plain("Div", "places", &["positions", "hundred"], Vec::new()),
            plain("Unsqueeze", "place_rows", &["places", "minus_one"], Vec::new()),
            plain("Mul", "weighted", &["next", "place_rows"], Vec::new()),
            plain("Add", "logits", &["weighted", "seen"], Vec::new()),
        ],
        ..GraphProto::default()
    };
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(17) }],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

fn bigram(from: usize, to: usize) -> f32 {
    (((from * VOCABULARY + to) * 7919) % 1013) as f32 / 300.0
}

/// The logits that follow `tokens`, if none of the tokens after them are in the same run.
pub(crate) fn logits(tokens: &[u32]) -> Vec<f32> {
    let (last, place) = (*tokens.last().expect("tokens") as usize, (tokens.len() - 1) as f32 / 100.0);
    let seen = |token: usize| tokens.iter().filter(|&&other| other as usize == token).count() as f32 * 0.5;
    (0..VOCABULARY).map(|token| bigram(last, token) * place + seen(token)).collect()
}

/// Makes the logits of `model` come out of a loop that never ends.
pub(crate) fn loop_for_ever(model: &mut ModelProto) {
    let body = GraphProto {
        name: Some("body".into()),
        input: vec![
            symbols("turn", DataType::Int64, &[]),
            symbols("goes_on", DataType::Bool, &[]),
            symbols("carried", DataType::Float, &["batch", "new", "320"]),
        ],
        output: vec![
            symbols("goes_on_still", DataType::Bool, &[]),
            symbols("carried_on", DataType::Float, &["batch", "new", "320"]),
        ],
        node: vec![
            plain("Identity", "goes_on_still", &["goes_on"], Vec::new()),
            plain("Add", "carried_on", &["carried", "carried"], Vec::new()),
        ],
        ..GraphProto::default()
    };
    let nodes = nodes(model);
    let last = nodes.last_mut().expect("nodes");
    last.name = Some("before_the_loop".into());
    last.output = vec!["before_the_loop".into()];
    nodes.push(plain("Loop", "logits", &["", "for_ever", "before_the_loop"], vec![subgraph("body", body)]));
    let for_ever = TensorProto {
        data_type: Some(DataType::Bool as i32),
        raw_data: Some(vec![1].into()),
        ..TensorProto::default()
    };
    initializers(model).push(TensorProto { name: Some("for_ever".into()), ..for_ever });
}

/// The body of [`loop_for_ever`]'s loop.
pub(crate) fn loop_body(model: &mut ModelProto) -> &mut GraphProto {
    let last = nodes(model).last_mut().expect("a loop");
    last.attribute[0].g.as_mut().expect("a body")
}

pub(crate) fn graph(model: &mut ModelProto) -> &mut GraphProto {
    model.graph.as_mut().expect("a graph")
}

pub(crate) fn nodes(model: &mut ModelProto) -> &mut Vec<NodeProto> {
    &mut graph(model).node
}

pub(crate) fn initializers(model: &mut ModelProto) -> &mut Vec<TensorProto> {
    &mut graph(model).initializer
}

/// A folder in which `model` is a whole model, with the configuration of its checkpoint and a tokenizer.
pub(crate) fn folder(model: &ModelProto) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, bytes: Vec<u8>| std::fs::write(folder.path().join(name), bytes).expect("written");
    write("model.onnx", model.encode_to_vec());
    let config = json!({
        "model_type": "tiny", "vocab_size": VOCABULARY, "max_position_embeddings": 8192, "eos_token_id": 2,
        "num_hidden_layers": 1, "num_key_value_heads": 1, "num_attention_heads": 1
    });
    write("config.json", config.to_string().into_bytes());
    for file in tokenizer_files() {
        let name = file.file_name().expect("a name").to_owned();
        std::fs::copy(&file, folder.path().join(name)).expect("copied");
    }
    folder
}

fn tokenizer_files() -> Vec<PathBuf> {
    let bytes = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/tokenizers/bytes");
    std::fs::read_dir(bytes).expect("a folder").map(|entry| entry.expect("an entry").path()).collect()
}
