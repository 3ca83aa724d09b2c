//! New weights for a model of an engine that goes on serving.

use std::ffi::c_void;

use foreturn::engine::{RefreshMode, RefreshOptions};
use foreturn::export::{Adapter, NamedTensor, TensorType};

use crate::argument::{self, foreturn_str, sized};
use crate::engine::{Hosted, foreturn_engine, foreturn_limits, waiting};
use crate::error::{foreturn_error, guard};
use crate::failure::Failure;
use crate::handle;
use crate::pending::{Outcome, foreturn_pending, foreturn_ready_fn};
use crate::status::*;
use crate::string::{Text, foreturn_string};
use crate::submit::queue;

/// The treatment of requests under way that use the model: one of FORETURN_REFRESH_….
pub type foreturn_refresh_mode = u32;
/// They end with the old weights first.
pub const FORETURN_REFRESH_WAIT: foreturn_refresh_mode = 0;
/// They begin again, with the new weights. Callbacks hear of their rollouts again. Replies that are streamed end with
/// FORETURN_ERROR_CANCELLED instead.
pub const FORETURN_REFRESH_RESTART: foreturn_refresh_mode = 1;
/// They end with FORETURN_ERROR_CANCELLED.
pub const FORETURN_REFRESH_ABORT: foreturn_refresh_mode = 2;

/// The settings of a refresh. NULL in its place, like all-zero, means: requests under way end first, and a model that
/// plays several roles is refused.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_refresh_options {
    /// sizeof(foreturn_refresh_options).
    pub size: usize,
    /// Deadline and cancellation. If the weights are not exchanged in time, the old ones stay. The priority has no effect.
    pub limits: foreturn_limits,
    /// The name of the new weights in rankings, traces and statistics, such as a training step. Empty: a fingerprint of the
    /// files and the number of the refresh.
    pub version: foreturn_str,
    /// The treatment of requests under way that use the model.
    pub mode: foreturn_refresh_mode,
    /// Also change a model that plays several roles, in all of them. Otherwise it is refused, because new weights for the
    /// policy would change its judge, too.
    pub shared: bool,
    /// Called when a request of foreturn_refresh_submit() is done; may be NULL.
    pub on_ready: foreturn_ready_fn,
    /// Passed to `on_ready`; may be NULL. It has to live until the request is done.
    pub user_data: *mut c_void,
    /// Path of the folder of a LoRA adapter that is merged into the weights, as PEFT saves it. Empty: none.
    pub adapter: foreturn_str,
    /// Text of an adapter_config.json instead, where the adapter's tensors are among those of foreturn_refresh_tensors().
    pub adapter_config: foreturn_str,
}
sized!(foreturn_refresh_options);

/// Sets `*options` to the defaults. `size` is sizeof(foreturn_refresh_options).
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_refresh_options_init(
    options: *mut foreturn_refresh_options,
    size: usize,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe { argument::init(options, size) }
}

/// The type of a tensor's numbers: one of FORETURN_DTYPE_….
pub type foreturn_dtype = u32;
/// float32.
pub const FORETURN_DTYPE_FLOAT32: foreturn_dtype = 0;
/// bfloat16.
pub const FORETURN_DTYPE_BFLOAT16: foreturn_dtype = 1;
/// float16.
pub const FORETURN_DTYPE_FLOAT16: foreturn_dtype = 2;

/// A tensor in the host's memory, such as one of a trainer's state dict. It has to live until the call returns.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_tensor {
    /// sizeof(foreturn_tensor).
    pub size: usize,
    /// Name in the model's state dict. What DistributedDataParallel, FSDP and torch.compile put before it may be there.
    pub name: foreturn_str,
    /// Type of its numbers.
    pub dtype: foreturn_dtype,
    /// Number of dimensions.
    pub rank: usize,
    /// The dimensions, the outermost first; may be NULL if `rank` is 0.
    pub shape: *const usize,
    /// The numbers, little-endian, rows one after the other without gaps. They need no alignment.
    pub data: *const c_void,
    /// Length of `data` in bytes. It has to fit shape and type.
    pub byte_count: usize,
}
sized!(foreturn_tensor);

