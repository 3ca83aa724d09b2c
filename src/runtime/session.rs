//! One graph in ONNX Runtime, with everything bound in place.

use std::collections::BTreeMap;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ndarray::{ArrayViewD, CowArray, IxDyn};
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::operator::OperatorDomain;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{IoBinding, RunOptions, Session as OrtSession, SessionOutputs};
use ort::value::{
    DynTensorValueType, DynValue, PrimitiveTensorElementType, Tensor, TensorElementType, Value, ValueType,
};

use super::environment::{self, Environment};
use super::memory::Element;
use super::providers::{self, Provider, ProviderReport, placement};
use super::{RuntimeOptions, ort_error, watchdog};
use crate::kernels::operator;
use crate::{Error, ErrorKind, Result};

/// A graph and the place of its external weights.
pub(crate) struct Graph<'a> {
    /// Serialised `ModelProto`.
    pub(crate) bytes: &'a [u8],
    /// Real folder of the external data files.
    pub(crate) folder: &'a Path,
    pub(crate) memory: Option<InMemory>,
    /// Whether it has loops. ONNX Runtime checks before each node whether it has to stop, so nothing inside a loop may
    /// be optimised away.
    pub(crate) loops: bool,
    /// Its name in messages.
    pub(crate) name: &'a str,
    /// The provider that is to run it, and why not those preferred to it.
    pub(crate) report: &'a ProviderReport,
}

