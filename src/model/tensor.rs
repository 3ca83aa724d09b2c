//! Checks of the tensors in a graph: type, shape and size.

use crate::onnx::tensor_proto::DataType;
use crate::onnx::{TensorProto, tensor_proto};

/// Whether its values lie in another file.
pub(crate) fn is_external(tensor: &TensorProto) -> bool {
    tensor.data_location() == tensor_proto::DataLocation::External
}

/// What a tensor says of its values in another file: their `location`, `offset` or `length`.
pub(crate) fn entry<'a>(tensor: &'a TensorProto, key: &str) -> Option<&'a str> {
    tensor.external_data.iter().find(|entry| entry.key() == key).map(|entry| entry.value())
}

/// Bits of one number; `None` for texts, and for kinds that no model has.
fn bits(kind: DataType) -> Option<u64> {
    match kind {
        DataType::Float | DataType::Int32 | DataType::Uint32 => Some(32),
        DataType::Int64 | DataType::Uint64 | DataType::Double => Some(64),
        DataType::Float16 | DataType::Bfloat16 | DataType::Int16 | DataType::Uint16 => Some(16),
        DataType::Int8 | DataType::Uint8 | DataType::Bool => Some(8),
        DataType::Float8e4m3fn | DataType::Float8e4m3fnuz | DataType::Float8e5m2 | DataType::Float8e5m2fnuz => Some(8),
        DataType::Int4 | DataType::Uint4 => Some(4),
        _ => None,
    }
}

fn kind(tensor: &TensorProto) -> Option<DataType> {
    DataType::try_from(tensor.data_type()).ok().filter(|kind| *kind != DataType::Undefined)
}

/// The number of values in its shape.
fn elements(tensor: &TensorProto) -> Result<u64, String> {
    let product = tensor.dims.iter().try_fold(1_u64, |product, &dim| {
        let dim = u64::try_from(dim).map_err(|_| format!("tensor `{}` has the dimension {dim}", tensor.name()))?;
        // No address space is larger.
        let product = product.checked_mul(dim).filter(|&product| product < 1 << 48);
        product
            .ok_or_else(|| format!("tensor `{}` has more numbers than fit in memory: {:?}", tensor.name(), tensor.dims))
    });
    // An empty dimension must not hide absurd ones.
    product
}

/// Size of its values in bytes.
pub(crate) fn bytes(tensor: &TensorProto) -> Result<u64, String> {
    let bits = kind(tensor).and_then(bits);
    let bits = bits.ok_or_else(|| format!("tensor `{}` has the element type {}", tensor.name(), tensor.data_type()))?;
    Ok((elements(tensor)? * bits).div_ceil(8))
}

/// Refuses a tensor whose values don't fit its shape and type. (Those of other files: see `external`.)
pub(super) fn check(tensor: &TensorProto) -> Result<(), String> {
    let name = tensor.name();
    let count = elements(tensor)?;
    if kind(tensor) == Some(DataType::String) {
        return match tensor.string_data.len() as u64 == count && !is_external(tensor) {
            true => Ok(()),
            false => Err(format!("tensor `{name}` of texts does not have one text for each of its {count} places")),
        };
    }
    let wanted = bytes(tensor)?;
    if is_external(tensor) {
        return Ok(());
    }
    if let Some(raw) = &tensor.raw_data {
        return match raw.len() as u64 == wanted {
            true => Ok(()),
            false => {
                Err(format!("tensor `{name}` of shape {:?} takes {wanted} bytes, but has {}", tensor.dims, raw.len()))
            }
        };
    }
    let given = typed_values(tensor) as u64;
    // Four-bit numbers are stored singly or in pairs.
    let packed = matches!(kind(tensor), Some(DataType::Int4 | DataType::Uint4)) && given == count.div_ceil(2);
    match given == count || packed {
        true => Ok(()),
        false => Err(format!("tensor `{name}` of shape {:?} takes {count} numbers, but has {given}", tensor.dims)),
    }
}

/// The number of values in the field for its type.
fn typed_values(tensor: &TensorProto) -> usize {
    match kind(tensor) {
        Some(DataType::Float) => tensor.float_data.len(),
        Some(DataType::Double) => tensor.double_data.len(),
        Some(DataType::Int64) => tensor.int64_data.len(),
        Some(DataType::Uint32 | DataType::Uint64) => tensor.uint64_data.len(),
        _ => tensor.int32_data.len(),
    }
}
