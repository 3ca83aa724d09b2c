//! Whole exports of tiny checkpoints.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use prost::Message;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use super::testing::{
    HIDDEN, LAYERS, VOCAB, change_json, config, element, export_fixture, fixture_checkpoint, shapes, tiny_gguf,
    write_checkpoint, write_weights,
};
use super::{ExportOptions, Placement, Quantize, TensorType, export};
use crate::onnx::tensor_proto::DataType;
use crate::onnx::{GraphProto, ModelProto, NodeProto, TensorProto};
use crate::{ErrorKind, Result};

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn graph(folder: &Path) -> GraphProto {
    ModelProto::decode(fs::read(folder.join("model.onnx")).unwrap().as_slice()).unwrap().graph.unwrap()
}

fn genai(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("genai_config.json")).unwrap()).unwrap()
}

/// The float32 values of an initialiser, read from the file that it names.
fn values(folder: &Path, tensor: &TensorProto) -> Vec<f32> {
    let entries: BTreeMap<&str, &str> = tensor.external_data.iter().map(|entry| (entry.key(), entry.value())).collect();
    let file = fs::read(folder.join(entries["location"])).unwrap();
    let (offset, length): (usize, usize) = (entries["offset"].parse().unwrap(), entries["length"].parse().unwrap());
    file[offset..offset + length].chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

fn initialiser<'a>(graph: &'a GraphProto, name: &str) -> &'a TensorProto {
    graph.initializer.iter().find(|tensor| tensor.name() == name).unwrap()
}

/// Exports `source` in `root` to `out`, with `change` made to the options.
fn run(root: &Path, change: impl FnOnce(&mut ExportOptions)) -> Result<super::ExportReport> {
    let mut options = ExportOptions::new(root.join("source"), root.join("out"));
    change(&mut options);
    export(&options, &mut |_| {})
}

/// A checkpoint folder in a fresh temporary folder.
fn checkpoint(config: &Value, dtype: Dtype) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    write_checkpoint(&root.path().join("source"), config, dtype);
    root
}

#[test]
fn float32_weights_are_copied_and_referenced_in_place() {
    let root = checkpoint(&config(), Dtype::F32);
    let report = run(root.path(), |_| {}).unwrap();
    let out = root.path().join("out");
    assert_eq!(names(root.path()), ["out", "source"], "no temporary folder is left");
    assert_eq!(
        names(&out),
        [
            "genai_config.json",
            "model.onnx",
            "model.safetensors",
            "rotary.safetensors",
            "tokenizer.json",
            "tokenizer_config.json"
        ]
    );
    assert_eq!((report.architecture, report.layers), ("LlamaForCausalLM", LAYERS));
    assert_eq!(report.parameters, shapes().values().map(|shape| shape.iter().product::<usize>() as u64).sum::<u64>());
    assert_eq!(report.weights[0].placement, Placement::Copied);

    let graph = graph(&out);
    for (seed, (name, shape)) in shapes().iter().enumerate() {
        let tensor = initialiser(&graph, name);
        assert!(tensor.dims.iter().map(|&dim| dim as usize).eq(shape.iter().copied()), "{name}");
        let values = values(&out, tensor);
        assert!(values.iter().enumerate().all(|(index, value)| *value == element(seed, index)), "{name}");
    }
    assert_eq!(initialiser(&graph, "cos_cache").dims, [64, 8]);
    assert_eq!(values(&out, initialiser(&graph, "sin_cache"))[8], 1f64.sin() as f32);
}

