//! The kind of a graph and the engine's path that runs it, as found in the graph.
//!
//! ```text
//! past_key_values + GroupQueryAttention ──▶ paged, or padded where the rewrite refuses
//! com.microsoft.PagedAttention          ──▶ paged
//! past_key_values, attention decomposed ──▶ padded
//! neither, logits or an embedding       ──▶ classifier
//! ```
//!
//! File names only decide where to look. Sizes and tokens come from `genai_config.json`, otherwise from the
//! checkpoint's `config.json` and `generation_config.json`, and have to agree with the graph. `foreturn inspect` prints
//! the result and the reason. Inputs that no path can feed (encoder outputs, images, LoRA weights, recurrent state,
//! quantised caches) are refused by name.
//!
//! **Paged** packs the tokens of a step without padding (`super::rewrite`).
//!
//! **Padded** runs the file as it is. The executor gathers the rows of a sequence from its blocks into dense
//! `past_key_values` and scatters the new rows of `present` back. So prefixes are shared and forks copy on write here
//! too, but each step copies the whole past twice. Sequences with equal numbers of past and of new tokens fill one
//! batch. If the graph takes both a mask and position ids, shorter pasts are padded on the left with zeros that the
//! mask hides, unless this doubles the work. On SmolLM2, a step of eight sequences of different lengths then takes half
//! to two thirds of the time of eight runs. GroupQueryAttention supports neither left padding nor several new tokens of
//! several sequences, so such sequences run alone. A traced graph knows only the rotary frequencies of short sequences
//! (LongRoPE, dynamic scaling), so its context ends where others would be needed.
//!
//! `batching = "padded"` under `[models.NAME]` asks for this path, so that ONNX Runtime runs the file by itself. Only
//! then do half-precision graphs run as they are. ONNX Runtime rounds after every operator, which costs 2e-2 on the
//! tiny Llama. Otherwise they are first widened to float32 (4e-6).
//!
//! **Classifier** runs texts beside each other, without a cache.
//!
//! docs/reproducibility.md says which bits each path promises.

use std::collections::HashSet;

use prost::Message as _;

use super::config::FolderConfig;
use super::graph::{self, GraphFile};
use super::head::{Head, HeadKind, Pooling};
use super::options::{Batching, Dtype, OpenOptions};
use super::rewrite::precision::{self, Converted, Precision};
use super::rewrite::{self, PagedGraph};
use super::target::Target;
use crate::kernels::matmul::pack::Kind;
use crate::onnx::tensor_proto::DataType;
use crate::onnx::{GraphProto, NodeProto, ValueInfoProto, nodes::MICROSOFT};
use crate::runtime::Provider;
use crate::{Error, ErrorKind, Result};

/// A graph, ready for its path.
pub(crate) enum PreparedGraph {
    Paged(PagedGraph),
    Padded(PaddedGraph),
    Classifier(ClassifierGraph),
}

/// The layout that was found.
pub(crate) struct Layout {
    /// Its name, for people.
    pub(crate) name: &'static str,
    pub(crate) runner: PreparedGraph,
    /// The reason for its path.
    pub(crate) why: String,
    /// The meaning of the rows of logits, if they are not over the vocabulary.
    pub(crate) head: Option<Head>,
    /// The graph in float32, if it had half precision and does not run as it is.
    pub(crate) widened: Option<WidenedGraph>,
}

/// A serialised graph and the weights that it needs in addition to its files.
pub(crate) struct WidenedGraph {
    pub(crate) bytes: Vec<u8>,
    pub(crate) weights: Converted,
}

/// A decoder graph that runs as it is.
#[derive(Debug)]
pub(crate) struct PaddedGraph {
    /// Input `[batch, past + new]`.
    pub(crate) attention_mask: Option<String>,
    /// Input `[batch, new]`.
    pub(crate) position_ids: Option<String>,
    /// Bool input `[1]` of merged graphs that says whether there is a past.
    pub(crate) use_cache_branch: Option<String>,
    /// Scalar input: the number of rows of logits, counted from the end.
    pub(crate) logits_to_keep: Option<Keep>,
    /// Keys and values, layer by layer.
    pub(crate) caches: Vec<CacheTensor>,
    /// GroupQueryAttention takes several new tokens after a past for one sequence only, and no left padding.
    pub(crate) grouped: bool,
    /// Tokens of a cache block.
    pub(crate) block_size: usize,
}

