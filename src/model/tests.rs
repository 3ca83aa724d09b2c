//! Detection and refusal of many kinds of graphs. All begin as the tiny decoder of `testing`.

use std::path::Path;

use prost::Message as _;
use serde_json::{Value, json};

use super::*;
use crate::ErrorKind;
use crate::model::testing::{VOCABULARY, decoder, folder, graph, initializers, nodes};
use crate::onnx::nodes::{Dim, external_tensor, float_tensor, node, subgraph, value_info};
use crate::onnx::tensor_proto::DataType;
use crate::onnx::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto};

/// The error for the tiny decoder after `damage`.
fn refused(damage: impl FnOnce(&mut ModelProto)) -> Error {
    refused_folder(damage, |_| {})
}

fn refused_folder(damage: impl FnOnce(&mut ModelProto), prepare: impl FnOnce(&Path)) -> Error {
    let mut model = decoder();
    damage(&mut model);
    let folder = folder(&model);
    prepare(folder.path());
    let error = ModelFolder::open(folder.path()).expect_err("refused");
    let name = folder.path().display().to_string();
    assert!(error.to_string().contains(&name), "the folder is not named: {error}");
    error
}

#[track_caller]
fn says(error: &Error, kind: ErrorKind, parts: &[&str]) {
    assert_eq!(error.kind(), kind, "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "`{part}` is not in: {error}");
    }
}

#[track_caller]
fn invalid(damage: impl FnOnce(&mut ModelProto), parts: &[&str]) {
    says(&refused(damage), ErrorKind::InvalidModel, parts);
}

fn named<'a>(model: &'a mut ModelProto, name: &str) -> &'a mut NodeProto {
    nodes(model).iter_mut().find(|node| node.name() == name).expect("a node")
}

fn tensor<'a>(model: &'a mut ModelProto, name: &str) -> &'a mut TensorProto {
    initializers(model).iter_mut().find(|tensor| tensor.name() == name).expect("a tensor")
}

fn identity(from: &str, to: &str) -> NodeProto {
    node("", "Identity", to, &[from], &[to], Vec::new())
}

#[test]
fn the_tiny_decoder_is_fine_and_inspected() {
    let folder = folder(&decoder());
    let found = ModelFolder::open(folder.path()).expect("the model opens").inspect();
    assert_eq!((found.layout, found.path), ("Optimum (past_key_values)", "padded"));
    assert_eq!((found.layers, found.kv_heads, found.head_size), (Some(1), Some(1), Some(1)));
    assert_eq!(found.kv_bytes_per_token, 8);
    assert_eq!(found.kv_type.as_deref(), Some("float"));
    assert!(!found.bitwise && found.reason.contains("can't be rewritten"), "{found:?}");
}

#[test]
fn files_that_are_cut_off_or_no_graphs_are_refused() {
    let bytes = decoder().encode_to_vec();
    for length in [0, 1, 7, bytes.len() / 2, bytes.len() - 1] {
        let error =
            refused_folder(|_| {}, |at| std::fs::write(at.join("model.onnx"), &bytes[..length]).expect("written"));
        says(&error, ErrorKind::InvalidModel, &["model.onnx"]);
    }
    let error = refused_folder(|_| {}, |at| std::fs::write(at.join("model.onnx"), "not a graph").expect("written"));
    says(&error, ErrorKind::InvalidModel, &["not an ONNX model, or cut off"]);
    invalid(|model| model.graph = None, &["holds no graph"]);
}

