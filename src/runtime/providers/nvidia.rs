//! NVIDIA's libraries, loaded before the providers that need them.
//!
//! ONNX Runtime's CUDA provider is linked to cuBLAS, cuRAND and others by name. Python's packages unpack them where the
//! system's loader does not look. So they are loaded here first, with global symbols and in the order of their needs, as
//! onnxruntime's own Python package does. What is not found is left to the system's loader, and a failure is told by
//! the provider itself.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Once;

use super::super::environment::Environment;
use super::Provider;

/// Libraries in the order of their needs, and the folders below `site-packages` that bring them.
const CUDA: [(&str, &str); 7] = [
    ("libcudart.so.13", "nvidia/cu13/lib"),
    ("libcublasLt.so.13", "nvidia/cu13/lib"),
    ("libcublas.so.13", "nvidia/cu13/lib"),
    ("libnvrtc.so.13", "nvidia/cu13/lib"),
    ("libcurand.so.10", "nvidia/cu13/lib"),
    ("libcufft.so.12", "nvidia/cu13/lib"),
    ("libcudnn.so.9", "nvidia/cudnn/lib"),
];
const TENSORRT: [(&str, &str); 2] = [("libnvinfer.so.10", "tensorrt_libs"), ("libnvonnxparser.so.10", "tensorrt_libs")];

/// Loads what `provider` needs, if it is where Python's packages put it.
pub(super) fn preload(provider: Provider, environment: &Environment) {
    static FOR_CUDA: Once = Once::new();
    static FOR_TENSORRT: Once = Once::new();
    let library = environment.info().library;
    let load = |libraries: &[(&str, &str)]| {
        for path in found(&library, libraries) {
            open(&path);
        }
    };
    FOR_CUDA.call_once(|| load(&CUDA));
    if provider == Provider::TensorRt {
        FOR_TENSORRT.call_once(|| load(&TENSORRT));
    }
}

/// The files of `libraries` that are there, in their order: beside ONNX Runtime's `library`, or in the packages beside
/// its own (`site-packages/onnxruntime/capi/libonnxruntime.so`).
fn found(library: &Path, libraries: &[(&str, &str)]) -> Vec<PathBuf> {
    let Some(beside) = library.parent() else { return Vec::new() };
    let site = beside.ancestors().nth(2).filter(|_| beside.ends_with("onnxruntime/capi"));
    let places = |package: &str| [Some(beside.to_owned()), site.map(|site| site.join(package))];
    let find = |&(name, package): &(&str, &str)| {
        places(package).into_iter().flatten().map(|folder| folder.join(name)).find(|path| path.is_file())
    };
    libraries.iter().filter_map(find).collect()
}

/// Loads a library for good. Another of its name that is loaded already stays the one in use.
fn open(path: &Path) {
    let name = path.file_name().and_then(|name| CString::new(name.as_bytes()).ok());
    let (Some(name), Ok(path)) = (name, CString::new(path.as_os_str().as_bytes())) else { return };
    // SAFETY: both are texts that end with NUL. The libraries' initialisers are NVIDIA's and start no thread. They are
    // never closed, because the provider keeps pointers into them.
    unsafe {
        if libc::dlopen(name.as_ptr(), libc::RTLD_NOLOAD | libc::RTLD_LAZY).is_null() {
            libc::dlopen(path.as_ptr(), libc::RTLD_LAZY | libc::RTLD_GLOBAL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_in_packages_beside_the_runtimes_own() {
        let site = tempfile::tempdir().expect("a folder");
        let write = |path: &str| {
            let path = site.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(&path, "").expect("written");
            path
        };
        let library = write("onnxruntime/capi/libonnxruntime.so.1.31.1");
        let expected = [
            write("nvidia/cu13/lib/libcudart.so.13"),
            write("onnxruntime/capi/libcurand.so.10"),
            write("nvidia/cudnn/lib/libcudnn.so.9"),
        ];
        write("nvidia/cu13/lib/libcurand.so.10");
        assert_eq!(found(&library, &CUDA), expected, "in order, and beside the library first");
        let parser = write("tensorrt_libs/libnvonnxparser.so.10");
        assert_eq!(found(&library, &TENSORRT), [parser]);
        // Elsewhere, a folder two levels up is not a place for packages.
        assert_eq!(found(&write("opt/lib/libonnxruntime.so"), &CUDA), Vec::<PathBuf>::new());
    }
}