/// What a training loop does that saves again to the same path.
fn save_in_place(root: &Path) {
    let path = root.join("source/model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&7f32.to_le_bytes());
    fs::write(path, bytes).unwrap();
}

#[test]
fn an_export_shares_its_file_with_the_checkpoint_only_when_asked_to() {
    for (hard_link, placement) in [(false, Placement::Copied), (true, Placement::HardLinked)] {
        let root = checkpoint(&config(), Dtype::F32);
        let mut seen = Vec::new();
        let options =
            ExportOptions { hard_link, ..ExportOptions::new(root.path().join("source"), root.path().join("out")) };
        let report = export(&options, &mut |progress| seen.push((progress.done, progress.total))).unwrap();
        assert_eq!(report.weights[0].placement, placement);
        let exported = root.path().join("out/model.safetensors");
        let before = fs::read(&exported).unwrap();
        let length = before.len() as u64;
        assert_eq!(seen, if hard_link { vec![] } else { vec![(length, length)] });
        save_in_place(root.path());
        assert_eq!(fs::read(&exported).unwrap() == before, !hard_link);
    }
}

#[test]
fn a_checkpoint_that_is_saved_while_it_is_exported_is_refused() {
    let root = checkpoint(&config(), Dtype::F32);
    let options = ExportOptions::new(root.path().join("source"), root.path().join("out"));
    let error = export(&options, &mut |_| save_in_place(root.path())).unwrap_err();
    assert!(error.to_string().contains("source/model.safetensors has changed since it was opened"), "{error}");
    assert_eq!(names(root.path()), ["source"], "nothing is left behind");
}

#[test]
fn the_graph_is_the_group_query_attention_layout() {
    let root = checkpoint(&config(), Dtype::F32);
    run(root.path(), |_| {}).unwrap();
    let graph = graph(&root.path().join("out"));
    let count = |op: &str| graph.node.iter().filter(|node| node.op_type() == op).count();
    assert_eq!(count("GroupQueryAttention"), LAYERS);
    assert_eq!(count("FusedMatMul"), 7 * LAYERS + 1);
    assert_eq!(count("SimplifiedLayerNormalization"), 1);
    assert_eq!(count("SkipSimplifiedLayerNormalization"), 2 * LAYERS);
    assert_eq!((count("Sigmoid"), count("Mul"), count("ReduceSum")), (LAYERS, 2 * LAYERS, 1));
    let inputs: Vec<&str> = graph.input.iter().map(|input| input.name()).collect();
    assert_eq!(inputs[..4], ["input_ids", "attention_mask", "past_key_values.0.key", "past_key_values.0.value"]);
    assert_eq!(graph.output.len(), 1 + 2 * LAYERS);

    // Every input of a node is an initialiser, an input, or the output of a node before it.
    let mut known: Vec<&str> = inputs;
    known.extend(graph.initializer.iter().map(|tensor| tensor.name()));
    for node in &graph.node {
        assert!(node.input.iter().all(|input| known.contains(&input.as_str())), "{}", node.name());
        known.extend(node.output.iter().map(String::as_str));
    }
    assert!(graph.output.iter().all(|output| known.contains(&output.name())));
    let head = graph.node.last().unwrap();
    assert_eq!(head.input[1], "model.embed_tokens.weight", "the tied embedding is the head");
}

#[test]
fn end_tokens_come_from_every_place_that_names_them() {
    let root = checkpoint(&config(), Dtype::F32);
    run(root.path(), |_| {}).unwrap();
    // The tokenizer's <turn> joins config.json's 1.
    assert_eq!(genai(&root.path().join("out"))["model"]["eos_token_id"], json!([5, 1]));

    let generation = json!({"eos_token_id": [5, 3], "temperature": 0.6, "do_sample": true});
    fs::write(root.path().join("source/generation_config.json"), generation.to_string()).unwrap();
    run(root.path(), |options| options.overwrite = true).unwrap();
    let genai = genai(&root.path().join("out"));
    assert_eq!(genai["model"]["eos_token_id"], json!([5, 3]));
    assert_eq!((&genai["search"]["temperature"], &genai["search"]["do_sample"]), (&json!(0.6), &json!(true)));
    assert_eq!(genai["model"]["decoder"]["inputs"]["past_key_names"], "past_key_values.%d.key");
}

#[test]
fn an_end_that_only_one_file_names_ends_texts() {
    let map = json!({"eos_token": "<|im_end|>"});
    for (decoder, listed) in [(true, true), (false, true), (true, false), (false, false)] {
        let root = fixture_checkpoint("llama");
        change_json(root.path(), "config.json", |config| config["eos_token_id"] = json!(0));
        change_json(root.path(), "tokenizer_config.json", |config| {
            let config = config.as_object_mut().unwrap();
            config.remove("eos_token");
            config.remove("additional_special_tokens");
            if !decoder {
                config.remove("added_tokens_decoder");
            }
        });
        if !listed {
            // It stands in the vocabulary alone.
            let ends = |token: &Value| token["content"] == "<|im_end|>";
            change_json(root.path(), "tokenizer.json", |file| {
                file["added_tokens"].as_array_mut().unwrap().retain(|token| !ends(token))
            });
        }
        fs::write(root.path().join("source/special_tokens_map.json"), map.to_string()).unwrap();
        export_fixture(root.path()).unwrap();
        let ends = genai(&root.path().join("out"))["model"]["eos_token_id"].clone();
        assert_eq!(ends, json!([2, 0]), "added_tokens_decoder {decoder}, listed {listed}");
    }
}

#[test]
fn everything_that_belongs_to_the_tokenizer_travels() {
    // Transformers writes these for those who have no tokenizer.json.
    let older = ["vocab.txt", "vocab.json", "merges.txt", "sentencepiece.bpe.model"];
    for version in [4, 5] {
        let saved = crate::testing::fixture(&format!("tokenizer-classes/saved-{version}.json"));
        let root = fixture_checkpoint("llama");
        let (source, out) = (root.path().join("source"), root.path().join("out"));
        let saved: Vec<&str> = saved.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        assert!(saved.contains(&"additional_chat_templates/rag.jinja"), "{saved:?}");
        for name in saved.iter().filter(|name| !older.contains(name)).chain(&["added_tokens.json"]) {
            let path = source.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            if !path.exists() {
                fs::write(path, if name.ends_with(".jinja") { "RAG {{ messages[0].content }}" } else { "{}" }).unwrap();
            }
        }
        export_fixture(root.path()).unwrap();
        for name in saved.iter().filter(|name| !older.contains(name)).chain(&["added_tokens.json"]) {
            assert_eq!(fs::read(source.join(name)).unwrap(), fs::read(out.join(name)).unwrap(), "{name}");
        }
        let tokenizer = crate::model::tokenizer::Tokenizer::load(&out, 320).unwrap();
        assert!(tokenizer.template_names().any(|name| name == "rag"));
    }
}

#[test]
fn an_export_says_what_its_tokenizer_was_written_for() {
    let root = fixture_checkpoint("llama");
    change_json(root.path(), "tokenizer_config.json", |config| {
        drop(config.as_object_mut().unwrap().remove("tokenizer_class"))
    });
    change_json(root.path(), "config.json", |config| config["transformers_version"] = json!("5.1.0"));
    change_json(root.path(), "config.json", |config| config["model_type"] = json!("qwen2"));
    export_fixture(root.path()).unwrap();
    let config = fs::read(root.path().join("out/tokenizer_config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(
        (&config["tokenizer_class"], &config["transformers_version"]),
        (&json!("Qwen2Tokenizer"), &json!("5.0"))
    );
}

#[test]
fn bfloat16_weights_are_widened_exactly() {
    let root = checkpoint(&config(), Dtype::BF16);
    let mut seen = Vec::new();
    let options = ExportOptions::new(root.path().join("source"), root.path().join("out"));
    let report = export(&options, &mut |progress| seen.push((progress.done, progress.total))).unwrap();
    assert_eq!(report.weights[0].placement, Placement::Written);
    assert_eq!(seen.last().map(|(done, total)| done == total), Some(true));
    assert_eq!(seen.len(), shapes().len());

    let out = root.path().join("out");
    let graph = graph(&out);
    for (seed, name) in shapes().keys().enumerate() {
        let truncated = |index| f32::from_bits(element(seed, index).to_bits() & 0xffff_0000);
        let values = values(&out, initialiser(&graph, name));
        assert!(values.iter().enumerate().all(|(index, value)| *value == truncated(index)), "{name}");
    }
    let written = fs::read(out.join("model.safetensors")).unwrap();
    assert_eq!(SafeTensors::deserialize(&written).unwrap().len(), shapes().len(), "other readers understand the file");
}

#[test]
fn shards_and_links_are_followed() {
    let root = tempfile::tempdir().unwrap();
    let (source, blobs) = (root.path().join("source"), root.path().join("blobs"));
    write_checkpoint(&source, &config(), Dtype::F32);
    fs::create_dir(&blobs).unwrap();
    fs::remove_file(source.join("model.safetensors")).unwrap();
    let mut weight_map = BTreeMap::new();
    for (shard, wanted) in [("model-1.safetensors", true), ("model-2.safetensors", false)] {
        let part: BTreeMap<_, _> = shapes().into_iter().filter(|(name, _)| name.contains("mlp") == wanted).collect();
        write_weights(&blobs.join(shard), &part, Dtype::F32);
        #[cfg(unix)]
        std::os::unix::fs::symlink(Path::new("../blobs").join(shard), source.join(shard)).unwrap();
        #[cfg(not(unix))]
        fs::copy(blobs.join(shard), source.join(shard)).unwrap();
        weight_map.extend(part.into_keys().map(|name| (name, shard.to_owned())));
    }
    let index = source.join("model.safetensors.index.json");
    fs::write(&index, json!({"weight_map": weight_map}).to_string()).unwrap();
    let report = run(root.path(), |_| {}).unwrap();
    assert_eq!(report.weights.len(), 2);
    let copy = root.path().join("out/model-1.safetensors");
    assert!(fs::symlink_metadata(copy).unwrap().is_file(), "ONNX Runtime refuses links that leave the folder");

    weight_map.insert("model.norm.weight".to_owned(), "../blobs/model-2.safetensors".to_owned());
    fs::write(&index, json!({"weight_map": weight_map}).to_string()).unwrap();
    let error = run(root.path(), |options| options.overwrite = true).unwrap_err();
    assert!(error.to_string().contains("which is not a file name"), "{error}");
}

#[test]
fn a_gguf_file_is_widened_and_put_in_order() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("source"), tiny_gguf().build()).unwrap();
    run(root.path(), |_| {}).unwrap();
    let out = root.path().join("out");
    let graph = graph(&out);
    let query = values(&out, initialiser(&graph, "model.layers.1.self_attn.q_proj.weight"));
    // Row 1 of a head's first half is stored third: 0 of the first half, 0 of the second, 1 of the first.
    assert_eq!(query[HIDDEN], element(99, 2 * HIDDEN));
    let model = &genai(&out)["model"];
    assert_eq!((&model["vocab_size"], &model["eos_token_id"]), (&json!(VOCAB), &json!(1)));
    assert!(tokenizers::Tokenizer::from_file(out.join("tokenizer.json")).is_ok());
}

