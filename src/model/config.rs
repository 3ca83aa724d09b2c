//! The configuration in a model's folder: `genai_config.json`, otherwise the checkpoint's `config.json`.

use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::head::{Head, HeadKind, Pooling};
use crate::{Error, Result, files};

/// onnxruntime-genai's configuration.
pub(crate) const GENAI: &str = "genai_config.json";
/// The checkpoint's configuration.
const CHECKPOINT: &str = "config.json";
/// The checkpoint's settings for generation.
const GENERATION: &str = "generation_config.json";

/// A folder's configuration, whichever file it came from.
#[derive(Debug, Clone)]
pub(crate) struct FolderConfig {
    pub(crate) model: ModelConfig,
    /// The head that `foreturn.json` names.
    pub(crate) head: Option<Head>,
    /// The file that the values came from, for messages.
    pub(crate) file: &'static str,
    pub(crate) folder: PathBuf,
    /// `config.json`, or `Null` if there is none.
    pub(crate) checkpoint: Value,
}

/// Sizes, tokens and names; the fields of `model` in `genai_config.json` that this library reads.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ModelConfig {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) vocab_size: usize,
    pub(crate) context_length: usize,
    #[serde(default)]
    pub(crate) eos_token_id: TokenIds,
    pub(crate) decoder: DecoderConfig,
}

/// `model.decoder` in `genai_config.json`.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct DecoderConfig {
    /// The graph's file. If the configuration names none, the folder is searched.
    #[serde(default)]
    pub(crate) filename: Option<String>,
    /// Size of an attention head.
    #[serde(default)]
    pub(crate) head_size: Option<usize>,
    #[serde(default)]
    pub(crate) inputs: Inputs,
    #[serde(default)]
    pub(crate) outputs: Outputs,
    #[serde(default)]
    num_hidden_layers: Option<usize>,
    #[serde(default)]
    num_key_value_heads: Option<usize>,
    #[serde(default)]
    num_attention_heads: Option<usize>,
}

/// Names of the graph's inputs. `%d` stands for a layer's number.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct Inputs {
    pub(crate) input_ids: String,
    pub(crate) attention_mask: String,
    pub(crate) position_ids: String,
    pub(crate) past_key_names: String,
    pub(crate) past_value_names: String,
}

/// Names of the graph's outputs.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct Outputs {
    pub(crate) logits: String,
    pub(crate) present_key_names: String,
    pub(crate) present_value_names: String,
}

impl Default for Inputs {
    fn default() -> Self {
        Inputs {
            input_ids: "input_ids".into(),
            attention_mask: "attention_mask".into(),
            position_ids: "position_ids".into(),
            past_key_names: "past_key_values.%d.key".into(),
            past_value_names: "past_key_values.%d.value".into(),
        }
    }
}

impl Default for Outputs {
    fn default() -> Self {
        Outputs {
            logits: "logits".into(),
            present_key_names: "present.%d.key".into(),
            present_value_names: "present.%d.value".into(),
        }
    }
}

/// One id or a list of ids; the files may have either.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(untagged)]
pub(crate) enum TokenIds {
    One(u32),
    Many(Vec<u32>),
    #[default]
    None,
}

impl TokenIds {
    pub(crate) fn to_vec(&self) -> Vec<u32> {
        match self {
            TokenIds::One(id) => vec![*id],
            TokenIds::Many(ids) => ids.clone(),
            TokenIds::None => Vec::new(),
        }
    }
}

/// The part of `genai_config.json` that is read.
#[derive(Deserialize)]
struct Genai {
    model: ModelConfig,
}

impl FolderConfig {
    /// Whether `folder` has a model's configuration.
    pub(crate) fn is_in(folder: &Path) -> bool {
        [GENAI, CHECKPOINT].iter().any(|name| folder.join(name).is_file())
    }

