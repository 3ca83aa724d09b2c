//! Decoders that give scores instead of the next token: reward models and process reward models.
//!
//! The body is that of the language model. In place of its head, `score` turns the hidden state of every token into one
//! number for each label. The graph's `logits` are [batch, sequence, labels]. The reader decides which rows count:
//!
//! - `…ForSequenceClassification`: the last token's. transformers takes the rightmost token that is not `pad_token_id`,
//!   regardless of the attention mask. So a text that itself ends in that token is read one token earlier.
//! - `…ForTokenClassification` and process reward models: those of the tokens that are marked.

use super::checkpoint::Checkpoint;
use super::config::Config;
use super::graph::{Builder, Linear, Size};
use crate::Result;
use crate::model::head::{Head, HeadKind, Pooling};

/// A class of transformers that puts such a head onto a decoder.
pub(super) struct Class {
    pub(super) name: &'static str,
    /// The language model with the same body.
    pub(super) body: &'static str,
    score: Score,
    /// The `pad_token_id` that transformers assumes where `config.json` has none.
    pad: Option<u32>,
}

/// The form of `score`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Score {
    /// A product without bias, for the last token.
    LastToken,
    /// A product with bias, for every token.
    EveryToken,
    /// Two layers with ReLU between them, for every token, as Qwen2.5-Math-PRM has it.
    Process,
}

pub(super) const CLASSES: &[Class] = &[
    Class::of("LlamaForSequenceClassification", "LlamaForCausalLM", Score::LastToken),
    Class::of("LlamaForTokenClassification", "LlamaForCausalLM", Score::EveryToken),
    Class::of("MistralForSequenceClassification", "MistralForCausalLM", Score::LastToken),
    Class::of("MistralForTokenClassification", "MistralForCausalLM", Score::EveryToken),
    Class::of("Qwen2ForSequenceClassification", "Qwen2ForCausalLM", Score::LastToken),
    Class::of("Qwen2ForTokenClassification", "Qwen2ForCausalLM", Score::EveryToken),
    Class::of("Qwen2ForProcessRewardModel", "Qwen2ForCausalLM", Score::Process),
    Class::of("Qwen3ForSequenceClassification", "Qwen3ForCausalLM", Score::LastToken),
    Class::of("Qwen3ForTokenClassification", "Qwen3ForCausalLM", Score::EveryToken),
    Class::of("Gemma2ForSequenceClassification", "Gemma2ForCausalLM", Score::LastToken).padded(0),
    Class::of("Gemma2ForTokenClassification", "Gemma2ForCausalLM", Score::EveryToken),
    Class::of("Gemma3TextForSequenceClassification", "Gemma3ForCausalLM", Score::LastToken).padded(0),
];

/// A head, read.
pub(super) struct Scores {
    pub(super) head: Head,
    score: Score,
}

impl Class {
    const fn of(name: &'static str, body: &'static str, score: Score) -> Self {
        Class { name, body, score, pad: None }
    }

    const fn padded(self, pad: u32) -> Self {
        Class { pad: Some(pad), ..self }
    }

    pub(super) fn read(&self, checkpoint: &Checkpoint) -> Result<Scores> {
        let config = &checkpoint.config;
        let labels = labels(config)?;
        let mut head = Head {
            kind: HeadKind::TokenClassification,
            size: labels.len(),
            labels,
            pooling: Pooling::None,
            normalize: false,
            max_length: None,
            pad_token_id: None,
        };
        if self.score == Score::LastToken {
            head.kind = HeadKind::SequenceClassification;
            head.pooling = Pooling::Last;
            head.pad_token_id = self.pad_token_id(config)?;
        }
        Ok(Scores { head, score: self.score })
    }

    fn pad_token_id(&self, config: &Config) -> Result<Option<u32>> {
        if config.names("pad_token_id") {
            let ids = config.token_ids("pad_token_id")?;
            let id = ids.first().map(|&id| u32::try_from(id)).transpose();
            return id.map_err(|_| config.bad_value("pad_token_id", "expected a token id"));
        }
        Ok(self.pad)
    }
}