/// External data in memory instead of a file, after the location that the graph has for it.
pub(crate) type InMemory = (&'static str, Arc<Values>);

/// The values of tensors, which several sessions may share.
pub(crate) struct Values(pub(crate) Arc<[u8]>);

/// Held while a session is made.
static LOADING: Mutex<()> = Mutex::new(());

/// A loaded session with its bindings.
pub(crate) struct Session {
    // These two are dropped in this order, in a turn at the provider, and before the environment.
    binding: ManuallyDrop<IoBinding>,
    session: ManuallyDrop<OrtSession>,
    host: MemoryInfo<'static>,
    environment: Arc<Environment>,
    /// Kept as long as the session, for others to share.
    _values: Option<Arc<Values>>,
    provider: ProviderReport,
    options: Arc<RunOptions>,
    limit: Duration,
    /// The time after which nobody waits for the next run's outputs.
    end_by: Option<Instant>,
    name: String,
}

/// A session builder with everything set except the execution providers.
fn configure(
    environment: &Environment,
    folder: &str,
    operators: Option<OperatorDomain>,
    loops: bool,
    options: &RuntimeOptions,
) -> ort::Result<SessionBuilder> {
    let level = if loops { GraphOptimizationLevel::Disable } else { GraphOptimizationLevel::Level3 };
    let builder = OrtSession::builder(&environment.ort)?
        .with_optimization_level(level)?
        .with_config_entry("session.model_external_initializers_file_folder_path", folder)?
        // Threads spin during a run and sleep after it.
        .with_config_entry("session.force_spinning_stop", "1")?
        // Shapes change every step, so planned memory patterns would only be thrown away.
        .with_memory_pattern(false)?;
    let builder = match operators {
        Some(operators) => builder.with_operators(operators)?,
        None => builder,
    };
    let builder = match &options.profile {
        Some(path) => builder.with_profiling(path)?,
        None => builder,
    };
    let threads = options.effective_threads();
    if threads == environment.threads && options.cores.is_none() {
        return Ok(builder);
    }
    let builder = builder.with_independent_thread_pool()?.with_intra_threads(threads)?;
    match options.cores.as_ref().filter(|_| threads > 1) {
        Some(cores) => Ok(builder.with_config_entry("session.intra_op_thread_affinities", cores.affinities(threads))?),
        None => Ok(builder),
    }
}

impl Session {
    /// Loads `graph` with custom operators, which are made once ONNX Runtime is loaded.
    pub(crate) fn open(
        graph: &Graph<'_>,
        operators: impl FnOnce() -> Result<OperatorDomain>,
        options: &RuntimeOptions,
    ) -> Result<Self> {
        let environment = environment::get(options)?;
        Self::load(graph, environment, Some(operators()?), options)
    }

    /// Loads `graph`, which needs no operators of ours.
    pub(crate) fn open_plain(graph: &Graph<'_>, options: &RuntimeOptions) -> Result<Self> {
        Self::load(graph, environment::get(options)?, None, options)
    }

    fn load(
        graph: &Graph<'_>,
        environment: Arc<Environment>,
        operators: Option<OperatorDomain>,
        options: &RuntimeOptions,
    ) -> Result<Self> {
        let failed =
            |e: String| Error::invalid_model(format!("{}: ONNX Runtime cannot load the model: {e}", graph.name));
        let folder = graph.folder.to_str().ok_or_else(|| {
            Error::invalid_model(format!(
                "{}: the folder's path is not UTF-8; move the model elsewhere",
                graph.folder.display()
            ))
        })?;

        // ONNX Runtime registers the domains of custom operators for the whole process, and not atomically. If two
        // sessions are made at once, one can fail because the other has just added the domain.
        let _one_at_a_time = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
        let provider = graph.report.used;
        let _turn = providers::turn(provider);
        let builder =
            configure(&environment, folder, operators, graph.loops, options).map_err(|e| failed(e.to_string()))?;
        let builder = match &graph.memory {
            None => builder,
            Some((location, values)) => builder
                .with_external_initializer_file_in_memory(location, Arc::clone(&values.0))
                .map_err(|e| failed(e.to_string()))?,
        };
        let mut builder = providers::register(builder, provider, &environment, options)?;
        if provider != Provider::Cpu {
            builder = builder
                .with_config_entry("session.record_ep_graph_assignment_info", "1")
                .map_err(|e| failed(e.to_string()))?;
        }
        let session = builder.commit_from_memory(graph.bytes).map_err(|e| failed(e.to_string()))?;
        let binding = session.create_binding().map_err(|e| failed(e.to_string()))?;
        let host = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::CPUOutput)
            .map_err(|e| failed(e.to_string()))?;
        let nodes = match provider {
            Provider::Cpu => BTreeMap::new(),
            _ => placement::nodes(&session).map_err(|e| failed(e.to_string()))?,
        };
        let run_options = RunOptions::new().map_err(|e| failed(e.to_string()))?;
        Ok(Session {
            binding: ManuallyDrop::new(binding),
            session: ManuallyDrop::new(session),
            host,
            environment,
            _values: graph.memory.as_ref().map(|(_, values)| Arc::clone(values)),
            provider: ProviderReport { nodes, ..graph.report.clone() },
            options: Arc::new(run_options),
            limit: options.step_limit,
            end_by: None,
            name: graph.name.to_owned(),
        })
    }

    /// The provider that runs it.
    pub(crate) fn provider(&self) -> &ProviderReport {
        &self.provider
    }

    /// The environment that it lives in.
    pub(super) fn environment(&self) -> &Environment {
        &self.environment
    }

    fn turn(&self) -> Option<MutexGuard<'static, ()>> {
        providers::turn(self.provider.used)
    }

    /// The session itself.
    pub(super) fn ort(&self) -> &OrtSession {
        &self.session
    }

    /// Binds `value` to the input `name` for all runs to come.
    pub(crate) fn bind(&mut self, name: &str, value: &Value<DynTensorValueType>) -> Result<()> {
        let _turn = self.turn();
        self.binding.bind_input(name, value).map_err(|e| ort_error(&format!("cannot bind input `{name}`"), e))
    }

    /// Binds `value` to the output `name` for all runs to come.
    pub(crate) fn bind_output(&mut self, name: &str, value: Value<DynTensorValueType>) -> Result<()> {
        let _turn = self.turn();
        self.binding.bind_output(name, value).map_err(|e| ort_error(&format!("cannot bind output `{name}`"), e))
    }

    /// Sets an input for the next run.
    pub(crate) fn set<T>(&mut self, name: &str, shape: &[usize], data: Vec<T>) -> Result<()>
    where
        T: PrimitiveTensorElementType + std::fmt::Debug + Clone + 'static,
    {
        let tensor =
            Tensor::from_array((shape.to_vec(), data)).map_err(|e| ort_error(&format!("input `{name}`"), e))?;
        // A tensor for a device is copied to it now.
        let _turn = self.turn();
        self.binding.bind_input(name, &tensor).map_err(|e| ort_error(&format!("cannot bind input `{name}`"), e))
    }

    /// Sets the time after which nobody waits for the outputs of runs. A run that is still going then is ended.
    pub(crate) fn end_by(&mut self, end: Option<Instant>) {
        self.end_by = end;
    }

    /// Runs the graph and passes the float32 values of `output` to `read`.
    pub(crate) fn run<R>(&mut self, output: &str, read: impl FnOnce(ArrayViewD<'_, f32>) -> R) -> Result<R> {
        self.run_all(&[output], |given| Ok(read(given.floats(output)?.view())))
    }

    /// Runs a graph whose outputs are all bound.
    pub(crate) fn run_in_place(&mut self) -> Result<()> {
        self.run_all(&[], |_| Ok(()))
    }

    /// Runs the graph and passes these outputs to `read`, which must not use another session.
    pub(crate) fn run_all<R>(&mut self, outputs: &[&str], read: impl FnOnce(&Outputs<'_>) -> Result<R>) -> Result<R> {
        let _turn = self.turn();
        for &output in outputs {
            // Bound again each time, because a bound output keeps the shape of its first run.
            self.binding
                .bind_output_to_device(output, &self.host)
                .map_err(|e| ort_error("cannot bind the output", e))?;
        }
        let start = Instant::now();
        let limit = start + self.limit;
        let watch = watchdog::watch(&self.options, self.end_by.map_or(limit, |end| end.min(limit)));
        let outputs = self.session.run_binding_with_options(&self.binding, &self.options);
        let ended = watch.finish();
        if ended {
            self.options.unterminate().map_err(|e| ort_error("cannot reset a run that was ended", e))?;
        }
        let outputs = outputs.map_err(|e| match ended {
            true => overdue(&self.name, start.elapsed(), self.limit),
            false if e.message().contains(operator::DEFECT) => {
                Error::internal(format!("{}: {}", self.name, e.message()))
            }
            false => ort_error("ONNX Runtime failed while running the model", e),
        })?;
        read(&Outputs(outputs))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _turn = self.turn();
        // SAFETY: nothing uses either of them after this.
        unsafe {
            ManuallyDrop::drop(&mut self.binding);
            ManuallyDrop::drop(&mut self.session);
        }
    }
}

/// The error for a run that was ended.
fn overdue(name: &str, took: Duration, limit: Duration) -> Error {
    let seconds = took.as_secs_f64();
    if took < limit {
        let message = format!(
            "{name}: one run of the model was not done {seconds:.1} s after it began, past the deadline, and was ended. Allow more time, or use a faster model"
        );
        return Error::new(ErrorKind::DeadlineExceeded, message);
    }
    Error::runtime(format!(
        "{name}: one run of the model was not done after {seconds:.1} s and was ended. If its graph doesn't loop for ever, raise `step_limit_s` under [runtime]"
    ))
}

/// The outputs of a run.
pub(crate) struct Outputs<'r>(SessionOutputs<'r>);

