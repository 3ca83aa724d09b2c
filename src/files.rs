//! Files that others made or may change: opened only if they are ordinary, and known again.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Opens an ordinary file to read it. A pipe is refused, because opening it would wait for a writer; so are folders and
/// devices, which never end.
pub(crate) fn open(path: &Path) -> io::Result<(File, Metadata)> {
    // Opened without waiting, and looked at afterwards: what stands under the name may change in between.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)?;
    let metadata = file.metadata()?;
    match metadata.is_file() {
        true => Ok((file, metadata)),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not an ordinary file")),
    }
}

/// A file as it was when it was opened.
///
/// Weights are mapped and read when a model is loaded, some time after its folder was read and checked. A file that is
/// written anew in between is another model, so it is known by length, time of change and place on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    path: PathBuf,
    length: u64,
    modified: (i64, i64),
    place: (u64, u64),
}

impl Seen {
    pub(crate) fn new(path: &Path, metadata: &Metadata) -> Self {
        Seen {
            path: path.to_owned(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            place: (metadata.dev(), metadata.ino()),
        }
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Refuses a file that is no longer what it was.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidModel`](crate::ErrorKind::InvalidModel) that says what changed.
    pub(crate) fn check(&self) -> Result<()> {
        let changed = match std::fs::metadata(&self.path) {
            Err(error) => format!("it can't be found any more: {error}"),
            Ok(now) => match Seen::new(&self.path, &now) {
                now if now == *self => return Ok(()),
                now if now.place != self.place => "another file has its name".to_owned(),
                now if now.length != self.length => format!("it had {} bytes and has {}", self.length, now.length),
                _ => "it was written to".to_owned(),
            },
        };
        Err(Error::invalid_model(format!(
            "{} has changed since it was opened ({changed}). Open it again once nobody writes to it",
            self.path.display()
        )))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use super::*;

    #[test]
    fn only_ordinary_files_are_opened_and_nothing_waits() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for path in [&pipe, folder.path(), Path::new("/dev/zero")] {
            let error = open(path).unwrap_err();
            assert!(error.to_string().contains("not an ordinary file"), "{}: {error}", path.display());
        }
        assert_eq!(open(&folder.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn every_change_of_a_file_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        let changes: [(&str, &dyn Fn()); 4] = [
            ("has 2", &|| fs::File::create(&path).unwrap().write_all(b"ab").unwrap()),
            ("written to", &|| fs::File::options().write(true).open(&path).unwrap().write_all(b"x").unwrap()),
            ("another file", &|| {
                fs::write(folder.path().join("new"), "abc").unwrap();
                fs::rename(folder.path().join("new"), &path).unwrap();
            }),
            ("can't be found", &|| fs::remove_file(&path).unwrap()),
        ];
        for (expected, change) in changes {
            fs::write(&path, "abc").unwrap();
            let past = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
            fs::File::options().write(true).open(&path).unwrap().set_modified(past).unwrap();
            let (_, metadata) = open(&path).unwrap();
            let seen = Seen::new(&path, &metadata);
            seen.check().unwrap();
            change();
            let error = seen.check().unwrap_err().to_string();
            assert!(error.contains("changed since it was opened") && error.contains(expected), "{error}");
        }
    }
}
