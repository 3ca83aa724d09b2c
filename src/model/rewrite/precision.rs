//! Conversion of graphs to another floating-point type.
//!
//! ONNX Runtime can't multiply half-precision matrices on the CPU, so float16 and bfloat16 become float32 there. Devices
//! whose attention takes half precision only get float16 or bfloat16 instead. Every weight, constant, input and cast
//! changes its type, except weights in half precision that the graph itself widens to float32. Tensors in data files are
//! only described; [`Converted::read`] reads them into memory while the model is loaded. ONNX Runtime then takes either
//! all data from memory or none, so the other tensors of the data files are read too, unchanged.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use half::slice::HalfFloatSliceExt as _;
use half::{bf16, f16};

use super::graph::Attributes;
use crate::model::tensor::{self, is_external};
use crate::onnx::nodes::external_tensor;
use crate::onnx::tensor_proto::DataType;
use crate::onnx::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, attribute_proto, type_proto};
use crate::runtime::memory::zeroed;
use crate::{Error, Result, files};

/// The name under which ONNX Runtime gets the converted values, as if they were a file.
pub(crate) const LOCATION: &str = "foreturn.converted";

/// Weights in data files, in the order of their converted values in memory. Empty if none has to be converted.
#[derive(Debug, Default)]
pub(crate) struct Converted {
    parts: Vec<Part>,
    /// Their size in memory, in bytes.
    bytes: u64,
}

#[derive(Debug)]
struct Part {
    /// Its name in messages.
    name: String,
    /// Name of the file in the model's folder of data.
    location: String,
    /// Offset and number of its bytes in the file.
    offset: u64,
    length: u64,
    /// Its offset and number of bytes in memory.
    at: u64,
    in_memory: u64,
    /// The types that its values are converted from and to; `None` if they stay as they are.
    change: Option<Change>,
}

/// A type of floating-point numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Precision {
    Float32,
    Float16,
    Bfloat16,
}

impl Precision {
    /// `None` for other types.
    pub(crate) fn of(kind: i32) -> Option<Self> {
        match DataType::try_from(kind) {
            Ok(DataType::Float) => Some(Precision::Float32),
            Ok(DataType::Float16) => Some(Precision::Float16),
            Ok(DataType::Bfloat16) => Some(Precision::Bfloat16),
            _ => None,
        }
    }

    pub(crate) fn data_type(self) -> DataType {
        match self {
            Precision::Float32 => DataType::Float,
            Precision::Float16 => DataType::Float16,
            Precision::Bfloat16 => DataType::Bfloat16,
        }
    }

    /// Its name in messages.
    pub(crate) fn name(self) -> String {
        self.data_type().as_str_name().to_lowercase()
    }

    /// Bytes of a number.
    pub(crate) fn bytes(self) -> usize {
        if self == Precision::Float32 { 4 } else { 2 }
    }

    /// The numbers in `raw` as float32.
    fn widen(self, raw: &[u8]) -> Vec<f32> {
        use half::slice::HalfBitsSliceExt as _;
        let bits = || raw.as_chunks().0.iter().map(|&pair| u16::from_le_bytes(pair)).collect::<Vec<u16>>();
        match self {
            Precision::Float32 => raw.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
            Precision::Float16 => bits().reinterpret_cast::<f16>().to_f32_vec(),
            Precision::Bfloat16 => bits().reinterpret_cast::<bf16>().to_f32_vec(),
        }
    }

    /// The bytes of `number` in half precision, rounded to nearest; `None` if it is too large.
    pub(crate) fn narrow(self, number: f32) -> Option<[u8; 2]> {
        let (bits, finite) = match self {
            Precision::Bfloat16 => (bf16::from_f32(number).to_bits(), bf16::from_f32(number).is_finite()),
            _ => (f16::from_f32(number).to_bits(), f16::from_f32(number).is_finite()),
        };
        (finite || !number.is_finite()).then(|| bits.to_le_bytes())
    }
}

/// A conversion from one type to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Change {
    from: Precision,
    to: Precision,
}

