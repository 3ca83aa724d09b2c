//! The tensors of a model in memory, such as a trainer's, in the form in which an export of that model has them.
//!
//! An export's initialisers have the checkpoint's names, or such a name with `_quants`, `_scales`, `_zero_points` or `_table`
//! behind it. So its graph says which tensors it takes, and in what form. What comes out has the bits of an export of
//! the same tensors.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use super::adapter::{self, Adapter, Lora, Parts, Piece, twice};
use super::checkpoint::{RowOrder, Tensor, WeightFile};
use super::format::{self, Format};
use super::names;
use super::narrow;
use super::quantize::{self, Layout, Names, Packed};
use crate::finite::Refused;
use crate::model::ModelFolder;
use crate::model::rewrite::graph::Attributes;
use crate::model::rewrite::precision::Precision;
use crate::model::source::{Kept, Source};
use crate::model::tensor::entry;
use crate::onnx::{GraphProto, NodeProto, TensorProto};
use crate::{Error, Result};

/// The type of a tensor's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TensorType {
    /// float32
    Float32,
    /// bfloat16
    Bfloat16,
    /// float16
    Float16,
}

impl TensorType {
    pub(super) fn precision(self) -> Precision {
        match self {
            TensorType::Float32 => Precision::Float32,
            TensorType::Bfloat16 => Precision::Bfloat16,
            TensorType::Float16 => Precision::Float16,
        }
    }
}

/// The form in which a checkpoint stores such numbers.
fn format(precision: Precision) -> &'static Format {
    match precision {
        Precision::Float32 => &format::F32,
        Precision::Bfloat16 => &format::BF16,
        Precision::Float16 => &format::F16,
    }
}

/// A tensor in memory.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct NamedTensor<'a> {
    /// Its name in the model's state dict. What wrappers put before it (`module.`, `_orig_mod.`,
    /// `_fsdp_wrapped_module.`) may be there.
    pub name: &'a str,
    /// The type of its numbers.
    pub kind: TensorType,
    /// Its dimensions, the outermost first.
    pub shape: &'a [usize],
    /// Its numbers, little-endian, rows one after the other.
    pub data: &'a [u8],
}

impl<'a> NamedTensor<'a> {
    /// A tensor of `shape`.
    pub fn new(name: &'a str, kind: TensorType, shape: &'a [usize], data: &'a [u8]) -> Self {
        NamedTensor { name, kind, shape, data }
    }
}

/// A tensor that was checked against the graph.
struct Given<'a> {
    tensor: Tensor,
    data: &'a [u8],
}

impl Given<'_> {
    fn check(&self, refused: Refused) -> Result<()> {
        self.tensor.check(self.data, refused).map_err(Error::invalid_model)
    }
}

/// The form in which a graph has a tensor.
#[derive(Debug, Clone, Copy)]
enum Form {
    Float32,
    /// A matrix that the graph widens.
    Half(Precision),
    /// One of the parts that a packed matrix has.
    Packed(Layout, Part),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Part {
    Scales,
    Quants,
    ZeroPoints,
}

/// What new weights are made of, beside the tensors of a live model: an adapter, and its base where no tensors are given.
pub(crate) struct Refreshed {
    adapter: Option<Lora>,
    /// The mapped files of the folder's own weights.
    base: Option<BTreeMap<String, WeightFile>>,
}

impl Refreshed {
    /// Opens what is needed of files. `from_folder` says that the weights of `folder` are the adapter's base.
    ///
    /// # Errors
    /// A file can't be read; the adapter is not supported; the folder's weights are quantised.
    pub(crate) fn open(folder: &ModelFolder, adapter: Option<&Adapter>, from_folder: bool) -> Result<Self> {
        let adapter = adapter.map(Lora::read).transpose()?;
        let base = from_folder.then(|| own_files(folder)).transpose()?;
        Ok(Refreshed { adapter, base })
    }

