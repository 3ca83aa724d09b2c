//! A folder that appears whole or not at all: it is filled under a temporary name beside its final one, then renamed.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::{Error, ErrorKind, Result};

/// The files that mark a finished export; only folders that hold one of them are ever replaced.
const MARKS: [&str; 2] = [super::genai::FILE, super::HEAD];

/// A folder being filled. Dropped without [`Staging::finish`], it is removed.
#[derive(Debug)]
pub(super) struct Staging {
    path: PathBuf,
    target: PathBuf,
    finished: bool,
}

impl Staging {
    /// Starts a folder that is to become `target`. An existing `target` is refused, unless `overwrite` is set and it
    /// is empty or an earlier export.
    pub(super) fn create(target: &Path, overwrite: bool) -> Result<Self> {
        let target = std::path::absolute(target).map_err(|error| Error::io("resolve", target, error))?;
        refuse_existing(&target, overwrite)?;
        let path = sibling(&target, "partial")?;
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(|error| Error::io("create", parent, error))?;
        }
        fs::create_dir(&path).map_err(|error| Error::io("create", &path, error))?;
        Ok(Staging { path, target, finished: false })
    }

    /// The folder to write to for now.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a whole file of the folder, or of a folder in it.
    pub(super) fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.path.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|error| Error::io("create", parent, error))?;
        }
        // It is always a new file, because writing into a linked one would write into the checkpoint.
        let file = fs::File::create_new(&path).and_then(|mut file| file.write_all(content));
        file.map_err(|error| Error::io("write", &path, error))
    }

    /// Gives the folder its name.
    pub(super) fn finish(mut self) -> Result<()> {
        let old = sibling(&self.target, "old")?;
        let replaced = self.target.exists();
        if replaced {
            fs::rename(&self.target, &old).map_err(|error| Error::io("replace", &self.target, error))?;
        }
        if let Err(error) = fs::rename(&self.path, &self.target) {
            if replaced {
                // Best effort: the earlier folder comes back.
                let _ = fs::rename(&old, &self.target);
            }
            return Err(Error::io("create", &self.target, error));
        }
        self.finished = true;
        if replaced {
            fs::remove_dir_all(&old).map_err(|error| Error::io("remove", &old, error))?;
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.finished {
            // Nothing can be done about a failure here. The name says what the folder is.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn refuse_existing(target: &Path, overwrite: bool) -> Result<()> {
    let Ok(metadata) = fs::symlink_metadata(target) else { return Ok(()) };
    let refuse =
        |why: &str| Err(Error::new(ErrorKind::InvalidRequest, format!("cannot export to {}: {why}", target.display())));
    if !metadata.is_dir() {
        return refuse("it exists and is not a folder: name another");
    }
    if !overwrite {
        return refuse("it exists already: remove it, name another, or ask to overwrite it");
    }
    let is_empty = fs::read_dir(target).map_err(|error| Error::io("read", target, error))?.next().is_none();
    if !is_empty && !MARKS.iter().any(|mark| target.join(mark).exists()) {
        let marks = MARKS.join(" or ");
        return refuse(&format!("it holds files but no {marks}, so it is not an earlier export: name another folder"));
    }
    Ok(())
}

/// `.NAME.PURPOSE-PID` beside `target`: unique among running processes, hidden, and on the same file system.
fn sibling(target: &Path, purpose: &str) -> Result<PathBuf> {
    let name = target.file_name().ok_or_else(|| {
        Error::invalid_request(format!("cannot export to {}: it has no name of its own", target.display()))
    })?;
    Ok(target.with_file_name(format!(".{}.{purpose}-{}", name.to_string_lossy(), std::process::id())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn an_unfinished_folder_leaves_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let staging = Staging::create(&parent.path().join("model"), false).unwrap();
        staging.write("x", b"1").unwrap();
        assert_eq!(entries(parent.path()).len(), 1);
        drop(staging);
        assert!(entries(parent.path()).is_empty());
    }

    #[test]
    fn only_an_earlier_export_is_overwritten() {
        let parent = tempfile::tempdir().unwrap();
        let target = parent.path().join("model");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("thesis.tex"), "").unwrap();
        let error = Staging::create(&target, false).unwrap_err();
        assert!(error.to_string().contains("exists already"), "{error}");
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
        let error = Staging::create(&target, true).unwrap_err();
        assert!(error.to_string().contains("not an earlier export"), "{error}");

        fs::write(target.join(MARKS[0]), "").unwrap();
        let staging = Staging::create(&target, true).unwrap();
        staging.write("new", b"").unwrap();
        staging.finish().unwrap();
        assert_eq!(entries(&target), ["new"]);
        assert_eq!(entries(parent.path()), ["model"]);
    }
}