/// The input for the number of rows of logits.
#[derive(Debug, Clone)]
pub(crate) struct Keep {
    pub(crate) name: String,
    /// `[1]` instead of a scalar.
    pub(crate) vector: bool,
}

/// One of a layer's two caches: input `[batch, heads, past, size]`, output `[batch, heads, past + new, size]`.
#[derive(Debug, Clone)]
pub(crate) struct CacheTensor {
    pub(crate) past: String,
    pub(crate) present: String,
    pub(crate) heads: usize,
    pub(crate) size: usize,
    pub(crate) element: DataType,
}

impl CacheTensor {
    /// Bytes of one number.
    pub(crate) fn element_bytes(&self) -> usize {
        if self.element == DataType::Float { 4 } else { 2 }
    }
}

impl PaddedGraph {
    /// Bytes of one block of tokens over all caches.
    pub(crate) fn block_bytes(&self) -> usize {
        self.caches.iter().map(|cache| cache.heads * cache.size * cache.element_bytes() * self.block_size).sum()
    }
}

/// A graph without a cache.
#[derive(Debug)]
pub(crate) struct ClassifierGraph {
    /// Int64 inputs `[batch, sequence]`. An absent name is not an input of the graph.
    pub(crate) input_ids: String,
    pub(crate) attention_mask: Option<String>,
    pub(crate) token_type_ids: Option<String>,
    pub(crate) position_ids: Option<String>,
    /// The output that is read: `[batch, size]`, or `[batch, sequence, size]` if `per_token`.
    pub(crate) output: String,
    pub(crate) per_token: bool,
}

/// Finds the layout of `file`.
///
/// # Errors
/// [`ErrorKind::Unsupported`] with the reason, or [`ErrorKind::InvalidModel`] if graph and configuration contradict
/// each other.
pub(crate) fn detect(file: &GraphFile, config: &FolderConfig, options: OpenOptions, target: Target) -> Result<Layout> {
    let mut layout = find(file, config, options, target)?;
    if let (PreparedGraph::Padded(_), false) = (&layout.runner, target.provider == Provider::Cpu) {
        let (name, why) = (target.provider.as_str(), &layout.why);
        return Err(Error::unsupported(format!(
            "{}: `{name}` runs decoders on the paged path only, and this one is padded: {why}",
            file.path.display()
        )));
    }
    check_dtype(&layout, options.dtype, target)
        .map_err(|why| Error::unsupported(format!("{}: {why}", file.path.display())))?;
    let as_it_is =
        options.batching == Batching::Padded || matches!(layout.runner, PreparedGraph::Paged(_)) || !target.widens;
    if !as_it_is && is_half(file.graph()) {
        let mut model = file.model.clone();
        let weights = precision::convert(model.graph.get_or_insert_default(), Precision::Float32)
            .map_err(|why| Error::unsupported(format!("{}: {why}", file.path.display())))?;
        layout.widened = Some(WidenedGraph { bytes: model.encode_to_vec(), weights });
        if let PreparedGraph::Padded(padded) = &mut layout.runner {
            padded.caches.iter_mut().for_each(|cache| cache.element = DataType::Float);
        }
    }
    Ok(layout)
}

/// Refuses a type of products that nothing would be computed in.
fn check_dtype(layout: &Layout, dtype: Dtype, target: Target) -> Result<(), String> {
    let wanted = match dtype {
        Dtype::Auto => return Ok(()),
        Dtype::Float32 => "float32",
        Dtype::Bfloat16 => "bfloat16",
    };
    let refuse = |why: &str| Err(format!("dtype = \"{wanted}\": {why}; leave it out"));
    if let PreparedGraph::Classifier(_) = layout.runner {
        return refuse("it is for decoders, and this model has no cache");
    }
    if target.provider != Provider::Cpu {
        let name = target.provider.as_str();
        return refuse(&format!("it is for products on the CPU, and `{name}` computes in the type of its cache"));
    }
    let paged = match &layout.runner {
        PreparedGraph::Paged(paged) => paged,
        _ => return refuse(&format!("it needs the paged path, and this model is padded: {}", layout.why)),
    };
    let kinds: HashSet<Kind> = paged.products.iter().map(|product| product.shape.kind).collect();
    match dtype {
        _ if kinds.contains(&Kind::Bytes) || kinds.contains(&Kind::Nibbles) => {
            refuse("the weights are quantised, so its products are not of numbers")
        }
        Dtype::Bfloat16 if !target.takes_products => refuse("this processor lacks AVX2, which it needs"),
        Dtype::Bfloat16 if kinds.is_empty() => refuse("the engine computes none of this graph's products itself"),
        _ => Ok(()),
    }
}

