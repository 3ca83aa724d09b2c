//! A description of a model folder, for people and for the promise of equal bits.

use std::collections::BTreeMap;

use serde::Serialize;

use super::layout::PreparedGraph;
use super::target::Cache;
use super::{Head, ModelFolder, tensor};
use crate::kernels::attention::layout::Stored;
use crate::onnx::tensor_proto::DataType;
use crate::onnx::{GraphProto, tensor_proto};
use crate::runtime::ProviderReport;

/// The result of `foreturn inspect`.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Inspection {
    /// File layout, as found in the graph.
    pub layout: &'static str,
    /// The engine's path that runs it.
    pub path: &'static str,
    /// The reason for that path.
    pub reason: String,
    /// The meaning of its output, if this is not a language model's logits.
    pub head: Option<Head>,
    /// Architecture named by the folder's configuration.
    pub architecture: String,
    /// Transformer layers, if known.
    pub layers: Option<usize>,
    /// Query heads per layer, if known.
    pub query_heads: Option<usize>,
    /// Key-value heads per layer, if there is a cache.
    pub kv_heads: Option<usize>,
    /// Size of a head, if there is a cache.
    pub head_size: Option<usize>,
    /// Element type of the cache, if there is one.
    pub kv_type: Option<String>,
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Maximum number of tokens in a sequence.
    pub context_length: usize,
    /// Tokens that end a turn.
    pub stop_tokens: Vec<u32>,
    /// Bytes of key-value cache per token.
    pub kv_bytes_per_token: usize,
    /// Bytes of weights by element type.
    pub weights: BTreeMap<String, u64>,
    /// Bytes of the weights in half precision that are widened to float32 when the model is loaded, because something needs
    /// that.
    pub widened_bytes: u64,
    /// Hash of the graph and of samples of its weights.
    pub fingerprint: String,
    /// Whether equal inputs and seeds give equal bits, whatever else is in the batch.
    pub bitwise: bool,
    /// The reasons why not, by node kind; empty if `bitwise` is true.
    pub bitwise_exceptions: Vec<String>,
    /// The provider that would run it, and why not those that were preferred.
    pub provider: ProviderReport,
}

pub(super) fn inspect(folder: &ModelFolder) -> Inspection {
    let config = folder.config();
    let layout = folder.layout();
    let (path, attention, exceptions) = match &layout.runner {
        PreparedGraph::Paged(paged) => {
            let shape = paged.shape;
            let kind = match paged.cache {
                Cache::Host(Stored::Int8) => DataType::Int8,
                cache => cache.data_type(),
            };
            let attention = (shape.layers, Some(shape.query_heads), shape.kv_heads, shape.head_size, kind);
            ("paged", Some(attention), paged.bitwise_exceptions.clone())
        }
        PreparedGraph::Padded(padded) => {
            let exception = "the padded path: rows depend on the lengths and the number of sequences in a run";
            let attention = padded
                .caches
                .first()
                .map(|cache| (padded.caches.len() / 2, config.query_heads(), cache.heads, cache.size, cache.element));
            ("padded", attention, vec![exception.to_owned()])
        }
        PreparedGraph::Classifier(_) => {
            let exception = "the classifier path: rows depend on the lengths and the number of texts in a run";
            ("classifier", None, vec![exception.to_owned()])
        }
    };
    Inspection {
        layout: layout.name,
        path,
        reason: layout.why.clone(),
        head: folder.head().cloned(),
        architecture: config.model.kind.clone(),
        layers: attention.map(|(layers, ..)| layers).or_else(|| config.layers()),
        query_heads: attention.map_or_else(|| config.query_heads(), |(_, query, ..)| query),
        kv_heads: attention.map(|(_, _, kv, ..)| kv),
        head_size: attention.map(|(_, _, _, size, _)| size),
        kv_type: attention.map(|(.., kind)| kind.as_str_name().to_lowercase()),
        vocab_size: config.model.vocab_size,
        context_length: folder.context_length(),
        stop_tokens: folder.stop_tokens(),
        kv_bytes_per_token: folder.block_bytes() / folder.block_size(),
        weights: weights(folder.file().graph()),
        widened_bytes: match &layout.runner {
            PreparedGraph::Paged(paged) => paged.converted.bytes(),
            PreparedGraph::Padded(_) | PreparedGraph::Classifier(_) => {
                layout.widened.as_ref().map_or(0, |widened| widened.weights.bytes())
            }
        },
        fingerprint: folder.fingerprint().to_owned(),
        bitwise: exceptions.is_empty(),
        bitwise_exceptions: exceptions,
        provider: folder.provider().clone(),
    }
}

fn weights(graph: &GraphProto) -> BTreeMap<String, u64> {
    let mut bytes = BTreeMap::new();
    for tensor in &graph.initializer {
        let kind = tensor_proto::DataType::try_from(tensor.data_type()).unwrap_or(tensor_proto::DataType::Undefined);
        *bytes.entry(kind.as_str_name().to_lowercase()).or_insert(0) += tensor::bytes(tensor).unwrap_or(0);
    }
    bytes
}