/// One tensor of it.
pub(crate) struct Output<'r> {
    /// The type of its numbers; `None` for a type that no cache has.
    pub(crate) element: Option<Element>,
    pub(crate) shape: Vec<usize>,
    /// Its numbers in standard order; empty if `element` is `None`.
    pub(crate) bytes: &'r [u8],
}

impl Outputs<'_> {
    fn value(&self, name: &str) -> Result<&DynValue> {
        self.0.get(name).ok_or_else(|| Error::internal(format!("the model gave no output `{name}`")))
    }

    /// An output's numbers, widened to float32 if necessary.
    pub(crate) fn floats(&self, name: &str) -> Result<CowArray<'_, f32, IxDyn>> {
        let value = self.value(name)?;
        let failed = |e: ort::Error| ort_error(&format!("output `{name}`"), e);
        match self.tensor(name)?.element {
            Some(Element::Float16) => {
                Ok(value.try_extract_array::<half::f16>().map_err(failed)?.mapv(half::f16::to_f32).into())
            }
            Some(Element::Bfloat16) => {
                Ok(value.try_extract_array::<half::bf16>().map_err(failed)?.mapv(half::bf16::to_f32).into())
            }
            _ => Ok(value.try_extract_array::<f32>().map_err(failed)?.into()),
        }
    }

    /// An output as it is.
    pub(crate) fn tensor(&self, name: &str) -> Result<Output<'_>> {
        let value = self.value(name)?;
        let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
            return Err(Error::invalid_model(format!("output `{name}` is not a tensor")));
        };
        let (element, bytes) = match ty {
            TensorElementType::Float32 => (Some(Element::Float32), plain::<f32>(value)),
            TensorElementType::Float16 => (Some(Element::Float16), plain::<half::f16>(value)),
            TensorElementType::Bfloat16 => (Some(Element::Bfloat16), plain::<half::bf16>(value)),
            _ => (None, Ok(&[][..])),
        };
        let bytes = bytes.map_err(|e| ort_error(&format!("output `{name}`"), e))?;
        let shape = shape.iter().map(|&n| usize::try_from(n).unwrap_or(0)).collect();
        Ok(Output { element, shape, bytes })
    }
}

/// A tensor's numbers as bytes.
fn plain<T: PrimitiveTensorElementType>(value: &DynValue) -> ort::Result<&[u8]> {
    let (_, numbers) = value.try_extract_tensor::<T>()?;
    // SAFETY: the same memory, read as bytes. The types that this is called with are plain numbers without padding.
    Ok(unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast::<u8>(), size_of_val(numbers)) })
}
