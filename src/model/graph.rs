//! Reading `model.onnx` and finding its weights.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use prost::Message as _;
use sha2::{Digest, Sha256};

use super::{check, external};
use crate::files::{self, Kind, Seen};
use crate::onnx::tensor_proto::DataType;
use crate::onnx::tensor_shape_proto::dimension::Value::DimValue;
use crate::onnx::{GraphProto, ModelProto, ValueInfoProto, type_proto};
use crate::{Error, Result, mistaken};

/// A graph with its external data files resolved.
pub(crate) struct GraphFile {
    pub(crate) path: PathBuf,
    pub(crate) model: ModelProto,
    /// Real folder of the external data. The locations in `model` are names in it.
    pub(crate) data_folder: PathBuf,
    /// The files with external data in it, as they were when the graph was read. They stay open, so that what is read later
    /// is theirs, whatever has their names then.
    data: Vec<(Seen, File)>,
    /// Whether the graph has loops.
    pub(crate) loops: bool,
    /// Hash that identifies graph and weights.
    pub(crate) fingerprint: String,
}

impl GraphFile {
    /// Reads the graph at `path` and checks that its external data exists.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let size = std::fs::metadata(path).map_err(|e| external::unreadable("read", path, e))?.len();
        if size > i32::MAX as u64 {
            return Err(Error::invalid_model(format!(
                "{}: {size} bytes are more than an ONNX file can have; save its weights as external data",
                path.display()
            )));
        }
        let bytes = files::read(path, Kind::GRAPH)?;
        let refuse = |why| match mistaken::recognise(&bytes) {
            Some(what) => Error::invalid_model(format!("{} {what}", path.display())),
            None => Error::invalid_model(format!("{}: {why}. Export or copy it again", path.display())),
        };
        let (mut model, loops) = parse(&bytes).map_err(refuse)?;
        let graph = model.graph.get_or_insert_default();
        let (data_folder, data_files) = external::resolve(path, graph)?;
        let (fingerprint, data) = fingerprint(&bytes, &data_files)?;
        Ok(GraphFile { path: path.to_path_buf(), model, data_folder, data, loops, fingerprint })
    }

    /// A graph that was never in a file, for the steps before its weights are needed.
    #[cfg(any(test, fuzzing))]
    pub(super) fn unfiled(model: ModelProto, loops: bool) -> Self {
        GraphFile {
            path: "model.onnx".into(),
            model,
            data_folder: ".".into(),
            data: vec![],
            loops,
            fingerprint: String::new(),
        }
    }

    /// The graph as ONNX Runtime reads it, with external data in [`GraphFile::data_folder`].
    pub(crate) fn encode(&self) -> Vec<u8> {
        self.model.encode_to_vec()
    }

    /// Refuses weights that were changed since the graph was read, because they are mapped and have to be those that
    /// were checked.
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        self.data.iter().try_for_each(|(seen, _)| seen.check())
    }

    /// The file with external data that was at `path` when the graph was read, and its state then.
    pub(crate) fn data_file(&self, path: &Path) -> Result<&(Seen, File)> {
        let found = self.data.iter().find(|(seen, _)| seen.path() == path);
        found.ok_or_else(|| Error::internal(format!("{} holds no weights", path.display())))
    }

    /// Reads from the file with external data that was at `path` when the graph was read.
    pub(crate) fn read_data(&self, path: &Path, bytes: &mut [u8], offset: u64) -> Result<()> {
        let (seen, file) = self.data_file(path)?;
        file.read_exact_at(bytes, offset).map_err(|e| Error::io("read the weights of", path, e))?;
        seen.check_open(file)
    }

    pub(crate) fn graph(&self) -> &GraphProto {
        // Checked when it was read.
        self.model.graph.as_ref().expect("a graph")
    }
}

/// Reads and checks a serialised `ModelProto`, except data in other files. Also returns whether it has loops.
pub(super) fn parse(bytes: &[u8]) -> Result<(ModelProto, bool), String> {
    let mut model = ModelProto::decode(bytes).map_err(|e| format!("not an ONNX model, or cut off: {e}"))?;
    let loops = check::check(&mut model)?;
    Ok((model, loops))
}

fn tensor_type(value: &ValueInfoProto) -> Option<&type_proto::Tensor> {
    match value.r#type.as_ref()?.value.as_ref()? {
        type_proto::Value::TensorType(tensor) => Some(tensor),
        _ => None,
    }
}

/// Element type of an input or output that is a tensor.
pub(crate) fn element_type(value: &ValueInfoProto) -> Option<DataType> {
    DataType::try_from(tensor_type(value)?.elem_type()).ok()
}

/// Dimensions of an input or output, if it has them. Those that are not fixed numbers are `None`.
pub(crate) fn dims(value: &ValueInfoProto) -> Option<Vec<Option<i64>>> {
    let fixed = |dim: &crate::onnx::tensor_shape_proto::Dimension| match dim.value {
        Some(DimValue(size)) => Some(size),
        _ => None,
    };
    Some(tensor_type(value)?.shape.as_ref()?.dim.iter().map(fixed).collect())
}

/// The last dimension, if it is a fixed number.
pub(crate) fn last_dim(value: &ValueInfoProto) -> Option<usize> {
    dims(value)?.last().copied().flatten().and_then(|size| usize::try_from(size).ok())
}

/// Hash of the graph, and of the length and 64 samples of each data file. Also returns the state of the files.
///
/// Only samples are read, because reading every weight would double the time to load a model. Two trainings of one
/// architecture differ in practically every weight.
fn fingerprint(graph: &[u8], paths: &[PathBuf]) -> Result<(String, Vec<(Seen, File)>)> {
    const SAMPLES: u64 = 64;
    let mut hash = Sha256::new();
    hash.update(graph);
    let mut seen = Vec::new();
    for path in paths {
        let (file, metadata) = files::open(path).map_err(|e| Error::io("open", path, e))?;
        let size = metadata.len();
        hash.update(size.to_le_bytes());
        let mut sample = [0; 1024];
        for i in 0..SAMPLES {
            let read = file.read_at(&mut sample, size / SAMPLES * i).map_err(|e| Error::io("read", path, e))?;
            hash.update(&sample[..read]);
        }
        seen.push((Seen::new(path, &metadata), file));
    }
    Ok((hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect(), seen))
}
