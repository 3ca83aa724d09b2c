"""An NVIDIA GPU, used as an engine would use it: device memory of our own bound by address, one stream for everything."""

import ctypes
import glob
import importlib.util
import os
import subprocess
import time

import numpy as np
import onnx

from machine import ELEMENTS, NoDevice, placement

# In this order each library finds the ones before it already loaded. The last three are needed by convolutions, FFTs,
# and cuDNN's attention alone.
NVIDIA_LIBRARIES = (
    "cudart.so.13",
    "cublasLt.so.13",
    "cublas.so.13",
    "nvrtc.so.13",
    "curand.so.10",
    "cufft.so.12",
    "cudnn.so.9",
)
HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE = 1, 2, 3
COMPUTE_CAPABILITY = (75, 76)  # cudaDevAttrComputeCapabilityMajor, …Minor


def load_nvidia_libraries():
    """Loads CUDA's libraries from NVIDIA's Python packages, or from the system. Returns where each came from, by name."""
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations) if spec else []
    found = {}
    for name in NVIDIA_LIBRARIES:
        paths = [path for folder in folders for path in glob.glob(f"{folder}/**/lib{name}", recursive=True)]
        for path in [*paths, f"lib{name}"]:
            try:
                ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
            except OSError as error:
                found[name] = f"missing: {error}"
            else:
                found[name] = path
                break
    return found