    /// Refuses what was made of files that were written to meanwhile.
    pub(crate) fn check(&self) -> Result<()> {
        let base = self.base.iter().flat_map(BTreeMap::values);
        base.chain(self.adapter.iter().flat_map(Lora::files)).try_for_each(WeightFile::check)
    }
}

/// Tensors in the place of an export's files of weights.
pub(crate) struct GivenWeights<'a> {
    /// By the names of the checkpoint.
    given: HashMap<String, Given<'a>>,
    /// The initialisers that are weights: the tensor, and its form.
    forms: HashMap<String, (String, Form)>,
    /// For what is no weight: tables of rotary embeddings.
    files: Kept<'a>,
}

impl<'a> GivenWeights<'a> {
    /// Finds the weights of `folder`'s graph among `tensors`, or in `more`.
    ///
    /// # Errors
    /// The folder is not an export of this library, or one of Gemma from GGUF; a tensor is missing, has another shape, is there
    /// twice, or has no place in the graph. The message names it.
    pub(crate) fn new(folder: &'a ModelFolder, tensors: &[NamedTensor<'a>], more: &'a Refreshed) -> Result<Self> {
        check_origin(folder)?;
        let graph = folder.file().graph();
        let mut given = match (&more.adapter, &more.base) {
            (None, _) => by_name(tensors)?,
            (Some(lora), None) => merged(graph, Parts::sort(pieces(tensors)?.into_iter())?, lora)?,
            (Some(lora), Some(files)) => merged(graph, Parts::sort(own_pieces(graph, files).into_iter())?, lora)?,
        };
        let packed = packed_matrices(graph);
        let mut forms = HashMap::new();
        let mut used = HashSet::new();
        for initialiser in graph.initializer.iter().filter(|tensor| is_weight(tensor)) {
            let name = initialiser.name();
            let (base, form) = match packed.get(name) {
                Some((base, bits, block, part)) => (base.clone(), Some((*bits, *block, *part))),
                None => (name.to_owned(), None),
            };
            let Some(Given { tensor, .. }) = given.get(&base) else { return Err(missing(folder, &base, given.keys())) };
            let form = match form {
                None => match Precision::of(initialiser.data_type()) {
                    Some(half @ (Precision::Float16 | Precision::Bfloat16)) => Form::Half(half),
                    _ => Form::Float32,
                },
                Some((bits, block, part)) => Form::Packed(layout(tensor, bits, block, &base, &packed), part),
            };
            check_shape(initialiser, tensor, form)?;
            used.insert(base.clone());
            forms.insert(name.to_owned(), (base, form));
        }
        refuse_left_over(&mut given, &used)?;
        Ok(GivenWeights { given, forms, files: Kept(folder.file()) })
    }

    fn tensor(&self, name: &str) -> Option<(&Given<'a>, Form)> {
        let (base, form) = self.forms.get(name)?;
        Some((self.given.get(base)?, *form))
    }

    /// The bytes of a packed matrix: scales, quants, zero points.
    fn pack(&self, given: &Given<'_>, layout: &Layout) -> Result<[Vec<u8>; 3]> {
        given.check(Refused::Huge)?;
        let Packed { scales, quants, zero_points } = quantize::pack(&given.tensor, given.data, layout)
            .map_err(|error| Error::internal(format!("`{}` can't be packed: {error}", given.tensor.origin)))?;
        Ok([scales, quants, zero_points])
    }

    fn halves(&self, given: &Given<'a>, to: Precision) -> Result<Cow<'a, [u8]>> {
        given.check(Refused::NonFinite)?;
        narrow::check(to, &given.tensor, given.data)?;
        let mut bytes = Vec::with_capacity(given.tensor.elements() * size_of::<u16>());
        let written = narrow::write(to, &given.tensor, given.data, &mut bytes);
        written.map_err(|error| Error::internal(format!("`{}` can't be rounded: {error}", given.tensor.origin)))?;
        Ok(bytes.into())
    }

    fn floats(&self, given: &Given<'a>) -> Result<Cow<'a, [u8]>> {
        given.check(Refused::NonFinite)?;
        if given.tensor.is_plain_float32() {
            return Ok(given.data.into());
        }
        let mut bytes = Vec::with_capacity(given.tensor.elements() * size_of::<f32>());
        let written = given.tensor.write_float32(given.data, &mut bytes);
        written.map_err(|error| Error::internal(format!("`{}` can't be widened: {error}", given.tensor.origin)))?;
        Ok(bytes.into())
    }
}

impl Source for GivenWeights<'_> {
    fn read(&self, tensors: &[TensorProto]) -> Result<Vec<Cow<'_, [u8]>>> {
        let mut packed: Option<[Vec<u8>; 3]> = None;
        let mut read = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            match self.tensor(tensor.name()) {
                None => read.extend(self.files.read(std::slice::from_ref(tensor))?),
                Some((given, Form::Float32)) => read.push(self.floats(given)?),
                Some((given, Form::Half(to))) => read.push(self.halves(given, to)?),
                Some((given, Form::Packed(layout, part))) => {
                    // The tensors of one call are of one matrix.
                    let parts = match &mut packed {
                        Some(parts) => parts,
                        None => packed.insert(self.pack(given, &layout)?),
                    };
                    read.push(std::mem::take(&mut parts[part as usize]).into());
                }
            }
        }
        Ok(read)
    }
}

