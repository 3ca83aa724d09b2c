//! Files that others made or may change. They are read only if they are ordinary files, up to a maximum size, and
//! changes are detected. Files of our own are replaced whole.
//!
//! The library reads all files through this module. It is public only because the command line does so too.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::{Error, ErrorKind, Result, mistaken};

mod replace;

pub use replace::replace;

/// A kind of file: its maximum size, and the kind of error for an unusable one.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    most: u64,
    unfit: ErrorKind,
}

impl Kind {
    /// A configuration of a model. Those with the most labels have a few MB.
    pub const CONFIG: Kind = Kind { most: 64 << 20, unfit: ErrorKind::InvalidModel };
    /// A `tokenizer.json`. The largest published one has about 35 MB.
    pub const TOKENIZER: Kind = Kind { most: 512 << 20, unfit: ErrorKind::InvalidModel };
    /// A chat template. The largest published one has 30 kB.
    pub const TEMPLATE: Kind = Kind { most: 1 << 20, unfit: ErrorKind::InvalidModel };
    /// A graph. This is the maximum of Protocol Buffers.
    pub const GRAPH: Kind = Kind { most: i32::MAX as u64, unfit: ErrorKind::InvalidModel };
    /// Settings and rubrics.
    pub const SETTINGS: Kind = Kind { most: 16 << 20, unfit: ErrorKind::InvalidConfig };
    /// Requests, messages, schemas and records.
    pub const INPUT: Kind = Kind { most: 1 << 30, unfit: ErrorKind::InvalidRequest };

    /// Maximum number of bytes to read.
    pub fn most(self) -> u64 {
        self.most
    }

    fn refuse(self, path: &Path, why: impl std::fmt::Display) -> Error {
        Error::new(self.unfit, format!("{} {why}", path.display()))
    }
}

/// Opens an ordinary file for reading. A pipe is refused, because opening it would wait for a writer. So are folders,
/// and devices, which never end.
pub(crate) fn open(path: &Path) -> io::Result<(File, Metadata)> {
    // Opened without waiting and checked afterwards, because the file under the name may change in between.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)?;
    let metadata = file.metadata()?;
    match metadata.is_file() {
        true => Ok((file, metadata)),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, NOT_ORDINARY)),
    }
}

const NOT_ORDINARY: &str = "is not an ordinary file";

/// Like [`open`], but a file that isn't ordinary is an error of the kind.
pub(crate) fn open_as(path: &Path, kind: Kind) -> Result<(File, Metadata)> {
    open(path).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput if error.to_string() == NOT_ORDINARY => {
            kind.refuse(path, "is not an ordinary file: is it the right one?")
        }
        _ => Error::io("read", path, error),
    })
}

/// Reads a whole file.
///
/// # Errors
/// [`ErrorKind::Io`] if it can't be read; an error of the kind if it isn't an ordinary file, is too large, or is only a
/// pointer to the file.
pub fn read(path: &Path, kind: Kind) -> Result<Vec<u8>> {
    let (file, metadata) = open_as(path, kind)?;
    read_all(file, path, kind, metadata.len())
}

/// Like [`read`], but `None` if there is no such file.
///
/// # Errors
/// As [`read`].
pub fn read_if_there(path: &Path, kind: Kind) -> Result<Option<Vec<u8>>> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // Other problems are found when it is read.
        _ => read(path, kind).map(Some),
    }
}

/// Opens a file that the user names. Pipes are allowed here, because a shell's `<(…)` is one and has a writer.
pub(crate) fn open_named(path: &Path, kind: Kind) -> Result<(File, u64)> {
    if ["/dev/fd", "/dev/stdin", "/proc/self/fd"].iter().any(|place| path.starts_with(place)) {
        let file = OpenOptions::new().read(true).open(path).map_err(|error| Error::io("read", path, error))?;
        return Ok((file, 0));
    }
    open_as(path, kind).map(|(file, metadata)| (file, metadata.len()))
}

/// The text of a file of the kernel (`/proc`, `/sys`). It has no size to check, and only the kernel writes it.
#[allow(clippy::disallowed_methods, reason = "a file of the kernel's own")]
pub(crate) fn read_kernel(path: impl AsRef<Path>) -> io::Result<String> {
    std::fs::read_to_string(path)
}

/// The text of a file that the user names, without a byte order mark.
///
/// # Errors
/// As [`read`], and if it is not UTF-8.
pub fn read_text(path: &Path, kind: Kind) -> Result<String> {
    let (file, length) = open_named(path, kind)?;
    text(read_all(file, path, kind, length)?, path, kind)
}

