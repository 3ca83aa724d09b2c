//! A file that appears whole or not at all. It is written under a temporary name beside its final one, and then renamed.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, Result};

/// Replaces the file at `path` by what `write` writes. Through a symbolic link, the file that it leads to is replaced, not
/// the link.
///
/// # Errors
/// What `write` returns, or the file can't be written. The old file then stays.
pub fn replace(path: &Path, write: impl FnOnce(&mut (dyn Write + Send)) -> Result<()>) -> Result<()> {
    // Threads of this process have names of their own; what a killed one left may be overwritten.
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let target = resolve(path)?;
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}-{}.partial", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    let partial = target.with_file_name(name);
    let failed = |error| Error::io("write", path, error);
    let written = File::create(&partial).map_err(failed).and_then(|file| {
        let mut out = BufWriter::new(file);
        write(&mut out)?;
        out.flush().and_then(|()| out.get_ref().sync_all()).map_err(failed)?;
        fs::rename(&partial, &target).map_err(failed)
    });
    if written.is_err() {
        // If this fails too, the name of the file says what it is.
        let _ = fs::remove_file(&partial);
    }
    written
}

/// The file to replace or to make. Devices and folders are not replaced.
fn resolve(path: &Path) -> Result<PathBuf> {
    match fs::canonicalize(path) {
        Ok(target) if target.is_file() => Ok(target),
        Ok(_) => Err(Error::invalid_request(format!(
            "{} is not a regular file, and none can take its place; give the name of a file",
            path.display()
        ))),
        Err(_) if path.file_name().is_some() => Ok(path.to_owned()),
        Err(error) => Err(Error::io("write", path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, content: &[u8]) -> Result<()> {
        replace(path, |out| out.write_all(content).map_err(|e| Error::io("write", path, e)))
    }

    #[test]
    fn a_page_replaces_another_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let page = folder.path().join("page.html");
        write(&page, b"one").unwrap();
        write(&page, b"two").unwrap();
        assert_eq!(fs::read(&page).unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_path_that_is_not_a_file_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        // It stands for devices, which would be lost if a file took their place.
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for path in [folder.path(), &socket] {
            assert!(write(path, b"x").unwrap_err().to_string().contains("is not a regular file"));
        }
        assert!(write(&folder.path().join("none/page.html"), b"x").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn links_stay_links() {
        let folder = tempfile::tempdir().unwrap();
        let [page, link] = ["page.html", "link.html"].map(|name| folder.path().join(name));
        fs::write(&page, "one").unwrap();
        std::os::unix::fs::symlink(&page, &link).unwrap();
        write(&link, b"two").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&page).unwrap(), b"two");
    }
}
