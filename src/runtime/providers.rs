//! Execution providers. They are chosen in order and never replaced silently.

use std::ffi::CStr;

use ort::ep::{self, ExecutionProviderDispatch};
use ort::session::builder::SessionBuilder;
use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// An execution provider of ONNX Runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// The host's processor.
    Cpu,
    /// NVIDIA CUDA.
    Cuda,
    /// NVIDIA TensorRT.
    TensorRt,
}

/// The action if a configured provider isn't available.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnUnavailable {
    /// Refuse to load the model.
    #[default]
    Error,
    /// Go on with the next provider of the list and report it.
    Fallback,
}

/// The provider that runs a model, and the fate of those preferred to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProviderReport {
    /// The provider in use.
    pub used: Provider,
    /// Providers that came before it in the configuration, with the reason why each could not be used.
    pub unavailable: Vec<(Provider, String)>,
}

impl Provider {
    fn as_str(self) -> &'static str {
        match self {
            Provider::Cpu => "cpu",
            Provider::Cuda => "cuda",
            Provider::TensorRt => "tensorrt",
        }
    }

    fn dispatch(self) -> ExecutionProviderDispatch {
        match self {
            Provider::Cpu => ep::CPU::default().build(),
            Provider::Cuda => ep::CUDA::default().build(),
            Provider::TensorRt => ep::TensorRT::default().build(),
        }
        .error_on_failure()
    }
}

/// Registers the first provider of `preferred` that can run a decoder model.
///
/// # Errors
/// Under [`OnUnavailable::Error`] if the first can't; under [`OnUnavailable::Fallback`] if none can.
pub(crate) fn register(
    mut builder: SessionBuilder,
    preferred: &[Provider],
    on_unavailable: OnUnavailable,
) -> Result<(SessionBuilder, ProviderReport)> {
    let mut unavailable = Vec::new();
    for &provider in preferred {
        let reason = match try_register(&mut builder, provider) {
            Ok(()) => return Ok((builder, ProviderReport { used: provider, unavailable })),
            Err(reason) => reason,
        };
        if on_unavailable == OnUnavailable::Error {
            return Err(Error::new(
                ErrorKind::Runtime,
                format!(
                    "runtime.providers: `{}` is not available: {reason}. Remove it from the list, or set runtime.on_unavailable = \"fallback\" to go on with the next provider",
                    provider.as_str()
                ),
            ));
        }
        unavailable.push((provider, reason));
    }
    let tried: Vec<_> =
        unavailable.iter().map(|(provider, reason)| format!("`{}`: {reason}", provider.as_str())).collect();
    Err(Error::new(
        ErrorKind::Runtime,
        format!(
            "runtime.providers: none of the listed providers is available ({}). Add \"cpu\" to the list",
            tried.join("; ")
        ),
    ))
}

fn try_register(builder: &mut SessionBuilder, provider: Provider) -> Result<(), String> {
    provider.dispatch().register(builder).map_err(|e| e.to_string())?;
    match provider {
        Provider::Cpu => Ok(()),
        // It could be registered, but the paged engine binds host memory, and its operator runs on the CPU.
        Provider::Cuda | Provider::TensorRt => {
            Err("this version of foreturn runs decoder models on the CPU only".into())
        }
    }
}

/// Names of the providers compiled into the loaded library.
pub(crate) fn compiled_in() -> Vec<String> {
    let api = ort::api();
    let mut names: *mut *mut std::ffi::c_char = std::ptr::null_mut();
    let mut count = 0;
    // SAFETY: ONNX Runtime fills both outputs with an array of `count` NUL-terminated strings, which are copied before
    // the same API releases them. A failed call leaves the count at 0.
    unsafe {
        let status = (api.GetAvailableProviders)(&mut names, &mut count);
        if ort::Error::result_from_status(status).is_err() || names.is_null() {
            return Vec::new();
        }
        let copied =
            (0..count as usize).map(|i| CStr::from_ptr(*names.add(i)).to_string_lossy().into_owned()).collect();
        let status = (api.ReleaseAvailableProviders)(names, count);
        drop(ort::Error::result_from_status(status));
        copied
    }
}
