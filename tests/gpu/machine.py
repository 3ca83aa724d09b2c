"""What the machines have in common that the probe's graphs run on: element types, and the choice by name.

A machine hands out buffers (`empty`, `buffer`) and sessions; a session binds buffers and runs.

- `cuda.py`: a GPU through ONNX Runtime's CUDA provider. The one that the probe is about.
- `webgpu.py`: ONNX Runtime's WebGPU plug-in, which has a PagedAttention too and runs on a Vulkan driver in software.
- `host.py`: PagedAttention by the NumPy reference, everything else by ONNX Runtime's CPU provider.

The last two check the graphs and the probe itself where there is no GPU. They say nothing about CUDA.
"""

import collections

import ml_dtypes
import numpy as np
from onnx import TensorProto

Element = collections.namedtuple("Element", "onnx numpy")
ELEMENTS = {
    name: Element(getattr(TensorProto, name.upper().replace("FLOAT32", "FLOAT")), np.dtype(kind))
    for name, kind in {
        "float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32,
        "int32": np.int32, "int64": np.int64, "uint8": np.uint8,
    }.items()
}  # fmt: skip


class NoDevice(RuntimeError):
    """The machine has no device of the kind, or lacks what drives it."""


def make(name):
    if name == "cuda":
        from cuda import CudaMachine as Machine
    elif name == "webgpu":
        from webgpu import WebGpuMachine as Machine
    else:
        from host import HostMachine as Machine
    return Machine()


def placement(session):
    """Nodes of each operator on each provider, of a session that records it."""
    counts = {}
    for part in session.get_provider_graph_assignment_info():
        operators = counts.setdefault(part.ep_name, collections.Counter())
        operators.update(node.op_type for node in part.get_nodes())
    return {name: dict(operators) for name, operators in counts.items()}
