//! Exports of checkpoints.

use std::ffi::c_void;

use foreturn::export::{self, ExportOptions, ExportProgress, Placement, Quantize};
use serde_json::json;

use crate::argument::{self, Out, foreturn_str, sized};
use crate::callback::{Inside, UserData};
use crate::error::{foreturn_error, guard};
use crate::failure::Failure;
use crate::handle;
use crate::refresh::{self, foreturn_dtype};
use crate::status::foreturn_status;
use crate::string::{Text, foreturn_string};

/// The format in which an export stores weights: one of FORETURN_QUANTIZE_….
pub type foreturn_quantize = u32;
/// float32.
pub const FORETURN_QUANTIZE_NONE: foreturn_quantize = 0;
/// Matrices in 8 bits.
pub const FORETURN_QUANTIZE_INT8: foreturn_quantize = 1;
/// Matrices in 4 bits; embedding and language-model head in 8.
pub const FORETURN_QUANTIZE_INT4: foreturn_quantize = 2;

/// Reports progress: `done` of `total` bytes of weights are written. Called on the thread that called
/// foreturn_export().
pub type foreturn_export_progress_fn = Option<unsafe extern "C" fn(user_data: *mut c_void, done: u64, total: u64)>;

/// The source, target and settings of an export.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_export_options {
    /// sizeof(foreturn_export_options).
    pub size: usize,
    /// Path of a Hugging Face folder or a .gguf file.
    pub from: foreturn_str,
    /// Path of the folder to make.
    pub to: foreturn_str,
    /// Format of the weights.
    pub quantize: foreturn_quantize,
    /// Number of weights that share a scale: 32, 64, 128 or 256; 0: 32.
    pub block: u32,
    /// Allow an earlier export at `to` to be replaced. Other folders are never replaced.
    pub overwrite: bool,
    /// Called with the progress; may be NULL.
    pub on_progress: foreturn_export_progress_fn,
    /// Passed to `on_progress`; may be NULL.
    pub user_data: *mut c_void,
    /// Path of the folder of a LoRA adapter that is merged into the weights, as PEFT saves it. Empty: none.
    pub adapter: foreturn_str,
    /// Give float32 .safetensors a second name in the folder instead of copying them. Changing the checkpoint in place then
    /// changes the export, too.
    pub hard_link: bool,
    /// Type of the matrices that are not quantised. In half precision they take half the space. Decoders on the CPU compute
    /// products with those of bfloat16 in bfloat16.
    pub dtype: foreturn_dtype,
}
sized!(foreturn_export_options until adapter);

/// Sets `*options` to the defaults: nothing set. `size` is sizeof(foreturn_export_options).
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_export_options_init(
    options: *mut foreturn_export_options,
    size: usize,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe { argument::init(options, size) }
}

/// Converts a checkpoint into a model folder. The folder appears only when it is complete. `*report` is set to a JSON
/// object that describes it; `report` may be NULL.
///
/// Ownership: the caller frees `*report` with foreturn_string_free().
///
/// Errors: FORETURN_ERROR_INVALID_MODEL, FORETURN_ERROR_UNSUPPORTED, FORETURN_ERROR_INVALID_REQUEST, FORETURN_ERROR_IO.
/// Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_export(
    options: *const foreturn_export_options,
    report: *mut *mut foreturn_string,
    error: *mut *mut foreturn_error,
) -> foreturn_status {
    // SAFETY: passed on.
    unsafe {
        guard(error, || {
            handle::refuse_child()?;
            let given = argument::read(options)?;
            let out = if report.is_null() { None } else { Some(Out::new(report, "report")?) };
            let mut options = ExportOptions::new(given.from.text("from")?, given.to.text("to")?);
            options.quantize = match given.quantize {
                FORETURN_QUANTIZE_NONE => Quantize::None,
                FORETURN_QUANTIZE_INT8 => Quantize::Int8,
                FORETURN_QUANTIZE_INT4 => Quantize::Int4,
                other => {
                    return Err(Failure::argument(format!("quantize is {other}: it is one of FORETURN_QUANTIZE_…")));
                }
            };
            options.dtype = refresh::tensor_type(given.dtype, format_args!("dtype"))?;
            (options.overwrite, options.hard_link) = (given.overwrite, given.hard_link);
            options.adapter = Some(given.adapter.text("adapter")?).filter(|path| !path.is_empty()).map(Into::into);
            if given.block > 0 {
                options.block = given.block as usize;
            }
            let user_data = UserData(given.user_data);
            let made = export::export(&options, &mut |ExportProgress { done, total, .. }| {
                if let Some(call) = given.on_progress {
                    let _inside = Inside::enter();
                    // The host's function, with the host's pointer.
                    call(user_data.0, done, total);
                }
            })?;
            let weights = made.weights.iter().map(|file| {
                let placement = match file.placement {
                    Placement::HardLinked => "hard_linked",
                    Placement::Copied => "copied",
                    Placement::Written => "written",
                };
                json!({"name": file.name, "placement": placement})
            });
            if let Some(out) = out {
                let report = json!({
                    "architecture": made.architecture,
                    "layers": made.layers,
                    "parameters": made.parameters,
                    "bytes": made.bytes,
                    "weights": weights.collect::<Vec<_>>(),
                });
                out.write(handle::insert(Text(report.to_string())));
            }
            Ok(())
        })
    }
}