#[test]
fn scaling_in_a_gguf_file_is_read_or_refused_by_its_key() {
    let root = tempfile::tempdir().unwrap();
    let mut gguf = tiny_gguf();
    gguf.text("llama.rope.scaling.type", "linear").raw("llama.rope.scaling.factor", 6, &2f32.to_le_bytes());
    fs::write(root.path().join("source"), gguf.build()).unwrap();
    run(root.path(), |_| {}).unwrap();
    let out = root.path().join("out");
    let sines = values(&out, initialiser(&graph(&out), "sin_cache"));
    assert_eq!(sines[8], 0.5f64.sin() as f32);

    // Llama 3.1's factors come as a tensor.
    gguf.remove("llama.rope.scaling.type").tensor("rope_freqs.weight", &[8], 0, 4f32.to_le_bytes().repeat(8));
    fs::write(root.path().join("source"), gguf.build()).unwrap();
    run(root.path(), |options| options.overwrite = true).unwrap();
    let sines = values(&out, initialiser(&graph(&out), "sin_cache"));
    assert_eq!(sines[8], 0.25f64.sin() as f32);

    gguf.text("llama.rope.scaling.type", "yarn");
    fs::write(root.path().join("source"), gguf.build()).unwrap();
    let error = run(root.path(), |options| options.overwrite = true).unwrap_err();
    assert!(error.to_string().contains("`llama.rope.scaling.type` is \"yarn\""), "{error}");
}