impl Change {
    /// `None` if numbers of type `kind` stay as they are.
    fn of(kind: i32, to: Precision) -> Option<Self> {
        Precision::of(kind).filter(|&from| from != to).map(|from| Change { from, to })
    }

    /// Writes the numbers of `raw` to `to`. A `lone` number, such as the epsilon of a norm, must not become 0. One among many may.
    ///
    /// # Errors
    /// The first number that the type can't hold.
    fn apply(self, raw: &[u8], to: &mut [u8], lone: bool) -> Result<(), f32> {
        let numbers = self.from.widen(raw);
        if self.to == Precision::Float32 {
            to.as_chunks_mut().0.iter_mut().zip(numbers).for_each(|(to, number)| *to = number.to_le_bytes());
            return Ok(());
        }
        for (to, number) in to.as_chunks_mut().0.iter_mut().zip(numbers) {
            let narrowed = self.to.narrow(number).ok_or(number)?;
            if lone && number != 0.0 && u16::from_le_bytes(narrowed) << 1 == 0 {
                return Err(number);
            }
            *to = narrowed;
        }
        Ok(())
    }

    /// The message for a number that is too large or too small.
    fn unfit(self, name: &str, number: f32) -> String {
        let kind = self.to.name();
        let instead = if self.from == Precision::Bfloat16 { "" } else { ", or export it in bfloat16" };
        format!("tensor `{name}` holds {number:e}, which {kind} can't: run the model on the CPU{instead}")
    }
}

/// Converts every floating-point value of `graph` to `to`. Weights that the graph itself widens to float32 stay as they are
/// if that is `to`.
///
/// # Errors
/// A tensor whose values don't fit its shape or the type, or a tensor in a data file that belongs to a graph inside the
/// graph.
pub(crate) fn convert(graph: &mut GraphProto, to: Precision) -> Result<Converted, String> {
    let mut converted = Converted::default();
    let kept = if to == Precision::Float32 { widened_by_nodes(graph) } else { HashSet::new() };
    let changes = |tensor: &TensorProto| Change::of(tensor.data_type(), to).is_some() && !kept.contains(tensor.name());
    let from_memory = graph.initializer.iter().any(|tensor| is_external(tensor) && changes(tensor));
    for tensor in &mut graph.initializer {
        let to = if changes(tensor) { Some(to) } else { None };
        match (is_external(tensor), to) {
            (true, _) if from_memory => converted.add(tensor, to)?,
            (false, Some(to)) => convert_tensor(tensor, to)?,
            _ => {}
        }
    }
    convert_types(graph, to);
    graph.node.iter_mut().try_for_each(|node| convert_node(node, to))?;
    Ok(converted)
}

/// Weights in half precision that the graph's own nodes widen to float32: factors by a Cast, and tables of which a Gather
/// takes rows by a Cast of these. Those that are inputs or outputs, or that a graph inside this one reads, are not among them.
pub(super) fn widened_by_nodes(graph: &GraphProto) -> HashSet<String> {
    let mut readers: HashMap<&str, Vec<(&NodeProto, usize)>> = HashMap::new();
    for node in &graph.node {
        node.input.iter().enumerate().for_each(|(at, name)| readers.entry(name).or_default().push((node, at)));
    }
    let mut others: HashSet<&str> = graph.input.iter().chain(&graph.output).map(ValueInfoProto::name).collect();
    graph.node.iter().flat_map(inner_graphs).for_each(|inner| add_read(inner, &mut others));
    // By at least one node, and by such ones alone.
    let read_by = |name: &str, fits: &dyn Fn(&NodeProto, usize) -> bool| {
        let readers = readers.get(name).filter(|_| !others.contains(name));
        readers.is_some_and(|readers| readers.iter().all(|&(node, at)| fits(node, at)))
    };
    let widens = |node: &NodeProto, _| {
        node.op_type() == "Cast" && Attributes(node).int("to") == i64::from(DataType::Float as i32)
    };
    let rows_widened = |node: &NodeProto| node.output.first().is_some_and(|rows| read_by(rows, &widens));
    let widened = |name: &str| {
        let takes_rows = |node: &NodeProto, at| node.op_type() == "Gather" && at == 0 && rows_widened(node);
        read_by(name, &|node, at| widens(node, at) || takes_rows(node, at))
    };
    let half = |tensor: &&TensorProto| matches!(Precision::of(tensor.data_type()), Some(p) if p != Precision::Float32);
    graph
        .initializer
        .iter()
        .filter(half)
        .map(TensorProto::name)
        .filter(|name| widened(name))
        .map(str::to_owned)
        .collect()
}

