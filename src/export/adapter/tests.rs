//! Adapters in Rust's own terms. `python/training/test_adapter.py` holds them to PEFT's merge.

use std::fs;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, serialize_to_file};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::ErrorKind;
use crate::export::testing::{HIDDEN, tiny_gguf};
use crate::export::{ExportOptions, export};

const RANK: usize = 2;

fn settings(changes: &Value) -> Value {
    let mut config = json!({"peft_type": "LORA", "r": RANK, "lora_alpha": 3, "target_modules": ["q_proj"]});
    for (field, value) in changes.as_object().expect("fields") {
        config[field] = value.clone();
    }
    config
}

fn read(changes: &Value) -> Result<Settings> {
    Settings::read(&Config::from_json("adapter_config.json", settings(changes).to_string().as_bytes())?, true)
}

#[test]
fn a_modules_scale_follows_from_its_name_and_rank() {
    let module = "model.layers.11.self_attn.q_proj";
    for (changes, expected) in [
        (json!({}), 1.5),
        (json!({"use_rslora": true}), (3.0 / 2.0_f64.sqrt()) as f32),
        (json!({"alpha_pattern": {"q_proj": 5}}), 2.5),
        (json!({"alpha_pattern": {"self_attn\\.q_proj": 5}}), 2.5),
        (json!({"alpha_pattern": {"layers.11.self_attn.q_proj": 5}}), 2.5),
        (json!({"alpha_pattern": {"^model.layers.11.self_attn.q_proj": 5}}), 2.5),
        // Neither the end of a word nor of a number is a name.
        (json!({"alpha_pattern": {"_proj": 5, "1.self_attn.q_proj": 5, "^q_proj": 5, "v_proj": 5}}), 1.5),
    ] {
        assert_eq!(read(&changes).expect("settings").scale(module, RANK), expected, "{changes}");
    }
}

#[test]
fn matrices_of_another_rank_than_the_settings_say_are_refused() {
    let module = "model.layers.11.self_attn.q_proj";
    for (changes, rank, is_right) in [
        (json!({}), 2, true),
        (json!({}), 4, false),
        (json!({"r": 8}), 2, false),
        (json!({"r": null}), 2, true),
        (json!({"rank_pattern": {"q_proj": 4}}), 4, true),
        (json!({"rank_pattern": {"q_proj": 4}}), 2, false),
        (json!({"rank_pattern": {"v_proj": 4}}), 2, true),
        // It may be for this module or not.
        (json!({"rank_pattern": {"(q|v)_proj": 4}}), 4, true),
    ] {
        let checked = read(&changes).expect("settings").check_rank(module, rank);
        assert_eq!(checked.is_ok(), is_right, "{changes}, {rank}");
        if let Err(error) = checked {
            let error = error.to_string();
            assert!(
                error.contains("adapter_config.json: the rank of `model.layers.11") && error.contains("rank_pattern"),
                "{error}"
            );
        }
    }
}

#[test]
fn settings_that_would_change_the_merge_are_refused_by_name() {
    for (field, value) in [
        ("peft_type", json!("LOHA")),
        ("use_dora", json!(true)),
        ("lora_bias", json!(true)),
        ("megatron_config", json!({"a": 1})),
        ("target_parameters", json!(["x"])),
        ("alora_invocation_tokens", json!([1])),
        ("init_lora_weights", json!("olora")),
        ("init_lora_weights", json!("pissa_niter_16")),
        ("lora_alpha", json!("many")),
        ("alpha_pattern", json!({"(q|v)_proj": 1})),
        ("alpha_pattern", json!({"q_proj": null})),
    ] {
        let error = read(&json!({field: value})).expect_err(field);
        assert!(error.to_string().contains(&format!("`{field}`")), "{error}");
        assert!([ErrorKind::Unsupported, ErrorKind::InvalidModel].contains(&error.kind()), "{error}");
    }
    read(
        &json!({"use_dora": false, "layer_replication": null, "eva_config": {"rho": 2}, "trainable_token_indices": []}),
    )
    .expect("these have no effect");
}

/// Rows of a GGUF's query projection lie in another order, and some are quantised. An adapter is added in the order that
/// transformers has.
#[test]
fn an_adapter_fits_the_rows_of_gguf() {
    let root = TempDir::new().expect("a folder");
    let folder = root.path().join("adapter");
    fs::create_dir(&folder).expect("made");
    fs::write(folder.join(names::ADAPTER), settings(&json!({})).to_string()).expect("written");
    let value = |index: usize| ((index * 7) % 11) as f32 / 8.0;
    let bytes: Vec<u8> = (0..RANK * HIDDEN).flat_map(|index| value(index).to_le_bytes()).collect();
    let view = |shape: [usize; 2]| TensorView::new(Dtype::F32, shape.to_vec(), &bytes).expect("a tensor");
    let tensors = (0..2).flat_map(|layer| {
        let name = |part| format!("base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{part}.weight");
        [(name("A"), view([RANK, HIDDEN])), (name("B"), view([HIDDEN, RANK]))]
    });
    serialize_to_file(tensors, None, &folder.join(names::ADAPTER_WEIGHTS)).expect("written");
    let file = root.path().join("model.gguf");
    fs::write(&file, tiny_gguf().build()).expect("written");

    let weights = |to: &str, adapter: Option<PathBuf>| {
        let options = ExportOptions { adapter, ..ExportOptions::new(&file, root.path().join(to)) };
        export(&options, &mut |_| ()).expect("an export");
        fs::read(root.path().join(to).join("model.safetensors")).expect("weights")
    };
    let (plain, merged) = (weights("plain", None), weights("merged", Some(folder)));
    let (plain, merged) =
        (SafeTensors::deserialize(&plain).expect("sound"), SafeTensors::deserialize(&merged).expect("sound"));
    let mut changed = 0;
    for (name, tensor) in merged.iter() {
        let floats = |bytes: &[u8]| bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<_>>();
        let (before, after) = (floats(plain.tensor(name).expect("there, too").data()), floats(tensor.data()));
        if !name.ends_with("q_proj.weight") {
            assert_eq!(before, after, "{name}");
            continue;
        }
        changed += 1;
        for (at, (before, after)) in before.iter().zip(&after).enumerate() {
            let (row, column) = (at / HIDDEN, at % HIDDEN);
            let sum: f32 = (0..RANK).map(|k| value(row * RANK + k) * value(k * HIDDEN + column)).sum();
            assert_eq!(before + 1.5 * sum, *after, "{name} at {row}, {column}");
        }
    }
    assert_eq!(changed, 2);
}
