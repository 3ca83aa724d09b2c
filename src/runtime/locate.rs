//! The places of ONNX Runtime, in order: an explicit path, the host's own, `ORT_DYLIB_PATH`, beside this library or
//! this program, the `onnxruntime` package of the Python on the PATH, the system loader. The working directory is never
//! searched. If a path or the variable is given, no other place is tried, and a wrong one is an error.

use std::ffi::{CStr, OsStr, c_void};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The places to search if no explicit path is given.
///
/// The command line searches all of them. A library inside another program's process should not look at Python.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Places {
    /// The library that this process has already loaded, and no other place.
    pub loaded: bool,
    /// `ORT_DYLIB_PATH`, unless the process runs with raised privileges.
    pub environment: bool,
    /// The folder of the shared library that contains this code, if it is in one.
    pub beside_library: bool,
    /// `../onnxruntime/lib` seen from the executable's folder, then the executable's own folder.
    pub beside_program: bool,
    /// The `onnxruntime` package of the `python3` on the PATH.
    pub python_package: bool,
    /// The system's dynamic loader.
    pub system: bool,
}

impl Default for Places {
    fn default() -> Self {
        Places {
            loaded: false,
            environment: true,
            beside_library: true,
            beside_program: true,
            python_package: false,
            system: true,
        }
    }
}

/// The way in which a library was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Named by the caller or the configuration.
    Explicit,
    /// Already loaded by the host.
    Loaded,
    /// Named by `ORT_DYLIB_PATH`.
    Environment,
    /// Found in the folder of the shared library that contains this code.
    BesideLibrary,
    /// Found in a folder relative to the program.
    BesideProgram,
    /// Found in a Python package.
    PythonPackage,
    /// Left to the system's loader.
    System,
    /// Linked at build time (feature `download-ort`).
    Linked,
}

/// A library that may be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Found {
    /// The way in which it was found.
    pub source: Source,
    /// Its absolute path, or a bare name for the system's loader.
    pub path: PathBuf,
}

/// File name for the system's loader.
const LIBRARY: &str = if cfg!(target_os = "macos") { "libonnxruntime.dylib" } else { "libonnxruntime.so" };

/// Libraries to try, the best first, and a line for each place without one.
#[derive(Debug, Default)]
pub(crate) struct Search {
    pub(crate) found: Vec<Found>,
    pub(crate) misses: Vec<String>,
}

/// Looks in every requested place. Loads nothing.
pub(crate) fn search(explicit: Option<&Path>, places: Places) -> Search {
    let mut search = Search::default();
    if let Some(path) = explicit {
        // An explicit path is the caller's decision, so nothing else is tried.
        search.file(Source::Explicit, path.to_path_buf(), "the configured path");
        return search;
    }
    if places.loaded {
        // So is this: the host doesn't want another library beside its own.
        search.loaded();
        return search;
    }
    if places.environment && search.environment() {
        // This is a decision too.
        search.misses.push("other places: not searched, because ORT_DYLIB_PATH is set. Correct or unset it".into());
        return search;
    }
    if places.beside_library {
        search.beside_library();
    }
    if places.beside_program {
        search.beside_program();
    }
    if places.python_package {
        search.python_package();
    }
    if places.system {
        search.found.push(Found { source: Source::System, path: PathBuf::from(LIBRARY) });
    }
    search
}

impl Search {
    fn file(&mut self, source: Source, path: PathBuf, what: &str) {
        let absolute = match path.canonicalize() {
            Ok(absolute) => absolute,
            Err(e) => return self.misses.push(format!("{what}: {}: {e}", path.display())),
        };
        if absolute.is_dir() {
            self.folder(source, &absolute, what);
        } else {
            self.found.push(Found { source, path: absolute });
        }
    }

    fn folder(&mut self, source: Source, folder: &Path, what: &str) {
        match library_in(folder) {
            Some(path) => self.found.push(Found { source, path }),
            None => self.misses.push(format!("{what}: no {LIBRARY}* in {}", folder.display())),
        }
    }

    /// Whether the variable names the library.
    fn environment(&mut self) -> bool {
        let value = std::env::var_os("ORT_DYLIB_PATH").filter(|value| !value.is_empty());
        match value {
            None => self.misses.push("ORT_DYLIB_PATH: not set".into()),
            Some(_) if has_raised_privileges() => {
                self.misses.push("ORT_DYLIB_PATH: ignored, because this process runs with raised privileges".into());
            }
            Some(value) => {
                self.file(Source::Environment, value.into(), "ORT_DYLIB_PATH");
                return true;
            }
        }
        false
    }

    fn loaded(&mut self) {
        match object_with(c"OrtGetApiBase") {
            Some(path) => self.file(Source::Loaded, path, "the ONNX Runtime of this process"),
            None => self.misses.push(
                "loaded by this process: none with global symbols; load it before the engine is made (dlopen with \
                 RTLD_GLOBAL, or link it), or don't ask for the loaded one (use_loaded_runtime)"
                    .into(),
            ),
        }
    }