/// Refuses graphs that would take tensors of these names and shapes for something else.
fn check_origin(folder: &ModelFolder) -> Result<()> {
    let (model, kind) = (&folder.file().model, &folder.config().model.kind);
    let refuse = |why: &str| {
        let path = folder.path().display();
        Err(Error::unsupported(format!("{path} {why}. Export the checkpoint, and give the folder of the export")))
    };
    if model.producer_name() != env!("CARGO_PKG_NAME") {
        // Others may transpose a weight under its name.
        return refuse("is not an export of this library, so its weights may lie in another order");
    }
    // A graph adds one to the weights of Gemma's norms. GGUF has them with the one.
    let adds_one = |node: &NodeProto| node.op_type() == "Add" && node.name().ends_with("/weight/Add");
    match kind.starts_with("gemma") && !folder.file().graph().node.iter().any(adds_one) {
        true => refuse("was exported from GGUF, where the weights of Gemma's norms are others than in a state dict"),
        false => Ok(()),
    }
}

/// Tensors as they are named, whose sizes fit.
fn pieces<'a>(tensors: &[NamedTensor<'a>]) -> Result<Vec<(String, Piece<'a>)>> {
    let mut pieces = Vec::with_capacity(tensors.len());
    for NamedTensor { name, kind, shape, data } in tensors {
        let (format, origin) = (format(kind.precision()), (*name).to_owned());
        let elements = shape.iter().try_fold(1_usize, |all, dim| all.checked_mul(*dim));
        let bytes = elements.and_then(|elements| elements.checked_mul(format.block_bytes));
        if bytes != Some(data.len()) {
            let message = format!("tensor `{name}` of shape {shape:?} has {} bytes", data.len());
            return Err(Error::invalid_request(message));
        }
        let (shape, bytes) = (shape.to_vec(), data.len());
        let tensor = Tensor { format, shape, file: 0, offset: 0, bytes, origin, rows: RowOrder::Standard, delta: None };
        pieces.push(((*name).to_owned(), (tensor, *data)));
    }
    Ok(pieces)
}

/// Tensors by the names of a checkpoint.
fn by_name<'a>(tensors: &[NamedTensor<'a>]) -> Result<HashMap<String, Given<'a>>> {
    let mut given = HashMap::new();
    for (name, (tensor, data)) in pieces(tensors)? {
        if let Some(first) = given.insert(names::of_live_model(&name)?, Given { tensor, data }) {
            return Err(twice(&name, &first.tensor));
        }
    }
    Ok(given)
}

