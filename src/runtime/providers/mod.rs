//! Execution providers. They are chosen in order and never replaced silently.
//!
//! `probe` says whether a provider can be had here, before a model is read, because a model's graph is rewritten for the
//! provider that runs it. `register` adds it to a session. `options` checks the options of each, `nvidia` and `plugin`
//! load their libraries, `failure` says what is missing, and `turn` keeps threads apart.

mod failure;
mod nvidia;
mod options;
pub(super) mod placement;
mod plugin;
mod turn;

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::str::FromStr;

use ort::ep::{self, ArbitrarilyConfigurableExecutionProvider as _, ExecutionProvider as _};
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::Session as OrtSession;
use ort::session::builder::SessionBuilder;
use serde::{Deserialize, Serialize};

use super::environment::{self, Environment};
use super::{RuntimeOptions, ort_error};
use crate::{Error, Result};

pub use options::{OptionValue, ProviderOptions};
pub(super) use turn::turn;

/// An execution provider of ONNX Runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Provider {
    /// The host's processor.
    Cpu,
    /// NVIDIA CUDA.
    Cuda,
    /// NVIDIA TensorRT.
    TensorRt,
    /// ONNX Runtime's WebGPU plug-in.
    WebGpu,
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
#[non_exhaustive]
pub struct ProviderReport {
    /// The provider in use.
    pub used: Provider,
    /// Providers that came before it in the configuration, with the reason why each could not be used.
    pub unavailable: Vec<(Provider, String)>,
    /// Nodes of the graph that each provider runs, by ONNX Runtime's names; empty on the CPU, which runs all of them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub nodes: BTreeMap<String, usize>,
}

/// A provider, and whether it can be had here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ProviderState {
    /// The provider.
    pub provider: Provider,
    /// True if it can run models here.
    pub available: bool,
    /// The reason why it can't.
    pub reason: Option<String>,
}

impl ProviderReport {
    /// A provider that was the only one asked for.
    pub(crate) fn only(used: Provider) -> Self {
        ProviderReport { used, unavailable: Vec::new(), nodes: BTreeMap::new() }
    }
}

impl Provider {
    const ALL: [Provider; 4] = [Provider::Cpu, Provider::Cuda, Provider::TensorRt, Provider::WebGpu];

    /// Its name in a configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Provider::Cpu => "cpu",
            Provider::Cuda => "cuda",
            Provider::TensorRt => "tensorrt",
            Provider::WebGpu => "webgpu",
        }
    }
}

impl FromStr for Provider {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Provider::ALL.into_iter().find(|provider| provider.as_str() == name).ok_or_else(|| {
            Error::invalid_request(format!("provider {name:?}: use \"cpu\", \"cuda\", \"tensorrt\" or \"webgpu\""))
        })
    }
}

/// The state of each provider on this machine, with the options that are set.
///
/// # Errors
/// ONNX Runtime is not found.
pub fn states(options: &RuntimeOptions) -> Result<Vec<ProviderState>> {
    let state = |provider| {
        let reason = probe(provider, options)?.err();
        Ok(ProviderState { provider, available: reason.is_none(), reason })
    };
    Provider::ALL.into_iter().map(state).collect()
}

/// What `use_it` makes of the first provider of `options` that it takes. It is given that provider, and those before it. Its inner
/// error says why the provider can't run what it is wanted for.
///
/// # Errors
/// Under [`OnUnavailable::Error`] if the first can't; under [`OnUnavailable::Fallback`] if none can.
pub(crate) fn choose<T>(
    options: &RuntimeOptions,
    mut use_it: impl FnMut(&ProviderReport) -> Result<Result<T, Error>>,
) -> Result<T> {
    let mut unavailable: Vec<(Provider, String)> = Vec::new();
    for &provider in &options.providers {
        let (problem, error) = match probe(provider, options)? {
            Ok(()) => {
                let report = ProviderReport { unavailable: unavailable.clone(), ..ProviderReport::only(provider) };
                match use_it(&report)? {
                    Ok(made) => return Ok(made),
                    Err(error) => ("can't run the model", error),
                }
            }
            Err(reason) => ("is not available", Error::runtime(reason)),
        };
        if options.on_unavailable == OnUnavailable::Error {
            let name = provider.as_str();
            return Err(error.context(format!(
                "runtime.providers: `{name}` {problem} (name another one, or set on_unavailable = \"fallback\" to go on \
                 with the next of the list)"
            )));
        }
        unavailable.push((provider, error.to_string()));
    }
    let tried: Vec<_> =
        unavailable.iter().map(|(provider, reason)| format!("`{}`: {reason}", provider.as_str())).collect();
    Err(Error::runtime(format!(
        "runtime.providers: none of the listed providers is available ({}). Add \"cpu\" to the list",
        tried.join("; ")
    )))
}

