//! Reading `model.onnx` and finding its weights.

use std::path::{Component, Path, PathBuf};

use prost::Message as _;
use sha2::{Digest, Sha256};

use crate::onnx::tensor_proto::DataType;
use crate::onnx::tensor_shape_proto::dimension::Value::DimValue;
use crate::onnx::{GraphProto, ModelProto, TensorProto, ValueInfoProto, tensor_proto, type_proto};
use crate::{Error, Result};

/// A graph with its external data files resolved.
pub(crate) struct GraphFile {
    pub(crate) path: PathBuf,
    pub(crate) model: ModelProto,
    /// Real folder of the external data; the locations in `model` are names in it.
    pub(crate) data_folder: PathBuf,
    /// Identifies graph and weights.
    pub(crate) fingerprint: String,
}

impl GraphFile {
    /// Reads the graph at `path` and checks that its external data is there.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| unreadable("read", path, e))?;
        let mut model = ModelProto::decode(bytes.as_slice()).map_err(|e| {
            Error::invalid_model(format!(
                "{}: not an ONNX model, or cut off: {e}. Export or copy it again",
                path.display()
            ))
        })?;
        let graph = model.graph.as_mut().ok_or_else(|| {
            Error::invalid_model(format!("{}: holds no graph. Export or copy it again", path.display()))
        })?;
        let (data_folder, data_files) = resolve_external_data(path, graph)?;
        let fingerprint = fingerprint(&bytes, &data_files)?;
        Ok(GraphFile { path: path.to_path_buf(), model, data_folder, fingerprint })
    }

    /// The graph as ONNX Runtime reads it, with external data in [`GraphFile::data_folder`].
    pub(crate) fn encode(&self) -> Vec<u8> {
        self.model.encode_to_vec()
    }

    pub(crate) fn graph(&self) -> &GraphProto {
        // Checked when it was read.
        self.model.graph.as_ref().expect("a graph")
    }
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

/// Dimensions of an input or output, where it says them; those that are not fixed numbers are `None`.
pub(crate) fn dims(value: &ValueInfoProto) -> Option<Vec<Option<i64>>> {
    let fixed = |dim: &crate::onnx::tensor_shape_proto::Dimension| match dim.value {
        Some(DimValue(size)) => Some(size),
        _ => None,
    };
    Some(tensor_type(value)?.shape.as_ref()?.dim.iter().map(fixed).collect())
}

/// The last dimension, where it is a fixed number.
pub(crate) fn last_dim(value: &ValueInfoProto) -> Option<usize> {
    dims(value)?.last().copied().flatten().and_then(|size| usize::try_from(size).ok())
}

/// A file of the model that can't be had; one that is missing has a remedy.
fn unreadable(action: &str, path: &Path, error: std::io::Error) -> Error {
    if error.kind() != std::io::ErrorKind::NotFound {
        return Error::io(action, path, error);
    }
    Error::invalid_model(format!("cannot {action} {}: {error}. Export or copy the model again", path.display()))
        .with_source(error)
}

fn external(tensor: &TensorProto) -> bool {
    tensor.data_location() == tensor_proto::DataLocation::External
}

fn entry<'a>(tensor: &'a TensorProto, key: &str) -> Option<&'a str> {
    tensor.external_data.iter().find(|entry| entry.key() == key).map(|entry| entry.value())
}

/// Turns each external location into the real name of its file, and returns the one real folder of all of them.
///
/// Folders in Hugging Face's cache hold symlinks into a folder of blobs. ONNX Runtime refuses data files that are
/// symlinks out of the folder, so it gets the blobs' folder and names. A location may not leave its folder by itself.
fn resolve_external_data(path: &Path, graph: &mut GraphProto) -> Result<(PathBuf, Vec<PathBuf>)> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let real_folder = folder.canonicalize().map_err(|e| Error::io("open", folder, e))?;
    let real_graph = path.canonicalize().map_err(|e| Error::io("open", path, e))?;
    // Where the data may really be: beside the name or beside the file that the name stands for.
    let homes = [Some(real_folder.as_path()), real_graph.parent()];
    let mut files: Vec<PathBuf> = Vec::new();
    for tensor in graph.initializer.iter_mut().filter(|tensor| external(tensor)) {
        let name = tensor.name().to_owned();
        let refuse = |why: String| Error::invalid_model(format!("{}: initializer `{name}`: {why}", path.display()));
        let location =
            entry(tensor, "location").ok_or_else(|| refuse("external data without a location".into()))?.to_owned();
        if !Path::new(&location).components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(refuse(format!("external data at `{location}` leaves the model's folder")));
        }
        let file = folder.join(&location);
        let real = file.canonicalize().map_err(|e| unreadable("open the weights", &file, e))?;
        if !homes.contains(&real.parent()) {
            return Err(refuse(format!(
                "external data at `{location}` leads to {}, outside the model's folder",
                real.display()
            )));
        }
        check_range(tensor, &real, &refuse)?;
        let Some(real_name) = real.file_name().and_then(|name| name.to_str()) else {
            return Err(refuse(format!("the file name of {} is not UTF-8", real.display())));
        };
        for entry in tensor.external_data.iter_mut().filter(|entry| entry.key() == "location") {
            entry.value = Some(real_name.to_owned());
        }
        if !files.contains(&real) {
            files.push(real);
        }
    }
    let data_folder = files.first().and_then(|file| file.parent()).unwrap_or(&real_folder).to_path_buf();
    if let Some(stray) = files.iter().find(|file| file.parent() != Some(&data_folder)) {
        return Err(Error::invalid_model(format!(
            "{}: its weights lie in two folders ({} and {}); put them into one",
            path.display(),
            data_folder.display(),
            stray.display()
        )));
    }
    Ok((data_folder, files))
}

/// Refuses a tensor that reaches beyond its file, before ONNX Runtime maps it.
fn check_range(tensor: &TensorProto, file: &Path, refuse: &dyn Fn(String) -> Error) -> Result<()> {
    let number = |key: &str| match entry(tensor, key) {
        None => Ok(None),
        Some(text) => {
            text.parse::<u64>().map(Some).map_err(|_| refuse(format!("`{key}` of its external data is `{text}`")))
        }
    };
    let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?.unwrap_or(0));
    let size = std::fs::metadata(file).map_err(|e| Error::io("read", file, e))?.len();
    match offset.checked_add(length) {
        Some(end) if end <= size => Ok(()),
        _ => Err(refuse(format!(
            "its {length} bytes at {offset} lie beyond the end of {} ({size} bytes); the file is cut off: export or copy it again",
            file.display()
        ))),
    }
}

/// Hash of the graph and of 64 samples of each data file, with its length.
///
/// Samples instead of all bytes: reading every weight would double the time to load a model. Two trainings of one
/// architecture differ in practically every weight.
fn fingerprint(graph: &[u8], files: &[PathBuf]) -> Result<String> {
    use std::os::unix::fs::FileExt;
    const SAMPLES: u64 = 64;
    let mut hash = Sha256::new();
    hash.update(graph);
    for path in files {
        let file = std::fs::File::open(path).map_err(|e| Error::io("open", path, e))?;
        let size = file.metadata().map_err(|e| Error::io("read", path, e))?.len();
        hash.update(size.to_le_bytes());
        let mut sample = [0; 1024];
        for i in 0..SAMPLES {
            let read = file.read_at(&mut sample, size / SAMPLES * i).map_err(|e| Error::io("read", path, e))?;
            hash.update(&sample[..read]);
        }
    }
    Ok(hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect())
}