#[test]
fn graphs_that_contradict_themselves_are_refused() {
    invalid(
        |model| named(model, "weighted").input[0] = "logits".into(),
        &["depends on its own output: the graph has a cycle"],
    );
    invalid(|model| initializers(model).retain(|t| t.name() != "bigrams"), &["node `next` (Gather) takes `bigrams`"]);
    invalid(|model| initializers(model).push(float_tensor("bigrams", &[1], &[0.0])), &["initializer `bigrams` has"]);
    invalid(
        |model| nodes(model).push(identity("mask", "seen")),
        &["a node's output `seen` has the same name as another"],
    );
    let again = |model: &mut ModelProto| {
        let input = graph(model).input[0].clone();
        graph(model).input.push(input);
    };
    invalid(again, &["input `input_ids` occurs twice"]);
    invalid(|model| nodes(model).retain(|node| node.name() != "logits"), &["nothing computes output `logits`"]);
    invalid(|model| model.functions.push(Default::default()), &["its own function"]);
    invalid(|model| graph(model).sparse_initializer.push(Default::default()), &["sparse"]);
}

#[test]
fn nodes_may_come_in_any_order() {
    let mut model = decoder();
    nodes(&mut model).reverse();
    let folder = folder(&model);
    let sorted = ModelFolder::open(folder.path()).expect("the model opens");
    let names = |graph: &GraphProto| graph.node.iter().map(|node| node.name().to_owned()).collect::<Vec<_>>();
    let at = |name: &str| names(sorted.file().graph()).iter().position(|other| other == name).expect("a node");
    assert!(at("ids") < at("rows") && at("rows") < at("present.0.key") && at("weighted") < at("logits"));
}

#[test]
fn tensors_that_do_not_fit_their_shape_are_refused() {
    invalid(|model| tensor(model, "off_on").dims = vec![3], &["`off_on` of shape [3] takes 12 bytes, but has 8"]);
    invalid(|model| tensor(model, "off_on").dims = vec![-2], &["`off_on` has the dimension -2"]);
    let huge = |dims: Vec<i64>| move |model: &mut ModelProto| tensor(model, "off_on").dims = dims;
    invalid(huge(vec![i64::MAX, 4]), &["more numbers than fit in memory"]);
    invalid(huge(vec![1 << 32, 1 << 32]), &["more numbers than fit in memory"]);
    invalid(|model| tensor(model, "off_on").data_type = Some(0), &["`off_on` has the element type 0"]);
    invalid(|model| tensor(model, "off_on").data_type = Some(999), &["`off_on` has the element type 999"]);
    invalid(|model| tensor(model, "off_on").data_type = Some(DataType::Int64 as i32), &["takes 16 bytes, but has 8"]);
    let typed = |model: &mut ModelProto| {
        tensor(model, "off_on").raw_data = None;
        tensor(model, "off_on").float_data = vec![0.0];
    };
    invalid(typed, &["takes 2 numbers, but has 1"]);
    let inside = |model: &mut ModelProto| {
        let tensor = external_tensor("t", DataType::Float, &[1], "secret", 0, 4);
        let mut constant = node("", "Constant", "constant", &[], &["constant"], Vec::new());
        constant.attribute = vec![crate::onnx::AttributeProto {
            name: Some("value".into()),
            r#type: Some(crate::onnx::attribute_proto::AttributeType::Tensor as i32),
            t: Some(tensor),
            ..Default::default()
        }];
        nodes(model).push(constant);
    };
    invalid(inside, &["node `constant` (Constant)", "external data"]);
}

/// The table of bigrams as external data.
fn outside(location: &str, dims: &[usize], offset: u64, length: u64) -> impl FnOnce(&mut ModelProto) {
    let tensor = external_tensor("bigrams", DataType::Float, dims, location, offset, length);
    move |model| *self::tensor(model, "bigrams") = tensor
}

