//! Checkpoints whose tensors have other names.

use std::fs;

use super::*;
use crate::export::testing::{change_json, export_fixture, fixture_checkpoint};

/// Rewrites the names of a fixture's tensors, leaving out those that become empty, and adds tensors of four zeros.
fn rename(root: &Path, change: impl Fn(&str) -> String, added: &[&str]) {
    use safetensors::{Dtype, SafeTensors, serialize, tensor::TensorView};
    let path = root.join("source/model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let zeros = [0; 16];
    let kept = file.iter().map(|(name, tensor)| (change(name), tensor)).filter(|(name, _)| !name.is_empty());
    let more = added.iter().map(|name| ((*name).to_owned(), TensorView::new(Dtype::F32, vec![4], &zeros).unwrap()));
    let written = serialize(kept.chain(more).collect::<Vec<_>>(), None).unwrap();
    fs::write(path, written).unwrap();
}

fn refusal(fixture: &str, change: impl Fn(&str) -> String) -> String {
    let root = fixture_checkpoint(fixture);
    rename(root.path(), change, &[]);
    export_fixture(root.path()).unwrap_err().to_string()
}

#[test]
fn names_of_wrappers_are_called_what_they_are() {
    let cases: [(&str, &str, &str); 6] = [
        ("_orig_mod.", "`_orig_mod.`", "torch.compile"),
        ("module.", "`module.`", "model.module.save_pretrained"),
        ("base_model.model.", "`base_model.model.`", "merge_and_unload"),
        ("pretrained_model.", "`pretrained_model.`", "TRL"),
        ("module._orig_mod.", "`_orig_mod.`", "torch.compile"),
        ("actor.policy.", "`actor.policy.", "Save the inner model alone"),
    ];
    for fixture in ["llama", "bert-labels", "llama-reward"] {
        for (prefix, named, remedy) in cases {
            let message = refusal(fixture, |name| format!("{prefix}{name}"));
            assert!(message.contains(named) && message.contains(remedy), "{fixture}, {prefix}: {message}");
        }
    }
    for (from, to, named) in [
        (".q_proj.weight", ".q_proj.base_layer.weight", "`base_layer.`"),
        ("lm_head.weight", "lm_head.modules_to_save.default.weight", "`modules_to_save.`"),
        (".v_proj.weight", ".v_proj.lora_A.default.weight", "`lora_A.`"),
        ("model.layers.0.", "model.layers.0._fsdp_wrapped_module.", "`_fsdp_wrapped_module.`"),
    ] {
        let message = refusal("llama", |name| name.replace(from, to));
        assert!(message.contains(named) && message.contains("save"), "{to}: {message}");
    }
}

#[test]
fn value_heads_and_heads_that_are_not_used_are_passed_over() {
    for (fixture, added) in [
        ("llama", &["v_head.summary.weight", "v_head.summary.bias"][..]),
        ("llama-reward", &["lm_head.weight"]),
        ("bert-labels", &["cls.predictions.bias", "cls.seq_relationship.weight"]),
        ("bert-embedding", &["cls.predictions.transform.dense.weight", "qa_outputs.bias"]),
        ("deberta-v2-labels", &["lm_predictions.lm_head.bias", "mask_predictions.classifier.weight"]),
        ("modernbert-mean", &["decoder.bias", "decoder.weight"]),
    ] {
        let plain = fixture_checkpoint(fixture);
        let expected = export_fixture(plain.path()).unwrap();
        let root = fixture_checkpoint(fixture);
        rename(root.path(), str::to_owned, added);
        let report = export_fixture(root.path()).unwrap_or_else(|error| panic!("{fixture}: {error}"));
        assert_eq!(report.parameters, expected.parameters, "{fixture}");
    }
    // What is inside the encoder still counts.
    let root = fixture_checkpoint("bert-labels");
    rename(root.path(), str::to_owned, &["bert.encoder.adapter.weight"]);
    let error = export_fixture(root.path()).unwrap_err().to_string();
    assert!(error.contains("`bert.encoder.adapter.weight` has no place"), "{error}");
}

#[test]
fn a_tied_decoder_without_its_head_gets_the_prefix_that_transformers_adds() {
    let bare = |tied: bool, head: &'static str| {
        let root = fixture_checkpoint("llama-reward");
        change_json(root.path(), "config.json", |config| {
            config["tie_word_embeddings"] = tied.into();
            config["architectures"] = vec!["LlamaForCausalLM"].into();
        });
        // Of the scores' weight, which has no prefix, the head is made, or nothing.
        rename(root.path(), |name| name.strip_prefix("model.").unwrap_or(head).to_owned(), &[]);
        export_fixture(root.path()).map_err(|error| error.to_string())
    };
    bare(true, "").unwrap();
    bare(true, "v_head.summary.weight").unwrap();
    assert!(bare(false, "").unwrap_err().contains("lack `lm_head.weight`"));
    // transformers raises an error for this one, and adds nothing where any name begins with `model`.
    assert!(bare(true, "lm_head.weight").unwrap_err().contains("the weights lack `model.embed_tokens.weight`"));
    assert!(bare(true, "model_card").unwrap_err().contains("the weights lack `model.embed_tokens.weight`"));
}

#[test]
fn a_name_that_two_tensors_get_is_refused() {
    let root = fixture_checkpoint("bert-labels");
    rename(root.path(), str::to_owned, &["bert.embeddings.LayerNorm.gamma"]);
    let error = export_fixture(root.path()).unwrap_err().to_string();
    assert!(error.contains("`bert.embeddings.LayerNorm.weight` twice"), "{error}");
}

#[test]
fn an_adapters_folder_is_called_so() {
    for whole in [false, true] {
        let root = fixture_checkpoint("llama");
        let source = root.path().join("source");
        fs::write(source.join(ADAPTER), r#"{"peft_type": "LORA"}"#).unwrap();
        fs::write(source.join("adapter_model.safetensors"), "").unwrap();
        if !whole {
            fs::remove_file(source.join("config.json")).unwrap();
        }
        let error = export_fixture(root.path()).unwrap_err().to_string();
        assert!(error.contains(ADAPTER) && error.contains("merge_and_unload"), "{error}");
    }
}
