//! A file that appears whole or not at all. It is written under a temporary name beside its final one, and then renamed.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Writes `content` to `path`. Through a symbolic link, the file that it leads to is replaced, not the link.
pub(super) fn write(path: &Path, content: &[u8]) -> Result<()> {
    let target = resolve(path)?;
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    let partial = target.with_file_name(name);
    let written = File::create_new(&partial)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&partial, &target));
    written.map_err(|error| {
        if error.kind() != std::io::ErrorKind::AlreadyExists {
            // If this fails too, the name of the file says what it is.
            let _ = fs::remove_file(&partial);
        }
        Error::io("write", path, error)
    })
}

/// The file to replace or to make. Devices and folders are not replaced.
fn resolve(path: &Path) -> Result<PathBuf> {
    match fs::canonicalize(path) {
        Ok(target) if target.is_file() => Ok(target),
        Ok(_) => Err(Error::invalid_request(format!(
            "{} is not a regular file, and a page cannot take its place; give the name of a file",
            path.display()
        ))),
        Err(_) if path.file_name().is_some() => Ok(path.to_owned()),
        Err(error) => Err(Error::io("write", path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