/// The graphs that are attributes of a node.
fn inner_graphs(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    node.attribute.iter().flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs))
}

/// Adds what a graph and those inside it read.
fn add_read<'g>(graph: &'g GraphProto, read: &mut HashSet<&'g str>) {
    read.extend(graph.node.iter().flat_map(|node| &node.input).map(String::as_str));
    read.extend(graph.output.iter().map(ValueInfoProto::name));
    graph.node.iter().flat_map(inner_graphs).for_each(|inner| add_read(inner, read));
}

/// The `values` of a tensor that is described by `from`, as `to` describes it.
pub(crate) fn bytes<'a>(values: Cow<'a, [u8]>, from: &TensorProto, to: &TensorProto) -> Result<Cow<'a, [u8]>, String> {
    let change = Precision::of(to.data_type()).and_then(|to| Change::of(from.data_type(), to));
    let Some(change) = change else { return Ok(values) };
    let mut converted = vec![0; values.len() / change.from.bytes() * change.to.bytes()];
    let lone = converted.len() == change.to.bytes();
    change.apply(&values, &mut converted, lone).map_err(|number| change.unfit(to.name(), number))?;
    Ok(converted.into())
}

fn convert_types(graph: &mut GraphProto, to: Precision) {
    graph.value_info.clear();
    graph.input.iter_mut().chain(&mut graph.output).for_each(|value| convert_type(value, to));
}

fn convert_type(value: &mut ValueInfoProto, to: Precision) {
    let tensor = value.r#type.as_mut().and_then(|kind| kind.value.as_mut());
    if let Some(type_proto::Value::TensorType(tensor)) = tensor
        && Change::of(tensor.elem_type(), to).is_some()
    {
        tensor.elem_type = Some(to.data_type().into());
    }
}

fn convert_node(node: &mut NodeProto, to: Precision) -> Result<(), String> {
    if node.op_type() == "Constant" && to != Precision::Float32 {
        let name = node.output.first().map_or("", String::as_str);
        node.attribute
            .iter_mut()
            .filter_map(|given| Some((floats(given, name)?, given)))
            .for_each(|(value, given)| *given = value);
    }
    let casts = node.op_type() == "Cast";
    for attribute in &mut node.attribute {
        if casts && attribute.name() == "to" && Change::of(attribute.i() as i32, to).is_some() {
            attribute.i = Some(to.data_type() as i64);
        }
        if let Some(tensor) = &mut attribute.t {
            convert_tensor(tensor, to)?;
        }
        for inner in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            inner.initializer.iter_mut().try_for_each(|tensor| convert_tensor(tensor, to))?;
            convert_types(inner, to);
            inner.node.iter_mut().try_for_each(|node| convert_node(node, to))?;
        }
    }
    Ok(())
}

/// The tensor `name` that a constant gives as plain numbers, which are always of float32.
fn floats(given: &AttributeProto, name: &str) -> Option<AttributeProto> {
    let (dims, numbers) = match given.name() {
        "value_float" => (vec![], vec![given.f()]),
        "value_floats" => (vec![given.floats.len() as i64], given.floats.clone()),
        _ => return None,
    };
    let tensor = TensorProto {
        name: Some(name.into()),
        data_type: Some(DataType::Float.into()),
        dims,
        float_data: numbers,
        ..TensorProto::default()
    };
    let kind = attribute_proto::AttributeType::Tensor;
    Some(AttributeProto {
        name: Some("value".into()),
        r#type: Some(kind.into()),
        t: Some(tensor),
        ..AttributeProto::default()
    })
}