#[test]
fn contradictions_are_refused_naming_file_and_field() {
    let cases = [
        ("hidden_size", json!(64), "makes it [6, 64] (vocab_size, hidden_size)"),
        ("vocab_size", json!(7), "has shape [6, 32]"),
        ("num_key_value_heads", json!(2), "num_key_value_heads and head_dim"),
        ("num_hidden_layers", json!(3), "lack `model.layers.2.input_layernorm.weight`"),
        ("num_hidden_layers", json!(1), "`model.layers.1.input_layernorm.weight` has no place"),
        ("tie_word_embeddings", json!(false), "lack `lm_head.weight`"),
        ("attention_bias", json!(true), "lack `model.layers.0.self_attn.q_proj.bias`"),
        ("architectures", json!(["MambaForCausalLM"]), "`architectures` is [\"MambaForCausalLM\"]"),
        ("architectures", json!(null), "`architectures` is missing"),
        ("hidden_act", json!("gelu"), "`hidden_act` is \"gelu\""),
        ("head_dim", json!(24), "multiples of 16"),
        ("rope_scaling", json!({"rope_type": "yarn"}), "`rope_scaling.rope_type` is \"yarn\""),
        ("quantization_config", json!({"quant_method": "gptq"}), "`quantization_config` is {"),
        ("max_position_embeddings", json!(1 << 23), "at most 4194304 positions"),
        ("partial_rotary_factor", json!(0.5), "`partial_rotary_factor` is 0.5"),
        ("rms_norm_eps", json!("x"), "`rms_norm_eps` is \"x\""),
        ("max_position_embeddings", json!(1u64 << 60), "`max_position_embeddings` is 1152921504606846976"),
        ("eos_token_id", json!(6), "eos token id 6 is beyond the vocabulary of 6"),
        ("bos_token_id", json!("x"), "`bos_token_id` is \"x\""),
    ];
    for (field, value, expected) in cases {
        let mut config = config();
        config[field] = value;
        let root = checkpoint(&config, Dtype::F32);
        let error = run(root.path(), |_| {}).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidModel | ErrorKind::Unsupported), "{error}");
        assert!(error.to_string().contains(expected), "{expected:?} is not in {error}");
        assert!(error.to_string().contains("source/"), "no file in {error}");
        assert_eq!(names(root.path()), ["source"], "nothing is left behind");
    }
}

