//! How configurations are read: what is assumed where they say nothing, what null means, what is refused.
//!
//! What the graphs then compute is for `tests/it/model/conformance.rs` to show.

use serde_json::{Value, json};

use super::{Activation, Decoder, by_name};
use crate::export::config::Config;
use crate::export::testing::described;
use crate::{ErrorKind, Result};

/// The decoder of `class`, four layers of four heads unless `changes` say otherwise.
fn decoder(class: &str, changes: Value) -> Result<Decoder> {
    let mut config = json!({
        "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
    });
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    let config = Config::from_json("config.json", config.to_string().as_bytes())?;
    (by_name(class).unwrap().decoder)(&described(config))
}

fn windows(class: &str, changes: Value) -> Vec<Option<usize>> {
    decoder(class, changes).unwrap().layers.iter().map(|layer| layer.window).collect()
}

fn rotary(class: &str, changes: Value) -> Vec<Option<usize>> {
    decoder(class, changes).unwrap().layers.iter().map(|layer| layer.rope).collect()
}

const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

#[test]
fn classes_assume_what_they_do_in_transformers() {
    let classes = [
        ("LlamaForCausalLM", 16, false, 1e-6, Activation::Silu),
        ("MistralForCausalLM", 16, false, 1e-6, Activation::Silu),
        ("Qwen2ForCausalLM", 16, false, 1e-6, Activation::Silu),
        ("Qwen3ForCausalLM", 128, false, 1e-6, Activation::Silu),
        ("SmolLM3ForCausalLM", 16, true, 1e-6, Activation::Silu),
        ("Gemma2ForCausalLM", 256, true, 1e-6, Activation::GeluTanh),
        ("Gemma3ForCausalLM", 256, true, 1e-6, Activation::GeluTanh),
        ("Phi3ForCausalLM", 16, false, 1e-5, Activation::Silu),
    ];
    for (class, head_size, tied, epsilon, activation) in classes {
        let decoder = decoder(class, json!({})).unwrap();
        assert_eq!((decoder.attention.head_size, decoder.head.tied), (head_size, tied), "{class}");
        assert_eq!((decoder.norm.epsilon, decoder.feed_forward.activation), (epsilon, activation), "{class}");
        let sizes = decoder.ropes.iter().map(|rope| rope.tables(512)[0].width());
        assert!(sizes.into_iter().all(|width| 2 * width == head_size), "{class}");
    }
}

#[test]
fn windows_are_uniform_upper_alternating_or_listed() {
    let mistral = "MistralForCausalLM";
    assert_eq!(windows(mistral, json!({})), [Some(4096); 4]);
    assert_eq!(windows(mistral, json!({"sliding_window": null})), [None; 4]);
    assert_eq!(windows(mistral, json!({"sliding_window": 7, "layer_types": ([SLIDING; 4])})), [Some(7); 4]);
    assert_eq!(windows("Phi3ForCausalLM", json!({})), [None; 4]);
    assert_eq!(windows("Phi3ForCausalLM", json!({"sliding_window": 7})), [Some(7); 4]);
    for class in ["Qwen2ForCausalLM", "Qwen3ForCausalLM"] {
        assert_eq!(windows(class, json!({"sliding_window": 7, "max_window_layers": 0})), [None; 4]);
        let changes = json!({"use_sliding_window": true, "sliding_window": 7, "max_window_layers": 2});
        assert_eq!(windows(class, changes), [None, None, Some(7), Some(7)]);
        assert_eq!(windows(class, json!({"use_sliding_window": true})), [None; 4], "28 layers have none");
        let changes = json!({"use_sliding_window": true, "layer_types": [SLIDING, FULL, FULL, FULL]});
        assert_eq!(windows(class, changes), [Some(4096), None, None, None]);
    }
    assert_eq!(windows("Gemma2ForCausalLM", json!({})), [Some(4096), None, Some(4096), None]);
    let changes = json!({"sliding_window": 7, "sliding_window_pattern": 3});
    assert_eq!(windows("Gemma3ForCausalLM", changes.clone()), [Some(7), Some(7), None, Some(7)]);
    assert_eq!(rotary("Gemma3ForCausalLM", changes), [Some(1), Some(1), Some(0), Some(1)]);
}

