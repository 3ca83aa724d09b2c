//! Memory of a device that a session reads and writes in place.
//!
//! Some providers' pointers are handles, and no offset can be added to them. So each tensor has an allocation of its own.

use std::ffi::c_void;
use std::ptr::NonNull;

use ort::AsPointer as _;
use ort::memory::{Allocator, MemoryInfo};
use ort::value::{DynTensorValueType, Value};

use super::memory::Element;
use super::session::Session;
use super::{Provider, RuntimeOptions, ort_error, providers};
use crate::{Error, ErrorKind, Result};

/// Tensors in the memory of a session's device. They have to be dropped before the session.
pub(crate) struct DeviceTensors {
    provider: Provider,
    allocator: Allocator,
    info: MemoryInfo<'static>,
    tensors: Vec<Allocated>,
}

struct Allocated {
    pointer: NonNull<c_void>,
    bytes: usize,
    element: Element,
    dims: Vec<i64>,
}

// SAFETY: the pointers are the device's. They are only passed to ONNX Runtime. One thread at a time has the tensors, and ONNX
// Runtime's objects belong to no thread. Of providers whose objects get in each other's way, one thread at a time uses any
// (`providers::turn`). CUDA's allocator is used while the model is loaded and dropped, and locks its own state.
unsafe impl Send for DeviceTensors {}

impl DeviceTensors {
    /// No tensors yet, in the memory of the device that runs `session`.
    pub(crate) fn of(session: &Session, options: &RuntimeOptions) -> Result<Self> {
        let provider = session.provider().used;
        let _turn = providers::turn(provider);
        let info = providers::memory(provider, session.environment(), options)?;
        let allocator = Allocator::new(session.ort(), info.to_owned())
            .map_err(|e| ort_error("cannot use the memory of the device", e))?;
        Ok(DeviceTensors { provider, allocator, info, tensors: Vec::new() })
    }

    /// Adds a tensor with any contents. Returns its index.
    ///
    /// # Errors
    /// The device's memory doesn't suffice.
    pub(crate) fn add(&mut self, element: Element, dims: &[usize]) -> Result<usize> {
        let bytes = dims.iter().try_fold(element.byte_size(1).unwrap_or(0), |bytes, &dim| bytes.checked_mul(dim));
        let refused = |why: String| {
            Error::new(
                ErrorKind::MemoryBudget,
                format!("the key-value cache does not fit the memory of the device: {why}. Lower runtime.kv_cache"),
            )
        };
        let Some(bytes) = bytes.filter(|&bytes| bytes > 0) else {
            return Err(refused(format!("a tensor of shape {dims:?}")));
        };
        let _turn = providers::turn(self.provider);
        let block = self.allocator.alloc::<u8>(bytes).map_err(|e| refused(e.to_string()))?;
        let pointer = NonNull::new(block.into_raw()).ok_or_else(|| refused("no address".into()))?;
        let dims = dims.iter().map(|&dim| dim as i64).collect();
        self.tensors.push(Allocated { pointer, bytes, element, dims });
        Ok(self.tensors.len() - 1)
    }

    /// A tensor as a value, to be bound to a session. It does not keep the memory alive.
    pub(crate) fn value(&self, index: usize) -> Result<Value<DynTensorValueType>> {
        let value = wrap(&self.info, &self.tensors[index], self.tensors[index].pointer)?;
        // SAFETY: a valid tensor value that nothing else owns. Releasing it does not release the borrowed memory.
        Ok(unsafe { Value::from_ptr(value, Some(&self.allocator)) })
    }

    /// Overwrites every byte, so that a test can show that stale contents never matter.
    #[cfg(test)]
    pub(crate) fn fill(&self, session: &Session, byte: u8) -> Result<()> {
        use ort::memory::{AllocationDevice, AllocatorType, MemoryType};
        let host = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)
            .map_err(|e| ort_error("cannot describe host memory", e))?;
        let _turn = providers::turn(self.provider);
        for (index, tensor) in self.tensors.iter().enumerate() {
            let mut bytes = vec![byte; tensor.bytes];
            let pointer = NonNull::from(&mut *bytes).cast();
            let source = wrap(&host, tensor, pointer)?;
            // SAFETY: a valid tensor value that nothing else owns. The bytes outlive it.
            let source: Value<DynTensorValueType> = unsafe { Value::from_ptr(source, Some(&Allocator::default())) };
            let value = self.value(index)?;
            let (from, mut to) = ([source.ptr()], [value.ptr()]);
            // SAFETY: both are valid tensors of the same type and shape.
            let status = unsafe {
                let environment = session.environment().ort.ptr().cast_mut();
                (ort::api().CopyTensors)(environment, from.as_ptr(), to.as_mut_ptr(), std::ptr::null_mut(), 1)
            };
            // SAFETY: `status` comes straight from the call above.
            unsafe { ort::Error::result_from_status(status) }.map_err(|e| ort_error("cannot copy to the device", e))?;
        }
        Ok(())
    }
}

impl Drop for DeviceTensors {
    fn drop(&mut self) {
        let _turn = providers::turn(self.provider);
        for tensor in &self.tensors {
            // SAFETY: the pointer came from this very allocator, and nothing uses it any more.
            unsafe { self.allocator.free(tensor.pointer.as_ptr()) };
        }
    }
}

/// A value over `pointer`, which has as many bytes as `tensor` in the memory that `info` describes.
fn wrap(info: &MemoryInfo<'_>, tensor: &Allocated, pointer: NonNull<c_void>) -> Result<NonNull<ort::sys::OrtValue>> {
    let mut value = std::ptr::null_mut();
    // SAFETY: ONNX Runtime borrows the memory and does not free it. The element type has no invalid bit patterns.
    let status = unsafe {
        (ort::api().CreateTensorWithDataAsOrtValue)(
            info.ptr(),
            pointer.as_ptr(),
            tensor.bytes,
            tensor.dims.as_ptr(),
            tensor.dims.len(),
            tensor.element.into(),
            &mut value,
        )
    };
    // SAFETY: `status` comes straight from the call above.
    unsafe { ort::Error::result_from_status(status) }
        .map_err(|e| ort_error("cannot wrap a tensor of the device", e))?;
    NonNull::new(value).ok_or_else(|| Error::internal("ONNX Runtime returned no value"))
}
