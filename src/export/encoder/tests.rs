//! Encoders exported from the tiny checkpoints of tests/fixtures/models, and what of them is refused.

use crate::runtime::{Provider, ProviderReport};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::Error;
use crate::export::class::Class;
use crate::export::config::Config;
use crate::export::hf;
use crate::export::quantize::Scheme;
use crate::export::testing::{change_json, export_fixture, fixture_checkpoint};
use crate::export::{ExportOptions, Quantize, export};
use crate::model::head::{Head, HeadKind};
use crate::runtime::session::{Graph, Session};
use crate::testing::{fixture, runtime};

const FIXTURES: [&str; 9] = [
    "bert-embedding",
    "bert-embedding-first",
    "bert-labels",
    "bert-token-labels",
    "deberta-v2-labels",
    "deberta-v2-own-keys",
    "deberta-v3-reward",
    "modernbert-first",
    "modernbert-mean",
];

/// One text as a fixture has it.
struct Case {
    name: String,
    tokens: Vec<i64>,
    types: Vec<i64>,
    /// One row, or one a token.
    expected: Vec<Vec<f32>>,
}

fn cases(reference: &Value) -> Vec<Case> {
    let numbers = |value: &Value| serde_json::from_value::<Vec<i64>>(value.clone()).unwrap();
    let read = |case: &Value| {
        let tokens = numbers(&case["tokens"]);
        let expected = case.get("scores").unwrap_or(&case["embedding"]).clone();
        let rows = if expected[0].is_array() { expected } else { json!([expected]) };
        let types =
            if case["token_type_ids"].is_null() { vec![0; tokens.len()] } else { numbers(&case["token_type_ids"]) };
        let name = case["name"].as_str().unwrap().to_owned();
        Case { name, tokens, types, expected: serde_json::from_value(rows).unwrap() }
    };
    reference["cases"].as_array().unwrap().iter().map(read).collect()
}

/// The exported graph in ONNX Runtime.
struct Model {
    session: Session,
    head: Head,
    takes_types: bool,
}

impl Model {
    fn open(folder: &Path) -> Self {
        use prost::Message;
        let bytes = fs::read(folder.join("model.onnx")).unwrap();
        let proto = crate::onnx::ModelProto::decode(bytes.as_slice()).unwrap().graph.unwrap();
        let graph = Graph {
            bytes: &bytes,
            folder,
            memory: None,
            loops: false,
            name: "test",
            report: &ProviderReport::only(Provider::Cpu),
        };
        Model {
            session: Session::open_plain(&graph, &runtime(2)).unwrap(),
            head: Head::read(folder).unwrap().unwrap(),
            takes_types: proto.input.iter().any(|input| input.name() == "token_type_ids"),
        }
    }

    /// Rows of each text, all padded to the longest; what is in the padding must not matter.
    fn rows(&mut self, cases: &[&Case]) -> Vec<Vec<Vec<f32>>> {
        let length = cases.iter().map(|case| case.tokens.len()).max().unwrap();
        let padded = |values: &dyn Fn(&Case) -> Vec<i64>, padding: i64| -> Vec<i64> {
            let rows = cases.iter().map(|case| {
                let mut row = values(case);
                row.resize(length, padding);
                row
            });
            rows.collect::<Vec<_>>().concat()
        };
        let shape = [cases.len(), length];
        self.session.set("input_ids", &shape, padded(&|case| case.tokens.clone(), 5)).unwrap();
        self.session.set("attention_mask", &shape, padded(&|case| vec![1; case.tokens.len()], 0)).unwrap();
        if self.takes_types {
            self.session.set("token_type_ids", &shape, padded(&|case| case.types.clone(), 0)).unwrap();
        }
        let each_token = self.head.kind == HeadKind::TokenClassification;
        let output = if self.head.kind == HeadKind::Embedding { "sentence_embedding" } else { "logits" };
        let size = self.head.size;
        self.session
            .run(output, |values| {
                let rows_of_text = if each_token { length } else { 1 };
                assert_eq!(values.len(), cases.len() * rows_of_text * size);
                let rows: Vec<Vec<f32>> =
                    values.as_standard_layout().as_slice().unwrap().chunks(size).map(<[f32]>::to_vec).collect();
                let texts = rows.chunks(rows_of_text).zip(cases);
                texts.map(|(rows, case)| rows[..if each_token { case.tokens.len() } else { 1 }].to_vec()).collect()
            })
            .unwrap()
    }
}