/// `what` names it in messages.
pub(crate) fn tensor_type(dtype: foreturn_dtype, what: std::fmt::Arguments<'_>) -> Result<TensorType, Failure> {
    match dtype {
        FORETURN_DTYPE_FLOAT32 => Ok(TensorType::Float32),
        FORETURN_DTYPE_BFLOAT16 => Ok(TensorType::Bfloat16),
        FORETURN_DTYPE_FLOAT16 => Ok(TensorType::Float16),
        other => Err(Failure::argument(format!("{what} is {other}: it is one of FORETURN_DTYPE_…"))),
    }
}

/// # Safety
/// The tensor's pointers are valid for their lengths, for as long as the result is used.
unsafe fn tensor<'a>(at: usize, given: &foreturn_tensor) -> Result<NamedTensor<'a>, Failure> {
    // SAFETY: valid by contract.
    let name = unsafe { given.name.text(format_args!("tensors[{at}].name"))? };
    let kind = tensor_type(given.dtype, format_args!("the dtype of tensor `{name}`"))?;
    // SAFETY: likewise.
    let (shape, data) = unsafe {
        let data = given.data.cast::<u8>();
        (
            argument::slice(given.shape, given.rank, format_args!("the shape of tensor `{name}`"))?,
            argument::slice(data, given.byte_count, format_args!("the data of tensor `{name}`"))?,
        )
    };
    Ok(NamedTensor::new(name, kind, shape, data))
}

unsafe fn refresh_options(given: &foreturn_refresh_options) -> Result<RefreshOptions, Failure> {
    let mode = match given.mode {
        FORETURN_REFRESH_WAIT => RefreshMode::Wait,
        FORETURN_REFRESH_RESTART => RefreshMode::Restart,
        FORETURN_REFRESH_ABORT => RefreshMode::Abort,
        other => return Err(Failure::argument(format!("options.mode is {other}: it is one of FORETURN_REFRESH_…"))),
    };
    // SAFETY: the string is the host's, valid for the call.
    let version = unsafe { given.version.text("options.version")? };
    // SAFETY: likewise.
    let (folder, config) =
        unsafe { (given.adapter.text("options.adapter")?, given.adapter_config.text("options.adapter_config")?) };
    let adapter = match (folder, config) {
        ("", "") => None,
        (folder, "") => Some(Adapter::Folder(folder.into())),
        ("", config) => Some(Adapter::Config(config.to_owned())),
        _ => return Err(Failure::argument("options has both adapter and adapter_config: set one of them")),
    };
    Ok(RefreshOptions {
        version: (!version.is_empty()).then(|| version.to_owned()),
        mode,
        shared: given.shared,
        adapter,
    })
}

/// The folder with the new weights.
unsafe fn folder<'a>(path: foreturn_str) -> Result<&'a str, Failure> {
    // SAFETY: the string is the host's, valid for the call.
    match unsafe { path.text("path")? } {
        "" => Err(Failure::argument("path is empty: give the folder of an export of the same model")),
        path => Ok(path),
    }
}