/// Whether anything in `graph` has half precision, which ONNX Runtime computes slowly or not at all on the CPU.
fn is_half(graph: &GraphProto) -> bool {
    let half = |kind| matches!(kind, Some(DataType::Float16 | DataType::Bfloat16));
    graph.input.iter().chain(&graph.output).any(|value| half(graph::element_type(value)))
        || graph.initializer.iter().any(|tensor| half(DataType::try_from(tensor.data_type()).ok()))
}

fn find(file: &GraphFile, config: &FolderConfig, options: OpenOptions, target: Target) -> Result<Layout> {
    let graph = file.graph();
    let refuse = |why: String| Error::unsupported(format!("{}: {why}", file.path.display()));
    let contradiction = |why: String| {
        let folder = config.folder.display();
        Error::invalid_model(format!("{folder}/{why}. Correct it, or export the model again"))
    };
    let has = |op: &str| graph.node.iter().any(|node| node.domain() == MICROSOFT && node.op_type() == op);
    check_token_input(graph, config).map_err(refuse)?;
    if has("PagedAttention") {
        let paged = rewrite::rewrite(file, &config.model, options, target)?;
        let why = "PagedAttention is there already".into();
        let name = "onnxruntime-genai, paged (PagedAttention)";
        return Ok(Layout { name, runner: PreparedGraph::Paged(paged), why, head: config.head.clone(), widened: None });
    }
    let caches = caches(graph, config).map_err(refuse)?;
    if caches.is_empty() {
        return classifier(graph, config).map_err(refuse);
    }
    let padded = padded(graph, config, caches, (has("GroupQueryAttention"), target.block_size)).map_err(refuse)?;
    check_sizes(graph, config, &padded).map_err(contradiction)?;
    let name = if padded.grouped {
        "onnxruntime-genai (GroupQueryAttention)"
    } else if padded.use_cache_branch.is_some() {
        "Optimum, merged (use_cache_branch)"
    } else if padded.logits_to_keep.is_some() {
        "Transformers.js (num_logits_to_keep)"
    } else {
        "Optimum (past_key_values)"
    };
    let (runner, why) = match (padded.grouped, options.batching) {
        (true, Batching::Auto) => match rewrite::rewrite(file, &config.model, options, target) {
            Ok(paged) => {
                (PreparedGraph::Paged(paged), "each GroupQueryAttention was rewritten to paged attention".into())
            }
            Err(e) if e.kind() == ErrorKind::Unsupported && target.provider == Provider::Cpu => {
                (PreparedGraph::Padded(padded), format!("not rewritten: {e}"))
            }
            Err(e) => return Err(e),
        },
        (true, Batching::Padded) => (PreparedGraph::Padded(padded), "asked for by batching = \"padded\"".into()),
        (false, _) => {
            let why = "attention is decomposed into plain operators, which can't be rewritten to paged attention";
            (PreparedGraph::Padded(padded), why.into())
        }
    };
    Ok(Layout { name, runner, why, head: config.head.clone(), widened: None })
}

fn check_token_input(graph: &GraphProto, config: &FolderConfig) -> Result<(), String> {
    let name = &config.model.decoder.inputs.input_ids;
    let Some(input) = graph.input.iter().find(|input| input.name() == name) else {
        let foreign = graph.input.iter().find_map(|input| unsupported_input(input.name()));
        let foreign = foreign.map_or_else(|| "foreturn runs graphs that take token ids".into(), |why| why.to_owned());
        return Err(format!("the graph has no input `{name}`; {foreign}"));
    };
    check_element(input, DataType::Int64)
}