fn distance(left: &[Vec<f32>], right: &[Vec<f32>]) -> f32 {
    assert_eq!(left.len(), right.len());
    let pairs = left.iter().flatten().zip(right.iter().flatten());
    pairs.map(|(left, right)| (left - right).abs()).fold(0.0, f32::max)
}

#[test]
fn scores_are_those_of_transformers_and_padding_changes_none() {
    for name in FIXTURES {
        let root = fixture_checkpoint(name);
        export_fixture(root.path()).unwrap();
        let reference = fixture(&format!("models/{name}/reference.json"));
        let tolerance = reference["tolerance"].as_f64().unwrap() as f32;
        let mut model = Model::open(&root.path().join("out"));
        let cases = cases(&reference);
        let together = model.rows(&cases.iter().collect::<Vec<_>>());
        for (case, together) in cases.iter().zip(&together) {
            let alone = model.rows(&[case]).remove(0);
            let error = distance(&alone, &case.expected);
            assert!(error <= tolerance, "{name}, {}: {error}", case.name);
            assert!(distance(&alone, together) <= 1e-5, "{name}, {}: padding changed it", case.name);
        }
    }
}

/// Norms of checkpoints that were made with TensorFlow, as of bert-base-uncased: transformers renames them.
#[test]
fn scores_are_the_same_where_norms_have_their_old_names() {
    for name in ["bert-labels", "bert-embedding", "deberta-v2-labels"] {
        let root = fixture_checkpoint(name);
        let path = root.path().join("source/model.safetensors");
        let bytes = fs::read(&path).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header = std::str::from_utf8(&bytes[8..8 + length]).unwrap();
        let header = header.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
        let renamed = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &bytes[8 + length..]].concat();
        fs::write(path, renamed).unwrap();
        export_fixture(root.path()).unwrap();
        let reference = fixture(&format!("models/{name}/reference.json"));
        let tolerance = reference["tolerance"].as_f64().unwrap() as f32;
        let mut model = Model::open(&root.path().join("out"));
        for case in cases(&reference) {
            let error = distance(&model.rows(&[&case]).remove(0), &case.expected);
            assert!(error <= tolerance, "{name}, {}: {error}", case.name);
        }
    }
}

/// The mean difference of scores from transformers', as a part of their mean size, of an export in fewer bits.
fn loss(name: &str, quantize: Quantize) -> f32 {
    let root = fixture_checkpoint(name);
    let out = root.path().join("out");
    let options = ExportOptions { quantize, ..ExportOptions::new(root.path().join("source"), &out) };
    export(&options, &mut |_| {}).unwrap();
    let mut model = Model::open(&out);
    let (mut difference, mut size) = (0.0, 0.0);
    for case in cases(&fixture(&format!("models/{name}/reference.json"))) {
        let rows = model.rows(&[&case]).remove(0);
        for (score, expected) in rows.iter().flatten().zip(case.expected.iter().flatten()) {
            difference += (score - expected).abs();
            size += expected.abs();
        }
    }
    difference / size
}

#[test]
fn fewer_bits_give_nearly_the_same_scores() {
    for name in FIXTURES {
        let (int8, int4) = (loss(name, Quantize::Int8), loss(name, Quantize::Int4));
        assert!(0.0 < int8 && int8 < 0.1, "{name}: {int8} in 8 bits");
        assert!(int8 < int4 && int4 < 0.5, "{name}: {int4} in 4 bits");
    }
}

#[test]
fn a_text_may_have_a_single_token() {
    for name in FIXTURES {
        let root = fixture_checkpoint(name);
        export_fixture(root.path()).unwrap();
        let mut model = Model::open(&root.path().join("out"));
        let text =
            |tokens: Vec<i64>| Case { name: String::new(), types: vec![0; tokens.len()], tokens, expected: vec![] };
        let (short, long) = (text(vec![2]), text(vec![2, 9, 3]));
        let alone = model.rows(&[&short]).remove(0);
        assert!(alone.iter().flatten().all(|score| score.is_finite()), "{name}");
        assert!(distance(&alone, &model.rows(&[&short, &long])[0]) <= 1e-5, "{name}");
    }
}

#[test]
fn the_folder_says_what_its_model_gives() {
    let root = fixture_checkpoint("bert-embedding");
    let report = export_fixture(root.path()).unwrap();
    let out = root.path().join("out");
    assert_eq!((report.architecture, report.layers), ("BertModel", 2));
    assert_eq!(report.head.as_ref(), Head::read(&out).unwrap().as_ref());
    let head = report.head.unwrap();
    assert_eq!((head.kind, head.normalize, head.size), (HeadKind::Embedding, true, 32));
    assert!(out.join("config.json").exists() && out.join("tokenizer.json").exists());
    assert!(!out.join("genai_config.json").exists() && !out.join("rotary.safetensors").exists());
    // An earlier export of an encoder may be replaced.
    let options = ExportOptions { overwrite: true, ..ExportOptions::new(root.path().join("source"), out) };
    export(&options, &mut |_| {}).unwrap();
}

