//! The reason why a provider can't be had, from what ONNX Runtime says.
//!
//! Its messages name a file or a number. What is added here is the package that brings the file, or the thing to look
//! at. Texts that are not known stay as they are.

use super::Provider;

/// Libraries that providers load, and what brings them.
const BROUGHT_BY: [(&str, &str); 10] = [
    ("libcublasLt.so.13", "install the Python package nvidia-cublas (version 13)"),
    ("libcublas.so.13", "install the Python package nvidia-cublas (version 13)"),
    ("libcudart.so.13", "install the Python package nvidia-cuda-runtime (version 13)"),
    ("libcurand.so.10", "install the Python package nvidia-curand"),
    ("libcufft.so.12", "install the Python package nvidia-cufft"),
    ("libnvrtc.so.13", "install the Python package nvidia-cuda-nvrtc (version 13)"),
    ("libcudnn.so.9", "install the Python package nvidia-cudnn-cu13"),
    ("libcuda.so.1", "install NVIDIA's driver, 580 or later; in a container, start it with the GPU's devices"),
    ("libnvinfer.so.10", TENSORRT),
    ("libnvonnxparser.so.10", TENSORRT),
];

const TENSORRT: &str = "install TensorRT 10 for CUDA 13 (tensorrt-cu13 of NVIDIA's index; TensorRT 11 has other names)";

/// Where NVIDIA's libraries are looked for, for messages.
const PLACES: &str = "foreturn looks in nvidia/cu13/lib, nvidia/cudnn/lib and tensorrt_libs beside ONNX Runtime's package, \
                      beside its library, and where the system's loader does";

/// What ONNX Runtime said when `provider` was added to a session, and what to do about it.
pub(super) fn explain(provider: Provider, said: &str) -> String {
    let said = said.trim().trim_end_matches('.');
    let has = |part: &str| said.contains(part);
    if has("is not enabled in this build") {
        return format!(
            "{said}: this ONNX Runtime was built without it. Install the Python package {}, and point `library` \
             under [runtime] or ORT_DYLIB_PATH at its libonnxruntime.so.*",
            package(provider)
        );
    }
    if let Some((file, remedy)) = missing(said) {
        return format!("{file} is missing: {remedy}. {PLACES}. (ONNX Runtime: {said})");
    }
    let remedy = if has("CUDA failure 100") {
        "the driver is there, but it sees no device: see `nvidia-smi`, and CUDA_VISIBLE_DEVICES"
    } else if has("CUDA failure 101") {
        "there is no device of that number: correct `device_id` under provider_options"
    } else if has("CUDA failure 35:") {
        "the driver is older than CUDA 13 needs: install 580 or later"
    } else if has("CUDA failure 2:") {
        "the device has no memory left: stop other processes on it, or set gpu_mem_limit and kv_cache"
    } else if has("Unknown provider option") {
        "this ONNX Runtime does not know the option: leave it out, or use version 1.31 or later"
    } else {
        return said.to_owned();
    };
    format!("{remedy}. (ONNX Runtime: {said})")
}

/// The Python package of an ONNX Runtime that has `provider`.
pub(super) fn package(provider: Provider) -> &'static str {
    match provider {
        Provider::Cpu => "onnxruntime",
        Provider::Cuda | Provider::TensorRt => "onnxruntime-gpu",
        Provider::WebGpu => "onnxruntime-ep-webgpu",
    }
}

/// The library that the system's loader did not find, and its remedy.
fn missing(said: &str) -> Option<(&str, &'static str)> {
    let (_, loader) = said.split_once("with error: ")?;
    let (file, rest) = loader.split_once(": ")?;
    if !rest.contains("cannot open shared object file") {
        return None;
    }
    let known = BROUGHT_BY.iter().find(|(name, _)| *name == file);
    Some((file, known.map_or("install what brings it", |(_, remedy)| remedy)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages of ONNX Runtime 1.31.1, as it gave them.
    #[test]
    fn each_state_names_what_is_missing_and_what_brings_it() {
        let library = |file: &str| {
            format!(
                "/site/onnxruntime/capi/provider_bridge_ort.cc:1 Failed to load library \
                 /site/onnxruntime/capi/libonnxruntime_providers_cuda.so with error: {file}: cannot open shared object \
                 file: No such file or directory"
            )
        };
        for (said, wanted) in [
            ("CUDA execution provider is not enabled in this build.".to_owned(), "onnxruntime-gpu"),
            (library("libcublasLt.so.13"), "libcublasLt.so.13 is missing: install the Python package nvidia-cublas"),
            (library("libcurand.so.10"), "nvidia-curand"),
            (library("libcuda.so.1"), "libcuda.so.1 is missing: install NVIDIA's driver, 580 or later"),
            (library("libnvinfer.so.10"), "TensorRT 10 for CUDA 13"),
            (library("libother.so.3"), "libother.so.3 is missing: install what brings it"),
            ("CUDA failure 100: no CUDA-capable device is detected ; GPU=0".to_owned(), "sees no device"),
            ("CUDA failure 101: invalid device ordinal".to_owned(), "correct `device_id`"),
            ("CUDA failure 35: CUDA driver version is insufficient".to_owned(), "older than CUDA 13"),
            ("Unknown provider option: \"x\"".to_owned(), "does not know the option"),
        ] {
            let explained = explain(Provider::Cuda, &said);
            assert!(explained.contains(wanted), "{wanted} is not in {explained}");
            assert!(explained.contains(said.trim_end_matches('.')), "what ONNX Runtime said is left out: {explained}");
        }
        assert_eq!(explain(Provider::Cuda, "something new."), "something new");
    }
}
