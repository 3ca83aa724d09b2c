"""Tensors of other libraries, lent to the library without a copy. No framework is imported: what a tensor can do is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._errors import InvalidArgument
from ._native import Arguments, ffi, lib

_DTYPES: dict[str, tuple[int, int]] = {
    "float32": (lib.FORETURN_DTYPE_FLOAT32, 4),
    "bfloat16": (lib.FORETURN_DTYPE_BFLOAT16, 2),
    "float16": (lib.FORETURN_DTYPE_FLOAT16, 2),
}
_SHARDED = "is sharded over processes: gather it first, on all of them (`full_tensor()`, or a full state dict)"


def tensor_array(arguments: Arguments, state: Mapping[str, Any]) -> tuple[Any, int]:
    """An array of the library's structs for a state dict, and its length. `arguments` keeps the tensors.

    Raises:
        InvalidArgument: something is not a tensor, or not one of floats in this process. The message has its name.
    """
    made = [_tensor(arguments, name, tensor) for name, tensor in state.items() if _is_weight(name, tensor)]
    return arguments.array("foreturn_tensor", made), len(made)


def _is_weight(name: Any, tensor: Any) -> bool:
    """Whether it is more than a mask or a counter, which old models keep as tensors of integers."""
    if not isinstance(name, str):
        raise InvalidArgument(f"a tensor of the state dict has the name {name!r}: names are texts")
    return name.endswith((".weight", ".bias")) or "int" not in _dtype(tensor) and _dtype(tensor) != "bool"


def _dtype(tensor: Any) -> str:
    dtype = getattr(tensor, "dtype", None)
    return str(getattr(dtype, "name", dtype)).removeprefix("torch.")


def _tensor(arguments: Arguments, name: str, tensor: Any) -> Any:
    if hasattr(tensor, "data_ptr"):
        tensor, address = _of_torch(name, tensor)
    elif hasattr(tensor, "__array_interface__"):
        tensor, address = _of_numpy(name, tensor)
    else:
        raise InvalidArgument(f"{name} is a {type(tensor).__name__}: it has to be a tensor of PyTorch or an array of NumPy")
    if _dtype(tensor) not in _DTYPES:
        raise InvalidArgument(
            f"tensor {name} holds {_dtype(tensor)}: weights are {', '.join(_DTYPES)}. Quantised ones have to be dequantised"
        )
    arguments.keep(tensor)
    dtype, size = _DTYPES[_dtype(tensor)]
    shape = [int(dimension) for dimension in tensor.shape]
    count = 1
    for dimension in shape:
        count *= dimension
    if count > 0 and address == 0:
        raise InvalidArgument(f"tensor {name} has no memory of its own (a {type(tensor).__name__}): give its values")
    return arguments.struct(
        "foreturn_tensor",
        name=arguments.text(name, "a tensor's name"),
        dtype=dtype,
        rank=len(shape),
        shape=arguments.array("size_t", shape),
        data=ffi.cast("void *", address),
        byte_count=count * size,
    )


def _of_torch(name: str, tensor: Any) -> tuple[Any, int]:
    tensor = tensor.detach()
    if hasattr(tensor, "full_tensor"):
        raise InvalidArgument(f"tensor {name} {_SHARDED}")
    if tensor.device.type == "meta" or str(tensor.layout) != "torch.strided":
        raise InvalidArgument(f"tensor {name} has no values in memory (device {tensor.device}, {tensor.layout})")
    tensor = tensor.cpu().contiguous()
    return tensor, tensor.data_ptr()


def _of_numpy(name: str, array: Any) -> tuple[Any, int]:
    if not array.dtype.isnative:
        raise InvalidArgument(f"array {name} holds numbers of another byte order than this machine's: convert it (`astype`)")
    if not array.flags.c_contiguous:
        array = array.copy(order="C")
    return array, array.__array_interface__["data"][0]
