//! `genai_config.json`, as onnxruntime-genai's own model builder writes it for such a model.

use serde_json::{Value, json};

use super::arch::Decoder;
use super::checkpoint::{Checkpoint, SpecialTokens};
use crate::{Error, Result};

/// Its name in the folder.
pub(super) const FILE: &str = "genai_config.json";

/// The configuration that names the graph `filename`. A model that `scores` writes no replies, so it needs no token
/// that ends them.
pub(super) fn config(decoder: &Decoder, scores: bool, checkpoint: &Checkpoint, filename: &str) -> Result<Value> {
    let special = &checkpoint.special;
    check(special, scores, decoder, checkpoint.config.file())?;
    let first_eos = special.eos.first().copied().unwrap_or(0);
    let eos = if special.eos.len() == 1 { json!(first_eos) } else { json!(special.eos) };
    let default = |field: &str, default: Value| match checkpoint.generation.get(field) {
        None | Some(Value::Null) => default,
        Some(value) => value.clone(),
    };
    Ok(json!({
        "model": {
            "bos_token_id": special.bos.unwrap_or(first_eos),
            "context_length": decoder.context_length,
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": filename,
                "head_size": decoder.attention.head_size,
                "hidden_size": decoder.hidden_size,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
                "num_attention_heads": decoder.attention.heads,
                "num_hidden_layers": decoder.layers.len(),
                "num_key_value_heads": decoder.attention.kv_heads,
            },
            "eos_token_id": eos,
            "pad_token_id": special.pad.unwrap_or(first_eos),
            "type": decoder.genai_type,
            "vocab_size": decoder.vocab_size,
        },
        "search": {
            "diversity_penalty": default("diversity_penalty", json!(0.0)),
            "do_sample": default("do_sample", json!(false)),
            "early_stopping": true,
            "length_penalty": default("length_penalty", json!(1.0)),
            "max_length": decoder.context_length,
            "min_length": 0,
            "no_repeat_ngram_size": default("no_repeat_ngram_size", json!(0)),
            "num_beams": default("num_beams", json!(1)),
            "num_return_sequences": default("num_return_sequences", json!(1)),
            "past_present_share_buffer": true,
            "repetition_penalty": default("repetition_penalty", json!(1.0)),
            "temperature": default("temperature", json!(1.0)),
            "top_k": default("top_k", json!(50)),
            "top_p": default("top_p", json!(1.0)),
        },
    }))
}

fn check(special: &SpecialTokens, scores: bool, decoder: &Decoder, file: &str) -> Result<()> {
    if special.eos.is_empty() && !scores {
        return Err(Error::invalid_model(format!(
            "{file}: no `eos_token_id` anywhere, so a reply would never end: add it to generation_config.json"
        )));
    }
    let named = special.eos.iter().map(|id| ("eos", id)).chain(special.bos.iter().map(|id| ("bos", id)));
    for (name, id) in named.chain(special.pad.iter().map(|id| ("pad", id))) {
        if *id >= decoder.vocab_size as u64 {
            return Err(Error::invalid_model(format!(
                "{file}: {name} token id {id} is beyond the vocabulary of {} tokens",
                decoder.vocab_size
            )));
        }
    }
    Ok(())
}