#[test]
fn dense_modules_follow_the_pooling() {
    use safetensors::{Dtype, serialize_to_file, tensor::TensorView};
    let root = fixture_checkpoint("bert-embedding-first");
    let source = root.path().join("source");
    fs::create_dir(source.join("2_Dense")).unwrap();
    let dense = json!({"in_features": 32, "out_features": 2, "bias": true, "activation_function": "torch.nn.modules.activation.Tanh"});
    fs::write(source.join("2_Dense/config.json"), dense.to_string()).unwrap();
    // The embedding's first number, and its second halved plus one.
    let mut weight = vec![0f32; 64];
    (weight[0], weight[33]) = (1.0, 0.5);
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let (weight, bias) = (bytes(&weight), bytes(&[0.0, 1.0]));
    let tensors = [
        ("linear.weight", TensorView::new(Dtype::F32, vec![2, 32], &weight).unwrap()),
        ("linear.bias", TensorView::new(Dtype::F32, vec![2], &bias).unwrap()),
    ];
    serialize_to_file(tensors, None, &source.join("2_Dense/model.safetensors")).unwrap();
    change_json(root.path(), "modules.json", |modules| {
        let dense = json!({"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"});
        modules.as_array_mut().unwrap().push(dense);
    });
    let report = export_fixture(root.path()).unwrap();
    assert_eq!(report.head.unwrap().size, 2);
    let mut names: Vec<&str> = report.weights.iter().map(|file| file.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["2_Dense.safetensors", "model.safetensors"]);

    let mut model = Model::open(&root.path().join("out"));
    for case in cases(&fixture("models/bert-embedding-first/reference.json")) {
        let plain = &case.expected[0];
        let expected = vec![plain[0].tanh(), (plain[1] / 2.0 + 1.0).tanh()];
        assert!(distance(&model.rows(&[&case])[0], &[expected]) <= 1e-4, "{}", case.name);
    }
}

/// What exporting `name` fails with after `file` was changed.
fn refusal(name: &str, file: &str, make: impl FnOnce(&mut Value)) -> Error {
    let root = fixture_checkpoint(name);
    change_json(root.path(), file, make);
    let error = export_fixture(root.path()).unwrap_err();
    assert!(!root.path().join("out").exists(), "nothing is left behind");
    error
}

#[test]
fn configurations_that_would_come_out_wrong_are_refused_by_name() {
    let cases = [
        ("bert-labels", "hidden_size", json!(48), "makes it [320, 48] (vocab_size, hidden_size)"),
        ("bert-labels", "num_attention_heads", json!(5), "does not divide the hidden size 32"),
        ("bert-labels", "num_hidden_layers", json!(1), "encoder.layer.1.attention.output.LayerNorm.bias` has no place"),
        ("bert-labels", "num_hidden_layers", json!(9), "lack `bert.encoder.layer."),
        ("bert-labels", "position_embedding_type", json!("relative_key"), "only `absolute`"),
        ("bert-labels", "is_decoder", json!(true), "`is_decoder` is true"),
        ("bert-labels", "hidden_act", json!("mish"), "`hidden_act` is \"mish\""),
        ("bert-labels", "id2label", json!({"0": "only"}), "(id2label, hidden_size)"),
        ("bert-labels", "id2label", json!({"1": "gap"}), "without a gap"),
        ("bert-labels", "quantization_config", json!({"bits": 4}), "`quantization_config` is"),
        ("deberta-v3-reward", "pos_att_type", json!(["p2p"]), "`pos_att_type` is [\"p2p\"]"),
        ("deberta-v3-reward", "norm_rel_ebd", json!("rms"), "`norm_rel_ebd` is \"rms\""),
        ("deberta-v3-reward", "position_buckets", json!(3), "`position_buckets` is 3"),
        ("deberta-v3-reward", "position_buckets", json!(16), "`deberta.encoder.rel_embeddings.weight` has shape"),
        ("deberta-v3-reward", "share_att_key", json!(false), "lack `deberta.encoder.layer.0.attention.self.pos_"),
        ("deberta-v3-reward", "conv_kernel_size", json!(4), "`conv_kernel_size` is 4"),
        ("deberta-v3-reward", "conv_kernel_size", json!(3), "lack `deberta.encoder.conv.conv.weight`"),
        ("deberta-v3-reward", "max_relative_positions", json!(1 << 20), "at most 65536 relative positions"),
        ("modernbert-first", "max_position_embeddings", json!(1 << 23), "at most 4194304 positions"),
        ("modernbert-first", "layer_types", json!(["full_attention"]), "`layer_types` is"),
        ("modernbert-first", "rope_scaling", json!({"rope_type": "yarn"}), "`rope_scaling` is"),
        ("modernbert-first", "classifier_pooling", json!("max"), "`classifier_pooling` is \"max\""),
        ("modernbert-first", "norm_bias", json!(true), "lack `model.embeddings.norm.bias`"),
        ("modernbert-first", "intermediate_size", json!(32), "makes it [64, 32] (intermediate_size, hidden_size)"),
    ];
    for (name, field, value, expected) in cases {
        let error = refusal(name, "config.json", |config| config[field] = value);
        assert!(error.to_string().contains(expected), "{expected:?} is not in {error}");
    }
}