    /// Reads `folder`'s configuration.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let checkpoint = json(&folder.join(CHECKPOINT))?.unwrap_or_default();
        let (model, file) = match json(&folder.join(GENAI))? {
            Some(value) => (genai(value).map_err(|why| invalid(folder, GENAI, &why))?, GENAI),
            None if checkpoint.is_null() => {
                return Err(Error::invalid_model(format!(
                    "{} has neither {GENAI} nor {CHECKPOINT}. Export a checkpoint with `foreturn export --from <checkpoint> --to <folder>`, or give a folder that onnxruntime-genai's model builder or Optimum wrote",
                    folder.display()
                )));
            }
            None => {
                let generation = json(&folder.join(GENERATION))?.unwrap_or_default();
                let model =
                    from_checkpoint(&checkpoint, &generation).map_err(|why| invalid(folder, CHECKPOINT, &why))?;
                (model, CHECKPOINT)
            }
        };
        let config = FolderConfig { model, head: Head::read(folder)?, file, folder: folder.into(), checkpoint };
        config.check().map_err(|why| invalid(folder, file, &why))?;
        Ok(config)
    }

    /// Numbers in a row of logits: one per token of the vocabulary, or one per label of the head.
    pub(crate) fn row_width(&self) -> usize {
        self.head.as_ref().map_or(self.model.vocab_size, |head| head.size)
    }

    /// The file and field that say [`FolderConfig::row_width`], for messages.
    pub(crate) fn width_source(&self) -> &'static str {
        match (&self.head, self.file) {
            (Some(_), _) => "foreturn.json: head.size",
            (None, GENAI) => "genai_config.json: model.vocab_size",
            (None, _) => "config.json: vocab_size",
        }
    }

    /// A whole number of `config.json`.
    pub(crate) fn number(&self, key: &str) -> Option<usize> {
        number(&self.checkpoint, key)
    }

    /// The contents of `config.json`, for graphs that are not in a folder.
    #[cfg(any(test, fuzzing))]
    pub(super) fn of(checkpoint: Value) -> Result<Self, String> {
        let model = from_checkpoint(&checkpoint, &Value::Null)?;
        Ok(FolderConfig { model, head: None, file: CHECKPOINT, folder: PathBuf::new(), checkpoint })
    }

    /// Transformer layers.
    pub(crate) fn layers(&self) -> Option<usize> {
        self.model.decoder.num_hidden_layers.or_else(|| self.number("num_hidden_layers"))
    }

    /// Query heads per layer.
    pub(crate) fn query_heads(&self) -> Option<usize> {
        self.model.decoder.num_attention_heads.or_else(|| self.number("num_attention_heads"))
    }

    /// Key-value heads per layer.
    pub(crate) fn kv_heads(&self) -> Option<usize> {
        self.model.decoder.num_key_value_heads.or_else(|| self.number("num_key_value_heads"))
    }

    /// Longest sequence that uses the checkpoint's first set of rotary frequencies, if longer ones use another. Graphs
    /// with decomposed attention were traced with the first set.
    pub(crate) fn one_rope(&self) -> Option<usize> {
        let scaling = self.checkpoint.get("rope_scaling").or_else(|| self.checkpoint.get("rope_parameters"))?;
        let kind = scaling.get("rope_type").or_else(|| scaling.get("type")).and_then(Value::as_str)?;
        let original = || {
            let key = "original_max_position_embeddings";
            number(scaling, key).or_else(|| self.number(key))
        };
        match kind {
            "longrope" | "su" => original(),
            "dynamic" => original().or_else(|| self.number("max_position_embeddings")),
            _ => None,
        }
    }

    /// Whether the checkpoint's class predicts tokens.
    pub(crate) fn is_language_model(&self) -> bool {
        let classes = self.checkpoint.get("architectures").and_then(Value::as_array).into_iter().flatten();
        let ends = ["LMHeadModel", "ForCausalLM", "ForMaskedLM", "ForPreTraining", "ForConditionalGeneration"];
        classes.filter_map(Value::as_str).any(|class| ends.iter().any(|end| class.ends_with(end)))
    }

    /// The pooling of token rows in sentence-transformers' files, and whether they normalise the result.
    pub(crate) fn sentence_pooling(&self) -> Result<(Pooling, bool), String> {
        let read = |name: &str| json(&self.folder.join(name)).map_err(|e| e.to_string());
        const FILE: &str = "1_Pooling/config.json";
        let Some(config) = read(FILE)? else {
            return Err(format!("the graph gives a row for each token, and no {FILE} says how to pool them"));
        };
        let set = |key: &str| config.get(key).and_then(Value::as_bool).unwrap_or(false);
        let modes = [
            ("pooling_mode_cls_token", Pooling::First),
            ("pooling_mode_mean_tokens", Pooling::Mean),
            ("pooling_mode_lasttoken", Pooling::Last),
        ];
        let others =
            ["pooling_mode_max_tokens", "pooling_mode_mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens"];
        let chosen: Vec<Pooling> = modes.iter().filter(|(key, _)| set(key)).map(|(_, pooling)| *pooling).collect();
        let ([pooling], false) = (&chosen[..], others.iter().any(|key| set(key))) else {
            return Err(format!("{FILE} asks for a pooling other than first token, last token or mean"));
        };
        let modules = read("modules.json")?.unwrap_or_default();
        let kinds = modules.as_array().into_iter().flatten().filter_map(|module| module.get("type")?.as_str());
        Ok((*pooling, kinds.into_iter().any(|kind| kind.ends_with(".Normalize"))))
    }

    /// The head that `config.json` describes, for exports that have no `foreturn.json`.
    ///
    /// `per_token` says whether the graph gives a row for each token. `width` is the size of a row, if the graph says
    /// it.
    pub(crate) fn classification_head(&self, per_token: bool, width: Option<usize>) -> Result<Head, String> {
        let labels = labels(&self.checkpoint)?;
        let size = match (width, &labels) {
            (Some(width), Some(labels)) if labels.len() != width => {
                return Err(format!(
                    "id2label has {} labels, but the graph gives {width} numbers per row",
                    labels.len()
                ));
            }
            (Some(width), _) => width,
            (None, Some(labels)) => labels.len(),
            (None, None) => return Err("neither id2label nor the graph says how many labels there are".into()),
        };
        Ok(Head {
            kind: if per_token { HeadKind::TokenClassification } else { HeadKind::SequenceClassification },
            labels: labels.unwrap_or_else(|| (0..size).map(|i| format!("LABEL_{i}")).collect()),
            pooling: Pooling::None,
            normalize: false,
            size,
            max_length: None,
            pad_token_id: None,
        })
    }

    fn check(&self) -> Result<(), String> {
        let model = &self.model;
        if let Some(filename) = &model.decoder.filename
            && !Path::new(filename).components().all(|part| matches!(part, Component::Normal(_)))
        {
            return Err(format!(
                "model.decoder.filename is `{filename}`, which leaves the model's folder; put the graph into it"
            ));
        }
        let [vocab_size, context, eos] = match self.file {
            GENAI => ["model.vocab_size", "model.context_length", "model.eos_token_id"],
            _ => ["vocab_size", "max_position_embeddings", "eos_token_id"],
        };
        for (field, value) in [(vocab_size, model.vocab_size), (context, model.context_length)] {
            if value == 0 || value > i32::MAX as usize {
                return Err(format!("{field} is {value}; it has to be a positive number"));
            }
        }
        match model.eos_token_id.to_vec().into_iter().find(|&id| id as usize >= model.vocab_size) {
            Some(id) => Err(format!("{eos} contains {id}, but {vocab_size} is {}", model.vocab_size)),
            None => Ok(()),
        }
    }
}