class CudaMachine:
    """One NVIDIA GPU, device 0."""

    name = "cuda"

    def __init__(self):
        self.libraries = load_nvidia_libraries()
        try:
            self.runtime = ctypes.CDLL("libcudart.so.13")
            self.runtime.cudaGetErrorString.restype = ctypes.c_char_p
            self.call("cudaSetDevice", 0)
        except (OSError, RuntimeError) as error:
            raise NoDevice(str(error)) from None
        stream = ctypes.c_void_p()
        self.call("cudaStreamCreateWithFlags", ctypes.byref(stream), 1)  # does not wait for the default stream
        self.stream = stream

    def call(self, function, *arguments):
        status = getattr(self.runtime, function)(*arguments)
        if status:
            raise RuntimeError(f"{function}: {self.runtime.cudaGetErrorString(status).decode()} ({status})")

    def describe(self):
        """The device and the versions of what drives it."""
        number = ctypes.c_int()

        def version(function):
            self.call(function, ctypes.byref(number))
            return f"{number.value // 1000}.{number.value % 1000 // 10}"

        def attribute(code):
            self.call("cudaDeviceGetAttribute", ctypes.byref(number), code, 0)
            return number.value

        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        cudnn = None
        if not self.libraries["cudnn.so.9"].startswith("missing"):
            cudnn = int(ctypes.CDLL(self.libraries["cudnn.so.9"]).cudnnGetVersion())
        return {
            **self._smi(), "compute_capability": ".".join(str(attribute(code)) for code in COMPUTE_CAPABILITY),
            "cuda_driver": version("cudaDriverGetVersion"), "cuda_runtime": version("cudaRuntimeGetVersion"), "cudnn": cudnn,
            "free_bytes": free.value, "total_bytes": total.value,
        }  # fmt: skip

    def _smi(self):
        query = ["nvidia-smi", "-i", "0", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        try:
            name, driver = (
                subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.strip().split(", ")
            )
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            return {"device": None, "driver": None, "nvidia_smi": str(error)}
        return {"device": name, "driver": driver}

    def empty(self, shape, element, fill=0):
        """A buffer whose bytes are all `fill`; 0xFF makes a NaN of every float."""
        return DeviceBuffer(self, tuple(shape), element, fill)

    def buffer(self, array, element):
        made = self.empty(array.shape, element)
        made.write(array)
        return made

    def wait(self):
        self.call("cudaStreamSynchronize", self.stream)

    def session(self, model, *, folder=None, provider=None, config=None):
        return CudaSession(self, model, folder, provider or {}, config or {})

    def bandwidth(self):
        """Bytes a second that a copy within the device's memory moves, counting what is read and what is written."""
        size, times = 2 << 30, 8
        source, target = self.empty((size,), "uint8"), self.empty((size,), "uint8")
        self.copy(target.address, source.address, size, DEVICE_TO_DEVICE)
        self.wait()
        start = time.perf_counter()
        for _ in range(times):
            self.copy(target.address, source.address, size, DEVICE_TO_DEVICE)
        self.wait()
        seconds = time.perf_counter() - start
        source.free()
        target.free()
        return 2 * size * times / seconds

    def pinned(self, size):
        """Host memory that copies can be made to without a detour, as bytes; never freed."""
        pointer = ctypes.c_void_p()
        self.call("cudaHostAlloc", ctypes.byref(pointer), ctypes.c_size_t(size), 0)
        return np.frombuffer((ctypes.c_uint8 * size).from_address(pointer.value), np.uint8)

    def copy(self, target, source, size, kind):
        """Copies on the stream; returns before the copy is done where both ends allow it."""
        self.call(
            "cudaMemcpyAsync",
            ctypes.c_void_p(target),
            ctypes.c_void_p(source),
            ctypes.c_size_t(size),
            kind,
            self.stream,
        )


class DeviceBuffer:
    def __init__(self, machine, shape, element, fill):
        self.machine, self.shape, self.element = machine, shape, element
        self.size = int(np.prod(shape)) * ELEMENTS[element].numpy.itemsize
        pointer = ctypes.c_void_p()
        machine.call("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(max(self.size, 1)))
        self.address = pointer.value
        machine.call("cudaMemsetAsync", pointer, fill, ctypes.c_size_t(self.size), machine.stream)

    def write(self, array):
        data = np.ascontiguousarray(array.astype(ELEMENTS[self.element].numpy, copy=False))
        if data.shape != self.shape:
            raise ValueError(f"the buffer has shape {self.shape}, the array {data.shape}")
        self.machine.copy(self.address, data.ctypes.data, self.size, HOST_TO_DEVICE)
        self.machine.wait()

    def read(self):
        data = np.empty(self.shape, ELEMENTS[self.element].numpy)
        self.machine.copy(data.ctypes.data, self.address, self.size, DEVICE_TO_HOST)
        self.machine.wait()
        return data

    def free(self):
        self.machine.call("cudaFree", ctypes.c_void_p(self.address))
        self.address = None


class CudaSession:
    def __init__(self, machine, model, folder, provider, config):
        import onnxruntime

        self.machine, self.runtime = machine, onnxruntime
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        for key, value in config.items():
            options.add_session_config_entry(key, value)
        stream = {"has_user_compute_stream": "1", "user_compute_stream": str(machine.stream.value)}
        given = {"device_id": "0", "use_tf32": "0"} | stream | provider
        source = model.SerializeToString()
        if folder is not None:  # weights in a file beside the model
            source = os.path.join(folder, "model.onnx")
            onnx.save(model, source)
        providers = [("CUDAExecutionProvider", given)]
        self.session = onnxruntime.InferenceSession(source, options, providers=providers, enable_fallback=0)
        if self.session.get_providers()[0] != "CUDAExecutionProvider":
            raise RuntimeError(f"the session has {self.session.get_providers()}; the CUDA provider did not load")

    def provider_options(self):
        return self.session.get_provider_options()["CUDAExecutionProvider"]

    def placement(self):
        return placement(self.session)

    def bind(self, inputs, outputs):
        """Inputs are buffers, or arrays that stay on the host; outputs are buffers."""
        binding = self.session.io_binding()
        for name, value in inputs.items():
            if isinstance(value, np.ndarray):
                binding.bind_cpu_input(name, value)
            else:
                binding.bind_input(name, "cuda", 0, ELEMENTS[value.element].onnx, value.shape, value.address)
        for name, value in outputs.items():
            binding.bind_output(name, "cuda", 0, ELEMENTS[value.element].onnx, value.shape, value.address)
        return CudaBinding(self, binding, (inputs, outputs))


class CudaBinding:
    def __init__(self, session, binding, keep):
        self.session, self.binding, self.keep = session, binding, keep
        self.options = {}

    def run(self, graph=None, wait=True):
        """`graph` is the id under which a CUDA graph is captured and replayed; -1 runs eagerly in such a session."""
        options = self.options.get((graph, wait))
        if options is None:
            options = self.session.runtime.RunOptions()
            if graph is not None:
                options.add_run_config_entry("gpu_graph_id", str(graph))
            if not wait:
                options.add_run_config_entry("disable_synchronize_execution_providers", "1")
            self.options[graph, wait] = options
        self.session.session.run_with_iobinding(self.binding, options)