    fn beside_library(&mut self) {
        let here = beside_library as *const c_void;
        let program = std::env::current_exe().ok().and_then(|exe| exe.canonicalize().ok());
        // In a program of our own, the place beside the program comes next.
        let library =
            object_of(here).and_then(|path| path.canonicalize().ok()).filter(|path| Some(path) != program.as_ref());
        if let Some(folder) = library.as_deref().and_then(Path::parent) {
            self.folder(Source::BesideLibrary, folder, "beside the library");
        }
    }

    fn beside_program(&mut self) {
        let Some(folder) =
            std::env::current_exe().ok().and_then(|exe| exe.canonicalize().ok()?.parent().map(Path::to_path_buf))
        else {
            return self.misses.push("beside the program: the executable's path is unknown".into());
        };
        if let Some(up) = folder.parent() {
            self.folder(Source::BesideProgram, &up.join("onnxruntime/lib"), "beside the program");
        }
        self.folder(Source::BesideProgram, &folder, "beside the program");
    }

    fn python_package(&mut self) {
        // find_spec reads no package code of onnxruntime itself; -I keeps the working directory off sys.path.
        const PROGRAM: &str = "import importlib.util as u, os\nspec = u.find_spec('onnxruntime')\n\
            print(os.path.join(os.path.dirname(spec.origin), 'capi') if spec and spec.origin else '')";
        let what = "the Python package onnxruntime";
        match Command::new("python3").args(["-I", "-c", PROGRAM]).output() {
            Err(e) => self.misses.push(format!("{what}: cannot run python3: {e}")),
            Ok(output) => match String::from_utf8_lossy(&output.stdout).trim() {
                "" => self.misses.push(format!("{what}: not installed for the python3 on the PATH")),
                folder => self.folder(Source::PythonPackage, Path::new(folder), what),
            },
        }
    }
}

/// A symbol of this code, for finding its file.
fn beside_library() {}

/// The file of the program or library that `address` is in.
pub(super) fn object_of(address: *const c_void) -> Option<PathBuf> {
    let mut info = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: dladdr only looks the address up. On success it fills `info`. Its path is a NUL-terminated string that
    // lives as long as the object is loaded, and it is copied here.
    unsafe {
        if libc::dladdr(address, info.as_mut_ptr()) == 0 || (*info.as_ptr()).dli_fname.is_null() {
            return None;
        }
        Some(PathBuf::from(OsStr::from_bytes(CStr::from_ptr((*info.as_ptr()).dli_fname).to_bytes())))
    }
}

/// The file of the library whose global symbol this is, if one is loaded.
fn object_with(symbol: &CStr) -> Option<PathBuf> {
    // SAFETY: looks a name up; nothing is called.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, symbol.as_ptr()) };
    (!address.is_null()).then(|| object_of(address))?
}

/// The library in `folder`: `libonnxruntime.so`, otherwise the versioned name that wheels use.
fn library_in(folder: &Path) -> Option<PathBuf> {
    let plain = folder.join(LIBRARY);
    if plain.is_file() {
        return Some(plain);
    }
    let versioned = |name: &str| {
        if cfg!(target_os = "macos") {
            name.starts_with("libonnxruntime.") && name.ends_with(".dylib")
        } else {
            name.starts_with("libonnxruntime.so.")
        }
    };
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| versioned(name))
        .collect();
    names.sort();
    names.pop().map(|name| folder.join(name))
}

/// Whether the environment may come from a user with fewer rights than this process has.
fn has_raised_privileges() -> bool {
    // SAFETY: these calls take no arguments and only report the process's own ids.
    unsafe { libc::getuid() != libc::geteuid() || libc::getgid() != libc::getegid() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn explicit_path_excludes_every_other_place() {
        let search =
            search(Some(Path::new("/nowhere/libonnxruntime.so")), Places { python_package: true, ..Places::default() });
        assert!(search.found.is_empty());
        assert_eq!(search.misses.len(), 1);
        assert!(search.misses[0].contains("/nowhere/libonnxruntime.so"), "{:?}", search.misses);
    }

    #[test]
    fn wheels_versioned_name_is_found_and_the_plain_one_preferred() {
        let folder = tempfile::tempdir().expect("temp dir");
        assert_eq!(library_in(folder.path()), None);
        std::fs::write(folder.path().join("libonnxruntime.so.1.32.0"), b"").expect("write");
        std::fs::write(folder.path().join("libonnxruntime_providers_shared.so"), b"").expect("write");
        assert_eq!(library_in(folder.path()), Some(folder.path().join("libonnxruntime.so.1.32.0")));
        std::fs::write(folder.path().join("libonnxruntime.so"), b"").expect("write");
        assert_eq!(library_in(folder.path()), Some(folder.path().join("libonnxruntime.so")));
    }

    #[test]
    fn nothing_is_looked_for_in_the_working_directory() {
        let places = Places { environment: false, beside_library: false, beside_program: false, ..Places::default() };
        let search = search(None, places);
        // A bare name goes to the system loader, which does not look in the working directory.
        assert_eq!(search.found, [Found { source: Source::System, path: LIBRARY.into() }]);
    }
}