/// The tensors of a model with those of an adapter merged into them. The adapter is in its own file, or among `parts`.
fn merged<'a>(graph: &GraphProto, mut parts: Parts<'a>, lora: &'a Lora) -> Result<HashMap<String, Given<'a>>> {
    if lora.has_weights() && !parts.lacks_adapter() {
        let why = "the adapter's folder has weights, and so has the state dict (`lora_A`, `modules_to_save`): give the \
                   state dict without them, or the adapter's configuration alone";
        return Err(Error::invalid_request(why));
    }
    parts.add(lora.parts()?);
    let mut given: HashMap<String, Given<'a>> = HashMap::new();
    for (name, (tensor, data)) in std::mem::take(&mut parts.weights) {
        // A tensor of a file begins somewhere in it.
        let data = &data[tensor.offset..tensor.offset + tensor.bytes];
        given.insert(name, Given { tensor: Tensor { offset: 0, ..tensor }, data });
    }
    let changed = lora.merge(&parts, |name, delta| match given.get_mut(name) {
        Some(given) => adapter::give(&mut given.tensor, delta),
        None => Err(adapter::homeless(name)),
    })?;
    adapter::refuse_tied(graph, &changed)?;
    Ok(given)
}

/// The files of a folder's weights, mapped.
fn own_files(folder: &ModelFolder) -> Result<BTreeMap<String, WeightFile>> {
    let (file, mut files) = (folder.file(), BTreeMap::new());
    let packed = packed_matrices(file.graph());
    for initialiser in file.graph().initializer.iter().filter(|tensor| is_weight(tensor)) {
        if Precision::of(initialiser.data_type()).is_none() || packed.contains_key(initialiser.name()) {
            return Err(Error::unsupported(format!(
                "{} holds `{}` in few bits, to which an adapter can't be added: give the tensors of the base as well, or name \
                 an export that is not quantised",
                folder.path().display(),
                initialiser.name()
            )));
        }
        let name = entry(initialiser, "location").unwrap_or_default();
        if !files.contains_key(name) {
            // Another export may have the folder's name by now.
            let (seen, opened) = file.data_file(&file.data_folder.join(name))?;
            files.insert(name.to_owned(), WeightFile::reopen(opened, seen)?);
        }
    }
    Ok(files)
}

/// The tensors of a folder's own weights.
fn own_pieces<'a>(graph: &GraphProto, files: &'a BTreeMap<String, WeightFile>) -> Vec<(String, Piece<'a>)> {
    let piece = |tensor: &TensorProto| {
        let number = |key: &str| entry(tensor, key).and_then(|text| text.parse::<usize>().ok());
        let file = files.get(entry(tensor, "location")?)?;
        let shape: Vec<usize> = tensor.dims.iter().map(|&dim| dim as usize).collect();
        let format = format(Precision::of(tensor.data_type())?);
        let bytes = shape.iter().product::<usize>() * format.block_bytes;
        let offset = number("offset").unwrap_or(0);
        let data = file.data.get(offset..offset.checked_add(bytes)?)?;
        let origin = tensor.name().to_owned();
        let rows = RowOrder::Standard;
        let tensor = Tensor { format, shape, file: 0, offset: 0, bytes, origin: origin.clone(), rows, delta: None };
        Some((origin, (tensor, data)))
    };
    graph.initializer.iter().filter(|tensor| is_weight(tensor)).filter_map(piece).collect()
}

/// Whether an initialiser is a weight of the checkpoint: it lies in a file of weights.
fn is_weight(tensor: &TensorProto) -> bool {
    entry(tensor, "location").is_some_and(|location| location != super::weights::ROTARY)
}