fn check_element(input: &ValueInfoProto, wanted: DataType) -> Result<(), String> {
    match graph::element_type(input) {
        Some(found) if found == wanted => Ok(()),
        found => Err(format!(
            "input `{}` has element type {}; foreturn feeds {}",
            input.name(),
            found.map_or("unknown", |kind| kind.as_str_name()).to_lowercase(),
            wanted.as_str_name().to_lowercase()
        )),
    }
}

/// The reason why no path can feed an input.
fn unsupported_input(name: &str) -> Option<&'static str> {
    let lower = name.to_lowercase();
    let has = |parts: &[&str]| parts.iter().any(|part| lower.contains(part));
    if has(&["encoder_hidden_states", "encoder_attention_mask", "decoder_input_ids", "encoder_outputs"]) {
        Some("encoder-decoder models are not supported")
    } else if has(&["pixel", "image", "vision"]) {
        Some("models that take images are not supported")
    } else if has(&["input_features", "input_values", "audio"]) {
        Some("models that take audio are not supported")
    } else if has(&["inputs_embeds"]) {
        Some("graphs that take embeddings instead of token ids (parts of multimodal models) are not supported")
    } else if has(&["lora"]) {
        Some("LoRA adapters as inputs are not supported; merge the adapter before the export")
    } else if has(&["conv", "ssm", "recurrent", "state"]) {
        Some("models with recurrent state beside keys and values are not supported")
    } else {
        None
    }
}

/// Pairs the inputs that hold keys and values with the outputs that hold the new ones.
fn caches(graph: &GraphProto, config: &FolderConfig) -> Result<Vec<CacheTensor>, String> {
    let (inputs, outputs) = (&config.model.decoder.inputs, &config.model.decoder.outputs);
    let patterns = [
        (inputs.past_key_names.as_str(), outputs.present_key_names.as_str()),
        (inputs.past_value_names.as_str(), outputs.present_value_names.as_str()),
        ("past_key_values.%d.key", "present.%d.key"),
        ("past_key_values.%d.value", "present.%d.value"),
        ("past_key_values.%d.key", "present_key_values.%d.key"),
        ("past_key_values.%d.value", "present_key_values.%d.value"),
    ];
    let given: HashSet<&str> = graph.output.iter().map(|output| output.name()).collect();
    let mut found = Vec::new();
    for input in &graph.input {
        let layers = patterns.iter().filter_map(|(past, present)| Some((layer(input.name(), past)?, present)));
        let Some((first, _)) = layers.clone().next() else { continue };
        let Some((_, present)) =
            layers.map(|(n, present)| (n, present.replace("%d", n))).find(|(_, name)| given.contains(name.as_str()))
        else {
            return Err(format!("input `{}` (layer {first}) has no output with its new rows", input.name()));
        };
        found.push(cache(input, present, config)?);
    }
    Ok(found)
}

/// The layer's number in `name`, if it is `pattern` with a number for `%d`.
fn layer<'a>(name: &'a str, pattern: &str) -> Option<&'a str> {
    let (before, after) = pattern.split_once("%d")?;
    let number = name.strip_prefix(before)?.strip_suffix(after)?;
    (!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())).then_some(number)
}

fn cache(input: &ValueInfoProto, present: String, config: &FolderConfig) -> Result<CacheTensor, String> {
    /// Larger sizes are invalid, and their products would overflow.
    const MOST: i64 = 1 << 16;
    let name = input.name();
    let element = match graph::element_type(input) {
        Some(element @ (DataType::Float | DataType::Float16 | DataType::Bfloat16)) => element,
        Some(other) => {
            return Err(format!(
                "the cache `{name}` has element type {}: quantised caches are not supported",
                other.as_str_name().to_lowercase()
            ));
        }
        None => return Err(format!("the cache `{name}` has no element type")),
    };
    let fixed = |size: Option<i64>| size.filter(|n| (1..=MOST).contains(n)).map(|n| n as usize);
    let dims = graph::dims(input).unwrap_or_default();
    match dims[..] {
        [_, heads, _, size] => match (fixed(heads), fixed(size).or(config.model.decoder.head_size)) {
            (Some(heads), Some(size)) => Ok(CacheTensor { past: name.to_owned(), present, heads, size, element }),
            _ => Err(format!("the cache `{name}` has {heads:?} heads of size {size:?}; both have to be fixed numbers")),
        },
        _ => Err(format!(
            "the cache `{name}` has {} dimensions; foreturn expects [batch, heads, tokens, size]",
            dims.len()
        )),
    }
}