/// Converts a tensor whose values are in the graph.
fn convert_tensor(tensor: &mut TensorProto, to: Precision) -> Result<(), String> {
    let Some(change) = Change::of(tensor.data_type(), to) else { return Ok(()) };
    let refuse = |why: &str| Err(format!("tensor `{}` of {:?} values: {why}", tensor.name(), change.from));
    if is_external(tensor) {
        return refuse("its values lie in a data file, but it belongs to a graph inside the graph");
    }
    let raw = match (&tensor.raw_data, change.from) {
        (Some(raw), _) => raw.to_vec(),
        (None, Precision::Float32) => tensor.float_data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        // Half-precision values are stored in integers.
        (None, _) => tensor.int32_data.iter().flat_map(|&bits| (bits as u16).to_le_bytes()).collect(),
    };
    let count = raw.len() / change.from.bytes();
    if elements(tensor) != Some(count) || raw.len() % change.from.bytes() != 0 {
        return refuse(&format!("{count} values for the shape {:?}", tensor.dims));
    }
    let mut values = vec![0; count * to.bytes()];
    change.apply(&raw, &mut values, count == 1).map_err(|number| change.unfit(tensor.name(), number))?;
    tensor.int32_data.clear();
    tensor.float_data.clear();
    tensor.raw_data = Some(values.into());
    tensor.data_type = Some(to.data_type().into());
    Ok(())
}

fn elements(tensor: &TensorProto) -> Option<usize> {
    tensor.dims.iter().try_fold(1usize, |product, &dim| product.checked_mul(usize::try_from(dim).ok()?))
}

/// Alignment of tensors in memory, in bytes.
const ALIGNMENT: u64 = 16;

impl Converted {
    /// Leaves out weights that are not in `graph` any more.
    pub(crate) fn keep(&mut self, graph: &mut GraphProto) {
        let converted = |tensor: &&mut TensorProto| tensor::entry(tensor, "location") == Some(LOCATION);
        let tensors = graph.initializer.iter_mut().filter(converted);
        let mut left: HashMap<String, &mut TensorProto> =
            tensors.map(|tensor| (tensor.name().into(), tensor)).collect();
        self.bytes = 0;
        self.parts.retain_mut(|part| {
            let Some(tensor) = left.remove(&part.name) else { return false };
            part.at = self.bytes.next_multiple_of(ALIGNMENT);
            self.bytes = part.at + part.in_memory;
            let offset = tensor.external_data.iter_mut().filter(|entry| entry.key() == "offset");
            offset.for_each(|entry| entry.value = Some(part.at.to_string()));
            true
        });
    }

    /// Whether there is nothing to read.
    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Size of the converted weights, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Plans to read `tensor` from its file, as it is or converted, and makes it refer to memory instead.
    fn add(&mut self, tensor: &mut TensorProto, to: Option<Precision>) -> Result<(), String> {
        let refuse = |why: String| format!("initializer `{}`: {why}", tensor.name());
        let entry = |key: &str| tensor::entry(tensor, key).map(str::to_owned);
        let number = |key: &str| match entry(key) {
            None => Ok(None),
            Some(text) => text.parse::<u64>().map(Some).map_err(|_| refuse(format!("its `{key}` is `{text}`"))),
        };
        let location = entry("location").ok_or_else(|| refuse("external data without a location".into()))?;
        let Some(length) = number("length")? else { return Err(refuse("external data without a length".into())) };
        let offset = number("offset")?.unwrap_or(0);
        let change = to.and_then(|to| Change::of(tensor.data_type(), to));
        let size = change.map_or(1, |change| change.from.bytes());
        if change.is_some() && elements(tensor).and_then(|n| n.checked_mul(size)) != Some(length as usize) {
            return Err(refuse(format!("{length} bytes of external data for the shape {:?}", tensor.dims)));
        }
        let at = self.bytes.next_multiple_of(ALIGNMENT);
        let in_memory = length / size as u64 * change.map_or(1, |change| change.to.bytes()) as u64;
        let dims: Vec<usize> = tensor.dims.iter().map(|&dim| dim as usize).collect();
        let element = match change {
            Some(change) => change.to.data_type(),
            None => DataType::try_from(tensor.data_type()).unwrap_or(DataType::Undefined),
        };
        let name = tensor.name().to_owned();
        *tensor = external_tensor(&name, element, &dims, LOCATION, at, in_memory);
        self.bytes = at + in_memory;
        self.parts.push(Part { name, location, offset, length, at, in_memory, change });
        Ok(())
    }