#[test]
fn external_data_stays_in_the_folder_and_in_its_file() {
    const SIZE: u64 = (VOCABULARY * VOCABULARY * 4) as u64;
    let dims = [VOCABULARY, VOCABULARY];
    let write = |at: &Path| std::fs::write(at.join("data"), vec![0; SIZE as usize]).expect("written");
    for location in ["../data", "/etc/passwd", "a/../../data", "./../data", "."] {
        says(&refused_folder(outside(location, &dims, 0, SIZE), write), ErrorKind::InvalidModel, &["bigrams"]);
    }
    let elsewhere = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(elsewhere.path(), vec![0; SIZE as usize]).expect("written");
    let link = |at: &Path| std::os::unix::fs::symlink(elsewhere.path(), at.join("data")).expect("a link");
    says(
        &refused_folder(outside("data", &dims, 0, SIZE), link),
        ErrorKind::InvalidModel,
        &["leads to", "outside the model's folder"],
    );
    let folder = |at: &Path| std::fs::create_dir(at.join("data")).expect("a folder");
    says(
        &refused_folder(outside("data", &dims, 0, SIZE), folder),
        ErrorKind::InvalidModel,
        &["is not an ordinary file"],
    );
    says(&refused_folder(outside("data", &dims, 0, SIZE), |_| {}), ErrorKind::InvalidModel, &["open the weights"]);
    for (offset, length, why) in [
        (1, SIZE, "beyond the end"),
        (u64::MAX, SIZE, "beyond the end"),
        (0, SIZE - 4, "but its external data has"),
        (0, SIZE + 4, "but its external data has"),
    ] {
        says(
            &refused_folder(outside("data", &dims, offset, length), write),
            ErrorKind::InvalidModel,
            &["bigrams", why],
        );
    }
    let wide = [VOCABULARY, VOCABULARY * 2];
    says(&refused_folder(outside("data", &wide, 0, SIZE), write), ErrorKind::InvalidModel, &["its shape [320, 640]"]);
    // Also if the tensor belongs to a graph inside the graph.
    let inner = |model: &mut ModelProto| {
        let branch = GraphProto {
            initializer: vec![external_tensor("inner", DataType::Float, &[1], "../data", 0, 4)],
            output: vec![value_info("inner", DataType::Float, &[Dim::Size(1)])],
            ..GraphProto::default()
        };
        let branches = ["then_branch", "else_branch"].map(|name| subgraph(name, branch.clone()));
        nodes(model).push(node("", "If", "choice", &["axes"], &["chosen"], branches.into()));
    };
    says(&refused(inner), ErrorKind::InvalidModel, &["`inner`", "leaves the model's folder"]);
}

#[test]
fn graphs_in_graphs_are_checked_and_their_depth_is_bounded() {
    let nested = |depth: usize| {
        move |model: &mut ModelProto| {
            let mut inner = identity("nowhere", "deepest");
            for level in 0..depth {
                let output = vec![value_info(&inner.output[0], DataType::Float, &[])];
                let graph = GraphProto { output, node: vec![inner], ..GraphProto::default() };
                let name = format!("level {level}");
                inner = node("", "If", &name, &["axes"], &[&name], vec![subgraph("then_branch", graph)]);
            }
            nodes(model).push(inner);
        }
    };
    invalid(nested(3), &["node `level 2` (If)", "takes `nowhere`"]);
    invalid(nested(200), &["recursion"]);
}

#[test]
fn unknown_operators_and_inputs_are_refused_by_name() {
    invalid(|model| named(model, "logits").domain = Some("evil".into()), &["node `logits`", "domain `evil`"]);
    // Our own operators are for graphs that were rewritten here.
    let ours = |model: &mut ModelProto| {
        named(model, "logits").domain = Some("foreturn".into());
        model.opset_import.push(OperatorSetIdProto { domain: Some("foreturn".into()), version: Some(1) });
    };
    invalid(ours, &["domain `foreturn`"]);
    for (name, why) in [
        ("encoder_hidden_states", "encoder-decoder"),
        ("pixel_values", "images"),
        ("model.layers.0.q_proj.lora_A.weight", "LoRA"),
        ("past_conv.0", "recurrent state"),
        ("mystery", "doesn't know what to feed it"),
    ] {
        let error = refused(|model| graph(model).input.push(value_info(name, DataType::Float, &[Dim::Size(1)])));
        says(&error, ErrorKind::Unsupported, &[name, why]);
    }
    let embedded = |model: &mut ModelProto| {
        let names = [("input_ids", "inputs_embeds")];
        for (from, to) in names {
            graph(model).input.iter_mut().filter(|i| i.name() == from).for_each(|i| i.name = Some(to.into()));
            nodes(model).iter_mut().flat_map(|n| &mut n.input).filter(|i| *i == from).for_each(|i| *i = to.into());
        }
    };
    says(&refused(embedded), ErrorKind::Unsupported, &["no input `input_ids`", "embeddings instead of token ids"]);
}

