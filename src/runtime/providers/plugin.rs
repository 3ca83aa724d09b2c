//! ONNX Runtime's WebGPU plug-in: a library of its own, registered once, that finds devices.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ort::device::Device;
use ort::memory::MemoryInfo;

use super::super::environment::Environment;
use super::Provider;
use super::failure::package;

/// File name of the plug-in.
const LIBRARY: &str = if cfg!(target_os = "macos") {
    "libonnxruntime_providers_webgpu.dylib"
} else {
    "libonnxruntime_providers_webgpu.so"
};
/// Variable with the plug-in's path.
const VARIABLE: &str = "FORETURN_WEBGPU_LIBRARY";
/// The provider's name in ONNX Runtime.
pub(super) const NAME: &str = "WebGpuExecutionProvider";

/// Whether it is registered, which is done once per process. After a failure it is tried again, because the file or the variable
/// may have come meanwhile.
static REGISTERED: Mutex<bool> = Mutex::new(false);

/// The first device of the plug-in.
///
/// # Errors
/// The plug-in is not there or can't be loaded, or it has no device.
pub(super) fn device(environment: &Environment) -> Result<Device<'_>, String> {
    register(environment)?;
    environment.ort.devices().find(|device| device.ep().is_ok_and(|name| name == NAME)).ok_or_else(|| {
        "the plug-in finds no device: it needs a GPU with a Vulkan driver. ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER=1 allows a \
         driver in software too, such as Mesa's lavapipe (25 or later; Debian: mesa-vulkan-drivers), which \
         VK_DRIVER_FILES may name"
            .to_owned()
    })
}

/// The memory of the plug-in's device.
pub(super) fn memory(environment: &Environment) -> Result<MemoryInfo<'static>, String> {
    Ok(device(environment)?.memory_info(false).to_owned())
}

fn register(environment: &Environment) -> Result<(), String> {
    let mut registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
    if !*registered {
        try_register(environment)?;
        *registered = true;
    }
    Ok(())
}

fn try_register(environment: &Environment) -> Result<(), String> {
    let path = find(&environment.info().library, std::env::var_os(VARIABLE).map(PathBuf::from))?;
    let failed = |e: ort::Error| format!("{}: ONNX Runtime cannot load the plug-in: {e}", path.display());
    environment.ort.register_ep_library("foreturn.webgpu", &path).map_err(failed)
}

/// The plug-in named by the variable; otherwise the one beside ONNX Runtime's `library`, or in the package beside its own.
fn find(library: &Path, named: Option<PathBuf>) -> Result<PathBuf, String> {
    if let Some(path) = named.filter(|path| !path.as_os_str().is_empty()) {
        return match path.is_file() {
            true => Ok(path),
            false => Err(format!("{VARIABLE} names {}, which is not a file", path.display())),
        };
    }
    let beside = library.parent().unwrap_or(Path::new("/"));
    let site = beside.ancestors().nth(2).filter(|_| beside.ends_with("onnxruntime/capi"));
    let places = [Some(beside.to_owned()), site.map(|site| site.join("onnxruntime_ep_webgpu"))];
    let found = places.iter().flatten().map(|folder| folder.join(LIBRARY)).find(|path| path.is_file());
    found.ok_or_else(|| {
        let tried: Vec<_> = places.iter().flatten().map(|folder| folder.display().to_string()).collect();
        format!(
            "{LIBRARY} is missing in {}: install the Python package {}, and point {VARIABLE} at the file in it",
            tried.join(" and "),
            package(Provider::WebGpu)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plug_in_is_found_where_it_is_named_or_in_packages() {
        let site = tempfile::tempdir().expect("a folder");
        let library = site.path().join("onnxruntime/capi/libonnxruntime.so");
        let refused = find(&library, None).expect_err("it is not there");
        assert!(refused.contains("onnxruntime-ep-webgpu") && refused.contains(VARIABLE), "{refused}");
        let package = site.path().join("onnxruntime_ep_webgpu");
        std::fs::create_dir(&package).expect("made");
        std::fs::write(package.join(LIBRARY), "").expect("written");
        assert_eq!(find(&library, None), Ok(package.join(LIBRARY)));
        assert_eq!(find(&library, Some(package.join(LIBRARY))), Ok(package.join(LIBRARY)));
        let wrong = find(&library, Some("/nowhere".into())).expect_err("it is not there");
        assert_eq!(wrong, "FORETURN_WEBGPU_LIBRARY names /nowhere, which is not a file");
    }
}