#[test]
fn smollm3_rotates_three_layers_of_four_or_those_listed() {
    let class = "SmolLM3ForCausalLM";
    assert_eq!(rotary(class, json!({})), [Some(0), Some(0), Some(0), None]);
    assert_eq!(rotary(class, json!({"no_rope_layer_interval": 2})), [Some(0), None, Some(0), None]);
    let listed = json!({"no_rope_layers": [0, 1, true, false], "use_sliding_window": true, "sliding_window": 7});
    assert_eq!(rotary(class, listed.clone()), [None, Some(0), Some(0), None]);
    assert_eq!(windows(class, listed), [Some(7), None, None, Some(7)], "windows go with missing positions");
}

#[test]
fn gemma_scales_and_caps() {
    let gemma = decoder("Gemma2ForCausalLM", json!({"hidden_size": 60, "query_pre_attn_scalar": 144})).unwrap();
    assert_eq!((gemma.embedding_scale, gemma.attention.scale), (Some(60f64.sqrt() as f32), 1.0 / 12.0));
    assert_eq!((gemma.attention.softcap, gemma.head.softcap), (Some(50.0), Some(30.0)));
    assert!(gemma.norm.plus_one && gemma.norm.branches && !gemma.attention.qk_norm);
    let nulls = json!({"attn_logit_softcapping": null, "final_logit_softcapping": null});
    let gemma = decoder("Gemma2ForCausalLM", nulls).unwrap();
    assert_eq!((gemma.attention.softcap, gemma.head.softcap), (None, None));
    let gemma = decoder("Gemma3ForCausalLM", json!({"final_logit_softcapping": 20.0})).unwrap();
    assert_eq!((gemma.attention.softcap, gemma.head.softcap), (None, Some(20.0)));
    assert!(gemma.norm.plus_one && gemma.norm.branches && gemma.attention.qk_norm);
}

#[test]
fn biases_are_where_the_class_has_them() {
    let biases = |class, changes| {
        let decoder = decoder(class, changes).unwrap();
        (decoder.attention.qkv_bias, decoder.attention.output_bias, decoder.feed_forward.bias)
    };
    let asked = json!({"attention_bias": true, "mlp_bias": true});
    assert_eq!(biases("LlamaForCausalLM", asked.clone()), (true, true, true));
    assert_eq!(biases("SmolLM3ForCausalLM", asked.clone()), (true, true, true));
    assert_eq!(biases("Qwen3ForCausalLM", asked.clone()), (true, true, false));
    assert_eq!(biases("Gemma3ForCausalLM", asked.clone()), (true, true, false));
    assert_eq!(biases("MistralForCausalLM", asked.clone()), (false, false, false));
    assert_eq!(biases("Phi3ForCausalLM", asked), (false, false, false));
    assert_eq!(biases("Qwen2ForCausalLM", json!({})), (true, false, false));
}

#[test]
fn newer_files_keep_rotary_parameters_together() {
    let first_sine = |decoder: &Decoder, rope: usize, pair: usize| {
        let tables = decoder.ropes[rope].tables(2);
        let mut bytes = Vec::new();
        tables[0].write(f64::sin, &mut bytes).unwrap();
        let at = 4 * (tables[0].width() + pair);
        f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    };
    let nested = json!({"head_dim": 16, "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e8},
        "sliding_attention": {"rope_type": "default", "rope_theta": 256.0},
    }});
    let gemma = decoder("Gemma3ForCausalLM", nested).unwrap();
    assert_eq!(first_sine(&gemma, 0, 1), (0.1f64 / 8.0).sin() as f32);
    assert_eq!(first_sine(&gemma, 1, 1), 0.5f64.sin() as f32);
    let older = json!({"head_dim": 16, "rope_theta": 1e8, "rope_scaling": {"type": "linear", "factor": 8.0},
        "rope_local_base_freq": 256});
    let older = decoder("Gemma3ForCausalLM", older).unwrap();
    assert_eq!(first_sine(&older, 0, 1), first_sine(&gemma, 0, 1));
    assert_eq!(first_sine(&older, 1, 1), first_sine(&gemma, 1, 1));
    let flat = json!({"rope_parameters": {"rope_type": "default", "rope_theta": 256.0}, "rope_theta": 7.0});
    assert_eq!(first_sine(&decoder("Qwen3ForCausalLM", flat).unwrap(), 0, 64 / 8), 0.5f64.sin() as f32);
}