/// Replaces an input by one of this type.
fn retype(name: &'static str, kind: DataType, dims: &'static [Dim<'static>]) -> impl FnOnce(&mut ModelProto) {
    move |model| {
        let input = graph(model).input.iter_mut().find(|input| input.name() == name).expect("an input");
        *input = value_info(name, kind, dims);
    }
}

#[test]
fn inputs_of_other_types_are_refused() {
    const ROWS: &[Dim<'_>] = &[Dim::Symbol("batch"), Dim::Symbol("new")];
    const CACHE: &[Dim<'_>] = &[Dim::Symbol("batch"), Dim::Size(1), Dim::Symbol("past"), Dim::Size(1)];
    const HUGE: &[Dim<'_>] = &[Dim::Symbol("batch"), Dim::Size(1 << 40), Dim::Symbol("past"), Dim::Size(1)];
    let past = "past_key_values.0.key";
    for (damage, parts) in [
        (retype("input_ids", DataType::Int32, ROWS), ["input_ids", "int32"]),
        (retype("attention_mask", DataType::Float, ROWS), ["attention_mask", "float"]),
        (retype(past, DataType::Uint8, CACHE), [past, "quantised caches"]),
        (retype(past, DataType::Float, ROWS), [past, "2 dimensions"]),
        (retype(past, DataType::Float, HUGE), [past, "fixed numbers"]),
    ] {
        says(&refused(damage), ErrorKind::Unsupported, &parts);
    }
    let lost = |model: &mut ModelProto| graph(model).output.retain(|output| output.name() != "present.0.value");
    says(&refused(lost), ErrorKind::Unsupported, &["past_key_values.0.value", "no output"]);
}

#[test]
fn configurations_that_contradict_the_graph_are_refused() {
    for (key, value, why) in [
        ("vocab_size", json!(321), "config.json: vocab_size is 321, but the graph gives 320"),
        ("vocab_size", json!(0), "vocab_size is 0"),
        ("vocab_size", json!(1_u64 << 40), "vocab_size is 1099511627776"),
        ("vocab_size", json!("320"), "vocab_size is missing or not a whole number"),
        ("max_position_embeddings", json!(-1), "max_position_embeddings is missing"),
        ("max_position_embeddings", json!(0), "max_position_embeddings is 0"),
        ("num_hidden_layers", json!(1_000_000_000), "num_hidden_layers is 1000000000, but the graph has caches for 1"),
        ("num_key_value_heads", json!(8), "num_key_value_heads is 8, but the cache"),
        ("eos_token_id", json!([2, 999]), "eos_token_id contains 999"),
        ("eos_token_id", json!("</s>"), "eos_token_id is \"</s>\""),
    ] {
        let edit = |at: &Path| configure(at, key, value);
        says(&refused_folder(|_| {}, edit), ErrorKind::InvalidModel, &["config.json", why]);
    }
}

/// Sets a field of the folder's `config.json`.
fn configure(folder: &Path, key: &str, value: Value) {
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("JSON");
    config[key] = value;
    std::fs::write(&path, config.to_string()).expect("written");
}

/// A traced graph knows only the rotary frequencies of short sequences.
#[test]
fn the_context_ends_where_a_traced_graph_would_need_other_rotary_frequencies() {
    let folder = folder(&decoder());
    let context = |scaling: Value| {
        configure(folder.path(), "rope_scaling", scaling);
        ModelFolder::open(folder.path()).expect("the model opens").context_length()
    };
    assert_eq!(context(json!(null)), 8192);
    assert_eq!(context(json!({"rope_type": "llama3", "original_max_position_embeddings": 64})), 8192);
    assert_eq!(context(json!({"type": "longrope", "original_max_position_embeddings": 64})), 64);
    configure(folder.path(), "original_max_position_embeddings", json!(96));
    assert_eq!(context(json!({"rope_type": "longrope"})), 96);
}

/// In Optimum's form: the graph's output, and the labels of `config.json`.
#[test]
fn classifiers_are_told_by_what_the_graph_gives() {
    let classifier = |dims: &[Dim<'_>], output: &str| {
        let mut model = decoder();
        let symbols = ["batch", "new"].map(Dim::Symbol);
        let inputs = ["input_ids", "attention_mask", "token_type_ids"];
        let graph = graph(&mut model);
        graph.input = inputs.map(|name| value_info(name, DataType::Int64, &symbols)).into();
        graph.output = vec![value_info(output, DataType::Float, dims)];
        graph.node = vec![node("", "Gather", output, &["bigrams", "input_ids"], &[output], Vec::new())];
        folder(&model)
    };
    let [batch, new, three] = [Dim::Symbol("batch"), Dim::Symbol("new"), Dim::Size(3)];
    let open = |folder: &tempfile::TempDir| ModelFolder::open(folder.path());
    let labels = json!({"0": "no", "1": "perhaps", "2": "yes"});

    let sequence = classifier(&[batch, three], "logits");
    configure(sequence.path(), "id2label", labels.clone());
    let found = open(&sequence).expect("the model opens");
    assert_eq!(found.kind(), ModelKind::Classifier);
    let head = found.head().expect("a head");
    assert_eq!((head.kind, head.size), (HeadKind::SequenceClassification, 3));
    assert_eq!(head.labels, ["no", "perhaps", "yes"]);
    assert!(!found.inspect().bitwise);

    let tokens = classifier(&[batch, new, three], "logits");
    assert_eq!(open(&tokens).expect("opens").head().expect("a head").kind, HeadKind::TokenClassification);
    configure(tokens.path(), "architectures", json!(["LlamaForCausalLM"]));
    says(&open(&tokens).expect_err("refused"), ErrorKind::Unsupported, &["without keys and values"]);
    configure(sequence.path(), "id2label", json!({"0": "no"}));
    says(&open(&sequence).expect_err("refused"), ErrorKind::Unsupported, &["id2label has 1 labels"]);

    let embedding = classifier(&[batch, three], "sentence_embedding");
    assert_eq!(open(&embedding).expect("opens").head().expect("a head").pooling, Pooling::None);
    let states = classifier(&[batch, new, three], "last_hidden_state");
    says(&open(&states).expect_err("refused"), ErrorKind::Unsupported, &["1_Pooling/config.json"]);
    std::fs::create_dir(states.path().join("1_Pooling")).expect("a folder");
    let write =
        |name: &str, value: Value| std::fs::write(states.path().join(name), value.to_string()).expect("written");
    write("1_Pooling/config.json", json!({"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": false}));
    write("modules.json", json!([{"type": "sentence_transformers.models.Normalize"}]));
    let found = open(&states).expect("opens");
    let head = found.head().expect("a head");
    assert_eq!((head.pooling, head.normalize), (Pooling::Mean, true));
    write("1_Pooling/config.json", json!({"pooling_mode_max_tokens": true}));
    says(&open(&states).expect_err("refused"), ErrorKind::Unsupported, &["asks for a pooling other than"]);
}

#[test]
fn graphs_without_a_past_or_without_an_end_are_refused() {
    let beginning = |model: &mut ModelProto| graph(model).input.retain(|input| !input.name().starts_with("past"));
    let joined = |model: &mut ModelProto| {
        beginning(model);
        for name in ["present.0.key", "present.0.value"] {
            *named(model, name) = identity("rows", name);
        }
    };
    says(&refused(joined), ErrorKind::Unsupported, &["present.0.key", "text-generation-with-past"]);
    says(
        &refused(|model| graph(model).output.retain(|output| output.name() != "logits")),
        ErrorKind::Unsupported,
        &["no output `logits`"],
    );
}

mod damage;
mod devices;
mod foreign;