/// The initialisers that are parts of packed matrices: the checkpoint's name, bits, elements of a block, and the part.
fn packed_matrices(graph: &GraphProto) -> HashMap<String, (String, usize, usize, Part)> {
    let mut packed = HashMap::new();
    for node in &graph.node {
        let inputs: &[(usize, Part, &str)] = match node.op_type() {
            "MatMulNBits" => &[
                (1, Part::Quants, Names::QUANTS),
                (2, Part::Scales, Names::SCALES),
                (3, Part::ZeroPoints, Names::ZERO_POINTS),
            ],
            "GatherBlockQuantized" => &[(0, Part::Quants, Names::TABLE), (2, Part::Scales, Names::SCALES)],
            _ => continue,
        };
        let attribute = |name: &str| usize::try_from(Attributes(node).int(name)).unwrap_or(0);
        let (bits, block) = (attribute("bits"), attribute("block_size"));
        for (index, part, suffix) in inputs {
            let Some(name) = node.input.get(*index).filter(|name| !name.is_empty()) else { continue };
            let Some(base) = name.strip_suffix(suffix) else { continue };
            packed.insert(name.clone(), (base.to_owned(), bits, block, *part));
        }
    }
    packed
}

fn layout(
    tensor: &Tensor,
    bits: usize,
    block: usize,
    base: &str,
    packed: &HashMap<String, (String, usize, usize, Part)>,
) -> Layout {
    let minima = packed.contains_key(&Names::of(base).zero_points);
    let (rows, columns) = match tensor.shape[..] {
        [rows, columns] => (rows, columns),
        _ => (0, 0),
    };
    Layout { bits, block: block.max(1), rows, columns, minima }
}

/// Refuses a tensor that has not the shape of its initialiser.
fn check_shape(initialiser: &TensorProto, tensor: &Tensor, form: Form) -> Result<()> {
    let dims: Vec<usize> = initialiser.dims.iter().map(|&dim| dim as usize).collect();
    let fits = match form {
        Form::Float32 | Form::Half(_) => dims == tensor.shape,
        Form::Packed(layout, part) => {
            let row = match part {
                Part::Scales => layout.stored_blocks(),
                Part::Quants => layout.stored_blocks() * layout.block_bytes(),
                Part::ZeroPoints => layout.zero_point_bytes(),
            };
            layout.rows > 0 && dims.first() == Some(&layout.rows) && dims[1..].iter().product::<usize>() == row
        }
    };
    if fits {
        return Ok(());
    }
    Err(Error::invalid_request(format!(
        "tensor `{}` has shape {:?}, but `{}` of the model that is loaded has {dims:?}: it is another model's",
        tensor.origin,
        tensor.shape,
        initialiser.name()
    )))
}

fn missing<'k>(folder: &ModelFolder, name: &str, given: impl Iterator<Item = &'k String>) -> Error {
    let why = names::behind_a_prefix(name, given);
    let why = why.unwrap_or_else(|| "give all tensors of the model's state dict, under its names".into());
    Error::invalid_request(format!(
        "no tensor is called `{name}`, which the graph of {} takes. {why}",
        folder.path().display()
    ))
}

/// Refuses tensors that the graph has no place for.
fn refuse_left_over(given: &mut HashMap<String, Given<'_>>, used: &HashSet<String>) -> Result<()> {
    let mut left: Vec<&String> = given.keys().filter(|name| !used.contains(*name)).collect();
    left.sort();
    let harmless = |name: &str| name.ends_with("rotary_emb.inv_freq") || name.starts_with(names::VALUE_HEAD);
    for name in left.into_iter().filter(|name| !harmless(name)) {
        // A head that shares the embedding's values has a name of its own in state dicts.
        let tied = given.get(names::EMBEDDING).filter(|_| name == names::HEAD);
        if tied.is_some_and(|embedding| same(embedding.data, given[name].data)) {
            continue;
        }
        let why = match tied {
            Some(_) => "the model that is loaded has one tensor for embedding and head, and these two differ",
            None => "leaving it out would change the model's answers",
        };
        let origin = &given[name].tensor.origin;
        return Err(Error::invalid_request(format!(
            "tensor `{origin}` has no place in the graph that is loaded: {why}. Export the model anew, and make an engine for it"
        )));
    }
    given.retain(|name, _| used.contains(name));
    Ok(())
}

/// Whether two tensors have the same bytes; mostly they are the same memory.
fn same(one: &[u8], other: &[u8]) -> bool {
    (one.as_ptr(), one.len()) == (other.as_ptr(), other.len()) || one == other
}