#[test]
fn incomplete_folders_get_a_remedy() {
    let cases = [
        ("tokenizer.json", None, "copy the tokenizer files"),
        ("tokenizer.json", Some("tokenizer.model"), "save_pretrained"),
        ("model.safetensors", None, "is the download complete"),
        ("model.safetensors", Some("pytorch_model.bin"), "pickled"),
        ("model.safetensors", Some("model-q8.gguf"), "name that file"),
        ("model.safetensors", Some("consolidated.00.pth"), "Meta's or Mistral's own format"),
        ("model.safetensors", Some("consolidated.safetensors"), "Meta's or Mistral's own format"),
        ("model.safetensors", Some("model-00001-of-00002.safetensors"), "is one of several files"),
        ("model.safetensors", Some("weights.safetensors"), "call it model.safetensors"),
        ("model.safetensors", Some("tf_model.h5"), "TensorFlow or JAX"),
        ("config.json", None, "name the folder that holds config.json"),
    ];
    for (missing, instead, expected) in cases {
        let root = checkpoint(&config(), Dtype::F32);
        let source = root.path().join("source");
        fs::remove_file(source.join(missing)).unwrap();
        if let Some(name) = instead {
            fs::write(source.join(name), "").unwrap();
        }
        let error = run(root.path(), |_| {}).unwrap_err();
        assert!(error.to_string().contains(expected), "{expected:?} is not in {error}");
    }
}

