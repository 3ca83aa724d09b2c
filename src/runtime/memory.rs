//! Memory that models read and write in place. Only this module knows where it is.
//!
//! Today it is host memory. A device buffer will be another variant here. Schedulers and caches work with blocks and
//! never touch the bytes.

use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::{MmapMut, MmapOptions};
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
/// The kind of number that a tensor holds.
pub(crate) use ort::value::TensorElementType as Element;
use ort::value::{DynTensorValueType, Value};

use super::ort_error;

use crate::onnx::tensor_proto::DataType;
use crate::{Error, ErrorKind, Result};

/// The name in ONNX of an element type of ONNX Runtime, which numbers them as ONNX does.
pub(crate) fn data_type(element: Element) -> DataType {
    DataType::try_from(ort::sys::ONNXTensorElementDataType::from(element) as i32).unwrap_or_default()
}

/// Zeroed bytes that several can own.
pub(crate) fn zeroed(bytes: usize) -> Arc<[u8]> {
    // SAFETY: zero is a byte.
    let memory = unsafe { Arc::<[u8]>::new_zeroed_slice(bytes).assume_init() };
    in_large_pages(&memory);
    memory
}

/// Asks for large pages for memory that is about to be filled, if it is large. A fault for each small one takes longer than
/// filling it.
pub(crate) fn in_large_pages(memory: &[u8]) {
    /// Allocators ask the system for more than this, so the advice ends with the memory.
    const LARGE: usize = 32 << 20;
    const PAGE: usize = 4096;
    if cfg!(not(target_os = "linux")) || memory.len() <= LARGE {
        return;
    }
    let pages = &memory[memory.as_ptr().align_offset(PAGE)..];
    let (start, length) = (pages.as_ptr().cast_mut().cast(), pages.len() / PAGE * PAGE);
    // SAFETY: the range lies in the memory, and advice changes no byte. It is a matter of speed, so it doesn't matter whether
    // it is taken.
    #[cfg(target_os = "linux")]
    unsafe {
        libc::madvise(start, length, libc::MADV_HUGEPAGE);
    }
}

/// A zeroed region of reserved address space. Pages become resident when they are first written.
pub(crate) struct Buffer {
    map: MmapMut,
}

impl Buffer {
    /// Reserves `bytes` (at least 1).
    pub(crate) fn reserve(bytes: usize) -> Result<Self> {
        let map = MmapOptions::new().len(bytes.max(1)).no_reserve_swap().map_anon().map_err(|e| {
            Error::new(
                ErrorKind::MemoryBudget,
                format!("cannot reserve {bytes} bytes of address space for the key-value cache: {e}"),
            )
            .with_source(e)
        })?;
        Ok(Buffer { map })
    }

    /// Its bytes.
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map
    }

    /// A tensor of `shape` that begins at byte `offset` of this buffer, for binding to a session.
    ///
    /// The tensor does not keep the buffer alive. Its user owns both and drops the session first.
    pub(crate) fn tensor(&self, element: Element, offset: usize, shape: &[i64]) -> Result<Value<DynTensorValueType>> {
        let elements: i64 = shape.iter().product();
        let bytes = usize::try_from(elements).ok().and_then(|n| n.checked_mul(element.byte_size(1)?));
        let Some(bytes) = bytes.filter(|bytes| offset.checked_add(*bytes).is_some_and(|end| end <= self.map.len()))
        else {
            return Err(Error::internal(format!(
                "a tensor of shape {shape:?} at {offset} leaves a buffer of {} bytes",
                self.map.len()
            )));
        };
        let info = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)
            .map_err(|e| ort_error("cannot describe host memory", e))?;
        let mut value = std::ptr::null_mut();
        // SAFETY: the range was checked to be inside the mapping, which never moves. ONNX Runtime borrows it and does
        // not free it. The element type has no invalid bit patterns.
        let status = unsafe {
            use ort::AsPointer;
            (ort::api().CreateTensorWithDataAsOrtValue)(
                info.ptr(),
                self.map.as_ptr().add(offset).cast_mut().cast(),
                bytes,
                shape.as_ptr(),
                shape.len(),
                element.into(),
                &mut value,
            )
        };
        // SAFETY: `status` comes straight from the call above.
        unsafe { ort::Error::result_from_status(status) }
            .map_err(|e| ort_error("cannot wrap the key-value cache", e))?;
        let value = NonNull::new(value).ok_or_else(|| Error::internal("ONNX Runtime returned no value"))?;
        // SAFETY: a valid tensor value that nothing else owns. Releasing it does not release the borrowed memory.
        Ok(unsafe { Value::from_ptr(value, Some(&Allocator::default())) })
    }

    /// Copies `bytes` inside the buffer from `from` to `to` (they do not overlap).
    pub(crate) fn copy_within(&mut self, from: usize, to: usize, bytes: usize) {
        self.map.copy_within(from..from + bytes, to);
    }

    /// Overwrites the whole region, so that a test can show that stale contents never matter.
    #[cfg(test)]
    pub(crate) fn fill(&mut self, byte: u8) {
        self.map.fill(byte);
    }
}