    /// Reads the weights from the files in `folder` and converts them.
    pub(crate) fn read(&self, folder: &Path) -> Result<Arc<[u8]>> {
        let mut memory = zeroed(self.bytes as usize);
        let bytes = Arc::get_mut(&mut memory).expect("nobody else has it yet");
        for part in &self.parts {
            let path = folder.join(&part.location);
            let (file, _) = files::open(&path).map_err(|e| Error::io("open", &path, e))?;
            let range = part.at as usize..(part.at + part.in_memory) as usize;
            part.read(&file, &path, &mut bytes[range])?;
        }
        Ok(memory)
    }
}

impl Part {
    /// Reads it from its file into `to`.
    fn read(&self, file: &File, path: &Path, to: &mut [u8]) -> Result<()> {
        /// Numbers that are converted at a time.
        const CHUNK: usize = 1 << 19;
        let failed = |e| Error::io("read the weights of", path, e);
        let Some(change) = self.change else { return file.read_exact_at(to, self.offset).map_err(failed) };
        let (from, into) = (change.from.bytes(), change.to.bytes());
        let mut raw = vec![0; (from * CHUNK).min(self.length as usize)];
        for (index, to) in to.chunks_mut(into * CHUNK).enumerate() {
            let raw = &mut raw[..to.len() / into * from];
            file.read_exact_at(raw, self.offset + (index * from * CHUNK) as u64).map_err(failed)?;
            let unfit = |number| Error::unsupported(change.unfit(&self.name, number)).context(path.display());
            change.apply(raw, to, self.length == from as u64).map_err(unfit)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::nodes::{int, node, subgraph};

    fn half(name: &str, kind: DataType, dims: &[usize], bits: &[u16]) -> TensorProto {
        TensorProto {
            name: Some(name.into()),
            data_type: Some(kind.into()),
            dims: dims.iter().map(|&dim| dim as i64).collect(),
            raw_data: Some(bits.iter().flat_map(|bits| bits.to_le_bytes()).collect::<Vec<_>>().into()),
            ..TensorProto::default()
        }
    }

    fn floats(raw: &[u8]) -> Vec<f32> {
        raw.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    #[test]
    fn a_lone_number_does_not_become_zero() {
        let with = |numbers: &[f32]| {
            let tensor = crate::onnx::nodes::float_tensor("epsilon", &[numbers.len()], numbers);
            convert(&mut GraphProto { initializer: vec![tensor], ..GraphProto::default() }, Precision::Float16)
                .map(drop)
        };
        let refused = with(&[1e-9]).expect_err("it would be 0");
        assert!(refused.contains("tensor `epsilon` holds 1e-9, which float16 can't"), "{refused}");
        assert_eq!((with(&[1e-6]), with(&[0.0]), with(&[1e-9, 1.0])), (Ok(()), Ok(()), Ok(())));
    }

    #[test]
    fn plain_numbers_of_constants_are_converted() {
        let mut floats = crate::onnx::nodes::float("value_floats", 0.0);
        (floats.f, floats.floats) = (None, vec![1.5, -2.0]);
        let constant = |name, value| node("", "Constant", name, &[], &[name], vec![value]);
        let one = constant("one", crate::onnx::nodes::float("value_float", 0.25));
        let mut graph = GraphProto { node: vec![one, constant("two", floats)], ..GraphProto::default() };
        convert(&mut graph, Precision::Float16).expect("converted");
        for (node, dims, numbers) in [(0, vec![], vec![0.25]), (1, vec![2], vec![1.5, -2.0])] {
            let [value] = &graph.node[node].attribute[..] else { panic!("one value") };
            let tensor = value.t.as_ref().expect("a tensor");
            assert_eq!((value.name(), tensor.data_type(), &tensor.dims), ("value", DataType::Float16 as i32, &dims));
            assert_eq!(Precision::Float16.widen(tensor.raw_data()), numbers);
        }
        let large = constant("large", crate::onnx::nodes::float("value_float", 1e5));
        let mut graph = GraphProto { node: vec![large], ..GraphProto::default() };
        assert!(convert(&mut graph, Precision::Float16).expect_err("too large").contains("`large` holds 1e5"));
    }

    #[test]
    fn constants_and_casts_become_float32() {
        let bits = [1.5, -0.25].map(|x| f16::from_f32(x).to_bits());
        let mut graph = GraphProto {
            initializer: vec![half("w", DataType::Float16, &[2], &bits)],
            node: vec![node("", "Cast", "cast", &["w"], &["x"], vec![int("to", DataType::Bfloat16 as i64)])],
            ..GraphProto::default()
        };
        assert!(convert(&mut graph, Precision::Float32).expect("converted").is_empty(), "nothing is in a file");
        assert_eq!(graph.initializer[0].data_type(), DataType::Float as i32);
        assert_eq!(floats(graph.initializer[0].raw_data()), [1.5, -0.25]);
        assert_eq!(graph.node[0].attribute[0].i(), DataType::Float as i64);
    }

    #[test]
    fn weights_that_nodes_widen_stay_as_they_are() {
        let cast = |from: &str, to: &str| node("", "Cast", to, &[from], &[to], vec![int("to", DataType::Float as i64)]);
        let inner = GraphProto {
            node: vec![node("", "Identity", "inside", &["inner"], &["chosen"], vec![])],
            ..GraphProto::default()
        };
        let mut graph = GraphProto {
            initializer: ["table", "factor", "other", "shown", "inner"]
                .map(|name| half(name, DataType::Bfloat16, &[1], &[0]))
                .into(),
            output: vec![ValueInfoProto { name: Some("given".into()), ..ValueInfoProto::default() }],
            node: vec![
                node("", "Gather", "gather", &["table", "ids"], &["rows"], vec![]),
                node("", "Gather", "given", &["shown", "ids"], &["given"], vec![]),
                cast("given", "wide_given"),
                cast("inner", "wide_inner"),
                node("", "If", "if", &["condition"], &["chosen"], vec![subgraph("then_branch", inner)]),
                cast("rows", "wide_rows"),
                cast("table", "wide_table"),
                cast("factor", "wide_factor"),
                cast("other", "wide_other"),
                node("", "Add", "add", &["other", "other"], &["sum"], vec![]),
            ],
            ..GraphProto::default()
        };
        convert(&mut graph, Precision::Float32).expect("converted");
        let kinds: Vec<i32> = graph.initializer.iter().map(TensorProto::data_type).collect();
        let [stays, changes] = [DataType::Bfloat16, DataType::Float].map(|kind| kind as i32);
        assert_eq!(kinds, [stays, stays, changes, changes, changes]);
        convert(&mut graph, Precision::Float16).expect("converted");
        assert!(graph.initializer.iter().all(|tensor| tensor.data_type() == DataType::Float16 as i32), "on a device");
    }

    #[test]
    fn weights_in_files_are_read_widened_and_the_others_with_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let bits = [2.0, -3.5, 0.125].map(|x| bf16::from_f32(x).to_bits());
        let mut file: Vec<u8> = vec![7, 8, 9];
        file.extend(bits.iter().flat_map(|bits| bits.to_le_bytes()));
        std::fs::write(folder.path().join("data"), &file).expect("written");
        let mut graph = GraphProto {
            initializer: vec![
                external_tensor("ids", DataType::Uint8, &[3], "data", 0, 3),
                external_tensor("w", DataType::Bfloat16, &[3], "data", 3, 6),
            ],
            ..GraphProto::default()
        };
        let converted = convert(&mut graph, Precision::Float32).expect("converted");
        let memory = converted.read(folder.path()).expect("read");
        assert_eq!(memory[..3], [7, 8, 9]);
        assert_eq!(floats(&memory[16..]), [2.0, -3.5, 0.125]);
        let entries = |i: usize| graph.initializer[i].external_data.iter().map(|e| e.value()).collect::<Vec<_>>();
        assert_eq!((entries(0), entries(1)), (vec![LOCATION, "0", "3"], vec![LOCATION, "16", "12"]));
    }

    #[test]
    fn weights_that_left_the_graph_are_not_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let bits = [2.0, -3.5, 0.125].map(|x| bf16::from_f32(x).to_bits());
        let file: Vec<u8> = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        std::fs::write(folder.path().join("data"), &file).expect("written");
        let tensor = |name, at| external_tensor(name, DataType::Bfloat16, &[1], "data", at, 2);
        let mut graph =
            GraphProto { initializer: vec![tensor("a", 0), tensor("b", 2), tensor("c", 4)], ..GraphProto::default() };
        let mut converted = convert(&mut graph, Precision::Float32).expect("converted");
        graph.initializer.remove(0);
        converted.keep(&mut graph);
        let offsets: Vec<_> = graph.initializer.iter().map(|tensor| tensor::entry(tensor, "offset")).collect();
        assert_eq!((offsets, converted.bytes()), (vec![Some("0"), Some("16")], 20));
        let memory = converted.read(folder.path()).expect("read");
        assert_eq!((floats(&memory[..4]), floats(&memory[16..])), (vec![-3.5], vec![0.125]));
    }

    #[test]
    fn values_that_do_not_fit_their_shape_are_refused() {
        let refused = |tensor: TensorProto| {
            let mut graph = GraphProto { initializer: vec![tensor], ..GraphProto::default() };
            convert(&mut graph, Precision::Float32).map(|_| ()).expect_err("refused")
        };
        assert!(refused(half("w", DataType::Float16, &[3], &[0, 0])).contains("`w`"));
        assert!(refused(external_tensor("v", DataType::Float16, &[3], "data", 0, 4)).contains("`v`"));
        assert!(refused(external_tensor("u", DataType::Float16, &[usize::MAX >> 1, 4], "data", 0, 4)).contains("`u`"));
    }

    #[test]
    fn float32_becomes_half_precision_where_it_fits() {
        let folder = tempfile::tempdir().expect("a folder");
        let numbers = [1.0f32, 1.0 + 1e-4, -2.5, f32::NEG_INFINITY];
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        std::fs::write(folder.path().join("data"), &bytes).expect("written");
        for to in [Precision::Float16, Precision::Bfloat16] {
            let mut graph = GraphProto {
                initializer: vec![
                    external_tensor("w", DataType::Float, &[4], "data", 0, 16),
                    crate::onnx::nodes::float_tensor("c", &[1], &[-3.0]),
                ],
                node: vec![node("", "Cast", "cast", &["w"], &["x"], vec![int("to", DataType::Float as i64)])],
                ..GraphProto::default()
            };
            let converted = convert(&mut graph, to).expect("converted");
            let memory = converted.read(folder.path()).expect("read");
            assert_eq!((converted.bytes(), memory.len()), (8, 8));
            assert_eq!(to.widen(&memory), [1.0, 1.0, -2.5, f32::NEG_INFINITY]);
            assert_eq!(to.widen(graph.initializer[1].raw_data()), [-3.0]);
            assert_eq!(graph.node[0].attribute[0].i(), to.data_type() as i64);
        }
        std::fs::write(folder.path().join("data"), 7e4f32.to_le_bytes()).expect("written");
        let one = || GraphProto {
            initializer: vec![external_tensor("w", DataType::Float, &[1], "data", 0, 4)],
            ..GraphProto::default()
        };
        let converted = convert(&mut one(), Precision::Float16).expect("planned");
        let refused = converted.read(folder.path()).expect_err("too large").to_string();
        assert!(refused.contains("tensor `w` holds 7e4, which float16 can't"), "{refused}");
        convert(&mut one(), Precision::Bfloat16).expect("planned").read(folder.path()).expect("it fits");
    }
}