/// Classifies the inputs of a decoder.
fn padded(
    graph: &GraphProto,
    config: &FolderConfig,
    caches: Vec<CacheTensor>,
    (grouped, block_size): (bool, usize),
) -> Result<PaddedGraph, String> {
    let names = &config.model.decoder.inputs;
    let pasts: HashSet<&str> = caches.iter().map(|cache| cache.past.as_str()).collect();
    let defaults: HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name()).collect();
    let mut found = PaddedGraph {
        attention_mask: None,
        position_ids: None,
        use_cache_branch: None,
        logits_to_keep: None,
        caches: Vec::new(),
        grouped,
        block_size,
    };
    for input in &graph.input {
        let name = input.name();
        if name == names.input_ids || pasts.contains(name) || defaults.contains(name) {
            continue;
        }
        let own = || Some(name.to_owned());
        if name == names.attention_mask {
            check_element(input, DataType::Int64)?;
            found.attention_mask = own();
        } else if name == names.position_ids {
            check_element(input, DataType::Int64)?;
            if graph::dims(input).is_some_and(|dims| dims.len() != 2) {
                return Err(format!("input `{name}` is not [batch, tokens]; such position ids are not supported"));
            }
            found.position_ids = own();
        } else if name == "use_cache_branch" {
            check_element(input, DataType::Bool)?;
            found.use_cache_branch = own();
        } else if matches!(name, "num_logits_to_keep" | "logits_to_keep") {
            check_element(input, DataType::Int64)?;
            let vector = graph::dims(input).is_some_and(|dims| dims.len() == 1);
            found.logits_to_keep = Some(Keep { name: name.to_owned(), vector });
        } else {
            let why = unsupported_input(name).unwrap_or("foreturn doesn't know what to feed it");
            return Err(format!("input `{name}`: {why}"));
        }
    }
    output(graph, &config.model.decoder.outputs.logits)
        .ok_or_else(|| format!("the graph has no output `{}`", config.model.decoder.outputs.logits))?;
    found.caches = caches;
    Ok(found)
}

fn output<'a>(graph: &'a GraphProto, name: &str) -> Option<&'a ValueInfoProto> {
    graph.output.iter().find(|output| output.name() == name)
}

/// Refuses configurations that contradict the graph. The message begins with the file's name.
fn check_sizes(graph: &GraphProto, config: &FolderConfig, padded: &PaddedGraph) -> Result<(), String> {
    let file = config.file;
    let width = output(graph, &config.model.decoder.outputs.logits).and_then(graph::last_dim);
    if let Some(width) = width.filter(|&width| width != config.row_width()) {
        let (source, said) = (config.width_source(), config.row_width());
        return Err(format!("{source} is {said}, but the graph gives {width} logits per row"));
    }
    let layers = padded.caches.len() / 2;
    let shared = config.number("num_kv_shared_layers").unwrap_or(0);
    if let Some(said) = config.layers().filter(|said| said.saturating_sub(shared) != layers) {
        return Err(format!("{file}: num_hidden_layers is {said}, but the graph has caches for {layers}"));
    }
    let odd = |said: usize| padded.caches.iter().find(|cache| cache.heads != said);
    if let Some((said, cache)) = config.kv_heads().and_then(|said| Some((said, odd(said)?))) {
        return Err(format!(
            "{file}: num_key_value_heads is {said}, but the cache `{}` has {}",
            cache.past, cache.heads
        ));
    }
    let heads = |node: &NodeProto| node.attribute.iter().find(|a| a.name() == "num_heads").map(|a| a.i());
    let attention = graph.node.iter().filter(|node| node.op_type() == "GroupQueryAttention");
    let Some(said) = config.query_heads() else { return Ok(()) };
    match attention.filter_map(|node| Some((node, heads(node)?))).find(|(_, heads)| *heads != said as i64) {
        Some((node, heads)) => {
            Err(format!("{file}: num_attention_heads is {said}, but node `{}` has {heads}", node.name()))
        }
        None => Ok(()),
    }
}

