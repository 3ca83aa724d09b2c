//! What a model folder holds, for people and for the promise of equal bits.

use std::collections::BTreeMap;

use serde::Serialize;

use super::layout::Runner;
use super::{Head, ModelFolder};
use crate::decode::attention::BLOCK_SIZE;
use crate::onnx::tensor_proto::DataType;
use crate::onnx::{GraphProto, NodeProto, tensor_proto};

/// The result of `foreturn inspect`.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// File layout, by what the graph holds.
    pub layout: &'static str,
    /// Which path of the engine runs it.
    pub path: &'static str,
    /// Why that path.
    pub reason: String,
    /// What its output means, where that is not a language model's logits.
    pub head: Option<Head>,
    /// Architecture named by the folder's configuration.
    pub architecture: String,
    /// Transformer layers, where known.
    pub layers: Option<usize>,
    /// Query heads a layer, where known.
    pub query_heads: Option<usize>,
    /// Key-value heads a layer, where there is a cache.
    pub kv_heads: Option<usize>,
    /// Dimensions of a head, where there is a cache.
    pub head_size: Option<usize>,
    /// Element type of the cache, where there is one.
    pub kv_type: Option<String>,
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Most tokens of a sequence.
    pub context_length: usize,
    /// Tokens that end a turn.
    pub stop_tokens: Vec<u32>,
    /// Bytes of key-value cache a token takes.
    pub kv_bytes_per_token: usize,
    /// Bytes of weights by element type.
    pub weights: BTreeMap<String, u64>,
    /// Hash of the graph and of samples of its weights.
    pub fingerprint: String,
    /// Whether equal inputs and seeds give equal bits, whatever else is in the batch.
    pub bitwise: bool,
    /// Why not, node kind by node kind; empty where `bitwise` is true.
    pub bitwise_exceptions: Vec<String>,
}

pub(super) fn inspect(folder: &ModelFolder) -> Inspection {
    let config = folder.config();
    let layout = folder.layout();
    let (path, attention, exceptions) = match &layout.runner {
        Runner::Paged(paged) => {
            let shape = paged.shape;
            let attention = (shape.layers, Some(shape.query_heads), shape.kv_heads, shape.head_size, DataType::Float);
            ("paged", Some(attention), bitwise_exceptions(folder.file().graph()))
        }
        Runner::Padded(padded) => {
            let exception = "the padded path: rows depend on the lengths and the number of sequences in a run";
            let attention = padded.caches.first().map(|cache| {
                (padded.caches.len() / 2, config.number("num_attention_heads"), cache.heads, cache.size, cache.element)
            });
            ("padded", attention, vec![exception.to_owned()])
        }
        Runner::Classifier(_) => {
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
        query_heads: attention.map_or_else(|| config.number("num_attention_heads"), |(_, query, ..)| query),
        kv_heads: attention.map(|(_, _, kv, ..)| kv),
        head_size: attention.map(|(_, _, _, size, _)| size),
        kv_type: attention.map(|(.., kind)| kind.as_str_name().to_lowercase()),
        vocab_size: config.model.vocab_size,
        context_length: folder.context_length(),
        stop_tokens: folder.stop_tokens(),
        kv_bytes_per_token: folder.block_bytes() / BLOCK_SIZE,
        weights: weights(folder.file().graph()),
        fingerprint: folder.fingerprint().to_owned(),
        bitwise: exceptions.is_empty(),
        bitwise_exceptions: exceptions,
    }
}

fn weights(graph: &GraphProto) -> BTreeMap<String, u64> {
    let mut bytes = BTreeMap::new();
    for tensor in &graph.initializer {
        let kind = tensor_proto::DataType::try_from(tensor.data_type()).unwrap_or(tensor_proto::DataType::Undefined);
        let elements: i64 = tensor.dims.iter().product();
        let size = match kind {
            tensor_proto::DataType::Float | tensor_proto::DataType::Int32 => 4,
            tensor_proto::DataType::Float16 | tensor_proto::DataType::Bfloat16 => 2,
            tensor_proto::DataType::Int64 | tensor_proto::DataType::Double => 8,
            _ => 1,
        };
        *bytes.entry(kind.as_str_name().to_lowercase()).or_insert(0) += elements.max(0) as u64 * size;
    }
    bytes
}

/// Operators whose rows were found to depend on the rows beside them, or were not probed.
///
/// A row of these products was equal to the last bit for 1 to 64 rows: float32 with a constant right side, and
/// MatMulNBits at accuracy level 4 with 4 bits in blocks of 32 or 8 bits in blocks of 32 or 64. Operators that work
/// element by element or row by row are fine by construction.
fn bitwise_exceptions(graph: &GraphProto) -> Vec<String> {
    const ROW_BY_ROW: &[&str] = &[
        "Add",
        "Cast",
        "Constant",
        "Div",
        "FusedMatMul",
        "Gather",
        "GatherBlockQuantized",
        "Gelu",
        "Gemm",
        "GroupQueryAttention",
        "Identity",
        "LayerNormalization",
        "MatMul",
        "Mul",
        "ReduceSum",
        "Reshape",
        "RotaryEmbedding",
        "Shape",
        "Sigmoid",
        "SimplifiedLayerNormalization",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
        "Slice",
        "Split",
        "Squeeze",
        "Sub",
        "Tanh",
        "Transpose",
        "Unsqueeze",
    ];
    let mut exceptions: Vec<String> = Vec::new();
    for node in &graph.node {
        let op = node.op_type();
        let exception = match op {
            "MatMulNBits" => quantised_exception(node),
            _ if ROW_BY_ROW.contains(&op) => None,
            _ => Some(format!("{op}: not shown to give the same bits in any batch")),
        };
        if let Some(exception) = exception.filter(|exception| !exceptions.contains(exception)) {
            exceptions.push(exception);
        }
    }
    exceptions
}

fn quantised_exception(node: &NodeProto) -> Option<String> {
    let attribute = |name: &str| node.attribute.iter().find(|a| a.name() == name).map(|a| a.i());
    let (bits, block) = (attribute("bits").unwrap_or(4), attribute("block_size").unwrap_or(0));
    let level = attribute("accuracy_level").unwrap_or(0);
    let probed = level == 4 && matches!((bits, block), (4, 32) | (8, 32) | (8, 64));
    (!probed).then(|| {
        format!("MatMulNBits with {bits} bits, block {block}, accuracy level {level}: rows depend on the batch")
    })
}