/// Whether `provider` can be had: its library loads, and there is a device. The inner error is the reason why not.
///
/// # Errors
/// ONNX Runtime itself can't be had, or an option is wrong.
pub(crate) fn probe(provider: Provider, options: &RuntimeOptions) -> Result<Result<(), String>> {
    options.provider_options.of(provider).map_err(Error::invalid_config)?;
    match provider {
        Provider::Cpu => Ok(Ok(())),
        Provider::WebGpu => {
            let environment = environment::get(options)?;
            let _turn = turn(provider);
            Ok(plugin::device(&environment).map(drop))
        }
        Provider::Cuda | Provider::TensorRt => {
            let environment = environment::get(options)?;
            let builder = OrtSession::builder(&environment.ort).map_err(|e| ort_error("cannot make a session", e))?;
            Ok(try_register(builder, provider, &environment, options).map(drop))
        }
    }
}

/// Adds `provider` to a session.
///
/// # Errors
/// It can't be had.
pub(crate) fn register(
    builder: SessionBuilder,
    provider: Provider,
    environment: &Environment,
    options: &RuntimeOptions,
) -> Result<SessionBuilder> {
    try_register(builder, provider, environment, options)
        .map_err(|reason| Error::runtime(format!("runtime.providers: `{}`: {reason}", provider.as_str())))
}

fn try_register(
    mut builder: SessionBuilder,
    provider: Provider,
    environment: &Environment,
    options: &RuntimeOptions,
) -> Result<SessionBuilder, String> {
    let own = options.provider_options.of(provider)?;
    match provider {
        Provider::Cpu => {
            ep::CPU::default().register(&mut builder).map_err(|e| failure::explain(provider, e.message()))?;
        }
        Provider::Cuda => {
            nvidia::preload(provider, environment);
            add_cuda(&mut builder, own)?;
        }
        Provider::TensorRt => {
            nvidia::preload(provider, environment);
            let trt = own.into_iter().fold(ep::TensorRT::default(), |trt, (k, v)| trt.with_arbitrary_config(k, v));
            trt.register(&mut builder).map_err(|e| failure::explain(provider, e.message()))?;
            // Nodes that TensorRT does not take run on CUDA.
            nvidia::preload(Provider::Cuda, environment);
            add_cuda(&mut builder, options.provider_options.on_one_device()?.of(Provider::Cuda)?)?;
        }
        Provider::WebGpu => {
            let device = plugin::device(environment)?;
            let own: Vec<_> = own.into_iter().map(|(k, v)| (format!("{}.{k}", plugin::NAME), v)).collect();
            builder = builder.with_devices([device], Some(&own)).map_err(|e| e.to_string())?;
        }
    }
    Ok(builder)
}

fn add_cuda(builder: &mut SessionBuilder, options: Vec<(String, String)>) -> Result<(), String> {
    let cuda = options.into_iter().fold(ep::CUDA::default(), |cuda, (k, v)| cuda.with_arbitrary_config(k, v));
    cuda.register(builder).map_err(|e| failure::explain(Provider::Cuda, e.message()))
}

/// The memory of `provider`'s device, as sessions with these options use it.
pub(crate) fn memory(
    provider: Provider,
    environment: &Environment,
    options: &RuntimeOptions,
) -> Result<MemoryInfo<'static>> {
    let failed = |e: String| Error::runtime(format!("runtime.providers: `{}`: {e}", provider.as_str()));
    let device = match provider {
        Provider::WebGpu => return plugin::memory(environment).map_err(failed),
        Provider::Cuda | Provider::TensorRt => AllocationDevice::CUDA,
        Provider::Cpu => AllocationDevice::CPU,
    };
    let own = options.provider_options.of(provider).map_err(failed)?;
    let id = own.iter().find(|(name, _)| name == "device_id").and_then(|(_, id)| id.parse().ok()).unwrap_or(0);
    MemoryInfo::new(device, id, AllocatorType::Device, MemoryType::Default).map_err(|e| failed(e.to_string()))
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
