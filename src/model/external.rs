//! Weights in other files. They are found, kept inside the model's folder, and checked against the sizes of their
//! files.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _};
use std::path::{Component, Path, PathBuf};

use super::tensor::{self, entry, is_external};
use crate::onnx::{GraphProto, TensorProto};
use crate::{Error, Result, files, mistaken};

/// The error for a file of the model that can't be read, with a remedy if it is missing.
pub(super) fn unreadable(action: &str, path: &Path, error: std::io::Error) -> Error {
    if error.kind() != std::io::ErrorKind::NotFound {
        return Error::io(action, path, error);
    }
    Error::invalid_model(format!("cannot {action} {}: {error}. Export or copy the model again", path.display()))
        .with_source(error)
}

/// A file of external data.
struct Data {
    real: PathBuf,
    size: u64,
}

/// Replaces each external location by the real path of its file. Returns the one real folder that contains all of them.
///
/// Folders in Hugging Face's cache hold symlinks into a folder of blobs. ONNX Runtime refuses data files that are
/// symlinks out of the folder, so it gets the blobs' folder and names. A file's real path counts. It has to be below
/// the model's folder, or below the folder of the file that the graph's name links to.
pub(super) fn resolve(path: &Path, graph: &mut GraphProto) -> Result<(PathBuf, Vec<PathBuf>)> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let real_folder = folder.canonicalize().map_err(|e| Error::io("open", folder, e))?;
    let real_graph = path.canonicalize().map_err(|e| Error::io("open", path, e))?;
    let homes = [real_folder.as_path(), real_graph.parent().unwrap_or(&real_folder)];
    let mut tensors = Vec::new();
    external_tensors(graph, &mut tensors);
    let mut found: BTreeMap<String, Data> = BTreeMap::new();
    for tensor in &tensors {
        let refuse =
            |why: String| Error::invalid_model(format!("{}: initializer `{}`: {why}", path.display(), tensor.name()));
        let location = entry(tensor, "location").ok_or_else(|| refuse("external data without a location".into()))?;
        if !found.contains_key(location) {
            found.insert(location.to_owned(), find(folder, location, homes, &refuse)?);
        }
        check_range(tensor, &found[location], &refuse)?;
    }
    let mut files: Vec<PathBuf> = Vec::new();
    for location in tensors.iter().filter_map(|tensor| entry(tensor, "location")) {
        if !files.contains(&found[location].real) {
            files.push(found[location].real.clone());
        }
    }
    let data_folder = common_folder(&files, homes, path)?;
    for tensor in tensors {
        let Some(data) = entry(tensor, "location").and_then(|location| found.get(location)) else { continue };
        let name = data.real.strip_prefix(&data_folder).ok().and_then(Path::to_str).ok_or_else(|| {
            Error::invalid_model(format!("{}: the file name of {} is not UTF-8", path.display(), data.real.display()))
        })?;
        let name = name.to_owned();
        for entry in tensor.external_data.iter_mut().filter(|entry| entry.key() == "location") {
            entry.value = Some(name.clone());
        }
    }
    Ok((data_folder, files))
}

/// The file at `location`, which is relative to `folder` and has to be in one of `homes` or below.
fn find(folder: &Path, location: &str, homes: [&Path; 2], refuse: &dyn Fn(String) -> Error) -> Result<Data> {
    if Path::new(location).has_root() {
        return Err(refuse(format!(
            "external data at `{location}`: only paths relative to the model's folder are read"
        )));
    }
    if leaves(Path::new(location)) {
        return Err(refuse(format!("external data at `{location}` leaves the model's folder")));
    }
    let file = folder.join(location);
    let real = file.canonicalize().map_err(|e| unreadable("open the weights", &file, e))?;
    if !homes.iter().any(|home| real.starts_with(home)) {
        let real = real.display();
        return Err(refuse(format!("external data at `{location}` leads to {real}, outside the model's folder")));
    }
    let (opened, metadata) = files::open(&real).map_err(|e| match e.kind() {
        ErrorKind::InvalidInput => refuse(format!("external data at `{location}`: {} {e}", real.display())),
        _ => Error::io("open the weights", &real, e),
    })?;
    let size = metadata.len();
    // Pointers of Git LFS and git-annex are shorter.
    let mut beginning = Vec::new();
    opened.take(1024).read_to_end(&mut beginning).map_err(|e| Error::io("read", &real, e))?;
    match mistaken::pointer(&beginning) {
        None => Ok(Data { real, size }),
        Some(what) => Err(Error::invalid_model(format!("{} {what}", file.display()))),
    }
}

/// Whether a relative path leads above its start.
fn leaves(path: &Path) -> bool {
    let mut depth = 0_usize;
    for part in path.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::ParentDir if depth == 0 => return true,
            Component::ParentDir => depth -= 1,
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    false
}

/// The folder in which ONNX Runtime looks for `files`: their own, or the home that contains them all.
fn common_folder(files: &[PathBuf], homes: [&Path; 2], path: &Path) -> Result<PathBuf> {
    let Some(first) = files.first().and_then(|file| file.parent()) else { return Ok(homes[0].to_path_buf()) };
    if files.iter().all(|file| file.parent() == Some(first)) {
        return Ok(first.to_path_buf());
    }
    let common = homes.into_iter().find(|home| files.iter().all(|file| file.starts_with(home)));
    common.map(Path::to_path_buf).ok_or_else(|| {
        let stray = files.iter().find(|file| !file.starts_with(homes[0])).unwrap_or(&files[0]);
        Error::invalid_model(format!(
            "{}: some of its weights are links that lead out of its folder, as {} does, and others are not; put all of \
             them into one folder",
            path.display(),
            stray.display()
        ))
    })
}

/// The initializers with external data, including those of graphs inside the graph.
fn external_tensors<'a>(graph: &'a mut GraphProto, found: &mut Vec<&'a mut TensorProto>) {
    found.extend(graph.initializer.iter_mut().filter(|tensor| is_external(tensor)));
    for attribute in graph.node.iter_mut().flat_map(|node| &mut node.attribute) {
        attribute.g.iter_mut().chain(&mut attribute.graphs).for_each(|inner| external_tensors(inner, found));
    }
}

/// Refuses a tensor that reaches beyond its file or doesn't fill its shape, before ONNX Runtime maps it.
fn check_range(tensor: &TensorProto, data: &Data, refuse: &dyn Fn(String) -> Error) -> Result<()> {
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
    match offset.checked_add(length) {
        Some(end) if end <= data.size => Ok(()),
        _ => Err(refuse(format!(
            "its {length} bytes at {offset} lie beyond the end of {} ({} bytes); the file is cut off: export or copy it again",
            data.real.display(),
            data.size
        ))),
    }
}