#[test]
fn what_the_graph_would_get_wrong_is_refused_by_name() {
    let cases = [
        ("LlamaForCausalLM", json!({"hidden_act": "relu"}), "`hidden_act` is \"relu\""),
        ("Gemma2ForCausalLM", json!({"hidden_activation": "gelu"}), "`hidden_activation` is \"gelu\""),
        ("LlamaForCausalLM", json!({"num_hidden_layers": 5000}), "at most 4096 layers"),
        ("LlamaForCausalLM", json!({"rope_scaling": {"type": "longrope"}}), "`rope_scaling.type` is \"longrope\""),
        (
            "Qwen2ForCausalLM",
            json!({"rope_scaling": {"type": "yarn", "factor": 4.0}}),
            "`rope_scaling.type` is \"yarn\"",
        ),
        ("Qwen2ForCausalLM", json!({"rope_parameters": {"rope_type": "dynamic"}}), "`rope_parameters.rope_type`"),
        ("Qwen2ForCausalLM", json!({"layer_types": ([SLIDING; 4])}), "`sliding_window` is missing"),
        ("Qwen2ForCausalLM", json!({"layer_types": ([FULL; 3])}), "expected a list of 4"),
        (
            "Qwen2ForCausalLM",
            json!({"layer_types": (["linear_attention"; 4])}),
            "this version exports `full_attention`",
        ),
        ("Qwen3ForCausalLM", json!({"max_window_layers": -1}), "`max_window_layers` is -1"),
        ("MistralForCausalLM", json!({"layer_types": [SLIDING, FULL, SLIDING, FULL]}), "`layer_types` is"),
        (
            "Phi3ForCausalLM",
            json!({"layer_types": [SLIDING, FULL, FULL, FULL], "sliding_window": 7}),
            "`layer_types` is",
        ),
        ("MistralForCausalLM", json!({"partial_rotary_factor": 0.5}), "`partial_rotary_factor` is 0.5"),
        ("Gemma2ForCausalLM", json!({"sliding_window": null}), "`sliding_window` is missing"),
        ("Gemma2ForCausalLM", json!({"final_logit_softcapping": 0}), "`final_logit_softcapping` is 0"),
        ("Gemma3ForCausalLM", json!({"attn_logit_softcapping": 50.0}), "`attn_logit_softcapping` is 50.0"),
        ("Gemma3ForCausalLM", json!({"use_bidirectional_attention": true}), "it is an encoder"),
        ("SmolLM3ForCausalLM", json!({"no_rope_layers": [1, 0]}), "expected a 0 or 1 for each of 4 layers"),
    ];
    for (class, changes, expected) in cases {
        let error = decoder(class, changes).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidModel | ErrorKind::Unsupported), "{error}");
        assert!(error.to_string().starts_with("config.json: "), "{error}");
        assert!(error.to_string().contains(expected), "{expected:?} is not in {error}");
    }
}

#[test]
fn hostile_values_are_refused_or_read_but_never_panic() {
    let fields = [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
        "head_dim",
        "rms_norm_eps",
        "tie_word_embeddings",
        "rope_theta",
        "rope_scaling",
        "rope_parameters",
        "partial_rotary_factor",
        "original_max_position_embeddings",
        "sliding_window",
        "use_sliding_window",
        "max_window_layers",
        "layer_types",
        "sliding_window_pattern",
        "no_rope_layers",
        "no_rope_layer_interval",
        "attention_bias",
        "mlp_bias",
        "query_pre_attn_scalar",
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "rope_local_base_freq",
        "hidden_act",
        "hidden_activation",
        "use_bidirectional_attention",
    ];
    let values = [
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(1),
        json!(16),
        json!(1 << 20),
        json!(u64::MAX),
        json!(1e-320),
        json!(1e308),
        json!(0.3),
        json!("x"),
        json!([]),
        json!([0, 1, -1, "x"]),
        json!({}),
        json!({"type": 1}),
        json!({"rope_type": "longrope", "short_factor": [1], "long_factor": []}),
        json!({"full_attention": {"rope_type": "llama3", "factor": 1e308}, "sliding_attention": []}),
    ];
    for class in super::names() {
        for (field, value) in fields.iter().flat_map(|field| values.iter().map(move |value| (field, value))) {
            if let Err(error) = decoder(class, json!({*field: value})) {
                assert!(error.to_string().starts_with("config.json: "), "{class}, {field} {value}: {error}");
            }
        }
    }
}
