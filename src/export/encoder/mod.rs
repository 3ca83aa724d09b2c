//! Encoders, with heads that score a text or each of its tokens, or as sentence embeddings.
//!
//! ```text
//! input_ids, attention_mask ─ bert │ deberta │ modernbert ─▶ hidden states ─ features, `classifier` ──▶ logits
//! [batch, sequence]                                                        └ sentence ──▶ sentence_embedding
//! ```
//!
//! Texts of a batch are padded on the right. Padding changes no score: no token attends to it, and pooling leaves it
//! out.

mod bert;
mod blocks;
mod deberta;
mod disentangled;
mod modernbert;
pub(super) mod sentence;
#[cfg(test)]
mod tests;

use self::blocks::Blocks;
use super::checkpoint::Checkpoint;
use super::config::Config;
use super::graph::{Graph, Size};
use super::head::{LABEL_FIELDS, labels};
use super::names;
use super::quantize::Scheme;
use super::rope::Rope;
use crate::Result;
use crate::model::head::{Head, HeadKind, Pooling};
use crate::onnx::nodes::{Dim, value_info};
use crate::onnx::tensor_proto::DataType;

/// A class of transformers that is an encoder.
pub(super) struct Class {
    pub(super) name: &'static str,
    family: &'static Family,
    kind: HeadKind,
}

pub(super) const CLASSES: &[Class] = &[
    Class::of("BertForSequenceClassification", &bert::FAMILY, HeadKind::SequenceClassification),
    Class::of("BertForTokenClassification", &bert::FAMILY, HeadKind::TokenClassification),
    Class::of("BertModel", &bert::FAMILY, HeadKind::Embedding),
    Class::of("DebertaV2ForSequenceClassification", &deberta::FAMILY, HeadKind::SequenceClassification),
    Class::of("DebertaV2ForTokenClassification", &deberta::FAMILY, HeadKind::TokenClassification),
    Class::of("DebertaV2Model", &deberta::FAMILY, HeadKind::Embedding),
    Class::of("ModernBertForSequenceClassification", &modernbert::FAMILY, HeadKind::SequenceClassification),
    Class::of("ModernBertForTokenClassification", &modernbert::FAMILY, HeadKind::TokenClassification),
    Class::of("ModernBertModel", &modernbert::FAMILY, HeadKind::Embedding),
];

/// A design of encoders.
struct Family {
    /// The prefix that classes with a head put before the names of the encoder's own weights.
    prefix: &'static str,
    /// Reads the configuration, refusing by name what the graph would get wrong, and writes all layers; the encoder's
    /// weights begin with the text given.
    body: for<'a> fn(&'a Checkpoint, Scheme, &str) -> Result<Body<'a>>,
    /// Turns hidden states into the classifier's input: one row for each text or, for a token classifier, for each
    /// token.
    features: fn(&mut Blocks<'_>, &Config, HeadKind, &str, &str) -> Result<String>,
    /// Weights that a checkpoint may hold although the class does not use them, named without the prefix.
    unused: &'static [&'static str],
}

/// An encoder's layers.
struct Body<'a> {
    blocks: Blocks<'a>,
    /// The last hidden states.
    states: String,
    layers: usize,
    /// The most tokens of a text, if the number of positions is limited.
    positions: Option<usize>,
    ropes: Vec<Rope>,
}

/// An encoder's graph and what goes with it.
pub(super) struct Encoder<'a> {
    pub(super) graph: Graph<'a>,
    pub(super) head: Head,
    pub(super) layers: usize,
    pub(super) ropes: Vec<Rope>,
    /// Rows of the rotary tables.
    pub(super) positions: usize,
}

impl Class {
    const fn of(name: &'static str, family: &'static Family, kind: HeadKind) -> Self {
        Class { name, family, kind }
    }

    /// Reads the configuration and builds the graph.
    pub(super) fn read<'a>(&self, checkpoint: &'a Checkpoint, scheme: Scheme) -> Result<Encoder<'a>> {
        // A bare encoder is saved without the prefix, unless it was cut out of a class with a head.
        let prefix = self.family.prefix;
        let is_prefixed = checkpoint.tensors.keys().any(|name| name.starts_with(prefix));
        let prefix = if is_prefixed { prefix } else { "" };
        let body = (self.family.body)(checkpoint, scheme, prefix)?;
        let Body { mut blocks, states, layers, positions, ropes } = body;
        let head = match self.kind {
            HeadKind::Embedding => sentence::write(&mut blocks, checkpoint, &states, positions)?,
            kind => self.classify(&mut blocks, &checkpoint.config, kind, prefix, &states, positions)?,
        };
        declare(&mut blocks, &head);
        let unused = |name: &str| {
            let inner = name.strip_prefix(prefix).unwrap_or(name);
            names::is_head(name) || self.family.unused.iter().any(|unused| inner.starts_with(unused))
        };
        let graph = blocks.builder.finish(unused)?;
        Ok(Encoder { graph, head, layers, ropes, positions: positions.unwrap_or(0) })
    }

    fn classify(
        &self,
        blocks: &mut Blocks<'_>,
        config: &Config,
        kind: HeadKind,
        prefix: &str,
        states: &str,
        positions: Option<usize>,
    ) -> Result<Head> {
        let labels = labels(config)?;
        let features = (self.family.features)(blocks, config, kind, prefix, states)?;
        let out = Size::new(labels.len(), LABEL_FIELDS);
        let logits = blocks.exact("classifier", &features, out, blocks.hidden, true)?;
        blocks.builder.rename(&logits, LOGITS);
        Ok(Head {
            kind,
            size: labels.len(),
            labels,
            // The graph pools. Token classifiers need no pooling.
            pooling: Pooling::None,
            normalize: false,
            max_length: positions,
            pad_token_id: None,
        })
    }
}

const LOGITS: &str = "logits";
const EMBEDDING: &str = "sentence_embedding";

/// Declares inputs and output.
fn declare(blocks: &mut Blocks<'_>, head: &Head) {
    let (batch, sequence) = (Dim::Symbol("batch_size"), Dim::Symbol("sequence_length"));
    let graph = &mut blocks.builder.proto;
    for name in ["input_ids", "attention_mask", "token_type_ids"] {
        if graph.node.iter().any(|node| node.input.iter().any(|input| input == name)) {
            graph.input.push(value_info(name, DataType::Int64, &[batch, sequence]));
        }
    }
    let size = Dim::Size(head.size);
    let output = match head.kind {
        HeadKind::SequenceClassification => value_info(LOGITS, DataType::Float, &[batch, size]),
        HeadKind::TokenClassification => value_info(LOGITS, DataType::Float, &[batch, sequence, size]),
        HeadKind::Embedding => value_info(EMBEDDING, DataType::Float, &[batch, size]),
    };
    graph.output.push(output);
}

/// A field's size, for shapes and messages.
fn size(config: &Config, field: &'static [&'static str; 1]) -> Result<Size> {
    Ok(Size::new(config.size(field[0])?, field))
}
