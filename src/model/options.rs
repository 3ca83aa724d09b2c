//! What a caller may choose of how a folder runs, and the path that it has then.

/// The way in which a decoder's sequences share a run of the model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Batching {
    /// Packed if the graph can be rewritten for it, otherwise padded.
    #[default]
    Auto,
    /// The graph as it is, in ONNX Runtime: slower, and without the promise of equal bits.
    Padded,
}

/// The numbers in which products with weights that are not quantised are computed, on the CPU and on the paged path.
/// Sums are always float32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Dtype {
    /// That of the weights: bfloat16 for an export in bfloat16, otherwise float32.
    #[default]
    Auto,
    /// float32.
    Float32,
    /// bfloat16, to which weights and inputs are rounded. It takes half the memory, and half the time on processors that
    /// multiply pairs of it (AVX-512 BF16).
    Bfloat16,
}

/// The element type in which a paged decoder keeps keys and values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CacheType {
    /// Bytes if the weights are quantised and the processor multiplies bytes (AVX-512 VNNI), bfloat16 if products are in
    /// bfloat16 and the processor multiplies pairs of it (AVX-512 BF16), otherwise float32.
    #[default]
    Auto,
    /// float32.
    Float32,
    /// bfloat16, which takes half the memory; only on processors that multiply pairs of it (AVX-512 BF16).
    Bfloat16,
    /// Bytes, with a scale for each token and head, which take little more than a quarter of the memory. Slow on
    /// processors that don't multiply bytes.
    Int8,
}

/// Options for running a model folder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// The batching of a decoder's sequences.
    pub batching: Batching,
    /// The element type of its cache, on the paged path.
    pub cache_type: CacheType,
    /// The numbers of its products, on the paged path and the CPU.
    pub dtype: Dtype,
}

/// The path that runs a model folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ModelKind {
    /// A decoder, rewritten to packed steps over the paged cache. A language model, or one with a [`Head`](super::Head).
    PagedDecoder,
    /// A decoder whose graph runs as it is, with keys and values passed in and out. A language model, or one with a
    /// [`Head`](super::Head).
    PaddedDecoder,
    /// A graph without a cache that scores or embeds whole texts.
    Classifier,
}
