//! The place of the graph in a folder.

use std::path::{Path, PathBuf};

use super::config::FolderConfig;
use crate::{Error, Result};

/// A folder's configuration and the graph that will run.
pub(super) struct Place {
    /// The folder of configuration and tokenizer.
    pub(super) folder: PathBuf,
    pub(super) graph: PathBuf,
    pub(super) config: FolderConfig,
}

/// Names that exporters give the graph to run, the best one first. Other graphs are variants to choose from.
const NAMES: [&str; 3] = ["model.onnx", "decoder_model_merged.onnx", "decoder_model.onnx"];
/// Folders that exporters write it to.
const FOLDERS: [&str; 2] = ["", "onnx"];

/// Finds the graph at `path`: a model folder, or a graph's file if the folder holds several.
pub(super) fn find(path: &Path) -> Result<Place> {
    if path.is_file() && path.extension().is_some_and(|end| end == "onnx") {
        let beside = path.parent().unwrap_or(Path::new(""));
        // Graphs may be in a subfolder of the one with the configuration.
        let above = beside.parent().filter(|_| beside.file_name().is_some_and(|name| name == "onnx"));
        let folder = match FolderConfig::is_in(beside) {
            true => beside,
            false => above.unwrap_or(beside),
        };
        return Ok(Place { folder: folder.into(), graph: path.into(), config: FolderConfig::read(folder)? });
    }
    if !path.is_dir() {
        let what = if path.exists() { "is not a folder" } else { "does not exist" };
        return Err(Error::invalid_model(format!(
            "model folder {} {what}. Give a folder written by `foreturn export`, or a graph (*.onnx) in one",
            path.display()
        )));
    }
    let config = FolderConfig::read(path)?;
    let graph = match &config.model.decoder.filename {
        Some(name) => path.join(name),
        None => search(path)?,
    };
    Ok(Place { folder: path.into(), graph, config })
}

/// The graph of a folder whose configuration doesn't name one.
fn search(folder: &Path) -> Result<PathBuf> {
    for name in NAMES {
        let found: Vec<PathBuf> =
            FOLDERS.iter().map(|inner| folder.join(inner).join(name)).filter(|file| file.is_file()).collect();
        match &found[..] {
            [] => {}
            [file] => return Ok(file.clone()),
            several => return Err(ambiguous(folder, several)),
        }
    }
    let mut graphs: Vec<PathBuf> = FOLDERS.iter().flat_map(|inner| graphs_in(&folder.join(inner))).collect();
    graphs.sort();
    match &graphs[..] {
        [] => Err(Error::invalid_model(format!(
            "{} holds no graph (*.onnx), neither directly nor in `onnx`. Export the \
             checkpoint with `foreturn export --from {0} --to <folder>`",
            folder.display()
        ))),
        [file] => Ok(file.clone()),
        several => Err(ambiguous(folder, several)),
    }
}

fn graphs_in(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "onnx")).collect()
}

fn ambiguous(folder: &Path, files: &[PathBuf]) -> Error {
    let names: Vec<String> =
        files.iter().map(|file| file.strip_prefix(folder).unwrap_or(file).display().to_string()).collect();
    Error::invalid_model(format!(
        "{} holds several graphs ({}). Give the path of one of them instead of the folder",
        folder.display(),
        names.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_graph_is_found_by_name_and_several_have_to_be_chosen_from() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        let write = |name: &str, text: &str| std::fs::write(path.join(name), text).expect("written");
        let config = r#"{"vocab_size": 9, "max_position_embeddings": 8}"#;
        let refused = |path: &Path| find(path).err().expect("refused").to_string();
        assert!(refused(path).contains("neither genai_config.json nor config.json"));
        write("config.json", config);
        assert!(refused(path).contains("holds no graph"));
        std::fs::create_dir(path.join("onnx")).expect("a folder");
        write("onnx/model_q4.onnx", "");
        assert_eq!(find(path).expect("the only one").graph, path.join("onnx/model_q4.onnx"));
        write("onnx/model_fp16.onnx", "");
        let message = refused(path);
        assert!(message.contains("onnx/model_fp16.onnx, onnx/model_q4.onnx"), "{message}");
        let chosen = find(&path.join("onnx/model_q4.onnx")).expect("chosen");
        assert_eq!((chosen.folder.as_path(), chosen.graph), (path, path.join("onnx/model_q4.onnx")));
        write("onnx/model.onnx", "");
        assert_eq!(find(path).expect("by name").graph, path.join("onnx/model.onnx"));
        write("model.onnx", "");
        assert!(refused(path).contains("several"));
    }
}