fn invalid(folder: &Path, file: &str, why: &str) -> Error {
    Error::invalid_model(format!("{}: {why}. Correct it, or export the model again", folder.join(file).display()))
}

/// Reads a JSON file if it exists.
fn json(path: &Path) -> Result<Option<Value>> {
    let Some(bytes) = files::read_if_there(path, files::Kind::CONFIG)? else { return Ok(None) };
    crate::json::parse(&bytes).map(Some).map_err(|e| {
        let message = format!("{}: {e}. Correct it, or export the model again", path.display());
        Error::invalid_model(message).with_source(e)
    })
}

fn genai(value: Value) -> Result<ModelConfig, String> {
    let mut config: Genai = serde_json::from_value(value).map_err(|e| format!("model: {e}"))?;
    config.model.decoder.filename.get_or_insert_with(|| "model.onnx".into());
    Ok(config.model)
}

/// Reads a number at the top of the configuration, or in the text part of a multimodal model.
fn number(config: &Value, key: &str) -> Option<usize> {
    let of = |value: &Value| value.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
    of(config).or_else(|| config.get("text_config").and_then(of))
}

fn from_checkpoint(config: &Value, generation: &Value) -> Result<ModelConfig, String> {
    let kind = config.get("model_type").and_then(Value::as_str).unwrap_or("unknown").to_owned();
    let vocab_size = number(config, "vocab_size").ok_or("vocab_size is missing or not a whole number")?;
    let positions = ["max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length"]
        .iter()
        .find_map(|key| number(config, key))
        .ok_or("max_position_embeddings is missing or not a whole number")?;
    // DeBERTa with only relative positions has no longest input.
    let distances_only = config.get("position_biased_input").and_then(Value::as_bool) == Some(false);
    let positions = if distances_only { i32::MAX as usize } else { positions };
    // RoBERTa's positions begin after the padding token's.
    let roberta = ["roberta", "xlm-roberta", "camembert", "xlm-roberta-xl"].contains(&kind.as_str());
    let unused = if roberta { number(config, "pad_token_id").unwrap_or(1) + 1 } else { 0 };
    let eos = [generation, config].into_iter().find_map(|value| value.get("eos_token_id").filter(|v| !v.is_null()));
    let eos_token_id = match eos {
        Some(eos) => serde_json::from_value(eos.clone())
            .map_err(|_| format!("eos_token_id is {eos}, which is neither a token id nor a list of token ids"))?,
        None => TokenIds::None,
    };
    let shared_out =
        || Some(number(config, "hidden_size")? / number(config, "num_attention_heads").filter(|n| *n > 0)?);
    let head_size = number(config, "head_dim").or_else(shared_out).filter(|size| *size > 0);
    Ok(ModelConfig {
        kind,
        vocab_size,
        context_length: positions.saturating_sub(unused),
        eos_token_id,
        decoder: DecoderConfig { head_size, ..DecoderConfig::default() },
    })
}

