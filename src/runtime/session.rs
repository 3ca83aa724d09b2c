//! One graph in ONNX Runtime, with everything bound in place.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ndarray::ArrayViewD;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::operator::OperatorDomain;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{IoBinding, Session as OrtSession};
use ort::value::{DynTensorValueType, Tensor, Value};

use super::environment::{self, Environment};
use super::providers::{self, ProviderReport};
use super::{RuntimeOptions, ort_error};
use crate::{Error, Result};

/// A graph and where its external weights lie.
pub(crate) struct Graph<'a> {
    /// Serialised `ModelProto`.
    pub(crate) bytes: &'a [u8],
    /// Real folder of the external data files.
    pub(crate) folder: &'a Path,
    /// What to call it in messages.
    pub(crate) name: &'a str,
}

/// Held while a session is made.
static LOADING: Mutex<()> = Mutex::new(());

/// A loaded session with its bindings.
pub(crate) struct Session {
    // Declared before the environment: the binding and the session go first.
    binding: IoBinding,
    session: OrtSession,
    host: MemoryInfo<'static>,
    _environment: Arc<Environment>,
    provider: ProviderReport,
}

/// A session builder with everything set but the execution providers.
fn configure(
    environment: &Environment,
    folder: &str,
    domain: OperatorDomain,
    threads: usize,
) -> ort::Result<SessionBuilder> {
    let builder = OrtSession::builder(&environment.ort)?
        .with_optimization_level(GraphOptimizationLevel::Level3)?
        .with_config_entry("session.model_external_initializers_file_folder_path", folder)?
        // Threads spin while a run is under way and sleep once it has ended.
        .with_config_entry("session.force_spinning_stop", "1")?
        // Shapes change every step: planned memory patterns would only be thrown away.
        .with_memory_pattern(false)?
        .with_operators(domain)?;
    if threads == environment.threads {
        return Ok(builder);
    }
    Ok(builder.with_independent_thread_pool()?.with_intra_threads(threads)?)
}

impl Session {
    /// Loads `graph` with custom operators, which are made once ONNX Runtime is there.
    pub(crate) fn open(
        graph: &Graph<'_>,
        operators: impl FnOnce() -> Result<OperatorDomain>,
        options: &RuntimeOptions,
    ) -> Result<Self> {
        let environment = environment::get(options)?;
        let domain = operators()?;
        let failed =
            |e: String| Error::invalid_model(format!("{}: ONNX Runtime cannot load the model: {e}", graph.name));
        let threads = options.effective_threads();
        let folder = graph.folder.to_str().ok_or_else(|| {
            Error::invalid_model(format!(
                "{}: the folder's path is not UTF-8; move the model elsewhere",
                graph.folder.display()
            ))
        })?;

        // ONNX Runtime registers the domains of custom operators process-wide, and not atomically: of two sessions that
        // are made at once, one can fail because the other has just added the domain.
        let _one_at_a_time = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
        let builder = configure(&environment, folder, domain, threads).map_err(|e| failed(e.to_string()))?;
        let (mut builder, provider) = providers::register(builder, &options.providers, options.on_unavailable)?;
        let session = builder.commit_from_memory(graph.bytes).map_err(|e| failed(e.to_string()))?;
        let binding = session.create_binding().map_err(|e| failed(e.to_string()))?;
        let host = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::CPUOutput)
            .map_err(|e| failed(e.to_string()))?;
        Ok(Session { binding, session, host, _environment: environment, provider })
    }

    /// Which provider runs it.
    pub(crate) fn provider(&self) -> &ProviderReport {
        &self.provider
    }

    /// Binds `value` to the input `name` for all runs to come.
    pub(crate) fn bind(&mut self, name: &str, value: &Value<DynTensorValueType>) -> Result<()> {
        self.binding.bind_input(name, value).map_err(|e| ort_error(&format!("cannot bind input `{name}`"), e))
    }

    /// Sets an input for the next run.
    pub(crate) fn set<T>(&mut self, name: &str, shape: &[usize], data: Vec<T>) -> Result<()>
    where
        T: ort::value::PrimitiveTensorElementType + std::fmt::Debug + Clone + 'static,
    {
        let tensor =
            Tensor::from_array((shape.to_vec(), data)).map_err(|e| ort_error(&format!("input `{name}`"), e))?;
        self.binding.bind_input(name, &tensor).map_err(|e| ort_error(&format!("cannot bind input `{name}`"), e))
    }

    /// Runs the graph and hands the float32 values of `output` to `read`.
    pub(crate) fn run<R>(&mut self, output: &str, read: impl FnOnce(ArrayViewD<'_, f32>) -> R) -> Result<R> {
        // Bound anew each time, because a bound output keeps the shape of its first run.
        self.binding.bind_output_to_device(output, &self.host).map_err(|e| ort_error("cannot bind the output", e))?;
        let outputs = self
            .session
            .run_binding(&self.binding)
            .map_err(|e| ort_error("ONNX Runtime failed while running the model", e))?;
        let value =
            outputs.get(output).ok_or_else(|| Error::internal(format!("the model gave no output `{output}`")))?;
        let data = value.try_extract_array::<f32>().map_err(|e| ort_error(&format!("output `{output}`"), e))?;
        Ok(read(data))
    }
}