/// Like [`read_text`], but `-` is standard input.
///
/// # Errors
/// As [`read_text`].
pub fn read_argument(path: &Path, kind: Kind) -> Result<String> {
    if path == Path::new("-") {
        let name = Path::new("standard input");
        return text(read_all(io::stdin(), name, kind, 0)?, name, kind);
    }
    read_text(path, kind)
}

fn read_all(source: impl Read, path: &Path, kind: Kind, length: u64) -> Result<Vec<u8>> {
    let too_large = || {
        let more = format!("such a file may have at most {} bytes. Is it the right one?", kind.most);
        kind.refuse(path, format!("is too large: {more}"))
    };
    if length > kind.most {
        return Err(too_large());
    }
    // The length may be wrong, or no longer true.
    let mut bytes = Vec::new();
    source.take(kind.most + 1).read_to_end(&mut bytes).map_err(|error| Error::io("read", path, error))?;
    if bytes.len() as u64 > kind.most {
        return Err(too_large());
    }
    match mistaken::pointer(&bytes) {
        None => Ok(bytes),
        Some(what) => Err(kind.refuse(path, what)),
    }
}

fn text(bytes: Vec<u8>, path: &Path, kind: Kind) -> Result<String> {
    let text = String::from_utf8(bytes).map_err(|error| {
        let what = mistaken::recognise(error.as_bytes()).map(str::to_owned);
        let what = what.unwrap_or_else(|| format!("is not UTF-8: {}", error.utf8_error()));
        kind.refuse(path, what)
    })?;
    Ok(match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    })
}

/// The state of a file when it was opened.
///
/// Weights are mapped and read when a model is loaded, some time after its folder was read and checked. A file that is
/// rewritten in between is another model, so it is identified by length, time of change and place on the disk.
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

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses a file that has changed.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidModel`](crate::ErrorKind::InvalidModel), naming the change.
    pub(crate) fn check(&self) -> Result<()> {
        self.compare(std::fs::metadata(&self.path))
    }

    /// Refuses a file that was written to since it was opened. Another file may have its name by now, or none.
    ///
    /// # Errors
    /// As [`Seen::check`].
    pub(crate) fn check_open(&self, file: &File) -> Result<()> {
        self.compare(file.metadata())
    }

    fn compare(&self, now: io::Result<Metadata>) -> Result<()> {
        let changed = match now {
            Err(error) => format!("it no longer exists: {error}"),
            Ok(now) => match Seen::new(&self.path, &now) {
                now if now == *self => return Ok(()),
                now if now.place != self.place => "another file has its name".to_owned(),
                now if now.length != self.length => format!("it had {} bytes and now has {}", self.length, now.length),
                _ => "it was written to".to_owned(),
            },
        };
        Err(Error::invalid_model(format!(
            "{} has changed since it was opened ({changed}). Open it again when nothing writes to it",
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
            let error = read(path, Kind::CONFIG).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidModel, "{error}");
            assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
        }
        assert_eq!(open(&folder.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_file_is_read_up_to_the_size_of_its_kind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        // A sparse file: it takes no space, and refusing it takes no time.
        fs::File::create(&path).unwrap().set_len(Kind::TEMPLATE.most + 1).unwrap();
        let error = read(&path, Kind::TEMPLATE).unwrap_err();
        assert!(error.to_string().contains("at most 1048576 bytes"), "{error}");
        fs::File::create(&path).unwrap().set_len(Kind::TEMPLATE.most).unwrap();
        assert_eq!(read(&path, Kind::TEMPLATE).unwrap().len() as u64, Kind::TEMPLATE.most);
        let endless = read_all(io::repeat(1), &path, Kind::TEMPLATE, 0).unwrap_err();
        assert_eq!(endless.to_string(), error.to_string());
        assert_eq!(read_if_there(&folder.path().join("none"), Kind::CONFIG).unwrap(), None);
        assert!(read(&folder.path().join("none"), Kind::CONFIG).is_err());
    }

    #[test]
    fn text_is_utf8_and_loses_its_byte_order_mark() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let read = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            read_argument(&path, Kind::INPUT).map_err(|error| (error.kind(), error.to_string()))
        };
        assert_eq!(read("\u{feff}né".as_bytes()).unwrap(), "né");
        let (kind, message) = read(b"\xff\xfeh\0i\0").unwrap_err();
        assert_eq!(kind, ErrorKind::InvalidRequest);
        assert!(message.contains("is UTF-16"), "{message}");
        assert!(read(b"a\xf0").unwrap_err().1.contains("is not UTF-8"));
    }

    #[test]
    fn a_pipe_that_the_shell_made_is_read() {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"\xef\xbb\xbftext").unwrap();
        drop(writer);
        let path = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        assert_eq!(read_text(Path::new(&path), Kind::INPUT).unwrap(), "text");
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
            ("no longer exists", &|| fs::remove_file(&path).unwrap()),
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