fn classifier(graph: &GraphProto, config: &FolderConfig) -> Result<Layout, String> {
    let names = &config.model.decoder.inputs;
    let defaults: HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name()).collect();
    if let Some(present) = graph.output.iter().find(|output| output.name().starts_with("present")) {
        return Err(format!(
            "output `{}` has no past among the inputs: the graph only begins texts. Export the model again with the task text-generation-with-past, as one graph",
            present.name()
        ));
    }
    for input in graph.input.iter().filter(|input| !defaults.contains(input.name())) {
        let name = input.name();
        let known = [names.input_ids.as_str(), &names.attention_mask, &names.position_ids, "token_type_ids"];
        if !known.contains(&name) {
            let why = unsupported_input(name).unwrap_or("foreturn doesn't know what to feed it");
            return Err(format!("input `{name}`: {why}"));
        }
        check_element(input, DataType::Int64)?;
    }
    let takes = |name: &str| graph.input.iter().any(|input| input.name() == name).then(|| name.to_owned());
    let (output, head) = classifier_head(graph, config)?;
    let per_token = head.kind == HeadKind::TokenClassification || head.pooling != Pooling::None;
    let runner = PreparedGraph::Classifier(ClassifierGraph {
        input_ids: names.input_ids.clone(),
        attention_mask: takes(&names.attention_mask),
        token_type_ids: takes("token_type_ids"),
        position_ids: takes(&names.position_ids),
        output: output.name().to_owned(),
        per_token,
    });
    let name = match head.kind {
        HeadKind::SequenceClassification => "sequence classification",
        HeadKind::TokenClassification => "token classification",
        HeadKind::Embedding => "sentence embedding",
    };
    let why = format!("the graph keeps no keys and values and gives `{}`", output.name());
    Ok(Layout { name, runner, why, head: Some(head), widened: None })
}

/// The output that is read, and the meaning of its numbers.
fn classifier_head<'a>(graph: &'a GraphProto, config: &FolderConfig) -> Result<(&'a ValueInfoProto, Head), String> {
    let find = |names: &[&str]| names.iter().find_map(|name| output(graph, name));
    let logits = find(&[&config.model.decoder.outputs.logits, "logits"]);
    let embedding = find(&["sentence_embedding"]);
    let states = find(&["last_hidden_state", "token_embeddings"]);
    let Some(output) = logits.or(embedding).or(states) else {
        let names: Vec<&str> = graph.output.iter().map(|output| output.name()).collect();
        return Err(format!("none of its outputs ({}) are logits or an embedding", names.join(", ")));
    };
    let (rank, width) = (graph::dims(output).map(|dims| dims.len()), graph::last_dim(output));
    let head = match (&config.head, logits.is_some()) {
        (Some(head), _) => head.clone(),
        (None, true) => {
            let rank = rank.ok_or_else(|| format!("output `{}` has no shape", output.name()))?;
            if rank == 3 && config.is_language_model() {
                return Err(
                    "a language model exported without keys and values; export it with the task text-generation-with-past"
                        .into(),
                );
            }
            config.classification_head(rank == 3, width)?
        }
        (None, false) => {
            let size = width.ok_or_else(|| format!("the size of output `{}` is not a fixed number", output.name()))?;
            let (pooling, normalize) = match embedding {
                Some(_) => (Pooling::None, false),
                None => config.sentence_pooling()?,
            };
            let labels = Vec::new();
            Head { kind: HeadKind::Embedding, labels, pooling, normalize, size, max_length: None, pad_token_id: None }
        }
    };
    let per_token = head.kind == HeadKind::TokenClassification || (logits.is_none() && embedding.is_none());
    let wanted = if per_token { 3 } else { 2 };
    if rank.is_some_and(|rank| rank != wanted) {
        return Err(format!("output `{}` has {} dimensions, not {wanted}", output.name(), rank.unwrap_or(0)));
    }
    match width {
        Some(width) if width != head.size => {
            Err(format!("head.size is {}, but output `{}` has {width} numbers per row", head.size, output.name()))
        }
        _ => Ok((output, head)),
    }
}