/// `id2label` in the order of its ids.
fn labels(config: &Value) -> Result<Option<Vec<String>>, String> {
    let Some(map) = config.get("id2label").and_then(Value::as_object) else { return Ok(None) };
    let mut labels = vec![None; map.len()];
    for (id, name) in map {
        let place = id.parse::<usize>().ok().and_then(|id| labels.get_mut(id));
        match (place, name.as_str()) {
            (Some(place @ None), Some(name)) => *place = Some(name.to_owned()),
            _ => return Err(format!("id2label: `{id}`: {name} is not valid; ids go from 0 to {}", map.len() - 1)),
        }
    }
    Ok(labels.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_checkpoint_s_configuration_is_enough() {
        let config =
            json!({"model_type": "llama", "vocab_size": 300, "max_position_embeddings": 64, "eos_token_id": 2});
        let model = from_checkpoint(&config, &json!({"eos_token_id": [2, 7]})).expect("read");
        assert_eq!((model.vocab_size, model.context_length), (300, 64));
        assert_eq!(model.eos_token_id.to_vec(), [2, 7], "what is said about generating goes first");
        let nested = json!({"model_type": "gemma3", "text_config": {"vocab_size": 9, "max_position_embeddings": 8}});
        assert_eq!(from_checkpoint(&nested, &Value::Null).expect("read").vocab_size, 9);
        let roberta =
            json!({"model_type": "roberta", "vocab_size": 9, "max_position_embeddings": 514, "pad_token_id": 1});
        assert_eq!(from_checkpoint(&roberta, &Value::Null).expect("read").context_length, 512);
        let missing = from_checkpoint(&json!({"vocab_size": -3}), &Value::Null).expect_err("refused");
        assert!(missing.contains("vocab_size"), "{missing}");
    }

    #[test]
    fn labels_come_in_the_order_of_their_ids() {
        let ten: serde_json::Map<_, _> = (0..11).map(|i| (i.to_string(), json!(format!("label {i}")))).collect();
        let labels = labels(&json!({"id2label": ten})).expect("read").expect("labels");
        assert_eq!(labels[2], "label 2");
        assert_eq!(labels[10], "label 10");
        let gap = super::labels(&json!({"id2label": {"0": "a", "2": "b"}})).expect_err("refused");
        assert!(gap.contains("`2`"), "{gap}");
    }
}
