//! Weights in other files: found, kept inside the model's folder, and held to their files' sizes.

use std::path::{Component, Path, PathBuf};

use super::tensor::{self, is_external};
use crate::onnx::{GraphProto, TensorProto};
use crate::{Error, Result};

/// A file of the model that can't be had; one that is missing has a remedy.
pub(super) fn unreadable(action: &str, path: &Path, error: std::io::Error) -> Error {
    if error.kind() != std::io::ErrorKind::NotFound {
        return Error::io(action, path, error);
    }
    Error::invalid_model(format!("cannot {action} {}: {error}. Export or copy the model again", path.display()))
        .with_source(error)
}

fn entry<'a>(tensor: &'a TensorProto, key: &str) -> Option<&'a str> {
    tensor.external_data.iter().find(|entry| entry.key() == key).map(|entry| entry.value())
}

/// Turns each external location into the real name of its file, and returns the one real folder of all of them.
///
/// Folders in Hugging Face's cache hold symlinks into a folder of blobs. ONNX Runtime refuses data files that are
/// symlinks out of the folder, so it gets the blobs' folder and names. A location may not leave its folder by itself.
pub(super) fn resolve(path: &Path, graph: &mut GraphProto) -> Result<(PathBuf, Vec<PathBuf>)> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let real_folder = folder.canonicalize().map_err(|e| Error::io("open", folder, e))?;
    let real_graph = path.canonicalize().map_err(|e| Error::io("open", path, e))?;
    // Where the data may really be: beside the name or beside the file that the name stands for.
    let homes = [Some(real_folder.as_path()), real_graph.parent()];
    let mut files: Vec<PathBuf> = Vec::new();
    let mut tensors = Vec::new();
    external_tensors(graph, &mut tensors);
    for tensor in tensors {
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

/// The initializers with external data, those of graphs inside the graph included.
fn external_tensors<'a>(graph: &'a mut GraphProto, found: &mut Vec<&'a mut TensorProto>) {
    found.extend(graph.initializer.iter_mut().filter(|tensor| is_external(tensor)));
    for attribute in graph.node.iter_mut().flat_map(|node| &mut node.attribute) {
        attribute.g.iter_mut().chain(&mut attribute.graphs).for_each(|inner| external_tensors(inner, found));
    }
}

/// Refuses a tensor that reaches beyond its file or doesn't fill its shape, before ONNX Runtime maps it.
fn check_range(tensor: &TensorProto, file: &Path, refuse: &dyn Fn(String) -> Error) -> Result<()> {
    let number = |key: &str| match entry(tensor, key) {
        None => Ok(None),
        Some(text) => {
            text.parse::<u64>().map(Some).map_err(|_| refuse(format!("`{key}` of its external data is `{text}`")))
        }
    };
    let wanted = tensor::bytes(tensor).map_err(refuse)?;
    let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?.unwrap_or(wanted));
    if length != wanted {
        return Err(refuse(format!(
            "its shape {:?} takes {wanted} bytes, but its external data has {length}",
            tensor.dims
        )));
    }
    let metadata = std::fs::metadata(file).map_err(|e| Error::io("read", file, e))?;
    if !metadata.is_file() {
        return Err(refuse(format!("{} is not a file", file.display())));
    }
    let size = metadata.len();
    match offset.checked_add(length) {
        Some(end) if end <= size => Ok(()),
        _ => Err(refuse(format!(
            "its {length} bytes at {offset} lie beyond the end of {} ({size} bytes); the file is cut off: export or copy it again",
            file.display()
        ))),
    }
}