impl Scores {
    /// Writes the nodes that make scores of normalised `hidden` states of width `size`.
    pub(super) fn write(&self, builder: &mut Builder<'_>, hidden: &str, size: Size) -> Result<String> {
        let labels = Size::new(self.head.size, LABEL_FIELDS);
        let layer = |module, path, out, bias| Linear { module, path, out, inner: size, bias };
        match self.score {
            Score::LastToken => builder.exact_linear(&layer("score", "/score", labels, false), hidden),
            Score::EveryToken => builder.exact_linear(&layer("score", "/score", labels, true), hidden),
            Score::Process => {
                let first = builder.exact_linear(&layer("score.0", "/score.0", size, true), hidden)?;
                let kept = builder.op("", "Relu", "/score.1/Relu", &[&first], vec![]);
                builder.exact_linear(&layer("score.2", "/score.2", labels, true), &kept)
            }
        }
    }
}

/// The fields that say how many labels there are, for messages.
pub(super) const LABEL_FIELDS: &[&str] = &["id2label"];

/// Names of the labels, in the order of the scores.
///
/// transformers writes `id2label` unless there are two labels, which it assumes.
pub(super) fn labels(config: &Config) -> Result<Vec<String>> {
    const MOST: usize = 1 << 16;
    if let Some(named) = config.get("id2label") {
        let wrong = || config.bad_value("id2label", "expected names under \"0\", \"1\" and so on, without a gap");
        let names = named.as_object().filter(|names| !names.is_empty()).ok_or_else(wrong)?;
        let name = |id: usize| names.get(&id.to_string()).and_then(|name| name.as_str()).map(str::to_owned);
        return (0..names.len()).map(name).collect::<Option<_>>().ok_or_else(wrong);
    }
    let count = config.size_or("num_labels", 2)?;
    if count > MOST {
        return Err(config.unsupported("num_labels", &format!("at most {MOST} labels are exported")));
    }
    Ok((0..count).map(|id| format!("LABEL_{id}")).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use prost::Message;
    use serde_json::json;

    use super::*;
    use crate::export::testing::{change_json, export_fixture, fixture_checkpoint};
    use crate::onnx::nodes::{Dim, value_info};
    use crate::onnx::tensor_proto::DataType;
    use crate::onnx::{GraphProto, ModelProto};

    fn config(text: &str) -> Config {
        Config::from_json("config.json", text.as_bytes()).expect("valid JSON")
    }

    #[test]
    fn labels_are_named_counted_or_two() {
        assert_eq!(labels(&config(r#"{"id2label": {"1": "good", "0": "bad"}}"#)).unwrap(), ["bad", "good"]);
        assert_eq!(labels(&config(r#"{"num_labels": 1}"#)).unwrap(), ["LABEL_0"]);
        assert_eq!(labels(&config("{}")).unwrap(), ["LABEL_0", "LABEL_1"]);
        for gap in [r#"{"0": "a", "2": "c"}"#, "{}", r#"{"0": 1}"#, r#"{"first": "a"}"#] {
            let error = labels(&config(&format!(r#"{{"id2label": {gap}}}"#))).unwrap_err();
            assert!(error.to_string().contains("without a gap"), "{error}");
        }
        assert!(labels(&config(r#"{"num_labels": 1000000}"#)).unwrap_err().to_string().contains("at most 65536"));
    }

    #[test]
    fn padding_is_what_the_configuration_or_else_the_class_says() {
        let gemma = CLASSES.iter().find(|class| class.name == "Gemma2ForSequenceClassification").unwrap();
        let llama = CLASSES.iter().find(|class| class.name == "LlamaForSequenceClassification").unwrap();
        assert_eq!(gemma.pad_token_id(&config("{}")).unwrap(), Some(0));
        assert_eq!(gemma.pad_token_id(&config(r#"{"pad_token_id": null}"#)).unwrap(), None);
        assert_eq!(llama.pad_token_id(&config("{}")).unwrap(), None);
        assert_eq!(llama.pad_token_id(&config(r#"{"pad_token_id": 7}"#)).unwrap(), Some(7));
        assert!(llama.pad_token_id(&config(r#"{"pad_token_id": "x"}"#)).is_err());
    }

    fn graph(folder: &Path) -> GraphProto {
        let bytes = fs::read(folder.join("model.onnx")).unwrap();
        ModelProto::decode(bytes.as_slice()).unwrap().graph.unwrap()
    }

    #[test]
    fn logits_are_as_wide_as_there_are_labels() {
        use HeadKind::{SequenceClassification, TokenClassification};
        for (name, kind, pooling, labels) in [
            ("llama-reward", SequenceClassification, Pooling::Last, 1),
            ("llama-labels", SequenceClassification, Pooling::Last, 5),
            ("gemma2-reward", SequenceClassification, Pooling::Last, 1),
            ("gemma3-reward", SequenceClassification, Pooling::Last, 1),
            ("mistral-reward", SequenceClassification, Pooling::Last, 1),
            ("qwen2-reward", SequenceClassification, Pooling::Last, 1),
            ("qwen3-reward", SequenceClassification, Pooling::Last, 1),
            ("qwen2-token-labels", TokenClassification, Pooling::None, 3),
            ("qwen2-process-reward", TokenClassification, Pooling::None, 2),
        ] {
            let root = fixture_checkpoint(name);
            let head = export_fixture(root.path()).unwrap().head.unwrap();
            assert_eq!((head.kind, head.pooling, head.labels.len()), (kind, pooling, labels), "{name}");
            let out = root.path().join("out");
            assert_eq!(Head::read(&out).unwrap(), Some(head), "{name}");
            let logits = [Dim::Symbol("batch_size"), Dim::Symbol("sequence_length"), Dim::Size(labels)];
            assert_eq!(graph(&out).output[0], value_info("logits", DataType::Float, &logits), "{name}");
            assert!(out.join("genai_config.json").exists(), "{name}");
        }
    }

    #[test]
    fn heads_that_contradict_the_weights_are_refused_by_name() {
        for (name, field, value, expected) in [
            ("llama-reward", "id2label", json!({"0": "a", "1": "b"}), "`score.weight` has shape [1, 32], but"),
            ("llama-reward", "architectures", json!(["LlamaForTokenClassification"]), "lack `score.bias`"),
            ("llama-reward", "architectures", json!(["LlamaForCausalLM"]), "`score.weight` has no place"),
            (
                "qwen2-token-labels",
                "architectures",
                json!(["Qwen2ForSequenceClassification"]),
                "`score.bias` has no place",
            ),
            ("qwen2-process-reward", "architectures", json!(["Qwen2ForTokenClassification"]), "lack `score.weight`"),
        ] {
            let root = fixture_checkpoint(name);
            change_json(root.path(), "config.json", |config| {
                config["tie_word_embeddings"] = json!(true);
                config[field] = value;
            });
            let error = export_fixture(root.path()).unwrap_err();
            assert!(error.to_string().contains(expected), "{expected:?} is not in {error}");
        }
    }

    #[test]
    fn what_scores_needs_no_token_that_ends_replies() {
        let root = fixture_checkpoint("llama-reward");
        for (file, fields) in [("config.json", vec!["eos_token_id"]), ("tokenizer_config.json", vec!["eos_token"])] {
            change_json(root.path(), file, |config| {
                fields.iter().for_each(|field| drop(config.as_object_mut().unwrap().remove(*field)));
            });
        }
        export_fixture(root.path()).unwrap();
        let folder = crate::model::ModelFolder::open(root.path().join("out")).unwrap();
        assert!(folder.head().is_some());
    }
}