#[test]
fn a_name_of_the_hub_is_taken_for_one() {
    let root = checkpoint(&config(), Dtype::F32);
    for (name, hub) in [
        ("Owner/Some-Model-0.5B", true),
        ("no/such/folder", false),
        ("./folder", false),
        ("folder", false),
        ("/folder/x", false),
    ] {
        let error = run(root.path(), |options| options.from = name.into()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        assert_eq!(error.to_string().contains(&format!("`hf download {name} --local-dir FOLDER`")), hub, "{error}");
    }
}

#[test]
fn targets_and_options_that_make_no_sense_are_refused() {
    let root = checkpoint(&config(), Dtype::F32);
    for (quantize, block) in [(Quantize::None, 64), (Quantize::Int8, 16), (Quantize::Int4, 0), (Quantize::Int4, 48)] {
        let change = |options: &mut ExportOptions| (options.quantize, options.block) = (quantize, block);
        assert_eq!(run(root.path(), change).unwrap_err().kind(), ErrorKind::InvalidRequest);
    }
    let error = run(root.path(), |options| options.to = root.path().to_owned()).unwrap_err();
    assert!(error.to_string().contains("the checkpoint itself lies there"), "{error}");
    let error = run(root.path(), |options| options.from = root.path().join("source/model.safetensors")).unwrap_err();
    assert!(error.to_string().contains("name the folder"), "{error}");
    run(root.path(), |_| {}).unwrap();
    let error = run(root.path(), |_| {}).unwrap_err();
    assert!(error.to_string().contains("exists already"), "{error}");
    run(root.path(), |options| options.overwrite = true).unwrap();
}

#[test]
fn an_index_names_files_of_its_folder_and_what_they_hold() {
    let root = checkpoint(&config(), Dtype::F32);
    let source = root.path().join("source");
    fs::rename(source.join("model.safetensors"), source.join("shard.safetensors")).unwrap();
    let cases = [
        ("../shard.safetensors", "which is not a file name"),
        ("/etc/passwd", "which is not a file name"),
        ("source/../shard.safetensors", "which is not a file name"),
        ("shard.safetensors/", "which is not a file name"),
        ("", "which is not a file name"),
        ("..", "which is not a file name"),
        ("other.safetensors", "other.safetensors"),
        ("config.json", "not a complete safetensors file"),
    ];
    for (shard, expected) in cases {
        let index = json!({"weight_map": {"model.norm.weight": shard}});
        fs::write(source.join("model.safetensors.index.json"), index.to_string()).unwrap();
        let error = run(root.path(), |_| {}).unwrap_err();
        assert!(error.to_string().contains(expected), "{shard:?}: {error}");
    }
    for index in ["[]", "{}", r#"{"weight_map": []}"#, r#"{"weight_map": {"a": 1}}"#, "{"] {
        fs::write(source.join("model.safetensors.index.json"), index).unwrap();
        assert_eq!(run(root.path(), |_| {}).unwrap_err().kind(), ErrorKind::InvalidModel, "{index}");
    }
}

/// Opening a pipe to read would wait for a writer that never comes.
#[cfg(unix)]
#[test]
fn only_ordinary_files_are_opened() {
    for name in
        ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]
    {
        let root = checkpoint(&config(), Dtype::F32);
        let path = root.path().join("source").join(name);
        let _ = fs::remove_file(&path);
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let error = run(root.path(), |_| {}).unwrap_err();
        assert!(error.to_string().contains("is not an ordinary file"), "{name}: {error}");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let error = run(root.path(), |_| {}).unwrap_err();
        assert!(error.to_string().contains("is not an ordinary file"), "{name}: {error}");
    }
}

#[test]
fn files_without_content_are_refused() {
    let root = checkpoint(&config(), Dtype::F32);
    let source = root.path().join("source");
    for name in ["model.safetensors", "config.json", "empty.gguf"] {
        fs::write(source.join(name), "").unwrap();
        let from = if name.ends_with("gguf") { source.join(name) } else { source.clone() };
        let error = run(root.path(), |options| options.from = from.clone()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidModel, "{name}: {error}");
    }
}