/// Exchanges the weights of the local model named `model` for those in the folder `path`, an export of the same model,
/// and waits for it. The engine goes on serving: no ranking and no call sees both. Cached prefixes of the old weights are
/// dropped, and pins are computed again. Both sets of weights are in memory for a moment. `options` may be NULL. `*out` is
/// the name of the new weights. A failure changes nothing.
///
/// Ownership: the caller frees `*out` with foreturn_string_free().
///
/// Errors: FORETURN_ERROR_INVALID_REQUEST (there is no such local model, it plays several roles, the folder has another
/// model, or another refresh of the model is under way), FORETURN_ERROR_INVALID_ARGUMENT, FORETURN_ERROR_INVALID_MODEL,
/// FORETURN_ERROR_IO, FORETURN_ERROR_RUNTIME, FORETURN_ERROR_CANCELLED, FORETURN_ERROR_DEADLINE_EXCEEDED,
/// FORETURN_ERROR_CLOSED, FORETURN_ERROR_REENTRANT. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_refresh(
    engine: *const foreturn_engine,
    model: foreturn_str,
    path: foreturn_str,
    options: *const foreturn_refresh_options,
    out: *mut *mut foreturn_string,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        waiting("foreturn_refresh", engine, out, error, |engine| {
            let given = argument::read(options)?;
            let model = engine.within(given.limits.limits()?).model(model.text("model")?)?;
            Ok(Text(model.refresh(folder(path)?, refresh_options(&given)?)?))
        })
    }
}

/// Begins to exchange the weights of a local model and returns at once. `options` may be NULL. Its `on_ready` is called
/// when they are exchanged. foreturn_pending_version() gives the name of the new weights.
///
/// Ownership: the caller frees `*out` with foreturn_pending_free().
///
/// Errors: those of foreturn_refresh() that are found before the folder is read; the others are reported when the result
/// is taken. Any thread, callbacks included.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_refresh_submit(
    engine: *const foreturn_engine,
    model: foreturn_str,
    path: foreturn_str,
    options: *const foreturn_refresh_options,
    out: *mut *mut foreturn_pending,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            let engine = handle::get::<Hosted>(engine)?;
            let given = argument::read(options)?;
            let (path, how) = (folder(path)?, refresh_options(&given)?);
            let (limits, ready) = (given.limits.limits()?, (given.on_ready, given.user_data));
            let outcome = |version| Ok(Outcome::Version(Text(version)));
            queue(&engine, model, limits, ready, out, outcome, |model| model.submit_refresh(path, how))
        })
    }
}

/// Exchanges the weights of the local model named `model` for `tensors`, those of a live model's state dict, and waits for
/// it. No file is written. The bits are those of an export of the same tensors: float32 is used as it is, half precision is
/// widened, and a model that was exported in few bits is quantised by the same rules. Apart from that it does what
/// foreturn_refresh() does. The calling thread packs the weights, the engine's threads go on meanwhile. `on_ready` of
/// `options` is not called. `options` may be NULL.
///
/// The tensors are all of the state dict, which is read in the call and not afterwards. A head that is tied to the embedding
/// may be there or not. With an adapter in `options`, they are those of its base, which may hold the adapter's tensors; or there
/// are none, and the base is the folder that the model runs from.
///
/// Ownership: the tensors stay the caller's. The caller frees `*out` with foreturn_string_free().
///
/// Errors: as foreturn_refresh(), and: FORETURN_ERROR_UNSUPPORTED (the model is not an export of this library for the paged
/// path, or a tensor belongs to an adapter), FORETURN_ERROR_INVALID_REQUEST (a tensor is missing, has another shape, or has no
/// place in the model), FORETURN_ERROR_INVALID_MODEL (one is not finite). The message names the tensor. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_refresh_tensors(
    engine: *const foreturn_engine,
    model: foreturn_str,
    tensors: *const foreturn_tensor,
    count: usize,
    options: *const foreturn_refresh_options,
    out: *mut *mut foreturn_string,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on. The host's tensors are valid for the call.
    unsafe {
        waiting("foreturn_refresh_tensors", engine, out, error, |engine| {
            let given = argument::read(options)?;
            let tensors = argument::read_all(tensors, count, "tensors")?;
            let tensors = tensors.iter().enumerate().map(|(at, given)| tensor(at, given));
            let tensors = tensors.collect::<Result<Vec<_>, _>>()?;
            let model = engine.within(given.limits.limits()?).model(model.text("model")?)?;
            Ok(Text(model.refresh_with(&tensors, refresh_options(&given)?)?))
        })
    }
}
