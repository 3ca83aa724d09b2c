//! Memory of a device that a session reads and writes in place.
//!
//! Some providers' pointers are handles, and no offset can be added to them. So each tensor has an allocation of its own.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;

use ort::AsPointer as _;
use ort::memory::{Allocator, MemoryInfo};
use ort::value::{DynTensorValueType, Value};

use super::memory::Element;
use super::session::Session;
use super::{RuntimeOptions, ort_error, providers};
use crate::{Error, ErrorKind, Result};

/// The memory of a session's device.
pub(crate) struct DeviceMemory {
    allocator: Allocator,
    info: MemoryInfo<'static>,
}

/// A tensor in the memory of a device. It has to be dropped before the session that its memory comes from.
pub(crate) struct DeviceTensor {
    pointer: NonNull<c_void>,
    bytes: usize,
    element: Element,
    dims: Vec<i64>,
    memory: Arc<DeviceMemory>,
}

// SAFETY: the pointer is the device's. It is only passed to ONNX Runtime, whose allocators and sessions any thread may
// use.
unsafe impl Send for DeviceTensor {}

impl DeviceMemory {
    /// The memory of the device that runs `session`.
    pub(crate) fn of(session: &Session, options: &RuntimeOptions) -> Result<Arc<Self>> {
        let info = providers::memory(session.provider().used, session.environment(), options)?;
        let allocator = Allocator::new(session.ort(), info.to_owned())
            .map_err(|e| ort_error("cannot use the memory of the device", e))?;
        Ok(Arc::new(DeviceMemory { allocator, info }))
    }
}

impl DeviceTensor {
    /// A tensor with any contents.
    ///
    /// # Errors
    /// The device's memory doesn't suffice.
    pub(crate) fn new(memory: &Arc<DeviceMemory>, element: Element, dims: &[usize]) -> Result<Self> {
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
        let block = memory.allocator.alloc::<u8>(bytes).map_err(|e| refused(e.to_string()))?;
        let pointer = NonNull::new(block.into_raw()).ok_or_else(|| refused("no address".into()))?;
        let dims = dims.iter().map(|&dim| dim as i64).collect();
        Ok(DeviceTensor { pointer, bytes, element, dims, memory: Arc::clone(memory) })
    }

    /// The tensor as a value, to be bound to a session. It does not keep the memory alive.
    pub(crate) fn value(&self) -> Result<Value<DynTensorValueType>> {
        let mut value = std::ptr::null_mut();
        // SAFETY: the allocation has this many bytes in the memory that `info` describes. ONNX Runtime borrows it and
        // does not free it. The element type has no invalid bit patterns.
        let status = unsafe {
            (ort::api().CreateTensorWithDataAsOrtValue)(
                self.memory.info.ptr(),
                self.pointer.as_ptr(),
                self.bytes,
                self.dims.as_ptr(),
                self.dims.len(),
                self.element.into(),
                &mut value,
            )
        };
        // SAFETY: `status` comes straight from the call above.
        unsafe { ort::Error::result_from_status(status) }
            .map_err(|e| ort_error("cannot wrap a tensor of the device", e))?;
        let value = NonNull::new(value).ok_or_else(|| Error::internal("ONNX Runtime returned no value"))?;
        // SAFETY: a valid tensor value that nothing else owns. Releasing it does not release the borrowed memory.
        Ok(unsafe { Value::from_ptr(value, Some(&self.memory.allocator)) })
    }

    /// Overwrites every byte, so that a test can show that stale contents never matter.
    #[cfg(test)]
    pub(crate) fn fill(&self, session: &Session, byte: u8) -> Result<()> {
        use ort::memory::{AllocationDevice, AllocatorType, MemoryType};
        let host = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)
            .map_err(|e| ort_error("cannot describe host memory", e))?;
        let mut bytes = vec![byte; self.bytes];
        let mut source = std::ptr::null_mut();
        // SAFETY: the bytes outlive the value that borrows them, which is released below.
        let status = unsafe {
            (ort::api().CreateTensorWithDataAsOrtValue)(
                host.ptr(),
                bytes.as_mut_ptr().cast(),
                self.bytes,
                self.dims.as_ptr(),
                self.dims.len(),
                self.element.into(),
                &mut source,
            )
        };
        // SAFETY: `status` comes straight from the call above.
        unsafe { ort::Error::result_from_status(status) }.map_err(|e| ort_error("cannot wrap bytes", e))?;
        let value = self.value()?;
        let (from, mut to) = ([source.cast_const()], [value.ptr()]);
        // SAFETY: both are valid tensors of the same type and shape.
        let status = unsafe {
            let environment = session.environment().ort.ptr().cast_mut();
            let status = (ort::api().CopyTensors)(environment, from.as_ptr(), to.as_mut_ptr(), std::ptr::null_mut(), 1);
            (ort::api().ReleaseValue)(source);
            status
        };
        // SAFETY: `status` comes straight from the call above.
        unsafe { ort::Error::result_from_status(status) }.map_err(|e| ort_error("cannot copy to the device", e))
    }
}

impl Drop for DeviceTensor {
    fn drop(&mut self) {
        // SAFETY: the pointer came from this very allocator, and nothing uses it any more.
        unsafe { self.memory.allocator.free(self.pointer.as_ptr()) };
    }
}