#[test]
fn matrices_are_rounded_to_half_precision_and_the_graph_widens_them() {
    for (dtype, stored, kind) in
        [(TensorType::Bfloat16, "BF16", DataType::Bfloat16), (TensorType::Float16, "F16", DataType::Float16)]
    {
        let root = checkpoint(&config(), Dtype::F32);
        let report = run(root.path(), |options| options.dtype = dtype).unwrap();
        assert_eq!(report.weights[0].placement, Placement::Written);
        let (out, round) = (root.path().join("out"), |x: f32| match kind {
            DataType::Float16 => half::f16::from_f32(x).to_f32(),
            _ => half::bf16::from_f32(x).to_f32(),
        });
        let file = fs::read(out.join("model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&file).unwrap();
        let graph = graph(&out);
        for (seed, (name, shape)) in shapes().iter().enumerate() {
            let (tensor, view) = (initialiser(&graph, name), tensors.tensor(name).unwrap());
            let readers = |name: &str| {
                let reads = |node: &&NodeProto| node.input.iter().any(|input| input == name);
                graph
                    .node
                    .iter()
                    .filter(reads)
                    .map(|node| (node.op_type().to_owned(), node.output[0].clone()))
                    .collect()
            };
            let readers: Vec<(String, String)> = readers(name);
            let exact = |index: usize| element(seed, index);
            if shape.len() == 1 {
                assert_eq!((tensor.data_type(), view.dtype()), (DataType::Float as i32, Dtype::F32), "{name}");
                assert!(values(&out, tensor).iter().enumerate().all(|(index, x)| *x == exact(index)), "{name}");
                continue;
            }
            assert_eq!((tensor.data_type(), format!("{:?}", view.dtype())), (kind as i32, stored.into()), "{name}");
            let found = view.data().as_chunks().0.iter().map(|bytes| match kind {
                DataType::Float16 => half::f16::from_le_bytes(*bytes).to_f32(),
                _ => half::bf16::from_le_bytes(*bytes).to_f32(),
            });
            assert!(found.enumerate().all(|(index, x)| x == round(exact(index))), "{name}");
            for (op, output) in readers {
                let rows = |node: &&NodeProto| node.input[0] == output && node.op_type() == "Cast";
                let widens = op == "Cast" || (op == "Gather" && graph.node.iter().any(|node| rows(&node)));
                assert!(widens, "{name} is read by {op}");
            }
        }
        assert_eq!(initialiser(&graph, "cos_cache").data_type(), DataType::Float as i32);
    }
}

#[test]
fn half_precision_is_refused_where_it_cannot_be() {
    let root = checkpoint(&config(), Dtype::F32);
    let error = run(root.path(), |options| {
        (options.dtype, options.quantize) = (TensorType::Bfloat16, Quantize::Int8);
    });
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert!(error.to_string().contains("dtype = bfloat16"), "{error}");

    let (path, name) = (root.path().join("source/model.safetensors"), "model.layers.1.mlp.up_proj.weight");
    let mut file = fs::read(&path).unwrap();
    let data = SafeTensors::deserialize(&file).unwrap().tensor(name).unwrap().data().as_ptr() as usize;
    let at = data - file.as_ptr() as usize + 4 * (shapes()[name][1] + 3);
    file[at..at + 4].copy_from_slice(&65_520f32.to_le_bytes());
    fs::write(&path, file).unwrap();
    let error = run(root.path(), |options| options.dtype = TensorType::Float16).unwrap_err();
    let expected = "tensor `model.layers.1.mlp.up_proj.weight` holds 65520 at [1, 3], which is too large for float16: export in \
                    bfloat16 or float32";
    assert!(error.to_string().contains(expected), "{error}");
    assert_eq!(names(root.path()), ["source"], "nothing is left behind");
    run(root.path(), |options| options.dtype = TensorType::Bfloat16).unwrap();
}