#[test]
fn sentence_modules_that_are_not_exported_are_refused_by_name() {
    type Change = fn(&mut Value);
    let cases: [(&str, Change, &str); 8] = [
        ("modules.json", |modules| modules[1]["type"] = json!("x.WordWeights"), "a Transformer followed by a Pooling"),
        ("modules.json", |modules| modules[2]["type"] = json!("x.LayerNorm"), "module \"x.LayerNorm\""),
        ("modules.json", |modules| modules[1]["path"] = json!("../1_Pooling"), "not a folder's name"),
        ("modules.json", |modules| modules[0]["path"] = json!("0_Transformer"), "move the files"),
        ("1_Pooling/config.json", |pooling| pooling["pooling_mode_mean_tokens"] = json!(false), "no pooling mode"),
        ("1_Pooling/config.json", |pooling| pooling["pooling_mode_max_tokens"] = json!(true), "several modes"),
        (
            "1_Pooling/config.json",
            |pooling| *pooling = json!({"pooling_mode_lasttoken": true}),
            "the first token or the mean",
        ),
        ("1_Pooling/config.json", |pooling| *pooling = json!({"pooling_mode": "max"}), "`pooling_mode` is \"max\""),
    ];
    for (file, make, expected) in cases {
        let error = refusal("bert-embedding", file, make);
        assert!(error.to_string().contains(expected), "{expected:?} is not in {error}");
    }
}

#[test]
fn hostile_values_are_refused_or_read_but_never_panic() {
    let values = [
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(1),
        json!(3),
        json!(1 << 20),
        json!(u64::MAX),
        json!(1e-320),
        json!(1e308),
        json!("x"),
        json!("c2p||p2c"),
        json!([]),
        json!(["c2p", "c2p", 1]),
        json!({}),
        json!({"0": 1}),
        json!({"full_attention": {"rope_theta": 1e308}, "sliding_attention": []}),
    ];
    // What files may leave out.
    let absent = ["rope_parameters", "rope_scaling", "layer_types", "conv_groups", "embedding_size", "num_labels"];
    for name in FIXTURES {
        let root = fixture_checkpoint(name);
        let mut checkpoint = hf::read(&root.path().join("source")).unwrap();
        let config: Value = serde_json::from_slice(&checkpoint.config.to_json()).unwrap();
        let fields = config.as_object().unwrap().keys().map(String::as_str).chain(absent);
        for (field, value) in fields.flat_map(|field| values.iter().map(move |value| (field, value))) {
            let mut changed = config.clone();
            changed[field] = value.clone();
            checkpoint.config = Config::from_json("config.json", changed.to_string().as_bytes()).unwrap();
            let planned = Class::of(&checkpoint).and_then(|class| class.plan(&checkpoint, Scheme::none()).map(drop));
            if let Err(error) = planned {
                assert!(error.to_string().contains("config.json"), "{name}, {field} = {value}: {error}");
            }
        }
    }
}

#[test]
fn lower_case_is_left_to_tokenizers_that_make_it() {
    let lower = |config: &mut Value| config["do_lower_case"] = json!(true);
    for (normalizer, accepted) in [
        (json!({"type": "BertNormalizer", "lowercase": true}), true),
        (json!({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}), true),
        (json!({"type": "BertNormalizer", "lowercase": false}), false),
        (Value::Null, false),
    ] {
        let root = fixture_checkpoint("bert-embedding");
        change_json(root.path(), "sentence_bert_config.json", lower);
        change_json(root.path(), "tokenizer.json", |tokenizer| tokenizer["normalizer"] = normalizer);
        // BERT's own class would bring a normalizer.
        let plain = |config: &mut Value| config["tokenizer_class"] = json!("PreTrainedTokenizerFast");
        change_json(root.path(), "tokenizer_config.json", plain);
        match export_fixture(root.path()) {
            Ok(_) => assert!(accepted),
            Err(error) => assert!(!accepted && error.to_string().contains("a Lowercase normalizer"), "{error}"),
        }
    }
}

#[test]
fn the_class_of_the_tokenizer_may_lower_case_too() {
    for lowers in [true, false] {
        let root = fixture_checkpoint("bert-embedding");
        change_json(root.path(), "sentence_bert_config.json", |config| config["do_lower_case"] = json!(true));
        change_json(root.path(), "tokenizer_config.json", |config| config["do_lower_case"] = json!(lowers));
        assert_eq!(export_fixture(root.path()).is_ok(), lowers);
    }
}

#[test]
fn newer_configurations_of_modernbert_say_the_same() {
    let root = fixture_checkpoint("modernbert-first");
    export_fixture(root.path()).unwrap();
    let graph = |folder: &Path| fs::read(folder.join("out/model.onnx")).unwrap();
    let before = graph(root.path());
    change_json(root.path(), "config.json", |config| {
        let fields = config.as_object_mut().unwrap();
        for field in ["global_rope_theta", "local_rope_theta", "global_attn_every_n_layers"] {
            fields.remove(field);
        }
        config["layer_types"] = json!(["full_attention", "sliding_attention", "sliding_attention", "full_attention"]);
        config["rope_parameters"] = json!({
            "full_attention": {"rope_type": "default", "rope_theta": 160_000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        });
    });
    fs::remove_dir_all(root.path().join("out")).unwrap();
    export_fixture(root.path()).unwrap();
    assert_eq!(graph(root.path()), before);
}

/// all-MiniLM-L6-v2 as `tools/fetch.py embedder` left it; `None`, with a word about it, where it was left out. CI may not
/// do without.
#[expect(clippy::print_stderr, reason = "a test that skips itself has to say so")]
fn published() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/downloads/all-MiniLM-L6-v2");
    if folder.join("model.safetensors").exists() {
        return Some(folder);
    }
    let hint = format!("{} is missing: run `python3 tools/fetch.py embedder`", folder.display());
    assert!(std::env::var_os("CI").is_none(), "{hint}");
    eprintln!("skipped: {hint}");
    None
}

/// The values are `tests/reference/make_embedder_reference.py`'s.
#[test]
fn a_published_model_embeds_as_transformers_does() {
    let Some(source) = published() else { return };
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    let report = export(&ExportOptions::new(&source, &out), &mut |_| {}).unwrap();
    let head = report.head.unwrap();
    assert_eq!((head.size, head.normalize, head.max_length), (384, true, Some(256)));

    let reference = json!({"cases": fixture("embedder.json").as_array().unwrap().iter().map(|case| {
        json!({"name": case["text"], "tokens": case["tokens"], "embedding": case["embedding"]})
    }).collect::<Vec<_>>()});
    let mut tokenizer = tokenizers::Tokenizer::from_file(out.join("tokenizer.json")).unwrap();
    // The file cuts and pads to 128 tokens; transformers does so only when asked to.
    tokenizer.with_padding(None).with_truncation(None).unwrap();
    let mut model = Model::open(&out);
    let cases = cases(&reference);
    let together = model.rows(&cases.iter().collect::<Vec<_>>());
    for (quantize, least) in [(Quantize::Int8, 0.999), (Quantize::Int4, 0.97)] {
        let out = root.path().join(format!("{quantize:?}"));
        export(&ExportOptions { quantize, ..ExportOptions::new(&source, &out) }, &mut |_| {}).unwrap();
        let rows = Model::open(&out).rows(&cases.iter().collect::<Vec<_>>());
        for (case, row) in cases.iter().zip(rows) {
            let cosine: f32 = row[0].iter().zip(&case.expected[0]).map(|(left, right)| left * right).sum();
            assert!(cosine > least, "{quantize:?}, {}: {cosine}", case.name);
        }
    }
    for (case, together) in cases.iter().zip(&together) {
        let tokens = tokenizer.encode(case.name.as_str(), true).unwrap();
        assert!(tokens.get_ids().iter().map(|&id| i64::from(id)).eq(case.tokens.iter().copied()), "{}", case.name);
        let alone = model.rows(&[case]).remove(0);
        assert!(distance(&alone, &case.expected) <= 1e-4, "{}", case.name);
        assert!(distance(&alone, together) <= 1e-5, "{}", case.name);
    }
}
